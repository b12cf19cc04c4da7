"""Take the tokens of a step's rate from Redis: each attempt needs one, over all workers of the namespace.

A bucket in Redis fills at the rate. Workers take from it in batches, so that a fast rate does not need a call for each event.
What a worker has taken is void after a short time: else a worker that stood still would begin too much when it goes on. So in any
T seconds at most `rate * (T + 1 s) + 1` attempts begin: 0.4 s of the rate, or one token, were in the bucket, and 0.5 s of it in
the hands of workers. A worker that dies takes its batch with it, which is 0.1 s of the rate or one token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery
from motia_redis._steps.rates import parse_rate
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._scripts.delivery import Tokens as Granted
    from motia_redis._steps.definitions import Step
    from motia_redis._steps.rates import Rate
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

_log = logging.getLogger("motia_redis.worker")

_BUCKET = 0.4  # seconds of the rate that the bucket holds
_BATCH = 0.1  # seconds of the rate that a worker takes at once
_VALID = 0.5  # seconds after which taken tokens are void
_LONGEST = 10.0  # seconds between two calls for the next token
_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away


def _no_change() -> None:
    """Do nothing."""


def new_tokens(router: Router, keyspace: Keyspace, step: Step) -> Tokens | None:
    """Return the tokens of a step; None for a step without a rate."""
    rate = parse_rate(step.rate)
    if rate is None:
        return None
    bucket = keyspace.rate(step.name)

    async def take(interval: float, capacity: int, wanted: int) -> Granted:
        return await delivery.take_tokens(router, bucket, interval_ms=interval, capacity=capacity, wanted=wanted)

    return Tokens(step.name, rate, take)


class Tokens:
    """Hold the tokens that this worker has taken for one step.

    `take` asks Redis. It gets the milliseconds in which the bucket gets a token, how many the bucket holds, and how many to take.
    """

    def __init__(self, step: str, rate: Rate, take: Callable[[float, int, int], Awaitable[Granted]]) -> None:
        self.on_granted: Callable[[], None] = _no_change  #: called when there are tokens
        self.count_waiting: Callable[[], int] = int  #: returns how many attempts wait for a token
        self._step = step
        self._take = take
        self._interval = 1000 / rate.per_second
        self._capacity = max(1, int(rate.per_second * _BUCKET))
        self._batch = max(1, int(rate.per_second * _BATCH))
        self._count = 0
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> int:
        """Return how many attempts may begin now."""
        return self._count if time.monotonic() < self._until else 0

    def take(self) -> bool:
        """Take one. Return whether there was one."""
        if not self.in_hand:
            return False
        self._count -= 1
        return True

    def give_back(self) -> None:
        """Give one back that was not used. It becomes void with the others."""
        self._count += 1

    def request(self) -> None:
        """Get more, for the attempts that wait. `on_granted` follows."""
        if self._task is None:
            self._task = asyncio.create_task(self._request())

    async def aclose(self) -> None:
        """Get no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _request(self) -> None:
        backoff, has_been_late = Backoff(*_PAUSES), False
        while wanted := min(self.count_waiting(), self._batch):
            asked = time.monotonic()
            try:
                granted, wait = await self._take(self._interval, self._capacity, wanted)
                backoff.reset()
            except (RedisError, OSError) as error:
                if backoff.is_first:
                    outages.report(_log, f"the rate of step {self._step}", error)
                await backoff.sleep()
                continue
            is_late = time.monotonic() - asked > _VALID / 2
            if granted and (not is_late or has_been_late):
                # If Redis is always slow, one attempt begins for each reply. Once, it may be this process that stood still.
                self._count, self._until = (1, time.monotonic() + _VALID / 2) if is_late else (granted, asked + _VALID)
                break
            if granted:
                has_been_late = True
            else:
                await asyncio.sleep(min(wait, _LONGEST))
        self._task = None
        self.on_granted()

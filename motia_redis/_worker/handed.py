"""Follow entries that the last holder of a lane still runs: their keys wait here until it has ended them.

A worker gives a lane away at once, also while handlers run. It names the running entries, and records the outcome of each. If it
dies, its lease is not renewed, and the entries are run here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError

from motia_redis._worker.entries import Known
from motia_redis._worker.observing import Observed

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Delivery

_log = logging.getLogger("motia_redis.worker")

_INTERVAL = 0.2  # seconds between two looks


class _Waiting(NamedTuple):
    delivery: Delivery
    on_ready: Callable[[], None]
    on_finished: Callable[[], None]


class HandedEntries:
    """Entries that other workers still run.

    `worker` is the id of this worker; `lease_of` tells after how many seconds without a heartbeat another one is taken for dead.
    """

    def __init__(self, router: Router, *, worker: str, lease_of: Callable[[str], float]) -> None:
        self._router = router
        self._worker = worker
        self._lease_of = lease_of
        self._waiting: list[_Waiting] = []
        self._observed = Observed()
        self._task: asyncio.Task[None] | None = None

    def follow(self, delivery: Delivery, on_ready: Callable[[], None], on_finished: Callable[[], None]) -> None:
        """Call one of the two when the entry's owner has left it, has died, or has finished it."""
        self._waiting.append(_Waiting(delivery, on_ready, on_finished))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Follow nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            try:
                await self._look()
            except (RedisError, OSError) as error:
                _log.debug("following entries of other workers: trying again: %s", error)
            await asyncio.sleep(_INTERVAL)
        self._task = None

    async def _look(self) -> None:
        waiting = [each for each in self._waiting if each.delivery.is_current]
        self._waiting = []
        try:
            commands = []
            for delivery, *_ in waiting:
                keys = delivery.lane.keys
                commands.append((keys.entries, ("HGET", keys.entries, delivery.id)))
                commands.append((keys.leases, ("HGET", keys.leases, f"worker {delivery.owner}")))
            replies = await self._router.gather(commands) if commands else []
        except BaseException:
            self._waiting = waiting + self._waiting
            raise
        for each, value, lease in zip(waiting, replies[::2], replies[1::2], strict=True):
            if each.delivery.is_current and not self._decide(each, value, lease):
                self._waiting.append(each)
        self._observed.keep((each.delivery.lane.keys.leases, each.delivery.owner) for each in self._waiting)

    def _decide(self, each: _Waiting, value: bytes | None, lease: bytes | None) -> bool:
        """Return whether the wait for an entry is over."""
        delivery = each.delivery
        if value is None or value == b"done":
            each.on_finished()
            return True
        known = Known.decode(value)
        if known.owner:
            silent = self._observed.unchanged_for((delivery.lane.keys.leases, known.owner), lease)
            if known.owner != self._worker and silent < self._lease_of(known.owner):
                return False
            delivery.suspect = known.owner != self._worker
        delivery.attempts, delivery.due, delivery.owner = known.attempts, known.due, ""
        each.on_ready()
        return True

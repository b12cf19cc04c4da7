"""Let things happen when they are due: look at the partitions, and sleep until the next time that one of them knows.

Any number of processes may sweep the same partitions, because the script lets each thing happen once. One of them is meant to
look at a partition in time. The others look at random times, and so rarely that all of them together cost as much as one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError

from motia_redis import _metrics
from motia_redis._scripts import timing
from motia_redis._transport import failures, refusals
from motia_redis._transport.failures import ErrorReply
from motia_redis.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.outages import Outage
    from motia_redis._transport.router import Router

_log = logging.getLogger("motia_redis.state")

_RECHECK = 0.25  # seconds between two looks at a partition: another process may have added something that is due earlier
_PAUSE = 0.01  # seconds before the next look at a partition that has just nothing due any more: calls with more to do cost less
_SETTLING = 1.0  # seconds in which a call that counts waits at most for what is due
_RECONNECT = 0.2  # seconds before trying again while Redis is away
_MOST = 200  # things of one call
_MOST_BYTES = 256 * 1024  # of one call; both are about a millisecond of server time
_OTHERS = 200  # keys that are known of a partition: as many as one reply can ask for


class Share(NamedTuple):
    """The place of this process among those that sweep."""

    place: int
    processes: int

    def is_first(self, partition: int) -> bool:
        """Return whether this process is the one that looks at the partition in time."""
        return partition % self.processes == self.place


ALONE = Share(0, 1)


def due_keys(keyspace: Keyspace, partition: int) -> timing.DueKeys:
    """Return the keys that say what falls due in a partition."""
    due = keyspace.due(partition)
    return timing.DueKeys(
        due, keyspace.delayed(partition), keyspace.trimmed(due), keyspace.topics(partition), keyspace.scopes(partition)
    )


class _Partition:
    """One partition, and when to look at it."""

    def __init__(self, number: int, keys: timing.DueKeys) -> None:
        self.number = number
        self.keys = keys
        self.look_at = 0.0  #: by the clock of this process
        self._others: dict[bytes, None] = {}  # keys that the script has asked for, the latest last

    async def fire(self, router: Router, limits: bytes) -> timing.Fired:
        """Let one batch happen. `limits` are those of a topic's stream, as lib/retention.lua takes them."""
        fired = await timing.fire_due(
            router, self.keys, others=list(self._others), most=_MOST, most_bytes=_MOST_BYTES, limits=limits
        )
        if _metrics.active is not None:
            _metrics.active.expiries += fired.expired
        for key in fired.missing:
            self._others[key] = None
        while len(self._others) > _OTHERS:
            del self._others[next(iter(self._others))]
        for error in fired.errors:
            _log.error("partition %d: put off for 10 s: %s", self.number, error.decode(errors="replace"))
        if fired.dropped:
            _log.error(
                "partition %d: a stream is over the hard cap: %d entries were dropped that no step had handled",
                self.number, fired.dropped,
            )  # fmt: skip
        return fired

    def schedule(self, wait: float | None, share: Share) -> None:
        """Set when to look again: nothing is due for `wait` seconds, as far as is known now; None = nothing waits."""
        pause = 0.0
        if wait != 0:
            pause = _RECHECK
            if not share.is_first(self.number):
                pause *= (share.processes - 1) * random.uniform(0.5, 1.5)  # noqa: S311
            elif wait is not None:
                pause = min(max(wait, _PAUSE), pause)
        self.look_at = time.monotonic() + pause


async def settle(router: Router, keyspace: Keyspace, partitions: Iterable[int], limits: bytes) -> bool:
    """Let what is due in these partitions happen. Return whether something did.

    More may fall due all the time, so the call ends after a second at the latest. Cost: one round trip, and one for each batch.
    """
    looked_at = [_Partition(number, due_keys(keyspace, number)) for number in partitions]
    looks = await timing.fire_due_many(router, [partition.keys for partition in looked_at])
    end, has_fired = time.monotonic() + _SETTLING, False
    for partition, look in zip(looked_at, looks, strict=True):
        wait = look.wait
        while wait == 0 and time.monotonic() < end:
            wait, has_fired = (await partition.fire(router, limits)).wait, True
    return has_fired


class Sweeper:
    """Let what is due in a namespace happen, until `run` is cancelled.

    Arguments:
        limits: returns the limits of a topic's stream, as lib/retention.lua takes them.
        share: returns which partitions are this process's.
        new_outage: returns where failures are reported; its argument says what they mean.
        reports_all: report a Redis that is away, too. False: something else in this process does.
        check_layout: looks whether Redis still has the layout, after a failure.
        revive: starts an embedded server that has ended.
    """

    def __init__(
        self,
        router: Router,
        keyspace: Keyspace,
        *,
        limits: Callable[[], Awaitable[bytes]],
        share: Callable[[], Share] = lambda: ALONE,
        new_outage: Callable[[str], Outage],
        reports_all: bool,
        check_layout: Callable[[], Awaitable[None]],
        revive: Callable[[], Awaitable[None]],
    ) -> None:
        self._router = router
        self._partitions = [_Partition(number, due_keys(keyspace, number)) for number in range(keyspace.layout.partitions)]
        self._limits = limits
        self._share = share
        self._new_outage = new_outage
        self._reports_all = reports_all
        self._check_layout = check_layout
        self._revive = revive
        self._locks: dict[str, asyncio.Lock] = {}  # by node: two calls at once would block it for twice as long

    async def run(self) -> None:
        """Sweep. In a Cluster each partition goes by itself: its node may be away."""
        groups = [[each] for each in self._partitions] if self._router.is_cluster else [self._partitions]
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(self._sweep(group))

    async def _sweep(self, partitions: list[_Partition]) -> None:
        which = f" of partition {partitions[0].number}" if self._router.is_cluster else ""
        outage = self._new_outage(f"nothing{which} that is due happens")
        has_failed = False
        while True:
            try:
                if has_failed:
                    await self._check_layout()
                await self._sweep_once(partitions)
                has_failed = False
                outage.answered()
                pause = min(partition.look_at for partition in partitions) - time.monotonic()
            except (RedisError, OSError, StateError) as error:
                has_failed, pause = True, _RECONNECT
                self._report(outage, error)
                if failures.is_disconnected(error):
                    with suppress(StateUnavailable):
                        await self._revive()
            await asyncio.sleep(max(0.0, pause))

    async def _sweep_once(self, partitions: list[_Partition]) -> None:
        """Look at the partitions whose time has come, and let one batch happen in each that has something due."""
        now = time.monotonic()
        due = [partition for partition in partitions if partition.look_at <= now]
        if len(due) > 1:  # in most of them nothing is due: ask in one round trip
            looks = await timing.fire_due_many(self._router, [partition.keys for partition in due])
            share = self._share()
            for partition, look in zip(due, looks, strict=True):
                partition.schedule(look.wait, share)
            due = [partition for partition, look in zip(due, looks, strict=True) if look.wait == 0]
        for partition in due:
            node = await self._router.node_of(partition.keys.due)
            async with self._locks.setdefault(node.server.address, asyncio.Lock()):
                fired = await partition.fire(self._router, await self._limits())
            partition.schedule(fired.wait, self._share())

    def _report(self, outage: Outage, error: Exception) -> None:
        refused = is_refusal(error)
        if refused or self._reports_all:
            outage.failed(error, refused=refused)


def is_refusal(error: Exception) -> bool:
    """Return whether an error is not due to a Redis that is away, or that says that it passes."""
    if isinstance(error, ErrorReply):
        return not refusals.is_transient(error.code, fails_over=True)
    return isinstance(error, StateError)

"""Hold the lanes that are assigned to this worker: one lease in each partition, acquired and released lanes.

A lane stays with its holder until another worker takes it. Another worker may take it when the holder has released it, or when
the holder's lease has run out and the holder has written no newer one for some time. So a worker that was paused, or cut off,
keeps the lanes that nobody took. Partitions are independent: one whose node is down does not affect the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery
from motia_redis._scripts.delivery import Acquired, Busy, Kept, Missing, Moved, Taken, Wanted
from motia_redis._transport import failures
from motia_redis._worker.observing import Observed
from motia_redis.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from motia_redis._transport.outages import Outage
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane, Lease
    from motia_redis._worker.membership import Membership

_log = logging.getLogger("motia_redis.worker")

_REBALANCE_INTERVAL = 0.1  # seconds between two looks while lanes are changing their holder
_RECONNECT = 0.2  # seconds before trying again while Redis is away
_WAIT = 0.5  # of a lease: for so long a holder must have written nothing before a lease that has run out counts


class PartitionLeases:
    """Keep the lease of one partition, and its lanes as they are assigned.

    `on_taken` is called with a lane that was acquired, `on_lost` with one that another worker has taken, `on_valid` when the
    lease is valid again. `report` has a lane's progress recorded, `release` the lane released with it. `revive` is called when
    the server seems to have ended, `restore` when consumer groups are missing.
    """

    def __init__(
        self,
        lease: Lease,
        lanes: Mapping[bytes, Lane],
        membership: Membership,
        router: Router,
        *,
        worker: str,
        ttl: float,
        heartbeat: float,
        on_taken: Callable[[Lane], None],
        on_lost: Callable[[Lane], None],
        on_valid: Callable[[], None],
        release: Callable[[Lane], None],
        report: Callable[[Lane], None],
        revive: Callable[[], Awaitable[None]],
        restore: Callable[[Iterable[Lane]], Awaitable[None]],
        new_tenure: Callable[[], str],
        outage: Outage,
    ) -> None:
        self._lease = lease
        self._lanes = lanes
        self._membership = membership
        self._router = router
        self._worker = worker
        self._ttl = ttl
        self._heartbeat = heartbeat
        self._on_taken = on_taken
        self._on_lost = on_lost
        self._on_valid = on_valid
        self._release = release
        self._report = report
        self._revive = revive
        self._restore = restore
        self._new_tenure = new_tenure
        self._outage = outage
        self._observed = Observed()
        self._lost: set[Lane] = set()  # lanes that may have been lost because their position was moved: then they are still ours
        self._is_in_doubt = False  # the reply of a renewal is missing
        self._claims: dict[bytes, bytes] = {}  # lanes whose holders have ended, with what identifies the lease that ran out
        self._is_first = True
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look at once: the assignment has changed, or a lane was released."""
        self._wake.set()

    def ended(self, lane: Lane, *, is_lost: bool = False) -> None:
        """Go on without a lane. `is_lost`: this worker could record nothing of it; find out why. Ignore lanes of others."""
        if lane.lease is self._lease:
            if is_lost:
                self._lost.add(lane)
            self._wake.set()

    def stop(self) -> None:
        """Release all lanes and acquire no more. `run` goes on with the lease until it is cancelled."""
        self._stopping = True
        self._wake.set()

    @property
    def has_lanes(self) -> bool:
        """Return whether this worker holds lanes of the partition, and nobody else can."""
        return self._lease.is_valid() and any(lane.tenure for lane in self._lanes.values())

    async def run(self) -> None:
        """Renew the lease and follow the assignment until cancelled."""
        renew_at = 0.0
        while True:
            self._wake.clear()
            try:
                if time.monotonic() >= renew_at:
                    await self._renew()
                    renew_at = time.monotonic() + self._heartbeat
                settled = await self._follow()
                pause = renew_at - time.monotonic() if settled else min(_REBALANCE_INTERVAL, self._heartbeat)
                self._outage.answered()
            except (RedisError, OSError, StateError) as error:
                self._outage.failed(error)
                renew_at, pause = 0.0, _RECONNECT
                if failures.is_disconnected(error):
                    with suppress(StateUnavailable):
                        await self._revive()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()

    async def leave(self) -> None:
        """End the lease."""
        with suppress(RedisError, OSError):  # it runs out by itself
            await delivery.leave(self._router, self._lease.leases, worker=self._worker)

    async def _renew(self) -> None:
        asked = time.monotonic()
        was_in_doubt, self._is_in_doubt = self._is_in_doubt, True
        in_order = await delivery.renew_lease(
            self._router, self._lease.leases, worker=self._worker, ttl_ms=int(self._ttl * 1000), first=self._is_first
        )
        self._is_first = False
        held = [lane for lane in self._lanes.values() if lane.tenure]
        if held and (was_in_doubt or not in_order):
            outcomes = await self._acquire([Wanted(lane.keys, lane.tenure, "check") for lane in held])
            lost = {lane: outcome for lane, outcome in zip(held, outcomes, strict=True) if not isinstance(outcome, Kept)}
            moved = [lane for lane, outcome in lost.items() if isinstance(outcome, Moved)]
            if len(lost) > len(moved):
                text = "worker %s: lost the leases of %d lanes: other workers have taken them"
                _log.warning(text, self._worker, len(lost) - len(moved))
            self._lost.update(moved)
            for lane in lost:
                self._on_lost(lane)
        self._is_in_doubt = False
        was_valid = self._lease.is_valid()
        self._lease.renewed(asked, self._ttl)
        if not was_valid:
            self._on_valid()
        for lane in held:
            if lane.tell_position():
                self._report(lane)

    async def _follow(self) -> bool:
        """Release lanes that are assigned to others, acquire those assigned to this worker. Return whether all is done."""
        assigned = frozenset() if self._stopping else self._membership.assigned
        moving = False
        for name, lane in self._lanes.items():
            if lane.tenure and name not in assigned:
                moving = True
                if not lane.releasing:
                    self._release(lane)
        if self._lost and not self._stopping:
            await self._take_moved()
        missing = [lane for name, lane in self._lanes.items() if name in assigned and not lane.tenure]
        if missing:
            await self._take([Wanted(lane.keys, self._new_tenure(), self._claims.pop(lane.keys.name, "")) for lane in missing])
        return not moving and not self._lost and all(lane.tenure for lane in missing)

    async def _take_moved(self) -> None:
        """Acquire lanes again whose position was moved, assigned or not: nobody else can, and only a holder can release a lane.

        What ran when the position was moved must have ended: it may be handled again, after the entries before.
        """
        lost = [lane for lane in self._lost if not lane.tenure and not lane.running]
        self._lost = {lane for lane in self._lost if lane.running}
        try:
            await self._take([Wanted(lane.keys, self._new_tenure(), "moved") for lane in lost])
        except BaseException:
            self._lost.update(lost)
            raise

    async def _take(self, wanted: list[Wanted]) -> None:
        if not wanted:
            return
        lanes = [self._lanes[want.keys.name] for want in wanted]
        outcomes = await self._acquire(wanted)
        without_group = []
        for lane, want, outcome in zip(lanes, wanted, outcomes, strict=True):
            match outcome:
                case Taken():
                    lane.take(want.tenure, outcome)
                    self._on_taken(lane)
                case Busy(holder, tenure, lease):
                    if self._has_ended(lane.keys.name, holder, lease):
                        self._claims[lane.keys.name] = b"%b\n%b\n%b" % (holder.encode(), tenure.encode(), lease)
                        self._wake.set()
                case Missing():
                    without_group.append(lane)
                case Moved():
                    self._lost.add(lane)
                case Kept():  # a tenure is new: nobody can hold the lane by it
                    pass
        if without_group:
            _log.warning("consumer groups of %d lanes are missing (was Redis flushed?): creating them", len(without_group))
            await self._restore(without_group)

    def _has_ended(self, lane: bytes, worker: str, lease: bytes) -> bool:
        """Return whether the holder of a lane has stopped. The server's clock alone does not decide: it may have jumped."""
        seen = self._observed.unchanged_for(lane, (worker, lease))
        silent = self._membership.silent_for(worker)
        has_run_out = not lease.isdigit() or int(lease) <= self._membership.server_time()
        ttl = self._membership.lease_of(worker)
        wait = _WAIT * ttl
        if silent == math.inf:  # it is not on record: it ended long ago, or the clock has jumped so far that it was removed
            return seen >= wait
        return (has_run_out and silent >= wait) or (silent >= ttl and seen >= wait) or seen >= ttl

    async def _acquire(self, wanted: list[Wanted]) -> list[Acquired]:
        return await delivery.acquire_lanes(self._router, wanted, worker=self._worker)

"""Share the lanes of each step among workers: heartbeats, an assignment that all workers compute alike, and leases in Redis.

A lane is one stream as one step consumes it. All workers compute the same assignment from the same list of live workers. A worker
acquires an assigned lane as soon as no other worker holds it. It releases a lane that is assigned elsewhere when no handler of
the lane runs any more. Leases that have expired (the worker was paused, or cut off) are lost: the worker starts again under a new
id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson
from redis.exceptions import RedisError

from motia_redis._ids import random_id
from motia_redis._scripts import delivery
from motia_redis._transport import failures
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router
    from motia_redis._worker.subscriptions import Subscription

_log = logging.getLogger(__name__)

_REBALANCE_INTERVAL = 0.1  # seconds between two heartbeats while lanes are changing their holder
_RECONNECT = 0.2  # seconds before trying again while Redis is away


@dataclass(eq=False, slots=True)
class Lane:
    """One stream as one step consumes it, while this worker holds it."""

    name: bytes  #: in leases and records
    subscription: Subscription
    stream: bytes
    holder_crashed: bool  #: the last holder's lease expired: a pending entry may have ended its process
    position: str = "0"  #: where to read next: pending entries after this id, or `>` for new entries
    last_read_id: str = "0-0"  #: the step has read all entries up to this id
    reading: bool = False  #: a read is in progress: its entries must be pending before the lane is released
    held: set[str] = field(default_factory=set)  #: ids of entries that are read and neither acknowledged nor left
    revoked: asyncio.Event = field(default_factory=asyncio.Event)  #: set when the lane is to be released, or its lease is lost

    @property
    def is_drained(self) -> bool:
        """Return whether the lane can be released: it is revoked, and this process holds none of its entries."""
        return self.revoked.is_set() and not self.held and not self.reading

    def attempts_field(self, entry_id: str) -> bytes:
        """Return the field of an entry in the hash of its step's recorded attempts."""
        return self.name + b" " + entry_id.encode()


def lane_name(group: str, stream: bytes) -> bytes:
    """Return the name of a lane: group and stream, separated by a line break, which neither can contain."""
    return group.encode() + b"\n" + stream


def assign(lanes: Iterable[bytes], workers: Sequence[str]) -> dict[bytes, str]:
    """Return the worker of each lane: the one with the highest hash of worker and lane that has room.

    All processes that see the same workers compute the same result. Shares differ by one lane at most, and few lanes move when a
    worker joins or leaves.
    """
    names = sorted(lanes)
    if not workers:
        return {}
    room = dict.fromkeys(workers, -(-len(names) // len(workers)))
    owners = {}
    for name in names:
        owner = max((w for w in workers if room[w]), key=lambda w: blake2b(w.encode() + name, digest_size=8).digest())
        room[owner] -= 1
        owners[name] = owner
    return owners


class Leases:
    """The lanes that this worker holds. `run` maintains them.

    `on_change` is called when a lane is acquired, revoked or lost; `revive` when the server seems to have ended.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        router: Router,
        keyspace: Keyspace,
        *,
        ttl: float,
        heartbeat: float,
        on_change: Callable[[], None],
        revive: Callable[[], Awaitable[None]],
    ) -> None:
        self.lanes: dict[bytes, Lane] = {}
        #: Lanes that may have entries to read. The reader removes those that it has read to their end.
        self.ready: dict[Subscription, dict[Lane, None]] = {subscription: {} for subscription in subscriptions}
        self.worker = ""
        self._subscriptions = subscriptions
        self._router = router
        self._keyspace = keyspace
        self._ttl = ttl
        self._heartbeat = heartbeat
        self._on_change = on_change
        self._revive = revive
        self._places = {lane_name(s.group, stream): (s, stream) for s in subscriptions for stream in s.streams}
        self._partitions = sorted({keyspace.leases(stream) for _, stream in self._places.values()})
        steps = [subscription.group for subscription in subscriptions]
        self._description = orjson.dumps({"steps": steps, "host": socket.gethostname(), "pid": os.getpid()})
        self._valid_until = 0.0
        self._members: tuple[tuple[str, ...], ...] | None = None
        self._assigned: set[bytes] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    def valid(self) -> bool:
        """Return whether the leases are valid by the clock of this process, which runs on while the process is paused."""
        return time.monotonic() < self._valid_until

    def drop_all(self) -> None:
        """Drop all lanes at once: the leases have expired, or may have."""
        if self.lanes:
            _log.warning("worker %s: lost the leases of %d lanes", self.worker, len(self.lanes))
        self.worker = ""
        self._valid_until = 0.0
        for lane in self.lanes.values():
            self._close(lane)
        self.lanes.clear()
        self._members = None
        self._wake.set()
        self._on_change()

    def mark_ready(self, lane: Lane) -> None:
        """Let the reader read a lane, unless the lane is revoked."""
        if not lane.revoked.is_set():
            self.ready[lane.subscription][lane] = None

    def _close(self, lane: Lane) -> None:
        """Revoke a lane: no more entries are read, and no attempt begins."""
        lane.revoked.set()
        self.ready[lane.subscription].pop(lane, None)

    def lane_drained(self) -> None:
        """Wake `run`: a revoked lane can be released."""
        self._wake.set()

    def stop(self) -> None:
        """Revoke all lanes and release each when its handlers have ended. `run` ends after the last one."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Renew the leases and follow the assignment until `stop`."""
        while not (self._stopping and not self.lanes):
            self._wake.clear()
            try:
                settled = await self._renew_and_rebalance()
                pause = self._heartbeat if settled else _REBALANCE_INTERVAL
            except (RedisError, OSError) as error:
                _log.warning("heartbeat: trying again in %.1f s: %s", _RECONNECT, error)
                pause = _RECONNECT
                if self.worker and not self.valid():
                    self.drop_all()
                if failures.is_disconnected(error):
                    with suppress(StateUnavailable):
                        await self._revive()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
        with suppress(RedisError, OSError):  # a lane that cannot be released becomes free when its lease expires
            await self._leave()

    async def _leave(self) -> None:
        if self.worker:
            partitions = [delivery.PartitionLanes(leases, ()) for leases in self._partitions]
            await delivery.release_lanes(self._router, partitions, worker=self.worker, leave=True)
            await self._announce(0)

    async def _announce(self, ttl_ms: int) -> dict[str, list[str]]:
        """Announce this worker for `ttl_ms` milliseconds (0: it leaves). Return the steps of each live worker."""
        live = await delivery.heartbeat(
            self._router, workers=self._keyspace.workers, worker=self.worker, description=self._description, ttl_ms=ttl_ms
        )
        return {worker.id.decode(): orjson.loads(worker.description)["steps"] for worker in live}

    # -- one heartbeat ------------------------------------------------------------------------------------------------

    async def _renew_and_rebalance(self) -> bool:
        """Renew the leases and follow the assignment. Return whether the assignment is reached."""
        asked = time.monotonic()
        first = not self.worker
        worker = self.worker or random_id(16)
        ttl_ms = int(self._ttl * 1000)
        renewed = await delivery.renew_leases(self._router, self._partitions, worker=worker, ttl_ms=ttl_ms, begin=first)
        if not all(renewed):
            self.drop_all()
            return False
        self.worker = worker
        self._valid_until = asked + self._ttl
        # A worker that stops leaves the list first, so that others acquire each lane as soon as it is released.
        self._assign(await self._announce(0 if self._stopping else ttl_ms))
        return await self._rebalance()

    def _assign(self, workers: dict[str, list[str]]) -> None:
        """Compute the lanes that are assigned to this worker."""
        members = tuple(
            tuple(sorted(worker for worker, steps in workers.items() if subscription.group in steps))
            for subscription in self._subscriptions
        )
        if members == self._members:
            return
        self._members = members
        self._assigned = {
            name
            for subscription, group in zip(self._subscriptions, members, strict=True)
            for name, owner in assign([lane_name(subscription.group, s) for s in subscription.streams], group).items()
            if owner == self.worker
        }

    async def _rebalance(self) -> bool:
        """Revoke and release lanes that are assigned to others. Acquire those that are assigned to this worker."""
        for name, lane in self.lanes.items():
            if name not in self._assigned and not lane.revoked.is_set():
                self._close(lane)
                self._on_change()
        drained = {name: lane for name, lane in self.lanes.items() if lane.is_drained}
        if drained:
            release = [delivery.PartitionLanes(leases, names) for leases, names in self._by_partition(drained).items()]
            await delivery.release_lanes(self._router, release, worker=self.worker)
            for name in drained:
                self.lanes.pop(name, None)
        await self._acquire([name for name in self._assigned if name not in self.lanes])
        return self._assigned == self.lanes.keys()

    async def _acquire(self, wanted: list[bytes]) -> None:
        by_partition = self._by_partition(wanted)
        if not by_partition:
            return
        worker = self.worker
        partitions = [delivery.PartitionLanes(leases, names) for leases, names in by_partition.items()]
        replies = await delivery.acquire_lanes(self._router, partitions, worker=worker)
        if worker != self.worker:
            return  # the leases were lost meanwhile
        for names, outcomes in zip(by_partition.values(), replies, strict=True):
            for name, outcome in zip(names, outcomes, strict=True):
                if outcome:
                    subscription, stream = self._places[name]
                    lane = self.lanes[name] = Lane(name, subscription, stream, holder_crashed=outcome == "dead")
                    self.mark_ready(lane)
        self._on_change()

    def _by_partition(self, names: Iterable[bytes]) -> dict[bytes, list[bytes]]:
        found: dict[bytes, list[bytes]] = {}
        for name in names:
            found.setdefault(self._keyspace.leases(self._places[name][1]), []).append(name)
        return found

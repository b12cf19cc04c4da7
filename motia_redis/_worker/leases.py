"""Who works on which lane: a heartbeat registry, an even assignment that all workers agree on, and leases that Redis guards.

A lane is one stream as one step consumes it. Every worker computes the same assignment from the same members; what it should
hold it acquires as soon as nobody else holds it, what it should no longer hold it gives back when its handlers there are done.
A worker whose leases ran out (it was paused, or cut off) has lost them for good: it starts again under a new id.
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

_REBALANCE_INTERVAL = 0.1  # seconds between two looks while lanes are to change hands
_RECONNECT = 0.2  # seconds before trying again while Redis is away


@dataclass(eq=False, slots=True)
class Lane:
    """One stream as one step consumes it, while this worker holds it."""

    name: bytes  #: in leases and records
    subscription: Subscription
    stream: bytes
    holder_crashed: bool  #: the last holder's lease ran out: what is pending may have been what ended it
    position: str = "0"  #: what to read next: pending entries behind this id, or `>` for new ones
    last_read_id: str = "0-0"  #: everything up to this id was read by the step
    reading: bool = False  #: a read is under way: what it brings must be pending before another holder looks
    held: set[str] = field(default_factory=set)  #: ids of entries read and neither acknowledged nor dropped
    revoked: asyncio.Event = field(default_factory=asyncio.Event)  #: set when it is to be given back, or is lost

    @property
    def is_drained(self) -> bool:
        """Whether it is to be given back and nothing of it is in this process any more."""
        return self.revoked.is_set() and not self.held and not self.reading

    def attempts_field(self, entry_id: str) -> bytes:
        """Return the field of an entry in the hash of its step's recorded attempts."""
        return self.name + b" " + entry_id.encode()


def lane_name(group: str, stream: bytes) -> bytes:
    """Return the name of a stream's lane for a group: a line break, which neither can hold, between the two."""
    return group.encode() + b"\n" + stream


def assign(lanes: Iterable[bytes], workers: Sequence[str]) -> dict[bytes, str]:
    """Return which worker each lane belongs to: the one with the highest hash of both that has room.

    The same for every process that sees the same workers, even to one lane, and little of it moves when a worker comes or goes.
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
    """The lanes that this worker holds, kept by `run`.

    `on_change` is called whenever a lane was acquired, is to be closed or is lost; `revive` when Redis seems to be gone.
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
        #: Lanes that may have something to read; the reader takes out those that it has read to their end.
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
        """Tell whether the leases still hold, by this process's own clock, which goes on while it is paused."""
        return time.monotonic() < self._valid_until

    def drop_all(self) -> None:
        """Give up everything at once: the leases ran out, or may have."""
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
        """Have a lane read, unless it is to be given back."""
        if not lane.revoked.is_set():
            self.ready[lane.subscription][lane] = None

    def _close(self, lane: Lane) -> None:
        """Have no more of a lane read or begun."""
        lane.revoked.set()
        self.ready[lane.subscription].pop(lane, None)

    def lane_drained(self) -> None:
        """Learn that a closing lane has no handler running any more."""
        self._wake.set()

    def stop(self) -> None:
        """Begin to leave: close all lanes and give each back when nothing runs there any more; `run` ends with the last."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Keep the leases until `stop`."""
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
        with suppress(RedisError, OSError):  # what cannot be given back runs out
            await self._leave()

    async def _leave(self) -> None:
        if self.worker:
            partitions = [delivery.PartitionLanes(leases, ()) for leases in self._partitions]
            await delivery.release_lanes(self._router, partitions, worker=self.worker, leave=True)
            await self._announce(0)

    async def _announce(self, ttl_ms: int) -> dict[str, list[str]]:
        """Tell that this worker lives (or leaves: 0); return the steps of all that live."""
        live = await delivery.heartbeat(
            self._router, workers=self._keyspace.workers, worker=self.worker, description=self._description, ttl_ms=ttl_ms
        )
        return {worker.id.decode(): orjson.loads(worker.description)["steps"] for worker in live}

    # -- one heartbeat ------------------------------------------------------------------------------------------------

    async def _renew_and_rebalance(self) -> bool:
        """Prolong the leases and move towards the assignment; return whether nothing is left to move."""
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
        # Who leaves stands back first, so that the others take over each lane as soon as it is given back.
        self._assign(await self._announce(0 if self._stopping else ttl_ms))
        return await self._rebalance()

    def _assign(self, workers: dict[str, list[str]]) -> None:
        """Work out which lanes should be this worker's."""
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
        """Close and give back lanes that belong to others, acquire those that belong here."""
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
            return  # lost meanwhile
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

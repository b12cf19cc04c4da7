"""Announce this worker, and share the lanes among the live workers that want them: all compute the same assignment.

A worker announces what each of its steps wants: two versions of a step may run side by side in a deploy. A lane is assigned to
workers that want it. If they want different entries of it, it goes from version to version in turns.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from zlib import crc32

import orjson
from redis.exceptions import RedisError

from motia_redis._scripts import delivery
from motia_redis._steps.wants import Wants
from motia_redis._transport import outages
from motia_redis._version import __version__
from motia_redis._worker.observing import Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from motia_redis._scripts.delivery import Heartbeat, LiveWorker
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger("motia_redis.worker")

_LOOK = 0.1  # seconds between two looks whether others have heard of this worker
_TURN = 1500  # milliseconds for which a lane that several versions want differently stays with one of them


def assign(lanes: Iterable[bytes], workers: Sequence[str]) -> dict[bytes, str]:
    """Return the worker of each lane: the one with the highest hash of worker and lane that has room.

    All processes that see the same workers compute the same result. Shares differ by one lane at most, and few lanes move when a
    worker joins or leaves.
    """
    names = sorted(lanes)
    if not workers:
        return {}
    share, more = divmod(len(names), len(workers))  # of each worker; so many have one more
    counts = dict.fromkeys(workers, 0)
    owners = {}
    for name in names:
        most = share + 1 if more else share
        owner = max((w for w in workers if counts[w] < most), key=lambda w: blake2b(w.encode() + name, digest_size=8).digest())
        counts[owner] += 1
        more -= counts[owner] > share
        owners[name] = owner
    return owners


@dataclass(frozen=True, slots=True)
class _Member:
    """A worker that is alive, or that ended so lately that what it wants still counts."""

    id: str
    is_live: bool
    steps: Mapping[str, Wants]


class Membership:
    """The live workers of the namespace, and the lanes that are assigned to this one.

    Arguments:
        worker: the id of this worker.
        lanes: all lanes that its steps want, by name.
        steps: what its steps want, by name.
        lease: seconds after which a worker without heartbeat is taken for dead; or after its own lease, if that is longer.
        on_change: called when the assignment has changed.
        on_paused: called with the steps that are paused when others are, before the assignment changes.
        report: asked before each heartbeat for what it tells beside who the worker is: what its handlers do.
    """

    def __init__(
        self,
        worker: str,
        router: Router,
        keyspace: Keyspace,
        *,
        lanes: Mapping[bytes, Lane],
        steps: Mapping[str, Wants],
        lease: float,
        on_change: Callable[[], None],
        on_paused: Callable[[frozenset[str]], None],
        report: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.assigned: frozenset[bytes] = frozenset()
        self.paused: frozenset[str] = frozenset()  #: steps of which nothing may be handled
        self.is_shared = False  #: lanes go from version to version in turns
        self._worker = worker
        self._router = router
        self._keyspace = keyspace
        self._lanes = lanes
        self._steps = steps
        self._lease = lease
        self._on_change = on_change
        self._on_paused = on_paused
        self._report = report
        self._description: dict[str, Any] = {
            "steps": {name: wants.encode() for name, wants in steps.items()},
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "lease": lease,
            "version": __version__,
        }
        self._observed = Observed()
        self._values: dict[str, bytes] = {}  # of the hash of workers
        self._members_now: tuple[_Member, ...] = ()
        self._silent: dict[str, float] = {}
        self._leases: dict[str, float] = {}
        self._seen: set[str] = set()  # workers that were seen alive
        self._heard = time.monotonic()  # when the last reply came
        self._foreign: set[bytes] = set()
        self._parts: dict[tuple[Wants, bytes], Wants] = {}
        self._streams: dict[Wants, frozenset[bytes]] = {}
        self._basis: object = None
        self._clock = 0.0  # the server's time minus the clock of this process, seconds

    def server_time(self) -> int:
        """Return the time on the Redis server, about, in Unix milliseconds."""
        return int((time.monotonic() + self._clock) * 1000)

    @property
    def silence(self) -> float:
        """Return the seconds since the last heartbeat that Redis answered."""
        return time.monotonic() - self._heard

    def live_workers(self) -> tuple[list[str], str]:
        """Return the ids of the live workers, sorted, this one's included, and the id of this one."""
        live = {member.id for member in self._members_now if member.is_live}
        return sorted(live | {self._worker}), self._worker

    def count_running(self, steps: Collection[str]) -> int:
        """Return how many live workers run one of these steps, which are steps of this one."""
        return sum(member.is_live and not member.steps.keys().isdisjoint(steps) for member in self._members_now)

    def silent_for(self, worker: str) -> float:
        """Return for how many seconds a worker had sent no heartbeat when this one sent its last; infinity for an unknown one."""
        return self._silent.get(worker, math.inf)

    def lease_of(self, worker: str) -> float:
        """Return for how many seconds a worker must be silent to be taken for dead: its lease, or that of this one if longer."""
        return self._leases.get(worker, self._lease)

    async def announce(self, *, as_guest: bool = False) -> None:
        """Send a heartbeat, and follow what has changed. A guest gets no lanes. Raises errors of Redis."""
        asked = time.monotonic()
        now, rows, paused = await self._send(0 if as_guest else self._lease)
        heard = time.monotonic()
        if heard - self._heard > self._lease:
            self._observed.restart()  # while Redis was away, or this process stood still, the others may have been cut off, too
        self._heard = heard
        self._clock = now / 1000 - (asked + time.monotonic()) / 2
        self._values = {worker.decode(errors="replace"): value for worker, value in rows}
        if paused != self.paused:
            self.paused = paused
            self._on_paused(paused)
        members = self._members_now = self._members(rows, now)
        lanes_of = {step: self._shared_lanes(step, members, now) for step in self._steps}
        basis = (members, lanes_of)
        if basis == self._basis:
            return
        self._basis = basis
        self._follow(members, lanes_of)
        self._on_change()

    async def introduce(self) -> None:
        """Announce what this worker will want; wait until live workers of other versions have heard of it, a lease at most.

        Until then they take entries for unwanted that only this version wants. Raises errors of Redis.
        """
        await self.announce(as_guest=True)
        deaf = {member.id: self._values.get(member.id) for member in self._others_of_other_versions()}
        deadline = time.monotonic() + max(map(self.lease_of, deaf), default=0.0)
        while deaf and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK)
            await self.announce(as_guest=True)
            deaf = {worker: value for worker, value in deaf.items() if self._values.get(worker) == value}

    def _others_of_other_versions(self) -> list[_Member]:
        return [
            member
            for member in self._members_now
            if member.is_live and any(wants != self._steps[step] for step, wants in member.steps.items())
        ]

    async def leave(self) -> None:
        """Announce that this worker ends. Raises errors of Redis."""
        await self._send(0)

    async def _send(self, ttl: float) -> Heartbeat:
        more = self._report() if ttl else {"left": True}  # who leaves gets no lanes, but what it wants counts for some time
        return await delivery.heartbeat(
            self._router,
            workers=self._keyspace.workers,
            worker=self._worker,
            description=orjson.dumps({**self._description, **more}),
            ttl_ms=int(ttl * 1000),
        )

    # -- members ------------------------------------------------------------------------------------------------------

    def _members(self, rows: Sequence[LiveWorker], now: int) -> tuple[_Member, ...]:
        members = []
        self._silent, self._leases = {}, {}
        for worker, value in rows:
            member = self._member(worker, value, now)
            if member is not None:
                members.append(member)
        self._observed.keep(worker for worker, _ in rows)
        self._seen.intersection_update(worker.decode(errors="replace") for worker, _ in rows)
        return tuple(sorted(members, key=lambda member: member.id))

    def _member(self, worker: bytes, value: bytes, now: int) -> _Member | None:
        expiry, _, text = value.partition(b" ")
        try:
            remaining = int(expiry) - now
            description: Any = orjson.loads(text)
            steps = {name: Wants.decode(wants) for name, wants in description["steps"].items()}
            name, has_left = worker.decode(), description.get("left", False)
            lease = max(self._lease, float(description.get("lease", 0)))
            if None in steps.values():
                raise ValueError  # noqa: TRY301  # handled as any other field that no worker of this version writes
        except (ValueError, KeyError, TypeError, AttributeError):
            if worker not in self._foreign:
                self._foreign.add(worker)
                _log.warning("ignoring field %r of %s: no worker writes such a value", worker, self._keyspace.workers.decode())
            return None
        if name == self._worker:
            return _Member(name, True, self._steps)
        self._leases[name] = lease
        unchanged = self._silent[name] = self._observed.unchanged_for(worker, value)
        # The time that a worker has announced counts only for one that was not seen before: the server's clock may have jumped.
        is_live = not has_left and unchanged <= lease and (remaining > 0 or name in self._seen)
        # What a version wants counts for two leases after its last worker.
        if unchanged > 3 * lease or (name not in self._seen and remaining < -2000 * lease):
            return None
        if is_live:
            self._seen.add(name)
        known: dict[str, Wants] = {step: wants for step, wants in steps.items() if step in self._steps and wants is not None}
        return _Member(name, is_live, known)

    # -- assignment ---------------------------------------------------------------------------------------------------

    def _shared_lanes(self, step: str, members: Sequence[_Member], now: int) -> dict[bytes, int]:
        """Return for each lane that live versions want differently whose turn it is: the number of the version."""
        versions = {member.steps[step] for member in members if member.is_live and step in member.steps}
        if len(versions) < 2:
            return {}
        turns = {}
        for name, lane in self._lanes.items():
            if lane.keys.group == step:
                parts = {self._part(wants, lane.stream) for wants in versions if lane.stream in self._streams_of(wants)}
                if len(parts) > 1:
                    turns[name] = (now // _TURN + crc32(name)) % len(parts)
        return turns

    def _follow(self, members: Sequence[_Member], turns: Mapping[str, Mapping[bytes, int]]) -> None:
        """Compute the lanes of this worker, and what other versions want of them."""
        assigned: set[bytes] = set()
        classes: dict[tuple[str, ...], list[bytes]] = {}
        self.is_shared = any(turns.values())
        for name, lane in self._lanes.items():
            step = lane.keys.group
            wanting = [(m, self._part(m.steps[step], lane.stream)) for m in self._wanting(step, lane.stream, members)]
            own = self._part(self._steps[step], lane.stream)
            lane.others = tuple({part for _, part in wanting if part != own})
            live = {member.id: part for member, part in wanting if member.is_live}
            turn = turns[step].get(name)
            if turn is not None:
                part = sorted(set(live.values()), key=repr)[turn]
                live = {worker: wants for worker, wants in live.items() if wants == part}
            classes.setdefault((step, *sorted(live)), []).append(name)
        for (_, *workers), names in classes.items():
            if self._worker in workers:
                owners = assign(names, workers)
                assigned.update(name for name in names if owners[name] == self._worker)
        self.assigned = frozenset(assigned)

    def _wanting(self, step: str, stream: bytes, members: Sequence[_Member]) -> list[_Member]:
        return [member for member in members if step in member.steps and stream in self._streams_of(member.steps[step])]

    def _streams_of(self, wants: Wants) -> frozenset[bytes]:
        streams = self._streams.get(wants)
        if streams is None:
            streams = self._streams[wants] = frozenset(wants.streams(self._keyspace))
        return streams

    def _part(self, wants: Wants, stream: bytes) -> Wants:
        part = self._parts.get((wants, stream))
        if part is None:
            part = self._parts[wants, stream] = wants.within(self._keyspace, stream)
        return part


async def announce_regularly(membership: Membership, pause: Callable[[], float], stopping: asyncio.Event) -> None:
    """Send heartbeats until `stopping` is set. While Redis is away, what was last known holds."""
    is_failing = False
    while not stopping.is_set():
        try:
            await membership.announce()
            is_failing = False
        except (RedisError, OSError) as error:
            if not is_failing:
                outages.report(_log, "heartbeat", error)
            is_failing = True
        try:
            async with asyncio.timeout(pause()):
                await stopping.wait()
        except TimeoutError:
            continue

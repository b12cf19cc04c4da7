"""How the consumption of a namespace stands: steps, what they have not handled, who works on them, dead letters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motia_redis._admin import registry
from motia_redis._admin.connections import open_namespace
from motia_redis._scripts import administration

if TYPE_CHECKING:
    from motia_redis._admin.registry import Registry
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_COUNTED = 10_000  # entries of one lane that are counted where the server does not know their number
_PAGE = 1000  # of them in one call


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """One step, over all of its lanes (streams)."""

    name: str
    lag: int  #: events that are not delivered to a worker yet, those of other scopes and keys in the same lanes included
    lag_exact: bool  #: False: there are more than `lag` (10,000 in one lane were counted, and the server knows no number)
    pending: int  #: events that are delivered and not handled yet
    oldest_age: float | None  #: seconds since the oldest of both was written; None when there is none
    lanes: int
    lanes_held: int  #: by workers that live
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker that lives."""

    id: str
    host: str
    pid: int
    lanes: dict[str, int]  #: step -> how many of its lanes the worker holds; 0 for a step that has too few for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A namespace; `steps` and `workers` are sorted by name, and by host and process."""

    namespace: str
    steps: list[StepStatus]
    workers: list[WorkerStatus]
    dropped: dict[str, int]  #: stream -> unhandled events that the hard cap has dropped from it so far


@dataclass(slots=True)
class _Sum:
    """What is added up for one step."""

    lag: int = 0
    lag_exact: bool = True
    pending: int = 0
    oldest: int | None = None
    lanes: int = 0
    held: int = 0
    partitions: set[int] = field(default_factory=set)
    dead_letters: int = 0


async def read_status(state: StateManager) -> Status:
    """Return how a namespace stands. Not of one moment: what is written meanwhile may be counted or not.

    A step is known by its consumer groups; those on topics by the lanes that a worker ever held. Only reads, and never looks
    through the keyspace. Cost: three round trips; lanes times steps. Redis 6.2, which does not know how far behind a group is,
    has to count: up to 10,000 entries in each lane, a page at a time. Raises StateUnavailable.
    """
    async with open_namespace(state, "status") as (router, keyspace):
        known = await registry.read(router, keyspace)
        sums = await _groups(router, keyspace, known)
        for partition, names in enumerate(known.steps):
            for name in names:
                sums.setdefault(name, _Sum()).partitions.add(partition)
        await _add_dead_letters(router, keyspace, sums)
    steps = [
        StepStatus(
            name=name,
            lag=found.lag,
            lag_exact=found.lag_exact,
            pending=found.pending,
            oldest_age=None if found.oldest is None else max(0, known.now - found.oldest) / 1000,
            lanes=found.lanes,
            lanes_held=found.held,
            dead_letters=found.dead_letters,
        )
        for name, found in sorted(sums.items())
        if found.lanes or found.dead_letters
    ]
    dropped = {stream.decode(errors="replace"): count for stream, count in sorted(known.dropped.items())}
    return Status(namespace=state.namespace, steps=steps, workers=_workers(known), dropped=dropped)


def _workers(known: Registry) -> list[WorkerStatus]:
    held = Counter((worker, step) for (step, _), worker in known.lanes.items() if worker)
    workers = [
        WorkerStatus(
            id=worker.id, host=worker.host, pid=worker.pid, lanes={step: held[worker.id, step] for step in sorted(worker.steps)}
        )
        for worker in known.workers.values()
    ]
    return sorted(workers, key=lambda worker: (worker.host, worker.pid, worker.id))


async def _groups(router: Router, keyspace: Keyspace, known: Registry) -> dict[str, _Sum]:
    """Return how far the groups have come, added up by step."""
    streams = list(dict.fromkeys([*keyspace.event_streams(), *(stream for _, stream in known.lanes)]))
    sums: dict[str, _Sum] = {}
    to_count: list[tuple[_Sum, bytes, bytes]] = []
    for stream, groups in zip(streams, await administration.inspect_stream(router, streams), strict=True):
        for raw_name, pending, oldest, undelivered, delivered in groups:
            name = raw_name.decode(errors="replace")  # any nodes can make a group
            found = sums.setdefault(name, _Sum())
            found.lanes += 1
            found.held += known.lanes.get((name, stream)) is not None
            found.partitions.add(registry.partition_of(stream))
            found.pending += pending
            if oldest:
                written = int(oldest.partition(b"-")[0])
                found.oldest = written if found.oldest is None else min(found.oldest, written)
            if undelivered >= 0:
                found.lag += undelivered
            else:
                to_count.append((found, stream, delivered))
    await _count(router, to_count)
    return sums


async def _count(router: Router, to_count: list[tuple[_Sum, bytes, bytes]]) -> None:
    """Add what lies behind a position, page by page, the pages of all lanes in one round trip."""
    for _ in range(_COUNTED // _PAGE):
        if not to_count:
            return
        positions = [administration.Position(stream, position) for _, stream, position in to_count]
        replies = await administration.count_entries(router, positions, limit=_PAGE)
        rest = []
        for (found, stream, _), (count, position) in zip(to_count, replies, strict=True):
            found.lag += count
            if position:
                rest.append((found, stream, position))
        to_count = rest
    for found, _, _ in to_count:
        found.lag_exact = False


async def _add_dead_letters(router: Router, keyspace: Keyspace, sums: dict[str, _Sum]) -> None:
    places = [(name, partition) for name, found in sums.items() for partition in found.partitions]
    streams = [keyspace.dead(keyspace.events(partition, 0), name) for name, partition in places]
    counts = await router.gather([(stream, ("XLEN", stream)) for stream in streams])
    for (name, _), count in zip(places, counts, strict=True):
        sums[name].dead_letters += count

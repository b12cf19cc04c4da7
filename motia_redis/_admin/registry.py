"""What Redis knows of steps and workers: who lives, who holds which lane, which steps left dead letters; and to forget a step.

No call here looks through the keyspace: the number of partitions and lanes is known, and the hash of a partition's leases names
every lane that ever had a holder, those of topics included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._admin.connections import open_namespace
from motia_redis._scripts import administration
from motia_redis.errors import StepInUse, StepMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that lives, as it introduced itself."""

    id: str
    host: str
    pid: int
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """Workers, lanes and steps at one moment."""

    now: int  #: the time on the Redis server, Unix milliseconds
    workers: Mapping[str, WorkerInfo]  #: by id
    lanes: Mapping[tuple[str, bytes], str | None]  #: step and stream -> id of the live worker that holds the lane, or None
    dropped: Mapping[bytes, int]  #: stream -> unhandled entries that the hard cap has dropped from it so far
    steps: tuple[frozenset[str], ...]  #: for each partition: the steps that have, or had, a lane there or left dead letters


async def read(router: Router, keyspace: Keyspace) -> Registry:
    """Return what Redis knows. Cost: one round trip; the number of workers and of all steps' lanes."""
    wanted: list[Any] = [(keyspace.workers, ("TIME",)), (keyspace.workers, ("HGETALL", keyspace.workers))]
    for partition in range(keyspace.layout.partitions):
        stream = keyspace.events(partition, 0)
        wanted += [(key, ("HGETALL", key)) for key in (keyspace.leases(stream), keyspace.trimmed(stream))]
    (seconds, microseconds), introduced, *hashes = await router.gather(wanted)
    now = seconds * 1000 + microseconds // 1000
    lanes: dict[tuple[str, bytes], str | None] = {}
    steps = []
    for fields in hashes[::2]:
        names = {field.removeprefix(b"forgotten ").decode() for field in fields if field.startswith(b"forgotten ")}
        for field, holder in fields.items():
            if field.startswith(b"lane "):
                step, _, stream = field.removeprefix(b"lane ").partition(b"\n")
                lives = int(fields.get(b"worker " + holder, 0)) > now
                lanes[step.decode(), stream] = holder.decode() if lives else None
                names.add(step.decode())
        steps.append(frozenset(names))
    dropped = {
        field.removeprefix(b"dropped "): int(count)
        for fields in hashes[1::2]
        for field, count in fields.items()
        if field.startswith(b"dropped ")
    }
    return Registry(now, _workers(introduced, now), lanes, dropped, tuple(steps))


def _workers(introduced: Mapping[bytes, bytes], now: int) -> dict[str, WorkerInfo]:
    found = {}
    for worker, text in introduced.items():
        expiry, _, description = text.partition(b" ")
        if int(expiry) > now:
            told = orjson.loads(description)
            found[worker.decode()] = WorkerInfo(worker.decode(), told["host"], told["pid"], tuple(told["steps"]))
    return found


def partition_of(stream: bytes) -> int:
    """Return the partition that a stream, or any other key of one, lies in."""
    return int(stream[: stream.index(b"}:")].rpartition(b":")[2])


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget_step` did."""

    groups: int  #: consumer groups removed
    dead_letters: int  #: dead letters that the step had
    dropped: bool  #: whether they were dropped, too


async def forget_step(state: StateManager, name: str, *, with_dead_letters: bool = False, force: bool = False) -> Forgotten:
    """Remove a step that no longer exists, so that no history is kept for it.

    Its consumer groups go from all streams, with what is pending in them, and its recorded attempts. Events that it has not
    handled are lost to it: should it come back, it begins with those written from then on. Its dead letters stay, unless
    `with_dead_letters`. Atomic in each partition; after an error, call it again.

    A worker that runs the step would make the groups again at once, to read all there is, so the call is refused while one lives;
    `force` does it all the same. Cost: a round trip; the number of streams and of the step's pending entries. Raises StepInUse,
    StepMissing, StateUnavailable.
    """
    async with open_namespace(state, f"step {name!r}") as (router, keyspace):
        registry = await read(router, keyspace)
        running = [worker for worker in registry.workers.values() if name in worker.steps]
        if running and not force:
            places = ", ".join(sorted(f"process {worker.pid} on {worker.host}" for worker in running))
            raise StepInUse(f"step {name!r} is run by {places}: stop it first, or force it")
        topics = sorted({stream for step, stream in registry.lanes if step == name} - set(keyspace.event_streams()))
        partitions = []
        for partition in range(keyspace.layout.partitions):
            streams = [keyspace.events(partition, lane) for lane in range(keyspace.layout.lanes)]
            first = streams[0]
            streams += [stream for stream in topics if partition_of(stream) == partition]
            leases, attempts, dead = keyspace.leases(first), keyspace.attempts(first, name), keyspace.dead(first, name)
            partitions.append(administration.StepKeys(leases, attempts, dead, streams))
        counts = await administration.forget_step(
            router, partitions, step=name, dead_letters="drop" if with_dead_letters else "keep"
        )
    groups, letters = sum(count.groups for count in counts), sum(count.dead_letters for count in counts)
    if not groups and not letters and not any(name in steps for steps in registry.steps):
        raise StepMissing(f"there is no step {name!r} in namespace {state.namespace!r}")
    return Forgotten(groups, letters, with_dead_letters)

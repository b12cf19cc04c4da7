"""Read which workers, lanes and steps a namespace has, and forget a step.

No call scans the keyspace. The numbers of partitions and lanes are known. The hash of a partition's leases names every lane that
ever had a holder, lanes of topics included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from motia_redis._admin.connections import open_namespace
from motia_redis._admin.trimming import trim_streams
from motia_redis._scripts import administration
from motia_redis.errors import StepInUse, StepMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_WORKER = re.compile(rb"(\d{1,18}) (.*)", re.DOTALL)  # as lua/heartbeat.lua writes it: expiry, description


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Describe a live worker, as the worker announced itself."""

    id: str
    host: str
    pid: int
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """Hold the workers, lanes and steps of a namespace at one moment."""

    now: int  #: the time on the Redis server, Unix milliseconds
    workers: Mapping[str, WorkerInfo]  #: by id
    lanes: Mapping[tuple[str, bytes], str | None]  #: step and stream -> id of the live worker that holds the lane, or None
    dropped: Mapping[bytes, int]  #: stream -> number of unhandled entries that the hard cap has removed
    steps: tuple[frozenset[str], ...]  #: for each partition: the steps that have or had a lane there, or left dead letters


class _Leases(NamedTuple):
    """Hold what the hash of one partition's leases says."""

    lanes: dict[tuple[str, bytes], str | None]  #: as in `Registry`
    forgotten: set[str]  #: forgotten steps with dead letters

    @property
    def steps(self) -> frozenset[str]:
        return frozenset(self.forgotten | {step for step, _ in self.lanes})


async def read(router: Router, keyspace: Keyspace) -> Registry:
    """Return the registry of a namespace. Cost: one round trip; the number of workers and of all steps' lanes."""
    streams = [keyspace.events(partition, 0) for partition in range(keyspace.layout.partitions)]
    keys = [keyspace.workers, *map(keyspace.leases, streams), *map(keyspace.trimmed, streams)]
    commands: list[Any] = [(keyspace.workers, ("TIME",)), *((key, ("HGETALL", key)) for key in keys)]
    (seconds, microseconds), workers, *hashes = await router.gather(commands)
    now = seconds * 1000 + microseconds // 1000
    leases = [_decode_leases(fields, now) for fields in hashes[: len(streams)]]
    dropped = [_decode_dropped(fields) for fields in hashes[len(streams) :]]
    return Registry(
        now=now,
        workers=_decode_workers(workers, now),
        lanes={lane: holder for partition in leases for lane, holder in partition.lanes.items()},
        dropped={stream: count for partition in dropped for stream, count in partition.items()},
        steps=tuple(partition.steps for partition in leases),
    )


def _decode_leases(fields: Mapping[bytes, bytes], now: int) -> _Leases:
    leases = _Leases({}, set())
    for field, value in fields.items():
        kind, _, name = field.partition(b" ")
        if kind == b"forgotten":
            leases.forgotten.add(name.decode())
        elif kind == b"lane":
            step, _, stream = name.partition(b"\n")
            is_live = int(fields.get(b"worker " + value, 0)) > now
            leases.lanes[step.decode(), stream] = value.decode() if is_live else None
    return leases


def _decode_dropped(fields: Mapping[bytes, bytes]) -> dict[bytes, int]:
    prefix = b"dropped "
    return {field.removeprefix(prefix): int(count) for field, count in fields.items() if field.startswith(prefix)}


def _decode_workers(fields: Mapping[bytes, bytes], now: int) -> dict[str, WorkerInfo]:
    workers = [_decode_worker(field, value, now) for field, value in fields.items()]
    return {worker.id: worker for worker in workers if worker is not None}


def _decode_worker(field: bytes, value: bytes, now: int) -> WorkerInfo | None:
    """Return the worker of one field. Return None if the worker is dead, or if a worker does not write such a field."""
    announced = _WORKER.fullmatch(value)
    if announced is None or int(announced[1]) <= now:
        return None
    try:
        worker, description = field.decode(), orjson.loads(announced[2])
    except ValueError:  # not UTF-8, or not JSON
        return None
    match description:
        case {"host": str(host), "pid": int(pid), "steps": [*steps]} if all(isinstance(step, str) for step in steps):
            return WorkerInfo(worker, host, pid, tuple(steps))
    return None


def partition_of(stream: bytes) -> int:
    """Return the partition of a stream, or of any other key with a partition's hash tag."""
    return int(stream[: stream.index(b"}:")].rpartition(b":")[2])


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Hold the result of `forget_step`."""

    groups: int  #: consumer groups removed
    dead_letters: int  #: dead letters that the step had
    dropped: bool  #: whether the dead letters were dropped


async def forget_step(state: StateManager, name: str, *, with_dead_letters: bool = False, force: bool = False) -> Forgotten:
    """Remove the consumer groups and the recorded attempts of a step that no longer exists, and trim its streams.

    The step loses the entries that it has not handled. If it comes back, it begins with the entries written from then on. Its
    dead letters stay, unless `with_dead_letters`. Each partition changes atomically. After an error, repeat the call.

    The call is rejected while a live worker runs the step. That worker would make the groups again at once, and read all entries
    that are still there. `force` skips the check. Cost: three round trips, and one for each MiB that is trimmed; the number of
    streams. Raises StepInUse, StepMissing, StateUnavailable.
    """
    async with open_namespace(state, f"step {name!r}") as (router, keyspace):
        known = await read(router, keyspace)
        if not force:
            _check_unused(known, name)
        keys = _step_keys(keyspace, known, name)
        mode: Literal["keep", "drop"] = "drop" if with_dead_letters else "keep"
        counts = await administration.forget_step(router, keys, step=name, mode=mode)
        freed = [stream for partition in keys for stream in partition.streams]
        await trim_streams(router, keyspace, await state.settings(), freed)
    groups, letters = sum(count.groups for count in counts), sum(count.dead_letters for count in counts)
    if not groups and not letters and not any(name in steps for steps in known.steps):
        raise StepMissing(f"there is no step {name!r} in namespace {state.namespace!r}: check the name with `motia-redis status`")
    return Forgotten(groups, letters, with_dead_letters)


def _check_unused(known: Registry, step: str) -> None:
    """Raise StepInUse if a live worker runs the step."""
    running = sorted(f"process {worker.pid} on {worker.host}" for worker in known.workers.values() if step in worker.steps)
    if running:
        message = f"step {step!r} cannot be forgotten: the step still runs in {', '.join(running)}"
        raise StepInUse(f"{message}; end its workers, or use force")


def _step_keys(keyspace: Keyspace, known: Registry, step: str) -> list[administration.StepKeys]:
    """Return the keys that the step may have in each partition."""
    topics = sorted({stream for name, stream in known.lanes if name == step} - set(keyspace.event_streams()))
    keys = []
    for partition in range(keyspace.layout.partitions):
        streams = [keyspace.events(partition, lane) for lane in range(keyspace.layout.lanes)]
        streams += [stream for stream in topics if partition_of(stream) == partition]
        leases, attempts, dead = keyspace.leases(streams[0]), keyspace.attempts(streams[0], step), keyspace.dead(streams[0], step)
        keys.append(administration.StepKeys(leases, attempts, dead, keyspace.topics(partition), streams))
    return keys

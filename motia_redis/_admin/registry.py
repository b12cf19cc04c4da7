"""Read which workers, lanes and steps a namespace has, and forget a step.

No call scans the keyspace. The numbers of partitions and lanes are known. The hash of a partition's leases names every lane that
ever had a holder, lanes of topics included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from motia_redis._admin.announced import WorkerInfo, decode_workers
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.trimming import trim_streams
from motia_redis._ids import random_id
from motia_redis._scripts import administration
from motia_redis._scripts.delivery import paused_step
from motia_redis._store.keyspace import is_cron, partition_of
from motia_redis.errors import StepInUse, StepMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.wants import Wants
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router


@dataclass(frozen=True, slots=True)
class Registry:
    """Hold the workers, lanes and steps of a namespace at one moment."""

    now: int  #: the time on the Redis server, Unix milliseconds
    workers: Mapping[str, WorkerInfo]  #: live ones, by id
    silent: Mapping[str, WorkerInfo]  #: those that stopped without leaving; kept for ten minutes or longer
    lanes: Mapping[tuple[str, bytes], str | None]  #: step and stream -> id of the live worker that holds the lane, or None
    abandoned: Mapping[tuple[str, bytes], str]  #: lanes without a live holder -> the worker that did not give the lane back
    dropped: Mapping[bytes, int]  #: stream -> number of unhandled entries that the hard cap has removed
    steps: tuple[frozenset[str], ...]  #: for each partition: the steps that have or had a lane there, or left dead letters

    paused: Mapping[str, int]  #: paused step -> since when, Unix milliseconds
    last_versions: Mapping[str, Wants]  #: for each step: what the version wanted that ran last, in the last ten minutes

    def versions(self, step: str) -> set[Wants]:
        """Return what the live versions of a step want."""
        return {worker.steps[step] for worker in self.workers.values() if step in worker.steps}

    def unwanted_lanes(self, step: str, keyspace: Keyspace) -> set[bytes]:
        """Return the streams of a step's lanes that no live version wants, or if none lives, that the last one did not want."""
        versions = self.versions(step) or {self.last_versions[step]} if step in self.last_versions else set()
        if not versions:
            return set()
        wanted = {stream for wants in versions for stream in wants.streams(keyspace)}
        return {stream for name, stream in self.lanes if name == step} - wanted


class _Leases(NamedTuple):
    """Hold what the hash of one partition's leases says."""

    lanes: dict[tuple[str, bytes], str | None]  #: as in `Registry`
    abandoned: dict[tuple[str, bytes], str]  #: as in `Registry`
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
    known = decode_workers(workers)
    leases = [_decode_leases(fields, now) for fields in hashes[: len(streams)]]
    dropped = [_decode_dropped(fields) for fields in hashes[len(streams) :]]
    return Registry(
        now=now,
        workers={worker.id: worker for worker in known if worker.expiry > now},
        silent={worker.id: worker for worker in known if worker.expiry <= now and not worker.has_left},
        paused=_decode_paused(workers),
        last_versions={step: wants for worker in known for step, wants in worker.steps.items()},
        lanes={lane: holder for partition in leases for lane, holder in partition.lanes.items()},
        abandoned={lane: worker for partition in leases for lane, worker in partition.abandoned.items()},
        dropped={stream: count for partition in dropped for stream, count in partition.items()},
        steps=tuple(partition.steps for partition in leases),
    )


def _decode_leases(fields: Mapping[bytes, bytes], now: int) -> _Leases:
    leases = _Leases({}, {}, set())
    for field, value in fields.items():
        kind, _, name = field.partition(b" ")
        if kind == b"forgotten":
            leases.forgotten.add(name.decode())
        elif kind == b"lane":
            step, _, stream = name.partition(b"\n")
            lane = step.decode(), stream
            is_live = int(fields.get(b"worker " + value, 0)) > now
            leases.lanes[lane] = value.decode() if is_live else None
            if value and not is_live:
                leases.abandoned[lane] = value.decode()
    return leases


def _decode_dropped(fields: Mapping[bytes, bytes]) -> dict[bytes, int]:
    prefix = b"dropped "
    return {field.removeprefix(prefix): int(count) for field, count in fields.items() if field.startswith(prefix)}


def _decode_paused(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    steps = ((paused_step(field), since) for field, since in fields.items())
    return {step: int(since) for step, since in steps if step is not None and since.isdigit()}


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Hold the result of `forget_step`."""

    groups: int  #: consumer groups removed
    dead_letters: int  #: dead letters that the step had
    dropped: bool  #: whether the dead letters were dropped
    only_lanes: bool  #: the step runs: only lanes went that none of its live versions wants


async def forget_step(
    state: StateManager, name: str, *, with_dead_letters: bool = False, only_lanes: bool = False, force: bool = False
) -> Forgotten:
    """Remove the consumer groups of a step that no longer exists, so that streams can be trimmed, and trim them.

    The step loses the entries that it has not handled. If it comes back, it begins like a new step. Its dead letters stay, unless
    `with_dead_letters`. Each partition changes atomically. After an error, repeat the call.

    While a live worker runs the step, only the lanes go that no live version of it wants: those of a scope, key or topic that its
    triggers had before, or of its cron triggers. If there is none, the call is rejected. `only_lanes` asks for just that. `force`
    forgets the whole step all the same; its workers read everything again that is still there. Cost: three round trips, and one
    for each MiB that is trimmed; the number of streams. Raises StepInUse, StepMissing, StateUnavailable.
    """
    async with open_namespace(state, f"step {name!r}") as (router, keyspace):
        known = await read(router, keyspace)
        unwanted = known.unwanted_lanes(name, keyspace)
        only_lanes = only_lanes or (bool(known.versions(name)) and not force)
        if only_lanes and not unwanted:
            raise _nothing_to_forget(known, name)
        streams = unwanted if only_lanes else {stream for step, stream in known.lanes if step == name}
        if not only_lanes:
            streams.update(keyspace.event_streams())
        mode: Literal["keep", "drop", "lanes"] = "lanes" if only_lanes else "drop" if with_dead_letters else "keep"
        counts = await administration.forget_step(router, _step_keys(keyspace, streams, name), step=name, mode=mode)
        if not only_lanes and name in known.paused:
            await administration.pause_step(router, keyspace.workers, step=name, mode="resume")
        await trim_streams(router, keyspace, await state.settings(), streams)
    groups, letters = sum(count.groups for count in counts), sum(count.dead_letters for count in counts)
    if not groups and not letters and not any(name in steps for steps in known.steps):
        raise StepMissing(f"there is no step {name!r} in namespace {state.namespace!r}: check the name with `motia-redis status`")
    return Forgotten(groups, letters, with_dead_letters and not only_lanes, only_lanes)


@dataclass(frozen=True, slots=True)
class Renamed:
    """Hold the result of `rename_step`."""

    groups: int  #: consumer groups renamed
    dead_letters: int  #: dead letters that go with them


async def rename_step(state: StateManager, old: str, new: str) -> Renamed:
    """Give what a step has to another name: positions, attempts, entries that are not finished, dead letters, and its pause.

    Stop the workers of the old name before, start those of the new one afterwards. Each partition changes atomically. After an
    error, repeat the call. Cost: two round trips; the number of streams. Raises StepInUse if a live worker runs either step, or
    the new name has groups or dead letters; StepMissing; StateUnavailable.
    """
    async with open_namespace(state, f"step {old!r}") as (router, keyspace):
        known = await read(router, keyspace)
        for name in (old, new):
            if known.versions(name):
                raise StepInUse(f"step {old!r} cannot be renamed to {new!r}: a worker runs step {name!r}; end it before")
        streams = {stream for step, stream in known.lanes if step == old}
        places = streams | {keyspace.events(partition, 0) for partition, names in enumerate(known.steps) if old in names}
        if not places:
            raise StepMissing(f"there is no step {old!r} in namespace {state.namespace!r}: check it with `motia-redis status`")
        names = {"old": old, "new": new, "next_identity": random_id(16)}
        if old in known.paused:
            await administration.pause_step(router, keyspace.workers, step=new, mode="pause")
        counts = await administration.rename_step(router, _renamed_keys(keyspace, places, old, new), **names)
        if old in known.paused and None not in counts:
            await administration.pause_step(router, keyspace.workers, step=old, mode="resume")
    if None in counts:
        raise StepInUse(f"step {new!r} exists: forget it first (`motia-redis steps forget`), or choose another name")
    found = [count for count in counts if count is not None]
    return Renamed(sum(count.groups for count in found), sum(count.dead_letters for count in found))


def _renamed_keys(keyspace: Keyspace, streams: set[bytes], old: str, new: str) -> list[administration.RenamedKeys]:
    """Return the keys of a step by both names, for each partition."""
    return [
        administration.RenamedKeys(
            keyspace.leases(some[0]),
            keyspace.dead(some[0], old),
            keyspace.dead(some[0], new),
            keyspace.due(partition),
            keyspace.schedules(some[0], old),
            keyspace.schedules(some[0], new),
            [_renamed_lane(keyspace, stream, old, new) for stream in some],
        )
        for partition, some in _by_partition(streams).items()
    ]


def _renamed_lane(keyspace: Keyspace, stream: bytes, old: str, new: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a stream by both names, and its hash of entries. That of the cron triggers has the name of the step."""
    new_stream = keyspace.cron(new) if is_cron(stream) else stream
    return stream, new_stream, keyspace.entries(stream, old), keyspace.entries(new_stream, new)


def _nothing_to_forget(known: Registry, step: str) -> StepInUse | StepMissing:
    """Return the error for a step none of whose lanes is unwanted."""
    running = sorted(f"process {worker.pid} on {worker.host}" for worker in known.workers.values() if step in worker.steps)
    if running:
        message = f"step {step!r} cannot be forgotten: the step still runs in {', '.join(running)}, and wants all of its lanes"
        return StepInUse(f"{message}; end its workers, or use --force (in code: force=True)")
    return StepMissing(f"step {step!r} has no lanes that its last version did not want")


def _step_keys(keyspace: Keyspace, streams: set[bytes], step: str) -> list[administration.StepKeys]:
    """Return the keys that the step may have in each partition."""
    return [
        administration.StepKeys(
            keyspace.leases(some[0]),
            keyspace.topics(partition),
            keyspace.dead(some[0], step),
            keyspace.due(partition),
            keyspace.schedules(some[0], step),
            some,
            [keyspace.entries(stream, step) for stream in some],
        )
        for partition, some in _by_partition(streams).items()
    ]


def _by_partition(streams: set[bytes]) -> dict[int, list[bytes]]:
    """Return streams by their partition."""
    found: dict[int, list[bytes]] = {}
    for stream in sorted(streams):
        found.setdefault(partition_of(stream), []).append(stream)
    return found

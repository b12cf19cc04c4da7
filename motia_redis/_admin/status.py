"""Read the status of a namespace: its steps, what they have not handled, their workers and dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from motia_redis._admin import registry
from motia_redis._admin.announced import subject
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.scheduled import read_waiting
from motia_redis._admin.topics import UnreadTopic, read_unread_topics
from motia_redis._scripts import administration
from motia_redis._scripts.administration import LanePlace, Position
from motia_redis._steps.events import facts
from motia_redis._store.keyspace import partition_of, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._admin.announced import Attempted, SlowHandler, WorkerInfo
    from motia_redis._admin.registry import Registry
    from motia_redis._scripts.administration import FailingEntry, LanePosition
    from motia_redis._steps.wants import Wants
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_MOST_COUNTED = 10_000  # entries of one lane that are counted if the server does not know their number
_PAGE = 1000  # entries that one call counts
_FAILING = 3  # attempts that have failed before a key is named
_MOST_NAMED = 10  # failing keys of one step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVersion:
    """Describe a version of a step, by what its triggers declare."""

    states: list[tuple[str | None, str | None]]  #: scope and key, each None = all
    topics: list[str]
    schedules: list[str]  #: of cron triggers: the time zone and the expression of each
    items: list[tuple[str, str | None, str | None]]  #: stream, group and item of stream triggers, each of the latter None = all
    workers: int  #: live workers that run it
    worker_ids: list[str]  #: of these workers

    @property
    def wanted(self) -> str:
        """Return what the triggers declare as one text, such as "scope orders, topic returns"."""
        wants = [f"scope {scope or '*'}{f' key {key}' if key else ''}" for scope, key in self.states]
        wants += [f"topic {topic}" for topic in self.topics]
        wants += [f"stream {'/'.join(part or '*' for part in items)}" for items in self.items]
        wants += [f"cron {schedule}" for schedule in self.schedules]
        return ", ".join(wants)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSchedule:
    """Describe one schedule of a step's cron triggers."""

    name: str  #: the time zone and the expression
    next_in: float | None  #: seconds until its next time; far below 0: nobody fires it. None: it is not scheduled


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingKey:
    """Describe a key, or a message without one, whose handler has failed three times or more. Later events of the key wait."""

    event: dict[str, str]  #: `scope` and `key`, `topic` and `key`, `schedule`, or `stream`, `group`, `item`; {}: it was trimmed
    entry_id: str  #: of the event that fails
    attempts: int
    age: float  #: seconds since that event was written
    next_in: float  #: seconds until the next attempt may begin; 0 or less: one runs, or waits for its turn

    @property
    def subject(self) -> str:
        """Return `event` as one text, such as "scope orders key 7"."""
        return subject(self.event)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """Describe one step, over all of its lanes."""

    name: str
    lag: int  #: entries beyond the recorded position; entries of other scopes and keys in the same lanes count, too
    lag_exact: bool  #: False: there are more than `lag`; counting ends at 10,000 a lane
    pending: int  #: entries up to the position that are not handled: they run, wait for a retry, or for another version
    oldest_age: float | None  #: seconds since the oldest entry that is not handled was written; None: there is none
    lanes: int
    lanes_held: int  #: lanes that a live worker holds
    dead_letters: int
    lanes_unwanted: int  #: lanes that no live version of the step wants; their entries are not counted as lag
    keys_failing: int  #: keys whose handler has failed three times or more, and is tried again
    failing: list[FailingKey]  #: up to ten of them, those with the most attempts first
    unwanted: list[str]  #: what these lanes hold: "topic mail", "changes of partition 3", "cron triggers"
    schedules: list[StepSchedule]  #: of its cron triggers
    paused_for: float | None  #: seconds since the step was paused: nothing of it is handled. None: it is not paused
    versions: list[StepVersion]  #: live ones; more than one while a deploy goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """Describe one worker."""

    id: str
    host: str
    pid: int
    version: str  #: of the library
    lease: float  #: seconds without a heartbeat after which the worker is taken for dead
    heartbeat_age: float  #: seconds since its last heartbeat
    lanes: dict[str, int]  #: step -> lanes of the step that this worker holds; 0 if other workers hold all of them
    attempted: dict[str, Attempted]  #: step -> attempts since the worker's start; steps without any are left out
    watches: int  #: watches and mirrors that it has open
    slow: list[SlowHandler]  #: handlers that have run for more than 5 s, up to ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Describe a namespace. `steps` are sorted by name, `workers` by host and process."""

    namespace: str
    steps: list[StepStatus]
    workers: list[WorkerStatus]
    silent: list[WorkerStatus]  #: those that stopped without leaving: paused, cut off, or killed; kept for ten minutes or longer
    dropped: dict[str, int]  #: stream -> number of unhandled entries, or dead letters, that a cap has removed
    topics: list[UnreadTopic]  #: topics that no step consumes yet
    delayed: int  #: delayed messages that wait for their time
    next_due_in: float | None  #: seconds until something falls due; far below 0: nobody sends what is due. None: nothing waits


@dataclass(slots=True)
class _Totals:
    """Add up the lanes of one step."""

    lag: int = 0
    lag_exact: bool = True
    pending: int = 0
    oldest: int | None = None  #: Unix milliseconds
    lanes: int = 0
    held: int = 0
    unwanted: list[str] = field(default_factory=list)  #: what each such lane holds
    partitions: set[int] = field(default_factory=set)  #: where the step may have dead letters
    dead_letters: int = 0
    schedules: list[StepSchedule] = field(default_factory=list)
    failing: int = 0
    worst: list[FailingEntry] = field(default_factory=list)

    def add_lane(self, lane: LanePosition, *, is_held: bool) -> None:
        self.lanes += 1
        self.held += is_held
        self.pending += lane.unfinished
        self.lag += max(0, lane.waiting)
        if lane.oldest:
            written = _written(lane.oldest)
            self.oldest = written if self.oldest is None else min(self.oldest, written)
        self.failing += lane.failing
        self.worst += lane.worst

    def to_status(self, name: str, known: Registry) -> StepStatus:
        return StepStatus(
            name=name,
            lag=self.lag,
            lag_exact=self.lag_exact,
            pending=self.pending,
            oldest_age=None if self.oldest is None else max(0, known.now - self.oldest) / 1000,
            lanes=self.lanes,
            lanes_held=self.held,
            dead_letters=self.dead_letters,
            lanes_unwanted=len(self.unwanted),
            unwanted=sorted(set(self.unwanted)),
            keys_failing=self.failing,
            failing=_failing(self.worst, known.now),
            schedules=self.schedules,
            paused_for=max(0, known.now - known.paused[name]) / 1000 if name in known.paused else None,
            versions=_versions(name, known),
        )


class _Uncounted(NamedTuple):
    """Name entries of a step that the server did not count: those after a position."""

    totals: _Totals
    position: Position


async def read_status(state: StateManager) -> Status:
    """Return the status of a namespace. It is not of one moment: entries written during the call may be counted or not.

    The steps are those of which a worker ever created the groups. Only reads, and never scans the keyspace. Cost: seven round
    trips; the number of lanes of all steps; and up to 10,000 entries of each lane are counted, page by page. Raises
    StateUnavailable.
    """
    async with open_namespace(state, "status") as (router, keyspace):
        return await collect(router, keyspace, await registry.read(router, keyspace))


async def collect(router: Router, keyspace: Keyspace, known: Registry) -> Status:
    """Return the status of a namespace whose registry was just read. Errors are those of redis-py."""
    totals = await _sum_groups(router, keyspace, known)
    for partition, names in enumerate(known.steps):
        for name in names:
            totals[name].partitions.add(partition)
    await _add_dead_letters(router, keyspace, totals)
    await _add_schedules(router, keyspace, totals, known)
    topics = await read_unread_topics(router, keyspace)
    waiting = await read_waiting(router, keyspace)
    return Status(
        namespace=keyspace.namespace,
        steps=[
            step.to_status(name, known)
            for name, step in sorted(totals.items())
            if step.lanes or step.unwanted or step.dead_letters
        ],
        workers=_workers(known.workers, known.lanes, known.now),
        silent=_workers(known.silent, known.abandoned, known.now),
        topics=topics,
        delayed=waiting.messages,
        next_due_in=None if waiting.next_due is None else (waiting.next_due - known.now) / 1000,
        dropped={stream.decode(errors="replace"): count for stream, count in sorted(known.dropped.items())},
    )


def _workers(known: Mapping[str, WorkerInfo], holders: Mapping[tuple[str, bytes], str | None], now: int) -> list[WorkerStatus]:
    held = Counter((worker, step) for (step, _), worker in holders.items() if worker)
    workers = [
        WorkerStatus(
            id=worker.id,
            host=worker.host,
            pid=worker.pid,
            version=worker.version,
            lease=worker.lease,
            heartbeat_age=worker.heartbeat_age(now),
            lanes={step: held[worker.id, step] for step in sorted(worker.steps)},
            attempted=dict(worker.counts),
            watches=worker.watches,
            slow=list(worker.slow),
        )
        for worker in known.values()
    ]
    return sorted(workers, key=lambda worker: (worker.host, worker.pid, worker.id))


def _failing(worst: list[FailingEntry], now: int) -> list[FailingKey]:
    """Describe the entries with the most attempts."""
    found = [
        FailingKey(
            event=facts(entry.names),
            entry_id=entry.id.decode(),
            attempts=entry.attempts,
            age=max(0, now - _written(entry.id)) / 1000,
            next_in=(entry.due - now) / 1000,
        )
        for entry in worst
    ]
    return sorted(found, key=lambda key: (-key.attempts, -key.age))[:_MOST_NAMED]


def _written(entry_id: bytes) -> int:
    """Return when an entry was written, Unix milliseconds."""
    return int(entry_id.partition(b"-")[0])


def _versions(step: str, known: Registry) -> list[StepVersion]:
    workers: defaultdict[Wants, list[str]] = defaultdict(list)
    for worker in known.workers.values():
        if step in worker.steps:
            workers[worker.steps[step]].append(worker.id)
    return [
        StepVersion(
            states=list(wants.states),
            topics=list(wants.topics),
            schedules=[schedule for _, schedule in wants.schedules],
            items=list(wants.items),
            workers=len(workers[wants]),
            worker_ids=sorted(workers[wants]),
        )
        for wants in sorted(workers, key=repr)
    ]


async def _sum_groups(router: Router, keyspace: Keyspace, known: Registry) -> defaultdict[str, _Totals]:
    """Return the totals of all lanes, by step."""
    places = [LanePlace(stream, keyspace.entries(stream, name), name) for name, stream in known.lanes]
    unwanted = {name: known.unwanted_lanes(name, keyspace) for name in {name for name, _ in known.lanes}}
    totals: defaultdict[str, _Totals] = defaultdict(_Totals)
    uncounted: list[_Uncounted] = []
    lanes = await administration.inspect_lane(router, places, failing=_FAILING)
    for place, lane in zip(places, lanes, strict=True):
        if lane is None:
            continue
        step = totals[place.group]
        step.partitions.add(partition_of(place.stream))
        if place.stream in unwanted[place.group]:
            step.unwanted.append(place_of(place.stream))
            continue
        step.add_lane(lane, is_held=known.lanes[place.group, place.stream] is not None)
        if lane.waiting < 0:
            uncounted.append(_Uncounted(step, Position(place.stream, lane.position)))
    await _count(router, uncounted)
    return totals


async def _count(router: Router, uncounted: list[_Uncounted]) -> None:
    """Add the entries after each position to the lag. Each round trip counts one page of each lane."""
    for _ in range(_MOST_COUNTED // _PAGE):
        if not uncounted:
            return
        counts = await administration.count_entries(router, [entries.position for entries in uncounted], limit=_PAGE)
        rest = []
        for (step, position), count in zip(uncounted, counts, strict=True):
            step.lag += count.entries
            if count.last:
                rest.append(_Uncounted(step, Position(position.stream, count.last)))
        uncounted = rest
    for step, _ in uncounted:
        step.lag_exact = False


async def _add_dead_letters(router: Router, keyspace: Keyspace, totals: Mapping[str, _Totals]) -> None:
    places = [(name, partition) for name, step in totals.items() for partition in step.partitions]
    streams = [keyspace.dead(keyspace.events(partition, 0), name) for name, partition in places]
    counts = await router.gather([(stream, ("XLEN", stream)) for stream in streams])
    for (name, _), count in zip(places, counts, strict=True):
        totals[name].dead_letters += count


async def _add_schedules(router: Router, keyspace: Keyspace, totals: Mapping[str, _Totals], known: Registry) -> None:
    names = sorted(name for name in totals if (name, keyspace.cron(name)) in known.lanes)
    if not names:
        return
    keys = [keyspace.schedules(keyspace.cron(name), name) for name in names]
    clock = keyspace.trimmed(keys[0])
    moved, *hashes = await router.gather([(clock, ("HGET", clock, "clock")), *((key, ("HGETALL", key)) for key in keys)])
    for name, fields in zip(names, hashes, strict=True):
        for schedule, record in sorted(fields.items()):
            following = record.split(b":")[1:2]  # see lib/schedules.lua
            is_known = bool(following) and following[0].isdigit()
            wait = (int(following[0]) - known.now - int(moved or 0)) / 1000 if is_known else None
            totals[name].schedules.append(StepSchedule(name=schedule.decode(errors="replace"), next_in=wait))

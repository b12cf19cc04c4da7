"""What the steps of an application have handled, as Redis knows it: whether all is handled, and how to forget that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._store.entry_ids import order
from motia_redis._worker.entries import NOTHING_KNOWN, Known, StreamEntry
from motia_redis._worker.lanes import lane_name
from motia_redis._worker.subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from motia_redis._steps.application import Application
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

_DONE = b"done"


@dataclass(frozen=True, slots=True)
class StepLane:
    """Name one stream as one step consumes it, and the keys of what is known of it."""

    step: str
    stream: bytes
    entries: bytes  #: hash of what is known beyond the low-water mark
    dead: bytes  #: stream of the step's dead letters


@dataclass(frozen=True, slots=True)
class Handled:
    """Say which entries of a lane were handled at some moment."""

    mark: str  #: all entries up to this one
    beyond: frozenset[str]  #: and these


@dataclass(frozen=True, slots=True)
class Work:
    """Say what is left to do in a lane."""

    ready: int  #: entries that can be handled now
    waiting: int  #: entries that wait for their next attempt, or behind one that does
    due: int | None  #: when the first of them may be tried, Unix milliseconds


def lanes_of(application: Application, keyspace: Keyspace) -> list[StepLane]:
    """Return the lanes of all steps."""
    return [
        StepLane(step.name, stream, keyspace.entries(stream, step.name), keyspace.dead(stream, step.name))
        for step in application.worker_steps
        for stream in Subscription(step, keyspace).streams
    ]


class LaneView:
    """What Redis knows of one lane: its low-water mark, the fields beyond, and the entries after the mark."""

    def __init__(self, lane: StepLane, mark: str, fields: Mapping[bytes, bytes], entries: Sequence[Any]) -> None:
        self.lane = lane
        self.mark = mark
        self.known = {name.decode(): value for name, value in fields.items()}
        self._position = order(self.known.pop("position", mark.encode()).decode())
        self.entries = [StreamEntry(lane.stream, entry_id.decode(), content) for entry_id, content in entries]

    def is_finished(self, entry_id: str) -> bool:
        """Return whether an entry after the mark is finished."""
        value = self.known.get(entry_id)
        return order(entry_id) <= self._position if value is None else value == _DONE

    def handled(self) -> Handled:
        """Return what is finished."""
        return Handled(self.mark, frozenset(entry.id for entry in self.entries if self.is_finished(entry.id)))

    def work(self, now: int) -> Work:
        """Return what is left to do, at this time."""
        ready, waiting, due = 0, 0, None
        blocked = set()
        for entry in self.entries:
            if self.is_finished(entry.id):
                continue
            known = Known.decode(self.known[entry.id]) if entry.id in self.known else NOTHING_KNOWN
            if entry.order_key in blocked:
                waiting += 1
            elif known.due > now:
                waiting += 1
                blocked.add(entry.order_key)
                due = known.due if due is None else min(due, known.due)
            else:
                ready += 1
        return Work(ready, waiting, due)


async def read_lanes(router: Router, lanes: Sequence[StepLane]) -> list[LaneView]:
    """Return what Redis knows of the lanes. Cost: two round trips, and the entries that are not finished.

    If it says that all entries are finished, all were when the first round trip ended. What was finished then had written its
    changes and messages before, and the second round trip finds them.
    """
    groups = await router.gather([(lane.stream, ("XINFO GROUPS", lane.stream)) for lane in lanes])
    marks = [_mark(lane, reply) for lane, reply in zip(lanes, groups, strict=True)]
    known = await router.gather([(lane.entries, ("HGETALL", lane.entries)) for lane in lanes])
    commands = [(lane.stream, ("XRANGE", lane.stream, f"({mark}", "+")) for lane, mark in zip(lanes, marks, strict=True)]
    entries = await router.gather(commands)
    return [LaneView(*each) for each in zip(lanes, marks, known, entries, strict=True)]


async def handled_now(router: Router, lanes: Sequence[StepLane]) -> dict[StepLane, Handled]:
    """Return what is finished in the lanes."""
    return {view.lane: view.handled() for view in await read_lanes(router, lanes)}


async def forget_handled(router: Router, handled: Mapping[StepLane, Handled]) -> None:
    """Let only that be finished in the lanes that was at an earlier moment, and the dead letters. No worker may run.

    So it is after the end of a worker that has run handlers and has not recorded it.
    """
    views = await read_lanes(router, list(handled))
    letters: list[Any] = await router.gather([(view.lane.dead, ("XRANGE", view.lane.dead, "-", "+")) for view in views])
    commands: list[tuple[bytes, tuple[Any, ...]]] = []
    for view, dead in zip(views, letters, strict=True):
        lane, then = view.lane, handled[view.lane]
        fields = {entry_id: value for entry_id, value in view.known.items() if value != _DONE}
        fields |= dict.fromkeys([*then.beyond, *_origins(lane, dead, then.mark)], _DONE)
        commands += [(lane.stream, ("XGROUP SETID", lane.stream, lane.step, then.mark)), (lane.entries, ("DEL", lane.entries))]
        if fields:
            flat = [part for field in fields.items() for part in field]
            commands.append((lane.entries, ("HSET", lane.entries, *flat)))
    await router.gather(commands)


async def release_lanes(router: Router, keyspace: Keyspace, lanes: Iterable[StepLane]) -> None:
    """Take the lanes from workers that did not release them: the next one need not wait for the end of their leases."""
    commands: list[tuple[bytes, tuple[Any, ...]]] = []
    for lane in lanes:
        leases, name = keyspace.leases(lane.stream), lane_name(lane.step, lane.stream)
        commands += [(leases, ("HSET", leases, b"lane " + name, "")), (leases, ("HDEL", leases, b"tenure " + name))]
    await router.gather(commands)


def _origins(lane: StepLane, letters: Iterable[Any], mark: str) -> list[str]:
    """Return the ids of the entries of a lane, after the mark, that have become dead letters."""
    found = [fields[b"id"].decode() for _, fields in letters if fields[b"stream"] == lane.stream]
    return [entry_id for entry_id in found if order(entry_id) > order(mark)]


def _mark(lane: StepLane, groups: Any) -> str:
    """Return the low-water mark of a lane."""
    mark: str = next(group[b"last-delivered-id"].decode() for group in groups if group[b"name"] == lane.step.encode())
    return mark

"""The events of one partition in the order in which watches get them: lane by lane, the changes of a transaction together."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._store.cursors import Position

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from motia_redis._store.cursors import Positions

    Fields = Mapping[bytes, bytes]
    Entries = Sequence[tuple[bytes, Fields]]


_READ_BYTES = 1024 * 1024  # target size of a read
_GROWTH = 4  # largest factor from the entries of one read to those of the next


class Event:
    """One entry of a lane, or a value of a snapshot in the same form."""

    __slots__ = ("changes", "fields", "id", "index", "is_last", "key", "lane", "number", "scope", "size", "transaction")

    def __init__(self, lane: int, entry_id: bytes, number: int, fields: Fields) -> None:
        self.lane: int = lane
        self.id: bytes = entry_id
        self.number: int = number  #: of the entry in its lane, see cursors.py
        self.fields: Fields = fields
        #: None: the entry is no change, or another client wrote it, or it is the retry of a dead letter
        self.scope: bytes | None = None
        self.key: bytes = b""
        self.size: int = 0
        self.transaction: bytes | None = None
        self.index: int = 0  #: of the change in its transaction
        self.changes: int = 0  #: of the transaction
        self.is_last: bool = True  #: False: more changes of the transaction follow
        if fields.get(b"type", b"").startswith(b"state:") and b"key" in fields and b"only" not in fields:
            self.scope, self.key = fields.get(b"scope"), fields[b"key"]
            self.size = len(fields.get(b"new", b"")) + len(fields.get(b"old", b""))
            mark = fields.get(b"transaction")
            if mark is not None:
                self._join(mark)

    def _join(self, mark: bytes) -> None:
        try:
            name, _, index, changes = mark.split(b":")
            self.index, self.changes = int(index), int(changes)
        except ValueError:
            return
        if self.changes > 1:
            self.transaction = name


class _Step(NamedTuple):
    """What a batch keeps of an event."""

    lane: int
    position: Position
    is_last: bool
    transaction: bytes | None
    place: int  #: in its transaction


class Batch:
    """Where events that were read together stand. It keeps no values: an item of a watch refers to it for as long as it lives.

    Arguments:
        start: the positions before the events.
        is_history: one watch has read them for itself.
    """

    __slots__ = ("_after", "_count", "_start", "_steps", "is_history")

    def __init__(self, start: Positions, events: Sequence[Event], *, is_history: bool) -> None:
        self.is_history: bool = is_history
        self._start = start
        self._steps = [
            _Step(event.lane, Position(event.id, event.number), event.is_last, event.transaction, event.index) for event in events
        ]
        self._after = dict(start)  # positions after the first `_count` events
        self._count = 0

    def position(self, index: int) -> tuple[int, Position]:
        """Return the lane of an event, and its position there."""
        step = self._steps[index]
        return step.lane, step.position

    def positions(self, index: int) -> tuple[Positions, tuple[bytes, int] | None]:
        """Return the positions after an event of the batch. Inside of a transaction: those before it, and how far it has come.

        Cost: little for one event after the other, else the number of events before it.
        """
        step = self._steps[index]
        end = index + 1
        while end and not self._steps[end - 1].is_last:  # the transaction is not complete
            end -= 1
        if end < self._count:
            self._after, self._count = dict(self._start), 0
        for passed in self._steps[self._count : end]:
            self._after[passed.lane] = passed.position
        self._count = end
        mark = None if step.is_last or step.transaction is None else (step.transaction, step.place)
        return dict(self._after), mark


class ReadSize:
    """Calculate how many entries of each lane the next read takes, from the sizes of the last one."""

    def __init__(self, most: int) -> None:
        self.count = 1  #: one value may have the largest size
        self._most = most

    def record(self, found: Collection[Entries]) -> bool:
        """Record the entries of the lanes that a read has returned. Return whether there may be more."""
        is_full = any(len(entries) >= self.count for entries in found)
        if found:
            size = sum(len(value) for entries in found for _, fields in entries for value in fields.values())
            fitting = _READ_BYTES * sum(map(len, found)) // max(size, 1) // len(found)
            self.count = max(1, min(fitting, self.count * _GROWTH, self._most))
        return is_full


class Item(NamedTuple):
    """An event on its way to the readers of watches, which share it. Without an event it is the end of a snapshot."""

    event: Event | None
    partition: int = 0
    batch: Batch | None = None  #: None: a value of a snapshot, or a key that is gone
    at: int = 0  #: place of the event in the batch


def size_of(items: Iterable[Item]) -> int:
    """Return the bytes of the values of items."""
    return sum(item.event.size for item in items if item.event is not None)


class PartitionLog:
    """What was read of some lanes of a partition, and how far.

    A transaction's events are appended by one script, so its changes stand in all lanes in the same order relative to those of
    other transactions. A change of a transaction waits until the rest has been read, and holds up only what follows in its lane.

    Arguments:
        streams: the lanes.
        positions: after which to read them.
        joins: False: a change does not wait for the rest of its transaction.
        first: a transaction that comes next, because the reader has seen some of its changes; everything else waits for it.
        is_history: see `Batch`.
    """

    def __init__(
        self,
        streams: Mapping[int, bytes],
        positions: Positions,
        *,
        joins: bool = True,
        first: bytes | None = None,
        is_history: bool = False,
    ) -> None:
        self.streams = streams  #: by lane
        self.read = dict(positions)  #: of the last entries read
        self.done = dict(positions)  #: of the last events returned
        self._joins = joins
        self._first = first
        self._is_history = is_history
        self._waiting: dict[int, deque[Event]] = {}  # events behind a transaction that is not complete, by lane

    @property
    def first(self) -> bytes | None:
        """Return the transaction that comes next, until it has come."""
        return self._first

    @property
    def has_part(self) -> bool:
        """Return whether a transaction has been read in part."""
        return bool(self._waiting)

    def places(self) -> list[bytes]:
        """Return the ids after which to read, in the order of the streams."""
        return [self.read[lane].id for lane in self.streams]

    def recount(self, lane: int, end: Position) -> None:
        """Take over the number of the lane's last entry, if it has been read."""
        if self.read[lane].id == end.id:
            self.read[lane] = end
        if self.done[lane].id == end.id:
            self.done[lane] = end

    def take(self, reply: Mapping[bytes, Entries]) -> tuple[Batch, list[Event]] | None:
        """Add the entries of a read, and return the events that can be delivered, with their batch. None: there are none."""
        ready: list[Event] = []
        for lane, stream in self.streams.items():
            entries = reply.get(stream)
            if entries:
                self._add(lane, entries, ready)
        if self._waiting:
            self._complete(ready)
        if not ready:
            return None
        start = dict(self.done)
        for event in ready:
            self.done[event.lane] = Position(event.id, event.number)
        return Batch(start, ready, is_history=self._is_history), ready

    def _add(self, lane: int, entries: Entries, ready: list[Event]) -> None:
        entry_id, number = self.read[lane]
        waiting = self._waiting.get(lane)
        for entry_id, fields in entries:
            number += 1
            event = Event(lane, entry_id, number, fields)
            if waiting is None and self._joins and (event.transaction is not None or self._first is not None):
                waiting = self._waiting[lane] = deque()
            if waiting is None:
                ready.append(event)
            else:
                waiting.append(event)
        self.read[lane] = Position(entry_id, number)

    def _complete(self, ready: list[Event]) -> None:
        """Move to `ready` what waits for no transaction any more."""
        has_moved = True
        while has_moved:
            has_moved = False
            for events in self._heads().values():
                if len(events) >= events[0].changes and self._first in (None, events[0].transaction):
                    has_moved, self._first = True, None
                    for event in events:
                        self._waiting[event.lane].popleft()
                        event.is_last = False
                    events.sort(key=_index)
                    events[-1].is_last = True
                    ready += events
            if self._first is None:
                for waiting in self._waiting.values():
                    while waiting and waiting[0].transaction is None:
                        has_moved = True
                        ready.append(waiting.popleft())
        for lane in [lane for lane, waiting in self._waiting.items() if not waiting]:
            del self._waiting[lane]

    def _heads(self) -> dict[bytes, list[Event]]:
        """Return the changes at the heads of the lanes that wait, by transaction."""
        parts: dict[bytes, list[Event]] = {}
        for waiting in self._waiting.values():
            for event in waiting:
                if event.transaction is None or event.transaction != waiting[0].transaction:
                    break
                parts.setdefault(event.transaction, []).append(event)
        return parts


def _index(event: Event) -> Any:
    return event.index

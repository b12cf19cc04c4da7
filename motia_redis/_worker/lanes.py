"""Keep what this process knows of a lane: what it has read, what runs, what is finished and what Redis knows of that.

A lane is one stream as one step consumes it. A worker holds a lane by a tenure. Reading has no side effect: entries that were
read under a tenure that has ended are forgotten. What is finished is recorded in Redis, by the tenure only: a low-water mark, up
to which everything is finished, a position beyond it, and the unfinished entries between the two.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._scripts.delivery import LaneKeys, Progress
from motia_redis._store.entry_ids import before, is_id, order
from motia_redis._tracing import trace_id_of
from motia_redis._worker.entries import NOTHING_KNOWN, Known

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from motia_redis._scripts.delivery import Taken
    from motia_redis._steps.wants import Wants
    from motia_redis._store.effects import EventEffects
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._worker.entries import PreparedCall, StreamEntry
    from motia_redis._worker.subscriptions import Subscription

_log = logging.getLogger("motia_redis.worker")

_SUSPECTS = 256  # entries beyond the position that a holder that crashed may have been running: handlers begin in order
_FIRST_BATCH = (16, 64 * 1024)  # the most entries and about the bytes of a first read; each full read doubles it
_MOST_LEFT = 10_000  # entries that wait for another version of the step before the lane is read no further


def lane_name(group: str, stream: bytes) -> bytes:
    """Return the name of a lane: group and stream, separated by a line break, which neither can contain."""
    return group.encode() + b"\n" + stream


class Lease:
    """The lease of this worker in one partition."""

    def __init__(self, leases: bytes) -> None:
        self.leases = leases
        self._until = 0.0

    def is_valid(self) -> bool:
        """Return whether no other worker can have taken a lane, by the clock of this process, which runs on in a pause."""
        return time.monotonic() < self._until

    def renewed(self, asked: float, ttl: float) -> None:
        """Note that the lease was renewed by a request that was sent at `asked`."""
        self._until = asked + ttl


@dataclass(eq=False, slots=True)
class Delivery:
    """One entry on its way through this worker. `entry` is None while the entry is parked."""

    lane: Lane
    id: str
    entry: StreamEntry | None
    size: int
    attempts: int = 0  #: made so far, in any process
    due: int = 0  #: no attempt begins earlier: Unix milliseconds by the server's clock
    owner: str = ""  #: the worker that still runs the entry
    suspect: bool = False  #: its last holder died; the entry may be the cause
    unwanted: bool = False  #: the retry of a dead letter that no trigger of the step wants any more
    tenure: str = ""  #: of the lane when the entry was read
    handed: bool = False  #: the lane was given away while the handler runs: the outcome is recorded for this entry alone
    sequence: int = 0  #: its place in the order in which the lane was read
    trace: str = ""  #: in which all attempts made here run: that of the entry, or a new one
    error: BaseException | None = None  #: of an attempt, until it is decided what follows
    last_fault: str = ""  #: how the last attempt made here failed
    trigger: Any = None  #: one without a condition, which fits: no attempt has to match
    effects: EventEffects | None = None  #: of the attempts made here, if the step wants its effects once
    call: PreparedCall | None = None  #: for the first attempt, if conditions were asked when the entry was read

    def __str__(self) -> str:
        """Name the step and the event, for people."""
        facts = {} if self.entry is None else self.entry.facts
        return f"step {self.lane.subscription.group} ({' '.join(f'{name} {text}' for name, text in facts.items())})"

    @property
    def is_current(self) -> bool:
        """Return whether the lane is held by the tenure under which the entry was read."""
        return self.tenure == self.lane.tenure

    @property
    def is_ours(self) -> bool:
        """Return whether this worker decides about the entry: it holds the lane, or gave it away and kept the entry."""
        return self.handed or self.is_current

    @property
    def trace_id(self) -> str:
        """Return what logs and dead letters name: the id of the trace."""
        return trace_id_of(self.trace)

    def report_block(self, seconds: float) -> None:
        """Log that the handler let nothing else run on the event loop."""
        _log.warning(
            "step %s: the handler blocked the event loop for %.1f s at %s: no other handler and no heartbeat ran meanwhile; "
            "make it a def handler, which runs in a thread, or let it await",
            self.lane.subscription.group, seconds, self.id,
        )  # fmt: skip

    def uncount(self) -> None:
        """Stop counting the entry: it is finished, or left to the lane's next holder."""
        load = self.lane.subscription.load
        if self.entry is None:
            load.remove_parked()
        else:
            load.remove(self.size)

    def park(self) -> None:
        """Drop the fields of an entry that has to wait for long, so that other entries can be read."""
        if self.entry is not None:
            self.entry = self.call = None
            self.lane.subscription.load.park(self.size)

    def unpark(self, entry: StreamEntry) -> None:
        """Take the fields again."""
        self.entry = entry
        self.lane.subscription.load.unpark(self.size)


class Lane:
    """One lane of a step of this process, held or not."""

    def __init__(self, keys: LaneKeys, subscription: Subscription, lease: Lease) -> None:
        self.keys = keys
        self.stream = keys.stream
        self.subscription = subscription
        self.retries = subscription.retries(keys.stream)  #: how attempts are made at its entries
        self.lease = lease  #: of this worker in the lane's partition
        self.identity = ""  #: of the step
        self.taken_at = 0  #: by the server's clock: nobody else has handled what was written later, Unix milliseconds
        self.tenure = ""  #: empty while this worker does not hold the lane
        self.releasing = False  #: the next progress releases the lane
        self.others: Sequence[Wants] = ()  #: what other live versions of the step want
        self.position = "0-0"  #: everything up to here was handed on
        self.read_to = "0-0"  #: everything up to here was read: the same, or further while entries wait to be handed on
        self.backlog: deque[str] = deque()  #: unfinished entries up to the position that are to be read first
        self.batch = 1  #: entries to ask for in the next read
        self.entry_bytes = 0  #: mean size of an entry
        self.running: dict[str, Delivery] = {}  #: entries whose handler runs in this process, read under any tenure
        self.left: dict[str, None] = {}  #: entries that only another version of the step wants
        self._unfinished: dict[str, Delivery | None] = {}  #: ids up to the position, ascending
        self._unrecorded: dict[str, int] = {}  #: those of which Redis does not know, ascending, with their sequence numbers
        self._recorded: set[str] = set()  #: ids with a field in Redis
        self._removable: list[str | bytes] = []  #: of these, finished ones
        self._ahead: dict[str, bytes] = {}  #: fields of entries beyond the position
        self._suspects = 0
        # Entries are read in the order of their ids, so sequence numbers compare like ids, and cost less. What the last holder
        # had recorded has number 0.
        self._sequence = 0  #: of the last entry read
        self._finished = self._reported = 0  #: of the last entry finished, and of the position recorded
        self._finished_id = self._reported_id = ""
        self._dirty = False
        self._effects: list[EventEffects] = []  #: of entries finished since the last progress
        self._recorded_effects: list[EventEffects] = []  #: of those that the last progress recorded as finished
        self._rewrite: dict[str, None] = {}  #: fields of which Redis may not know, because a progress failed
        self._tell_position = False  #: record how far the lane was read, although nothing is finished
        self._progresses = self._progresses_seen = 0
        self.settling = 0  #: calls on their way, or about to be sent, that record something of one entry
        self.reported = asyncio.Event()  #: no progress is on its way
        self.reported.set()

    # -- tenures ------------------------------------------------------------------------------------------------------

    def take(self, tenure: str, taken: Taken) -> None:
        """Begin a tenure with what Redis knows. Fields that no worker writes are removed."""
        fields = dict(taken.known)
        self.tenure, self.releasing = tenure, False
        position = fields.pop("position", b"").decode(errors="replace")
        self.position = self.read_to = position if is_id(position) else taken.mark
        foreign = [name for name in fields if not is_id(name)]
        for name in foreign:
            _log.warning("step %s: removing field %r of %r: no worker writes it", self.keys.group, name, self.keys.entries)
            del fields[name]
        end = order(self.position)
        ids = sorted(fields, key=order)
        done = [entry_id for entry_id in ids if fields[entry_id] == b"done"]
        passed = [entry_id for entry_id in ids if order(entry_id) <= end and fields[entry_id] != b"done"]
        self.backlog = deque(passed)
        self._unfinished = dict.fromkeys(passed)
        self._recorded = set(ids)
        self._removable = [name.encode(errors="surrogateescape") for name in foreign]
        self._removable += [entry_id for entry_id in done if order(entry_id) <= end]
        self._ahead = fields
        self._unrecorded, self.left = {}, {}
        self._sequence = self._finished = self._reported = 0
        self._finished_id = self._reported_id = self.position
        self._rewrite = {}
        self._dirty = True
        self._suspects = _SUSPECTS if taken.holder_crashed else 0
        self.identity, self.taken_at = taken.identity, taken.taken_at
        self.entry_bytes = taken.entry_bytes
        self.restart_batch()

    def end(self) -> None:
        """End the tenure: what was read under it is forgotten; what runs goes on."""
        self.tenure, self.releasing = "", False
        self._unfinished, self._unrecorded, self.left = {}, {}, {}
        self.backlog.clear()
        self._rewrite = {}
        self._effects = []
        self._dirty = False

    def restart_batch(self) -> None:
        """Begin with a small read again: what comes next may be larger."""
        most, size = _FIRST_BATCH
        self.batch = max(1, min(most, size // max(1, self.entry_bytes)))

    @property
    def is_readable(self) -> bool:
        """Return whether the lane may be read."""
        is_held = bool(self.tenure) and not self.releasing
        return is_held and not self.subscription.is_paused and len(self.left) < _MOST_LEFT

    def look_again(self) -> None:
        """Read again what only another version wanted: there may be none any more."""
        if self.left:
            self.backlog.extend(self.left)
            self.left = {}

    # -- entries ------------------------------------------------------------------------------------------------------

    def known(self, entry_id: str) -> Known | None:
        """Return what Redis knows of an entry to be handed out; None = it is finished already."""
        value = self._ahead.pop(entry_id, None) if self._ahead else None
        if value is None:
            return NOTHING_KNOWN
        return None if value == b"done" else Known.decode(value)

    def is_suspect(self, entry_id: str, *, listed: bool) -> bool:
        """Return whether the entry may have ended the process of the lane's last holder. `listed`: Redis has a field for it."""
        if not self._suspects or order(entry_id)[0] > self.taken_at:
            return False
        self._suspects -= not listed
        return True

    def add(self, entry_id: str, delivery: Delivery | None) -> None:
        """Count an entry as unfinished. Entries must come in ascending order."""
        sequence = 0  # of the backlog
        if entry_id not in self._unfinished:
            sequence = self._sequence = self._sequence + 1
            if entry_id not in self._recorded:
                self._unrecorded[entry_id] = sequence
        if delivery is not None:
            delivery.sequence = sequence
        self._unfinished[entry_id] = delivery

    def finish(self, entry_id: str) -> bool:
        """Count an entry as finished: handled, or a dead letter. Return whether this is the first since the last progress."""
        delivery = self._unfinished.pop(entry_id, None)
        self._unrecorded.pop(entry_id, None)
        if entry_id in self._recorded:
            self._removable.append(entry_id)
        if delivery is not None and delivery.sequence > self._finished:
            self._finished, self._finished_id = delivery.sequence, entry_id
        if delivery is not None and delivery.effects is not None:
            self._effects.append(delivery.effects)
        was_dirty, self._dirty = self._dirty, True
        return not was_dirty

    def pass_by(self, entry_id: str) -> None:
        """Count an entry as finished when it is read: it is unwanted, trimmed, or was finished by the last holder."""
        if entry_id in self._unfinished:
            del self._unfinished[entry_id]
            self._unrecorded.pop(entry_id, None)
        else:
            self._sequence += 1
            self._finished, self._finished_id = self._sequence, entry_id
        if entry_id in self._recorded:
            self._removable.append(entry_id)
        self._dirty = True

    def note_recorded(self, entry_id: str) -> None:
        """Note that Redis has a field for an entry."""
        self._recorded.add(entry_id)
        self._rewrite.pop(entry_id, None)
        self._unrecorded.pop(entry_id, None)

    def tell_position(self) -> bool:
        """Have the position recorded if nothing was since the last call, so that `status` and a next holder know what runs."""
        is_slow = self._progresses == self._progresses_seen and self._sequence > self._reported
        self._progresses_seen = self._progresses
        if self.tenure and is_slow and self._unfinished:
            self._tell_position = self._dirty = True
        return self._dirty

    # -- progress -----------------------------------------------------------------------------------------------------

    @property
    def has_progress(self) -> bool:
        """Return whether there is something to record, and nothing in the way."""
        return bool(self.tenure) and (self._dirty or self.releasing) and not self.settling and self.reported.is_set()

    def begin_progress(self, worker: str) -> Progress:
        """Return what is to be recorded now. `end_progress` must follow."""
        self.reported.clear()
        first = next(iter(self._unfinished), None)
        if first is None or self._tell_position:
            place, position = self._sequence, self.position
        elif self._finished > self._reported:
            place, position = self._finished, self._finished_id
        else:
            place, position = self._reported, self._reported_id
        if self.releasing:  # the next holder must not run what still runs here
            for entry_id, delivery in self.running.items():
                if entry_id in self._unfinished:
                    delivery.handed = True
                    self._rewrite[entry_id] = None
                    if delivery.sequence > place:
                        place, position = delivery.sequence, entry_id
        for entry_id, sequence in self._unrecorded.items():
            if sequence > place:
                break
            self._rewrite[entry_id] = None
        written = [(entry_id, self._value(entry_id, worker)) for entry_id in self._rewrite if entry_id in self._unfinished]
        for entry_id, _ in written:
            self.note_recorded(entry_id)
        self._rewrite = {}
        removed, self._removable = self._removable, []
        is_open = first is not None and order(first) <= order(position)
        mark = before(first) if first is not None and is_open else position
        self._reported, self._reported_id = place, position
        self._dirty = self._tell_position = False
        self._progresses += 1
        self._recorded_effects, self._effects = self._effects, []
        return Progress(self.keys, self.tenure, self.releasing, mark, position if is_open else "", written, removed)

    def end_progress(self, progress: Progress, *, done: bool) -> None:
        """Note that a progress was recorded, or that it may not have been."""
        self.reported.set()
        if not done and self.tenure == progress.tenure:
            self._rewrite.update((entry_id, None) for entry_id, _ in progress.written if entry_id in self._unfinished)
            self._removable += progress.removed
            self._effects += self._recorded_effects
            self._dirty = True

    def take_recorded_effects(self) -> list[EventEffects]:
        """Return the effects of the entries whose end the last progress has recorded, once."""
        found, self._recorded_effects = self._recorded_effects, []
        return found

    def _value(self, entry_id: str, worker: str) -> str:
        delivery = self.running.get(entry_id) or self._unfinished[entry_id]
        if delivery is None:
            return Known().encode()
        is_running = self.releasing and entry_id in self.running
        return Known(delivery.attempts, delivery.due, worker if is_running else delivery.owner).encode()


def lane_keys(subscription: Subscription, stream: bytes, keyspace: Keyspace) -> LaneKeys:
    """Return the keys of one lane of a subscription."""
    group = subscription.group
    return LaneKeys(keyspace.leases(stream), stream, keyspace.entries(stream, group), lane_name(group, stream), group)


def new_lanes(subscriptions: Iterable[Subscription], keyspace: Keyspace) -> list[tuple[Lease, dict[bytes, Lane]]]:
    """Return the lanes of subscriptions by name, for each partition, which has a lease."""
    found: dict[bytes, tuple[Lease, dict[bytes, Lane]]] = {}
    for subscription in subscriptions:
        for stream in subscription.streams:
            keys = lane_keys(subscription, stream, keyspace)
            lease, lanes = found.setdefault(keys.leases, (Lease(keys.leases), {}))
            lanes[keys.name] = Lane(keys, subscription, lease)
    return list(found.values())


def topic_streams(subscriptions: Iterable[Subscription], keyspace: Keyspace) -> set[bytes]:
    """Return the streams of the topics that subscriptions want."""
    return {stream for each in subscriptions for topic in each.wants.topics for stream in keyspace.topic_streams(topic)}

"""Check that recorded calls are linearizable, key by key.

The events of a key give an order of its changes. The history of the key is linearizable in that order if:

- each acknowledged change has exactly one event,
- each event belongs to a call,
- each event starts from the value that the event before it left,
- each event changes the counter as its call says: a set writes what it was given, an update and a read-modify-write add 1,
- a change that required a revision changed the value of this revision; one that was rejected found another revision,
- each value was returned by one delete at most,
- each value has the time to live that its call gave it; an update without one keeps the time,
- an expiry belongs to no call, and takes effect at the time of its value or later; no other change takes effect then,
- a read may miss a value whose time has come, and shows it no longer,
- the changes of a transaction have events of one request, or none has an event,
- the events of a transaction have all numbers below their count once; other events have none,
- the changes of a transaction have the revisions that it returned,
- what a transaction checked alone held when its changes were made,
- each call can have taken effect at one moment between its start and its end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from tests.history.calls import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.history.calls import Call, Value


_EARLY = 3  # milliseconds by which the time that a script reads, the id of its event and a client may differ
_LATE = 100  # milliseconds for which a value may be shown after its time
_HELD_UP = 20  # milliseconds for which a server can be held up between reading the time and writing the event


class Violation(AssertionError):
    """The history is not linearizable."""


class Part(NamedTuple):
    """The place of an event in its transaction."""

    id: str
    size: int  #: how many events the transaction has
    index: int  #: of this event among them, from 0


@dataclass(frozen=True, slots=True)
class Event:
    """A change as its event describes it. None: the key had no value."""

    revision: str
    request: str | None
    old: Value | None
    new: Value | None
    expires: int | None = None  #: when the new value expires, in Unix milliseconds
    is_expiry: bool = False
    part: Part | None = None  #: None: no transaction made the change

    @property
    def time(self) -> int:
        """When the server made the change, in Unix milliseconds."""
        return _order(self.revision)[0]


@dataclass(slots=True)
class _Change:
    """The time between which an event took effect."""

    start: float
    end: float


def check(
    calls: Iterable[Call], events: dict[str, list[Event]], stored: dict[str, tuple[Value | None, str | None]], *, clock: int = 0
) -> int:
    """Raise Violation for the first contradiction; return the number of calls.

    `events` holds the events of each key in order. `stored` holds the stored value and revision of each key. `clock` is the Unix
    time in nanoseconds when the clock of the calls was 0.
    """
    requests = Counter((key, event.request) for key, found in events.items() for event in found if event.request is not None)
    _require(not requests or max(requests.values()) == 1, "a request has more than one event of a key")
    _check_parts(event for found in events.values() for event in found)
    recorded = list(calls)
    by_key: dict[str, list[Call]] = {}
    for call in _check_transactions(recorded, events):
        by_key.setdefault(call.key, []).append(call)
    for key in by_key.keys() | events.keys():
        try:
            _check_key(by_key.get(key, []), events.get(key, []), stored.get(key, (None, None)), clock)
        except Violation as violation:
            raise Violation(f"{key}: {violation}") from None
    return len(recorded)


def _check_parts(events: Iterable[Event]) -> None:
    """Require that each transaction has all of its events once, and that its id is their request."""
    transactions: dict[str, list[Part]] = {}
    for event in events:
        if event.part is not None:
            _require(event.part.id == event.request, f"event {event.revision} of request {event.request} has {event.part}")
            transactions.setdefault(event.part.id, []).append(event.part)
    for name, parts in transactions.items():
        numbers = sorted((part.index, part.size) for part in parts)
        _require(
            numbers == [(index, len(parts)) for index in range(len(parts))],
            f"the events of transaction {name} have the numbers and sizes {numbers}",
        )


def _check_transactions(calls: Iterable[Call], events: dict[str, list[Event]]) -> list[Call]:
    """Require that all changes of a transaction have events of one request, or none, and that its checks held then.

    Return the calls, with what this says about deletes whose outcome is unknown: their revision, or that they deleted nothing.
    """
    known: list[Call] = []
    transactions: dict[str, list[Call]] = {}
    for call in calls:
        if call.together and call.outcome != "rejected":
            transactions.setdefault(call.together, []).append(call)
        else:
            known.append(call)
    written_by = {event.new.token: event for found in events.values() for event in found if event.new}
    made_by = {(key, event.revision): event for key, found in events.items() for event in found}
    of_request = {(key, event.request): event for key, found in events.items() for event in found if event.request is not None}
    requests: Counter[str | None] = Counter()
    for name, together in transactions.items():
        found = [written_by.get(call.token) for call in together if call.kind in ("set", "update")]
        found += [made_by.get((call.key, call.made)) for call in together if call.kind == "delete" and call.made is not None]
        of = {event and event.request for event in found}
        _require(len(of) <= 1, f"the changes of transaction {name} have events of the requests {sorted(map(str, of))}")
        first = found[0] if found else None
        for call in together:
            if call.kind == "check" and first is not None:
                _check_held(call, events.get(call.key, []), first)
            if call.kind == "delete" and call.outcome == "unknown" and found:
                # The changes beside it tell whether it was made.
                deletion = first and of_request.get((call.key, first.request))
                known += [replace(call, made=deletion.revision)] if deletion else []
            else:
                known.append(call)
        if first is not None:
            requests[first.request] += 1
    _require(not requests or max(requests.values()) == 1, "two transactions have the same request")
    return known


def _check_held(check: Call, events: Sequence[Event], change: Event) -> None:
    """Require that a key had the revision that was checked when another key was changed in the same transaction."""
    time, before = change.time, None
    for after in (*events, None):
        begins, ends = before.time if before else -math.inf, after.time if after else math.inf
        if begins - _EARLY <= time <= ends + _EARLY:
            expires = before.expires if before and before.expires is not None else math.inf
            has_value = before is not None and before.new is not None
            if check.expected is None and (not has_value or expires <= time + _EARLY):
                return
            if before is not None and has_value and check.expected == before.revision and time <= expires + _HELD_UP:
                return
        before = after
    raise Violation(
        f"transaction {check.together} checked the revision {check.expected} of {check.key}, and made the change "
        f"{change.revision} when the key had another revision"
    )


def _require(holds: bool, violation: str) -> None:
    if not holds:
        raise Violation(violation)


def _check_key(calls: list[Call], events: list[Event], stored: tuple[Value | None, str | None], clock: int) -> None:
    _check_chain(events, stored)
    _check_times(events)
    changes = _match(calls, events, clock)
    _check_changes(changes)
    _check_reads(calls, events, changes, clock)


def _check_chain(events: Sequence[Event], stored: tuple[Value | None, str | None]) -> None:
    """Require that each event starts from the value before it, and that the last event left the stored value."""
    last, revision = None, "0-0"
    for event in events:
        _require(event.old == last, f"event {event.revision} has the old value {event.old}, the value was {last}")
        _require(_order(event.revision) > _order(revision), f"revision {event.revision} follows {revision}")
        last, revision = event.new, event.revision
    _require(stored[0] == last, f"{stored[0]} is stored, the last event wrote {last}")
    _require(
        stored[1] == (revision if last is not None else None), f"revision {stored[1]} is stored, the last event is {revision}"
    )


def _check_times(events: Sequence[Event]) -> None:
    """Require that values end by expiries from their time on, and by nothing else after it."""
    time: int | None = None  # when the value expires that the next event changes
    for event in events:
        if event.is_expiry:
            _require(
                time is not None and event.time >= time - _EARLY, f"event {event.revision} is an expiry before its time {time}"
            )
            _require(
                event.new is None and event.request is None and event.part is None,
                f"the expiry {event.revision} has a request or a new value",
            )
        elif time is not None:
            _require(event.time <= time + _HELD_UP, f"event {event.revision} changes {event.old}, which expired at {time}")
        time = event.expires


def _order(revision: str) -> tuple[int, int]:
    milliseconds, _, sequence = revision.partition("-")
    return int(milliseconds), int(sequence)


def _match(calls: list[Call], events: Sequence[Event], clock: int) -> list[_Change]:
    """Find the call of each event, and check what it did. Require one event for each acknowledged change."""
    writers = {call.token: call for call in calls if call.kind in ("set", "modify", "update")}
    deleters: dict[Value, Call] = {}
    deleters_together = {call.made: call for call in calls if call.kind == "delete" and call.made is not None}
    for call in calls:
        _check_condition(call)
        if call.kind == "delete" and call.outcome == "ok" and call.seen is not None:
            _require(call.seen not in deleters, f"two deletes returned {call.seen}")
            deleters[call.seen] = call
    found: list[Call | None] = []
    seen: set[str] = set()
    for event in events:
        if event.is_expiry:
            found.append(None)
            continue
        if event.new:
            match = writers.get(event.new.token)
        else:
            match = deleters_together.get(event.revision) or (deleters.get(event.old) if event.old else None)
        found.append(match)
        if match is not None:
            _require(_name(match) not in seen, f"{_name(match)} is applied twice")
            seen.add(_name(match))
        elif event.new is not None:
            raise Violation(f"event {event.revision} ({event.old} -> {event.new}) belongs to no call")
    before: Event | None = None  # the event of the value that the next one changes
    for event, match in zip(events, found, strict=True):
        if match is not None:
            _check_effect(match, event, before and before.revision)
            _check_ttl(match, event, before and before.expires, clock)
        before = event if event.new is not None else None
    for call in [*writers.values(), *deleters.values(), *deleters_together.values()]:
        _require(call.outcome != "ok" or _name(call) in seen, f"{_name(call)} was acknowledged, and has no event")
    return _match_undecided(calls, events, found, clock)


def _name(call: Call) -> str:
    return f"the delete of {call.seen}" if call.kind == "delete" and not call.together else f"{call.kind} {call.token}"


def _found_nothing(call: Call) -> bool:
    """Return whether a delete says that there was no value."""
    return call.kind == "delete" and call.outcome == "ok" and call.seen is None and call.made is None


def _check_condition(call: Call) -> None:
    """Require that a call was rejected only if it required a revision and found another, and that it was not if it must be."""
    if call.outcome == "rejected":
        _require(call.expected != ANY, f"{call.kind} {call.token} was rejected, and required no revision")
        _require(
            call.revision != call.expected, f"{call.kind} {call.token} was rejected, and found the revision that it required"
        )
    elif _found_nothing(call):
        _require(call.expected in (ANY, None), f"delete {call.token} found no value, and required the revision {call.expected}")


def _check_effect(call: Call, event: Event, before: str | None) -> None:
    """Require that an event does what its call says. `before` is the revision of the value that it changed."""
    name = _name(call)
    _require(call.outcome != "rejected", f"{name} was rejected, and has an event")
    _require(
        bool(call.together) == (event.part is not None),
        f"{name} was {'' if call.together else 'not '}made in a transaction, and its event has {event.part}",
    )
    if call.together:
        returned = (event.revision,) if call.outcome == "ok" else (event.revision, None)
        _require(call.made in returned, f"{name} returned the revision {call.made}, its event is {event.revision}")
    _require(call.expected in (ANY, before), f"{name} required the revision {call.expected}, and changed the value of {before}")
    if event.new is None:
        return
    if call.count is not None:
        _require(event.new.count == call.count, f"{name} says the counter {call.count}, its event {event.new.count}")
    if call.kind in ("modify", "update"):
        last = event.old.count if event.old else 0
        _require(event.new.count == last + 1, f"{name} incremented the counter from {last} to {event.new.count}")


def _check_ttl(call: Call, event: Event, kept: int | None, clock: int) -> None:
    """Require that the value of an event expires as its call says. `kept` is when the value before it would have expired."""
    if call.ttl is None:
        kept = kept if call.kind == "update" else None
        _require(event.expires == kept, f"{_name(call)} gave no time to live; its value expires at {event.expires}, not {kept}")
        return
    first = (call.start + clock) / 1e6 + call.ttl * 1000 - _EARLY
    last = (call.end + clock) / 1e6 + call.ttl * 1000 + _EARLY if call.outcome == "ok" else math.inf
    _require(
        event.expires is not None and first <= event.expires <= last,
        f"{_name(call)} gave {call.ttl} s to live; its value expires at {event.expires}, not between {first} and {last}",
    )


def _match_undecided(calls: list[Call], events: Sequence[Event], found: Sequence[Call | None], clock: int) -> list[_Change]:
    """Give each event without a call an undecided delete that may have caused it; return all changes.

    An undecided delete says nothing about the value that it found. One that required a revision fits one event only, so it is
    preferred. It must have begun before the end of every later change.
    """
    undecided = sorted(
        (call for call in calls if call.kind == "delete" and call.outcome == "unknown" and call.made is None),
        key=lambda call: call.start,
    )
    latest = [math.inf] * (len(events) + 1)
    for index in range(len(events) - 1, -1, -1):
        call = found[index]
        latest[index] = min(latest[index + 1], call.end if call is not None and call.outcome == "ok" else math.inf)
    changes = []
    for index, event in enumerate(events):
        call = found[index]
        if event.is_expiry:
            changes.append(_Change(_early(events[index - 1], clock), math.inf))
            continue
        if call is None:
            before = events[index - 1].revision if index and event.old is not None else None
            fitting = [call for call in undecided if call.expected in (ANY, before) and call.start <= latest[index + 1]]
            fitting = [call for call in fitting if bool(call.together) == (event.part is not None)]
            _require(bool(fitting), f"event {event.revision} ({event.old} -> {event.new}) belongs to no call")
            call = min(fitting, key=lambda call: call.expected == ANY)  # of equals, the one that began first
            undecided.remove(call)
        changes.append(_Change(call.start, call.end if call.outcome == "ok" else math.inf))
    return changes


def _early(event: Event, clock: int) -> float:
    """Return when the value of an event expires at the earliest, by the clock of the calls; infinity: never."""
    return math.inf if event.expires is None else (event.expires - _EARLY) * 1e6 - clock


def _check_changes(changes: Sequence[_Change]) -> None:
    """Require that no change is ordered after a change that began later than it ended."""
    earliest = math.inf
    for index in range(len(changes) - 1, -1, -1):
        _require(earliest >= changes[index].start, f"change {index} began after the end of a later one")
        earliest = min(earliest, changes[index].end)


def _check_reads(calls: Iterable[Call], events: Sequence[Event], changes: Sequence[_Change], clock: int) -> None:
    """Require a position for each read: after all changes that ended before it began, before all that began after it ended.

    Position p is the state after p events. A key without a value can be at several positions: also at that of a value whose
    time has come. The lowest possible position of a read leaves the most positions to the reads after it.
    """
    by_token = {event.new: [index + 1] for index, event in enumerate(events) if event.new is not None}
    by_revision = {event.revision: [index + 1] for index, event in enumerate(events)}
    ends = [-math.inf] + [-math.inf if event.new is None else _early(event, clock) for event in events]  # from then on: no value
    # The highest position whose change ended before a time, and the lowest whose change began after a time.
    over = _Highest((change.end, index + 1) for index, change in enumerate(changes))
    begun = _Highest((-change.start, -index) for index, change in enumerate(changes))
    reads = [call for call in calls if call.kind in ("get", "entry") or call.outcome == "rejected" or _found_nothing(call)]
    reads += [replace(call, revision=call.expected) for call in calls if call.kind == "check" and call.outcome == "ok"]
    done: list[tuple[int, int]] = []  # end and position of the reads that have a position
    for read in sorted(reads, key=lambda read: read.start):
        subject = f"{read.kind} at {read.start} (saw {read.seen or read.revision})"
        low = max([over.at(read.start, 0), *(position for end, position in done if end < read.start)])
        high = -begun.at(-read.end, -len(changes))
        if read.outcome == "rejected" or read.kind in ("entry", "check"):
            places = by_revision.get(read.revision, []) if read.revision is not None else None
        else:
            places = by_token.get(read.seen, []) if read.seen is not None else None
        _require(places != [], f"{subject} saw a value that no change wrote")
        if places is None:
            fitting = next((place for place in range(low, high + 1) if ends[place] <= read.end), None)
        else:
            fitting = places[0] if low <= places[0] <= high else None
        if fitting is None:
            raise Violation(f"{subject} is at position {places and places[0]}, and must be between {low} and {high}")
        if places is not None:
            late = (read.start - ends[fitting]) / 1e6 - _EARLY
            _require(late <= _LATE, f"{subject} shows a value {late:.0f} ms after its time")
        if read.kind == "entry" and read.seen is not None:
            _require(events[fitting - 1].new == read.seen, f"{subject} has the revision of another value")
        # Reads that ended before this one began also ended before all later ones began: one entry stands for them.
        done = [(end, position) for end, position in done if end >= read.start] + [(0, low), (read.end, fitting)]


class _Highest:
    """The highest of the values with a time before a given one."""

    def __init__(self, pairs: Iterable[tuple[float, int]]) -> None:
        self._times: list[float] = []
        self._values: list[int] = []
        for time, value in sorted(pairs):
            self._times.append(time)
            self._values.append(max(value, self._values[-1]) if self._values else value)

    def at(self, time: float, default: int) -> int:
        index = bisect_right(self._times, math.nextafter(time, -math.inf))
        return self._values[index - 1] if index else default

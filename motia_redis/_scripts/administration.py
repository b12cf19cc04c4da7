"""The scripts of operators: one typed function per Lua entry point. The header of each Lua file is its contract.

Functions that take a sequence run the script once per item, each atomically, and return the replies in order. Items for one node
run in one round trip.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Router

_IMPORT_VALUES: Final = loader.load("import_values")
_COUNT_ENTRIES: Final = loader.load("count_entries")
_GROUP_ENTRIES: Final = loader.load("group_entries")
_INSPECT_LANE: Final = loader.load("inspect_lane")
_FORGET_STEP: Final = loader.load("forget_step")
_RENAME_STEP: Final = loader.load("rename_step")
_PAUSE_STEP: Final = loader.load("pause_step")
_SEEK_STEP: Final = loader.load("seek_step")
_RETRY_DEAD_LETTER: Final = loader.load("retry_dead_letter")
_DROP_DEAD_LETTERS: Final = loader.load("drop_dead_letters")

_GROUPS = 32  # of one lane that one call inspects: it reads the groups of the stream once for all of them

#: What `retry_dead_letter` did. All but "retried" changed nothing.
RetryOutcome = Literal["retried", "gone", "empty", "no group"]
_OUTCOMES: dict[bytes, RetryOutcome] = {b"retried": "retried", b"gone": "gone", b"empty": "empty", b"no group": "no group"}


#: What `pause_step` does.
PauseMode = Literal["pause", "resume"]


class ImportOptions(NamedTuple):
    """The options of `import_values`."""

    policy: Literal["keep", "overwrite", "copy", "delete"]  #: what becomes of another value that is there
    is_trial: bool  #: nothing is written
    fires: bool  #: the events fire triggers
    most_bytes: int  #: of old and new values together
    attempt_token: bytes
    record_milliseconds: int  #: for which a first attempt is remembered
    limits: bytes  #: how to trim a stream of events

    def encode(self) -> bytes:
        """Return them as one argument."""
        trial, fires = b"try" if self.is_trial else b"", b"fire" if self.fires else b""
        rest = self.most_bytes, self.attempt_token, self.record_milliseconds, self.limits
        return b"%b\n%b\n%b\n%d\n%b\n%d\n%b" % (self.policy.encode(), trial, fires, *rest)


class ImportedBatch(NamedTuple):
    """The reply of `import_values`."""

    letters: str  #: what became of each item; fewer than items: call again with the others
    errors: dict[int, str]  #: by the index of the item
    dropped: int  #: unhandled events that the hard cap dropped
    created_scope: bool  #: a scope held no value before


class Position(NamedTuple):
    """Where to count in a stream: after entry `after`, up to entry `last`."""

    stream: bytes
    after: bytes
    last: bytes = b"+"


class Count(NamedTuple):
    """The reply of `count_entries`."""

    entries: int
    last: bytes  #: id of the last entry counted; empty = the count has reached its end


class EntryGroup(NamedTuple):
    """Entries of a stream that have the same contents in some fields."""

    entries: int
    newest: bytes  #: id of the newest one
    contents: tuple[str, ...]  #: of each field; "" = it has no such field


class GroupedEntries(NamedTuple):
    """The reply of `group_entries`."""

    length: int  #: entries of the stream
    seen: int  #: newest entries that were looked at
    oldest: bytes  #: id of the oldest of these; empty = none
    groups: list[EntryGroup]  #: the largest first


class LanePlace(NamedTuple):
    """A lane to inspect."""

    stream: bytes
    entries: bytes  #: hash of what is known of the entries beyond the low-water mark
    group: str


class FailingEntry(NamedTuple):
    """An entry of a lane whose attempts have failed."""

    id: bytes
    attempts: int
    due: int  #: when the next attempt may begin, Unix milliseconds
    names: dict[bytes, bytes]  #: fields that name what it is about: `type`, `scope`, `key`, `topic`, `schedule`


class LanePosition(NamedTuple):
    """The reply of `inspect_lane`."""

    unfinished: int  #: entries that were handed out and are not finished
    oldest: bytes  #: id of the oldest entry not finished; empty = none
    waiting: int  #: entries not handed out yet; -1 = unknown: count them after `position`
    position: bytes
    failing: int  #: entries with so many attempts as were asked for
    worst: list[FailingEntry]  #: up to three of these, those with the most attempts


class StepKeys(NamedTuple):
    """What a step may have in one partition."""

    leases: bytes
    topics: bytes  #: set of the partition's topics
    dead: bytes
    due: bytes
    schedules: bytes
    streams: Sequence[bytes]
    entries: Sequence[bytes]  #: for each stream, the hash of what the step knows of its entries


class ForgottenCounts(NamedTuple):
    """The reply of `forget_step`."""

    groups: int  #: consumer groups removed
    dead_letters: int  #: dead letters that the step had


class Letter(NamedTuple):
    """A dead letter that is to be retried."""

    dead: bytes  #: key of the stream of the step's dead letters
    stream: bytes  #: key of the stream that the event came from, by its name today
    step: str
    id: str
    origin: bytes  #: name that the stream had then


async def import_values(
    router: Router, calls: Sequence[tuple[Sequence[bytes], ImportOptions, Sequence[bytes]]]
) -> list[ImportedBatch]:
    """Store values as they are. Each call has its keys, its options, and its items."""
    replies = await _IMPORT_VALUES.call_many(router, [(keys, (options.encode(), *items)) for keys, options, items in calls])
    return [_imported(*reply) for reply in replies]


def _imported(letters: bytes, errors: bytes, dropped: int = 0, created_scope: int = 0) -> ImportedBatch:
    lines = (line.partition(" ") for line in errors.decode(errors="replace").split("\n") if line)
    return ImportedBatch(letters.decode(), {int(index): text for index, _, text in lines}, dropped, created_scope == 1)


async def count_entries(router: Router, positions: Sequence[Position], *, limit: int) -> list[Count]:
    """Count entries at each position, at most `limit`."""
    calls = [((stream,), (after, str(limit), last)) for stream, after, last in positions]
    return [Count(*reply) for reply in await _COUNT_ENTRIES.call_many(router, calls)]


async def group_entries(
    router: Router, streams: Sequence[bytes], *, fields: Sequence[str], most: int, max_bytes: int, groups: int
) -> list[GroupedEntries]:
    """Group the newest entries of each stream by the contents of fields: at most `most` entries and about `max_bytes`."""
    calls = [((stream,), (str(most), str(max_bytes), str(groups), *fields)) for stream in streams]
    return [_grouped(*reply) for reply in await _GROUP_ENTRIES.call_many(router, calls)]


def _grouped(length: int, seen: int, oldest: bytes, *groups: Any) -> GroupedEntries:
    found = [
        EntryGroup(count, newest, tuple(text.decode(errors="replace") for text in contents))
        for count, newest, *contents in groups
    ]
    return GroupedEntries(length, seen, oldest, found)


async def inspect_lane(router: Router, lanes: Sequence[LanePlace], *, failing: int = 10**9) -> list[LanePosition | None]:
    """Return how far each lane has come; None for one without a consumer group. Lanes of one stream are read together.

    `failing`: from so many attempts on an entry is failing; by default none is.
    """
    by_stream: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, lane in enumerate(lanes):
        by_stream[lane.stream].append(index)
    parts = [indexes[start : start + _GROUPS] for indexes in by_stream.values() for start in range(0, len(indexes), _GROUPS)]
    calls = [
        (
            (lanes[part[0]].stream, *[lanes[index].entries for index in part]),
            (str(failing), *[lanes[index].group for index in part]),
        )
        for part in parts
    ]
    found: list[LanePosition | None] = [None] * len(lanes)
    for part, replies in zip(parts, await _INSPECT_LANE.call_many(router, calls), strict=True):
        for index, reply in zip(part, replies, strict=True):
            found[index] = _lane_position(*reply) if reply else None
    return found


def _lane_position(unfinished: int, oldest: bytes, waiting: int, position: bytes, failing: int, *worst: Any) -> LanePosition:
    entries = []
    for entry_id, known, flat in worst:
        attempts, due, _ = known.split(b":", 2)  # see lib/lease.lua
        names = dict(zip(flat[::2], flat[1::2], strict=True))
        entries.append(FailingEntry(entry_id, int(attempts), int(due) if due.isdigit() else 0, names))
    return LanePosition(unfinished, oldest, waiting, position, failing, entries)


async def forget_step(
    router: Router, partitions: Sequence[StepKeys], *, step: str, mode: Literal["keep", "drop", "lanes"]
) -> list[ForgottenCounts]:
    """Remove what a step has in each partition, and keep or drop its dead letters.

    "lanes" removes only the lanes of the given streams, except those that a live worker holds. The step may run meanwhile.
    """
    calls = [
        ((*keys, *chain.from_iterable(zip(streams, entries, strict=True))), (step, mode))
        for *keys, streams, entries in partitions
    ]
    return [ForgottenCounts(*reply) for reply in await _FORGET_STEP.call_many(router, calls)]


class RenamedKeys(NamedTuple):
    """What a step may have in one partition, by its old and by its new name."""

    leases: bytes
    dead: bytes
    new_dead: bytes
    due: bytes
    schedules: bytes
    new_schedules: bytes
    lanes: Sequence[tuple[bytes, bytes, bytes, bytes]]  #: stream, its new name, and the hashes of entries


class RenamedCounts(NamedTuple):
    """The reply of `rename_step`."""

    groups: int
    dead_letters: int


async def rename_step(
    router: Router, partitions: Sequence[RenamedKeys], *, old: str, new: str, next_identity: str
) -> list[RenamedCounts | None]:
    """Give what a step has in each partition to another name; None where the new name has something already.

    `next_identity` is for the next step of the old name; no step has had it.
    """
    names = old, new, next_identity
    calls = [((*keys, *chain.from_iterable(lanes)), names) for *keys, lanes in partitions]
    return [None if reply == -1 else RenamedCounts(*reply) for reply in await _RENAME_STEP.call_many(router, calls)]


async def pause_step(router: Router, workers: bytes, *, step: str, mode: PauseMode) -> tuple[bool, int]:
    """Pause or resume a step.

    Return whether that changed something, and since when the step had been paused (Unix milliseconds; 0 = it was not).
    """
    changed, since = await _PAUSE_STEP(router, (workers,), (step, mode))
    return changed == 1, since


class SoughtLane(NamedTuple):
    """What `seek_step` found in a lane."""

    position: bytes  #: before the call
    unfinished_before: int  #: unfinished entries up to the target
    unfinished_after: int  #: those after it, up to the position
    owner: bytes  #: a worker that has given the lane away and still runs an entry of it; empty = none


async def seek_step(
    router: Router,
    partitions: Sequence[tuple[bytes, Sequence[LanePlace]]],
    *,
    target: str,
    policy: Literal["keep", "skip"],
    mode: Literal["look", "move"],
) -> list[tuple[bool, list[SoughtLane | None]]]:
    """Let a step go on behind entry `target` in its lanes. Each partition has its leases' key and its lanes.

    Return for each partition whether it was moved, and for each of its lanes what was found; None for a lane without a group.
    """
    calls = [
        (
            (leases, *chain.from_iterable((stream, entries) for stream, entries, _ in lanes)),
            (lanes[0].group, target, policy, mode),
        )
        for leases, lanes in partitions
    ]
    replies = await _SEEK_STEP.call_many(router, calls)
    return [(moved == 1, [SoughtLane(*lane) if lane else None for lane in lanes]) for moved, *lanes in replies]


async def retry_dead_letter(router: Router, letters: Sequence[Letter]) -> list[RetryOutcome]:
    """Append the event of each dead letter to its stream again, for its step alone, and delete the dead letter."""
    calls = [((dead, stream), (step, letter_id, origin)) for dead, stream, step, letter_id, origin in letters]
    return [_OUTCOMES[reply[0]] for reply in await _RETRY_DEAD_LETTER.call_many(router, calls)]


async def drop_dead_letters(
    router: Router, *, dead: bytes, leases: bytes, step: str, ids: Sequence[str]
) -> tuple[str, list[str]]:
    """Delete dead letters of a step; return the identity of the step, and the ids of those that were deleted."""
    identity, *removed = await _DROP_DEAD_LETTERS(router, (dead, leases), (step, *ids))
    return identity.decode(), [entry_id.decode() for entry_id in removed]

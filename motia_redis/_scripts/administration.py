"""The scripts of operators: one typed function per Lua entry point. The header of each Lua file is its contract.

Functions that take a sequence run the script once per item, each atomically, and return the replies in order. Items for one node
run in one round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Router

_COUNT_ENTRIES: Final = loader.load("count_entries")
_INSPECT_STREAM: Final = loader.load("inspect_stream")
_FORGET_STEP: Final = loader.load("forget_step")
_RETRY_DEAD_LETTER: Final = loader.load("retry_dead_letter")
_DROP_DEAD_LETTERS: Final = loader.load("drop_dead_letters")

#: What `retry_dead_letter` did. All but "retried" changed nothing.
RetryOutcome = Literal["retried", "gone", "empty", "no group"]
_OUTCOMES: dict[bytes, RetryOutcome] = {b"retried": "retried", b"gone": "gone", b"empty": "empty", b"no group": "no group"}


class Position(NamedTuple):
    """Where to count in a stream: after entry `after`."""

    stream: bytes
    after: bytes


class Count(NamedTuple):
    """The reply of `count_entries`."""

    entries: int
    last: bytes  #: id of the last entry counted; empty = the count reached the end of the stream


class GroupPosition(NamedTuple):
    """One consumer group in the reply of `inspect_stream`."""

    name: bytes
    pending: int
    oldest: bytes  #: id of the oldest entry not handled; empty = none
    undelivered: int  #: entries not yet delivered; -1 = unknown on this server
    delivered: bytes  #: id of the last entry delivered


class StepKeys(NamedTuple):
    """What a step may have in one partition."""

    leases: bytes
    attempts: bytes
    dead: bytes
    topics: bytes
    streams: Sequence[bytes]


class ForgottenCounts(NamedTuple):
    """The reply of `forget_step`."""

    groups: int  #: consumer groups removed
    dead_letters: int  #: dead letters that the step had


class Letter(NamedTuple):
    """A dead letter that is to be retried."""

    dead: bytes  #: key of the stream of the step's dead letters
    stream: bytes  #: key of the stream that the event came from
    step: str
    id: str


async def count_entries(router: Router, positions: Sequence[Position], *, limit: int) -> list[Count]:
    """Count entries after each position, at most `limit`."""
    calls = [((stream,), (after, str(limit))) for stream, after in positions]
    return [Count(*reply) for reply in await _COUNT_ENTRIES.call_many(router, calls)]


async def inspect_stream(router: Router, streams: Sequence[bytes]) -> list[list[GroupPosition]]:
    """Return the positions of the groups of each stream."""
    replies = await _INSPECT_STREAM.call_many(router, [((stream,), ()) for stream in streams])
    return [[GroupPosition(*group) for group in groups] for groups in replies]


async def forget_step(
    router: Router, partitions: Sequence[StepKeys], *, step: str, mode: Literal["keep", "drop", "lanes"]
) -> list[ForgottenCounts]:
    """Remove what a step has in each partition, and keep or drop its dead letters.

    "lanes" removes only the lanes of the given streams, except those that a live worker holds. The step may run meanwhile.
    """
    calls = [((leases, attempts, dead, topics, *streams), (step, mode)) for leases, attempts, dead, topics, streams in partitions]
    return [ForgottenCounts(*reply) for reply in await _FORGET_STEP.call_many(router, calls)]


async def retry_dead_letter(router: Router, letters: Sequence[Letter]) -> list[RetryOutcome]:
    """Append the event of each dead letter to its stream again, for its step alone, and delete the dead letter."""
    calls = [((dead, stream), (step, letter_id)) for dead, stream, step, letter_id in letters]
    return [_OUTCOMES[reply[0]] for reply in await _RETRY_DEAD_LETTER.call_many(router, calls)]


async def drop_dead_letters(router: Router, *, dead: bytes, leases: bytes, step: str, ids: Sequence[str]) -> int:
    """Delete dead letters of a step; return how many were deleted."""
    removed: int = await _DROP_DEAD_LETTERS(router, (dead, leases), (step, *ids))
    return removed

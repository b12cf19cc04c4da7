"""The scripts of what happens at a time: one typed function per Lua entry point. The header of each Lua file is its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from motia_redis._scripts import loader
from motia_redis._scripts.storage import SEARCHING, Enqueued

if TYPE_CHECKING:
    from motia_redis._transport.router import Router

_DELAY_MESSAGE: Final = loader.load("delay_message")
_CANCEL_MESSAGE: Final = loader.load("cancel_message")
_FIRE_DUE: Final = loader.load("fire_due")
_SCHEDULE: Final = loader.load("schedule")


class DueKeys(NamedTuple):
    """The keys of one partition that say what falls due there."""

    due: bytes  #: sorted set
    delayed: bytes  #: hash of the delayed messages
    trimmed: bytes
    topics: bytes
    scopes: bytes


class DelayedMessage(NamedTuple):
    """One call of `delay_message`."""

    stream: bytes
    keys: DueKeys
    request_record: bytes
    idempotency_record: bytes | None

    key: bytes
    data: bytes
    request: bytes
    trace: bytes
    time: bytes  #: "+<milliseconds from now>" or "<Unix milliseconds>"
    most: int  #: how many messages may wait in the partition
    attempt_token: bytes


class Fired(NamedTuple):
    """The reply of `fire_due`."""

    happened: int
    wait: float | None  #: seconds until the next thing is due; None = nothing waits
    dropped: int  #: unhandled messages that a cap dropped
    missing: Sequence[bytes]  #: keys to call again with
    errors: Sequence[bytes]  #: of things that were put off
    expired: int = 0  #: values that have expired, of `happened`


class ScheduleKeys(NamedTuple):
    """The keys of the schedules of one step."""

    due: bytes
    trimmed: bytes
    schedules: bytes


#: What becomes of a time: it fires then, or even if it was missed; or it does not fire, nor do those before. "forget" is about
#: the schedule itself.
How = Literal["time", "late", "skip", "forget"]


class NextTime(NamedTuple):
    """What a worker says about one schedule; times are Unix milliseconds. See schedule.lua."""

    schedule: str
    after: int | None  #: None = unknown. For "forget", since when the schedule is unwanted
    time: int | None  #: None = unknown, or there is none
    how: How


class Schedule(NamedTuple):
    """How far one schedule has come; times are Unix milliseconds."""

    after: int
    next: int | None  #: None = nobody has said which


async def delay_message(router: Router, message: DelayedMessage, *, following: Sequence[Sequence[Any]] = ()) -> Enqueued:
    """Keep a message until its time. Commands in `following` run after it over the same connection."""
    due, delayed, trimmed, topics, _ = message.keys
    keys = [message.stream, trimmed, topics, message.request_record, due, delayed]
    if message.idempotency_record is not None:
        keys.append(message.idempotency_record)
    arguments = (message.key, message.data, message.request, message.trace, message.time, str(message.most))
    replies: list[Any] = [SEARCHING]
    while replies[0] == SEARCHING:
        replies = await _DELAY_MESSAGE.call_with(router, keys, (*arguments, message.attempt_token), following)
    return Enqueued.decode(replies)


async def cancel_message(
    router: Router,
    keys: DueKeys,
    *,
    request_record: bytes,
    message: bytes,
    request: bytes,
    effects: bytes | None,
    attempt_token: bytes,
    following: Sequence[Sequence[Any]],
) -> tuple[bool, list[Any]]:
    """Remove a message that waits. Return whether this request removed it, and the replies of the commands in `following`."""
    keys_of_call = (keys.due, keys.delayed, request_record, *([] if effects is None else [effects]))
    removed, *replies = await _CANCEL_MESSAGE.call_with(router, keys_of_call, (message, request, attempt_token), following)
    return removed == 1, replies


async def fire_due(router: Router, keys: DueKeys, *, others: Sequence[bytes], most: int, most_bytes: int, limits: bytes) -> Fired:
    """Let what is due in one partition happen: `most` things, or few more than `most_bytes`; write to `others` only."""
    return _fired(await _FIRE_DUE(router, (*keys, *others), (str(most), str(most_bytes), limits)))


async def fire_due_many(router: Router, partitions: Sequence[DueKeys]) -> list[Fired]:
    """Look when the next thing is due in each partition; nothing happens."""
    return [_fired(reply) for reply in await _FIRE_DUE.call_many(router, [(keys, ("0", "0", "")) for keys in partitions])]


class Schedules(NamedTuple):
    """The reply of `schedule`; times are Unix milliseconds."""

    now: int
    asked: Sequence[Schedule]  #: one for each `NextTime`; nothing is known for "forget"
    unwanted: Mapping[str, int]  #: others that the step has: since when they are unwanted


#: A step with its keys and its schedules.
ScheduleCall = tuple[ScheduleKeys, str, Sequence[NextTime]]


async def schedule(router: Router, steps: Sequence[ScheduleCall]) -> list[Schedules]:
    """Say for steps when their schedules fire next; return for each step how far they have come."""
    calls: list[tuple[Sequence[bytes], Sequence[str]]] = []
    for keys, step, times in steps:
        arguments = [step]
        for name, after, time, how in times:
            arguments += (name, "" if after is None else str(after), "" if time is None else str(time), how)
        calls.append((keys, arguments))
    replies = await _SCHEDULE.call_many(router, calls)
    return [_schedules(reply, len(times)) for reply, (_, _, times) in zip(replies, steps, strict=True)]


def _schedules(reply: list[Any], asked: int) -> Schedules:
    now, *flat = reply
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    return Schedules(
        now,
        [Schedule(after, time or None) for after, time in pairs[:asked]],
        {name.decode(errors="surrogateescape"): since for name, since in pairs[asked:]},
    )


def _fired(reply: list[Any]) -> Fired:
    happened, wait, dropped, missing, failed, expired = reply
    return Fired(happened, None if wait < 0 else wait / 1000, dropped, missing, failed, expired)

"""The scripts of workers: one typed function per Lua entry point. The header of each Lua file is its contract.

A function that takes a sequence runs the script once per item, each atomically, and returns the replies in order. Items for one
node run in one round trip.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motia_redis._transport.router import Router

_ACQUIRE_LANES: Final = loader.load("acquire_lanes")
_CREATE_GROUP: Final = loader.load("create_group")
_DEAD_LETTER: Final = loader.load("dead_letter")
_HEARTBEAT: Final = loader.load("heartbeat")
_LEAVE: Final = loader.load("leave")
_PROGRESS: Final = loader.load("progress")
_RENEW_LEASE: Final = loader.load("renew_lease")
_SETTLE_ENTRY: Final = loader.load("settle_entry")
_TAKE_TOKENS: Final = loader.load("take_tokens")
_PAUSED: Final = b"paused "  # how the fields of paused steps begin, in the hash of workers

#: Where a new consumer group starts: see create_group.lua.
Start = Literal["begin", "end", "topic"]


class LaneKeys(NamedTuple):
    """The keys and names of one lane."""

    leases: bytes  #: hash of the leases of the lane's partition
    stream: bytes
    entries: bytes  #: hash of what is known of the entries beyond the low-water mark
    name: bytes
    group: str


class Wanted(NamedTuple):
    """A lane to acquire, or only to check."""

    keys: LaneKeys
    tenure: str
    claim: bytes | Literal["", "check", "moved"]  #: see acquire_lanes.lua


class Taken(NamedTuple):
    """A lane that was acquired."""

    holder_crashed: bool  #: the last holder's lease ran out
    mark: str  #: the low-water mark of the group
    taken_at: int  #: by the server's clock, Unix milliseconds
    entry_bytes: int  #: mean size of an entry of the stream
    known: Mapping[str, bytes]  #: the hash of entries
    identity: str  #: of the step: it stays when the step is renamed


class Kept(NamedTuple):
    """The worker holds the lane by the given tenure."""


class Moved(NamedTuple):
    """The worker holds the lane, and its position was moved: `claim="moved"` acquires it again."""


class Busy(NamedTuple):
    """Another worker holds the lane; or nobody does, and it was not to be acquired."""

    holder: str  #: id of the worker; empty = none
    tenure: str
    lease: bytes


class Missing(NamedTuple):
    """The stream has no consumer group of the step."""


#: The outcome of `acquire_lanes` for one lane.
Acquired: TypeAlias = Taken | Kept | Moved | Busy | Missing


class Progress(NamedTuple):
    """What the holder of a lane has finished."""

    keys: LaneKeys
    tenure: str
    release: bool
    mark: str  #: the new low-water mark; "" = unchanged
    position: str  #: everything up to here is finished but for the fields of the hash; "" = the mark
    written: Sequence[tuple[str, str]]  #: fields of the hash of entries
    removed: Sequence[str | bytes]


class LiveWorker(NamedTuple):
    """One field of the hash of workers."""

    id: bytes
    value: bytes


class Heartbeat(NamedTuple):
    """The reply of `heartbeat`."""

    now: int  #: the server's time, Unix milliseconds
    workers: Sequence[LiveWorker]  #: also workers that ended lately, and what no worker wrote
    paused: frozenset[str]  #: steps


async def acquire_lanes(router: Router, wanted: Sequence[Wanted], *, worker: str) -> list[Acquired]:
    """Acquire or check lanes of one partition; return an outcome for each."""
    keys = [wanted[0].keys.leases, *chain.from_iterable((lane.keys.stream, lane.keys.entries) for lane in wanted)]
    arguments = chain.from_iterable((lane.keys.name, lane.keys.group, lane.tenure, lane.claim) for lane in wanted)
    return [_outcome(reply) for reply in await _ACQUIRE_LANES(router, keys, (worker, *arguments))]


def _outcome(reply: list[bytes]) -> Acquired:
    match reply[0]:
        case b"kept":
            return Kept()
        case b"moved":
            return Moved()
        case b"missing":
            return Missing()
        case b"busy":
            return Busy(reply[1].decode(), reply[2].decode(), reply[3])
    _, origin, mark, now, length, size, identity, *flat = reply
    known = {name.decode(errors="surrogateescape"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return Taken(origin == b"dead", mark.decode(), int(now), int(size) // max(1, int(length)), known, identity.decode())


async def progress(router: Router, lanes: Sequence[Progress], *, worker: str) -> list[Literal["ok", "lost", "missing"]]:
    """Record the progress of lanes of one partition; return an outcome for each.

    "lost": the tenure does not hold the lane; "missing": the group is gone. Nothing changed there. Safe to repeat.
    """
    keys = [lanes[0].keys.leases, *chain.from_iterable((lane.keys.stream, lane.keys.entries) for lane in lanes)]
    arguments: list[bytes | str] = [worker]
    for lane in lanes:
        arguments += (lane.keys.name, lane.tenure, lane.keys.group, "release" if lane.release else "keep")
        arguments += (lane.mark, lane.position, str(len(lane.written)), *chain.from_iterable(lane.written))
        arguments += (str(len(lane.removed)), *lane.removed)
    return [_PROGRESS_OUTCOMES[reply] for reply in await _PROGRESS(router, keys, arguments)]


_PROGRESS_OUTCOMES: dict[int, Literal["ok", "lost", "missing"]] = {1: "ok", 0: "lost", -1: "missing"}


async def settle_entry(router: Router, keys: LaneKeys, *, worker: str, tenure: str, entry_id: str, value: str) -> bool | None:
    """Record an attempt at an entry, or with value "" its end; return None, with nothing changed, without the right to."""
    arguments = (worker, keys.name, tenure, entry_id, value)
    settled: int = await _SETTLE_ENTRY(router, (keys.leases, keys.entries), arguments)
    return True if settled == 1 else None


async def dead_letter(
    router: Router,
    keys: LaneKeys,
    *,
    dead: bytes,
    trimmed: bytes,
    limits: bytes,
    worker: str,
    tenure: str,
    entry_id: str,
    error_type: str,
    error_text: str,
    traceback: str,
    trace_id: str,
    attempts: int,
) -> str | None:
    """Move an entry to the dead letters `dead`, and trim them to `limits`. Safe to repeat.

    Return the id of the dead letter, or "" if an earlier call has moved the entry; None, with nothing changed, if the worker does
    not decide about the entry. `trimmed` is the partition's record of trims.
    """
    arguments: list[bytes | str] = [worker, keys.name, tenure, keys.group, entry_id, error_type, error_text, traceback, trace_id]
    arguments += [str(attempts), limits]
    added: bytes | None = await _DEAD_LETTER(router, (keys.leases, keys.stream, keys.entries, dead, trimmed), arguments)
    return None if added is None else added.decode()


async def renew_lease(router: Router, leases: bytes, *, worker: str, ttl_ms: int, first: bool = False) -> bool:
    """Renew the worker's lease in one partition; return whether it had not run out."""
    renewed: int = await _RENEW_LEASE(router, (leases,), (worker, str(ttl_ms), "first" if first else ""))
    return renewed == 1


async def leave(router: Router, leases: bytes, *, worker: str) -> int:
    """End the worker's lease in one partition; return the number of lanes that it still held."""
    released: int = await _LEAVE(router, (leases,), (worker,))
    return released


async def heartbeat(router: Router, *, workers: bytes, worker: str, description: bytes, ttl_ms: int) -> Heartbeat:
    """Record that a worker is alive for `ttl_ms` milliseconds; return which others are, and which steps are paused."""
    now, *reply = await _HEARTBEAT(router, (workers,), (worker, description, str(ttl_ms)))
    fields = [LiveWorker(reply[index], reply[index + 1]) for index in range(0, len(reply), 2)]
    paused = frozenset(step for name, _ in fields if (step := paused_step(name)) is not None)
    return Heartbeat(int(now), [field for field in fields if not field.id.startswith(_PAUSED)], paused)


def paused_step(field: bytes) -> str | None:
    """Return the step of a field that says that it is paused. Return None for another field."""
    return field.removeprefix(_PAUSED).decode(errors="replace") if field.startswith(_PAUSED) else None


class Tokens(NamedTuple):
    """The reply of `take_tokens`."""

    taken: int
    wait: float  #: seconds until the others are there


async def take_tokens(router: Router, bucket: bytes, *, interval_ms: float, capacity: int, wanted: int) -> Tokens:
    """Take tokens from the bucket of a step's rate, which gets one each `interval_ms` milliseconds."""
    taken, wait = await _TAKE_TOKENS(router, (bucket,), (f"{interval_ms:.6f}", str(capacity), str(wanted)))
    return Tokens(taken, wait / 1000)


async def create_group(router: Router, lanes: Sequence[tuple[LaneKeys, Start]]) -> list[bool]:
    """Create the missing consumer groups of lanes; return for each whether it was created."""
    calls = [((keys.stream, keys.leases, keys.entries), (keys.group, keys.name, start)) for keys, start in lanes]
    return [reply == 1 for reply in await _CREATE_GROUP.call_many(router, calls)]

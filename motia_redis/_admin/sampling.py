"""Sample what a namespace holds, at a bounded cost: hot keys, large scopes and values, causes of dead letters, memory held.

Nothing here reads a whole hash, or scans the keyspace. A sample finds what stands out, and may miss what does not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._ids import generator
from motia_redis._scripts import administration
from motia_redis._scripts.administration import Position
from motia_redis._steps.events import facts
from motia_redis._transport.failures import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from motia_redis._admin.registry import Registry
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

_EVENTS = (500, 256 * 1024)  # entries of one stream, and their bytes
_STREAMS = 256  # streams of events that are sampled
_LETTERS = (200, 1024 * 1024)  # dead letters of a step in one partition, and their bytes
_SCOPES = 1000  # scopes whose keys are counted
_LARGEST = 3  # scopes and values that are named
_SCOPES_WITH_VALUES, _VALUES = 50, 20  # scopes, and values of each, whose size is read
_LEAST_HELD = 1024 * 1024  # bytes of a stream that is looked at
_MOST_HELD = (32, 10_000)  # streams, the largest ones, and the entries of each that are counted


@dataclass(frozen=True, slots=True)
class HotKey:
    """Describe a key by its share of the newest events."""

    event: dict[str, str]  #: as in `FailingKey`
    changes: int  #: among the newest events of its stream
    per_second: float  #: over the time of these events


@dataclass(frozen=True, slots=True)
class Sizes:
    """Describe scopes and values of a namespace by their size, the largest first."""

    scopes: int
    scopes_seen: int  #: scopes whose keys were counted
    largest_scopes: list[tuple[str, int]]  #: scope and number of keys
    values_seen: int
    largest_values: list[tuple[str, str, int]]  #: scope, key and bytes


class Cause(NamedTuple):
    """What dead letters have in common."""

    error: str  #: type of the error
    topic: str
    scope: str


@dataclass(frozen=True, slots=True)
class Letters:
    """Describe the newest dead letters of one step."""

    seen: int
    causes: dict[Cause, int]  #: number of letters, the most first
    newest: int  #: Unix milliseconds


@dataclass(slots=True)
class Held:
    """Describe what streams keep because one step has not handled an older entry."""

    streams: int = 0
    entries: int = 0
    is_exact: bool = True  #: False: there are more entries and bytes
    bytes: int = 0


async def read_hot_keys(router: Router, keyspace: Keyspace, now: int) -> list[HotKey]:
    """Return the busiest key of each stream of events, the busiest first.

    Cost: a round trip; up to 500 entries or about 256 KiB of each of up to 256 streams, chosen at random.
    """
    streams = keyspace.event_streams()
    if len(streams) > _STREAMS:
        streams = generator.sample(streams, _STREAMS)
    most, size = _EVENTS
    found = []
    for stream in await administration.group_entries(
        router, streams, fields=("scope", "key"), most=most, max_bytes=size, groups=1
    ):
        for group in stream.groups:
            seconds = max(1.0, (now - _written(stream.oldest)) / 1000)
            scope, key = group.contents
            event = facts({b"scope": scope.encode(), b"key": key.encode()})
            found.append(HotKey(event, group.entries, group.entries / seconds))
    return sorted(found, key=lambda key: -key.per_second)


async def read_sizes(router: Router, keyspace: Keyspace) -> Sizes:
    """Return the largest of some scopes and values.

    Cost: five round trips. The keys of up to about 1,000 scopes, chosen at random, are counted. The sizes of up to 20 values,
    chosen at random, of 50 of them are read: of those with the most keys, and of as many others.
    """
    sets = keyspace.all_scopes()
    totals: list[int] = await router.gather([(key, ("SCARD", key)) for key in sets])
    share = max(1, _SCOPES // len(sets))
    filled = [key for key, total in zip(sets, totals, strict=True) if total]
    pages: list[Any] = await router.gather([(key, ("SRANDMEMBER", key, share)) for key in filled])
    hashes = {scope: keyspace.values(scope) for page in pages for scope in page}
    counts: list[int] = await router.gather([(values, ("HLEN", values)) for values in hashes.values()])
    scopes = sorted(zip(hashes, counts, strict=True), key=lambda found: -found[1])
    half = _SCOPES_WITH_VALUES // 2
    chosen = [*scopes[:half], *generator.sample(scopes[half:], min(half, len(scopes[half:])))]
    names: list[Any] = await router.gather([(hashes[scope], ("HRANDFIELD", hashes[scope], _VALUES)) for scope, _ in chosen])
    places = [(scope, key) for (scope, _), keys in zip(chosen, names, strict=True) for key in keys]
    sizes: list[int] = await router.gather([(hashes[scope], ("HSTRLEN", hashes[scope], key)) for scope, key in places])
    values = sorted(zip(places, sizes, strict=True), key=lambda found: -found[1])
    return Sizes(
        sum(totals),
        len(scopes),
        [(_text(scope), count) for scope, count in scopes[:_LARGEST]],
        len(places),
        [(_text(scope), _text(key), size) for (scope, key), size in values[:_LARGEST]],
    )


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


async def read_letters(router: Router, keyspace: Keyspace, steps: Iterable[str]) -> dict[str, Letters]:
    """Return what the newest dead letters of each step have in common.

    Cost: a round trip; up to 200 letters or about 1 MiB of each step in each partition.
    """
    partitions = range(keyspace.layout.partitions)
    places = [(step, keyspace.dead(keyspace.events(partition, 0), step)) for step in steps for partition in partitions]
    most, size = _LETTERS
    replies = await administration.group_entries(
        router, [stream for _, stream in places], fields=("error", "topic", "scope"), most=most, max_bytes=size, groups=50
    )
    seen: defaultdict[str, int] = defaultdict(int)
    newest: defaultdict[str, int] = defaultdict(int)
    causes: defaultdict[str, defaultdict[Cause, int]] = defaultdict(lambda: defaultdict(int))
    for (step, _), stream in zip(places, replies, strict=True):
        seen[step] += stream.seen
        for group in stream.groups:
            causes[step][Cause(*group.contents)] += group.entries
            newest[step] = max(newest[step], _written(group.newest))
    return {
        step: Letters(seen[step], dict(sorted(found.items(), key=lambda cause: -cause[1])), newest[step])
        for step, found in causes.items()
    }


async def read_held(router: Router, known: Registry) -> dict[str, Held]:
    """Return what large streams keep for each step, because no other one has handled less of them.

    Cost: three round trips; `MEMORY USAGE` of the streams of all lanes; up to 10,000 entries of each of the 32 largest streams of
    1 MiB or more are counted.
    """
    streams = sorted({stream for _, stream in known.lanes})
    sizes: list[Any] = await router.gather([(stream, ("MEMORY USAGE", stream, "SAMPLES", "5")) for stream in streams])
    large = sorted(((size or 0, stream) for size, stream in zip(sizes, streams, strict=True)), reverse=True)
    count, most = _MOST_HELD
    large = [(size, stream) for size, stream in large[:count] if size >= _LEAST_HELD]
    if not large:
        return {}
    calls = [command for _, stream in large for command in ((stream, ("XINFO GROUPS", stream)), (stream, ("XLEN", stream)))]
    replies = await router.gather(calls, return_exceptions=True)  # a stream may be gone meanwhile
    slowest = []
    for (size, stream), groups, length in zip(large, replies[::2], replies[1::2], strict=True):
        if isinstance(groups, Exception):
            if not isinstance(groups, ErrorReply):
                raise groups
            continue
        marks = [(_order(group[b"last-delivered-id"]), group) for group in map(_fields, groups)]
        if marks:
            _, group = min(marks, key=lambda each: each[0])
            slowest.append((group, size, length, Position(stream, group[b"last-delivered-id"])))
    counts = await administration.count_entries(router, [position for *_, position in slowest], limit=most) if slowest else []
    found: defaultdict[str, Held] = defaultdict(Held)
    for (group, size, length, _), counted in zip(slowest, counts, strict=True):
        held = found[group[b"name"].decode()]
        held.streams += 1
        held.entries += counted.entries
        held.is_exact = held.is_exact and not counted.last
        held.bytes += size * counted.entries // max(1, length, counted.entries)
    return dict(found)


def _fields(reply: Any) -> dict[bytes, Any]:
    """Return a map, which RESP2 gives as a list."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def _written(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])

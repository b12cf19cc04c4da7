"""Read a namespace a little at a time, as a person looks at it: each call is bounded, whatever the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from motia_redis._scripts import storage as scripts
from motia_redis._store import codec, events, expiry, keyspace
from motia_redis._store.scans import PageSize
from motia_redis._store.stream_groups import scope_name
from motia_redis._transport.failures import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.manager import StateManager
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session
    from motia_redis._store.watch_items import Change

_Row = TypeVar("_Row")

_SCOPES = 200  # scopes of a page
_KEYS = 100  # keys of a page
_AT_ONCE = 1000  # keys that one command looks at
_MOST_SEARCHED = 100_000  # keys that one call looks at for a prefix: about a tenth of a second
_SHORT = 512  # bytes of a text that is read for a row
_MOST_EVENTS = 5000  # entries of a lane that one call looks at
_MOST_EVENT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """Hold some rows. `cursor` says where the next page begins; None: there is none. `searched`: what was looked at."""

    rows: list[_Row]
    cursor: str | None
    searched: int


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """Describe a scope."""

    name: str  #: a `StreamGroup` for the group of a stream
    keys: int
    bytes: int | None  #: estimated by Redis; None: the user may not ask it


@dataclass(frozen=True, slots=True)
class KeyRow:
    """Describe a key of a scope."""

    key: str
    size: int  #: bytes of the stored text
    text: bytes | None  #: the stored text, if it is short
    revision: str


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """Describe a change of a key."""

    revision: str
    type: str
    reason: str | None
    old: bytes | None  #: the stored texts; None: no value
    new: bytes | None


async def read_scopes(state: StateManager, prefix: str = "", cursor: str = "") -> Page[ScopeRow]:
    """Return some scopes whose names begin with `prefix`, those of streams included, sorted within the page.

    Cost: a page of names from one partition after the other, and two commands for each scope. Raises StateUnavailable.
    """
    start = prefix.encode(errors="surrogateescape")
    names: list[bytes] = []
    searched = 0
    partition, position = _numbers(cursor, 2)

    async def read(session: Session, _: Attempt) -> Any:
        key = session.keyspace.scopes(partition)
        return await session.router.execute(key, "SSCAN", key, position, "COUNT", _AT_ONCE)

    partitions = (await state.connect()).layout.partitions
    while partition < partitions and len(names) < _SCOPES and searched < _MOST_SEARCHED:
        position, page = await state._retries.run("scopes", read, operation="scan")
        position, searched = int(position), searched + len(page)
        names += [name for name in page if name.startswith(start)]
        if not position:
            partition += 1

    async def measure(session: Session, _: Attempt) -> Any:
        keys = [session.keyspace.values(name) for name in names]
        counts = await session.router.gather([(key, ("HLEN", key)) for key in keys])
        usage = [(key, ("MEMORY USAGE", key, "SAMPLES", "5")) for key in keys]
        return counts, await session.router.gather(usage, return_exceptions=True)

    counts, sizes = await state._retries.run("scopes", measure, operation="scan")
    rows = [
        ScopeRow(scope_name(codec.decode_key(name)), count, _size(size))
        for name, count, size in zip(names, counts, sizes, strict=True)
        if count
    ]
    has_more = partition < partitions
    return Page(sorted(rows, key=lambda row: row.name), f"{partition}.{position}" if has_more else None, searched)


async def read_keys(state: StateManager, scope: str, prefix: str = "", cursor: str = "") -> Page[KeyRow]:
    """Return some keys of a scope that begin with `prefix`, in no particular order. A key may come on two pages.

    A cursor is for one server: behind another one the pages may begin again. Cost: at most 100,000 keys are looked at, 1,000 by
    one command, and three commands for each key that is returned. Raises InvalidName, StateUnavailable.
    """
    start = prefix.encode(errors="surrogateescape")
    found: list[bytes] = []
    searched = 0
    name = keyspace.encode_name("scope", scope, state.limits.name_bytes)
    subject = f"scope {scope!r:.200}"
    position, skipped = _numbers(cursor, 2)
    at_once = _AT_ONCE if prefix else _KEYS

    async def read(session: Session, _: Attempt) -> scripts.KeysPage:
        values = session.keyspace.values(name)
        node = await session.router.node_of(values)
        return await scripts.scan_keys(session.router, node, values=values, cursor=position, count=at_once)

    while len(found) < _KEYS and searched < _MOST_SEARCHED:
        page = await state._retries.run(subject, read, operation="scan")
        matching = [key for key in page.keys if key.startswith(start)][skipped:]
        room = _KEYS - len(found)
        found += matching[:room]
        searched += len(page.keys)
        if len(matching) > room:  # a small hash comes as a whole
            skipped += room
            break
        position, skipped = page.cursor, 0
        if not position:
            break
    rows = await _describe(state, subject, name, list(dict.fromkeys(found)))
    has_more = position or skipped
    return Page(rows, f"{position}.{skipped}" if has_more else None, searched)


async def read_events(state: StateManager, scope: str, key: str, *, most: int = 20) -> Page[KeyEvent]:
    """Return the last changes of a key that the stream still has, the newest first.

    Cost: at most 5,000 entries or 4 MiB of the key's lane are read, in pages; `searched` says how many. The cursor is not None
    if the lane has older entries. Raises InvalidName, StateUnavailable.
    """
    limit = state.limits.name_bytes
    scope_bytes, key_bytes = keyspace.encode_name("scope", scope, limit), keyspace.encode_name("key", key, limit)
    pages, end = PageSize(8), "+"
    rows: list[KeyEvent] = []
    searched = weight = 0

    async def read(session: Session, _: Attempt) -> Any:
        stream = session.keyspace.event_streams(scope, key)[0]
        return await session.router.execute(stream, "XREVRANGE", stream, end, "-", "COUNT", pages.count)

    while len(rows) < most and searched < _MOST_EVENTS and weight < _MOST_EVENT_BYTES:
        asked = pages.count
        page = await state._retries.run(f"scope {scope!r:.200} key {key!r:.200}", read, operation="scan")
        size = sum(len(value) for _, fields in page for value in fields.values())
        pages.record_page(len(page), size)
        searched, weight = searched + len(page), weight + size
        for entry_id, fields in page:
            if fields.get(b"scope") == scope_bytes and fields.get(b"key") == key_bytes:
                rows += _event(entry_id, fields)
        if len(page) < asked:
            return Page(rows[:most], None, searched)
        end = f"({page[-1][0].decode()}"
    return Page(rows[:most], end, searched)


def texts_of(change: Change) -> tuple[bytes | None, bytes | None]:
    """Return the stored texts before and after a change of a watch. Neither is decoded."""
    return change._texts()


def _event(entry_id: bytes, fields: Mapping[bytes, bytes]) -> list[KeyEvent]:
    """Return the change that an entry holds; none for an entry of another client."""
    try:
        old, new = events.texts(fields)
        type_ = fields[b"type"].decode()
    except (KeyError, ValueError):
        return []
    reason = fields[b"reason"].decode(errors="replace") if b"reason" in fields else None
    return [KeyEvent(entry_id.decode(), type_, reason, old, new)]


async def _describe(state: StateManager, subject: str, scope: bytes, keys: list[bytes]) -> list[KeyRow]:
    """Return the rows of keys, without those whose value is gone, or has expired as far as its short text says so."""
    if not keys:
        return []

    async def measure(session: Session, _: Attempt) -> Any:
        values, revisions = session.keyspace.values(scope), session.keyspace.revisions(scope)
        *sizes, found = await session.router.pipeline(
            values, [*(("HSTRLEN", values, key) for key in keys), ("HMGET", revisions, *keys)]
        )
        short = [key for key, size in zip(keys, sizes, strict=True) if size <= _SHORT]
        texts = await session.router.execute(values, "HMGET", values, *short) if short else []
        return sizes, found, dict(zip(short, texts, strict=True))

    sizes, revisions, texts = await state._retries.run(subject, measure, operation="scan")
    rows = []
    for key, size, revision in zip(keys, sizes, revisions, strict=True):
        text = texts.get(key)
        if size and (text is None or not expiry.is_expired(text)):
            rows.append(KeyRow(codec.decode_key(key), size, text, (revision or b"0-0").decode(errors="replace")))
    return sorted(rows, key=lambda row: row.key)


def _numbers(cursor: str, count: int) -> list[int]:
    """Return the numbers of a cursor; zeros for one that is empty or was made up."""
    parts = cursor.split(".")
    if len(parts) == count and all(part.isascii() and part.isdigit() and len(part) < 21 for part in parts):
        return [int(part) for part in parts]
    return [0] * count


def _size(reply: Any) -> int | None:
    """Return what MEMORY USAGE replied; None if the user may not call it."""
    if isinstance(reply, Exception) and not isinstance(reply, ErrorReply):
        raise reply
    return reply if isinstance(reply, int) else None

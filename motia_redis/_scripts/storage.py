"""The scripts that change and read state: one typed function per Lua entry point. The header of each Lua file is its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from motia_redis._transport.router import Node, Router

_MUTATE: Final = loader.load("mutate")
_TRANSACT: Final = loader.load("transact")
_ENQUEUE: Final = loader.load("enqueue")
_GET_ENTRY: Final = loader.load("get_entry")
_SCAN_ITEMS: Final = loader.load("scan_items")
_SCAN_KEYS: Final = loader.load("scan_keys")
_SCAN_ENTRIES: Final = loader.load("scan_entries")
_LANE_POSITIONS: Final = loader.load("lane_positions")
_TRIM_STREAM: Final = loader.load("trim_stream")
_MARK_WRITE: Final = loader.load("mark_write")
_CHANGE_SETTINGS: Final = loader.load("change_settings")
_ENSURE_LAYOUT: Final = loader.load("ensure_layout")

_new = tuple.__new__  # makes a NamedTuple without its own __new__, which is a function call in Python
SEARCHING: Final = b"SEARCHING"  #: the status that asks for another call, while the script searches for an earlier attempt


class Mutation(NamedTuple):
    """One call of `mutate`."""

    #: Values, revisions, scopes, events, record of the request; with options, or for a deletion, also what was trimmed; with an
    #: idempotency key also its record.
    keys: Sequence[bytes]
    key: bytes
    change: Sequence[bytes]  #: the kind of change and its parameters
    options: bytes = b""  #: empty, or what `options` returns

    def encode(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return KEYS and ARGV."""
        kind, *parameters = self.change
        return self.keys, (self.key, kind + self.options, *parameters)


def options(trace: bytes, expected: bytes, limits: bytes, attempt_token: bytes, ttl: bytes) -> bytes:
    """Return the options of a mutation, as they stand behind the kind of change; empty if all of them are."""
    if expected or limits or attempt_token or ttl:
        return b"\n%b\n%b\n%b\n%b\n%b" % (trace, expected, limits, attempt_token, ttl)
    return b"\n" + trace if trace else b""


class Mutated(NamedTuple):
    """The reply of `mutate`."""

    revision: bytes | None  #: None: a delete found no value
    text: bytes | None  #: the new text of an update, the old text of a delete
    dropped: int  #: unhandled events that the hard cap dropped
    following: Sequence[Any] = ()  #: replies of the commands that followed
    created_scope: bool = False  #: the scope held no value before
    found_full: bool = False  #: a deletion found the server over maxmemory


class TransactOptions(NamedTuple):
    """The options of `transact`."""

    trace: bytes
    most_bytes: int  #: of old and new values together
    attempt_token: bytes
    record_milliseconds: int  #: for which a first attempt is remembered
    event_limits: bytes  #: how to trim a stream of events; empty: not
    topic_limits: bytes  #: how to trim a stream of messages; empty: not


class Transacted(NamedTuple):
    """The reply of `transact`."""

    words: Sequence[bytes]  #: for each item a revision, the id of a message, or "-"
    texts: Sequence[bytes]  #: the new texts of the updates, and of the sets if `has_sets`
    has_sets: bool
    mutated: Mutated


class Message(NamedTuple):
    """One call of `enqueue`: keys first, then arguments."""

    stream: bytes
    trimmed: bytes
    topics: bytes
    request_record: bytes
    idempotency_record: bytes | None

    topic: bytes
    key: bytes
    data: bytes
    request: bytes
    trace: bytes
    limits: bytes
    attempt_token: bytes


class Enqueued(NamedTuple):
    """The reply of `enqueue` and `delay_message`."""

    entry_id: bytes  #: what is no id: the message waits for its time, or was cancelled
    request: bytes  #: the message's id: the request id of the attempt that was applied
    dropped: int  #: unhandled messages that a cap dropped
    following: Sequence[Any] = ()  #: replies of the commands that followed
    created_stream: bool = False  #: the stream did not exist before

    @classmethod
    def decode(cls, replies: Sequence[Any]) -> Enqueued:
        """Return the reply of the script and those of the commands that followed."""
        reply = replies[0]
        return cls(reply[0], reply[1], reply[2] if len(reply) > 2 else 0, replies[1:], created_stream=len(reply) > 3)


class StoredEntry(NamedTuple):
    """The reply of `get_entry`."""

    text: bytes
    revision: bytes


class KeysPage(NamedTuple):
    """The reply of `scan_keys`."""

    cursor: int  #: where the next page begins; 0 = this page is the last one
    keys: list[bytes]
    size: int  #: bytes of these keys, and of their values if the server read them


class ItemsPage(NamedTuple):
    """The reply of `scan_items`."""

    cursor: int  #: where the next page begins, after the keys that are left; 0 and no key left = this page is the last one
    items: dict[bytes, bytes]
    left: list[bytes]  #: keys that did not fit: the next page reads them first


class EntriesPage(NamedTuple):
    """The reply of `scan_entries`."""

    cursor: int  #: where the next page begins, after the keys that are left; 0 and no key left = this page is the last one
    entries: list[tuple[bytes, bytes, bytes]]  #: key, text and revision
    left: list[bytes]  #: keys that did not fit: the next page reads them first


class LanePosition(NamedTuple):
    """How far a stream has come, as `lane_positions` answers."""

    last: bytes  #: id of its last entry; "0-0" if there never was one
    removed: int  #: entries that were trimmed
    length: int  #: entries that are there
    has_entry: int  #: 1 if the entry that was asked for is there


class LanePositions(NamedTuple):
    """The reply of `lane_positions`."""

    time: int  #: of the server, in Unix milliseconds
    lanes: list[LanePosition]


async def mutate(router: Router, mutation: Mutation, *, following: Sequence[Sequence[Any]] = ()) -> Mutated:
    """Change one value and append its event. Commands in `following` run after it over the same connection."""
    # The most frequent call of all: it takes its parts from the tuple without a function call for each.
    keys, key, change, options = mutation
    kind, *parameters = change
    arguments = (key, kind + options, *parameters)
    reply: Any = SEARCHING
    rest: Sequence[Any] = ()
    while reply == SEARCHING:
        if following:
            reply, *rest = await _MUTATE.call_with(router, keys, arguments, following)
        else:
            reply = await _MUTATE(router, keys, arguments)
    size = len(reply)
    if size == 1:
        return _new(Mutated, (reply[0], None, 0, rest, False, False))
    if size == 2:
        return _new(Mutated, (reply[0], reply[1], 0, rest, False, False))
    return _mutated(reply, rest)


async def mutate_many(router: Router, mutations: Sequence[Mutation]) -> list[Mutated]:
    """Run `mutate` for first attempts without idempotency key, each atomically. Those for one node run in order."""
    return [_mutated(reply, ()) for reply in await _MUTATE.call_many(router, [mutation.encode() for mutation in mutations])]


def _mutated(reply: list[Any], following: Sequence[Any]) -> Mutated:
    revision, text, dropped, mark = (*reply, None, None, None, None)[:4]
    return Mutated(revision, text, dropped or 0, following, created_scope=mark == 1, found_full=mark == 2)


async def transact(
    router: Router,
    keys: Sequence[bytes],
    options: TransactOptions,
    items: Sequence[bytes],
    *,
    following: Sequence[Sequence[Any]] = (),
) -> Transacted:
    """Check and change several values, and append messages. Commands in `following` run after it over the same connection."""
    arguments = (b"%b\n%d\n%b\n%d\n%b\n%b" % options, *items)
    (words, texts, *more), *rest = await _TRANSACT.call_with(router, keys, arguments, following)
    mutated = _mutated([None, None, *more], rest)
    is_effect = b"@" in options.attempt_token
    return Transacted(words.split(b" "), list(_split_texts(texts)), is_effect, mutated)


def _split_texts(texts: bytes) -> Iterator[bytes]:
    """Yield the parts of a text like `2:{}4:null`."""
    start = 0
    while start < len(texts):
        colon = texts.index(b":", start)
        end = colon + 1 + int(texts[start:colon])
        yield texts[colon + 1 : end]
        start = end


async def enqueue(router: Router, message: Message, *, following: Sequence[Sequence[Any]] = ()) -> Enqueued:
    """Append a message to a topic. Commands in `following` run after it over the same connection."""
    keys: Any = message[:4] if message.idempotency_record is None else message[:5]
    replies: list[Any] = [SEARCHING]
    while replies[0] == SEARCHING:
        replies = await _ENQUEUE.call_with(router, keys, message[5:], following)
    return Enqueued.decode(replies)


async def mark_write(router: Router, *, trimmed: bytes, mark: bytes, following: Sequence[Sequence[Any]]) -> list[Any]:
    """Write the key `mark` for a second, and return the replies of the commands that follow over the same connection."""
    _, *replies = await _MARK_WRITE.call_with(router, (trimmed, mark), ("1000",), following)
    return replies


async def trim_stream(router: Router, *, stream: bytes, trimmed: bytes, limits: bytes) -> int:
    """Trim a stream and return how many entries were removed: about 1 MiB in one call."""
    removed: int = await _TRIM_STREAM(router, (stream, trimmed), (limits,))
    return removed


async def trim_stream_many(router: Router, calls: Sequence[tuple[bytes, bytes, bytes]]) -> list[int]:
    """Do as `trim_stream` for several streams, their `trimmed` hashes and limits."""
    return await _TRIM_STREAM.call_many(router, [((stream, trimmed), (limits,)) for stream, trimmed, limits in calls])


async def get_entry(router: Router, *, values: bytes, revisions: bytes, key: bytes) -> StoredEntry | None:
    """Return the text and the revision of a key, or None when it holds no value."""
    reply = await _GET_ENTRY(router, (values, revisions), (key,))
    return StoredEntry(*reply) if reply else None


async def scan_items(
    router: Router,
    node: Node | None,
    *,
    values: bytes,
    cursor: int = 0,
    count: int = 1,
    max_bytes: int,
    left: Sequence[bytes] = (),
) -> ItemsPage:
    """Return a page of about `count` items, of at most `max_bytes` or one value. `left`: keys to read instead of new ones.

    A cursor is valid for one node only. A page of keys in `left` needs none: with `node` None it is read where the hash is now.
    """
    if node is None:
        reply = await _SCAN_ITEMS(router, (values,), (str(cursor), str(count), str(max_bytes), *left))
    else:
        reply = await _SCAN_ITEMS.call_at(router, node, (values,), (cursor, count, max_bytes, *left))
    following, items, rest = reply
    return ItemsPage(int(following), dict(zip(items[::2], items[1::2], strict=True)), rest)


async def read_items_many(router: Router, wanted: Sequence[tuple[bytes, Sequence[bytes]]], *, max_bytes: int) -> list[ItemsPage]:
    """Return of each hash those of the wanted keys that fit into a page of `max_bytes` or one value."""
    calls: list[tuple[Sequence[bytes], Sequence[bytes | str]]] = [
        ((name,), ("0", "1", str(max_bytes), *keys)) for name, keys in wanted
    ]
    return [
        ItemsPage(0, dict(zip(items[::2], items[1::2], strict=True)), left)
        for _, items, left in await _SCAN_ITEMS.call_many(router, calls)
    ]


async def scan_items_many(router: Router, hashes: Sequence[bytes], *, count: int, max_bytes: int) -> list[ItemsPage]:
    """Return the first page of each hash, of about `count` items, and of at most `max_bytes` or one value."""
    calls = [((name,), ("0", str(count), str(max_bytes))) for name in hashes]
    return [
        ItemsPage(int(following), dict(zip(items[::2], items[1::2], strict=True)), rest)
        for following, items, rest in await _SCAN_ITEMS.call_many(router, calls)
    ]


async def scan_keys(router: Router, node: Node, *, values: bytes, cursor: int, count: int) -> KeysPage:
    """Return a page of about `count` keys, read at `node`: a cursor is valid for one node only."""
    following, keys, size = await _SCAN_KEYS.call_at(router, node, (values,), (cursor, count))
    return KeysPage(int(following), keys, size)


async def scan_entries(
    router: Router,
    node: Node,
    *,
    values: bytes,
    revisions: bytes,
    cursor: int,
    count: int,
    max_bytes: int,
    left: Sequence[bytes] = (),
) -> EntriesPage:
    """Return a page of a scope like `scan_items`, with the revisions."""
    reply = await _SCAN_ENTRIES.call_at(router, node, (values, revisions), (cursor, count, max_bytes, *left))
    following, items, rest, found = reply
    return EntriesPage(int(following), list(zip(items[::2], items[1::2], found, strict=True)), rest)


async def lane_positions(router: Router, *, trimmed: bytes, streams: Sequence[bytes], wanted: Sequence[bytes]) -> LanePositions:
    """Return how far the streams of a partition have come. `wanted` names an entry to look for in each, or nothing."""
    time, *lanes = await _LANE_POSITIONS(router, (trimmed, *streams), wanted)
    return LanePositions(time, [LanePosition(*lane) for lane in lanes])


async def ensure_layout(router: Router, *, layout: bytes | str, fields: Mapping[str, str]) -> dict[bytes, bytes]:
    """Write the fields of the layout if there is none; return the stored ones."""
    return _pairs(await _ENSURE_LAYOUT(router, (layout,), _flat(fields)))


async def change_settings(router: Router, *, layout: bytes | str, version: int, fields: Mapping[str, str]) -> dict[bytes, bytes]:
    """Change fields beside a layout of that version; return the stored fields, none when there is no layout."""
    return _pairs(await _CHANGE_SETTINGS(router, (layout,), (str(version), *_flat(fields))))


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for field in fields.items() for part in field]


def _pairs(reply: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))

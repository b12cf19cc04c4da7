"""The state that all processes share: `(scope, key) -> JSON value`, every change an event in the same atomic step."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError, ResponseError

from motia_redis import codec, keyspace, patch, replies, scripts
from motia_redis.errors import CorruptValue, RevisionConflict, StateError
from motia_redis.limits import Limits, Retention
from motia_redis.sessions import Sessions
from motia_redis.tracing import current_trace_id

if TYPE_CHECKING:
    import builtins
    from types import TracebackType
    from typing import Self

    from redis.asyncio import Redis

    from motia_redis.keyspace import Keyspace, Layout
    from motia_redis.sessions import Session

_log = logging.getLogger(__name__)

_ANY: Final[Any] = object()
_PAGE = 1000  # keys that one page of a big scope holds
_CLEAR_PAGE = 200  # keys that `clear` deletes with one round trip


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its revision: the id of the event that last changed the key. Revisions of a key only grow."""

    value: Any
    revision: str


class StateManager:
    """Shared JSON state in Redis.

    Connects on first use, works in any event loop and in several one after the other, and may be used by any number of tasks.
    Every change is one script call in Redis: it is applied as a whole, with its event, or not at all, and changes of one key take
    effect one after the other. Errors are all below `StateError`; those of Redis itself are `StateUnavailable`.

    Arguments:
        url: where Redis is: `redis://`, `rediss://`, `unix://` or `embedded://DIR` (a server of our own in that folder).
            Default: `$MOTIA_REDIS_URL`, else `embedded://.motia`.
        namespace: the prefix of all keys; namespaces on one Redis never meet. Default: `$MOTIA_REDIS_NAMESPACE`, else `motia`.
        layout: partitions and lanes, if this process insists; by default it takes those the namespace was created with.
        limits: the largest names, values and updates; the same in every process of a namespace.
        retention: how many handled events are kept and for how long, and how many unhandled ones at most; the same everywhere.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        layout: Layout | None = None,
        limits: Limits | None = None,
        retention: Retention | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._sessions = Sessions(url, namespace, layout)
        self.retention = retention or Retention()
        self._retention = self.retention.encode()
        self._mutate = scripts.load("mutate")
        self._most_bytes = b"%d" % self.limits.value_bytes

    def __reduce__(self) -> tuple[partial[StateManager], tuple[()]]:
        """Let copies and pickles be managers with the same settings and connections of their own."""
        given = self._sessions
        again = partial(
            type(self),
            given.given_url,
            namespace=given.given_namespace,
            layout=given.layout,
            limits=self.limits,
            retention=self.retention,
        )
        return again, ()

    # -- connecting ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where this manager connects to."""
        return self._sessions.url

    @property
    def namespace(self) -> str:
        """The prefix of all keys."""
        return self._sessions.namespace

    async def connect(self) -> Keyspace:
        """Connect in the running loop and check the namespace's layout; every call does so on first use.

        Returns the keyspace. Raises StateUnavailable when Redis cannot be reached and LayoutMismatch when the namespace was
        created with another layout or version. Cost: a round trip, once per loop; another
        one when the namespace is created.
        """
        return (await self._sessions.get()).keyspace

    async def client(self, *, max_connections: int = 64) -> Redis:
        """Return a new Redis client of the running loop, for the caller to use and close; it re-sends nothing by itself."""
        return await self._sessions.client(max_connections)

    async def revive(self) -> None:
        """Start the server of an `embedded://` URL again if it ended while in use (a crash); its data is in its log.

        A call that finds Redis away does so by itself, for the next one: this is for those who wait with clients of their own.
        Nothing to do for other URLs and a server that lives. Raises StateUnavailable when it cannot be started.
        """
        await self._sessions.revive()

    async def close(self) -> None:
        """Close the connections of the running loop; idempotent, and the next call reopens.

        The embedded server, if any, is left when no other event loop uses this manager.
        """
        await self._sessions.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, scope: str, key: str) -> Any | None:
        """Return the value of a key, or None when it holds none (or null: `entry` tells the two apart).

        Cost: one round trip, the bytes of the value. Raises InvalidName, CorruptValue, StateUnavailable.
        """
        where, scope_bytes, key_bytes = self._names(scope, key)
        session = await self._sessions.get()
        try:
            text: Any = await session.client.hget(session.keyspace.values(scope_bytes), key_bytes)
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(where, error) from error
        return None if text is None else codec.decode(text, where=where)

    async def entry(self, scope: str, key: str) -> Entry | None:
        """Return value and revision of a key as they were at one moment, or None when it holds no value.

        A value that another client wrote into the hash has the revision `0-0`. Cost and errors: as `get`.
        """
        where, scope_bytes, key_bytes = self._names(scope, key)
        session = await self._sessions.get()
        try:
            async with session.client.pipeline(transaction=True) as pipeline:
                pipeline.hget(session.keyspace.values(scope_bytes), key_bytes)
                pipeline.hget(session.keyspace.revisions(scope_bytes), key_bytes)
                text, revision = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(where, error) from error
        return None if text is None else Entry(codec.decode(text, where=where), (revision or b"0-0").decode(errors="replace"))

    async def list(self, scope: str) -> builtins.list[Any]:
        """Return all values of a scope, in no promised order.

        Read page by page, so that a big scope does not hold up Redis: a value that is there all the time is in the result
        once; one that changes meanwhile is there as it was at some moment. Cost: a round trip per page of about 1,000 keys.
        Raises InvalidName, CorruptValue, StateUnavailable.
        """
        scope_bytes = keyspace.encode_name("scope", scope, self.limits.name_bytes)
        session = await self._sessions.get()
        texts: dict[Any, Any] = {}
        page: Any
        cursor = 0
        try:
            while True:
                cursor, page = await session.client.hscan(session.keyspace.values(scope_bytes), cursor, count=_PAGE)
                texts.update(page)
                if not cursor:
                    break
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(f"scope {scope!r}", error) from error
        try:
            return [codec.decode(text, where="") for text in texts.values()]
        except CorruptValue:  # once more, to name the key
            return [codec.decode(text, where=self._where(scope, key)) for key, text in texts.items()]

    async def list_groups(self) -> builtins.list[str]:
        """Return the scopes that hold a value, sorted.

        Cost: the number of scopes, not of keys; read page by page. Raises CorruptValue, StateUnavailable.
        """
        session = await self._sessions.get()
        scopes: set[Any] = set()
        try:
            for partition in range(session.keyspace.layout.partitions):
                async for scope in session.client.sscan_iter(session.keyspace.scopes(partition), count=_PAGE):
                    scopes.add(scope)
        except (RedisError, OSError) as error:
            raise await self._sessions.failed("list_groups", error) from error
        try:
            return sorted(scope.decode() for scope in scopes)
        except UnicodeDecodeError as error:
            raise CorruptValue(
                f"list_groups: {error.object!r:.200} is not UTF-8; another client wrote it: SREM it from the set"
            ) from None

    # -- changing -----------------------------------------------------------------------------------------------------

    async def set(self, scope: str, key: str, value: Any, *, if_revision: str | None = _ANY) -> Any:
        """Store a value and return it.

        Atomic with its event (`state:created` or `state:updated`). With `if_revision` it is stored only if the key has that
        revision (None: only if it holds no value), else RevisionConflict is raised and nothing changed. Cost: one round trip,
        the bytes of the new and the old value. Raises InvalidName, InvalidValue, ValueTooLarge, StateUnavailable.
        """
        text = codec.encode(value, where=self._where(scope, key), max_bytes=self.limits.value_bytes)
        await self._change(scope, key, if_revision, [b"set", text + codec.SEAL])
        return value

    async def update(
        self,
        scope: str,
        key: str,
        ops: builtins.list[dict[str, Any]],
        strict: bool = False,
        *,
        if_revision: str | None = _ANY,
    ) -> Any:
        """Apply operations to a value inside of Redis, all or none, and return the updated value.

        Operations are JSON Patch (`{"op", "path" = JSON Pointer, "value"}`: add remove replace move copy test increment
        decrement append merge) or Motia's (`{"type", "path" = field, "value" or "by"}`: set merge increment decrement append
        remove). By default a missing key starts from `{}`, a missing member is created by `replace`, ignored by `remove` and
        counts as 0 for `increment`; a missing parent is an error. `strict` is RFC 6902 to the letter. Bytes of the value that no
        operation touches never change. An update of an existing value that touches nothing (only `test`, removals of what is
        not there) has no event and no new revision; any other is atomic with its one event.

        Cost: one round trip, the bytes of the value. Raises InvalidName, InvalidOperation, InvalidPointer, InvalidValue,
        UpdateFailed (with the failing operation), ValueTooLarge, CorruptValue, RevisionConflict, StateUnavailable; after each
        of them nothing has changed (StateUnavailable: see there).
        """
        where = self._where(scope, key)
        arguments = patch.translate(ops, strict=strict, limits=self.limits, where=where)
        mode = b"strict" if strict else b"lenient"
        reply = await self._change(scope, key, if_revision, [b"update", mode, *arguments], ops)
        return codec.decode(reply[1], where=where)

    async def delete(self, scope: str, key: str, *, if_revision: str | None = _ANY) -> Any | None:
        """Remove a key and return the value it held, or None.

        Atomic with its event (`state:deleted`); deleting what is not there changes nothing and has no event. `if_revision`,
        cost and errors: as `set`.
        """
        reply = await self._change(scope, key, if_revision, [b"delete"])
        return codec.decode(reply[1], where=self._where(scope, key)) if reply else None

    async def clear(self, scope: str) -> None:
        """Delete all values of a scope, with one event per key.

        Works page by page and never holds up Redis: not atomic as a whole, each key is. Keys created meanwhile may stay. After
        an error, call it again. Cost: a round trip or two per 200 keys. Raises InvalidName, StateUnavailable.
        """
        scope_bytes = keyspace.encode_name("scope", scope, self.limits.name_bytes)
        session = await self._sessions.get()
        scan, cursor = scripts.load("scan_keys"), b"0"
        try:
            while True:
                values = session.keyspace.values(scope_bytes)
                cursor, keys = await scan(session.client, [values], [cursor, b"%d" % _CLEAR_PAGE])
                calls = [self._call(session, scope_bytes, key, b"", [b"delete"]) for key in keys]
                await self._mutate.many(session.client, calls)
                if cursor == b"0":
                    return
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(f"scope {scope!r}", error) from error

    async def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> str:
        """Append a message to a topic and return the message's id, which no other message has.

        Messages of one `key` are kept in order; without a key they spread over the topic's lanes. Cost: one round trip, the
        bytes of `data`. Raises InvalidName, InvalidValue, ValueTooLarge, StateUnavailable.
        """
        topic_bytes = keyspace.encode_name("topic", topic, self.limits.name_bytes)
        key_bytes = b"" if key is None else keyspace.encode_name("key", key, self.limits.name_bytes)
        where = f"topic {topic!r}"
        text = codec.encode(data, where=where, max_bytes=self.limits.value_bytes)
        session = await self._sessions.get()
        request = _request_id()
        stream = session.keyspace.topic(topic_bytes, session.keyspace.lane(key_bytes or request))
        arguments = [topic_bytes, key_bytes, text, request, _trace(), self._retention]
        try:
            _report(where, await scripts.load("enqueue")(session.client, [stream, session.keyspace.dropped(stream)], arguments))
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(where, error) from error
        return request.decode()

    async def _change(
        self, scope: str, key: str, if_revision: str | None, change: builtins.list[bytes], operations: object = None
    ) -> builtins.list[bytes]:
        """Run the mutation script for one key and return its reply."""
        where, scope_bytes, key_bytes = self._names(scope, key)
        expected = _expected(if_revision, where)
        session = await self._sessions.get()
        try:
            reply = await self._mutate(session.client, *self._call(session, scope_bytes, key_bytes, expected, change))
        except ResponseError as error:
            known = replies.to_error(where, error, operations)
            if known is None:
                raise await self._sessions.failed(where, error) from error
            if isinstance(known, RevisionConflict):
                known.expected = if_revision
            raise known from None
        except (RedisError, OSError) as error:
            raise await self._sessions.failed(where, error) from error
        _report(where, reply)
        return reply  # type: ignore[no-any-return]  # what mutate.lua's RETURNS says

    def _call(
        self, session: Session, scope: bytes, key: bytes, expected: bytes, change: builtins.list[bytes]
    ) -> tuple[builtins.list[bytes], builtins.list[bytes]]:
        """Return the mutation script's keys and arguments for one change."""
        names = session.keyspace.state_keys(scope, key)
        common = [scope, key, _request_id(), _trace(), expected, self._most_bytes, self._retention]
        return [names.values, names.revisions, names.scopes, names.events, names.dropped], common + change

    def _names(self, scope: str, key: str) -> tuple[str, bytes, bytes]:
        where = self._where(scope, key)
        return (
            where,
            keyspace.encode_name("scope", scope, self.limits.name_bytes),
            keyspace.encode_name("key", key, self.limits.name_bytes),
        )

    @staticmethod
    def _where(scope: object, key: object) -> str:
        return f"scope {scope!r:.200} key {key.decode(errors='replace') if isinstance(key, bytes) else key!r:.200}"


def _expected(if_revision: object, where: str) -> bytes:
    """Return `if_revision` as the script takes it."""
    if if_revision is _ANY:
        return b""
    if if_revision is None:
        return b"none"
    if isinstance(if_revision, str) and keyspace.is_revision(if_revision):
        return if_revision.encode()
    raise StateError(f"{where}: if_revision must be a revision like '1700000000000-0', or None: {if_revision!r:.80}")


def _report(where: str, reply: builtins.list[Any]) -> None:
    """Log what the hard cap dropped, if a script's reply tells so."""
    if len(reply) > 2:
        _log.error("%s: its lane is over the hard cap: %d entries were dropped that a step had not handled", where, reply[2])


def _request_id() -> bytes:
    return secrets.token_hex(8).encode()


def _trace() -> bytes:
    return (current_trace_id() or "").encode()


#: The global instance; works without set-up in any event loop.
stateManager = state_manager = StateManager()  # noqa: N816  # the reference's name

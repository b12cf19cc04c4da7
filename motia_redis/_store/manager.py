"""The state that all processes share: `(scope, key) -> JSON value`, every change an event in the same atomic step."""

from __future__ import annotations

import asyncio
import builtins
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._scripts import storage as scripts
from motia_redis._store import codec, keyspace, patch
from motia_redis._store.durability import Durability
from motia_redis._store.keyspace import Subject
from motia_redis._store.limits import Limits, Retention, check_seconds
from motia_redis._store.mutations import ANY, Mutations
from motia_redis._store.retries import Retries
from motia_redis._store.scans import Scan
from motia_redis._store.sessions import Sessions
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from motia_redis._store import types
    from motia_redis._store.keyspace import Keyspace, Layout
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session
    from motia_redis._transport.router import Router


_AT_ONCE = 16  # partitions that `list_groups` reads


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its revision: the id of the event that last changed the key. Revisions of a key only grow."""

    value: Any
    revision: str


class StateManager:
    """Shared JSON state in Redis.

    Connects on first use, works in any event loop and in several one after the other, and may be used by any number of tasks.
    Every change is one script call in Redis: it is applied as a whole, with its event, or not at all, and changes of one key take
    effect one after the other. A call that Redis does not answer is sent again until a deadline, and a change is applied once
    however often it was sent. Errors are all below `StateError`; those of Redis itself are `StateUnavailable`.

    Arguments:
        url: where Redis is: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service`,
            `redis+cluster://host:port,host:port` or `embedded://DIR` (a server of our own in that folder).
            Default: `$MOTIA_REDIS_URL`, else `embedded://.motia`.
        namespace: the prefix of all keys; namespaces on one Redis never meet. Default: `$MOTIA_REDIS_NAMESPACE`, else `motia`.
        layout: partitions and lanes, if this process insists; by default it takes those the namespace was created with.
        limits: the largest names, values and updates; the same in every process of a namespace.
        retention: how many handled events are kept and for how long, and how many unhandled ones at most; the same everywhere.
        deadline: seconds from the first to the last attempt at a call; 0: a single attempt. Attempts wait 3 seconds for a reply.
        durability: how safe a change is before its call returns: `memory` (as Redis is configured), `replicated` (`replicas` of
            them have it) or `fsynced` (on the primary's disk; Redis 7.2, appendonly). Else the call raises NotDurable, and the
            change stands.
        replicas: how many, for `replicated`.
        durability_timeout: seconds to wait for that.
        idempotency_seconds: how long the outcome of a call with an `idempotency_key` is kept.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        layout: Layout | None = None,
        limits: Limits | None = None,
        retention: Retention | None = None,
        deadline: float = 10.0,
        durability: types.Durability = "memory",
        replicas: int = 1,
        durability_timeout: float = 1.0,
        idempotency_seconds: float = 86_400.0,
    ) -> None:
        self.limits: Limits = limits or Limits()
        self.retention: Retention = retention or Retention()
        self.durability: Durability = Durability(durability, replicas, durability_timeout)
        self._idempotency_seconds = check_seconds("idempotency_seconds", idempotency_seconds, least=0.001)
        self._sessions = Sessions(url, namespace, layout, self.durability)
        self._retries = Retries(self._sessions, check_seconds("deadline", deadline, least=0.0))
        self._mutations = Mutations(self._retries, self.limits, self.retention, self.durability, idempotency_seconds)

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
            deadline=self._retries.deadline,
            durability=self.durability.level,
            replicas=self.durability.replicas,
            durability_timeout=self.durability.timeout,
            idempotency_seconds=self._idempotency_seconds,
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

    async def open_router(self, *, max_connections: int = 64) -> Router:
        """Return new clients of the running loop, for the caller to use and close; they re-send nothing by themselves."""
        return await self._sessions.open_router(max_connections=max_connections)

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
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            values = session.keyspace.values(scope_bytes)
            return await session.router.execute(values, "HGET", values, key_bytes)

        text = await self._retries.run(subject, read)
        return None if text is None else codec.decode(text, subject=subject)

    async def entry(self, scope: str, key: str) -> Entry | None:
        """Return value and revision of a key as they were at one moment, or None when it holds no value.

        A value that another client wrote into the hash has the revision `0-0`. Cost and errors: as `get`.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            names = session.keyspace.state_keys(scope_bytes, key_bytes)
            return await scripts.get_entry(session.router, values=names.values, revisions=names.revisions, key=key_bytes)

        found = await self._retries.run(subject, read)
        return Entry(codec.decode(found.text, subject=subject), found.revision.decode(errors="replace")) if found else None

    async def list(self, scope: str) -> builtins.list[Any]:
        """Return all values of a scope, in no promised order.

        Read page by page, so that a big scope does not hold up Redis: a value that is there all the time is in the result
        once; one that changes meanwhile is there as it was at some moment. Cost: a round trip per page of up to 500 keys or
        128 KiB. Raises InvalidName, CorruptValue, StateUnavailable.
        """
        return builtins.list((await self._all(scope)).values())

    async def items(self, scope: str) -> dict[str, Any]:
        """Return all keys of a scope with their values. Read, and what is promised, as by `list`."""
        return {_text(key): value for key, value in (await self._all(scope)).items()}

    async def keys(self, scope: str) -> builtins.list[str]:
        """Return all keys of a scope, each once, in no promised order.

        Cost: as `list`, but the values stay in Redis. Raises InvalidName, StateUnavailable.
        """
        values, scan = await self._scan(scope)
        found: dict[bytes, None] = {}
        async for page in scan.fields(values):
            found.update(dict.fromkeys(page))
        return [_text(key) for key in found]

    async def scan(self, scope: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield the keys and values of a scope, page by page, for scopes that are too big to hold.

        A key that is there all the time is yielded at least once: twice, with the value of each moment, if the scope shrinks
        meanwhile or Redis fails over. Whoever stops early costs Redis no more. Cost and errors: as `list`.
        """
        values, scan = await self._scan(scope)
        async for page in scan.items(values):
            for key, text in page.items():
                yield _text(key), _value(scope, key, text)

    async def count(self, scope: str) -> int:
        """Return how many keys of a scope hold a value. Cost: one round trip. Raises InvalidName, StateUnavailable."""
        values, _ = await self._scan(scope)

        async def read(session: Session, _: Attempt) -> Any:
            return await session.router.execute(values, "HLEN", values)

        return int(await self._retries.run(f"scope {scope!r:.200}", read))

    async def list_groups(self) -> builtins.list[str]:
        """Return the scopes that hold a value, sorted.

        Cost: the number of scopes, not of keys; read page by page. Raises CorruptValue, StateUnavailable.
        """
        scopes: set[bytes] = set()
        scan = Scan(self._retries, "list_groups")
        partitions = iter((await self._sessions.get()).keyspace.all_scopes())

        async def read() -> None:
            for partition in partitions:
                async for page in scan.members(partition):
                    scopes.update(page)

        readers = [asyncio.create_task(read()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*readers)
        finally:  # behind an error nobody goes on
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        try:
            return sorted(scope.decode() for scope in scopes)
        except UnicodeDecodeError as error:
            raise CorruptValue(
                f"list_groups: {error.object!r:.200} is not UTF-8; another client wrote it: SREM it from the set"
            ) from None

    async def _all(self, scope: str) -> dict[bytes, Any]:
        """Return all keys of a scope with their values."""
        values, scan = await self._scan(scope)
        found: dict[bytes, Any] = {}
        async with aclosing(scan.items(values, ahead=True)) as pages:
            async for page in pages:
                found.update(_values(scope, page))
        return found

    async def _scan(self, scope: str) -> tuple[bytes, Scan]:
        """Return the hash of a scope's values, and what reads it page by page."""
        scope_bytes = keyspace.encode_name("scope", scope, self.limits.name_bytes)
        return (await self._sessions.get()).keyspace.values(scope_bytes), Scan(self._retries, f"scope {scope!r:.200}")

    # -- changing -----------------------------------------------------------------------------------------------------

    async def set(
        self, scope: str, key: str, value: Any, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Any:
        """Store a value and return it.

        Atomic with its event (`state:created` or `state:updated`). With `if_revision` it is stored only if the key has that
        revision (None: only if it holds no value), else RevisionConflict is raised and nothing changed. Cost: one round trip,
        the bytes of the new and the old value. Raises InvalidName, InvalidValue, ValueTooLarge, StateUnavailable.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        change = [b"set", codec.encode(value, subject=subject, max_bytes=self.limits.value_bytes) + codec.CANONICAL_MARK]
        await self._mutations.apply(
            subject, scope_bytes, key_bytes, change, if_revision=if_revision, idempotency_key=idempotency_key
        )
        return value

    async def update(
        self,
        scope: str,
        key: str,
        ops: Sequence[types.Operation],
        strict: bool = False,
        *,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
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
        subject, scope_bytes, key_bytes = self._names(scope, key)
        arguments = patch.translate(ops, strict=strict, limits=self.limits, subject=subject)
        change = [b"update", b"strict" if strict else b"lenient", b"%d" % self.limits.value_bytes, *arguments]
        reply = await self._mutations.apply(
            subject, scope_bytes, key_bytes, change, if_revision=if_revision, idempotency_key=idempotency_key, operations=ops
        )
        return codec.decode(reply.text or b"", subject=subject)

    async def delete(
        self, scope: str, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Any | None:
        """Remove a key and return the value it held, or None.

        Atomic with its event (`state:deleted`); deleting what is not there changes nothing and has no event. `if_revision`,
        cost and errors: as `set`.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        reply = await self._mutations.apply(
            subject, scope_bytes, key_bytes, [b"delete"], if_revision=if_revision, idempotency_key=idempotency_key
        )
        return None if reply.text is None else codec.decode(reply.text, subject=subject)

    async def clear(self, scope: str) -> None:
        """Delete all values of a scope, with one event per key.

        Works page by page and never holds up Redis: not atomic as a whole, each key is. Keys created meanwhile may stay. After
        an error, call it again. Cost: two round trips per page. Raises InvalidName, StateUnavailable.
        """
        values, scan = await self._scan(scope)
        async for page in scan.fields(values):
            await self._mutations.delete(f"scope {scope!r:.200}", scope.encode(), page)

    async def enqueue(self, topic: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> str:
        """Append a message to a topic and return the message's id, which no other message has.

        Messages of one `key` are kept in order; without a key they spread over the topic's lanes. Cost: one round trip, the
        bytes of `data`. Raises InvalidName, InvalidValue, ValueTooLarge, StateUnavailable.
        """
        topic_bytes = keyspace.encode_name("topic", topic, self.limits.name_bytes)
        key_bytes = b"" if key is None else keyspace.encode_name("key", key, self.limits.name_bytes)
        subject = f"topic {topic!r}"
        text = codec.encode(data, subject=subject, max_bytes=self.limits.value_bytes)
        return await self._mutations.append(subject, topic_bytes, key_bytes, text, idempotency_key=idempotency_key)

    def _names(self, scope: str, key: str) -> tuple[Subject, bytes, bytes]:
        most = self.limits.name_bytes
        return Subject(scope, key), keyspace.encode_name("scope", scope, most), keyspace.encode_name("key", key, most)


def _values(scope: str, page: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    """Return the values of a page, decoded without a call of ours for each: that would be a tenth of the time of `list`."""
    try:
        return dict(zip(page, map(orjson.loads, page.values()), strict=True))
    except orjson.JSONDecodeError:
        return {key: _value(scope, key, text) for key, text in page.items()}


def _value(scope: str, key: bytes, text: bytes) -> Any:
    """Return the value of a key that was read with others. Raises CorruptValue, which names the key."""
    try:
        return codec.decode(text, subject="")
    except CorruptValue:
        return codec.decode(text, subject=Subject(scope, key.decode(errors="replace")))


def _text(key: bytes) -> str:
    """Return a key as text; bytes of another client that are no UTF-8 stay apart as surrogates."""
    return key.decode(errors="surrogateescape")


#: The global instance; works without set-up in any event loop.
stateManager: StateManager = StateManager()  # noqa: N816  # the reference's name
#: The same instance under the name that PEP 8 asks for.
state_manager: StateManager = stateManager

"""State shared by all processes: `(scope, key) -> JSON value`. A change and its event are written in one atomic step."""

from __future__ import annotations

import asyncio
import builtins
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from motia_redis._scripts import storage as scripts
from motia_redis._store import codec, keyspace, patch
from motia_redis._store.durability import Durability
from motia_redis._store.keyspace import Subject
from motia_redis._store.limits import Limits, check_seconds
from motia_redis._store.mutations import ANY, Mutations
from motia_redis._store.retries import Retries
from motia_redis._store.scans import Scan
from motia_redis._store.sessions import Sessions
from motia_redis._store.settings import GivenSettings
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType
    from typing import Self

    from motia_redis._store import types
    from motia_redis._store.keyspace import Keyspace, Layout
    from motia_redis._store.limits import Retention
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session
    from motia_redis._store.settings import Settings
    from motia_redis._transport.endpoint import Credentials
    from motia_redis._transport.router import Router

_CONCURRENT_SCANS = 16  # partitions that `list_groups` reads at the same time


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a value and its revision, the id of the event that last changed the key. Revisions of a key only grow."""

    value: Any
    revision: str


class StateManager:
    """Read and change JSON state that many processes share in Redis.

    A manager connects on first use. Any number of tasks and event loops may use it. Each mutation is one script call in Redis:
    the change and its event are written together, or neither is. Mutations of one key take effect one after the other. A call
    that Redis does not answer is repeated until the deadline, and a repeated mutation is applied once. All errors are subclasses
    of `StateError`. Failures of Redis and of the network raise `StateUnavailable`.

    Arguments:
        url: the address of Redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service`,
            `redis+cluster://host:port,host:port` or `embedded://DIR` (an embedded server with its data in that directory).
            Default: `$MOTIA_REDIS_URL`, else `embedded://.motia`.
        namespace: the prefix of all keys. Namespaces share nothing. Default: `$MOTIA_REDIS_NAMESPACE`, else `motia`.
        layout: the numbers of partitions and lanes to require. Default: accept the layout that the namespace has.
        limits: the largest names, values and updates. Use the same limits in all processes of a namespace.
        retention: how many events are kept, and for how long. Default: what the namespace has stored. The first process that
            connects stores it, and another one raises SettingsMismatch. `motia-redis settings` changes it.
        deadline: seconds from the first to the last attempt at a call. 0: one attempt only. An attempt waits 3 s for its reply.
            Default: what the namespace has stored, 10 s at first. A longer one raises SettingsMismatch.
        durability: how safe a change must be before its call returns: `memory` (as Redis is configured), `replicated` (on
            `replicas` replicas) or `fsynced` (on the primary's disk; needs Redis 7.2 and `appendonly yes`). If the change is not
            as safe in time, the call raises NotDurable and the change stands.
        replicas: the number of replicas for `replicated`, at least 1.
        durability_timeout: seconds to wait for `replicated` or `fsynced`: more than 0, at most 60.
        idempotency_seconds: seconds for which the result of a call with an `idempotency_key` is kept.
        credentials: an async function that returns user name (None: the default user) and password, in place of those in the
            URL. It is called before each connection is opened (but to sentinels): for passwords and tokens that change.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        layout: Layout | None = None,
        limits: Limits | None = None,
        retention: Retention | None = None,
        deadline: float | None = None,
        durability: types.Durability = "memory",
        replicas: int = 1,
        durability_timeout: float = 1.0,
        idempotency_seconds: float = 86_400.0,
        credentials: Credentials | None = None,
    ) -> None:
        self.limits: Limits = limits or Limits()
        if deadline is not None:
            check_seconds("deadline", deadline, least=0.0)
        self.durability: Durability = Durability(durability, replicas, durability_timeout)
        self._idempotency_seconds = check_seconds("idempotency_seconds", idempotency_seconds, least=0.001)
        given = GivenSettings(retention, deadline)
        self._sessions = Sessions(url, namespace, layout, given, self.durability, credentials=credentials)
        self._retries = Retries(self._sessions, deadline)
        self._mutations = Mutations(self._retries, self.limits, self.durability, idempotency_seconds)

    def __reduce__(self) -> tuple[partial[StateManager], tuple[()]]:
        """Make copies and pickles with the same settings and their own connections."""
        sessions = self._sessions
        constructor = partial(
            type(self),
            sessions.given_url,
            namespace=sessions.given_namespace,
            layout=sessions.layout,
            limits=self.limits,
            retention=sessions.given.retention,
            deadline=sessions.given.deadline,
            durability=self.durability.level,
            replicas=self.durability.replicas,
            durability_timeout=self.durability.timeout,
            idempotency_seconds=self._idempotency_seconds,
            credentials=sessions.credentials,
        )
        return constructor, ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._sessions}>"

    # -- connecting ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that this manager connects to."""
        return self._sessions.url

    @property
    def namespace(self) -> str:
        """The prefix of all keys."""
        return self._sessions.namespace

    async def connect(self) -> Keyspace:
        """Connect in the running event loop and check the layout of the namespace. Other calls do this on first use.

        Returns the keyspace. Raises StateUnavailable if Redis cannot be reached, LayoutMismatch if the namespace was created with
        another layout or version, and SettingsMismatch if it has other settings than this manager was given. Cost: one round trip
        for each loop, and another one to create the namespace.
        """
        return (await self._sessions.get()).keyspace

    async def settings(self) -> Settings:
        """Return the settings that the namespace has stored, as of the last look at them: on connect, or by `check_layout`."""
        return (await self._sessions.get()).settings

    async def open_router(self, *, max_connections: int = 64) -> Router:
        """Return a new router for the running event loop. The caller must close it. It does not repeat commands."""
        return await self._sessions.open_router(max_connections=max_connections)

    async def check_layout(self) -> None:
        """Read the layout of the namespace again, and write it again if Redis has lost it together with its data.

        Calls of this manager do this after a lost connection, and when a change creates a scope or a topic. Only code with its
        own router needs this method. Cost: one round trip. Raises LayoutMismatch if another process has written another layout
        since: all later calls raise it, until `close`. Raises StateUnavailable.
        """
        await self._retries.check_layout(f"namespace {self.namespace!r}")

    async def revive(self) -> None:
        """Start the server of an `embedded://` URL again if it crashed. It restores its data from its append-only file.

        Calls of this manager restart a dead embedded server automatically. Only code with its own router needs this method. It
        does nothing for other URLs or if the server runs. Raises StateUnavailable if the server cannot be started.
        """
        await self._sessions.revive()

    async def close(self) -> None:
        """Close the connections of the running event loop. Closing twice is allowed, and the next call connects again.

        An embedded server is released when no other event loop uses this manager.
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
        """Return the value of a key. Return None if the key has no value or has the value null; `entry` tells them apart.

        Cost: one round trip, O(bytes of the value). Raises InvalidName, CorruptValue, StateUnavailable.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            values = session.keyspace.values(scope_bytes)
            return await session.router.execute(values, "HGET", values, key_bytes)

        text = await self._retries.run(subject, read)
        return None if text is None else codec.decode(text, subject=subject)

    async def entry(self, scope: str, key: str) -> Entry | None:
        """Return the value and the revision of a key, read in one atomic step. Return None if the key has no value.

        A value that another client wrote into the hash has the revision `0-0`. Cost and errors are those of `get`.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            names = session.keyspace.state_keys(scope_bytes, key_bytes)
            return await scripts.get_entry(session.router, values=names.values, revisions=names.revisions, key=key_bytes)

        found = await self._retries.run(subject, read)
        return Entry(codec.decode(found.text, subject=subject), found.revision.decode(errors="replace")) if found else None

    async def list(self, scope: str) -> builtins.list[Any]:
        """Return all values of a scope, in no particular order.

        The scope is read in pages, so that a large scope does not block Redis. The result is not a snapshot. A key that exists
        during the whole call is included once, with a value that it had during the call. Cost: one round trip for each page of
        about 128 KiB, at most 500 keys. Raises InvalidName, CorruptValue, StateUnavailable.
        """
        return builtins.list((await self._all(scope)).values())

    async def items(self, scope: str) -> dict[str, Any]:
        """Return a dict of all keys of a scope and their values. Promises, cost and errors are those of `list`."""
        return {codec.decode_key(key): value for key, value in (await self._all(scope)).items()}

    async def keys(self, scope: str) -> builtins.list[str]:
        """Return all keys of a scope, each once, in no particular order.

        Promises and cost are those of `list`, but no values are transferred. Raises InvalidName, StateUnavailable.
        """
        values, scan = await self._scan(scope)
        found: dict[bytes, None] = {}
        async for page in scan.fields(values):
            found.update(dict.fromkeys(page))
        return [codec.decode_key(key) for key in found]

    async def scan(self, scope: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield `(key, value)` pairs of a scope, read in pages, for scopes that do not fit into memory.

        A key that exists during the whole scan is yielded at least once. It may be yielded again, with its value at that time, if
        the scope shrinks or Redis fails over. Breaking out early stops further reads. Cost and errors are those of `list`.
        """
        values, scan = await self._scan(scope)
        async for page in scan.items(values):
            for key, text in page.items():
                yield codec.decode_key(key), codec.decode_item(scope, key, text)

    async def count(self, scope: str) -> int:
        """Return the number of keys in a scope. Cost: one round trip, O(1). Raises InvalidName, StateUnavailable."""
        values, _ = await self._scan(scope)

        async def read(session: Session, _: Attempt) -> Any:
            return await session.router.execute(values, "HLEN", values)

        return int(await self._retries.run(f"scope {scope!r:.200}", read))

    async def list_groups(self) -> builtins.list[str]:
        """Return the sorted names of all scopes that have a key. They are read in pages, and the result is not a snapshot.

        Cost: at least one round trip for each partition, O(scopes), whatever the number of keys. Raises CorruptValue if a name is
        not UTF-8, and StateUnavailable.
        """
        scopes: set[bytes] = set()
        scan = Scan(self._retries, "list_groups")
        partitions = iter((await self._sessions.get()).keyspace.all_scopes())

        async def read() -> None:
            for partition in partitions:
                async for page in scan.members(partition):
                    scopes.update(page)

        readers = [asyncio.create_task(read()) for _ in range(_CONCURRENT_SCANS)]
        try:
            await asyncio.gather(*readers)
        finally:  # after an error the other readers must stop too
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        try:
            return sorted(scope.decode() for scope in scopes)
        except UnicodeDecodeError as error:
            raise CorruptValue(
                f"list_groups: the scope name {error.object!r:.200} is not UTF-8; another client wrote it: remove it with SREM"
            ) from None

    async def _all(self, scope: str) -> dict[bytes, Any]:
        """Return a dict of all keys of a scope and their values."""
        values, scan = await self._scan(scope)
        found: dict[bytes, Any] = {}
        async with aclosing(scan.items(values, ahead=True)) as pages:
            async for page in pages:
                found.update(codec.decode_page(scope, page))
        return found

    async def _scan(self, scope: str) -> tuple[bytes, Scan]:
        """Return the name of the hash that holds a scope's values, and the scan that reads it in pages."""
        scope_bytes = keyspace.encode_name("scope", scope, self.limits.name_bytes)
        return (await self._sessions.get()).keyspace.values(scope_bytes), Scan(self._retries, f"scope {scope!r:.200}")

    # -- changing -----------------------------------------------------------------------------------------------------

    async def set(
        self, scope: str, key: str, value: Any, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Any:
        """Store a JSON value and return it. The value and its event (created or updated) are written in one atomic step.

        With `if_revision` the value is stored only if the key has that revision (None: only if the key has no value). With
        `idempotency_key` a repeated call changes nothing and returns the same result. Cost: one round trip, and one more for the
        first key of a scope; O(bytes of both values). Raises InvalidName, InvalidValue, ValueTooLarge, RevisionConflict,
        IdempotencyKeyReused, StateUnavailable, NotDurable. Nothing is changed after an error, but see StateUnavailable and
        NotDurable.
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
        """Apply operations to a value inside Redis, all or none, and return the new value.

        Operations are JSON Patch (`{"op", "path" = JSON Pointer, "value"}`: add remove replace move copy test increment
        decrement append merge) or Motia's (`{"type", "path" = field, "value" or "by"}`: set merge increment decrement append
        remove). By default a missing key starts as `{}`. `replace` creates a missing member, `remove` ignores it, and `increment`
        takes it as 0. A missing parent is an error. `strict` follows RFC 6902 exactly. Bytes that no operation touches never
        change. The new value and its event are written in one atomic step. An update that touches nothing of an existing value
        (only `test`, or `remove` of missing members) has no event and keeps the revision.

        `if_revision` and `idempotency_key` work as in `set`. Cost: one round trip, O(bytes of the value). Raises the errors of
        `set`, InvalidOperation, InvalidPointer, UpdateFailed (names the failing operation) and CorruptValue.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        arguments = patch.translate(ops, strict=strict, limits=self.limits, subject=subject)
        change = [b"strict update" if strict else b"update", b"%d" % self.limits.value_bytes, *arguments]
        reply = await self._mutations.apply(
            subject, scope_bytes, key_bytes, change, if_revision=if_revision, idempotency_key=idempotency_key, operations=ops
        )
        return codec.decode(reply.text or b"", subject=subject)

    async def delete(
        self, scope: str, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Any | None:
        """Remove a key and return its last value, or None. The removal and its event are written in one atomic step.

        Deleting a missing key changes nothing and has no event. `if_revision` and `idempotency_key` work as in `set`. Cost: one
        round trip, O(bytes of the value). Raises the errors of `set` for names and revisions, and CorruptValue.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        reply = await self._mutations.apply(
            subject, scope_bytes, key_bytes, [b"delete"], if_revision=if_revision, idempotency_key=idempotency_key
        )
        return None if reply.text is None else codec.decode(reply.text, subject=subject)

    async def clear(self, scope: str) -> None:
        """Delete all keys of a scope, with one event for each key.

        Keys are deleted in pages, so that a large scope does not block Redis. Each deletion is atomic, the whole call is
        not. Keys created during the call may stay. After an error, call `clear` again. Cost: two round trips for each page, or
        three if `durability` is not `memory`. Raises InvalidName, StateUnavailable, NotDurable.
        """
        values, scan = await self._scan(scope)
        async for page in scan.fields(values):
            await self._mutations.delete(f"scope {scope!r:.200}", scope.encode(), page)

    async def enqueue(self, topic: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> str:
        """Append a message with JSON data to a topic, in one atomic step, and return its unique id.

        Messages with the same `key` are handled in order. Messages without a key spread over the lanes of the topic.
        `idempotency_key` works as in `set`. Cost: one round trip, O(bytes of `data`). Raises InvalidName, InvalidValue,
        ValueTooLarge, IdempotencyKeyReused, StateUnavailable, NotDurable.
        """
        topic_bytes = keyspace.encode_name("topic", topic, self.limits.name_bytes)
        key_bytes = b"" if key is None else keyspace.encode_name("key", key, self.limits.name_bytes)
        subject = f"topic {topic!r}"
        text = codec.encode(data, subject=subject, max_bytes=self.limits.value_bytes)
        return await self._mutations.append(subject, topic_bytes, key_bytes, text, idempotency_key=idempotency_key)

    def _names(self, scope: str, key: str) -> tuple[Subject, bytes, bytes]:
        most = self.limits.name_bytes
        return Subject(scope, key), keyspace.encode_name("scope", scope, most), keyspace.encode_name("key", key, most)


#: The global instance. It needs no set-up and works in any event loop.
stateManager: StateManager = StateManager()  # noqa: N816  # Motia's name
#: The same instance under the name that PEP 8 asks for.
state_manager: StateManager = stateManager

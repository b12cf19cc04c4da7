"""Read state: values, entries, whole scopes in pages."""

from __future__ import annotations

import asyncio
import builtins
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from motia_redis._scripts import storage as scripts
from motia_redis._store import codec, expiry, keyspace
from motia_redis._store.collecting import young_only
from motia_redis._store.keyspace import RESERVED, Subject, partition_of
from motia_redis._store.scans import Scan
from motia_redis._store.stream_groups import stream_prefix
from motia_redis._store.sweeping import settle
from motia_redis._transport import refusals
from motia_redis._transport.failures import ErrorReply
from motia_redis.errors import CorruptValue, InvalidName, TooManyKeys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Self

    # `Entry` alone means `Entry[Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import TypeVar

    from motia_redis._store.codec import Coder
    from motia_redis._store.limits import Limits
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session, Sessions

    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

_CONCURRENT_SCANS = 16  # partitions that `list_groups` reads at the same time
_KEYS_AT_ONCE = 1000  # keys of one HMGET: of small values about 0.1 ms of the server's time; 100,000 take 75 ms


@dataclass(frozen=True)  # without slots: Python 3.11 cannot make an Entry[User](...) with them
class Entry(Generic[T_co]):
    """Hold a value and its revision, the id of the event that last changed the key. Revisions of a key only grow.

    `expires_at` is the Unix time in seconds at which the value expires, or None.
    """

    value: T_co
    revision: str
    expires_at: float | None = None


class Reading:
    """The reading methods of `StateManager`, and the parts of it that they use."""

    limits: Limits
    _sessions: Sessions
    _retries: Retries
    _coder: Coder[Any] = codec

    def _with_coder(self, coder: Coder[Any]) -> Self:
        """Return a manager that shares everything with this one, but encodes and decodes values in another way."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _coder=coder)
        return twin

    async def get(self, scope: str, key: str) -> Any | None:
        """Return the value of a key. Return None if the key has no value or has the value null; `entry` tells them apart.

        Cost: one round trip, O(bytes of the value). Raises InvalidName, CorruptValue, StateUnavailable.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            values = session.keyspace.values(scope_bytes)
            return await session.router.execute(values, "HGET", values, key_bytes)

        text = await self._retries.run(subject, read, operation="get")
        return None if text is None or expiry.is_expired(text) else self._coder.decode(text, subject=subject)

    async def entry(self, scope: str, key: str) -> Entry | None:
        """Return the value and the revision of a key, read in one atomic step. Return None if the key has no value.

        A value that another client wrote into the hash has the revision `0-0`. Cost and errors are those of `get`.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)

        async def read(session: Session, _: Attempt) -> Any:
            names = session.keyspace.state_keys(scope_bytes, key_bytes)
            return await scripts.get_entry(session.router, values=names.values, revisions=names.revisions, key=key_bytes)

        found = await self._retries.run(subject, read, operation="entry")
        if found is None or expiry.is_expired(found.text):
            return None
        value, revision = self._coder.decode(found.text, subject=subject), found.revision.decode(errors="replace")
        return Entry(value, revision, expiry.expires_at(found.text))

    async def get_many(self, scope: str, keys: Iterable[str], *, atomic: bool = True) -> dict[str, Any]:
        """Return a dict of those of `keys` that have a value, in the order given, and their values.

        All values are those of one moment, read by one command, which takes at most 1,000 different keys. Redis builds its reply
        as a whole, whatever its size: 64 values of 4 MiB block Redis for about 0.3 s. With `atomic=False` there may be any number
        of keys, and large values do not block Redis: they are read in pages, and each value is one of some moment of the call.

        Cost: one round trip, O(bytes of the values); with `atomic=False` one for each page of about 128 KiB, at most 500 keys.
        Raises InvalidName, TooManyKeys, CorruptValue, StateUnavailable.
        """
        most = self.limits.name_bytes
        scope_bytes, subject = keyspace.encode_name("scope", scope, most), f"scope {scope!r:.200}"
        if isinstance(keys, str | bytes):
            raise InvalidName(f"{subject}: get_many takes several keys, such as a list, not one: {keys!r:.80}")
        names = {keyspace.encode_name("key", key, most): key for key in keys}
        if atomic and len(names) > _KEYS_AT_ONCE:
            raise TooManyKeys(
                f"{subject}: get_many reads at most {_KEYS_AT_ONCE} keys in one moment, not {len(names)}: "
                "give fewer keys, or atomic=False to read them in pages, at different moments"
            )
        if not names:
            return {}

        async def read(session: Session, _: Attempt) -> Any:
            values = session.keyspace.values(scope_bytes)
            return await session.router.execute(values, "HMGET", values, *names)

        found: dict[bytes, Any] = {}
        if atomic:
            texts = zip(names, await self._retries.run(subject, read, operation="get_many"), strict=True)
            page = expiry.live({name: text for name, text in texts if text is not None})
            found = dict(zip(page, self._coder.decode_page(scope, page), strict=True))
        else:
            values, scan = await self._scan(scope)
            async for texts_read in scan.chosen(values, builtins.list(names)):
                page = expiry.live(texts_read)
                found.update(zip(page, self._coder.decode_page(scope, page), strict=True))
        return {names[name]: value for name, value in found.items()}

    async def list(self, scope: str) -> builtins.list[Any]:
        """Return all values of a scope, in no particular order.

        The scope is read in pages, so that a large scope does not block Redis. The result is not a snapshot. A key that exists
        during the whole call is included once, with a value that it had during the call. Cost: one round trip for each page of
        about 128 KiB, at most 500 keys. Raises InvalidName, CorruptValue, StateUnavailable.
        """
        return builtins.list((await self._all(scope)).values())

    async def items(self, scope: str) -> dict[str, Any]:
        """Return a dict of all keys of a scope and their values. Promises, cost and errors are those of `list`."""
        found = await self._all(scope)
        return dict(zip(codec.decode_keys(found), found.values(), strict=True))

    async def keys(self, scope: str) -> builtins.list[str]:
        """Return all keys of a scope, each once, in no particular order.

        Promises and cost are those of `list`, but no values are transferred, and values whose time has run out expire first.
        Raises InvalidName, StateUnavailable.
        """
        values, scan = await self._scan(scope)
        await self._retries.run(
            f"scope {scope!r:.200}", lambda session, _: self._settle(session, [partition_of(values)]), operation="keys"
        )
        found: dict[bytes, None] = {}
        async for page in scan.fields(values):
            found.update(dict.fromkeys(page))
        return codec.decode_keys(found)

    async def scan(self, scope: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield `(key, value)` pairs of a scope, read in pages, for scopes that do not fit into memory.

        A key that exists during the whole scan is yielded at least once. It may be yielded again, with its value at that time, if
        the scope shrinks or Redis fails over. Each page is read while the one before is processed. Breaking out early stops
        further reads. Cost and errors are those of `list`.
        """
        values, scan = await self._scan(scope)
        async with aclosing(scan.items(values, ahead=True)) as pages:
            async for page_read in pages:
                page = expiry.live(page_read)
                for pair in zip(codec.decode_keys(page), self._coder.decode_each(scope, page), strict=True):
                    yield pair

    async def count(self, scope: str) -> int:
        """Return the number of keys in a scope. Values whose time has run out expire first.

        Cost: one round trip, O(1); more if values expire. Raises InvalidName, StateUnavailable.
        """
        values, _ = await self._scan(scope)

        async def read(session: Session, _: Attempt) -> int:
            async def count() -> int:
                return int(await session.router.execute(values, "HLEN", values))

            found, has_changed = await asyncio.gather(count(), self._settle(session, [partition_of(values)]))
            return await count() if has_changed else found

        return await self._retries.run(f"scope {scope!r:.200}", read, operation="count")

    async def list_groups(self, *, stream: str | None = None) -> builtins.list[str]:
        """Return the sorted names of all scopes that have a key, or of all groups of a stream that have an item.

        They are read in pages, and the result is not a snapshot. Values whose time has run out expire first.

        Cost: at least one round trip for each partition, O(scopes and groups of all streams), whatever the number of keys. Raises
        InvalidName, CorruptValue if a name is not UTF-8, and StateUnavailable.
        """
        prefix = b"" if stream is None else stream_prefix(stream)
        scopes: set[bytes] = set()
        scan = Scan(self._retries, "list_groups")
        keyspace = (await self._sessions.get()).keyspace
        everywhere = range(keyspace.layout.partitions)
        await self._retries.run("list_groups", lambda session, _: self._settle(session, everywhere), operation="list_groups")
        partitions = iter(keyspace.all_scopes())

        async def read() -> None:
            for partition in partitions:
                async for page in scan.members(partition, prefix):
                    scopes.update(page if prefix else (name for name in page if not name.startswith(RESERVED)))

        readers = [asyncio.create_task(read()) for _ in range(_CONCURRENT_SCANS)]
        try:
            await asyncio.gather(*readers)
        finally:  # after an error the other readers must stop too
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        try:
            return sorted(scope[len(prefix) :].decode() for scope in scopes)
        except UnicodeDecodeError as error:
            raise CorruptValue(
                f"list_groups: the scope name {error.object!r:.200} is not UTF-8; another client wrote it: remove it with SREM"
            ) from None

    async def _settle(self, session: Session, partitions: Iterable[int]) -> bool:
        """Let values whose time has run out expire, and return whether something happened. Who may not write reads without it."""
        limits = session.settings.topic_trimming(session.keyspace.layout.lanes)
        try:
            return await settle(session.router, session.keyspace, partitions, limits)
        except ErrorReply as error:
            if refusals.is_transient(error.code, fails_over=self._sessions.fails_over):
                raise
            return False

    async def _all(self, scope: str) -> dict[bytes, Any]:
        """Return a dict of all keys of a scope and their values."""
        values, scan = await self._scan(scope)
        found: dict[bytes, Any] = {}
        with young_only():
            async with aclosing(scan.items(values, ahead=True)) as pages:
                async for page_read in pages:
                    page = expiry.live(page_read)
                    found.update(zip(page, self._coder.decode_page(scope, page), strict=True))
        return found

    async def _scan(self, scope: str) -> tuple[bytes, Scan]:
        """Return the name of the hash that holds a scope's values, and the scan that reads it in pages."""
        scope_bytes = keyspace.encode_name("scope", scope, self.limits.name_bytes)
        return (await self._sessions.get()).keyspace.values(scope_bytes), Scan(self._retries, f"scope {scope!r:.200}")

    def _names(self, scope: str, key: str) -> tuple[Subject, bytes, bytes]:
        most = self.limits.name_bytes
        return Subject(scope, key), keyspace.encode_name("scope", scope, most), keyspace.encode_name("key", key, most)

"""Show the values that are there, while changes go on."""

from __future__ import annotations

from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

from motia_redis._scripts import storage as scripts
from motia_redis._store import expiry
from motia_redis._store.cursors import order
from motia_redis._store.keyspace import RESERVED
from motia_redis._store.lanes import Event
from motia_redis._store.scans import Scan
from motia_redis._store.watch_items import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from motia_redis._store.cursors import Positions
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session


class Snapshot:
    """Show each value once that has not changed since `base`: what has changed is shown by its change.

    The pages are read while changes are delivered, so a page may be older than a change that was delivered before it, or newer
    than one that is still to come. A value whose revision is after `base` is left to its change. A key that was shown, or whose
    change was delivered (`note`), is not shown again. Cost: the memory of the keys, until the snapshot is complete.

    Arguments:
        show: takes a value as an event.
        room: waits until the reader has room for more.
    """

    def __init__(
        self,
        retries: Retries,
        subject: object,
        keyspace: Keyspace,
        base: Mapping[int, Positions],
        *,
        show: Callable[[Event], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._retries = retries
        self._subject = subject
        self._keyspace = keyspace
        self._base = base
        self._show = show
        self._room = room
        self._scan = Scan(retries, subject)
        self._shown: set[tuple[bytes, bytes]] = set()

    def note(self, event: Event) -> None:
        """Note that a change is delivered."""
        self._shown.add((event.scope or b"", event.key))

    def missing(self, known: set[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Return those of some scopes and keys that the snapshot has not shown."""
        return known - self._shown

    async def show(self, scope: bytes | None, key: bytes | None) -> None:
        """Show the values of a scope, one key of it, or of all scopes. It goes on while Redis is away."""
        if scope is not None:
            show = partial(self._show_scope, scope) if key is None else partial(self._show_key, scope, key)
            await self._retries.persist(show)
            return
        for partition in self._base:
            for name in sorted(await self._retries.persist(partial(self._scopes, partition))):
                if not name.startswith(RESERVED):
                    await self._retries.persist(partial(self._show_scope, name))

    async def _scopes(self, partition: int) -> set[bytes]:
        return {scope async for page in self._scan.members(self._keyspace.scopes(partition)) for scope in page}

    async def _show_scope(self, scope: bytes) -> None:
        names = self._keyspace
        async with aclosing(self._scan.entries(names.values(scope), names.revisions(scope))) as pages:
            async for page in pages:
                for key, text, revision in page:
                    self._show_value(scope, key, text, revision)
                await self._room()

    async def _show_key(self, scope: bytes, key: bytes) -> None:
        async def read(session: Session, _: Attempt) -> scripts.StoredEntry | None:
            names = session.keyspace.state_keys(scope, key)
            return await scripts.get_entry(session.router, values=names.values, revisions=names.revisions, key=key)

        found = await self._retries.run(self._subject, read, operation="watch")
        if found is not None:
            self._show_value(scope, key, found.text, found.revision)

    def _show_value(self, scope: bytes, key: bytes, text: bytes, revision: bytes) -> None:
        if (scope, key) in self._shown or expiry.is_expired(text):
            return
        lane = self._keyspace.lane(key)
        with suppress(ValueError):  # another client wrote the revision
            if order(revision) > order(self._base[self._keyspace.partition(scope)][lane].id):
                return
        self._show(Event(lane, revision, 0, {b"type": SNAPSHOT, b"scope": scope, b"key": key, b"new": text}))

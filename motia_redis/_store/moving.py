"""Read and write values as they are stored, in bulk: with their bytes and times, for exports, imports and copies."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from motia_redis._ids import random_id
from motia_redis._scripts import administration
from motia_redis._scripts import storage as scripts
from motia_redis._store.claims import NO_CLAIM
from motia_redis._store.cursors import Cursor, end_of
from motia_redis._store.feed import look_at_lanes
from motia_redis._store.scans import PAGE_BYTES, Scan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

    from motia_redis._store.cursors import Positions
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session

_log = logging.getLogger("motia_redis.state")

_READ_SCOPES = 32  # of which given keys are read at once, a page of each
_READERS = 8  # scopes that are read at the same time
_SMALL_SCOPES = 16  # scopes whose first pages are read at once
_SMALL_VALUES = 16  # of such a page
_SMALL_BYTES = 8192
_BATCH_VALUES = 100  # of one script call
_BATCH_BYTES = 256 * 1024
_SCRIPT_BYTES = 4 * 1024 * 1024  # old and new values of one script call together
_RECORD_MARGIN = 10.0  # seconds for which a call is remembered after the last attempt at it may have started

#: What became of a value: see import_values.lua.
Outcome = Literal["created", "overwritten", "same", "kept", "expired", "deleted", "refused"]
_OUTCOMES: Final[dict[str, Outcome]] = {
    "c": "created",
    "o": "overwritten",
    "s": "same",
    "k": "kept",
    "x": "expired",
    "d": "deleted",
    "e": "refused",
}


class StoredValue(NamedTuple):
    """A value as it is stored: its text with the time at which it expires, and with its mark."""

    scope: bytes
    key: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Say how values are stored."""

    #: What becomes of another value that is there. "copy" overwrites, also with a value that has expired. "delete": there shall
    #: be no value, whatever the text says.
    policy: Literal["keep", "overwrite", "copy", "delete"]
    is_trial: bool = False  #: nothing is written
    fires: bool = False  #: the events fire triggers


class _Batch(NamedTuple):
    partition: int
    request: bytes
    indexes: list[int]  # of the values


class Mover:
    """Read all values of some scopes, or of all, and store such values, with the connections of a manager."""

    def __init__(self, state: StateManager, subject: str) -> None:
        self._retries = state._retries
        self._durability = state.durability
        self._subject = subject

    # -- reading ------------------------------------------------------------------------------------------------------

    async def ends(self, scopes: Sequence[bytes] | None = None) -> Cursor:
        """Return the cursor of a watch that yields all changes from now on: of these scopes, or of all."""

        async def read(session: Session, _: Attempt) -> Cursor:
            names = session.keyspace
            partitions = _partitions(names, scopes)
            found = await asyncio.gather(*(look_at_lanes(session.router, names, partition) for partition in partitions))
            places: dict[int, Positions] = {
                partition: {lane: end_of(position) for lane, position in lanes.items()}
                for partition, (_, lanes) in zip(partitions, found, strict=True)
            }
            return Cursor(names.namespace, (names.layout.partitions, names.layout.lanes), places)

        return await self._retries.run(self._subject, read, operation="export")

    async def count(self, scopes: Sequence[bytes] | None) -> int:
        """Return about how many values the scopes hold. Cost: a command for each scope, in pages."""
        total = 0
        async for page in self.scopes(scopes):

            async def read(session: Session, _: Attempt, page: Sequence[bytes] = page) -> int:
                hashes = [session.keyspace.values(scope) for scope in page]
                return sum(await session.router.gather([(name, ("HLEN", name)) for name in hashes]))

            total += await self._retries.run(self._subject, read, operation="export")
        return total

    async def read(self, names: Iterable[tuple[bytes, bytes]]) -> AsyncGenerator[list[tuple[bytes, bytes, bytes | None]]]:
        """Yield scopes and keys, each with the stored text, in pages; None: there is no value. Memory: a page of 32 scopes."""
        by_scope: dict[bytes, list[bytes]] = {}
        for scope, key in names:
            by_scope.setdefault(scope, []).append(key)
        waiting: list[tuple[bytes, Sequence[bytes]]] = list(by_scope.items())
        while waiting:
            group, waiting = waiting[:_READ_SCOPES], waiting[_READ_SCOPES:]

            async def read(
                session: Session, _: Attempt, group: Sequence[tuple[bytes, Sequence[bytes]]] = group
            ) -> list[scripts.ItemsPage]:
                wanted = [(session.keyspace.values(scope), keys) for scope, keys in group]
                return await scripts.read_items_many(session.router, wanted, max_bytes=PAGE_BYTES)

            pages = await self._retries.run(self._subject, read, operation="export")
            found: list[tuple[bytes, bytes, bytes | None]] = []
            for (scope, keys), page in zip(group, pages, strict=True):
                found += [(scope, key, page.items.get(key)) for key in keys[: len(keys) - len(page.left)]]
            waiting += [(scope, page.left) for (scope, _), page in zip(group, pages, strict=True) if page.left]
            yield found

    async def pages(
        self, scopes: Sequence[bytes] | None, *, partition: int | None = None
    ) -> AsyncGenerator[tuple[bytes, Mapping[bytes, bytes]]]:
        """Yield pages of stored texts by their keys, each with its scope: of some scopes, of a partition, or of all.

        Several scopes are read at the same time. A value that is there all the time is in some page, and may be in two: after an
        outage, or when its hash grows. Memory: a few pages, and the names of a page of scopes.
        """
        queue: asyncio.Queue[tuple[bytes, Mapping[bytes, bytes]] | None] = asyncio.Queue(_READERS)
        reading = asyncio.create_task(self._read(self.scopes(scopes, partition=partition), queue))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, scopes: AsyncIterator[Sequence[bytes]], queue: asyncio.Queue[tuple[bytes, Mapping[bytes, bytes]] | None]
    ) -> None:
        """Put the pages of the scopes into a queue, and then None, also after an error."""
        names = await self._keyspace()
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_READERS)

        async def read() -> None:
            while (scope := await waiting.get()) is not None:
                scan = Scan(self._retries, self._subject)
                async with aclosing(scan.items(names.values(scope), ahead=True)) as pages:
                    async for page in pages:
                        await queue.put((scope, page))

        try:
            async with asyncio.TaskGroup() as readers:
                for _ in range(_READERS):
                    readers.create_task(read())
                async for scope, found in self._first_pages(scopes):
                    if found.cursor or found.left:
                        await waiting.put(scope)
                    elif found.items:
                        await queue.put((scope, found.items))
                for _ in range(_READERS):
                    await waiting.put(None)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            if not (task := asyncio.current_task()) or not task.cancelling():
                await queue.put(None)

    async def _first_pages(self, scopes: AsyncIterator[Sequence[bytes]]) -> AsyncIterator[tuple[bytes, scripts.ItemsPage]]:
        """Yield the scopes with their first pages: all of a small scope. A round trip for each of many scopes would be slow."""
        async for names in scopes:
            for first in range(0, len(names), _SMALL_SCOPES):
                group = names[first : first + _SMALL_SCOPES]

                async def read(session: Session, _: Attempt, group: Sequence[bytes] = group) -> list[scripts.ItemsPage]:
                    hashes = [session.keyspace.values(scope) for scope in group]
                    return await scripts.scan_items_many(session.router, hashes, count=_SMALL_VALUES, max_bytes=_SMALL_BYTES)

                for found in zip(group, await self._retries.run(self._subject, read, operation="export"), strict=True):
                    yield found

    async def scopes(
        self, scopes: Sequence[bytes] | None = None, *, partition: int | None = None
    ) -> AsyncIterator[Sequence[bytes]]:
        """Yield the names of the given scopes in pages, of all scopes of a partition, or of all."""
        if scopes is not None:
            yield scopes
            return
        for number, names in enumerate((await self._keyspace()).all_scopes()):
            if partition in (None, number):
                async for page in Scan(self._retries, self._subject).members(names):
                    yield page

    async def _keyspace(self) -> Keyspace:
        async def read(session: Session, _: Attempt) -> Keyspace:
            return session.keyspace

        return await self._retries.run(self._subject, read, operation="export")

    # -- writing ------------------------------------------------------------------------------------------------------

    async def store(self, values: Sequence[StoredValue], options: StoreOptions) -> list[tuple[Outcome, str]]:
        """Store values of different keys, each with its event. Return what became of each, and the error of those refused.

        Each value is stored once, however often a call is repeated. Cost: a round trip for about a thousand values.
        """
        found: dict[int, tuple[Outcome, str]] = {}
        batches = _batches(await self._keyspace(), values)
        while batches:
            replies = await self._call(values, batches, options)
            rest = []
            for (partition, _, indexes), reply in zip(batches, replies, strict=True):
                for place, letter in enumerate(reply.letters):
                    found[indexes[place]] = _OUTCOMES[letter], reply.errors.get(place, "another client wrote its Redis key")
                if left := indexes[len(reply.letters) :]:
                    rest.append(_Batch(partition, _request_id(), left))
            batches = rest
        return [found[index] for index in range(len(values))]

    async def _call(
        self, values: Sequence[StoredValue], batches: Sequence[_Batch], options: StoreOptions
    ) -> list[administration.ImportedBatch]:
        async def attempt(session: Session, attempt: Attempt) -> list[administration.ImportedBatch]:
            names, settings = session.keyspace, session.settings
            script_options = administration.ImportOptions(
                policy=options.policy,
                is_trial=options.is_trial,
                fires=options.fires,
                most_bytes=_SCRIPT_BYTES,
                attempt_token=NO_CLAIM.attempt_token(attempt),
                record_milliseconds=int((settings.deadline + _RECORD_MARGIN) * 1000),
                limits=settings.trimming,
            )
            calls = []
            for partition, request, indexes in batches:
                keys = names.transaction_keys(partition, request)[:4]
                numbers: dict[bytes, int] = {}
                items: list[bytes] = []
                for index in indexes:
                    scope, key, text = values[index]
                    hash_of_values, hash_of_revisions, _, stream = names.state_keys(scope, key)
                    used = hash_of_values, hash_of_revisions, stream
                    items += [*(b"%d" % numbers.setdefault(name, len(numbers)) for name in used), key, text]
                calls.append(((*keys, *numbers), script_options, items))
            replies = await administration.import_values(session.router, calls)
            if self._durability.wait_commands and not options.is_trial:
                await asyncio.gather(*(self._make_durable(session, partition) for partition in {each[0] for each in batches}))
            return replies

        replies = await self._retries.run(self._subject, attempt, operation="import", is_mutation=not options.is_trial)
        if dropped := sum(reply.dropped for reply in replies):
            _log.error("%s: streams are over the hard cap: %d entries were dropped unhandled", self._subject, dropped)
        if any(reply.created_scope for reply in replies):
            await self._retries.check_layout(self._subject)  # after a loss of data all scopes are new
        return replies

    async def _make_durable(self, session: Session, partition: int) -> None:
        """Wait until what was written is as durable as required: a wait covers what its connection has seen written."""
        stream = session.keyspace.events(partition, 0)
        mark, trimmed = session.keyspace.request(stream, _request_id()), session.keyspace.trimmed(stream)
        following = self._durability.wait_commands
        (reply,) = await scripts.mark_write(session.router, trimmed=trimmed, mark=mark, following=following)
        self._durability.check(self._subject, reply)


def _partitions(names: Keyspace, scopes: Sequence[bytes] | None) -> list[int]:
    return list(range(names.layout.partitions)) if scopes is None else sorted({names.partition(scope) for scope in scopes})


def _batches(names: Keyspace, values: Sequence[StoredValue]) -> list[_Batch]:
    """Divide values by their partitions, into calls of the script."""
    open_ones: dict[int, _Batch] = {}
    sizes: dict[int, int] = {}
    batches = []
    for index, (scope, key, text) in enumerate(values):
        partition, size = names.partition(scope), len(key) + len(text)
        batch = open_ones.get(partition)
        if batch is None or len(batch.indexes) >= _BATCH_VALUES or sizes[partition] + size > _BATCH_BYTES:
            batch = open_ones[partition] = _Batch(partition, _request_id(), [])
            sizes[partition] = 0
            batches.append(batch)
        batch.indexes.append(index)
        sizes[partition] += size
    return batches


def _request_id() -> bytes:
    return random_id(16).encode()

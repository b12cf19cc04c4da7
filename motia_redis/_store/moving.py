"""Read and write values as they are stored, in bulk: with their bytes and times, for exports and imports."""

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
from motia_redis._store.scans import Scan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from motia_redis._store.cursors import Positions
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session

_log = logging.getLogger("motia_redis.state")

_READERS = 8  # scopes that are read at the same time
_BATCH_VALUES = 100  # of one script call
_BATCH_BYTES = 256 * 1024
_SCRIPT_BYTES = 4 * 1024 * 1024  # old and new values of one script call together
_RECORD_MARGIN = 10.0  # seconds for which a call is remembered after the last attempt at it may have started

#: What became of a value: see import_values.lua.
Outcome = Literal["created", "overwritten", "same", "kept", "expired", "refused"]
_OUTCOMES: Final[dict[str, Outcome]] = {
    "c": "created",
    "o": "overwritten",
    "s": "same",
    "k": "kept",
    "x": "expired",
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

    policy: Literal["keep", "overwrite"]  #: what becomes of another value that is there
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

    async def cursor(self, scopes: Sequence[bytes] | None) -> str:
        """Return the cursor of a watch that yields all changes from now on: of these scopes, or of all."""

        async def read(session: Session, _: Attempt) -> str:
            names = session.keyspace
            partitions = _partitions(names, scopes)
            found = await asyncio.gather(*(look_at_lanes(session.router, names, partition) for partition in partitions))
            places: dict[int, Positions] = {
                partition: {lane: end_of(position) for lane, position in lanes.items()}
                for partition, (_, lanes) in zip(partitions, found, strict=True)
            }
            return Cursor(names.namespace, (names.layout.partitions, names.layout.lanes), places).encode()

        return await self._retries.run(self._subject, read, operation="export")

    async def count(self, scopes: Sequence[bytes] | None) -> int:
        """Return about how many values the scopes hold. Cost: a command for each scope, in pages."""
        total = 0
        async for page in self._scopes(scopes):

            async def read(session: Session, _: Attempt, page: Sequence[bytes] = page) -> int:
                hashes = [session.keyspace.values(scope) for scope in page]
                return sum(await session.router.gather([(name, ("HLEN", name)) for name in hashes]))

            total += await self._retries.run(self._subject, read, operation="export")
        return total

    async def pages(self, scopes: Sequence[bytes] | None) -> AsyncGenerator[tuple[bytes, Mapping[bytes, bytes]]]:
        """Yield pages of stored texts by their keys, each with its scope. Several scopes are read at the same time.

        A value that is there all the time is in some page, and may be in two: after an outage, or when its hash grows. Memory: a
        few pages, and the names of a page of scopes.
        """
        queue: asyncio.Queue[tuple[bytes, Mapping[bytes, bytes]] | None] = asyncio.Queue(_READERS)
        reading = asyncio.create_task(self._read(scopes, queue))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, scopes: Sequence[bytes] | None, queue: asyncio.Queue[tuple[bytes, Mapping[bytes, bytes]] | None]
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
                async for page in self._scopes(scopes):
                    for scope in page:
                        await waiting.put(scope)
                for _ in range(_READERS):
                    await waiting.put(None)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            if not (task := asyncio.current_task()) or not task.cancelling():
                await queue.put(None)

    async def _scopes(self, scopes: Sequence[bytes] | None) -> AsyncIterator[Sequence[bytes]]:
        """Yield the names of the scopes in pages."""
        if scopes is not None:
            yield scopes
            return
        for names in (await self._keyspace()).all_scopes():
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

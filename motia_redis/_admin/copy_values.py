"""Copy the values of a namespace, and follow its changes.

Scans and events only name keys. A key's value is read when its turn comes, and stored as it is, or deleted where there is none.
Reads happen in order, and what is read later is stored later. So the target gets the latest value of each key, whatever changed
while the scan went on, and whatever was copied twice.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from motia_redis._store.cursors import Cursor
from motia_redis._store.history import History
from motia_redis._store.moving import Mover, StoredValue, StoreOptions
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from motia_redis._admin.copy_target import CopyTarget
    from motia_redis._store.copy_marks import CopyMark
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager

_BATCH = 500  # keys that are read at once: about 2 ms of the server's time
_FOLLOW = 0.5  # seconds between two looks at the changes while values are scanned
_SAVE = 2.0  # seconds between two records of how far the copy has come

_Names = dict[tuple[bytes, bytes], None]  # scopes and keys, each once, in order


class ValueCopy:
    """Copy values, from where the mark of the target says.

    Arguments:
        scanned: takes how many values the scan has come across, and how many there are about.
    """

    def __init__(
        self,
        source: StateManager,
        names: Keyspace,
        target: CopyTarget,
        *,
        scanned: Callable[[int, int], object] | None = None,
    ) -> None:
        self._target = target
        self._names = names
        self._reader, self._writer = Mover(source, "copy"), Mover(target.state, "copy")
        places = Cursor.decode(target.mark.cursor).places
        self._history = History(source._retries, "copy", names, places, joins=False, mark=None)
        self._storing: asyncio.Task[None] | None = None
        self._scanned = scanned
        self._followed = 0.0
        self._saved = time.monotonic()

    # -- the scan -----------------------------------------------------------------------------------------------------

    async def scan(self) -> None:
        """Copy all values, following the changes meanwhile. It goes on with the partition that the mark names."""
        mark = self._target.mark
        total = 0 if self._scanned is None else await self._reader.count(None)
        done = 0
        for partition in range(mark.partition, self._names.layout.partitions):
            done = await self._scan_partition(self._reader, partition, done, total)
            await self.save(replace(self._target.mark, partition=partition + 1))
        if mark.phase == "repair":
            for partition in range((await self._target.state.connect()).layout.partitions):
                await self._scan_partition(self._writer, partition, total, total)
        await self.save(replace(self._target.mark, phase="changes"))

    async def _scan_partition(self, mover: Mover, partition: int, done: int, total: int) -> int:
        """Copy the keys that one side has in a partition. Return how many have come by."""
        batch: _Names = {}
        async with aclosing(mover.pages(None, partition=partition)) as pages:
            async for scope, page in pages:
                done += len(page)
                batch.update(dict.fromkeys((scope, key) for key in page))
                if len(batch) >= _BATCH:
                    await self._put(batch)
                    batch = {}
                if self._scanned is not None:
                    self._scanned(done, max(total, done))
                if time.monotonic() - self._followed > _FOLLOW:
                    while not await self.follow():  # to the end: what is not copied in time is trimmed
                        pass
        await self._put(batch)
        return done

    # -- the changes --------------------------------------------------------------------------------------------------

    async def follow(self) -> bool:
        """Copy what has changed, and return whether nothing more had when it was looked for.

        Raises HistoryGone if events were trimmed before, HistoryForked if the source has lost some.
        """
        self._target.check()
        found = await self._history.read()
        names: _Names = {}
        for _, events in found.values():
            names.update(((event.scope, event.key), None) for event in events if event.scope is not None)
        ordered = list(names)
        for first in range(0, len(ordered), _BATCH):
            await self._put(ordered[first : first + _BATCH])
        self._followed = time.monotonic()
        if self._followed - self._saved > _SAVE:
            await self.save()
        return self._history.at_end

    async def catch_up(self) -> None:
        """Copy all that has changed up to now, and record it."""
        while not await self.follow():
            pass
        await self.save()

    async def behind(self) -> int:
        """Return how many events are not copied. Cost: a call for each partition."""
        ends, reached = (await self._reader.ends()).places, self._history.positions()
        return sum(
            max(0, end.number - reached[partition][lane].number)
            for partition, lanes in ends.items()
            for lane, end in lanes.items()
        )

    def cursor(self) -> Cursor:
        """Return up to where changes have been copied, once `save` has returned."""
        layout = self._names.layout
        return Cursor(self._names.namespace, (layout.partitions, layout.lanes), self._history.positions())

    # -- storing ------------------------------------------------------------------------------------------------------

    async def save(self, mark: CopyMark | None = None) -> None:
        """Record how far the copy has come, when all of that is stored: the mark as it is, or another one, with the cursor."""
        await self._stored()
        await self._target.save(replace(mark or self._target.mark, cursor=self.cursor().encode()))
        self._saved = time.monotonic()

    async def _put(self, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Read the values of different keys, and store them when those before are stored."""
        async with aclosing(self._reader.read(names)) as pages:
            async for page in pages:
                await self._stored()
                self._storing = asyncio.create_task(self._store(page))

    async def _stored(self) -> None:
        """Wait until all that was read is stored."""
        storing, self._storing = self._storing, None
        if storing is not None:
            await storing

    async def _store(self, page: list[tuple[bytes, bytes, bytes | None]]) -> None:
        there = [StoredValue(scope, key, text) for scope, key, text in page if text is not None]
        gone = [StoredValue(scope, key, b"") for scope, key, text in page if text is None]
        for values, options in ((there, StoreOptions("copy")), (gone, StoreOptions("delete"))):
            outcomes = await self._writer.store(values, options) if values else []
            for (scope, key, _), (outcome, reason) in zip(values, outcomes, strict=True):
                if outcome == "refused":
                    raise StateError(f"copy: scope {scope!r:.200} key {key!r:.200}: the target refuses the value: {reason}")

    async def aclose(self) -> None:
        """Wait for what is being stored: were it stored later, it could overwrite what a following copy stores."""
        storing, self._storing = self._storing, None
        if storing is not None:
            await asyncio.gather(storing, return_exceptions=True)

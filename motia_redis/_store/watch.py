"""Follow the changes of a scope, a key, or everything: what `StateManager.watch` returns."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from motia_redis._store import codec, keyspace
from motia_redis._store.cursors import Cursor, Mark, end_of, order
from motia_redis._store.feed import CHECK_INTERVAL, look_at_lanes
from motia_redis._store.history import History
from motia_redis._store.keyspace import RESERVED
from motia_redis._store.lanes import Event, Item, size_of
from motia_redis._store.snapshots import Snapshot
from motia_redis._store.watch_buffer import Buffer
from motia_redis._store.watch_intake import Intake
from motia_redis._store.watch_items import RESYNC, Bookmark, Change, Synced, T_co
from motia_redis.errors import HistoryForked, HistoryGone, WatchMisused, WatchOverflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from typing import Self

    from motia_redis._store.codec import Coder
    from motia_redis._store.cursors import Positions
    from motia_redis._store.feed import Feed
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.lanes import Batch
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session, Sessions
    from motia_redis._store.watch_items import Place, WatchItem
    from motia_redis._store.watch_options import Selection, WatchOptions

_BOOKMARK = 5.0  # seconds without an item after which a bookmark comes
_TURN = 256  # items after which a reader that never waits lets other tasks run


class Watch(Generic[T_co]):
    """Yield the changes of a scope, a key, or everything: `async with state.watch(...) as watch: async for item in watch: ...`.

    One task reads it. It ends by `close`, from any task, and at the end of its block. After an error it raises that error again.
    """

    def __init__(
        self, sessions: Sessions, retries: Retries, selection: Selection, options: WatchOptions, coder: Coder[Any] = codec
    ) -> None:
        self._coder, self._selection = coder, selection
        self._scope = None if selection.scope is None else selection.scope.encode()
        self._key = None if selection.key is None else selection.key.encode()
        self._prefix = (selection.prefix or "").encode()
        self._resyncs = options.on_gap == "resync"
        self._cursor = None if options.start in ("now", "snapshot") else Cursor.decode(options.start)
        self._sessions = sessions
        self._retries = retries
        self._opened: Session | None = None
        self._partitions: list[int] = []
        self._producer: asyncio.Task[None] | None = None  # reads history or a snapshot
        self._buffer = Buffer(options.buffer_items, options.buffer_bytes, latest=options.on_overflow == "latest")
        self._items = self._buffer.items
        self._turn = 0
        self._failure: Exception | None = None
        self._has_ended = False
        self._losses = 0  # of history, after which a new snapshot was taken
        self._intake = Intake(
            self._scope,
            self._key,
            most=options.buffer_items,
            thins_out=self._buffer.latest,
            take=self._take,
            overflow=self._overflow,
            lose=self._lose,
            fail=self._fail,
        )
        self._snapshot: Snapshot | None = None  # until it is complete
        self._known: set[tuple[bytes, bytes]] = set()  # scopes and keys that the reader knows, if the watch resyncs
        self._places: dict[int, Place] = {}  # where the reader is, by partition
        self._is_synced = options.start != "snapshot"  # whether the reader has all of the snapshot

    def __repr__(self) -> str:
        return f"<{self._selection}>"

    # -- for the user -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._opened is not None or self._has_ended:
            raise WatchMisused(f"{self._selection}: a watch is used once: call watch() again")
        self._opened = session = await self._sessions.get()
        layout = session.keyspace.layout
        self._partitions = list(range(layout.partitions)) if self._scope is None else [session.keyspace.partition(self._scope)]
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[WatchItem[T_co]]:
        return self

    async def __anext__(self) -> WatchItem[T_co]:
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            await asyncio.sleep(0)
        while True:
            if self._items:
                return self._pop()
            if self._has_ended:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            self._session()
            if not await self._buffer.wait(_BOOKMARK) and (bookmark := self._bookmark()):
                return bookmark

    def waiting(self, most: int) -> list[WatchItem[T_co]]:
        """Return at most so many of the items that wait for the reader."""
        return [self._pop() for _ in range(min(most, len(self._items)))]

    async def close(self) -> None:
        """End the watch. `async for` ends, in whatever task it waits. Closing twice is allowed."""
        self._has_ended = True
        self._buffer.clear()
        if self._opened is not None:
            self._feed.unregister(self._intake, self._partitions)
        self._buffer.wake()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.cancel()
            await asyncio.wait([producer])

    @property
    def scope(self) -> str | None:
        """Return the scope that is watched; None: all."""
        return self._selection.scope

    @property
    def age(self) -> float | None:
        """Return the seconds since all that had happened was last known to be here. None: the watch has not come so far yet."""
        if self._opened is None or self._producer is not None or self._failure is not None or self._has_ended:
            return None
        return time.monotonic() - self._feed.confirmed(self._partitions)

    async def reached(self, revision: str) -> None:
        """Wait until the reader has the change with this revision, and all that were made before this call.

        For another task than the reader, which must read on. It waits while Redis is away. Cost: one round trip. Raises
        StateError for text that is no revision, and the error of the watch.
        """
        keyspace.encode_revision(revision, self._selection, "revision")
        losses = -1
        while losses != self._losses and self._failure is None:  # after a loss the ends are others
            losses = self._losses
            ends = await self._retries.persist(partial(self._ends, self._partitions))
            while self._producer is not None:
                await asyncio.wait([self._producer])
            await asyncio.gather(*(self._feed.reach(partition, ends[partition]) for partition in self._partitions))
        added = self._buffer.taken + len(self._items)
        # The reader takes them at once; an event would cost each item more.
        while self._buffer.taken < added and self._failure is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure

    # -- ends and losses ----------------------------------------------------------------------------------------------

    def _lose(self, error: HistoryGone | HistoryForked) -> None:
        """Fail, or begin again with a new snapshot, which also says what is gone."""
        if not self._resyncs:
            self._fail(type(error)(f"{self._selection}: {error}"))
        elif self._failure is None and not self._has_ended:
            self._losses += 1
            self._buffer.clear()
            self._is_synced = False
            self._snapshot = None
            self._intake.hold()
            self._produce(self._resync)

    def _fail(self, error: Exception) -> None:
        """Fail after the items that wait."""
        if self._failure is None and not self._has_ended:
            self._failure = error
            if self._opened is not None:
                self._feed.unregister(self._intake, self._partitions)
            if self._producer is not None and self._producer is not asyncio.current_task():
                self._producer.cancel()
            self._buffer.wake()

    # -- items --------------------------------------------------------------------------------------------------------

    def _take(self, items: Sequence[Item], size: int) -> None:
        """Add events that the watch shows, with so many bytes of values, to what waits for the reader."""
        if self._failure is not None:
            return
        if self._prefix or self._scope is None:
            items = [item for item in items if item.event is not None and self._shows(item.event)]
            size = size_of(items)
        if self._snapshot is not None:
            for item in items:
                if item.event is not None:
                    self._snapshot.note(item.event)
        if not self._buffer.add(items, size):
            self._overflow()

    def _shows(self, event: Event) -> bool:
        return event.key.startswith(self._prefix) and not (self._scope is None and (event.scope or b"").startswith(RESERVED))

    def _show(self, event: Event) -> None:
        """Add a value of a snapshot, or a key that is gone."""
        self._take([Item(event)], event.size)

    def _overflow(self) -> None:
        most = self._buffer
        self._fail(
            WatchOverflow(
                f"{self._selection}: changes came faster than they were read: over {most.most_items} items or {most.most_bytes} "
                "bytes waited; start again with the cursor of the last item, read faster, or give a larger buffer"
                + ("" if most.latest else ", or on_overflow='latest'")
            )
        )

    def _pop(self) -> WatchItem[T_co]:
        event, partition, batch, index = self._buffer.pop()
        if event is None:
            self._is_synced = True
            return Synced(self.cursor_at(self._places, is_synced=True))
        if self._resyncs:
            name = (event.scope or b"", event.key)
            if event.fields[b"type"] == b"state:deleted":
                self._known.discard(name)
            else:
                self._known.add(name)
        if batch is not None:
            place = (None if batch.is_history else self._intake.base[partition], batch, index)
            self._places = {partition: place} if self._scope is not None else {**self._places, partition: place}
        return Change(event, self, self._places, is_synced=self._is_synced, coder=self._coder)

    def _bookmark(self) -> Bookmark | None:
        """Return a bookmark if everything up to now has been shown."""
        age = self.age
        if age is None or age > CHECK_INTERVAL or not self._is_synced or self._items:
            return None
        places = {partition: self._feed.positions(partition) for partition in self._partitions}
        return Bookmark(self._cursor_of(places, None), self._feed.checked_at(self._partitions))

    def cursor_at(self, places: Mapping[int, Place], *, is_synced: bool) -> str:
        """Return the cursor of an item at these places, for the items that the watch has yielded."""
        if not is_synced:
            return self._cursor_of({}, None)
        found: dict[int, Positions] = {}
        mark: Mark | None = None
        for partition, (base, batch, index) in places.items():
            positions = found[partition] = {}
            if batch is not None and self._key is not None:
                lane, position = batch.position(index)
                positions[lane] = position
                continue
            if batch is not None:
                after, inside = batch.positions(index)
                positions.update(after)
                mark = Mark(partition, *inside) if inside is not None else mark
            for lane, position in (base or {}).items():
                if lane not in positions or order(position.id) > order(positions[lane].id):
                    positions[lane] = position
        return self._cursor_of(found, mark)

    def _cursor_of(self, places: Mapping[int, Positions], mark: Mark | None) -> str:
        names = self._keyspace
        chosen = {partition: {lane: positions[lane] for lane in self._lanes} for partition, positions in places.items()}
        return Cursor(names.namespace, (names.layout.partitions, names.layout.lanes), chosen, mark).encode()

    # -- starting, and starting again ---------------------------------------------------------------------------------

    @property
    def _keyspace(self) -> Keyspace:
        return self._session().keyspace

    @property
    def _feed(self) -> Feed:
        return self._sessions.feed_of(self._session())

    def _session(self) -> Session:
        if self._opened is None:
            raise WatchMisused(f"{self._selection}: use it inside of 'async with'")
        return self._opened

    @property
    def _lanes(self) -> list[int]:  # of each partition: those whose events the watch shows
        names = self._keyspace
        return list(range(names.layout.lanes)) if self._key is None else [names.lane(self._key)]

    async def _start(self) -> None:
        cursor, names = self._cursor, self._keyspace
        if cursor is not None and (problem := cursor.problem(names.namespace, names.layout)) is not None:
            self._lose(HistoryGone(f"{problem}: start with 'snapshot', or give on_gap='resync'"))
        elif cursor is not None and cursor.places:
            for partition in self._partitions:
                if not all(lane in cursor.places.get(partition, {}) for lane in self._lanes):
                    raise WatchMisused(f"{self._selection}: the cursor is of a watch of another scope, or of one key")
            self._produce(partial(self._catch_up, cursor))
        else:  # without places: the cursor of an item of a snapshot that was not complete
            self._is_synced = self._is_synced and cursor is None
            await self._rejoin()
            if not self._is_synced:
                self._produce(self._take_snapshot)

    def _produce(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a producer of items in place of the one before. Its errors are those of the watch."""

        async def produce() -> None:
            try:
                await work()
            except (HistoryGone, HistoryForked) as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, a watch must not fall silent
                self._fail(error)
            finally:
                if self._producer is asyncio.current_task():
                    self._producer = None

        if self._producer is not None and self._producer is not asyncio.current_task():
            self._producer.cancel()
        self._producer = asyncio.create_task(produce())

    async def _join(self) -> dict[int, Positions]:
        """Let the feed deliver. Return positions, all of whose later events it delivers. Until then they are held back."""
        feed, partitions = self._feed, self._partitions
        self._intake.hold()
        has_opened_all = False
        ends: dict[int, Positions] = {}
        while closed := [partition for partition in partitions if not feed.is_open(partition)]:  # others may close some meanwhile
            ends = await self._ends(closed)
            has_opened_all = all(feed.open(partition, ends[partition]) for partition in closed) and closed == partitions
        feed.register(self._intake, partitions)
        return ends if has_opened_all else await self._ends(partitions)

    async def _ends(self, partitions: list[int]) -> dict[int, Positions]:
        """Return the positions of the ends of all lanes of some partitions."""

        async def read(session: Session, _: Attempt) -> dict[int, Positions]:
            names = session.keyspace
            found = await asyncio.gather(*(look_at_lanes(session.router, names, partition) for partition in partitions))
            return {
                partition: {lane: end_of(position) for lane, position in lanes.items()}
                for partition, (_, lanes) in zip(partitions, found, strict=True)
            }

        return await self._retries.run(self._selection, read, operation="watch") if partitions else {}

    async def _rejoin(self) -> None:
        """Go on from now."""
        positions = await self._join()
        self._places = {partition: (base, None, 0) for partition, base in positions.items()}
        self._intake.release(positions)

    async def _catch_up(self, cursor: Cursor) -> None:
        """Read from a cursor up to where the feed is, and go on with it."""
        places = {number: {lane: cursor.places[number][lane] for lane in self._lanes} for number in self._partitions}
        self._places = {number: (positions, None, 0) for number, positions in places.items()}
        history = History(self._retries, self._selection, self._keyspace, places, joins=self._key is None, mark=cursor.mark)
        targets: dict[int, Positions] | None = None
        while targets is None or not history.has_reached(targets):
            await self._buffer.room()
            for partition, (batch, events) in (await self._retries.persist(history.read)).items():
                self._take_history(partition, batch, events, cursor.mark)
            if targets is None and history.at_end:
                await self._retries.persist(self._join)
                targets = {number: dict(self._feed.positions(number)) for number in self._partitions}
        self._intake.release(history.positions())

    def _take_history(self, partition: int, batch: Batch, events: Sequence[Event], mark: Mark | None) -> None:
        items = []
        for index, event in enumerate(events):
            is_shown = event.scope is not None and self._scope in (None, event.scope) and self._key in (None, event.key)
            if is_shown and not (mark is not None and event.transaction == mark.transaction and event.index <= mark.seen):
                items.append(Item(event, partition, batch, index))
        self._take(items, size_of(items))

    async def _resync(self) -> None:
        await self._retries.persist(self._rejoin)
        await self._take_snapshot()

    async def _take_snapshot(self) -> None:
        """Show what is there, and what is gone, while the feed goes on."""
        self._snapshot = snapshot = Snapshot(
            self._retries, self._selection, self._keyspace, self._intake.base, show=self._show, room=self._buffer.room
        )
        await snapshot.show(self._scope, self._key)
        for partition, end in (await self._retries.persist(partial(self._ends, self._partitions))).items():
            await self._feed.reach(partition, end)
        self._snapshot = None
        for scope, key in snapshot.missing(self._known):
            fields = {b"type": b"state:deleted", b"scope": scope, b"key": key, b"old": b"null", b"reason": RESYNC}
            self._show(Event(0, b"0-0", 0, fields))
        self._buffer.add([Item(None)], 0)

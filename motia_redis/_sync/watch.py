"""Follow changes without an event loop: what `watch` of the sync `StateManager` returns."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic

from motia_redis._store.watch_items import T_co
from motia_redis._sync import loop_thread
from motia_redis._sync.ownership import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from motia_redis._store.watch import Watch as AsyncWatch
    from motia_redis._store.watch_items import WatchItem

_MOST = 256  # items that are fetched at once


class Watch(Generic[T_co]):
    """Yield the changes of a scope, a key, or everything: `with state.watch(...) as watch: for item in watch: ...`.

    One thread reads it. It ends by `close`, from any thread, and at the end of its block. After an error it raises that error
    again.
    """

    def __init__(self, watch: AsyncWatch[T_co]) -> None:
        self._watch = watch
        self._owner = Owner(watch)
        self._batch: deque[WatchItem[T_co]] = deque()  # fetched, and not read yet
        self._fetched = 0
        self._read = 0
        self._has_read = threading.Condition()

    def __repr__(self) -> str:
        return repr(self._watch)

    def __enter__(self) -> Self:
        loop_thread.refuse_inside_loop("watch")
        self._owner.enter()
        loop_thread.run("watch", self._watch.__aenter__)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[WatchItem[T_co]]:
        return self

    def __next__(self) -> WatchItem[T_co]:
        if not self._batch:
            self._owner.check()
            loop_thread.run("watch", self._fetch)
            if not self._batch:
                raise StopIteration
        self._read += 1
        item = self._batch.popleft()
        if not self._batch:
            with self._has_read:
                self._has_read.notify_all()
        return item

    async def _fetch(self) -> None:
        """Wait for an item, and take those that are there, too. Leave `_batch` empty at the end of the watch."""
        with suppress(StopAsyncIteration):
            items = [await anext(self._watch), *self._watch.waiting(_MOST - 1)]
            self._fetched += len(items)
            self._batch.extend(items)

    def close(self) -> None:
        """End the watch. `for` ends, in whatever thread it waits. Closing twice is allowed."""
        if self._owner.is_here:
            loop_thread.run("close", self._watch.close)
            with self._has_read:
                self._batch.clear()
                self._has_read.notify_all()

    @property
    def scope(self) -> str | None:
        """Return the scope that is watched; None: all."""
        return self._watch.scope

    @property
    def age(self) -> float | None:
        """Return the seconds since all that had happened was last known to be here. None: the watch has not come so far yet."""
        return self._watch.age if self._owner.is_here else None

    def reached(self, revision: str) -> None:
        """Wait until the reader has the change with this revision, and all that were made before this call.

        For another thread than the reader, which must read on. It waits while Redis is away. Cost: one round trip. Raises
        StateError for text that is no revision, and the error of the watch.
        """
        self._owner.check()
        fetched = loop_thread.run("reached", self._reached, revision)
        with self._has_read:
            self._has_read.wait_for(lambda: self._read >= fetched or not self._batch)

    async def _reached(self, revision: str) -> int:
        """Wait until the reader has fetched the change, and return how many items it has fetched then."""
        await self._watch.reached(revision)
        return self._fetched

"""What waits for the reader of a watch."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from motia_redis._store.cursors import Positions
    from motia_redis._store.lanes import Batch, Event


class Place(NamedTuple):
    """Where a reader is in a partition: behind an event of a batch, and at least at `base`."""

    base: Positions | None
    batch: Batch | None = None
    at: int = 0  #: index of the event in the batch


class Item(NamedTuple):
    """An item that waits for the reader. Without an event it is the end of a snapshot."""

    event: Event | None
    partition: int = 0
    place: Place | None = None  #: None: a value of a snapshot


class Buffer:
    """Keep items in their order: at most `most_items`, and `most_bytes` of values. `latest`: if full, the last of each key."""

    def __init__(self, most_items: int, most_bytes: int, *, latest: bool) -> None:
        self.most_items = most_items
        self.most_bytes = most_bytes
        self.latest = latest
        self.added = 0  #: items ever added
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._wakes: asyncio.Future[None] | None = None
        self._has_room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def taken(self) -> int:
        """Return how many items were removed in one way or another."""
        return self.added - len(self._items)

    def add(self, item: Item) -> bool:
        """Add an item. Return False if there are too many."""
        self._items.append(item)
        self.added += 1
        if item.event is not None:
            self._bytes += item.event.size
        if self._wakes is not None:
            self.wake()
        return not self._is_over(1) or (self.latest and self._compact())

    def _is_over(self, part: float) -> bool:
        return len(self._items) > self.most_items * part or self._bytes > self.most_bytes * part

    def _compact(self) -> bool:
        """Keep the last item of each key. Return whether a quarter is free then; else each further item would cost a pass."""
        latest: dict[tuple[bytes | None, bytes] | None, Item] = {}
        for item in self._items:
            name = None if item.event is None else (item.event.scope, item.event.key)
            latest.pop(name, None)
            latest[name] = item
        self._items = deque(latest.values())
        self._bytes = sum(item.event.size for item in self._items if item.event is not None)
        return not self._is_over(0.75)

    def pop(self) -> Item:
        """Remove the first item and return it."""
        item = self._items.popleft()
        if item.event is not None:
            self._bytes -= item.event.size
        if not self._has_room.is_set() and not self._is_over(0.5):
            self._has_room.set()
        return item

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
        self._bytes = 0
        self._has_room.set()

    def wake(self) -> None:
        """End `wait`."""
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Wait for an item or for `wake`. Return False if neither came in time."""
        self._wakes = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._wakes
        except TimeoutError:
            return False
        finally:
            self._wakes = None
        return True

    async def room(self) -> None:
        """Wait until half of the buffer is free."""
        if self._is_over(0.5):
            self._has_room.clear()
            await self._has_room.wait()

"""What waits for the reader of a watch."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from motia_redis._store.lanes import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._store.lanes import Item


class Buffer:
    """Keep items in their order: at most `most_items`, and `most_bytes` of values. `latest`: if full, the last of each key."""

    def __init__(self, most_items: int, most_bytes: int, *, latest: bool) -> None:
        self.most_items = most_items
        self.most_bytes = most_bytes
        self.latest = latest
        self.items: deque[Item] = deque()
        self.taken = 0  #: items that were read
        self._bytes = 0
        self._wakes: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def add(self, items: Sequence[Item], size: int) -> bool:
        """Add items with so many bytes of values. Return False if there are too many."""
        self.items.extend(items)
        self._bytes += size
        if self._wakes is not None:
            self.wake()
        return not self._is_over(1) or (self.latest and self._compact())

    def _is_over(self, part: float) -> bool:
        return len(self.items) > self.most_items * part or self._bytes > self.most_bytes * part

    def _compact(self) -> bool:
        """Keep the last item of each key. Return whether a quarter is free then; else each further item would cost a pass."""
        kept = list(latest(self.items))
        self.items.clear()
        self.items.extend(kept)
        self._bytes = size_of(kept)
        return not self._is_over(0.75)

    def pop(self) -> Item:
        """Remove the first item and return it."""
        item = self.items.popleft()
        self.taken += 1
        if item.event is not None:
            self._bytes -= item.event.size
        if self._room is not None and not self._is_over(0.5):
            self._has_room()
        return item

    def clear(self) -> None:
        """Remove all items."""
        self.taken += len(self.items)
        self.items.clear()
        self._bytes = 0
        self._has_room()

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
        """Wait until half of the buffer is free. For one task."""
        if self._is_over(0.5):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _has_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


def latest(items: Sequence[Item] | deque[Item]) -> list[Item]:
    """Return the last item of each key, in the order of these."""
    kept: dict[tuple[bytes | None, bytes] | None, Item] = {}
    for item in items:
        name = None if item.event is None else (item.event.scope, item.event.key)
        kept.pop(name, None)
        kept[name] = item
    return list(kept.values())

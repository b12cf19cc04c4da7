"""Read watches in tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from motia_redis.types import Bookmark, Change, Synced

if TYPE_CHECKING:
    from motia_redis.types import Watch, WatchItem

PATIENCE = 30.0  # seconds in which what is awaited comes also on a busy machine


async def take(watch: Watch, count: int) -> list[WatchItem]:
    """Return the next items that are no bookmarks."""
    found: list[WatchItem] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            item = await anext(watch)
            if not isinstance(item, Bookmark):
                found.append(item)
    return found


async def take_changes(watch: Watch, count: int) -> list[Change]:
    """Return the next changes; nothing else but bookmarks may come between."""
    found = await take(watch, count)
    assert all(isinstance(item, Change) for item in found), found
    return [item for item in found if isinstance(item, Change)]


async def take_snapshot(watch: Watch) -> list[Change]:
    """Return all changes before the next `Synced`."""
    found: list[Change] = []
    async with asyncio.timeout(PATIENCE):
        async for item in watch:
            if isinstance(item, Synced):
                return found
            if isinstance(item, Change):
                found.append(item)
    raise AssertionError("the watch has ended before the snapshot was complete")


def facts(change: Change) -> tuple[str, str, Any]:
    """Return type, key and value of a change."""
    return change.type.removeprefix("state:"), change.key, change.value

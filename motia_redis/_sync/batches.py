"""Iterate over an async generator without an event loop: many items for each visit to the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from motia_redis._sync import loop_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

_T = TypeVar("_T")

_MOST = 500  # items that are fetched at once: as many as the page of a scan may have


def in_batches(name: str, items: AsyncGenerator[_T]) -> Iterator[_T]:
    """Yield the items of an async generator, which the loop reads at most one page ahead. `name` is that of the call."""

    async def fetch() -> bool:
        """Fetch some items. Return whether there may be more."""
        async for item in items:
            batch.append(item)
            if len(batch) >= _MOST:
                return True
        return False

    has_more = True
    try:
        while has_more:
            batch: list[_T] = []
            try:
                has_more = loop_thread.run(name, fetch)
            except Exception:
                yield from batch  # what came before the error
                raise
            yield from batch
    finally:
        if (thread := loop_thread.running()) is not None:  # without waiting: the garbage collector may end this generator
            thread.post(items.aclose)

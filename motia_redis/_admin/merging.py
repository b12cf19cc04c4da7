"""Merge what several places yield in order."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

_T = TypeVar("_T")


async def merge(sources: Iterable[AsyncIterator[_T]], order: Callable[[_T], Any]) -> AsyncIterator[_T]:
    """Yield the items of all sources by their order. Each source yields its items in that order, and is read one item ahead."""
    heads: list[tuple[Any, int, _T, AsyncIterator[_T]]] = []
    for number, source in enumerate(sources):
        async for item in source:
            heads.append((order(item), number, item, source))
            break
    heapify(heads)
    while heads:
        _, number, item, source = heads[0]
        yield item
        try:
            following = await anext(source)
        except StopAsyncIteration:
            heappop(heads)
        else:
            heapreplace(heads, (order(following), number, following, source))

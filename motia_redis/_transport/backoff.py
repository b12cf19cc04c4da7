"""Pauses between attempts that grow while they fail."""

from __future__ import annotations

import asyncio

from motia_redis._ids import generator


class Backoff:
    """The pauses of one loop: `first` seconds, then twice as long each time, up to `longest`.

    Each is shortened at random to `least` of its length or more, so that many processes do not come back at the same moment.
    """

    __slots__ = ("_first", "_least", "_longest", "_next")

    def __init__(self, first: float, longest: float, *, least: float = 0.5) -> None:
        self._first = self._next = first
        self._longest = longest
        self._least = least

    def reset(self) -> None:
        """Begin with the first pause again: an attempt has succeeded."""
        self._next = self._first

    @property
    def is_first(self) -> bool:
        """Return whether no attempt has failed since the last success."""
        return self._next == self._first

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * generator.uniform(self._least, 1.0)

    async def sleep(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self.next())

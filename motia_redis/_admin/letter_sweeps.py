"""Retry or drop all dead letters that a filter means, at a rate, and say how far it has come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from motia_redis._admin import letter_moves, registry
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.letters import filled, newest_ids, pages
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._admin.letter_filters import LetterFilter
    from motia_redis._admin.letter_moves import Reason
    from motia_redis._admin.letters import DeadLetter, LetterPlace
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

Action: TypeAlias = Literal["retry", "drop"]
_CHUNKS = 10  # of one second, at a rate


class Sweep:
    """Retry or drop the letters that exist when the sweep first looks, and that a filter means.

    Call `count` for a dry run, `run` to move them, or both: `run` then moves no letter that has appeared since `count` looked.
    The attributes say how far the call has come. Each letter moves atomically, as `DeadLetters.retry` and `drop` say, so that
    of several sweeps over the same letters each counts only what it has moved itself.

    Arguments:
        where: which letters are meant.
        action: "retry" or "drop".
        rate: at most so many letters a second; None = as fast as Redis answers.

    Raises StateError for a rate that is not above 0.
    """

    def __init__(self, state: StateManager, where: LetterFilter, action: Action, *, rate: float | None = None) -> None:
        if rate is not None and not 0 < rate <= 1_000_000:
            raise StateError(f"the rate must be a number of letters per second above 0 and up to 1000000, not {rate!r:.80}")
        self.where = where
        self.action = action
        self.rate = rate
        self.existing = 0  #: letters that there are to look at
        self.looked = 0  #: letters that the call has looked at
        self.expected: int | None = None  #: letters that `count` found, and expects to move
        self.expected_refused: Counter[Reason] = Counter()  #: letters that `count` found, and expects to stay
        self.moved = 0  #: letters that Redis has answered to be moved
        self.refused: Counter[Reason] = Counter()  #: letters that stayed, by reason
        self.unknown = 0  #: letters in the call that Redis did not answer: each may have moved
        self.is_stopped = False
        self._state = state
        self._ends: dict[LetterPlace, bytes] | None = None
        self._sizes = 0
        self._stop = asyncio.Event()
        self._next = 0.0  # when the next letters may move, by the monotonic clock

    def stop(self) -> None:
        """Let the call end before it moves another letter. What has moved stays moved."""
        self.is_stopped = True
        self._stop.set()

    async def count(self) -> None:
        """Count the letters that `run` would move, and would refuse. Change nothing. May raise StateUnavailable."""
        expected = 0
        refused: Counter[Reason] = Counter()
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            await self._begin(router, keyspace)
            known = await registry.read(router, keyspace)
            for place, end in (self._ends or {}).items():
                async for page in pages(router, place, end):
                    if self.is_stopped:
                        return
                    found = [letter for letter in page if self.where.match(letter)]
                    reasons = letter_moves.expected_reasons(found, known) if self.action == "retry" else [None] * len(found)
                    expected += reasons.count(None)
                    refused.update(reason for reason in reasons if reason is not None)
                    self.looked += len(page)
        self.expected, self.expected_refused = expected, refused

    async def run(self) -> None:
        """Move the letters. May raise StateUnavailable; the attributes then say what had moved."""
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            await self._begin(router, keyspace)
            for place, end in (self._ends or {}).items():
                async for page in pages(router, place, end):
                    for chunk in self._chunks([letter for letter in page if self.where.match(letter)]):
                        if await self._pause(len(chunk)):
                            return
                        await self._move(router, keyspace, place, chunk)
                    if self.is_stopped:
                        return
                    self.looked += len(page)
        if self.expected is not None:  # letters that were gone before this call came to them
            gone = self.expected + self.expected_refused.total() - self.moved - self.refused.total()
            self.refused.update({"gone": gone} if gone > 0 else {})

    async def _begin(self, router: Router, keyspace: Keyspace) -> None:
        """Fix which letters exist, once."""
        if self._ends is None:
            sizes = await filled(router, keyspace, self.where.step)
            self._ends, self._sizes = await newest_ids(router, [*sizes]), sum(sizes.values())
        self.existing, self.looked = self._sizes, 0

    def _chunks(self, letters: Sequence[DeadLetter]) -> list[Sequence[DeadLetter]]:
        size = len(letters) if self.rate is None else max(1, int(self.rate / _CHUNKS))
        return [letters[start : start + size] for start in range(0, len(letters), size or 1)]

    async def _pause(self, letters: int) -> bool:
        """Wait until so many letters may move. Return whether the sweep was stopped."""
        if self.rate is not None and not self.is_stopped:
            now = time.monotonic()
            begin = max(now, self._next)  # time that was lost is not made good by a burst
            self._next = begin + letters / self.rate
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), begin - now)
        return self.is_stopped

    async def _move(self, router: Router, keyspace: Keyspace, place: LetterPlace, letters: Sequence[DeadLetter]) -> None:
        self.unknown = len(letters)
        if self.action == "retry":
            reasons = await letter_moves.retry(router, keyspace, letters)
            moved = reasons.count(None)
            self.refused.update(reason for reason in reasons if reason is not None)
        else:
            moved = await letter_moves.drop(router, keyspace, place, letters)
            self.refused.update({"gone": len(letters) - moved} if moved < len(letters) else {})
        self.moved += moved
        self.unknown = 0

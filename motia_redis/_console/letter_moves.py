"""Retry and drop dead letters in the background, so that the move goes on while nobody has its page open."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from motia_redis._console.access import audit
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from starlette.requests import Request

    from motia_redis._admin.letter_sweeps import Sweep

_MOST_KEPT = 50
_MOST_AT_ONCE = 8

Phase: TypeAlias = Literal["counting", "counted", "moving", "ended", "failed"]


class LetterMove:
    """A dry run, and the move that may follow it."""

    def __init__(self, sweep: Sweep, person: str, told: str) -> None:
        self.id = secrets.token_urlsafe(9)
        self.sweep = sweep
        self.person = person
        self.told = told  #: the conditions, for a person
        self.phase: Phase = "counting"
        self.problem = ""
        self.began = time.time()
        self.ended: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it counts or moves just now."""
        return self._task is not None and not self._task.done()

    def count(self) -> None:
        """Begin the dry run."""
        self._task = asyncio.create_task(self._count())

    def move(self, request: Request) -> None:
        """Begin to move. A second call changes nothing."""
        if self.phase == "counted":
            self.phase, self.began = "moving", time.time()
            self._task = asyncio.create_task(self._move(request))

    async def _count(self) -> None:
        try:
            await self.sweep.count()
            self.phase = "ended" if self.sweep.is_stopped else "counted"
        except StateError as error:
            self._fail(error)

    async def _move(self, request: Request) -> None:
        sweep = self.sweep
        audit(request, f"{sweep.action} of dead letters", "started", {"where": self.told, "expected": sweep.expected})
        try:
            await sweep.run()
            self.phase = "ended"
        except StateError as error:
            self._fail(error)
        finally:
            self.ended = time.time()
            outcome = "stopped" if sweep.is_stopped else "done" if self.phase == "ended" else "failed"
            details = {"where": self.told, "moved": sweep.moved, "refused": dict(sweep.refused), "unknown": sweep.unknown}
            audit(request, f"{sweep.action} of dead letters", outcome, details)

    def _fail(self, error: StateError) -> None:
        self.phase, self.problem = "failed", str(error)


class LetterMoves:
    """Hold the moves of this console, also those that have ended lately."""

    def __init__(self) -> None:
        self._moves: dict[str, LetterMove] = {}

    def add(self, move: LetterMove) -> None:
        """Add a move and begin its dry run. Raises StateError if too many are busy."""
        if sum(each.is_busy for each in self._moves.values()) >= _MOST_AT_ONCE:
            raise StateError(f"{_MOST_AT_ONCE} moves of dead letters are busy. Wait until one has ended, or stop one.")
        for old in [each.id for each in self._moves.values() if not each.is_busy][: max(0, len(self._moves) - _MOST_KEPT + 1)]:
            del self._moves[old]
        self._moves[move.id] = move
        move.count()

    def get(self, id: str) -> LetterMove | None:
        """Return a move, or None if this process does not know it."""
        return self._moves.get(id)

    def begun(self) -> list[LetterMove]:
        """Return the moves that were more than a dry run, the newest first."""
        moves = [move for move in self._moves.values() if move.sweep.moved or move.phase == "moving" or move.ended]
        return sorted(moves, key=lambda move: -move.began)

"""Decide when handlers of one step may begin: not while the step is paused, and within its `concurrency` and its `rate`.

A step without any of that has no gate. Keys that may not go on wait here, without a task, so they delay no other step.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from motia_redis._worker.rates import Tokens


class _Queue(Protocol):
    """The entries of a key, as the dispatcher has them. Without entries it is no longer in use."""

    @property
    def deliveries(self) -> Sized: ...


_Q = TypeVar("_Q", bound=_Queue)


class Gate(Generic[_Q]):
    """Let keys of one step pass, in the order in which they come.

    Arguments:
        concurrency: how many handlers of the step may run at once in this process. None: any number.
        tokens: each attempt takes one. None: the step has no rate.
        make_ready: called with a key that may go on. It comes to `enters` once more.
    """

    def __init__(self, make_ready: Callable[[_Q], None], *, concurrency: int | None = None, tokens: Tokens | None = None) -> None:
        self.is_paused = False
        self._make_ready = make_ready
        self._concurrency = concurrency
        self._tokens = tokens
        self._waiting: deque[_Q] = deque()
        self._admitted: set[_Q] = set()  # keys that were made ready, and have a place already
        self._running = 0  # handlers, and places of what was admitted
        if tokens is not None:
            tokens.on_granted = self._admit
            tokens.count_waiting = lambda: len(self._waiting)

    @property
    def is_limited(self) -> bool:
        """Return whether the step has a limit of its own. Else the gate is needed only while the step is paused."""
        return self._concurrency is not None or self._tokens is not None

    def enters(self, queue: _Q) -> bool:
        """Return whether the handler of a key's first entry may begin now. Then `leave` must follow. Else the key waits here."""
        if queue in self._admitted:
            self._admitted.discard(queue)
        elif self.is_paused or self._waiting or not self._has_place:
            self._waiting.append(queue)
            return False
        else:
            self._running += 1
        if self.is_paused or (self._tokens is not None and not self._tokens.take()):
            self._running -= 1
            self._waiting.appendleft(queue)
            self._admit()
            return False
        self._admit()
        return True

    def leave(self, *, attempted: bool) -> None:
        """Let the next key go on. Without an attempt, the token serves another one."""
        self._running -= 1
        if self._tokens is not None and not attempted:
            self._tokens.give_back()
        self._admit()

    def abandon(self, queue: _Q) -> None:
        """Let the next key go on in place of one that was dropped after it was made ready."""
        if queue in self._admitted:
            self._admitted.discard(queue)
            self._running -= 1
            self._admit()

    def forget_dropped(self) -> None:
        """Forget keys that were dropped while they waited."""
        self._waiting = deque(queue for queue in self._waiting if queue.deliveries)

    def resume(self) -> None:
        """Let keys pass again."""
        self.is_paused = False
        self._admit()

    @property
    def _has_place(self) -> bool:
        return self._concurrency is None or self._running < self._concurrency

    def _admit(self) -> None:
        """Make as many keys ready as may go on. Ask for tokens if they are what is missing."""
        while self._waiting and self._has_place and not self.is_paused:
            if self._tokens is not None and self._tokens.in_hand <= len(self._admitted):
                if not self._admitted:  # else these take the tokens first
                    self._tokens.request()
                return
            queue = self._waiting.popleft()
            if queue.deliveries:
                self._running += 1
                self._admitted.add(queue)
                self._make_ready(queue)

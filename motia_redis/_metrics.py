"""Count what this process does, as plain numbers that are read when somebody asks for them.

`active` is None until `switch_on`, and code that counts checks just that. Nothing here needs a library for metrics. Threads count
without a lock: a number may very rarely lack one.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Upper ends of the buckets, seconds.
CALL_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
HANDLER_BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


class Watched(Protocol):
    """Know how many watches it serves."""

    @property
    def watchers(self) -> int:
        """Return the number of open watches."""
        ...


class Histogram:
    """Count durations by the buckets of `bounds`; the last bucket has no upper end."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  #: seconds

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def cumulated(self) -> list[tuple[float | str, int]]:
        """Return for each bound, and for `+Inf`, how many durations were not longer."""
        return list(zip((*self.bounds, "+Inf"), accumulate(list(self.counts)), strict=True))


class StepCounts:
    """Hold the numbers of one step in this process."""

    __slots__ = ("dead_letters", "durations", "failed", "handled", "running")

    def __init__(self) -> None:
        self.handled = 0  #: events whose handler has returned
        self.failed = 0  #: attempts that failed, and are repeated
        self.dead_letters = 0
        self.running = 0  #: handlers that run now
        self.durations = Histogram(HANDLER_BOUNDS)


class Metrics:
    """Hold the numbers of this process."""

    def __init__(self) -> None:
        self.calls: dict[str, Histogram] = {}  #: durations of calls that succeeded, retries included, by operation
        self.changes: Counter[str] = Counter()  #: by operation
        self.retries: Counter[str] = Counter()  #: attempts after the first, by operation
        self.unavailable: Counter[str] = Counter()  #: calls that raised StateUnavailable, by operation
        self.conflicts = 0
        self.expiries = 0  #: values that this process let expire
        self.steps: dict[str, StepCounts] = {}
        self.feeds: WeakSet[Watched] = WeakSet()

    def add_call(self, operation: str, began: float, changes: int) -> None:
        """Count a call that succeeded and began at a moment of `time.monotonic`."""
        seconds = time.monotonic() - began
        calls = self.calls.get(operation)
        if calls is None:
            calls = self.calls[operation] = Histogram(CALL_BOUNDS)
        calls.counts[bisect_left(CALL_BOUNDS, seconds)] += 1  # not by `observe`: a call of a method is a fifth of the cost
        calls.total += seconds
        if changes:
            self.changes[operation] += changes

    def of_step(self, name: str) -> StepCounts:
        """Return the numbers of a step, from 0 at first."""
        return self.steps.setdefault(name, StepCounts())

    @property
    def watchers(self) -> int:
        """Return the number of watches and mirrors that are open in this process."""
        return sum(feed.watchers for feed in list(self.feeds))


active: Metrics | None = None  #: of this process; None = nothing is counted


def switch_on() -> Metrics:
    """Count from now on, what other managers and workers of this process do included. Call it before they are made."""
    global active  # noqa: PLW0603  # one for the process, as the managers of handlers have no owner in common
    active = Metrics()
    return active


def switch_off() -> None:
    """Count nothing any more."""
    global active  # noqa: PLW0603
    active = None

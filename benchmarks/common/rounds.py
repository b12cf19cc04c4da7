"""Rounds in which contenders alternate, and statistics of their figures.

On a busy machine a single figure means little. So all contenders run once in each round, the order rotates by one from round to
round, and ratios are taken within a round: other work then slows both sides of a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of some figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Return the spread of at least one figure."""
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        low, _, high = quantiles(figures, n=4, method="inclusive")
        return cls(median(figures), low, high)

    def as_dict(self) -> dict[str, float]:
        """Return the figures for a result file."""
        return {"median": round(self.median, 3), "low": round(self.low, 3), "high": round(self.high, 3)}


def order(names: Iterable[str], turn: int) -> list[str]:
    """Return the contenders in the order of a round: each round starts with the next one."""
    given = list(names)
    first = turn % len(given)
    return given[first:] + given[:first]


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each contender once per round; each round starts with the next contender. Return the figures by round."""
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in order(names, turn):
            figures[name].append(contenders[name]())
    return figures


def ratio(figures: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the spread of the ratios figure / other of each round."""
    return Spread.of([figure / other for figure, other in zip(figures, others, strict=True)])

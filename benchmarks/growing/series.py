"""Cost by size, and the exponent it grows with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common.rounds import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TOLERANCE = 0.15  #: an exponent may be so much above what it must be: twice the cost for 100 times the size
#: The server's part of a call may grow by so many microseconds: some misses of the processor's caches, which large data bring.
SERVER_SLACK = 5.0
ITEM_SLACK = 1.0  #: the same for each item of a call: one or two such misses


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of one operation by size, every size with its figures by round.

    `limit` is the exponent it may grow with, `slack` what it may grow by beyond that, in its unit.
    """

    name: str
    unit: str
    limit: float
    figures: Mapping[int, Sequence[float]]
    slack: float = 0.0

    def exponent(self) -> Spread:
        """Return the growth exponents of all rounds: a round's sizes were measured one right after the other."""
        turns = min(map(len, self.figures.values()))
        return Spread.of([slope({size: spent[turn] for size, spent in self.figures.items()}) for turn in range(turns)])

    def grows_too_fast(self) -> bool:
        """Tell whether the cost grows faster than it must."""
        costs = {size: median(spent) for size, spent in self.figures.items()}
        sizes = counted(costs)
        return self.exponent().median > self.limit + TOLERANCE and costs[sizes[-1]] - costs[sizes[0]] > self.slack

    def as_dict(self) -> dict[str, Any]:
        """Return the line for the result file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "limit": self.limit,
            "points": {str(size): Spread.of(spent).as_dict() for size, spent in self.figures.items()},
            "exponent": self.exponent().as_dict(),
            "grows_too_fast": self.grows_too_fast(),
        }


@dataclass(frozen=True, slots=True)
class Series:
    """Lines over the same sizes."""

    name: str
    size: str  #: what grows
    lines: Sequence[Line]
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the series for the result file."""
        return {"name": self.name, "size": self.size, "lines": [line.as_dict() for line in self.lines], "notes": self.notes}


def counted(sizes: Iterable[int]) -> list[int]:
    """Return the sizes from the middle one to the largest: small ones tell of fixed costs."""
    ordered = sorted(sizes)
    return ordered[(len(ordered) - 1) // 2 :]


def slope(costs: Mapping[int, float]) -> float:
    """Return the growth exponent: the slope of log cost over log size, by least squares, over the sizes that count.

    0: the cost does not depend on the size; 1: twice the size costs twice.
    """
    sizes = counted(costs)
    across = [math.log(size) for size in sizes]
    up = [math.log(costs[size]) for size in sizes]
    middle, level = sum(across) / len(sizes), sum(up) / len(sizes)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * (y - level) for x, y in zip(across, up, strict=True)) / spread

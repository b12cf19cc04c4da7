"""Cost by size, and its growth exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common.rounds import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TOLERANCE = 0.15  #: how far an exponent may exceed its limit: twice the cost for 100 times the size
#: By how many microseconds the server time of a call may grow: large data cause some cache misses.
SERVER_SLACK = 5.0
ITEM_SLACK = 1.0  #: the same for each item of a call: one or two cache misses


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of one operation: for each size, the figures by round.

    `limit` is the allowed exponent. `slack` is an allowed absolute growth in the unit of the line.
    """

    name: str
    unit: str
    limit: float
    figures: Mapping[int, Sequence[float]]
    slack: float = 0.0

    def exponent(self) -> Spread:
        """Return the spread of the growth exponents of all rounds."""
        turns = min(map(len, self.figures.values()))
        return Spread.of([slope({size: spent[turn] for size, spent in self.figures.items()}) for turn in range(turns)])

    def grows_too_fast(self) -> bool:
        """Return whether the cost grows faster than the limit allows."""
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
    """Lines for the same sizes."""

    name: str
    size: str  #: what grows
    lines: Sequence[Line]
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the series for the result file."""
        return {"name": self.name, "size": self.size, "lines": [line.as_dict() for line in self.lines], "notes": self.notes}


def counted(sizes: Iterable[int]) -> list[int]:
    """Return the sizes from the middle one to the largest. Smaller sizes show fixed costs."""
    ordered = sorted(sizes)
    return ordered[(len(ordered) - 1) // 2 :]


def slope(costs: Mapping[int, float]) -> float:
    """Return the growth exponent: the slope of log cost over log size, by least squares, for the counted sizes.

    0: the cost does not depend on the size; 1: twice the size costs twice.
    """
    sizes = counted(costs)
    across = [math.log(size) for size in sizes]
    up = [math.log(costs[size]) for size in sizes]
    middle, level = sum(across) / len(sizes), sum(up) / len(sizes)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * (y - level) for x, y in zip(across, up, strict=True)) / spread

"""A measured figure against its goal."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.common.tables import figure


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure (the median of the rounds) and its limit: the most that it may be or, with `at_least`, the least."""

    figure: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def distance(self) -> float:
        """How far the figure is from its goal: more than 1 is missed, the more the farther."""
        return self.limit / self.figure if self.at_least else self.figure / self.limit

    @property
    def demand(self) -> str:
        """The goal, for a table."""
        return f"{'≥' if self.at_least else '≤'} {figure(self.limit)}"

    @property
    def answer(self) -> str:
        """Whether it is met, for a table."""
        return "yes" if self.met else "**no**"

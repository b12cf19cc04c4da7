"""A measured figure against its goal."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.common.tables import figure


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure (the median of the rounds) and its limit: an upper limit or, with `at_least`, a lower limit."""

    figure: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def distance(self) -> float:
        """The ratio of figure and limit that is greater than 1 if the goal is missed."""
        return self.limit / self.figure if self.at_least else self.figure / self.limit

    @property
    def demand(self) -> str:
        """The limit as text for a table."""
        return f"{'≥' if self.at_least else '≤'} {figure(self.limit)}"

    @property
    def answer(self) -> str:
        """Whether the goal is met, as text for a table."""
        return "yes" if self.met else "**no**"

"""The goals for calls, and whether a measurement meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.common.goals import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

Case = dict[str, Any]
Result = dict[str, Any]

#: Clients that send calls of many tasks together by themselves, as ours does: the goal speaks of the faster one.
MULTIPLEXING = ("coredis", "valkey-glide")
IMPORT_EXCESS_MS = 60.0
MEMORY_FACTOR = 1.6


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of one work against one rival, everywhere it is measured."""

    label: str
    work: str
    tasks: int
    rivals: tuple[str, ...]  #: the fastest of these that was measured
    limit: float
    figure: str = "ratios"  #: the case's figure that it speaks of: `ratios` and `cpu_ratios` are to be low, `speedups` high

    @property
    def high(self) -> bool:
        """Whether the figure has to reach the limit rather than stay within it."""
        return self.figure == "speedups"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of goals: the figure worst from its goal, where that was, and how many places meet it."""

    goal: str
    worst: Verdict
    where: str
    unit: str
    met: int
    of: int


GOALS = (
    Goal("`get`, one at a time: time, of redis-py's", "get", 1, ("redis-py",), 1.0),
    Goal("`set`, one at a time: time, of redis-py's", "set", 1, ("redis-py",), 1.2),
    Goal("`get` by 64 tasks: rate, of redis-py's", "get", 64, ("redis-py",), 6.0, "speedups"),
    Goal("`set` by 64 tasks: rate, of redis-py's", "set", 64, ("redis-py",), 4.0, "speedups"),
    Goal("`update` by 64 tasks: rate, of redis-py's `HSET`", "update", 64, ("redis-py",), 4.0, "speedups"),
    Goal("`get` by 64 tasks: rate, of the better of coredis and valkey-glide", "get", 64, MULTIPLEXING, 2.0, "speedups"),
    Goal("`set` by 64 tasks: rate, of the better of coredis and valkey-glide", "set", 64, MULTIPLEXING, 2.0, "speedups"),
    Goal("`get` by 64 tasks: client CPU per call, of that one's", "get", 64, MULTIPLEXING, 1.0, "cpu_ratios"),
    Goal("`set` by 64 tasks: client CPU per call, of that one's", "set", 64, MULTIPLEXING, 1.0, "cpu_ratios"),
    Goal(
        "one member incremented by 64 tasks of 2 processes: rate, of redis-py's `WATCH` loop",
        "contended increment",
        64,
        ("redis-py",),
        200.0,
        "speedups",
    ),
    Goal("`list` of 10,000 values: time, of redis-py's `HVALS`", "list", 1, ("redis-py",), 1.15),
)


def goals_of(case: Case, rival: str) -> list[Goal]:
    """Return the goals that a case has against one rival (of several, against the fastest)."""
    matching = [goal for goal in GOALS if goal.work == case["work"] and goal.tasks == case["tasks"]]
    return [goal for goal in matching if _rival(goal, case) == rival]


def judge(goal: Goal, case: Case) -> Verdict | None:
    """Return the verdict on a case, or None when the rival was not measured."""
    rival = _rival(goal, case)
    return Verdict(case[goal.figure][rival]["median"], goal.limit, goal.high) if rival else None


def table(result: Result) -> list[Row]:
    """Return one row per goal that was measured, for any page that shows them."""
    rows = []
    for goal in GOALS:
        cases = [case for case in result["cases"] if case["work"] == goal.work and case["tasks"] == goal.tasks]
        found = [(verdict, _where(goal, case)) for case in cases if (verdict := judge(goal, case))]
        rows += _row(goal.label, "times", found)
    excess = Verdict(result["imports"]["excess"]["median"], IMPORT_EXCESS_MS)
    rows += _row("`import motia_redis`: time beyond that of redis.asyncio, hiredis and orjson", "ms", [(excess, "-")])
    if (factor := memory_factor(result, "ours, settled")) is not None:
        rows += _row("memory in Redis: of a plain hash's", "times", [(Verdict(factor, MEMORY_FACTOR), "-")])
    return rows


def memory_factor(result: Result, which: str) -> float | None:
    """Return how many times the memory of a plain hash was taken, or None when that was not measured."""
    found: dict[str, int] = result["memory"]["bytes"]
    return found[which] / found["plain hash"] if which in found else None


def _rival(goal: Goal, case: Case) -> str | None:
    """Return the fastest of the rivals that a goal speaks of."""
    measured = [name for name in goal.rivals if name in case["ratios"]]
    return min(measured, key=lambda name: case["times"][name]["median"], default=None)


def _where(goal: Goal, case: Case) -> str:
    """Return the place of a case and, where a goal speaks of the better rival, which one that was."""
    return f"{case['socket']}, {case['loop']}" + (f", {_rival(goal, case)}" if len(goal.rivals) > 1 else "")


def _row(label: str, unit: str, found: Sequence[tuple[Verdict, str]]) -> list[Row]:
    """Return the row of a goal, or none where it was not measured."""
    if not found:
        return []
    worst, where = max(found, key=lambda pair: pair[0].distance)
    return [Row(label, worst, where, unit, sum(verdict.met for verdict, _ in found), len(found))]

"""The goals for calls, and verdicts on measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.common.goals import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

Case = dict[str, Any]
Result = dict[str, Any]

#: Clients that multiplex calls of many tasks, as ours does. The goal is about the faster one.
MULTIPLEXING = ("coredis", "valkey-glide")
IMPORT_EXCESS_MS = 60.0
MEMORY_FACTOR = 1.6


@dataclass(frozen=True, slots=True)
class Goal:
    """The limit for one operation against one rival, in all configurations."""

    label: str
    work: str
    tasks: int
    rivals: tuple[str, ...]  #: compared with the fastest of these that was measured
    limit: float
    figure: str = "ratios"  #: name of the compared figure; lower is better for `ratios` and `cpu_ratios`, higher for `speedups`

    @property
    def high(self) -> bool:
        """Whether the limit is a lower limit."""
        return self.figure == "speedups"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of goals: the worst case, its configuration, and how many configurations meet the goal."""

    goal: str
    worst: Verdict
    where: str
    unit: str
    met: int
    of: int


GOALS = (
    Goal("`get`, one at a time: time, of redis-py's", "get", 1, ("redis-py",), 0.8),
    Goal("`set`, one at a time: time, of redis-py's", "set", 1, ("redis-py",), 1.25),
    Goal("`get` by 64 tasks: rate, of redis-py's", "get", 64, ("redis-py",), 6.5, "speedups"),
    Goal("`set` by 64 tasks: rate, of the same in redis-py's `MULTI`", "set", 64, ("redis-py MULTI",), 6.0, "speedups"),
    Goal("`set` by 64 tasks: rate, of a script by redis-py", "set", 64, ("redis-py script",), 3.0, "speedups"),
    Goal("`update` by 64 tasks: rate, of redis-py's `HSET`", "update", 64, ("redis-py",), 1.8, "speedups"),
    Goal("`update` by 64 tasks: rate, of redis-py's `WATCH` loop", "update", 64, ("redis-py WATCH",), 5.0, "speedups"),
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
    """Return the goals of a case against one rival. If a goal names several rivals, it is about the fastest."""
    matching = [goal for goal in GOALS if goal.work == case["work"] and goal.tasks == case["tasks"]]
    return [goal for goal in matching if _rival(goal, case) == rival]


def judge(goal: Goal, case: Case) -> Verdict | None:
    """Return the verdict on a case, or None if the rival was not measured."""
    rival = _rival(goal, case)
    return Verdict(case[goal.figure][rival]["median"], goal.limit, goal.high) if rival else None


def table(result: Result) -> list[Row]:
    """Return one row per measured goal."""
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
    """Return the memory relative to a plain hash, or None if it was not measured."""
    found: dict[str, int] = result["memory"]["bytes"]
    return found[which] / found["plain hash"] if which in found else None


def _rival(goal: Goal, case: Case) -> str | None:
    """Return the fastest rival of a goal, or None if none was measured."""
    measured = [name for name in goal.rivals if name in case["ratios"]]
    return min(measured, key=lambda name: case["times"][name]["median"], default=None)


def _where(goal: Goal, case: Case) -> str:
    """Return the configuration of a case and, if the goal names several rivals, the fastest one."""
    return f"{case['socket']}, {case['loop']}" + (f", {_rival(goal, case)}" if len(goal.rivals) > 1 else "")


def _row(label: str, unit: str, found: Sequence[tuple[Verdict, str]]) -> list[Row]:
    """Return the row of a goal, or no row if it was not measured."""
    if not found:
        return []
    worst, where = max(found, key=lambda pair: pair[0].distance)
    return [Row(label, worst, where, unit, sum(verdict.met for verdict, _ in found), len(found))]

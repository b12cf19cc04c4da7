"""Throughput of one worker that handles events written earlier: all contenders, ours with a condition, ours with many steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.common import rounds
from benchmarks.triggering.contenders import OURS
from benchmarks.triggering.harness import complete
from benchmarks.triggering.job import CONDITION_ONE_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.triggering.contenders import Contender
    from benchmarks.triggering.harness import Harness, Report
    from benchmarks.triggering.snapshot import Snapshot

Row = dict[str, Any]


def measure_throughput(harness: Harness, contenders: Sequence[Contender], times: int) -> list[Row]:
    """Return a row per contender: events per second, CPU time of the worker per event, and ours / rival."""
    turns = {contender.name: _Turn(harness, contender, contender.events) for contender in contenders}
    rates = _alternate(harness, turns, times)
    return [
        {
            "name": turn.contender.name,
            "settings": turn.contender.settings,
            "events": turn.contender.events,
            "one by one": turn.contender.one_by_one,
            "rate": rounds.Spread.of(rates[name]).as_dict(),
            "cpu": rounds.Spread.of([report.microseconds for report in turn.reports]).as_dict(),
            "repeated": sum(report.handled - report.events for report in turn.reports),
            "ratio": rounds.ratio(rates[OURS.name], rates[name]).as_dict(),
        }
        for name, turn in turns.items()
        if name in rates
    ]


def measure_condition(harness: Harness, events: int, times: int) -> Row:
    """Return the rates of all events without a condition, and with a condition and a `where` that accept 1 % of them."""
    filtered = replace(OURS, name="condition", options={"condition": True})
    declared = replace(OURS, name="where", options={"where": True})
    turns = {turn.name: _Turn(harness, turn, events) for turn in (OURS, filtered)}
    turns[declared.name] = _Turn(harness, declared, events, one_in=CONDITION_ONE_IN)
    rates = _alternate(harness, turns, times)
    return {
        "events": events,
        "without": rounds.Spread.of(rates[OURS.name]).as_dict(),
        "with": rounds.Spread.of(rates[filtered.name]).as_dict(),
        "ratio": rounds.ratio(rates[filtered.name], rates[OURS.name]).as_dict(),
        "with where": rounds.Spread.of(rates[declared.name]).as_dict(),
        "ratio of where": rounds.ratio(rates[declared.name], rates[OURS.name]).as_dict(),
    }


def measure_steps(harness: Harness, plan: dict[int, int], times: int) -> list[Row]:
    """Return microseconds per step and event. `plan` has the numbers of events by the number of steps on one scope."""
    turns = {
        str(steps): _Turn(harness, replace(OURS, options={"steps": steps}), events, handlings=steps)
        for steps, events in plan.items()
    }
    rates = _alternate(harness, turns, times)
    costs = {name: [1e6 / rate for rate in row] for name, row in rates.items()}
    one = costs[str(min(plan))]
    return [
        {
            "steps": steps,
            "events": events,
            "cost": rounds.Spread.of(costs[str(steps)]).as_dict(),
            "ratio": rounds.ratio(costs[str(steps)], one).as_dict(),
        }
        for steps, events in plan.items()
    ]


class _Turn:
    """A contender's turn: restore the written events, start a worker, read its report. One event of `one_in` is handled."""

    def __init__(self, harness: Harness, contender: Contender, events: int, handlings: int = 1, one_in: int = 1) -> None:
        self.contender = contender
        self.reports: list[Report] = []
        self._harness = harness
        self._snapshot: Snapshot | None = None
        self._write = harness.job(contender, events)
        self._work = harness.job(contender, events * handlings // one_in)
        self._one_in = one_in

    def __call__(self) -> float:
        """Return the rate."""
        if self._snapshot is None:
            self._snapshot = self._harness.fill(self.contender, self._write)
        self._snapshot.restore()
        self.reports.append(self._harness.work(self.contender, self._work))
        return self.reports[-1].rate * self._one_in


def _alternate(harness: Harness, turns: dict[str, _Turn], times: int) -> dict[str, list[float]]:
    def attempt(turn: _Turn) -> Callable[[], float]:
        return lambda: harness.attempt(turn.contender, turn)

    return complete(rounds.alternate({name: attempt(turn) for name, turn in turns.items()}, times))

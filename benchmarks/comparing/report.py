"""The result as Markdown. It depends only on the content of the result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common import machine
from benchmarks.common.goals import Verdict
from benchmarks.common.tables import figure, markdown
from benchmarks.comparing.turns import AGAIN, BASE, HEAD, limit

if TYPE_CHECKING:
    from benchmarks.comparing.turns import Case


def text(result: dict[str, Any]) -> str:
    """Return the whole report."""
    parts = [conditions(result), times(result["cases"])]
    parts += ["Calls or events per second, and CPU time in microseconds per call or event, medians:\n"]
    return "\n".join([*parts, cpu(result["cases"])])


def conditions(result: dict[str, Any]) -> str:
    """Return the machine, the versions and the settings."""
    return machine.conditions(result, {"Builds": result["builds"]})


def times(cases: list[Case]) -> str:
    """Return the table of times in microseconds per call or event, with the verdicts."""
    head = ("workload", "tasks", "base µs", "head µs", "head / base", "quartiles", "base / base", "quartiles", "limit", "verdict")
    rows = []
    for case in cases:
        cells = [case["work"], _tasks(case), *(figure(case["time"][name]["median"]) for name in (BASE, HEAD))]
        for ratios in (case["ratio"], case["A/A"]):
            cells += [f"{ratios['median']:.3f}", f"{ratios['low']:.3f} to {ratios['high']:.3f}"]
        rows.append([*cells, f"{limit(case):.3f}", verdict(case)])
    return markdown(head, rows)


def verdict(case: Case) -> str:
    """Return whether head is slower, not slower or faster than base, beyond the noise."""
    farthest, middle = limit(case), case["ratio"]["median"]
    if not Verdict(middle, farthest).met:
        return "**slower**"
    return "not slower" if Verdict(middle, 1 / farthest, at_least=True).met else "faster"


def cpu(cases: list[Case]) -> str:
    """Return the table of rates and CPU times."""
    names = (BASE, HEAD, AGAIN)
    head = ["workload", "tasks", *(f"{name} /s" for name in (BASE, HEAD))]
    head += [f"{side} CPU, {name}" for side in ("client", "server") for name in names]
    rows = []
    for case in cases:
        cells = [case["work"], _tasks(case), *(figure(1e6 / case["time"][name]["median"]) for name in (BASE, HEAD))]
        rows.append([*cells, *(figure(case[side][name]["median"]) for side in ("client", "server") for name in names)])
    return markdown(head, rows)


def _tasks(case: Case) -> str:
    return "-" if case["tasks"] is None else f"{case['tasks']:,}"

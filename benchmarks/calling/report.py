"""The result as Markdown and as plots. Both depend only on the content of the result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.calling import goals
from benchmarks.common import machine, plots
from benchmarks.common.tables import figure, markdown, with_quartiles

if TYPE_CHECKING:
    from collections.abc import Callable

Case = dict[str, Any]
Result = dict[str, Any]

_PLOTTED = ("get", "set", "update")


def text(result: Result) -> str:
    """Return the whole report; `result` is what `calls.py` measured."""
    single = [case for case in result["cases"] if case["tasks"] == 1]
    many = [case for case in result["cases"] if case["tasks"] > 1]
    parts = [conditions(result), goals_table(result)]
    parts += ["Calls by one task, in microseconds (for `update`, redis-py runs `HSET`):\n", times(single)]
    parts += [
        "Calls by 64 tasks, in calls per second (for `update`, the rivals run `HSET`, but for the `WATCH` loop):\n",
        rates(many),
    ]
    parts += ["Import time and memory:\n", footprint(result)]
    return "\n".join(parts)


def conditions(result: Result) -> str:
    """Return the machine, the versions and the settings."""
    return machine.conditions(result)


def goals_table(result: Result) -> str:
    """Return one row per goal: its worst case, and how many configurations meet it."""
    rows = []
    for row in goals.table(result):
        met = "yes" if row.met == row.of else f"**{row.met} of {row.of}**"
        rows.append([row.goal, row.where, f"{figure(row.worst.figure)} {row.unit}", f"{row.worst.demand} {row.unit}", met])
    return markdown(("goal", "worst case", "figure", "limit", "met"), rows, text_columns=2)


def times(cases: list[Case]) -> str:
    """Return the table of calls by one task, in microseconds per call."""
    rows = []
    for case in cases:
        for rival in case["ratios"]:
            cells = [case["work"], f"{case['socket']}, {case['loop']}", rival]
            spreads = (case["times"]["ours"], case["times"][rival], case["ratios"][rival])
            cells += [with_quartiles(spread) for spread in spreads]
            rows.append([*cells, *_verdict(case, rival, "ratios")])
    return markdown(
        ("operation", "socket, loop", "rival", "ours µs", "rival µs", "ours / rival", "limit", "met"), rows, text_columns=3
    )


def rates(cases: list[Case]) -> str:
    """Return the table of calls by many tasks: calls per second, and CPU time of the client."""
    head = ["operation", "socket, loop", "rival", "ours /s", "rival /s", "ours / rival", "limit", "met"]
    head += ["our CPU µs", "rival's CPU µs", "CPU, ours / rival", "limit", "met"]
    rows = []
    for case in cases:
        for rival in case["ratios"]:
            cells = [case["work"], f"{case['socket']}, {case['loop']}", rival]
            cells += [_rate(case["times"]["ours"]), _rate(case["times"][rival]), with_quartiles(case["speedups"][rival])]
            cells += _verdict(case, rival, "speedups")
            cells += [figure(case["cpu"][name]["median"]) for name in ("ours", rival)]
            cells += [with_quartiles(case["cpu_ratios"][rival]), *_verdict(case, rival, "cpu_ratios")]
            rows.append(cells)
    return markdown(head, rows, text_columns=3)


def footprint(result: Result) -> str:
    """Return the table of import times and memory."""
    imports, memory = result["imports"], result["memory"]
    spent = imports["milliseconds"]
    rows = [[f"`{statement}`", f"{with_quartiles(spent[name])} ms", ""] for name, statement in imports["statements"].items()]
    rows.append(["`import motia_redis` minus its dependencies", f"{with_quartiles(imports['excess'])} ms", ""])
    for name, taken in memory["bytes"].items():
        factor = goals.memory_factor(result, name)
        label = f"{memory['keys']:,} values of {memory['value_bytes']} bytes in Redis: {name}"
        rows.append([label, f"{taken / 1e6:.1f} MB", f"{factor:.2f}"])
    return markdown(("item", "figure", "relative to a plain hash"), rows)


def draw(result: Result, name: str) -> None:
    """Write the plot of a result."""
    plots.draw(name, _painter(result))


def pictures(name: str) -> str:
    """Return the HTML that shows the plot."""
    return plots.picture(
        name,
        "Calls per second by 64 tasks: ours, redis-py in several ways, coredis, valkey-glide; a panel per socket and loop",
    )


def _verdict(case: Case, rival: str, which: str) -> list[str]:
    """Return limit and verdict for one figure of a case, or dashes if it has no goal."""
    for goal in goals.goals_of(case, rival):
        verdict = goals.judge(goal, case)
        if goal.figure == which and verdict:
            return [verdict.demand, verdict.answer]
    return ["-", "-"]


def _rate(times: dict[str, float]) -> str:
    """Return calls per second. The quartiles of times are exchanged for rates."""
    return with_quartiles({"median": 1e6 / times["median"], "low": 1e6 / times["high"], "high": 1e6 / times["low"]})


def _painter(result: Result) -> Callable[[Any], Any]:
    """Return the function that draws rates of 64 tasks: a panel per configuration, a group of bars per operation."""
    cases = [case for case in result["cases"] if case["tasks"] > 1 and case["work"] in _PLOTTED]
    places = list(dict.fromkeys((case["socket"], case["loop"]) for case in cases))
    names = list(dict.fromkeys(name for case in cases for name in case["times"]))

    def paint(pyplot: Any) -> Any:
        columns = min(2, len(places))
        lines = -(-len(places) // columns)
        size = (5.4 * columns, 1 + 3.1 * lines)
        shown, axes = pyplot.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        width = 0.84 / len(names)
        for axis, (socket, loop) in zip(axes.flat, places, strict=False):
            here = {case["work"]: case for case in cases if (case["socket"], case["loop"]) == (socket, loop)}
            for index, (name, colour) in enumerate(zip(names, plots.COLOURS, strict=False)):
                found = [(group, here[work]["times"].get(name)) for group, work in enumerate(_PLOTTED) if work in here]
                bars = [(group + (index - (len(names) - 1) / 2) * width, spent) for group, spent in found if spent]
                heights = [1e6 / spent["median"] for _, spent in bars]
                errors = [[1e6 / spent["median"] - 1e6 / spent["high"] for _, spent in bars]]
                errors.append([1e6 / spent["low"] - 1e6 / spent["median"] for _, spent in bars])
                axis.bar([at for at, _ in bars], heights, width, yerr=errors, color=colour, ecolor="#808080", label=name)
            axis.set_xticks(range(len(_PLOTTED)), ["get", "set", "update\n(others: HSET)"])
            axis.set_title(f"{socket}, {loop}")
            axis.grid(visible=False, axis="x")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        shown.legend(handles, labels, loc="outside upper center", ncols=min(4, len(names)))
        shown.supylabel("calls per second, 64 tasks")
        return shown

    return paint

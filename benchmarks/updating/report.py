"""The result as Markdown and as plots. Both depend only on the content of the result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, plots
from benchmarks.common.tables import figure, markdown, quartiles
from benchmarks.updating import goals
from benchmarks.updating.documents import POSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.updating.goals import Verdict

Result = dict[str, Any]

RIVALS = ("cjson", "rejson", "floor", "lean floor")
_GOALS = {
    "cjson": "at most cjson, to 1 KB; at most 1/3 of it, 10 KB",
    "rejson": "at most RedisJSON, to 1 KB",
    "floor": "at most 2.5 times the floor, 10 KB",
    "lean floor": f"at most {goals.LEAN_FLOOR} times the lean floor ({goals.LEAN_FLOOR_OF_SCRIPT} as a script), to 1 KB",
}


def text(result: Result) -> str:
    """Return the whole report; `result` is what `update.py` measured."""
    parts = [conditions(result), summary(result), "Worst-case documents:\n", worst(result), "List append:\n", append(result)]
    parts += ["Increment of one member:\n", increments(result)]
    return "\n".join(parts)


def conditions(result: Result) -> str:
    """Return the machine, the versions and the settings."""
    return machine.conditions(result, {"Servers": result["servers"]})


def summary(result: Result) -> str:
    """Return one row per goal: how many cases meet it, and its worst case."""
    rows = []
    for rival, label in _GOALS.items():
        for shapes, name in ((goals.NAMED_SHAPES, label), (("repeated",), f"the same for shape `repeated` ({rival})")):
            version = result["servers"]["redis"]
            judged = [(case, goals.judge(case, rival, version)) for case in result["increments"] if case["shape"] in shapes]
            rows += _summary_row(name, [(_case_name(case), verdict) for case, verdict in judged if verdict])
    appends = [(row["elements"], _append_verdict(row)) for row in result["append"]]
    rows += _summary_row(f"list append at most {goals.APPEND_TIMES_FLOOR:g} times the floor", appends)
    slow = [(row["name"], _worst_verdict(row)) for row in result["worst"] if row["operations"] == 1]
    rows += _summary_row("worst-case document under 50 ms", slow)
    return markdown(("goal", "worst case", "met", "out of reach", "figure", "limit"), rows, text_columns=2)


def increments(result: Result) -> str:
    """Return the table of all increments."""
    head = ["document", "bytes", "member", "ours µs", "quartiles"]
    head += ["cjson µs", "ours/cjson", "rejson µs", "ours/rejson", "floor µs", "ours/floor", "lean floor µs", "ours/lean floor"]
    rows = []
    for case in result["increments"]:
        ours = case["times"]["ours"]
        cells = [case["shape"], f"{case['bytes']:,}", case["position"]]
        cells += [figure(ours["median"]), quartiles(ours)]
        for rival in RIVALS:
            cells += _against(case, rival, result["servers"]["redis"])
        rows.append(cells)
    return markdown(head, rows)


def append(result: Result) -> str:
    """Return the table of list appends."""
    head = ("elements", "bytes", "ours µs", "quartiles", "floor µs", "ours/floor", "lean floor µs", "ours/lean floor")
    rows = []
    for row in result["append"]:
        times, ratios = row["times"], row["ratios"]
        cells = [row["elements"], f"{row['bytes']:,}", figure(times["ours"]["median"]), quartiles(times["ours"])]
        cells.append(figure(times["floor"]["median"]))
        cells += [_mark(_append_verdict(row)), figure(times["lean floor"]["median"])]
        rows.append([*cells, figure(ratios["lean floor"]["median"])])
    return markdown(head, rows)


def worst(result: Result) -> str:
    """Return the table of worst-case documents, slowest first."""
    rows = []
    for row in sorted(result["worst"], key=lambda row: -row["times"]["median"]):
        verdict = _worst_verdict(row)
        factor = f"{figure(verdict.distance)} {'pass' if verdict.met else '**miss**'}"
        if row["operations"] > 1:
            factor = "no goal"
        cells = [row["name"], f"`{row['ended']}`", f"{row['bytes']:,}"]
        rows.append([*cells, figure(row["times"]["median"]), figure(row["max"]), factor])
    head = ("document and operation", "outcome", "bytes", "median ms", "max ms", "relative to 50 ms")
    return markdown(head, rows, text_columns=2)


def draw(result: Result, name: str) -> None:
    """Write the plots of a result."""
    plots.draw(name, _times_painter(result))
    plots.draw(f"{name}-worst", _worst_painter(result))


def pictures(name: str) -> str:
    """Return the HTML that shows the plots."""
    times = plots.picture(name, "Server time per update by document size, one panel per shape: ours, cjson, RedisJSON, floor")
    return times + "\n" + plots.picture(f"{name}-worst", "Server time of one update of worst-case documents, in milliseconds")


def _summary_row(label: str, judged: Iterable[tuple[str, Verdict]]) -> list[list[str]]:
    judged = list(judged)
    if not judged:
        return [[label, "not measured", "-", "-", "-", "-"]]
    name, worst_case = max(judged, key=lambda pair: pair[1].distance)
    met = sum(verdict.met for _, verdict in judged)
    out_of_reach = sum(not verdict.reachable for _, verdict in judged)
    return [[label, name, f"{met} of {len(judged)}", str(out_of_reach), figure(worst_case.figure), figure(worst_case.limit)]]


def _case_name(case: dict[str, Any]) -> str:
    return f"{case['shape']} {case['size']:,} {case['position']}"


def _append_verdict(row: dict[str, Any]) -> Verdict:
    return goals.Verdict(row["ratios"]["floor"]["median"], goals.APPEND_TIMES_FLOOR)


def _worst_verdict(row: dict[str, Any]) -> Verdict:
    return goals.Verdict(row["times"]["median"], goals.WORST_MS)


def _against(case: dict[str, Any], rival: str, version: str) -> list[str]:
    """Return a rival's time, and the ratio to it with its verdict."""
    if rival not in case["times"]:
        return ["-", "-"]
    verdict = goals.judge(case, rival, version)
    ratio = _mark(verdict) if verdict else figure(case["ratios"][rival]["median"])
    return [figure(case["times"][rival]["median"]), ratio]


def _mark(verdict: Verdict) -> str:
    if verdict.met:
        return f"{figure(verdict.figure)} pass"
    return f"{figure(verdict.figure)} **miss**{'' if verdict.reachable else '°'}"


def _times_painter(result: Result) -> Callable[[Any], Any]:
    """Return what draws time by size: a panel per shape, a line per contender, the middle member."""
    position = "middle" if any(case["position"] == "middle" for case in result["increments"]) else POSITIONS[0]
    shapes = list(dict.fromkeys(case["shape"] for case in result["increments"]))
    names = [name for name in result["contenders"] if name != "lean floor"]

    def paint(pyplot: Any) -> Any:
        columns = (len(shapes) + 1) // 2
        shown, axes = pyplot.subplots(2, columns, figsize=(4.2 * columns, 7.4), sharex=True, sharey=True, layout="constrained")
        for axis, shape in zip(axes.flat, shapes, strict=False):
            cases = [case for case in result["increments"] if case["shape"] == shape and case["position"] == position]
            for colour, marker, name in zip(plots.COLOURS, "osD^v", names, strict=False):
                measured = [case for case in cases if name in case["times"]]
                times = [case["times"][name]["median"] for case in measured]
                width = 2.6 if name == "ours" else 1.5
                axis.loglog([case["bytes"] for case in measured], times, marker=marker, color=colour, lw=width, ms=5, label=name)
            axis.set_title(shape)
        for axis in axes.flat[len(shapes) :]:
            axis.set_axis_off()
        handles, labels = axes.flat[0].get_legend_handles_labels()
        shown.legend(handles, labels, loc="outside upper center", ncols=len(names))
        shown.supylabel("server time per update, µs")
        shown.supxlabel("bytes of the document")
        return shown

    return paint


def _worst_painter(result: Result) -> Callable[[Any], Any]:
    """Return what draws the worst documents as bars against the goal."""
    rows = sorted((row for row in result["worst"] if row["operations"] == 1), key=lambda row: row["times"]["median"])

    def paint(pyplot: Any) -> Any:
        shown, axis = pyplot.subplots(figsize=(11, 1.2 + 0.27 * len(rows)), layout="constrained")
        colours = [plots.COLOURS[0] if row["times"]["median"] <= goals.WORST_MS else plots.COLOURS[1] for row in rows]
        axis.barh([row["name"].replace("$", r"\$") for row in rows], [row["times"]["median"] for row in rows], color=colours)
        axis.axvline(goals.WORST_MS, color=plots.COLOURS[2], ls="--", lw=1.5)
        axis.set_xscale("log")
        axis.set_xlabel("server time of one call, ms (dashed: the goal)")
        axis.margins(y=0.01)
        axis.tick_params(axis="y", labelsize=9)
        return shown

    return paint

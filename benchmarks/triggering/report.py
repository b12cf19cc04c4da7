"""The result as Markdown and as plots. Both depend only on the content of the result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, plots
from benchmarks.common.tables import figure, markdown, quartiles
from benchmarks.triggering import goals
from benchmarks.triggering.contenders import BARE, OURS
from benchmarks.triggering.latencies import PERCENTILES
from benchmarks.triggering.server_time import FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable

Result = dict[str, Any]

_TOOLS = ("redis", "hiredis", "uvloop", "orjson")  # in rivals' environments, but not compared


def text(result: Result) -> str:
    """Return the whole report; `result` is what `triggers.py` measured."""
    parts = [conditions(result), judged(result)]
    parts += ["Throughput of one worker with a handler that does nothing:\n", throughput(result)]
    parts += ["Ours with a second worker, and with a condition, in events per second:\n", variants(result)]
    parts += ["Ours by number of steps on one scope:\n", steps(result)]
    parts += ["Latency from send to handler at 200 events per second, in milliseconds:\n", latencies(result)]
    parts += ["Server time of one event, from its write until it is recorded as handled, in µs:\n", server_time(result)]
    return "\n".join(parts)


def conditions(result: Result) -> str:
    """Return the machine, versions, settings and the contenders that were left out."""
    versions = {name: number for found in result["rivals"].values() for name, number in found.items() if name not in _TOOLS}
    return machine.conditions(result, {"Rivals": versions})


def judged(result: Result) -> str:
    """Return one line per goal."""
    verdicts = goals.judge(result)
    rows = [[goal, figure(verdict.figure), verdict.demand, verdict.answer] for goal, verdict in verdicts.items()]
    return markdown(("goal", "figure", "limit", "met"), rows)


def throughput(result: Result) -> str:
    """Return the table of throughput, fastest first."""
    rows = []
    for row in sorted(result["throughput"], key=lambda row: -row["rate"]["median"]):
        ratio = "" if row["name"] == OURS.name else figure(row["ratio"]["median"])
        cells = [row["name"], row["settings"], f"{row['events']:,}", figure(row["rate"]["median"]), quartiles(row["rate"])]
        rows.append([*cells, figure(row["cpu"]["median"]), ratio])
    head = ("contender", "settings", "events", "events/s", "quartiles", "worker CPU, µs/event", "ours / contender")
    return markdown(head, rows, text_columns=2)


def variants(result: Result) -> str:
    """Return the table of the second worker and of the condition."""
    rows = []
    for name, key, before, after in (
        ("two workers / one worker", "workers", "one", "two"),
        ("a condition that accepts 1 % / no condition", "condition", "without", "with"),
        ("a `where` that accepts 1 % / no condition", "condition", "without", "with where"),
    ):
        row = result[key]
        if after not in row:  # older results
            continue
        ratio = row["ratio of where" if after == "with where" else "ratio"]
        cells = [name, f"{row['events']:,}", figure(row[before]["median"]), figure(row[after]["median"])]
        rows.append([*cells, figure(ratio["median"]), quartiles(ratio)])
    return markdown(("", "events", "without", "with", "ratio", "quartiles"), rows)


def steps(result: Result) -> str:
    """Return the table of costs by the number of steps."""
    rows = [
        [
            str(row["steps"]),
            f"{row['events']:,}",
            figure(row["cost"]["median"]),
            quartiles(row["cost"]),
            figure(row["ratio"]["median"]),
        ]
        for row in result["steps"]
    ]
    return markdown(("steps", "events", "µs per step and event", "quartiles", "relative to 1 step"), rows)


def latencies(result: Result) -> str:
    """Return the table of latencies, best median first."""
    rows = []
    for row in sorted(result["latencies"], key=lambda row: row["p50"]["median"]):
        cells = [row["name"]]
        for part in PERCENTILES:
            ratio = "" if row["name"] == OURS.name else figure(row["ratio"][part]["median"])
            cells += [figure(row[part]["median"]), quartiles(row[part]), ratio]
        rows.append(cells)
    return markdown(("contender", "p50", "quartiles", "ours / contender", "p99", "quartiles", "ours / contender"), rows)


def server_time(result: Result) -> str:
    """Return the table of server times."""
    found = result["server time"]
    if found is None:
        return "Not measured: needs Redis 7.2 or newer.\n"
    labels = {"commands": "all commands (`eventloop_duration_cmd_sum`)", "cpu": "CPU time of the redis-server process"}
    rows = []
    for part in FIGURES:
        cells = [labels[part], *(figure(found[name][part]["median"]) for name in (OURS.name, BARE.name))]
        rows.append([*cells, figure(found["ratio"][part]["median"]), quartiles(found["ratio"][part])])
    return markdown(("", OURS.name, BARE.name, "ratio", "quartiles"), rows)


def draw(result: Result, name: str) -> None:
    """Write the plots of a result."""
    plots.draw(f"{name}-throughput", _throughput_painter(result))
    plots.draw(f"{name}-latency", _latency_painter(result))


def pictures(name: str) -> str:
    """Return the HTML that shows the plots."""
    rates = plots.picture(f"{name}-throughput", "Events per second of one worker by contender, on a logarithmic axis")
    times = plots.picture(f"{name}-latency", "Latency from send to handler by contender: median and 99th percentile")
    return f"{rates}\n{times}"


def _colour(name: str) -> str:
    """Return the colour of ours, the bare loop or the rivals."""
    if name == OURS.name:
        return plots.COLOURS[0]
    return plots.COLOURS[4] if name.startswith(BARE.name) else plots.COLOURS[2]


def _throughput_painter(result: Result) -> Callable[[Any], Any]:
    """Return what draws the rates as bars, fastest on top, with the quartiles."""
    rows = sorted(result["throughput"], key=lambda row: row["rate"]["median"])
    rates = [row["rate"]["median"] for row in rows]

    def paint(pyplot: Any) -> Any:
        shown, axis = pyplot.subplots(figsize=(9, 1.2 + 0.36 * len(rows)), layout="constrained")
        bars = axis.barh([row["name"] for row in rows], rates, color=[_colour(row["name"]) for row in rows])
        axis.bar_label(bars, [figure(rate) for rate in rates], padding=4)
        axis.set_xscale("log")
        axis.set_xlim(left=min(rates) / 3, right=max(rates) * 3)
        axis.set_xlabel("events per second, one worker, handler does nothing")
        axis.grid(visible=False, axis="y")
        return shown

    return paint


def _latency_painter(result: Result) -> Callable[[Any], Any]:
    """Return what draws p50 and p99 on one line per contender, best median on top."""
    rows = sorted(result["latencies"], key=lambda row: -row["p50"]["median"])

    def paint(pyplot: Any) -> Any:
        shown, axis = pyplot.subplots(figsize=(9, 1.4 + 0.36 * len(rows)), layout="constrained")
        for place, row in enumerate(rows):
            p50, p99 = (row[part]["median"] for part in PERCENTILES)
            colour = _colour(row["name"])
            axis.plot([p50, p99], [place, place], color=colour, lw=2)
            axis.plot(p50, place, "o", color=colour, ms=7)
            axis.plot(p99, place, "D", color=colour, ms=7)
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axis.set_xscale("log")
        axis.set_xlabel("milliseconds from send to handler, 200 events a second (circle: p50, diamond: p99)")
        axis.grid(visible=False, axis="y")
        return shown

    return paint

"""The result as Markdown and as a plot. Both depend only on the content of the result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, plots
from benchmarks.common.tables import markdown, with_quartiles
from benchmarks.growing.series import ITEM_SLACK, SERVER_SLACK, TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable

Result = dict[str, Any]

_SERVER = ", server"
_IN_TABLE_ONLY = "list, no gc"
TITLES = {
    "keys": "Keys per scope",
    "scopes": "Scopes",
    "value size": "Bytes of the value",
    "steps": "Steps that subscribe to the scope",
    "expiry": "Values that wait for their time",
    "transactions": "Items of a transaction",
    "watches": "Watches of the process",
    "telemetry": "Keys of the namespace, and its metrics",
    "handling": "Steps that handle each event",
    "falling due": "Values that wait while others fall due",
    "transactions, keys": "Keys per scope, and transactions",
    "telemetry, steps": "Steps, and the metrics of their lanes",
    "workers": "Processes",
}
#: Series without a panel: the tables have them.
_WITHOUT_PANEL = ("handling", "falling due", "transactions, keys", "telemetry, steps")
_RATES = {"event handled": "events handled", "update": "updates"}
_METHOD = f"""The exponent is the slope of log cost over log size from the middle size to the largest, computed for each round.
0: the cost does not depend on the size. 1: twice the size costs twice as much. A line is above its limit if its exponent
exceeds the limit by more than {TOLERANCE} (twice the cost for 100 times the size). Server time may also grow by
{SERVER_SLACK:g} µs per call or {ITEM_SLACK:g} µs per item, because large data cause cache misses in the processor.
`scan` reads page by page and keeps no values. `list` keeps all values. Meanwhile Python's garbage collector looks at new objects
only. `list, no gc` runs without the collector.
"""


def text(result: Result) -> str:
    """Return the whole report."""
    parts = [conditions(result), summary(result), _METHOD]
    for series in result["series"]:
        parts += [f"**{TITLES[series['name']]}**\n", table(series)]
        parts += [f"{name}: {note}.\n" for name, note in series["notes"].items()]
    return "\n".join(parts)


def conditions(result: Result) -> str:
    """Return the machine, the versions and the settings."""
    return machine.conditions(result)


def summary(result: Result) -> str:
    """Return how many lines are within their limit, and which are not."""
    lines = [(series, line) for series in result["series"] for line in series["lines"]]
    fast = [f"{line['name']} over {series['size']}" for series, line in lines if line["grows_too_fast"]]
    return f"{len(lines) - len(fast)} of {len(lines)} lines are within their limit; above it: {'; '.join(fast) or 'none'}.\n"


def table(series: Result) -> str:
    """Return the table of a series: a row per operation, a column per size, and the verdict."""
    sizes = list(series["lines"][0]["points"])
    head = [series["size"], *(f"{int(size):,}" for size in sizes), "exponent", "limit", "above the limit"]
    rows = []
    for line in series["lines"]:
        exponent = line["exponent"]
        cells = [f"{line['name']}, {line['unit']}", *(with_quartiles(line["points"][size]) for size in sizes)]
        cells += [f"{exponent['median']:.2f}", f"{line['limit']:g}", "**yes**" if line["grows_too_fast"] else "no"]
        rows.append(cells)
        if series["name"] == "workers":
            rates = [f"{1e6 / line['points'][size]['median']:,.0f}" for size in sizes]
            rows.append([f"{_RATES[line['name']]} per second", *rates, "", "", ""])
    return markdown(head, rows)


def draw(result: Result, name: str) -> None:
    """Write the plot: a panel per series."""
    plots.draw(name, _painter(result))


def pictures(name: str) -> str:
    """Return the HTML that shows the plot."""
    return plots.picture(
        name, "Cost of a call by what may grow, a panel each, from keys per scope to metrics; rates by processes"
    )


def _painter(result: Result) -> Callable[[Any], Any]:
    by_name = {series["name"]: series for series in result["series"]}
    cores = int(result["machine"]["cores"])

    def paint(pyplot: Any) -> Any:
        shown_titles = [item for item in TITLES.items() if item[0] not in _WITHOUT_PANEL]
        shown, axes = pyplot.subplots(3, 3, figsize=(18, 15.5), layout="constrained")
        for axis, (name, title) in zip(axes.flat, shown_titles, strict=True):
            series = by_name[name]
            axis.set_title(title)
            axis.set_xlabel(series["size"])
            if name == "workers":
                _paint_rates(axis, series, cores)
            else:
                _paint_costs(axis, series)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, columnspacing=1.2)
        return shown

    return paint


def _paint_costs(axis: Any, series: Result) -> None:
    """Draw wall time (solid) and server time (dashed) of each line."""
    timed = {line["name"]: line for line in series["lines"] if line["unit"].startswith("µs")}
    calls = [name for name in timed if not name.endswith(_SERVER) and name != _IN_TABLE_ONLY]
    for colour, marker, name in zip(plots.COLOURS, "osD^vP", calls, strict=False):
        line = timed[name]
        label = name if line["unit"] == "µs" else f"{name}, per {line['unit'].rpartition(' ')[2]}"
        axis.loglog(*_points(line), marker=marker, ms=5, color=colour, lw=2, label=label)
        axis.loglog(*_points(timed[name + _SERVER]), color=colour, lw=1.2, ls="--")
    axis.set_ylabel("µs (dashed: server time)")
    if series["name"] == "value size":
        size, cost = _points(timed["update"])
        axis.loglog(size[-3:], [cost[-1] * 2 * each / size[-1] for each in size[-3:]], color="gray", ls=":", label="proportional")


def _paint_rates(axis: Any, series: Result, cores: int) -> None:
    """Draw the rates of all processes together."""
    for colour, marker, line in zip(plots.COLOURS, "os", series["lines"], strict=False):
        size, cost = _points(line)
        axis.loglog(size, [1e6 / each for each in cost], marker=marker, ms=5, color=colour, lw=2, label=_RATES[line["name"]])
    axis.axvline(cores, color="gray", ls=":", lw=1.5, label=f"{cores} cores, Redis on one of them")
    axis.set_xticks(size, [str(each) for each in size])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter("{x:,.0f}")
    axis.set_ylabel("per second")


def _points(line: Result) -> tuple[list[int], list[float]]:
    return [int(size) for size in line["points"]], [point["median"] for point in line["points"].values()]

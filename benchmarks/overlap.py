"""Measure how much caller and server work at the same time, by the number of tasks of one process.

The quotient of a build is its rate, as a part of what the slower side alone allows: the larger of the server's CPU time per call
and the caller's CPU time per call in the base build. 1 means that the slower side never waits. Two sides that take turns reach
about 0.5.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.common import plots, program, results
from benchmarks.common.tables import figure, markdown
from benchmarks.compare import new_parser, read_options, run
from benchmarks.comparing import report
from benchmarks.comparing.turns import BASE, HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.comparing.turns import Case

EXAMPLES = """examples:
  python -m benchmarks.overlap --base HEAD                      this build alone
  python -m benchmarks.overlap --base main --pairs 20           this build and main
  python -m benchmarks.overlap --base main --tasks 8 64 --only update
"""
TASKS = (1, 2, 4, 8, 16, 64, 256, 1000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With `--plot`, draw the quotients; with `--json`, write the result."""
    parser = new_parser("overlap", __doc__ or "", EXAMPLES, only=("calls", "update"), tasks=TASKS)
    parser.add_argument("--plot", action="store_true", help="draw plots/overlap-*.svg (needs matplotlib)")
    options = read_options(parser, arguments)
    result = run(options)
    print("\n".join([report.conditions(result), table(result["cases"])]))
    if options.plot:
        for path in draw(result["cases"]):
            program.progress(f"wrote {path}")
    if options.json:
        program.progress(f"wrote {results.write('overlap', result, options.json)}")


def quotient(case: Case, build: str) -> float:
    """Return the rate of a build as a part of what the slower side allows."""
    slower = max(case["server"][build]["median"], case["client"][BASE]["median"])
    return float(slower / case["time"][build]["median"])


def table(cases: Sequence[Case]) -> str:
    """Return CPU times of both sides in microseconds per call, rates and quotients."""
    head = ["workload", "tasks", "client CPU, base", "client CPU, head", "server CPU, base", "server CPU, head"]
    head += ["base /s", "head /s", "head / base", "quotient, base", "quotient, head"]
    rows = []
    for case in cases:
        cells = [case["work"], f"{case['tasks']:,}"]
        cells += [figure(case[side][build]["median"]) for side in ("client", "server") for build in (BASE, HEAD)]
        cells += [figure(1e6 / case["time"][build]["median"]) for build in (BASE, HEAD)]
        cells += [f"{1 / case['ratio']['median']:.2f}", *(f"{quotient(case, build):.2f}" for build in (BASE, HEAD))]
        rows.append(cells)
    return markdown(head, rows)


def draw(cases: Sequence[Case]) -> list[Any]:
    """Draw the quotients of both builds by the number of tasks, one panel for each workload."""

    def paint(pyplot: Any) -> Any:
        works = list(dict.fromkeys(case["work"] for case in cases))
        drawing, panels = pyplot.subplots(1, len(works), figsize=(4 * len(works), 3.2), sharey=True, squeeze=False)
        for panel, work in zip(panels[0], works, strict=True):
            rows = [case for case in cases if case["work"] == work]
            for build, colour in ((BASE, plots.COLOURS[1]), (HEAD, plots.COLOURS[0])):
                quotients = [quotient(case, build) for case in rows]
                panel.plot([case["tasks"] for case in rows], quotients, marker="o", color=colour, label=build)
            panel.set(xscale="log", title=work, xlabel="tasks", ylim=(0, 1.1))
        panels[0][0].set_ylabel("rate / rate of the slower side")
        panels[0][0].legend()
        drawing.tight_layout()
        return drawing

    return plots.draw("overlap", paint)


if __name__ == "__main__":
    sys.exit(program.run(main))

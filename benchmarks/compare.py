"""Is this build slower than that of another git revision? Both run in alternation, beside an A/A of the base with itself.

Head is this checkout, uncommitted changes included. The base is checked out into a temporary folder, which is removed at the end.
A workload is slower when the median of head / base, taken round by round, is above the limit: 1, plus the spread of the A/A
(the farther quartile of base / base, which is 1 without noise), plus 2 %. The verdicts do not change the exit code.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, program, results
from benchmarks.common.server import Server, find_server
from benchmarks.comparing import builds, report
from benchmarks.comparing.turns import AGAIN, BASE, HEAD, WORKS, measure, workloads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.children import Child

EXAMPLES = """examples:
  python -m benchmarks.compare --base main                             is this slower than main?
  python -m benchmarks.compare --base HEAD                             are the uncommitted changes slower?
  python -m benchmarks.compare --base v0.1 --only calls --tasks 2 8    some workloads, by other numbers of tasks
  python -m benchmarks.compare --base HEAD~5 --quick --json out.json   a first look, and all figures
"""
_PACKAGES = ("redis", "hiredis", "orjson", "uvloop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write the result where that was asked for."""
    options = _options(arguments)
    with ExitStack() as stack:
        roots = {HEAD: builds.head(), BASE: stack.enter_context(builds.base(options.base))}
        server = stack.enter_context(Server(options.server or find_server()))
        children: dict[str, Child] = {}
        for name, build in {BASE: roots[BASE], HEAD: roots[HEAD], AGAIN: roots[BASE]}.items():
            children[name] = stack.enter_context(build.child(name, server.url))
            hello = children[name].wait()
            build.check(hello["package"])
        result: dict[str, Any] = {
            "machine": machine.describe(_PACKAGES),
            "builds": {name: roots[name].description for name in (BASE, HEAD)},
            "settings": _settings(options, server.version, hello["loop"]),
            "cases": [],
        }
        program.progress(report.conditions(result))
        for workload in workloads(options.only, options.tasks, seconds=options.seconds, events=options.events):
            program.progress(str(workload))
            result["cases"].append(measure(workload, children, server.client, options.pairs))
    print(report.text(result))
    if options.json:
        program.progress(f"wrote {results.write('compare', result, options.json)}")


def _settings(options: argparse.Namespace, version: str, loop: str) -> dict[str, str]:
    return {
        "redis": version,
        "loop": loop,
        "pairs": str(options.pairs),
        "a turn": f"{options.seconds} s",
        "value": "1 KB of JSON",
        "events": f"{options.events:,}",
        "persistence": "off",
        "connection": "Unix socket",
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, metavar="REV", help="the git revision to compare this checkout with")
    parser.add_argument(
        "--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="NAME", help=f"of {', '.join(WORKS)} (default: all)"
    )
    parser.add_argument(
        "--tasks", nargs="+", type=int, default=[1, 64], metavar="N", help="tasks that make calls at once (default: 1 64)"
    )
    parser.add_argument("--pairs", type=int, help="rounds of base, head and base again (default 20, quick 6)")
    parser.add_argument("--seconds", type=float, help="one turn of one build at calls (default 0.4, quick 0.1)")
    parser.add_argument("--events", type=int, help="events of one drain (default 10000, quick 2000)")
    parser.add_argument("--server", metavar="PATH", help="the redis-server (default: as the other benchmarks)")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, shorter turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, by round, to this file")
    options = parser.parse_args(arguments)
    for name, usual, quick in (("pairs", 20, 6), ("seconds", 0.4, 0.1), ("events", 10_000, 2_000)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    if options.pairs < 1 or min(options.tasks) < 1 or options.events < 2:
        parser.error("pairs and tasks are at least 1, events at least 2")
    if not 0 < options.seconds <= 10:
        parser.error("a turn takes more than 0 and at most 10 seconds")
    return options


if __name__ == "__main__":
    sys.exit(program.run(main))

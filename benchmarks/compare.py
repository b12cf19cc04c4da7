"""Compare the speed of this checkout with that of another git revision. The builds alternate within each round.

Head is this checkout with its uncommitted changes. The base is checked out into a temporary folder, which is removed at the end.
A second process of the base measures the noise (A/A). A workload is slower if the median of head / base, taken in each round, is
above the limit. The limit is 1 + the distance from 1 of the farther quartile of base / base + 2 %. The verdicts do not change the
exit code.
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
  python -m benchmarks.compare --base main                             this checkout against main
  python -m benchmarks.compare --base HEAD                             the uncommitted changes against the last commit
  python -m benchmarks.compare --base v0.1 --only calls --tasks 2 8    some workloads with other numbers of tasks
  python -m benchmarks.compare --base HEAD~5 --quick --json out.json   a short run; all figures as JSON
"""
_PACKAGES = ("redis", "hiredis", "orjson", "uvloop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With `--json`, also write the result."""
    options = read_options(new_parser("compare", __doc__ or "", EXAMPLES, only=tuple(WORKS), tasks=(1, 64)), arguments)
    result = run(options)
    print(report.text(result))
    if options.json:
        program.progress(f"wrote {results.write('compare', result, options.json)}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all workloads of the options in both builds, and return the result."""
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
    return result


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


def new_parser(name: str, description: str, epilog: str, *, only: Sequence[str], tasks: Sequence[int]) -> argparse.ArgumentParser:
    """Return the parser of a benchmark that compares two builds, with its defaults of `--only` and `--tasks`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, metavar="REV", help="the git revision to compare this checkout with")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=WORKS,
        default=list(only),
        metavar="NAME",
        help=f"run only these of {', '.join(WORKS)} (default: {' '.join(only)})",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        type=int,
        default=list(tasks),
        metavar="N",
        help=f"numbers of concurrent tasks (default: {' '.join(map(str, tasks))})",
    )
    parser.add_argument("--pairs", type=int, help="rounds, each with base, head and base again (default 20, quick 6)")
    parser.add_argument("--seconds", type=float, help="duration of one turn of calls (default 0.4, quick 0.1)")
    parser.add_argument("--events", type=int, help="events of one `drain` turn (default 10000, quick 2000)")
    parser.add_argument(
        "--server",
        metavar="PATH",
        help="redis-server to use (default: that of the extra `bench`, else the one that embedded:// uses)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer pairs, shorter turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all rounds to this file")
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with defaults by `--quick`, or end the program for values out of range."""
    options = parser.parse_args(arguments)
    for name, usual, quick in (("pairs", 20, 6), ("seconds", 0.4, 0.1), ("events", 10_000, 2_000)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    if options.pairs < 1 or min(options.tasks) < 1 or options.events < 2:
        parser.error("--pairs and --tasks must be at least 1, --events at least 2")
    if not 0 < options.seconds <= 10:
        parser.error("--seconds must be greater than 0 and at most 10")
    return options


if __name__ == "__main__":
    sys.exit(program.run(main))

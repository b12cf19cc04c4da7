"""What the programs share: their options, how they end, and where the figures of a run go.

A program is a module with `main`, which measures, prints and, if `options.publish` says so, calls `publish`:

    if __name__ == "__main__":
        sys.exit(program.run(main))
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.common import plots, results, tables
from benchmarks.common.failures import BenchmarkFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Result = dict[str, Any]

QUICK_ROUNDS = 5  # as few as a median with quartiles means something for
#: Options that leave the figures what they are by default.
_NEUTRAL_OPTIONS = ("server", "no_plot")


class Report(Protocol):
    """What a benchmark's `report` module has: all of it is made from the result file's content alone."""

    def text(self, result: Result) -> str:
        """Return the whole report as Markdown."""

    def draw(self, result: Result, name: str) -> None:
        """Write the plots, named after the section."""

    def pictures(self, name: str) -> str:
        """Return the HTML that shows the plots."""


def new_parser(name: str, about: str | None, examples: str, *, rounds: int, quick: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all programs have; `quick` says what a quick run does less of."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(full_rounds=rounds)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; prints only")
    parser.add_argument("--rounds", type=int, help=f"rounds (default {rounds}, quick {QUICK_ROUNDS}); prints only")
    parser.add_argument(
        "--server",
        metavar="PATH",
        help="the redis-server to measure (default: that of the extra `bench`, else what embedded:// takes); "
        f"for Redis 7.0, say, the section is {name}-redis-7.0",
    )
    parser.add_argument("--no-plot", action="store_true", help="do not draw plots")
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with `rounds` filled in and `publish`: whether the figures may go into the README.

    They may where nothing was asked for that changes what is measured or how often.
    """
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("rounds are at least 1")
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    options.publish = given <= set(_NEUTRAL_OPTIONS)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else options.full_rounds)
    return options


def run(main: Callable[[], None]) -> int:
    """Run a program and return its exit code: 1 after a failure, which is printed as one line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and children are stopped then, too
    logging.getLogger("motia_redis").setLevel(logging.ERROR)  # it warns of servers that keep nothing, as those here
    try:
        main()
    except BenchmarkFailed as error:
        progress(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def publish(report: Report, name: str, result: Result, version: str, options: argparse.Namespace) -> None:
    """Write the README's section, the result file and the plots, if the README has such a section.

    A server that was asked for, rather than found, has a section of its own, named after its `version`.
    """
    section = name if options.server is None else f"{name}-redis-{version.rpartition('.')[0]}"
    if not tables.has(results.README, section):
        progress(f"README.md has no section {section}: the tables are only printed")
        return
    text = report.text(result)
    if not options.no_plot and plots.can_draw():
        report.draw(result, section)
        text = f"{report.pictures(section)}\n{text}"
    else:
        progress("no plots: matplotlib is not installed, or --no-plot was given")
    tables.put(results.README, section, text)
    progress(f"wrote README.md and {results.write(section, result)}")


def progress(message: str) -> None:
    """Say what is going on, beside the tables, which go to standard output."""
    print(message, file=sys.stderr, flush=True)

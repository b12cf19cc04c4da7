"""Shared parts of the programs: common options, exit codes, and publishing of results.

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

QUICK_ROUNDS = 5  # the smallest number for a useful median with quartiles
#: Options with which a run is still published: they do not change what is measured or how often.
_NEUTRAL_OPTIONS = ("server", "no_plot")


class Report(Protocol):
    """The interface of a `report` module. Its functions depend only on the content of the result file."""

    def text(self, result: Result) -> str:
        """Return the report as Markdown."""

    def draw(self, result: Result, name: str) -> None:
        """Write the plots, named after the section."""

    def pictures(self, name: str) -> str:
        """Return the HTML that shows the plots."""


class Tables:
    """A report without plots, made of a function that returns the tables."""

    def __init__(self, text: Callable[[Result], str]) -> None:
        self.text = text

    def draw(self, result: Result, name: str) -> None:
        """Draw nothing."""

    def pictures(self, name: str) -> str:  # noqa: ARG002 - as `Report` has it
        """Return nothing."""
        return ""


def new_parser(
    name: str, about: str | None, examples: str, *, rounds: int | None, quick: str, quick_rounds: int = QUICK_ROUNDS
) -> argparse.ArgumentParser:
    """Return a parser with the options that all programs have.

    `rounds` is the default number of rounds; None: the program measures once. `quick` describes a quick run in the help text, and
    `quick_rounds` is its number of rounds.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(full_rounds=rounds, quick_rounds=quick_rounds)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; print only")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, help=f"number of rounds (default {rounds}, quick {quick_rounds}); print only")
    parser.add_argument(
        "--server",
        metavar="PATH",
        help="redis-server to measure (default: that of the extra `bench`, else the one that embedded:// uses); "
        f"results go to a section named after the server, such as {name}-redis-6.2",
    )
    parser.add_argument("--no-plot", action="store_true", help="do not draw plots")
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options with `publish` and, if the program has rounds, `rounds` set.

    `publish` tells whether the figures go into README.md: only if no option changes what is measured or how often.
    """
    options = parser.parse_args(arguments)
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    options.publish = given <= set(_NEUTRAL_OPTIONS)
    if options.full_rounds is not None:
        if options.rounds is not None and options.rounds < 1:
            parser.error("--rounds must be at least 1")
        options.rounds = options.rounds or (options.quick_rounds if options.quick else options.full_rounds)
    return options


def run(main: Callable[[], None]) -> int:
    """Run a program and return its exit code. After BenchmarkFailed, print its message and return 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also stops servers and child processes
    logging.getLogger("motia_redis").setLevel(logging.ERROR)  # it warns about servers without persistence, such as these
    try:
        main()
    except BenchmarkFailed as error:
        progress(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def publish(report: Report, name: str, result: Result, server: str, options: argparse.Namespace) -> None:
    """Write the section of README.md, the result file and the plots, if README.md has that section.

    A server given by `--server` has a separate section, named after its name, such as `redis-6.2`.
    """
    section = name if options.server is None else f"{name}-{server}"
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
    """Print a progress line to standard error. Tables go to standard output."""
    print(message, file=sys.stderr, flush=True)

"""How the cost of a call grows with what there is: keys, scopes, bytes of a value, processes.

Each series ends in a growth exponent: 0, the size does not matter; 1, twice the size costs twice. Needs 2 GB of memory.
"""

from __future__ import annotations

import argparse
import logging
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, results, tables
from benchmarks.common.server import Server, ServerFailed, find_server
from benchmarks.growing import report, state, workers
from benchmarks.growing.member import TASKS
from benchmarks.growing.probes import WrongOutcome
from motia_redis import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.growing.series import Series

EXAMPLE = """example:
  python -m benchmarks.growth --quick            prints, in 20 s
  python -m benchmarks.growth                    writes README.md, plots/ and results/ too, in 3 minutes
  python -m benchmarks.growth --only workers     prints one of the series
"""
_WORKER_ROUNDS = 3  # at most: each starts workers and waits for their lanes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and, unless `--quick` or `--only` was given, write results, plots and table."""
    options = _options(arguments)
    logging.getLogger("motia_redis.sessions").setLevel(logging.ERROR)  # that nothing is kept on disk is meant
    result: dict[str, Any] = {"series": []}
    try:
        binary = options.server or find_server()
        for name, measure in _series(options).items():
            if options.only in (None, name):
                _progress(f"{name} ...")
                with Server(binary) as server:
                    result |= {"machine": machine.describe(), "settings": _settings(options, server)}
                    result["series"].append(measure(server).as_dict())
    except (ServerFailed, WrongOutcome) as error:
        print(error, file=sys.stderr)
        return 1
    print(report.text(result))
    if not options.quick and options.only is None:
        _publish(result, plot=not options.no_plot)
    return 0


def _series(options: argparse.Namespace) -> dict[str, Callable[[Server], Series]]:
    """Return what measures each series."""
    times, quick = options.rounds, options.quick
    keys = (100, 1000, 10_000) if quick else (100, 1000, 10_000, 100_000, 1_000_000)
    scopes = (1, 10, 100, 1000) if quick else (1, 10, 100, 1000, 10_000)
    values = (100, 1000, 10_000, 100_000) if quick else (100, 1000, 10_000, 100_000, 1_000_000)
    processes = (1, 2) if quick else (1, 2, 4, 8)
    events, seconds = (4000, 0.5) if quick else (40_000, 1.5)
    return {
        "keys": lambda server: state.by_keys(server, keys, times),
        "scopes": lambda server: state.by_scopes(server, scopes, times),
        "value size": lambda server: state.by_value_size(server, values, times),
        "workers": lambda server: workers.by_workers(
            server, processes, min(times, _WORKER_ROUNDS), events=events, seconds=seconds
        ),
    }


def _publish(result: dict[str, Any], *, plot: bool) -> None:
    """Write the result file, the plots and the README's section."""
    _progress(f"wrote {results.write('growth', result)}")
    text = report.text(result)
    if plot:
        report.draw(result)
        text = f"{report.picture()}\n{text}"
    if not tables.put(results.README, "growth", text):
        _progress("README.md has no section growth; the table is only printed")


def _settings(options: argparse.Namespace, server: Server) -> dict[str, str]:
    return {
        "redis": server.version,
        "loop": "uvloop" if find_spec("uvloop") else "asyncio",
        "rounds": f"{options.rounds} (scan and list {state.LIST_ROUNDS}, workers {min(options.rounds, _WORKER_ROUNDS)})",
        "calls per round": str(state.CALLS),
        "values": f"{state.VALUE_BYTES} bytes",
        "keys in each of the scopes, and of each value size": str(state.KEYS_IN_EACH),
        "workers": f"{workers.KEYS} keys of one scope, a handler that does nothing; {TASKS} tasks in each process that updates",
        "mutate script": scripts.load("mutate").sha[:12],
        "persistence": "off",
        "connection": "Unix socket",
    }


def _progress(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, no large sizes; prints, writes nothing")
    parser.add_argument("--rounds", type=int, help="rounds (default 5, quick 2)")
    parser.add_argument("--only", choices=("keys", "scopes", "value size", "workers"), help="one series; prints, writes nothing")
    parser.add_argument("--server", metavar="PATH", help="the redis-server to measure (default: that of the extra `bench`)")
    parser.add_argument("--no-plot", action="store_true", help="do not draw plots")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 2 if options.quick else 5
    if options.rounds < 1:
        parser.error("rounds are at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())

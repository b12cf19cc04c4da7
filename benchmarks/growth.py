"""Measure how the cost of calls grows with the number of keys, scopes and processes, and with the size of a value.

Each line has a growth exponent. 0: the cost does not depend on the size. 1: twice the size costs twice as much. Needs 2 GB of
memory.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, program
from benchmarks.common.server import Server, find_server
from benchmarks.growing import feature_series, harness, report, state_series, work_series, worker_series
from benchmarks.growing.child import TASKS
from motia_redis._scripts import loader

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from benchmarks.growing.series import Series

EXAMPLES = """examples:
  python -m benchmarks.growth --quick            prints only
  python -m benchmarks.growth                    writes README.md, plots/ and results/
  python -m benchmarks.growth --only workers     one series; prints only
"""
_PACKAGES = ("motia-redis", "redis", "hiredis", "orjson", "uvloop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With default settings, also write results, plots and tables."""
    options = _options(arguments)
    binary = options.server or find_server()
    result: dict[str, Any] = {"machine": machine.describe(_PACKAGES), "settings": {}, "series": []}
    for name, measure in _series(options).items():
        if options.only in (None, name):
            with Server(binary) as server:
                if not result["settings"]:
                    result["settings"] = _settings(options, server)
                    program.progress(report.conditions(result))
                program.progress(f"by {name}")
                result["series"].append(measure(server).as_dict())
    print(report.text(result))
    if options.publish:
        program.publish(report, "growth", result, result["settings"]["redis"], options)


def _series(options: argparse.Namespace) -> dict[str, Callable[[Server], Series]]:
    """Return the function that measures each series."""
    times, quick = options.rounds, options.quick
    keys = (100, 1000, 10_000) if quick else (100, 1000, 10_000, 100_000, 1_000_000)
    scopes = (1, 10, 100, 1000) if quick else (1, 10, 100, 1000, 10_000)
    values = (100, 1000, 10_000, 100_000) if quick else (100, 1000, 10_000, 100_000, 1_000_000)
    processes = (1, 2) if quick else (1, 2, 4, 8)
    events, seconds = (4000, 0.25) if quick else (40_000, 1.5)
    return {
        "keys": lambda server: state_series.by_keys(server, keys, times),
        "scopes": lambda server: state_series.by_scopes(server, scopes, times),
        "value size": lambda server: state_series.by_value_size(server, values, times),
        "steps": lambda server: feature_series.by_steps(server, (1, 10) if quick else (1, 10, 100), times),
        "expiry": lambda server: feature_series.by_expiring(server, keys, times),
        "transactions": lambda server: feature_series.by_items(server, (1, 8) if quick else (1, 4, 16, 64), times),
        "watches": lambda server: feature_series.by_watches(server, (1, 10) if quick else (1, 10, 100, 1000), times),
        "telemetry": lambda server: feature_series.of_telemetry(server, keys[:-1], times),
        "handling": lambda server: work_series.by_handling_steps(server, (1, 5) if quick else (1, 5, 20), times),
        "falling due": lambda server: work_series.by_falling_due(server, keys, times),
        "transactions, keys": lambda server: work_series.by_keys_changed_together(server, keys[:-1], times),
        "telemetry, steps": lambda server: work_series.of_lanes(server, (1, 5) if quick else (1, 5, 20), times),
        "workers": lambda server: worker_series.by_workers(server, processes, times, events=events, seconds=seconds),
    }


def _settings(options: argparse.Namespace, server: Server) -> dict[str, str]:
    return {
        "redis": server.version,
        "loop": "uvloop" if find_spec("uvloop") else "asyncio",
        "rounds": str(options.rounds),
        "calls per round": str(harness.CALLS),
        "values": f"{state_series.VALUE_BYTES} bytes",
        "keys in each of the scopes, and of each value size": str(state_series.KEYS_IN_EACH),
        "workers": (
            f"{worker_series.KEYS} keys of one scope, a handler that does nothing; {TASKS} tasks in each process that updates"
        ),
        "mutate script": loader.load("mutate").sha[:12],
        "persistence": "off",
        "connection": "Unix socket",
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("growth", __doc__, EXAMPLES, rounds=5, quick="no large sizes, at most two processes")
    parser.add_argument("--only", choices=tuple(report.TITLES), help="run only this series; print only")
    return program.read_options(parser, arguments)


if __name__ == "__main__":
    sys.exit(program.run(main))

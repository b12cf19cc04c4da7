"""Measure time and CPU of calls in the client: motia-redis, redis-py, coredis and valkey-glide, with one task and with 64.

Also measure increments of one contended value, `list`, the import time, and the memory of values in Redis. The extra `bench`
provides a redis-server 8.2 and the rivals. Rivals that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.calling import contenders, footprint, report, values
from benchmarks.calling.harness import LISTED, TASKS, Configuration, Harness, Sampling
from benchmarks.common import machine, program
from benchmarks.common.server import Server, find_server

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from benchmarks.calling.harness import Case

EXAMPLES = """examples:
  python -m benchmarks.calls --quick                   prints only
  python -m benchmarks.calls                           writes README.md, plots/ and results/
  python -m benchmarks.calls --quick --seconds 0.5     longer turns with less noise; prints only
"""
KEYS, QUICK_KEYS = 100_000, 20_000
IMPORTS = 9
_PACKAGES = (*dict.fromkeys(kind.package for kind in contenders.ALL.values()), "hiredis", "uvloop", "orjson")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With default settings, also write results, plots and tables."""
    options = _options(arguments)
    binary = options.server or find_server()
    sampling = Sampling(options.rounds, options.seconds)
    left_out: dict[str, str] = {}
    result: dict[str, Any] = {"machine": machine.describe(_PACKAGES), "left out": left_out, "cases": []}
    with Server(binary, tcp=True) as server:
        result["settings"] = _settings(options, server)
        program.progress(report.conditions(result))
        for index, configuration in enumerate(_configurations(server, left_out, quick=options.quick)):
            first = index == 0
            result["cases"] += measure(configuration, sampling, left_out, fill=first, short=options.quick and not first)
    program.progress("imports")
    result["imports"] = footprint.imports(options.rounds if options.quick else IMPORTS)
    program.progress("memory")
    result["memory"] = footprint.memory(binary, QUICK_KEYS if options.quick else KEYS, settle=not options.quick)
    print(report.text(result))
    if options.publish:
        program.publish(report, "calls", result, result["settings"]["redis"], options)


def measure(configuration: Configuration, sampling: Sampling, left_out: dict[str, str], *, fill: bool, short: bool) -> list[Case]:
    """Measure all cases of one configuration. `short` measures only the reads of many tasks."""
    cases: list[Case] = []
    with ExitStack() as stack:
        harness = Harness.enter(stack, configuration)
        for name, why in harness.left_out.items():
            left_out[name] = why
            program.progress(f"left out: {name}: {why}")
        if fill:
            harness.fill()
        program.progress(f"{configuration}: get by {TASKS} tasks")
        cases += harness.gets(TASKS, sampling)
        if short:
            return cases
        program.progress(f"{configuration}: set and update by {TASKS} tasks")
        cases += harness.sets(TASKS, sampling)
        program.progress(f"{configuration}: one at a time")
        cases += harness.gets(1, sampling) + harness.sets(1, sampling)
        program.progress(f"{configuration}: list")
        cases += harness.listing(sampling)
        program.progress(f"{configuration}: contention")
        cases += harness.contention(sampling)
    return cases


def _configurations(server: Server, left_out: dict[str, str], *, quick: bool) -> list[Configuration]:
    """Return the sockets and event loops to measure, the fastest first. `quick` selects one loop."""
    loops = ["uvloop", "asyncio"]
    if importlib.util.find_spec("uvloop") is None:
        loops.remove("uvloop")
        left_out["uvloop"] = "not installed"
    sockets = {"Unix": server.url, "TCP": server.tcp_url}
    return [Configuration(socket, loop, url) for loop in loops[: 1 if quick else None] for socket, url in sockets.items()]


def _settings(options: argparse.Namespace, server: Server) -> dict[str, str]:
    return {
        "redis": server.version,
        "rounds": str(options.rounds),
        "a turn": f"{options.seconds} s",
        "value": f"{values.BYTES} bytes of JSON",
        "tasks": str(TASKS),
        "listed": f"{LISTED:,}",
        "persistence": "off",
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("calls", __doc__, EXAMPLES, rounds=7, quick="short turns, one event loop, only `get` over TCP")
    parser.add_argument("--seconds", type=float, help="duration of one turn (default 0.25, quick 0.05); print only")
    options = program.read_options(parser, arguments)
    options.seconds = options.seconds or (0.05 if options.quick else 0.25)
    if not 0 < options.seconds <= 10:
        parser.error("--seconds must be greater than 0 and at most 10")
    return options


if __name__ == "__main__":
    sys.exit(program.run(main))

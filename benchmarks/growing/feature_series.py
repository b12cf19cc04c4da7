"""Calls by what the features of the library add: steps, values that expire, transactions, watches, metrics."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.growing import dataset
from benchmarks.growing.harness import CALLS, opened
from benchmarks.growing.series import Series
from benchmarks.growing.state_series import VALUE_BYTES
from motia_redis import Worker, state, step
from motia_redis._admin.status import read_status
from motia_redis._admin.stream_sizes import read_stream_bytes
from motia_redis._steps.application import Application
from motia_redis._store import keyspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.server import Server
    from motia_redis import StateManager
    from motia_redis._steps.definitions import Step
    from motia_redis._store.watch import Watch

#: What all series of features change.
SCOPE = "orders"
NAMES = [dataset.name(index) for index in range(100)]
VALUE = dataset.value(VALUE_BYTES)
_FAR = 86_400  # seconds


async def _set(manager: StateManager, key: str) -> None:
    await manager.set(SCOPE, key, VALUE)


def by_steps(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure `set` by the number of steps that subscribe to the scope. No worker runs: their events stay."""
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"steps{size}")
            harness.runner.run(Worker(Application(tuple(map(_new_step, range(size)))), manager).prepare())
            probes[size] = harness.probe(partial(_set, manager), NAMES)
        harness.run("set", probes)
        return Series("steps", "steps", harness.lines)


def _new_step(number: int) -> Step:
    async def handle(_: Any) -> None:
        """Do nothing."""

    return step({"name": f"Step{number}", "triggers": [state(scope=SCOPE)]}).handle(handle)


def by_expiring(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure `set` with a time to live by the number of values of the same partition that wait for theirs."""
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"waiting{size}")
            names = harness.runner.run(manager.connect())
            dataset.fill_due(harness.client, names, keyspace.partition_of(names.values(SCOPE.encode())), size)
            probes[size] = harness.probe(partial(manager.set, SCOPE, value=VALUE, ttl=_FAR), NAMES)
        harness.run("set with ttl", probes)
        return Series("expiry", "values that wait", harness.lines)


def by_items(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure a transaction by the number of its items: values of one scope."""

    with opened(server, times) as harness:
        manager = harness.manager()

        async def change(size: int, _: str) -> None:
            async with manager.transaction() as transaction:
                for key in NAMES[:size]:
                    transaction.set(SCOPE, key, VALUE)

        probes = {size: harness.probe(partial(change, size), NAMES, calls=max(10, CALLS // size), items=size) for size in sizes}
        harness.run("transaction", probes, unit="µs per item")
        return Series("transactions", "items of a transaction", harness.lines)


def by_watches(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure `set` by the number of open watches: of other keys of its scope, and of the scope, which all get the change."""
    with opened(server, times) as harness:
        run = harness.runner.run
        others, fans, opened_watches = {}, {}, []
        for size in sizes:
            manager = harness.manager(f"watches{size}")
            watches = run(_open(manager, [f"watched{number}" for number in range(size)]))
            others[size] = harness.probe(partial(_set, manager), NAMES)
            manager = harness.manager(f"fans{size}")
            followed = run(_open(manager, [None] * size))
            fans[size] = harness.probe(partial(_deliver, manager, followed), NAMES, calls=max(5, CALLS // size), items=size)
            opened_watches += watches + followed
        harness.run("set, of other keys", others)
        harness.run("set and delivery to all", fans, unit="µs per watch")
        for watch in opened_watches:
            run(watch.__aexit__(None, None, None))
        return Series("watches", "watches", harness.lines)


async def _open(manager: StateManager, keys: Sequence[str | None]) -> list[Watch]:
    return [await manager.watch(SCOPE, key).__aenter__() for key in keys]


async def _deliver(manager: StateManager, watches: Sequence[Watch], key: str) -> None:
    await manager.set(SCOPE, key, VALUE)
    for watch in watches:
        await anext(watch)


def of_telemetry(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure what a scrape of the metrics reads from Redis by the number of keys of the namespace."""
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"telemetry{size}")
            harness.fill([SCOPE], keys=size, size=VALUE_BYTES, namespace=manager.namespace)
            harness.runner.run(Worker(Application((_new_step(0),)), manager).prepare())
            probes[size] = harness.probe(partial(scrape, manager), NAMES, calls=20)
        harness.run("scrape", probes)
        return Series("telemetry", "keys", harness.lines)


async def scrape(manager: StateManager, _: str) -> None:
    """Read what a scrape of the metrics reads."""
    await asyncio.gather(read_status(manager), read_stream_bytes(manager))

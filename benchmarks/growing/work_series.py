"""The work behind the features: values that fall due, handling by many steps, transactions, metrics of lanes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.growing import dataset
from benchmarks.growing.feature_series import NAMES, SCOPE, VALUE, scrape
from benchmarks.growing.harness import opened
from benchmarks.growing.probes import WrongOutcome, measure
from benchmarks.growing.series import SERVER_SLACK, Line, Series
from benchmarks.growing.state_series import VALUE_BYTES
from motia_redis import Worker, state, step
from motia_redis._admin.connections import open_namespace
from motia_redis._steps.application import Application
from motia_redis._store import keyspace
from motia_redis._store.sweeping import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.server import Server
    from motia_redis import StateManager

_ITEMS = 10  # of a transaction
_EVENTS = 100  # of one call that waits for the handlers
_TIMEOUT_SECONDS = 60
_SOON = 0.05  # seconds


def by_keys_changed_together(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure a transaction of ten items by the number of keys in their scope."""
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"together{size}")
            harness.fill([SCOPE], keys=size, size=VALUE_BYTES, namespace=manager.namespace)
            probes[size] = harness.probe(partial(_change, manager), NAMES, calls=100, items=_ITEMS)
        harness.run("transaction", probes, unit="µs per item")
        return Series("transactions, keys", "keys per scope", harness.lines)


async def _change(manager: StateManager, _: str) -> None:
    async with manager.transaction() as transaction:
        for key in NAMES[:_ITEMS]:
            transaction.set(SCOPE, key, VALUE)


def by_handling_steps(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure the worker by the number of steps that subscribe to the scope. The cost is per step and event."""
    with opened(server, times) as harness:
        probes, workers = {}, []
        for size in sizes:
            manager = harness.manager(f"handling{size}")
            handled = _Handled(manager, size)
            worker = Worker(Application(handled.steps), manager)
            harness.runner.run(worker.__aenter__())
            workers.append(worker)
            probes[size] = harness.probe(handled.write_and_wait, NAMES, calls=2, items=_EVENTS * size)
        wall, _ = measure(probes, times)
        for worker in workers:
            harness.runner.run(worker.__aexit__(None, None, None))
        return Series("handling", "steps", [Line("write and handle", "µs per step and event", 0, wall)])


class _Handled:
    """Steps of one scope, and how often their handlers ran."""

    def __init__(self, manager: StateManager, size: int) -> None:
        self.steps = tuple(
            step({"name": f"Step{number}", "triggers": [state(scope=SCOPE)]}).handle(self._handle) for number in range(size)
        )
        self._manager = manager
        self._left = 0
        self._done = asyncio.Event()

    async def write_and_wait(self, _: str) -> None:
        self._left = _EVENTS * len(self.steps)
        self._done.clear()
        await asyncio.gather(*(self._manager.set(SCOPE, key, VALUE) for key in NAMES[:_EVENTS]))
        try:
            await asyncio.wait_for(self._done.wait(), _TIMEOUT_SECONDS)
        except TimeoutError:
            raise WrongOutcome(f"{self._left} handlers of {len(self.steps)} steps did not run") from None

    async def _handle(self, _: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()


def by_falling_due(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure how long the server works on values that fall due, by the number of others of their partition that wait.

    Only server time: the caller waits until the values are due. It includes the calls that set them.
    """
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"falling{size}")
            names = harness.runner.run(manager.connect())
            partition = keyspace.partition_of(names.values(SCOPE.encode()))
            dataset.fill_due(harness.client, names, partition, size)
            probes[size] = harness.probe(partial(_let_fall_due, manager, partition), NAMES, calls=2, items=len(NAMES))
        _, spent = measure(probes, times)
        return Series("falling due", "values that wait", [Line("set and fall due, server", "µs", 0, spent, SERVER_SLACK)])


async def _let_fall_due(manager: StateManager, partition: int, _: str) -> None:
    await asyncio.gather(*(manager.set(SCOPE, key, VALUE, ttl=_SOON) for key in NAMES))
    await asyncio.sleep(_SOON + 0.005)
    async with open_namespace(manager, "benchmark") as (router, names):
        await settle(router, names, [partition], b"0 0")
    if await manager.count(SCOPE):
        raise WrongOutcome("values that were due are still there")


def of_lanes(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure what a scrape of the metrics reads from Redis by the number of steps. Each has a group in each lane."""
    with opened(server, times) as harness:
        probes = {}
        for size in sizes:
            manager = harness.manager(f"lanes{size}")
            harness.runner.run(Worker(Application(_Handled(manager, size).steps), manager).prepare())
            probes[size] = harness.probe(partial(scrape, manager), NAMES, calls=10)
        harness.run("scrape", probes, limit=1)
        return Series("telemetry, steps", "steps", harness.lines)

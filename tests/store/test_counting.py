"""What the calls of a process count when metrics are on, and that nothing is counted otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from motia_redis import StateManager, _metrics, sync
from motia_redis.errors import RevisionConflict, StateUnavailable, TransactionFailed
from tests.support.servers import RedisServer
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def metrics() -> Iterator[_metrics.Metrics]:
    yield _metrics.switch_on()
    _metrics.switch_off()


def count_of(metrics: _metrics.Metrics, operation: str) -> int:
    return sum(metrics.calls[operation].counts) if operation in metrics.calls else 0


def test_duration_is_counted_in_the_first_bucket_that_holds_it() -> None:
    histogram = _metrics.Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.11, 1.0, 1.5, 100.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == pytest.approx(102.76)


async def test_each_call_is_counted_once_under_its_operation(metrics: _metrics.Metrics, state: StateManager) -> None:
    await state.set("s", "k", 1)
    await state.update("s", "k", [{"op": "increment", "path": "", "value": 1}])
    await state.get("s", "k")
    await state.get_many("s", ["k"])
    await state.entry("s", "k")
    await state.list("s")
    await state.delete("s", "k")
    async with state.transaction() as tx:
        tx.check("s", "a", revision=None)
        tx.set("s", "a", 1)
        tx.delete("s", "b")
        tx.enqueue("{s}/t", 1)
    operations = ("set", "update", "get", "get_many", "entry", "scan", "delete", "transaction")
    assert {operation: count_of(metrics, operation) for operation in operations} == dict.fromkeys(operations, 1)
    assert metrics.changes == {"set": 1, "update": 1, "delete": 1, "transaction": 2}
    assert metrics.conflicts == metrics.retries.total() == metrics.unavailable.total() == 0


async def test_conflicts_are_counted_in_calls_and_transactions(metrics: _metrics.Metrics, state: StateManager) -> None:
    await state.set("s", "k", 1)
    with pytest.raises(RevisionConflict):
        await state.set("s", "k", 2, if_revision=None)

    async def transact() -> None:
        async with state.transaction() as tx:
            tx.check("s", "k", revision=None)
            tx.set("s", "k", 3)

    with pytest.raises(TransactionFailed):
        await transact()
    assert metrics.conflicts == 2
    assert metrics.changes == {"set": 1}, "what was refused is no change"


async def test_retries_and_calls_that_fail_for_good_are_counted(metrics: _metrics.Metrics, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with StateManager(server.url, deadline=0.3) as state:
            await state.get("s", "k")
            server.kill()
            with pytest.raises(StateUnavailable):
                await state.get("s", "k")
            server.start()
    assert metrics.retries["get"] >= 1
    assert metrics.unavailable == {"get": 1}
    assert count_of(metrics, "get") == 1


def test_calls_of_threads_are_counted(metrics: _metrics.Metrics, server: RedisServer, namespace: str) -> None:
    with sync.StateManager(server.url, namespace=namespace) as state:
        for number in range(5):
            state.set("s", "k", number)
            state.get("s", "k")
    assert count_of(metrics, "set") == count_of(metrics, "get") == metrics.changes["set"] == 5


async def test_watches_mirrors_and_expiries_are_counted(metrics: _metrics.Metrics, state: StateManager) -> None:
    async with state.watch("s"), state.watch(None), state.mirror("s"):
        assert metrics.watchers == 3
    assert metrics.watchers == 0
    await state.set("s", "k", 1, ttl=0.01)
    await state.set("s", "j", 1, ttl=60)
    await asyncio.sleep(0.02)
    assert await state.count("s") == 1
    await until_holds(lambda: metrics.expiries == 1, "the expiry is counted")


async def test_switched_off_nothing_is_counted(metrics: _metrics.Metrics, state: StateManager) -> None:
    _metrics.switch_off()
    await state.set("s", "k", 1)
    assert metrics.calls == metrics.changes == {}

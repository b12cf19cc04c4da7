"""What a worker counts of its handlers when metrics are on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Application, StateManager, Worker, _metrics, queue, step
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def metrics() -> Iterator[_metrics.Metrics]:
    yield _metrics.switch_on()
    _metrics.switch_off()


@step(
    {
        "name": "Counted",
        "triggers": [queue("counted", condition=lambda message: message != "unwanted")],
        "max_attempts": 3,
        "backoff": 0.01,
    }
)
async def counted(data: Any, ctx: Any) -> None:
    if data == "bad" or (data == "once" and ctx.trigger.attempt == 1):
        raise ValueError(data)
    if data == "slow":
        await asyncio.sleep(0.3)


async def test_each_outcome_is_counted(metrics: _metrics.Metrics, state: StateManager) -> None:
    async with Worker(Application([counted]), state) as worker:
        for data in ("good", "good", "once", "bad", "slow", "unwanted"):
            await state.enqueue("counted", data)
        await until_holds(lambda: metrics.steps["Counted"].running == 1, "the slow one runs")
        await until_holds(lambda: metrics.steps["Counted"].dead_letters == 1, "the dead letter is counted")
        await until_holds(lambda: metrics.steps["Counted"].handled == 4, "the others are handled")
        assert worker.silence < 3
        assert set(worker.held_lanes()) == {"Counted"}
    counts = metrics.steps["Counted"]
    assert (counts.handled, counts.failed, counts.dead_letters, counts.running) == (4, 3, 1, 0)
    assert sum(counts.durations.counts) == 8
    assert counts.durations.total >= 0.3


async def test_worker_that_does_not_run_has_no_heartbeat_and_no_lanes(state: StateManager) -> None:
    worker = Worker(Application([counted]), state)
    assert worker.silence == float("inf")
    assert worker.held_lanes() == []

"""Metrics by OpenTelemetry: the same numbers as those of Prometheus, observed when they are collected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from motia_redis import StateManager, telemetry
from motia_redis import state as state_trigger
from motia_redis._telemetry.instruments import otel_name
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    found = InMemoryMetricReader()
    telemetry.enable(spans=False, meter_provider=MeterProvider([found], shutdown_on_exit=False))
    yield found
    telemetry.disable()


def points(reader: InMemoryMetricReader) -> dict[tuple[str, Any], float]:
    """Return the values that are collected now, by the names and attributes."""
    data = reader.get_metrics_data()
    return {
        (metric.name, frozenset(point.attributes.items())): point.value
        for resource in ([] if data is None else data.resource_metrics)
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_numbers_of_process_worker_and_namespace_are_observed(state: StateManager, reader: InMemoryMetricReader) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="orders"))) as (worker,):
        await state.set("orders", "a", 1)
        await recorder.wait(1)
        async with telemetry.observe(state, worker):
            found = await asyncio.to_thread(points, reader)
    space = ("redis_namespace", state.namespace)
    assert found["motia_redis.changes", frozenset({("operation", "set")})] == 1
    assert found["motia_redis.call_duration.count", frozenset({("operation", "set")})] == 1
    assert found["motia_redis.call_duration.bucket", frozenset({("operation", "set"), ("le", "+Inf")})] == 1
    assert 0 < found["motia_redis.call_duration.sum", frozenset({("operation", "set")})] < 20
    assert found["motia_redis.redis_up", frozenset()] == 1
    assert found["motia_redis.workers", frozenset({space})] == 1
    assert found["motia_redis.step_lanes", frozenset({space, ("step", "Record")})] == 8


async def test_collecting_in_the_loop_itself_waits_for_nothing(state: StateManager, reader: InMemoryMetricReader) -> None:
    async with telemetry.observe(state):
        await state.set("orders", "a", 1)
        found = points(reader)
    assert found["motia_redis.changes", frozenset({("operation", "set")})] == 1


async def test_nothing_is_told_after_disable(state: StateManager, reader: InMemoryMetricReader) -> None:
    await state.set("orders", "a", 1)
    assert points(reader)
    telemetry.disable()
    assert points(reader) == {}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("changes_total", ("motia_redis.changes", "")),
        ("call_duration_seconds", ("motia_redis.call_duration", "s")),
        ("stream_bytes", ("motia_redis.stream", "By")),
        ("step_lanes", ("motia_redis.step_lanes", "")),
    ],
)
def test_unit_of_the_name_becomes_the_unit_of_the_instrument(name: str, named: tuple[str, str]) -> None:
    assert otel_name(name) == named

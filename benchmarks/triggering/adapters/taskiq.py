"""taskiq with taskiq-redis, as in its documentation: `RedisStreamBroker` (acknowledges) or `ListQueueBroker` (does not).

Option `broker`: "stream" or "list". Reads 100 entries at once and runs up to 100 tasks, both the defaults. There is no result
backend. Parameters are not validated (`--no-parse`), which is faster. It runs on uvloop with orjson as serializer.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks.triggering.child import run
from benchmarks.triggering.job import Job, Value  # noqa: TC001  # taskiq looks its tasks' annotations up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taskiq import AsyncBroker

    from benchmarks.triggering.meter import Meter

_TASK = "handle"


def _broker(job: Job) -> AsyncBroker:
    if job.options["broker"] == "list":
        return ListQueueBroker(job.url).with_serializer(ORJSONSerializer())
    # "0": what was sent before the first worker came is delivered as well
    return RedisStreamBroker(job.url, consumer_id="0").with_serializer(ORJSONSerializer())


def work(job: Job, meter: Meter) -> None:
    """Receive tasks in this process."""
    broker = _broker(job)

    @broker.task(task_name=_TASK)
    async def handle(value: Value) -> None:
        meter.handle(value)

    run(run_receiver_task(broker, run_startup=True, validate_params=False, max_async_tasks=100))


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls `kiq`."""
    broker = _broker(job)

    @broker.task(task_name=_TASK)
    async def handle(value: Value) -> None: ...

    await broker.startup()
    yield handle.kiq
    await broker.shutdown()

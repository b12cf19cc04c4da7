"""FastStream on a Redis stream with a consumer group, reading 100 entries at once.

Option `batch`: the handler gets all entries of a read together. It runs on uvloop, without validation by type
(`apply_types=False`) and without logging. `max_workers` is 1, because 10 or 50 were slower.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from benchmarks.triggering.child import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_STREAM, _GROUP = "faststream", "group"


def work(job: Job, meter: Meter) -> None:
    """Consume in this process."""
    run(_work(job, meter))


async def _work(job: Job, meter: Meter) -> None:
    broker = RedisBroker(job.url, apply_types=False, logger=None)
    batch = bool(job.options.get("batch"))
    source = StreamSub(_STREAM, group=_GROUP, consumer="worker", max_records=100, batch=batch)

    if batch:

        @broker.subscriber(stream=source)
        async def handle_all(values: list[Value]) -> None:
            for value in values:
                meter.handle(value)
    else:

        @broker.subscriber(stream=source)
        async def handle(value: Value) -> None:
            meter.handle(value)

    async with broker:
        await broker.start()
        await asyncio.Event().wait()


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Create the group, since a worker would create it at the end of the stream, and give a `publish`."""
    async with Redis.from_url(job.url) as client:
        try:
            await client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
    async with RedisBroker(job.url, apply_types=False, logger=None) as broker:

        async def send(value: Value) -> Any:
            return await broker.publish(value, stream=_STREAM)

        yield send

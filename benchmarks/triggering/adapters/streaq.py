"""streaQ on uvloop with 64 concurrent tasks, slightly faster than the default of 16 and than 200. No results are kept."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from streaq import Worker

from benchmarks.triggering.child import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_CONCURRENCY = 64


def _worker(job: Job) -> Any:
    return Worker(redis_url=job.url, concurrency=_CONCURRENCY, handle_signals=False)


def work(job: Job, meter: Meter) -> None:
    """Run the worker in this process."""
    worker = _worker(job)

    @worker.task(name="handle", silent=True, ttl=0)
    async def handle(value: Value) -> None:
        meter.handle(value)

    run(worker.run_async())


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls `enqueue`."""
    worker = _worker(job)

    @worker.task(name="handle", silent=True, ttl=0)
    async def handle(value: Value) -> None: ...

    async with worker:

        async def send(value: Value) -> None:
            await handle.enqueue(value)

        yield send

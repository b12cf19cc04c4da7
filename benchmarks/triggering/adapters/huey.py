"""huey with `RedisHuey`: blocking pops in two worker threads, no results kept, no periodic tasks.

Two threads were faster than 1 or 8. Arguments are pickled, the default.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from huey import RedisHuey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_THREADS = 2


def _task(job: Job, handle: Callable[[Value], None]) -> tuple[RedisHuey, Any]:
    queue = RedisHuey("bench", url=job.url, results=False)
    return queue, queue.task(name="handle")(handle)


def work(job: Job, meter: Meter) -> None:
    """Run the consumer in this process."""
    logging.getLogger("huey").setLevel(logging.ERROR)  # a line per task by default

    def handle(value: Value) -> None:
        meter.handle(value)

    queue, _ = _task(job, handle)
    queue.create_consumer(workers=_THREADS, periodic=False).run()


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls the task."""

    def handle(value: Value) -> None: ...

    _, task = _task(job, handle)

    async def send(value: Value) -> None:
        task(value)

    yield send

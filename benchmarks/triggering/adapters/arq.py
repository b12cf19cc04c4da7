"""arq with its defaults (10 jobs at once, a poll every half second), or with the option `tuned`.

`tuned` increases `max_jobs` (50 were faster than 200 or 1,000) and reduces `poll_delay`. Both run on uvloop and keep no results.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.triggering.child import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_TUNED = {"max_jobs": 50, "poll_delay": 0.001}


def work(job: Job, meter: Meter) -> None:
    """Run the worker in this process."""

    async def handle(_ctx: dict[str, Any], value: Value) -> None:
        meter.handle(value)

    async def main() -> None:
        tuning = _TUNED if job.options.get("tuned") else {}
        functions = [func(handle, name="handle", keep_result=0)]
        worker = Worker(functions, redis_settings=RedisSettings.from_dsn(job.url), handle_signals=False, **tuning)
        await worker.async_run()

    run(main())


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls `enqueue_job`."""
    pool = await create_pool(RedisSettings.from_dsn(job.url))
    yield lambda value: pool.enqueue_job("handle", value)
    await asyncio.shield(pool.aclose())

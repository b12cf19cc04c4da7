"""BullMQ for Python: one worker on uvloop. `concurrency` is increased, as its guide advises, and finished jobs are removed.

50 jobs at once were faster than 10 or 200.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bullmq import Queue, Worker

from benchmarks.triggering.child import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_QUEUE = "bench"
_CONCURRENCY = 50


def work(job: Job, meter: Meter) -> None:
    """Run the worker in this process."""

    async def handle(task: Any, _token: str) -> None:
        meter.handle(task.data)

    async def main() -> None:
        Worker(_QUEUE, handle, {"connection": job.url, "concurrency": _CONCURRENCY})
        await asyncio.Event().wait()

    run(main())


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls `add`."""
    queue = Queue(_QUEUE, {"connection": job.url})

    async def send(value: Value) -> Any:
        return await queue.add("handle", value, {"removeOnComplete": True})

    yield send
    await queue.close()

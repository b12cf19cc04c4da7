"""The child process of a contender: `python -m benchmarks.triggering.child ROLE ADAPTER JOB`, in the contender's environment.

Roles: `work` handles events until the process is killed. `write` sends all events and ends. `pace` waits until the worker is
ready, then sends events at a steady rate, each with the time before its call.
"""

from __future__ import annotations

import asyncio
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.triggering import job as jobs
from benchmarks.triggering.meter import Meter, emit, listen

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import ModuleType

    from benchmarks.triggering.job import Job

CONCURRENCY = 64  # concurrent sends of `write`
RATE = 200  # events per second of `pace`
_PING_SECONDS = 0.1


def main() -> None:
    """Run the role."""
    role, adapter, text = sys.argv[1:]
    module = import_module(f"benchmarks.triggering.adapters.{adapter}")
    job = jobs.Job.load(text)
    if role == "work":
        meter = Meter(job.events)
        module.work(job, meter)
    else:
        run({"write": _write, "pace": _pace}[role](module, job))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop if it is installed."""
    try:
        import uvloop  # noqa: PLC0415  # some rivals' environments do not have it
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


async def _write(adapter: ModuleType, job: Job) -> None:
    numbers = iter(range(job.events))
    async with adapter.sending(job) as send:

        async def sender() -> None:
            for number in numbers:
                await send(jobs.value(number))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONCURRENCY):
                tasks.create_task(sender())
    emit("written")


async def _pace(adapter: ModuleType, job: Job) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    listen({"start": lambda: loop.call_soon_threadsafe(ready.set)})
    async with adapter.sending(job) as send:
        while not ready.is_set():
            await send(jobs.value(jobs.PING))
            await asyncio.sleep(_PING_SECONDS)
        start = time.monotonic()
        for number in range(job.events):
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            value = jobs.value(number)
            value["sent"] = time.monotonic_ns()
            await send(value)
    emit("written")


if __name__ == "__main__":
    main()

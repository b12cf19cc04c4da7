"""The process of a contender: `python -m benchmarks.triggering.contender ROLE PLAYER JOB`, in the contender's environment.

Roles: `work` handles events until it is ended; `write` sends all events and ends; `pace` sends them at a steady rate, each
stamped with the time before the call, once the worker has answered.
"""

from __future__ import annotations

import asyncio
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.triggering import job as jobs
from benchmarks.triggering.meter import Meter, listen, say

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import ModuleType

    from benchmarks.triggering.job import Job

AT_ONCE = 64  # sends of `write` that are under way together
RATE = 200  # events per second of `pace`
_KNOCK_SECONDS = 0.1


def main() -> None:
    """Play the role."""
    role, player, text = sys.argv[1:]
    module = import_module(f"benchmarks.triggering.players.{player}")
    job = jobs.Job.load(text)
    if role == "work":
        meter = Meter(job.events)
        module.work(job, meter)
    else:
        run({"write": _write, "pace": _pace}[role](module, job))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415  # not every rival's environment has it
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


async def _write(player: ModuleType, job: Job) -> None:
    numbers = iter(range(job.events))
    async with player.sending(job) as send:

        async def sender() -> None:
            for number in numbers:
                await send(jobs.value(number))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(sender())
    say("written")


async def _pace(player: ModuleType, job: Job) -> None:
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()
    listen({"go": lambda: loop.call_soon_threadsafe(answered.set)})
    async with player.sending(job) as send:
        while not answered.is_set():
            await send(jobs.value(jobs.KNOCK))
            await asyncio.sleep(_KNOCK_SECONDS)
        start = time.monotonic()
        for number in range(job.events):
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            value = jobs.value(number)
            value["sent"] = time.monotonic_ns()
            await send(value)
    say("written")


if __name__ == "__main__":
    main()

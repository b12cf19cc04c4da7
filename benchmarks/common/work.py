"""Work of ours in the event loop of this process: calls by many tasks, and events that a worker handles."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.common.failures import BenchmarkFailed
from motia_redis import Worker, state, step
from motia_redis._steps.application import Application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from motia_redis import StateManager, StateTriggerInput

T = TypeVar("T")
_DRAIN_SECONDS = 30


def new_runner() -> asyncio.Runner:
    """Return a runner with the event loop of the command `motia-redis`: uvloop if installed."""
    try:
        import uvloop  # noqa: PLC0415  # optional, as for the command
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new runner."""
    with new_runner() as runner:
        return runner.run(coroutine)


async def call(make: Callable[[int], Awaitable[Any]], *, tasks: int, calls: int) -> float:
    """Make calls 0 to `calls - 1`, shared by concurrent tasks; return the seconds that they took."""
    numbers = iter(range(calls))

    async def some() -> None:
        for number in numbers:
            await make(number)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(tasks)))
    return time.perf_counter() - began


class Drain:
    """A step of one scope, or of all (None), that counts distinct events by the member `n` of their values."""

    def __init__(self, manager: StateManager, scope: str | None) -> None:
        self._manager = manager
        self._seen: set[int] = set()
        self._wanted = 0
        self._done = asyncio.Event()

        async def handler(input: StateTriggerInput) -> None:
            self._seen.add((input.new_value or {})["n"])
            if len(self._seen) == self._wanted:
                self._done.set()

        self._application = Application((step({"name": "Drain", "triggers": [state(scope=scope)]}).handle(handler),))

    async def prepare(self) -> None:
        """Create the consumer groups, so that what is written from now on is delivered."""
        await Worker(self._application, self._manager).prepare()

    async def handle(self, events: int) -> float:
        """Handle the written events by a worker; return the seconds from its start. Raises BenchmarkFailed."""
        self._wanted = events
        began = time.perf_counter()
        async with working(self._application, self._manager):
            try:
                await asyncio.wait_for(self._done.wait(), _DRAIN_SECONDS)
            except TimeoutError:
                raise BenchmarkFailed(f"{len(self._seen)} of {events} events handled in {_DRAIN_SECONDS} s") from None
            return time.perf_counter() - began


@asynccontextmanager
async def working(application: Application, manager: StateManager) -> AsyncIterator[None]:
    """Run a worker in this event loop."""
    worker = Worker(application, manager)
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running

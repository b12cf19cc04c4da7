"""motia-redis: `StateManager.set`, and steps with a state trigger in a `Worker`, everything with its default guarantees.

Options: `steps` (1) subscribe to the scope; `condition` and `where` let one event of a hundred through; `gated` handlers wait for
the order "open", so that several workers can get their lanes before any of them begins.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.triggering.child import run
from benchmarks.triggering.job import CONDITION_ONE_IN, key
from benchmarks.triggering.meter import Meter, listen
from motia_redis import StateManager, StateTriggerInput, Worker, state, step
from motia_redis._steps.application import Application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from motia_redis._steps.definitions import Step

SCOPE = "events"


def work(job: Job, meter: Meter) -> None:
    """Run a worker; its handlers do nothing but count."""
    run(_work(job, meter))


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Create the consumer groups, so that what is written from now on is delivered, and give a `StateManager.set`."""
    async with StateManager(job.url) as manager:
        await Worker(application(job, Meter(job.events), asyncio.Event()), manager).prepare()

        async def send(value: Value) -> Any:
            return await manager.set(SCOPE, key(value["n"]), value)

        yield send


async def _work(job: Job, meter: Meter) -> None:
    gate, loop = asyncio.Event(), asyncio.get_running_loop()
    listen({"open": lambda: loop.call_soon_threadsafe(gate.set), "report": meter.report})
    async with StateManager(job.url) as manager:
        await Worker(application(job, meter, gate), manager).run()


def application(job: Job, meter: Meter, gate: asyncio.Event) -> Application:
    """Return the steps that the job's options ask for."""
    count = job.options.get("steps", 1)
    if job.options.get("condition"):
        return Application((_filtered(meter),))
    if job.options.get("where"):
        return Application((_declared(meter),))
    if job.options.get("gated"):
        return Application((_gated(meter, gate),))
    return Application(tuple(_counting(meter, index, count) for index in range(count)))


def _counting(meter: Meter, index: int, count: int) -> Step:
    """Return step `index` of `count`; each event counts once for each of them."""

    async def handler(input: StateTriggerInput) -> None:
        value = input.new_value or {}
        meter.count(value["n"] * count + index if count > 1 else value["n"], value["sent"])

    return step({"name": f"Count{index}", "triggers": [state(scope=SCOPE)]}).handle(handler)


def _declared(meter: Meter) -> Step:
    """Return a step whose trigger names a member. Only the handler counts: nothing of ours sees the other events."""

    async def handler(input: StateTriggerInput) -> None:
        value = input.new_value or {}
        meter.count(value["n"] // CONDITION_ONE_IN, value["sent"])

    return step({"name": "Declared", "triggers": [state(scope=SCOPE, where={"kind": 0})]}).handle(handler)


def _gated(meter: Meter, gate: asyncio.Event) -> Step:
    async def handler(input: StateTriggerInput) -> None:
        await gate.wait()
        meter.handle(input.new_value or {})

    return step({"name": "Gated", "triggers": [state(scope=SCOPE)]}).handle(handler)


def _filtered(meter: Meter) -> Step:
    """Return a step whose condition does the counting, since few events reach its handler."""

    def condition(input: StateTriggerInput) -> bool:
        value = input.new_value or {}
        meter.handle(value)
        return bool(value["kind"] == 0)

    async def handler(input: StateTriggerInput) -> None:
        if input.new_value is None or input.new_value["kind"] != 0:
            raise AssertionError("the condition did not hold")

    return step({"name": "Filtered", "triggers": [state(condition, scope=SCOPE)]}).handle(handler)

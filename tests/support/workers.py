"""Workers that run inside a test, and steps that record what they receive."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from motia_redis import FlowContext, StateManager, Worker, step
from motia_redis._steps.application import Application
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from motia_redis._steps.definitions import Step


@contextlib.asynccontextmanager
async def working(state: StateManager, *steps: Step, workers: int = 1, **settings: Any) -> AsyncIterator[list[Worker]]:
    """Run workers, with settings of `Worker`, for the steps inside of the block, and stop them gracefully behind it."""
    team = [Worker(Application(tuple(steps)), state, **settings) for _ in range(workers)]
    for worker in team:
        await worker.prepare()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for worker in team:
            tasks.create_task(worker.run())
        try:
            yield team
        finally:
            for worker in team:
                worker.stop()


class Recorder:
    """Collects what a handler got."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.contexts: list[FlowContext] = []

    async def __call__(self, input: Any, ctx: FlowContext) -> None:
        self.inputs.append(input)
        self.contexts.append(ctx)

    async def wait(self, count: int) -> None:
        """Wait until that many inputs are there."""

        async def reached() -> bool:
            return len(self.inputs) >= count

        await until(reached, f"{count} inputs, there are {len(self.inputs)}")


def record(recorder: Any, *triggers: Any, **config: Any) -> Step:
    """Return a step that hands its input to `recorder`."""
    return step({"name": "Record", "triggers": list(triggers), **config}).handle(recorder)


async def pending(raw: redis.Redis, namespace: str) -> int:
    """Return how many entries their steps have not finished, over all streams and steps of the namespace."""
    total = 0
    for stream in raw.scan_iter(f"{{{namespace}:*", _type="stream"):
        tag, _, suffix = stream.partition(b"}:")
        for group in raw.xinfo_groups(stream):
            fields = raw.hgetall(tag + b"}:entries:" + group["name"] + b":" + suffix)
            position = fields.pop(b"position", group["last-delivered-id"])
            total += sum(value != b"done" for value in fields.values())
            total += len([entry for entry in raw.xrange(stream, b"(" + position) if entry[0] not in fields])
    return total

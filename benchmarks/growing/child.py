"""One worker process. It carries out requests, one line of JSON each, until its input ends.

work     start a worker for the step
count    return what it handled since `work`: number, time of the first and of the last event (CLOCK_MONOTONIC)
stop     stop the worker and release its lanes
write    update own keys with 64 tasks from a start to an end time; return the numbers of calls
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from benchmarks.common.work import new_runner
from motia_redis import StateManager, Worker, state, step
from motia_redis._steps.application import Application

SCOPE = "events"
STEP = "drain"
WRITTEN = "written"
TASKS = 64
#: A long lease: lanes must not move during a measurement, even if a process waits for a core. The heartbeat is the default.
LEASE, HEARTBEAT = 30.0, 0.5


class Child:
    """The manager of this process and, between `work` and `stop`, its worker."""

    def __init__(self, url: str, number: int) -> None:
        self._state = StateManager(url)
        self._number = number
        self._handled = 0
        self._first = self._last = 0.0
        self._worker: Worker | None = None
        self._running: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Carry out requests until the input ends."""
        async with self._state:
            while line := await asyncio.to_thread(sys.stdin.readline):
                request = json.loads(line)
                reply = await getattr(self, request.pop("do"))(**request)
                print(json.dumps(reply), flush=True)
            await self.stop()

    async def work(self) -> dict[str, Any]:
        self._handled, self._first, self._last = 0, 0.0, 0.0
        application = Application((step({"name": STEP, "triggers": [state(scope=SCOPE)]}).handle(self._handle),))
        self._worker = Worker(application, self._state, lease=LEASE, heartbeat=HEARTBEAT)
        await self._worker.prepare()
        self._running = asyncio.create_task(self._worker.run())
        return {}

    async def count(self) -> dict[str, Any]:
        return {"handled": self._handled, "first": self._first, "last": self._last}

    async def stop(self) -> dict[str, Any]:
        if self._worker and self._running:
            self._worker.stop()
            await self._running
            self._worker = self._running = None
        return {}

    async def write(self, start: float, end: float) -> dict[str, Any]:
        await asyncio.sleep(start - time.monotonic())
        calls = await asyncio.gather(*(self._write_until(end, f"{self._number}-{task}") for task in range(TASKS)))
        return {"in_time": sum(calls), "made": sum(calls) + TASKS}

    async def _write_until(self, end: float, key: str) -> int:
        """Return how many calls ended before `end`. The last call, which ends later, is not counted."""
        calls = 0
        while True:
            await self._state.update(WRITTEN, key, [{"op": "increment", "path": "/count", "value": 1}])
            if time.monotonic() > end:
                return calls
            calls += 1

    async def _handle(self, _: Any) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._handled += 1


def main() -> None:
    """Run as a worker process: `python -m benchmarks.growing.child URL NUMBER`."""
    logging.getLogger("motia_redis.state").setLevel(logging.ERROR)  # no persistence is intended
    with new_runner() as runner:
        runner.run(Child(sys.argv[1], int(sys.argv[2])).serve())


if __name__ == "__main__":
    main()

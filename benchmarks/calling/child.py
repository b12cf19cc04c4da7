"""The child process of one contender on one event loop and socket. It carries out requests, one line of JSON each.

    python -m benchmarks.calling.child redis-py uvloop unix:///tmp/redis.sock

It sends a reply at its start and to each request: `{"ok": ...}` or `{"error": "..."}`. It ends with its input.
A request names one of `Commands`'s methods and its arguments: `{"do": "run", "work": "read", "tasks": 64, "calls": 10}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from benchmarks.calling import contenders, values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.calling.contenders import Contender, Stateful

Timing = dict[str, float]


class Commands:
    """Runs and times a contender, and checks the results of its calls."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.stateful = cast("Stateful", contender)

    async def prepare(self, tasks: int) -> None:
        """Write a value for every task."""
        for task in range(tasks):
            await self.contender.set(values.key(task), values.build(task))

    async def run(self, work: str, tasks: int, calls: int) -> Timing:
        """Time `calls` calls by each of `tasks` tasks. Raises AssertionError if the values are wrong afterwards."""
        before = await self._counters(tasks)
        timing = await _timed(lambda: self.contender.concurrently(work, tasks, calls))
        expected = {"read": before, "write": [calls] * tasks, "change": [counter + calls for counter in before]}
        if await self._counters(tasks) != expected[work]:
            raise AssertionError(f"{self.contender.name}: at least one {work} had no effect")
        return timing

    async def fill(self, count: int) -> None:
        """Write the values for `list`."""
        await self.stateful.fill(count)

    async def list_all(self, calls: int) -> Timing:
        """Time `calls` lists."""

        async def lists() -> None:
            for _ in range(calls):
                await self.stateful.list()

        return await _timed(lists)

    async def digest(self) -> str:
        """Return a hash of the listed values."""
        return values.digest(await self.stateful.list())

    async def contend(self, tasks: int, seconds: float) -> Timing:
        """Increment one member with `tasks` tasks for some seconds. `done` is the number of successful increments."""
        done = 0

        async def increments(until: float) -> None:
            nonlocal done
            while time.perf_counter() < until:
                if await self.stateful.increment(until):
                    done += 1  # not `done += await ...`, which would lose the increments of other tasks

        async def contention() -> None:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(increments(until) for _ in range(tasks)))

        timing = await _timed(contention)
        return {**timing, "done": done}

    async def counter(self) -> int:
        """Return the contended counter."""
        return await self.stateful.counter()

    async def _counters(self, tasks: int) -> list[int]:
        """Return the counters of the tasks' values. Raises AssertionError if another member differs."""
        counters = []
        for task in range(tasks):
            found = await self.contender.get(values.key(task))
            if found != {**values.build(task), "n": found["n"]}:
                raise AssertionError(f"{self.contender.name} returned a value that was not written")
            counters.append(found["n"])
        return counters


async def _timed(work: Callable[[], Awaitable[None]]) -> Timing:
    """Return the seconds, and the CPU seconds of all threads of this process, that a function took."""
    cpu, clock = time.process_time(), time.perf_counter()
    await work()
    return {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}


async def serve(name: str, url: str) -> None:
    """Connect and carry out requests until the input ends."""
    async with contenders.ALL[name].connected(url) as contender:
        commands = Commands(contender)
        _reply({"ok": None})
        # Blocks the loop between two requests, so that a waiting contender uses no CPU.
        while line := sys.stdin.readline():
            request: dict[str, Any] = json.loads(line)
            do = getattr(commands, request.pop("do"))
            _reply({"ok": await do(**request)})


def main(arguments: Sequence[str]) -> int:
    """Run on the chosen event loop. Send errors as replies."""
    name, loop, url = arguments
    logging.disable(logging.WARNING)  # ours warns about servers without persistence, such as this one
    try:
        factory = None
        if loop == "uvloop":
            import uvloop  # noqa: PLC0415  # only for children on uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(name, url))
    except ImportError as error:
        _reply({"error": f"not installed ({error})"})
        return 1
    except Exception as error:  # noqa: BLE001  # the parent reports all errors
        _reply({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _reply(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The child process of one build. It carries out requests, one line of JSON each.

    PYTHONPATH=ROOT_OF_THE_BUILD python -P benchmarks/comparing/child.py unix:///tmp/redis.sock NAMESPACE

This file is run by its path and does not import `benchmarks`, because PYTHONPATH leads to the build, which may be old. For the
same reason it uses only names of `motia_redis` that are public in every build.

It sends a reply at its start and to each request: `{"ok": ...}` or `{"error": "..."}`. It ends with its input.
A request names one of `Commands`'s methods and its arguments: `{"do": "run", "work": "get", "tasks": 64, "calls": 10}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import motia_redis
from motia_redis import StateManager, Worker, state, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis import StateTriggerInput

Value = dict[str, Any]
Timing = dict[str, float]

INCREMENT: Any = [{"op": "increment", "path": "/n", "value": 1}]
#: Modules in which builds have `Application`. Old builds have it in `motia_redis.application`, later ones in a private module.
#: Current builds export it.
_APPLICATION_MODULES = ("motia_redis", "motia_redis.application", "motia_redis._steps.application")
_EVENTS = "events"  # the scope of the events that `drain` handles
_EVENT_KEYS = 500
_WRITERS = 64
_VALUE_BYTES = 1000


class Commands:
    """Runs and times one build, and checks the results of its calls."""

    def __init__(self, calls: StateManager, triggers: StateManager) -> None:
        self._calls = calls
        self._triggers = triggers
        self._counters: dict[str, list[int]] = {"get": [], "set": [], "update": []}  # what each task's value must have as `n`

    async def prepare(self, tasks: int) -> None:
        """Write the missing values of each task."""
        for work, counters in self._counters.items():
            for task in range(len(counters), tasks):
                counters.append(0)
                await self._calls.set(work, _key(task), _value(task))

    async def run(self, work: str, tasks: int, calls: int) -> Timing:
        """Time `calls` calls by each of `tasks` tasks: of `get`, `set` or `update`."""
        make = {"get": self._get, "set": self._set, "update": self._update}[work]
        before = _clocks()
        if tasks == 1:
            await make(0, calls)
        else:
            await asyncio.gather(*(make(task, calls) for task in range(tasks)))
        return _difference(before, _clocks())

    async def check(self, work: str, tasks: int) -> None:
        """Check the values of an operation after its calls. Raises AssertionError if they are wrong."""
        for task in range(tasks):
            if await self._calls.get(work, _key(task)) != _value(task, self._counters[work][task]):
                raise AssertionError(f"at least one {work} had no effect")

    async def fill(self, events: int) -> None:
        """Create the consumer groups, then write the events for `drain`."""
        await Worker(_application(_ignore), self._triggers).prepare()
        numbers = iter(range(events))

        async def write() -> None:
            for number in numbers:
                await self._triggers.set(_EVENTS, f"key-{number % _EVENT_KEYS}", _value(number, number))

        await asyncio.gather(*(write() for _ in range(_WRITERS)))

    async def drain(self, events: int) -> Timing:
        """Time one worker from its first to its last handled event. Raises AssertionError if it handles other events."""
        clocks: list[tuple[float, float]] = []
        handled: set[int] = set()

        async def handler(input: StateTriggerInput) -> None:
            if not clocks:
                clocks.append(_clocks())
            handled.add((input.new_value or {})["n"])
            if len(handled) == events and len(clocks) == 1:
                clocks.append(_clocks())
                worker.stop()

        worker = Worker(_application(handler), self._triggers)
        await worker.run()
        if handled != set(range(events)):
            raise AssertionError(f"the handled events are not the {events} written ones")
        return _difference(*clocks)

    async def _get(self, task: int, calls: int) -> None:
        key = _key(task)
        for _ in range(calls):
            await self._calls.get("get", key)

    async def _set(self, task: int, calls: int) -> None:
        key, value = _key(task), _value(task)
        for value["n"] in range(1, calls + 1):
            await self._calls.set("set", key, value)
        self._counters["set"][task] = calls

    async def _update(self, task: int, calls: int) -> None:
        key = _key(task)
        for _ in range(calls):
            await self._calls.update("update", key, INCREMENT)
        self._counters["update"][task] += calls


def _application(handler: Callable[[StateTriggerInput], Any]) -> Any:
    """Return an application of one step that handles the changes of one scope. Raises ImportError."""
    for name in _APPLICATION_MODULES:
        try:
            kind = import_module(name).Application
        except (ImportError, AttributeError):
            continue
        return kind((step({"name": "Drain", "triggers": [state(scope=_EVENTS)]}).handle(handler),))
    raise ImportError(f"no Application in any of {', '.join(_APPLICATION_MODULES)}")


async def _ignore(input: StateTriggerInput) -> None:
    """Handle nothing; the worker with this handler only creates the groups."""


def _key(task: int) -> str:
    return f"user:{task}"


def _value(index: int, counter: int = 0) -> Value:
    """Return a document of about `_VALUE_BYTES` bytes of JSON with a counter."""
    return {
        "id": index,
        "n": counter,
        "name": f"Ann {index}",
        "active": index % 2 == 0,
        "balance": 12.25 + index,
        "tags": ["new", "paid"],
        "address": {"city": "Köln", "zip": "50667"},
        "notes": "lorem ipsum dolor sit amet " * ((_VALUE_BYTES - 150) // 27),
    }


def _clocks() -> tuple[float, float]:
    """Return the time, and the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def _difference(before: tuple[float, float], after: tuple[float, float]) -> Timing:
    return {"seconds": after[0] - before[0], "cpu": after[1] - before[1]}


async def serve(url: str, namespace: str, loop: str) -> None:
    """Connect and carry out requests until the input ends."""
    # Two namespaces: the consumer groups of `drain` would otherwise keep the events of all other calls.
    async with StateManager(url, namespace=namespace) as calls, StateManager(url, namespace=f"{namespace}-triggers") as triggers:
        commands = Commands(calls, triggers)
        _reply({"ok": {"package": motia_redis.__file__, "loop": loop}})
        # Blocks the loop between two requests, so that a waiting build uses no CPU.
        while line := sys.stdin.readline():
            request: dict[str, Any] = json.loads(line)
            do = getattr(commands, request.pop("do"))
            _reply({"ok": await do(**request)})


def main(url: str, namespace: str) -> int:
    """Run on uvloop if it is installed. Send errors as replies."""
    logging.disable(logging.WARNING)  # the builds warn about servers without persistence, such as this one
    try:
        from uvloop import new_event_loop  # noqa: PLC0415  # optional
    except ImportError:
        factory, loop = None, "asyncio"
    else:
        factory, loop = new_event_loop, "uvloop"
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(url, namespace, loop))
    except Exception as error:  # noqa: BLE001  # the parent reports all errors
        _reply({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _reply(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

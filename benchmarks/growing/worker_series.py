"""Throughput of event handling and of updates by the number of processes.

The events are written once. In each round, after the workers have leased their lanes, copies of them are appended to the streams
in one go, much faster than they are handled.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.common import rounds
from benchmarks.common.work import new_runner
from benchmarks.growing import dataset
from benchmarks.growing.child import SCOPE, STEP, WRITTEN
from benchmarks.growing.probes import WrongOutcome
from benchmarks.growing.series import Line, Series
from benchmarks.growing.workers import Workers
from motia_redis import StateManager
from motia_redis._admin.status import read_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.server import Server

KEYS = 500
VALUE_BYTES = 200
_WRITERS = 64  # tasks that write events
_SETTLE_SECONDS = 0.3  # from the lease of all lanes to waiting for events in all of them
_START_DELAY_SECONDS = 0.2  # from the request to the common start
_TIMEOUT_SECONDS = 60  # for each wait


def by_workers(server: Server, sizes: Sequence[int], times: int, *, events: int, seconds: float) -> Series:
    """Measure handling `events` events, and updates for `seconds`. The cost is wall time per event or call."""
    with new_runner() as runner, Workers(server.url, max(sizes)) as workers:
        state = StateManager(server.url)
        try:
            handling = _Handling(server, runner, workers, state)
            handling.write(events)
            handled = rounds.alternate({str(size): partial(handling.once, size) for size in sizes}, times)
            updates = _Updates(workers)
            updates.make(max(sizes), seconds / 2)  # opens the connections
            updated = rounds.alternate({str(size): partial(updates.once, size, seconds) for size in sizes}, times)
            values = runner.run(state.list(WRITTEN))
        finally:
            runner.run(state.close())
    if (found := sum(value["count"] for value in values)) != updates.made:
        raise WrongOutcome(f"{updates.made} updates made {found} increments")
    lines = [
        Line(name, "µs", 0, {int(size): spent for size, spent in figures.items()})
        for name, figures in (("event handled", handled), ("update", updated))
    ]
    return Series("workers", "processes", lines)


class _Handling:
    """Rounds of handling the same written events."""

    def __init__(self, server: Server, runner: asyncio.Runner, workers: Workers, state: StateManager) -> None:
        self._client = server.client
        self._runner = runner
        self._workers = workers
        self._state = state
        keyspace = runner.run(state.connect())
        self._streams = keyspace.event_streams(SCOPE)
        self._events: list[tuple[bytes, dict[bytes, bytes]]] = []  # stream and fields

    def write(self, events: int) -> None:
        """Write the events, evenly over the keys."""
        self._runner.run(self._write([dataset.name(index % KEYS) for index in range(events)]))
        for stream in self._streams:
            self._events += [(stream, fields) for _, fields in self._client.xrange(stream)]
        if len(self._events) != events:
            raise WrongOutcome(f"{len(self._events)} of {events} events are in the streams")

    def once(self, number: int) -> float:
        """Return the microseconds per event from the first to the last one that `number` workers handle."""
        self._workers.ask(number, do="work")
        try:
            self._wait_for_lanes(number)
            with self._client.pipeline(transaction=False) as pipeline:
                for stream, fields in self._events:
                    pipeline.xadd(stream, fields)
                pipeline.execute()
            return self._wait_for_handlers(number)
        finally:
            self._workers.ask(number, do="stop")

    async def _write(self, keys: list[str]) -> None:
        value = dataset.value(VALUE_BYTES)
        left = iter(keys)

        async def write() -> None:
            for key in left:
                await self._state.set(SCOPE, key, value)

        await asyncio.gather(*(write() for _ in range(_WRITERS)))

    def _wait_for_lanes(self, number: int) -> None:
        """Wait until the workers share the lanes evenly."""
        share = len(self._streams) // number
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            workers = self._runner.run(read_status(self._state)).workers
            if len(workers) == number and all(worker.lanes[STEP] == share for worker in workers):
                time.sleep(_SETTLE_SECONDS)
                return
            time.sleep(0.1)
        raise WrongOutcome(f"{number} workers did not share the lanes evenly within {_TIMEOUT_SECONDS} s")

    def _wait_for_handlers(self, number: int) -> float:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            counts = self._workers.ask(number, do="count")
            handled = int(sum(count["handled"] for count in counts))
            if handled > len(self._events):
                raise WrongOutcome(f"{handled} events handled of {len(self._events)}")
            if handled == len(self._events):
                spent = max(count["last"] for count in counts) - min(count["first"] for count in counts)
                return float(spent) * 1e6 / handled
            time.sleep(0.1)
        raise WrongOutcome(f"{number} workers did not handle {len(self._events)} events within {_TIMEOUT_SECONDS} s")


class _Updates:
    """Rounds of concurrent updates by several processes with many tasks each. `made` counts all calls."""

    def __init__(self, workers: Workers) -> None:
        self.made = 0
        self._workers = workers

    def once(self, number: int, seconds: float) -> float:
        """Return the microseconds per call of `number` processes together. A machine too busy for one call gets longer."""
        while not (in_time := self.make(number, seconds)):
            seconds *= 2
        return seconds * 1e6 / in_time

    def make(self, number: int, seconds: float) -> int:
        """Let `number` processes make calls, and return how many ended in time."""
        start = time.monotonic() + _START_DELAY_SECONDS
        replies = self._workers.ask(number, do="write", start=start, end=start + seconds)
        self.made += sum(reply["made"] for reply in replies)
        return int(sum(reply["in_time"] for reply in replies))

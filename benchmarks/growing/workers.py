"""How fast events are handled, and values updated, by more and more processes.

Every round drains the same events: they are written once, and before each round the step is set back to their beginning, once its
workers hold their lanes and wait.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.common import rounds
from benchmarks.growing import filling
from benchmarks.growing.crew import Crew
from benchmarks.growing.member import SCOPE, STEP, WRITTEN
from benchmarks.growing.probes import WrongOutcome, new_runner
from benchmarks.growing.series import Line, Series
from motia_redis import StateManager
from motia_redis._admin.status import read_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.server import Server

KEYS = 500
VALUE_BYTES = 200
_WRITERS = 64  # tasks that write the events
_KEEPER = "keeper"  # a group that never reads, so that no event is trimmed
_SETTLE = 0.3  # seconds from holding all lanes to waiting for events in all of them
_LEAD = 0.2  # seconds from the order to the common start
_PATIENCE = 60  # seconds for anything that takes one


def by_workers(server: Server, sizes: Sequence[int], times: int, *, events: int, seconds: float) -> Series:
    """Measure draining so many events, and updating for so many seconds; the cost is wall time per event or call."""
    with new_runner() as runner, Crew(server.url, max(sizes)) as crew:
        state = StateManager(server.url)
        try:
            drains = _Drains(server, runner, crew, state)
            drains.write(events)
            handled = rounds.alternate({str(size): partial(drains.once, size) for size in sizes}, times)
            updates = _Updates(crew)
            updates.once(max(sizes), seconds / 2)  # opens the connections
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


class _Drains:
    """Written events, and one drain of them after the other."""

    def __init__(self, server: Server, runner: asyncio.Runner, crew: Crew, state: StateManager) -> None:
        self._client = server.client
        self._runner = runner
        self._crew = crew
        self._state = state
        keyspace = runner.run(state.connect())
        self._streams = keyspace.event_streams(SCOPE)
        # A key in each lane, to wake who waits for it.
        self._wakers = {keyspace.lane(name.encode()): name for name in map(filling.name, range(KEYS))}
        self._written = 0

    def write(self, events: int) -> None:
        """Write the events, evenly over the keys."""
        for stream in self._streams:
            self._client.xgroup_create(stream, _KEEPER, "0", mkstream=True)
        self._runner.run(self._write([filling.name(index % KEYS) for index in range(events)]))

    def once(self, number: int) -> float:
        """Return the microseconds per event from the first to the last one that `number` workers handle."""
        self._crew.tell(number, do="work")
        try:
            self._wait_for_lanes(number)
            for stream in self._streams:
                self._client.xgroup_setid(stream, STEP, "0")
            self._runner.run(self._write(list(self._wakers.values())))
            return self._wait_for_handlers(number)
        finally:
            self._crew.tell(number, do="rest")

    async def _write(self, keys: list[str]) -> None:
        value = filling.value(VALUE_BYTES)
        left = iter(keys)

        async def write() -> None:
            for key in left:
                await self._state.set(SCOPE, key, value)

        await asyncio.gather(*(write() for _ in range(_WRITERS)))
        self._written += len(keys)

    def _wait_for_lanes(self, number: int) -> None:
        """Wait until each worker holds its share."""
        share = len(self._streams) // number
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            workers = self._runner.run(read_status(self._state)).workers
            if len(workers) == number and all(worker.lanes[STEP] == share for worker in workers):
                time.sleep(_SETTLE)
                return
            time.sleep(0.1)
        raise WrongOutcome(f"{number} workers did not share the lanes evenly within {_PATIENCE} s")

    def _wait_for_handlers(self, number: int) -> float:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            tallies = self._crew.tell(number, do="tally")
            handled = int(sum(tally["handled"] for tally in tallies))
            if handled > self._written:
                raise WrongOutcome(f"{handled} events handled of {self._written}")
            if handled == self._written:
                spent = max(tally["last"] for tally in tallies) - min(tally["first"] for tally in tallies)
                return float(spent) * 1e6 / handled
            time.sleep(0.1)
        raise WrongOutcome(f"{number} workers did not handle {self._written} events within {_PATIENCE} s")


class _Updates:
    """Processes that update at the same time, each with many tasks; `made` counts all their calls."""

    def __init__(self, crew: Crew) -> None:
        self.made = 0
        self._crew = crew

    def once(self, number: int, seconds: float) -> float:
        """Return the microseconds per call of `number` processes together."""
        start = time.monotonic() + _LEAD
        answers = self._crew.tell(number, do="write", start=start, end=start + seconds)
        self.made += sum(answer["made"] for answer in answers)
        return seconds * 1e6 / float(sum(answer["in_time"] for answer in answers))

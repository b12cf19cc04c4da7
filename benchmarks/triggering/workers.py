"""Throughput of two workers against one, ours, measured after both have their lanes and all events are written."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.common import rounds
from benchmarks.triggering.contenders import OURS
from benchmarks.triggering.harness import WORK_SECONDS, Report
from benchmarks.triggering.processes import ContenderFailed, Process
from motia_redis import StateManager
from motia_redis._admin.status import read_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.triggering.harness import Harness

_GATED = replace(OURS, options={"gated": True})
_POLL_SECONDS = 0.1


def measure_workers(harness: Harness, events: int, times: int) -> dict[str, Any]:
    """Return the rates of one worker and of two, and two / one."""

    def turn(workers: int) -> Callable[[], float]:
        return lambda: _rate(harness, events, workers)

    rates = rounds.alternate({"one": turn(1), "two": turn(2)}, times)
    return {
        "events": events,
        **{name: rounds.Spread.of(row).as_dict() for name, row in rates.items()},
        "ratio": rounds.ratio(rates["two"], rates["one"]).as_dict(),
    }


def _rate(harness: Harness, events: int, count: int) -> float:
    """Return events per second, from the first handled by any worker to the last. Raises ContenderFailed.

    A lane moves to a new worker only while none of its events is being handled. So the workers lease their lanes first. Then the
    events are written while handlers wait, and then the handlers are released. The workers may have read 512 entries each by
    then, outside of the measured time.
    """
    harness.server.client.flushall()
    harness.write(_GATED, harness.job(_GATED, 0))  # creates the groups
    with ExitStack() as stack:
        # 0 events: the share of a worker is unknown, so it reports on request
        workers = [stack.enter_context(Process(_GATED, "work", harness.job(_GATED, 0))) for _ in range(count)]
        asyncio.run(_settled(harness.server.url, count))
        harness.write(_GATED, harness.job(_GATED, events))
        for worker in workers:
            worker.tell("open")
        deadline = time.monotonic() + WORK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            for worker in workers:
                worker.tell("report")
            reports = [Report.of(worker.expect("report", WORK_SECONDS)) for worker in workers]
            if sum(report.handled for report in reports) >= events:
                break
    if [sum(report.events for report in reports), min(report.events for report in reports) > 0] != [events, True]:
        raise ContenderFailed(f"{count} workers handled {[report.events for report in reports]} of {events} events")
    return events / (max(report.last for report in reports) - min(report.first for report in reports)) * 1e9


async def _settled(url: str, count: int) -> None:
    """Wait until `count` workers share the lanes evenly. Raises ContenderFailed."""
    deadline = time.monotonic() + WORK_SECONDS
    async with StateManager(url) as state:
        while time.monotonic() < deadline:
            status = await read_status(state)
            held = [sum(worker.lanes.values()) for worker in status.workers]
            if len(held) == count and max(held) - min(held) <= 1 and sum(held) == sum(step.lanes for step in status.steps):
                return
            await asyncio.sleep(_POLL_SECONDS)
    raise ContenderFailed(f"{count} workers did not share the lanes within {WORK_SECONDS} s")

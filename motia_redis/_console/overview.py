"""The first page: steps, workers, schedules, memory and findings, as they are now and were in the last minutes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.routing import Route

from motia_redis._admin.doctor import examine
from motia_redis._admin.status import read_status
from motia_redis._admin.stream_sizes import read_stream_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._admin.status import Status
    from motia_redis._console.pages import Console

_FRESH = 2.0  # seconds for which what was read serves all who look
_SAMPLES = 90  # of each step: three minutes at the pace of the page
_RATE_SPAN = 20.0  # seconds over which rates are told: heartbeats come twice a second at most
_WIDTH, _HEIGHT = 120, 24  # of a sparkline


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the page knows of one moment."""

    time: float  #: of `time.monotonic`
    status: Status
    sizes: Mapping[str, int] | None


class Rate(NamedTuple):
    """Say how often the handlers of a step end, per second."""

    handled: float
    failed: float


class Overview:
    """Show the namespace. What was read from Redis is kept, so that many who look cost as one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._lock = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the routes of the page and its parts."""
        return [Route("/", self._page), Route("/overview/now", self._now), Route("/overview/doctor", self._doctor)]

    async def _page(self, request: Request) -> Response:
        return self._console.page(request, "overview.html", **await self._context())

    async def _now(self, request: Request) -> Response:
        return self._console.page(request, "overview_now.html", **await self._context())

    async def _doctor(self, request: Request) -> Response:
        found = await self._console.in_time(examine(self._console.state))
        return self._console.page(request, "overview_doctor.html", found=found)

    async def _context(self) -> dict[str, Any]:
        sample = await self._sample()
        return {
            "status": sample.status,
            "sizes": sample.sizes,
            "lines": {step.name: self._line(step.name) for step in sample.status.steps},
            "rates": {step.name: self._rate(step.name) for step in sample.status.steps},
        }

    async def _sample(self) -> _Sample:
        async with self._lock:
            if not self._samples or time.monotonic() - self._samples[-1].time >= _FRESH:
                state = self._console.state
                reading = asyncio.gather(read_status(state), read_stream_bytes(state))
                status, sizes = await self._console.in_time(reading)
                self._samples.append(_Sample(time.monotonic(), status, sizes))
            return self._samples[-1]

    def _rate(self, step: str) -> Rate | None:
        """Return how often handlers have succeeded and failed in the last seconds; None: it is not known yet."""
        last = self._samples[-1]
        first = next((sample for sample in self._samples if last.time - sample.time <= _RATE_SPAN), last)
        seconds = last.time - first.time
        if seconds <= 0:
            return None
        before, after = (_attempted(sample.status, step) for sample in (first, last))
        known = before.keys() & after.keys()  # a worker that has come or gone meanwhile counts once there are two samples of it
        handled, failed = (sum(max(0, after[each][index] - before[each][index]) for each in known) / seconds for index in (0, 1))
        return Rate(handled, failed)

    def _line(self, step: str) -> str:
        """Return the points of a sparkline of the entries that a step has not handled."""
        counts = [
            next((each.lag + each.pending for each in sample.status.steps if each.name == step), 0) for sample in self._samples
        ]
        highest = max(*counts, 1)
        left = _WIDTH - (len(counts) - 1) * _WIDTH / (_SAMPLES - 1)
        points = [(left + i * _WIDTH / (_SAMPLES - 1), _HEIGHT - 2 - n * (_HEIGHT - 4) / highest) for i, n in enumerate(counts)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _attempted(status: Status, step: str) -> dict[str, tuple[int, int]]:
    """Return what each worker has counted of a step since its start, by worker."""
    counts = {worker.id: worker.attempted.get(step) for worker in status.workers if step in worker.lanes}
    return {worker: (0, 0) if each is None else (each.handled, each.failed) for worker, each in counts.items()}

"""Measurement of one operation at one size: wall time and server time per call."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from benchmarks.common import rounds
from benchmarks.common.failures import BenchmarkFailed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import redis

    Operation = Callable[[str], Awaitable[object]]  # on one key


class WrongOutcome(BenchmarkFailed):
    """An operation had a wrong result, so that its figure has no meaning."""


class Probe:
    """One operation at one size. Calling the probe measures one round of sequential calls and returns microseconds.

    Each call of `operation` gets a random one of `names`. Figures are per item if a call has several `items`. `server` has the
    server time of each round.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        client: redis.Redis,
        operation: Operation,
        names: Sequence[str],
        *,
        calls: int,
        items: int = 1,
    ) -> None:
        self.server: list[float] = []
        self._runner = runner
        self._client = client
        self._operation = operation
        self._names = names
        self._calls = calls
        self._items = items
        self._random = random.Random(7)  # the same names in every run

    def __call__(self) -> float:
        chosen = self._random.choices(self._names, k=self._calls)
        self._client.config_resetstat()
        spent = self._runner.run(self._spend(chosen))
        number = self._calls * self._items
        self.server.append(_server_microseconds(self._client) / number)
        return spent * 1e6 / number

    async def _spend(self, chosen: Sequence[str]) -> float:
        operation = self._operation
        began = time.perf_counter()
        for name in chosen:
            await operation(name)
        return time.perf_counter() - began


def measure(
    probes: Mapping[int, Probe], times: int, *, warm: bool = True
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Measure all sizes in alternation; return wall and server time by size. `warm` adds a first round that is not counted."""
    if warm:
        for probe in probes.values():
            probe()
            probe.server.clear()
    # alternate() takes names
    figures = rounds.alternate({str(size): probe for size, probe in probes.items()}, times)
    return {int(size): spent for size, spent in figures.items()}, {size: probe.server for size, probe in probes.items()}


def _server_microseconds(client: redis.Redis) -> float:
    """Return the time of the most expensive command since `CONFIG RESETSTAT`. A script includes the commands that it calls."""
    return max(float(stats["usec"]) for stats in client.info("commandstats").values())

"""A server with the managers that are measured on it, and the lines that were measured."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.common.work import new_runner
from benchmarks.growing import dataset
from benchmarks.growing.probes import Probe, measure
from benchmarks.growing.series import ITEM_SLACK, SERVER_SLACK, Line
from motia_redis import StateManager

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.common.server import Server
    from benchmarks.growing.probes import Operation

CALLS = 300  # in one round


@contextmanager
def opened(server: Server, times: int) -> Iterator[Harness]:
    """Give a harness, and close its managers at the end. `times`: how many rounds each line is measured."""
    with new_runner() as runner:
        harness = Harness(server, runner, times)
        try:
            yield harness
        finally:
            harness.close()


class Harness:
    """A server, its managers, and the measured lines."""

    def __init__(self, server: Server, runner: Runner, times: int) -> None:
        self.client = server.client
        self.url = server.url
        self.runner = runner
        self.times = times
        self.lines: list[Line] = []
        self._managers: dict[str, StateManager] = {}

    def manager(self, namespace: str = "growth") -> StateManager:
        """Return the manager of a namespace."""
        if namespace not in self._managers:
            self._managers[namespace] = StateManager(self.url, namespace=namespace)
        return self._managers[namespace]

    def fill(self, scopes: Sequence[str], *, keys: int, size: int, namespace: str = "growth") -> tuple[float, float]:
        """Fill scopes; return the seconds and the bytes of memory per key."""
        keyspace = self.runner.run(self.manager(namespace).connect())
        before = self._memory()
        seconds = dataset.fill(self.client, keyspace, scopes, keys=keys, size=size)
        return seconds, (self._memory() - before) / (keys * len(scopes))

    def probe(self, operation: Operation, names: Sequence[str], *, calls: int = CALLS, items: int = 1) -> Probe:
        """Return a probe for this server."""
        return Probe(self.runner, self.client, operation, names, calls=calls, items=items)

    def run(
        self,
        name: str,
        probes: Mapping[int, Probe],
        *,
        limit: float = 0,
        unit: str = "µs",
        warm: bool = True,
    ) -> None:
        """Measure a line and its server time."""
        wall, server = measure(probes, self.times, warm=warm)
        self.lines.append(Line(name, unit, limit, wall))
        slack = SERVER_SLACK if unit == "µs" else ITEM_SLACK
        self.lines.append(Line(f"{name}, server", unit, limit, server, slack))

    def close(self) -> None:
        for manager in self._managers.values():
            self.runner.run(manager.close())

    def _memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

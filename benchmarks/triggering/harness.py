"""Where contenders are measured: one server, emptied before each turn, and what a turn gives."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from benchmarks.triggering.job import Job
from benchmarks.triggering.processes import ContenderFailed, Message, Process
from benchmarks.triggering.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.common.server import Server
    from benchmarks.triggering.contenders import Contender

WRITE_SECONDS = 60
WORK_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker counted: distinct events, calls of handlers, and the times of the first and the last of them."""

    events: int
    handled: int
    first: int
    last: int
    cpu: float
    latencies: list[int]

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return what the meter said."""
        return cls(**{name: value for name, value in message.items() if name != "kind"})

    @property
    def seconds(self) -> float:
        """Seconds from the first handled event to the last."""
        return (self.last - self.first) / 1e9

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    @property
    def microseconds(self) -> float:
        """CPU time of the worker per event."""
        return self.cpu / self.events * 1e6


@dataclass(slots=True)
class Harness:
    """A server and the rivals that had to be left out, with the reason."""

    server: Server
    left_out: dict[str, str] = field(default_factory=dict)

    def job(self, contender: Contender, events: int, **options: Any) -> Job:
        """Return a job at this server in the contender's mode."""
        return Job(self.server.url, events, contender.options | options)

    def write(self, contender: Contender, job: Job) -> None:
        """Have the contender write all events of a job. Raises ContenderFailed."""
        with Process(contender, "write", job) as writer:
            writer.expect("written", WRITE_SECONDS)

    def fill(self, contender: Contender, job: Job) -> Snapshot:
        """Return the server as it is when the contender has written all events. Raises ContenderFailed."""
        self.server.client.flushall()
        self.write(contender, job)
        return Snapshot(self.server.client)

    def work(self, contender: Contender, job: Job) -> Report:
        """Have one worker handle what lies in the server. Raises ContenderFailed."""
        with self.working(contender, job) as report:
            return report

    @contextmanager
    def working(self, contender: Contender, job: Job) -> Iterator[Report]:
        """The same, and the worker lives to the end of the `with`."""
        with Process(contender, "work", job) as worker:
            yield Report.of(worker.expect("report", WORK_SECONDS))

    def attempt(self, contender: Contender, turn: Callable[[], float]) -> float:
        """Return the figure of a turn, or NaN when a rival fails, which is left out from then on.

        Raises ContenderFailed when one that needs no environment of its own fails.
        """
        if contender.name in self.left_out:
            return math.nan
        try:
            return turn()
        except ContenderFailed as error:
            if contender.environment is None:
                raise
            self.left_out[contender.name] = str(error)
            return math.nan


def complete(figures: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return the figures of those that did not fail in any round."""
    return {name: row for name, row in figures.items() if not any(map(math.isnan, row))}

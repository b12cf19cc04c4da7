"""The test harness: one server, flushed before each turn, and the report of a turn."""

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
    """The counts of a worker: distinct events, handler calls, and the times of the first and the last call."""

    events: int
    handled: int
    first: int
    last: int
    cpu: float
    latencies: list[int]

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return the report of a message."""
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
    """A server, and the rivals that are left out, with the reasons."""

    server: Server
    left_out: dict[str, str] = field(default_factory=dict)

    def job(self, contender: Contender, events: int, **options: Any) -> Job:
        """Return a job for this server with the contender's options."""
        return Job(self.server.url, events, contender.options | options)

    def write(self, contender: Contender, job: Job) -> None:
        """Run the contender's writer to its end. Raises ContenderFailed."""
        with Process(contender, "write", job) as writer:
            writer.expect("written", WRITE_SECONDS)

    def fill(self, contender: Contender, job: Job) -> Snapshot:
        """Flush the server, run the writer, and return a snapshot. Raises ContenderFailed."""
        self.server.client.flushall()
        self.write(contender, job)
        return Snapshot(self.server.client)

    def work(self, contender: Contender, job: Job) -> Report:
        """Run one worker until it has handled all events; return its report. Raises ContenderFailed."""
        with self.working(contender, job) as report:
            return report

    @contextmanager
    def working(self, contender: Contender, job: Job) -> Iterator[Report]:
        """Like `work`, but the worker runs until the end of the `with` block."""
        with Process(contender, "work", job) as worker:
            yield Report.of(worker.expect("report", WORK_SECONDS))

    def attempt(self, contender: Contender, turn: Callable[[], float]) -> float:
        """Return the figure of a turn. If a rival fails, return NaN and leave it out from then on.

        Raises ContenderFailed if ours or the bare loop fails.
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
    """Return the figures of the contenders that did not fail in any round."""
    return {name: row for name, row in figures.items() if not any(map(math.isnan, row))}

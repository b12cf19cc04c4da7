"""Measurement of all cases in one configuration (a socket and an event loop). The contenders alternate."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.calling import contenders
from benchmarks.common.children import Child, ChildFailed
from benchmarks.common.rounds import Spread, alternate, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

Case = dict[str, Any]

TASKS = 64
LISTED = 10_000
OURS, PLAIN = "ours", "redis-py"  #: the two contenders of every case
_CHANGING = ", changing"  # behind the name of a contender that writes in the same rounds


@dataclass(frozen=True, slots=True)
class Configuration:
    """The socket and the event loop of a measurement."""

    socket: str
    loop: str
    url: str

    def __str__(self) -> str:
        return f"{self.socket}, {self.loop}"

    def child(self, contender: str) -> Child:
        """Start a contender's process in this configuration."""
        return Child(contender, [sys.executable, "-m", "benchmarks.calling.child", contender, self.loop, self.url])


@dataclass(frozen=True, slots=True)
class Sampling:
    """Number of rounds and length of a turn."""

    rounds: int
    seconds: float  #: approximate length of one turn of one contender


@dataclass(frozen=True, slots=True)
class Samples:
    """A contender's figures in one case, by round: time and CPU time in microseconds per call."""

    times: Sequence[float]
    cpu: Sequence[float]


class Turn:
    """One contender's turn of one operation: returns microseconds per call and records the CPU time per call."""

    def __init__(self, child: Child, work: str, tasks: int, sampling: Sampling) -> None:
        self.cpu: list[float] = []
        self._child, self._tasks = child, tasks
        self._order = {"do": "list_all"} if work == "list" else {"do": "run", "work": work, "tasks": tasks}
        self._calls = self._calibrate(sampling.seconds)

    def __call__(self) -> float:
        spent = self._child.ask(calls=self._calls, **self._order)
        done = self._calls * self._tasks
        self.cpu.append(spent["cpu"] / done * 1e6)
        return float(spent["seconds"]) / done * 1e6

    def _calibrate(self, seconds: float) -> int:
        """Return how many calls of each task take about `seconds`. This also warms up the contender."""
        calls = 1
        while (spent := float(self._child.ask(calls=calls, **self._order)["seconds"])) < seconds / 4:
            calls *= 4
        return max(1, round(calls * seconds / spent))


class Contention:
    """One contender's turn of contended increments by tasks of two processes. Times are per successful increment."""

    def __init__(self, children: Sequence[Child], seconds: float) -> None:
        self.cpu: list[float] = []
        self._children, self._seconds = children, seconds
        self._contend(seconds / 4)  # opens the connections

    def __call__(self) -> float:
        done, cpu, seconds = self._contend(self._seconds)
        self.cpu.append(cpu / done * 1e6)
        return seconds / done * 1e6

    def _contend(self, seconds: float) -> tuple[int, float, float]:
        """Return the number of successes, CPU seconds and seconds. Raises ChildFailed if an increment was lost."""
        first = self._children[0]
        before = first.ask("counter")
        for child in self._children:
            child.tell("contend", tasks=TASKS // len(self._children), seconds=seconds)
        parts = [child.wait() for child in self._children]
        done = sum(part["done"] for part in parts)
        counted = first.ask("counter") - before
        if counted != done:
            raise ChildFailed(first.contender, f"{done} increments succeeded, but the counter grew by {counted}")
        # At least 1, to avoid a division by zero if no increment succeeded.
        return max(done, 1), sum(part["cpu"] for part in parts), max(part["seconds"] for part in parts)


@dataclass(slots=True)
class Harness:
    """The child processes of one configuration, by contender, and why contenders were left out."""

    configuration: Configuration
    children: dict[str, Child] = field(default_factory=dict)
    second_processes: dict[str, Child] = field(default_factory=dict)  #: the second processes, for contention
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def enter(cls, stack: ExitStack, configuration: Configuration) -> Harness:
        """Start all contenders; the stack stops them. Raises ChildFailed if a contender of every case does not start."""
        started = cls(configuration)
        for name in contenders.ALL:
            started.children[name] = stack.enter_context(configuration.child(name))
        for name in (OURS, PLAIN):
            started.second_processes[name] = stack.enter_context(configuration.child(name))
            started.second_processes[name].wait()
        for name, child in list(started.children.items()):
            try:
                child.wait()
                child.ask("prepare", tasks=TASKS)
            except ChildFailed as error:
                if name in (OURS, PLAIN):
                    raise
                started.left_out[name] = error.why
                del started.children[name]
        return started

    def gets(self, tasks: int, sampling: Sampling) -> list[Case]:
        """Measure reads."""
        return [self._case("get", tasks, _take_turns(self._turns("read", tasks, sampling), sampling))]

    def sets(self, tasks: int, sampling: Sampling) -> list[Case]:
        """Measure writes and, in the same rounds, changes. Our changes are also compared with the writes of the others."""
        writes, changes = self._turns("write", tasks, sampling), self._turns("change", tasks, sampling)
        samples = _take_turns({**writes, **{f"{name}{_CHANGING}": turn for name, turn in changes.items()}}, sampling)
        changed = {name: samples.pop(f"{name}{_CHANGING}") for name in changes}
        plain = {name: sample for name, sample in samples.items() if "read" in contenders.ALL[name].works}
        return [self._case("set", tasks, samples), self._case("update", tasks, {**plain, **changed})]

    def listing(self, sampling: Sampling) -> list[Case]:
        """Measure listing all values of a scope. Raises AssertionError if the contenders list different values."""
        if self.children[OURS].ask("digest") != self.children[PLAIN].ask("digest"):
            raise AssertionError("ours and redis-py listed different values")
        samples = _take_turns({name: Turn(self.children[name], "list", 1, sampling) for name in (OURS, PLAIN)}, sampling)
        return [self._case("list", 1, samples)]

    def contention(self, sampling: Sampling) -> list[Case]:
        """Measure increments of one member by tasks of two processes."""
        turns = {
            name: Contention((self.children[name], partner), 2 * sampling.seconds)
            for name, partner in self.second_processes.items()
        }
        return [self._case("contended increment", TASKS, _take_turns(turns, sampling))]

    def fill(self) -> None:
        """Write the values for `list`. They stay for the other configurations of the same server."""
        for name in (OURS, PLAIN):
            self.children[name].ask("fill", count=LISTED)

    def _turns(self, work: str, tasks: int, sampling: Sampling) -> dict[str, Turn]:
        """Return the turns of those whose `work` is measured. With one task these are only ours and redis-py."""
        return {
            name: Turn(child, work, tasks, sampling)
            for name, child in self.children.items()
            if work in contenders.ALL[name].works and (tasks > 1 or name in (OURS, PLAIN))
        }

    def _case(self, work: str, tasks: int, samples: Mapping[str, Samples]) -> Case:
        """Return a case: time and CPU time in microseconds per call, ratios ours / rival, and speedups rival / ours."""
        ours, rivals = samples[OURS], {name: sample for name, sample in samples.items() if name != OURS}
        return {
            "work": work,
            "tasks": tasks,
            "socket": self.configuration.socket,
            "loop": self.configuration.loop,
            "times": {name: Spread.of(sample.times).as_dict() for name, sample in samples.items()},
            "cpu": {name: Spread.of(sample.cpu).as_dict() for name, sample in samples.items()},
            "ratios": {name: ratio(ours.times, sample.times).as_dict() for name, sample in rivals.items()},
            "speedups": {name: ratio(sample.times, ours.times).as_dict() for name, sample in rivals.items()},
            "cpu_ratios": {name: ratio(ours.cpu, sample.cpu).as_dict() for name, sample in rivals.items()},
        }


def _take_turns(turns: Mapping[str, Turn | Contention], sampling: Sampling) -> dict[str, Samples]:
    times = alternate(turns, sampling.rounds)
    return {name: Samples(times[name], turn.cpu) for name, turn in turns.items()}

"""The workloads, and their measurement in rounds in which base, head and base again alternate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.common.rounds import Spread, alternate, ratio
from benchmarks.common.server import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.common.children import Child

Case = dict[str, Any]

#: `AGAIN` is a second process of the base. Its difference from the first one is noise, including that of a new process.
BASE, HEAD, AGAIN = "base", "head", "base again"
#: Added to the spread of the A/A runs: smaller slowdowns are not reported.
TOLERANCE = 0.02
#: The names for `--only`, and their operations.
WORKS = {"calls": ("get", "set"), "update": ("update",), "triggers": ("drain",)}


@dataclass(frozen=True, slots=True)
class Turn:
    """The figures of one turn, in microseconds per call or event."""

    time: float
    client: float  #: CPU of the process
    server: float  #: CPU of Redis


@dataclass(frozen=True, slots=True)
class Calls:
    """A workload of concurrent tasks that each make one call after the other."""

    work: str
    tasks: int
    seconds: float  #: approximate length of a turn

    def __str__(self) -> str:
        return f"{self.work}, {self.tasks} {'task' if self.tasks == 1 else 'tasks'}"

    def prepare(self, children: Sequence[Child]) -> dict[str, Any]:
        """Warm up the processes; return the request of a turn, with the same number of calls for each process."""
        for child in children:
            child.ask("prepare", tasks=self.tasks)
        request: dict[str, Any] = {"do": "run", "work": self.work, "tasks": self.tasks}
        calls = 1
        while (spent := float(children[0].ask(calls=calls, **request)["seconds"])) < self.seconds / 4:
            calls *= 4
        for child in children[1:]:
            child.ask(calls=calls, **request)
        return {**request, "calls": max(1, round(calls * self.seconds / spent))}

    def before(self, child: Child) -> None:
        """Do nothing: the values exist."""

    def count(self, request: Mapping[str, Any]) -> int:
        """Return the number of calls of a request."""
        return int(request["calls"]) * self.tasks

    def check(self, child: Child) -> None:
        """Check that all calls had their effect. Raises ChildFailed."""
        child.ask("check", work=self.work, tasks=self.tasks)


@dataclass(frozen=True, slots=True)
class Drain:
    """A workload of one worker that handles events written earlier."""

    events: int
    work: str = "drain"
    tasks: None = None

    def __str__(self) -> str:
        return f"{self.work}, {self.events:,} events"

    def prepare(self, children: Sequence[Child]) -> dict[str, Any]:
        """Warm up each process with one turn; return the request of a turn."""
        request: dict[str, Any] = {"do": "drain", "events": self.events}
        for child in children:
            self.before(child)
            child.ask(**request)
        return request

    def before(self, child: Child) -> None:
        """Write the events of a turn."""
        child.ask("fill", events=self.events)

    def count(self, request: Mapping[str, Any]) -> int:
        """Return the number of events of a request."""
        return int(request["events"])

    def check(self, child: Child) -> None:
        """Do nothing: each turn checks itself."""


Workload = Calls | Drain


def workloads(only: Sequence[str], tasks: Sequence[int], *, seconds: float, events: int) -> list[Workload]:
    """Return the selected workloads."""
    found: list[Workload] = [
        Calls(work, number, seconds) for name in only if name != "triggers" for work in WORKS[name] for number in tasks
    ]
    return [*found, Drain(events)] if "triggers" in only else found


def measure(workload: Workload, children: Mapping[str, Child], client: Any, pairs: int) -> Case:
    """Measure a workload. `client` reads the CPU time of the server before and after each turn."""
    turns: dict[str, list[Turn]] = {name: [] for name in children}
    request = workload.prepare(list(children.values()))
    count = workload.count(request)

    def take(name: str) -> float:
        workload.before(children[name])
        before = cpu_seconds(client)
        spent = children[name].ask(**request)
        server = cpu_seconds(client) - before
        turn = Turn(*(float(each) / count * 1e6 for each in (spent["seconds"], spent["cpu"], server)))
        turns[name].append(turn)
        return turn.time

    alternate({name: partial(take, name) for name in children}, pairs)
    for child in children.values():
        workload.check(child)
    return case(workload.work, workload.tasks, count, turns)


def case(work: str, tasks: int | None, count: int, turns: Mapping[str, Sequence[Turn]]) -> Case:
    """Return a case: microseconds per call or event by build, and the ratios of each round."""
    parts = {part: {name: [getattr(turn, part) for turn in row] for name, row in turns.items()} for part in Turn.__slots__}
    times = parts["time"]
    return {
        "work": work,
        "tasks": tasks,
        "per turn": count,
        **{part: {name: Spread.of(row).as_dict() for name, row in rows.items()} for part, rows in parts.items()},
        "ratio": ratio(times[HEAD], times[BASE]).as_dict(),
        "A/A": ratio(times[BASE], times[AGAIN]).as_dict(),
        "rounds": parts,
    }


def spread(found: Case) -> float:
    """Return the larger distance of the two quartiles of the A/A ratios from 1."""
    return max(float(found["A/A"]["high"]), 1 / float(found["A/A"]["low"])) - 1


def limit(found: Case) -> float:
    """Return the largest ratio head / base that is not reported as slower: 1 + A/A spread + `TOLERANCE`."""
    return 1 + spread(found) + TOLERANCE

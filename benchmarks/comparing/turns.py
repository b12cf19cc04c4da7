"""What is measured: each workload in rounds, in which base, head and base again take turns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.common.rounds import Spread, alternate, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.common.children import Child

Case = dict[str, Any]

#: `AGAIN` is a second process of the base: what it differs from the first by is noise, that of a new process included.
BASE, HEAD, AGAIN = "base", "head", "base again"
#: Added to the spread of the A/A runs: a slowdown of less is not looked for.
TOLERANCE = 0.02
#: The part of a name in `--only`, and its works.
WORKS = {"calls": ("get", "set"), "update": ("update",), "triggers": ("drain",)}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process spent on one turn, in microseconds per call or event."""

    time: float
    client: float  #: CPU of the process
    server: float  #: CPU of Redis


@dataclass(frozen=True, slots=True)
class Calls:
    """A workload of so many tasks that make one call after the other."""

    work: str
    tasks: int
    seconds: float  #: of a turn, about

    def __str__(self) -> str:
        return f"{self.work}, {self.tasks} {'task' if self.tasks == 1 else 'tasks'}"

    def prepare(self, children: Sequence[Child]) -> dict[str, Any]:
        """Warm the processes up; return what to ask for in a turn: the same number of calls of each."""
        for child in children:
            child.ask("prepare", tasks=self.tasks)
        order: dict[str, Any] = {"do": "run", "work": self.work, "tasks": self.tasks}
        calls = 1
        while (spent := float(children[0].ask(calls=calls, **order)["seconds"])) < self.seconds / 4:
            calls *= 4
        for child in children[1:]:
            child.ask(calls=calls, **order)
        return {**order, "calls": max(1, round(calls * self.seconds / spent))}

    def before(self, child: Child) -> None:
        """Do nothing: all is there."""

    def count(self, order: Mapping[str, Any]) -> int:
        """Return how many calls an order makes."""
        return int(order["calls"]) * self.tasks

    def check(self, child: Child) -> None:
        """Make sure that all calls were done. Raises ChildFailed."""
        child.ask("check", work=self.work, tasks=self.tasks)


@dataclass(frozen=True, slots=True)
class Drain:
    """A workload of one worker that handles events written before."""

    events: int
    work: str = "drain"
    tasks: None = None

    def __str__(self) -> str:
        return f"{self.work}, {self.events:,} events"

    def prepare(self, children: Sequence[Child]) -> dict[str, Any]:
        """Warm the processes up by a whole turn; return what to ask for in a turn."""
        order: dict[str, Any] = {"do": "drain", "events": self.events}
        for child in children:
            self.before(child)
            child.ask(**order)
        return order

    def before(self, child: Child) -> None:
        """Write the events of a turn."""
        child.ask("fill", events=self.events)

    def count(self, order: Mapping[str, Any]) -> int:
        """Return how many events an order handles."""
        return int(order["events"])

    def check(self, child: Child) -> None:
        """Do nothing: each turn checks itself."""


Workload = Calls | Drain


def workloads(only: Sequence[str], tasks: Sequence[int], *, seconds: float, events: int) -> list[Workload]:
    """Return the workloads that were asked for."""
    found: list[Workload] = [
        Calls(work, number, seconds) for name in only if name != "triggers" for work in WORKS[name] for number in tasks
    ]
    return [*found, Drain(events)] if "triggers" in only else found


def measure(workload: Workload, children: Mapping[str, Child], client: Any, pairs: int) -> Case:
    """Measure a workload; `client` is connected to the server, whose CPU time is asked for around each turn."""
    turns: dict[str, list[Turn]] = {name: [] for name in children}
    order = workload.prepare(list(children.values()))
    count = workload.count(order)

    def take(name: str) -> float:
        workload.before(children[name])
        before = _server_cpu(client)
        spent = children[name].ask(**order)
        server = _server_cpu(client) - before
        turn = Turn(*(float(each) / count * 1e6 for each in (spent["seconds"], spent["cpu"], server)))
        turns[name].append(turn)
        return turn.time

    alternate({name: partial(take, name) for name in children}, pairs)
    for child in children.values():
        workload.check(child)
    return case(workload.work, workload.tasks, count, turns)


def case(work: str, tasks: int | None, count: int, turns: Mapping[str, Sequence[Turn]]) -> Case:
    """Return what turns come to: microseconds per call or event, by build, and ratios taken round by round."""
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
    """Return how far the quartiles of the A/A ratios lie from 1, the farther one."""
    return max(float(found["A/A"]["high"]), 1 / float(found["A/A"]["low"])) - 1


def limit(found: Case) -> float:
    """Return the ratio of head to base that is still within the noise: A/A spread plus `TOLERANCE`."""
    return 1 + spread(found) + TOLERANCE


def _server_cpu(client: Any) -> float:
    """Return the CPU seconds that the server has used, all threads."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

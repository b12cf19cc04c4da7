"""The goals for triggers, and verdicts on a result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common.goals import Verdict
from benchmarks.triggering.contenders import BARE, OURS
from benchmarks.triggering.latencies import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Iterator

Result = dict[str, Any]
Judged = tuple[str, Verdict]

EVENTS_PER_SECOND = 30_000
TIMES_BEST_RIVAL = 10.0
BARE_LOOP = 0.35
TWO_WORKERS = 1.8
WHERE = 3.0
SERVER_TIME = 3.5
STEPS = 1.0
LATENCY = {"p50": 1.2, "p99": 1.0}


def judge(result: Result) -> dict[str, Verdict]:
    """Return the verdicts on all measured goals, by the description of the goal."""
    return dict([*_throughput(result["throughput"]), *_own(result), *_latencies(result["latencies"])])


def _throughput(rows: list[Result]) -> Iterator[Judged]:
    ours = next(row for row in rows if row["name"] == OURS.name)
    yield f"one worker handles {EVENTS_PER_SECOND:,} events a second", _least(ours["rate"], EVENTS_PER_SECOND)
    rivals = [row for row in rows if row["one by one"] and row["name"] != OURS.name]
    if rivals:
        best = min(rivals, key=lambda row: float(row["ratio"]["median"]))
        yield f"10 times the best rival that delivers one by one ({best['name']})", _least(best["ratio"], TIMES_BEST_RIVAL)
    for bare in [row for row in rows if row["name"] == BARE.name]:
        yield f"{BARE_LOOP} of the rate of the bare loop", _least(bare["ratio"], BARE_LOOP)


def _own(result: Result) -> Iterator[Judged]:
    yield f"two workers handle {TWO_WORKERS} times what one does", _least(result["workers"]["ratio"], TWO_WORKERS)
    yield "three times the rate where a `where` filters 99 % out", _least(result["condition"]["ratio of where"], WHERE)
    if found := result["server time"]:
        goal = f"server time of an event at most {SERVER_TIME} times the bare loop's"
        yield goal, _most(found["ratio"]["commands"], SERVER_TIME)
    many = max(result["steps"], key=lambda row: int(row["steps"]))
    goal = f"the cost of a step and event grows no faster than linearly ({many['steps']} steps / 1)"
    yield goal, _most(many["ratio"], STEPS)


def _latencies(rows: list[Result]) -> Iterator[Judged]:
    rivals = [row for row in rows if row["name"] not in (OURS.name, BARE.name)]
    for part in PERCENTILES if rivals else ():
        best = max(rivals, key=lambda row: float(row["ratio"][part]["median"]))
        yield f"latency, {part}: of the best rival's ({best['name']})", _most(best["ratio"][part], LATENCY[part])


def _least(spread: dict[str, float], limit: float) -> Verdict:
    return Verdict(spread["median"], limit, at_least=True)


def _most(spread: dict[str, float], limit: float) -> Verdict:
    return Verdict(spread["median"], limit)

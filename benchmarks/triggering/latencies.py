"""Latency from the call that sends an event to its handler in another process, at a steady rate."""

from __future__ import annotations

from collections import defaultdict
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.common import rounds
from benchmarks.triggering.child import RATE
from benchmarks.triggering.contenders import OURS
from benchmarks.triggering.harness import WORK_SECONDS, Report, complete
from benchmarks.triggering.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.triggering.contenders import Contender
    from benchmarks.triggering.harness import Harness

PERCENTILES = ("p50", "p99")
_WARM_UP = 20  # uncounted events at the start of a turn


def measure_latencies(harness: Harness, contenders: Sequence[Contender], seconds: float, times: int) -> list[dict[str, Any]]:
    """Return a row per contender: milliseconds at p50 and p99 of each round, and ours / rival."""
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in PERCENTILES}

    def turn(contender: Contender) -> Callable[[], float]:
        def take() -> float:
            p50, p99 = _percentiles(_latencies(harness, contender, int(seconds * RATE)))
            found["p99"][contender.name].append(p99)
            return p50

        return lambda: harness.attempt(contender, take)

    p50 = complete(rounds.alternate({contender.name: turn(contender) for contender in contenders}, times))
    found["p50"].update(p50)
    return [
        {
            "name": name,
            **{part: rounds.Spread.of(found[part][name]).as_dict() for part in PERCENTILES},
            "ratio": {part: rounds.ratio(found[part][OURS.name], found[part][name]).as_dict() for part in PERCENTILES},
        }
        for name in p50
    ]


def _latencies(harness: Harness, contender: Contender, events: int) -> list[float]:
    """Return the milliseconds of each event of one turn. Raises ContenderFailed."""
    harness.server.client.flushall()
    job = harness.job(contender, events + _WARM_UP, stamped=True)
    # The writer starts first, because some workers create their group at the end of the stream. It pings until a worker is ready.
    with Process(contender, "pace", job) as writer, Process(contender, "work", job) as worker:
        worker.expect("ready", WORK_SECONDS)
        writer.tell("start")
        report = Report.of(worker.expect("report", events / RATE + WORK_SECONDS))
    return [nanoseconds / 1e6 for nanoseconds in report.latencies[_WARM_UP:]]


def _percentiles(latencies: list[float]) -> tuple[float, float]:
    cuts = quantiles(latencies, n=100, method="inclusive")
    return cuts[49], cuts[98]

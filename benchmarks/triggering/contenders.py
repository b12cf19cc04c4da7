"""The contenders: ours, the bare loop and the rivals, each with its environment and settings."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.rivals import Environment

#: Environments with their requirements. They contain hiredis, uvloop and orjson if the library can use them.
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("taskiq", ("taskiq", "taskiq-redis", "hiredis", "uvloop", "orjson")),
        Environment("faststream", ("faststream[redis]", "hiredis", "uvloop", "orjson")),
        Environment("huey", ("huey", "redis", "hiredis")),
        Environment("dramatiq", ("dramatiq[redis]", "hiredis", "orjson")),
        Environment("bullmq", ("bullmq", "hiredis", "uvloop")),
        Environment("streaq", ("streaq", "hiredis", "uvloop")),
        Environment("celery", ("celery[redis]", "hiredis")),
        Environment("arq", ("arq", "hiredis", "uvloop")),
    )
}


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the tables. `adapter` is a module of `adapters`."""

    name: str
    adapter: str
    events: int  #: events of a throughput turn: about a second of work, at most 20,000
    options: dict[str, Any] = field(default_factory=dict)
    environment: Environment | None = None  #: None: the environment of the benchmark
    variables: dict[str, str] = field(default_factory=dict)  #: environment variables of its processes
    settings: str = ""  #: description for the tables
    one_by_one: bool = True  #: whether its handler gets single, decoded events
    latency: bool = False  #: whether its latency is measured
    quick: bool = False  #: whether it takes part in `--quick`

    @property
    def python(self) -> Path:
        """The interpreter. Raises NotInstalled."""
        return self.environment.python if self.environment else Path(sys.executable)


OURS = Contender("ours", "ours", 20_000, settings="default guarantees, `Worker` on uvloop", latency=True, quick=True)
BARE = Contender(
    "bare loop",
    "bare",
    20_000,
    settings="`XREADGROUP COUNT 100`, `XACK` per batch, nothing decoded",
    one_by_one=False,
    latency=True,
    quick=True,
)
BARE_DECODING = Contender(
    "bare loop, decoding", "bare", 20_000, {"decode": True}, settings="the same, old and new value decoded", one_by_one=False
)


def _rival(name: str, adapter: str, events: int, settings: str, **more: Any) -> Contender:
    return Contender(name, adapter, events, environment=ENVIRONMENTS[adapter], settings=settings, **more)


RIVALS = (
    _rival(
        "faststream, batch",
        "faststream",
        20_000,
        "stream, group, `batch=True`, 100 records",
        options={"batch": True},
        one_by_one=False,
    ),
    _rival(
        "dramatiq",
        "dramatiq",
        6000,
        "4 threads, prefetch 500, orjson",
        variables={"dramatiq_queue_prefetch": "500"},
        quick=True,
    ),
    _rival("faststream", "faststream", 4000, "stream, group, 100 records, no validation", latency=True),
    _rival("taskiq, stream", "taskiq", 4000, "`RedisStreamBroker`, 100 entries", options={"broker": "stream"}, latency=True),
    _rival("taskiq, list", "taskiq", 3000, "`ListQueueBroker`: no acknowledgement", options={"broker": "list"}),
    _rival("huey", "huey", 3000, "`RedisHuey`, 2 threads, no results; no acknowledgement", latency=True, quick=True),
    _rival("bullmq", "bullmq", 2000, "concurrency 50, finished jobs removed", latency=True),
    _rival("streaq", "streaq", 1500, "concurrency 64, no results", latency=True),
    _rival(
        "celery",
        "celery",
        1500,
        "pool solo, no results",
    ),
    _rival("arq, tuned", "arq", 1500, "50 jobs at once, poll every 1 ms, no results", options={"tuned": True}),
    _rival("arq", "arq", 300, "defaults, no results"),
)

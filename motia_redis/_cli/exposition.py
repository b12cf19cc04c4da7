"""Write the numbers of this process, and of the namespace, as Prometheus reads them. Imported only with `--metrics`."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from motia_redis._admin.status import read_status
from motia_redis._admin.stream_sizes import read_stream_bytes
from motia_redis._version import __version__
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from motia_redis._admin.status import Status
    from motia_redis._metrics import Histogram, Metrics
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.worker import Worker

_log = logging.getLogger("motia_redis")

_FRESH = 5.0  # seconds for which what was read from Redis is used again
_WAIT = 2.0  # seconds that a scrape waits for Redis; the numbers of this process are told then
_LATE = 5.0  # seconds after its time at which a schedule is late, as `motia-redis status` says it

_PREFIX = "motia_redis_"
_SPACE = "redis_namespace"  # not `namespace`, which Kubernetes' service discovery gives to each target


class Exposition:
    """Collect for one process. `namespace_facts`: read those of the whole namespace from Redis, too."""

    def __init__(self, metrics: Metrics, state: StateManager, worker: Worker | None) -> None:
        self._state = state
        self._has_worker = worker is not None
        self._facts: _Facts | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._has_failed = False
        self._collector = _Collector(metrics, state.namespace, worker)
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)

    async def write(self) -> tuple[str, bytes]:
        """Return the type and the text. The text is made in a thread, so that handlers go on."""
        if self._has_worker:
            await self._read()
        self._collector.facts = self._facts
        self._collector.observe()
        return CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, self._registry)

    async def aclose(self) -> None:
        """End what still reads."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Read what only Redis knows, unless it is fresh. A Redis that is away holds up nobody."""
        if self._reading is None and time.monotonic() - self._read_at >= _FRESH:
            self._reading = asyncio.create_task(self._read_facts())
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_WAIT)
        if self._reading is not None:
            self._facts = None  # old numbers would hide that Redis is away

    async def _read_facts(self) -> None:
        began = time.monotonic()
        try:
            status, sizes = await asyncio.gather(read_status(self._state), read_stream_bytes(self._state))
            self._facts = _Facts(status, sizes, time.monotonic() - began)
            self._has_failed = False
        except StateError as error:
            self._facts = None
            if not self._has_failed:
                _log.warning("metrics: the numbers of the namespace cannot be read: %s", error)
            self._has_failed = True
        finally:
            self._read_at = time.monotonic()
            self._reading = None


class _Facts:
    """Hold what was read from Redis at one moment."""

    def __init__(self, status: Status, sizes: Mapping[str, int] | None, seconds: float) -> None:
        self.status = status
        self.sizes = sizes
        self.seconds = seconds


class _Collector(Collector):
    """Make families of the plain numbers."""

    def __init__(self, metrics: Metrics, namespace: str, worker: Worker | None) -> None:
        self.facts: _Facts | None = None
        self._metrics = metrics
        self._namespace = namespace
        self._worker = worker
        self._watchers = 0
        self._lanes: Mapping[str, int] = {}
        self._silence = 0.0

    def observe(self) -> None:
        """Note what only the event loop may look at."""
        self._watchers = self._metrics.watchers
        if self._worker is not None:
            self._lanes = Counter(self._worker.held_lanes())
            self._silence = self._worker.silence

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        yield InfoMetricFamily(
            _PREFIX + "build",
            "The library, the Python and the namespace of this process.",
            {"version": __version__, "python": platform.python_version(), _SPACE: self._namespace},
        )
        yield from self._calls()
        yield from self._steps()
        if self._worker is not None:
            yield from self._of_worker()
            yield _gauge("redis_up", "1 if the numbers of the namespace could be read from Redis.", float(self.facts is not None))
        if self.facts is not None:
            yield from _of_namespace(self.facts, self._namespace)

    def _calls(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _histogram(
            "call_duration_seconds", "Duration of calls that succeeded, repetitions included.", "operation", metrics.calls
        )
        yield _counter("changes_total", "Changes of keys that were applied.", "operation", metrics.changes)
        yield _counter("call_retries_total", "Attempts at calls after the first one.", "operation", metrics.retries)
        yield _counter("calls_unavailable_total", "Calls that raised StateUnavailable.", "operation", metrics.unavailable)
        conflicts = CounterMetricFamily(_PREFIX + "conflicts", "Changes that another change came before: RevisionConflict.")
        conflicts.add_metric([], metrics.conflicts)
        yield conflicts
        expiries = CounterMetricFamily(_PREFIX + "expiries", "Values that this process let expire.")
        expiries.add_metric([], metrics.expiries)
        yield expiries
        yield _gauge("watchers", "Watches and mirrors that are open in this process.", self._watchers)

    def _steps(self) -> Iterator[Metric]:
        steps = sorted(self._metrics.steps.items())
        events = CounterMetricFamily(
            _PREFIX + "events",
            "Outcomes of attempts at events: handled, failed (another attempt follows), dead_letter.",
            labels=["step", "outcome"],
        )
        running = GaugeMetricFamily(_PREFIX + "handlers_running", "Handlers that run now.", labels=["step"])
        for name, counts in steps:
            events.add_metric([name, "handled"], counts.handled)
            events.add_metric([name, "failed"], counts.failed)
            events.add_metric([name, "dead_letter"], counts.dead_letters)
            running.add_metric([name], counts.running)
        yield events
        yield running
        durations = {name: counts.durations for name, counts in steps}
        yield _histogram("handler_duration_seconds", "Duration of handlers, failed ones included.", "step", durations)

    def _of_worker(self) -> Iterator[Metric]:
        lanes = GaugeMetricFamily(_PREFIX + "worker_lanes_held", "Lanes that this worker holds.", labels=["step"])
        for name in sorted({*self._metrics.steps, *self._lanes}):
            lanes.add_metric([name], self._lanes.get(name, 0))
        yield lanes
        yield _gauge("worker_heartbeat_age_seconds", "Time since the last heartbeat that Redis answered.", self._silence)


def _of_namespace(facts: _Facts, namespace: str) -> Iterator[Metric]:
    """Return what is the same in all processes of the namespace."""
    status = facts.status

    def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(_PREFIX + name, text, labels=[_SPACE])
        family.add_metric([namespace], value)
        return family

    def of_steps(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(_PREFIX + name, text, labels=[_SPACE, "step"])
        for step, value in values.items():
            family.add_metric([namespace, step], value)
        return family

    steps = {step.name: step for step in status.steps}
    waits = {name: [each.next_in for each in step.schedules if each.next_in is not None] for name, step in steps.items()}
    yield of_steps(
        "step_oldest_unhandled_age_seconds",
        "Age of the oldest event that the step has not handled; 0: there is none.",
        {name: step.oldest_age or 0.0 for name, step in steps.items()},
    )
    yield of_steps(
        "step_entries_behind",
        "Entries that the step has not read or not handled; at most 10,000 of a lane are counted.",
        {name: step.lag + step.pending for name, step in steps.items()},
    )
    yield of_steps(
        "step_entries_pending",
        "Of the entries behind, those that were read: they run, or wait for their key or a retry.",
        {name: step.pending for name, step in steps.items()},
    )
    yield of_steps("step_lanes", "Lanes of the step.", {name: step.lanes for name, step in steps.items()})
    yield of_steps(
        "step_lanes_held", "Lanes of the step that a live worker holds.", {name: step.lanes_held for name, step in steps.items()}
    )
    yield of_steps(
        "step_lanes_unwanted",
        "Lanes that no live version of the step wants.",
        {name: step.lanes_unwanted for name, step in steps.items()},
    )
    yield of_steps(
        "step_paused", "1 if the step is paused.", {name: float(s.paused_for is not None) for name, s in steps.items()}
    )
    yield of_steps(
        "step_keys_failing",
        "Keys whose handler has failed three times or more, and is tried again.",
        {name: step.keys_failing for name, step in steps.items()},
    )
    yield of_steps("step_dead_letters", "Dead letters of the step.", {name: step.dead_letters for name, step in steps.items()})
    yield of_steps(
        "step_versions", "Versions of the step that live workers run.", {name: len(step.versions) for name, step in steps.items()}
    )
    yield of_steps(
        "step_schedules", "Schedules of the step's cron triggers.", {name: len(s.schedules) for name, s in steps.items()}
    )
    yield of_steps(
        "step_schedules_due",
        "Schedules whose time has come.",
        {name: sum(w <= 0 for w in found) for name, found in waits.items()},
    )
    yield of_steps(
        "step_schedules_late",
        "Schedules that should have fired more than 5 s ago.",
        {name: sum(wait < -_LATE for wait in found) for name, found in waits.items()},
    )
    yield gauge("workers", "Live workers.", len(status.workers))
    yield gauge("workers_silent", "Workers that stopped without leaving: paused, cut off, or killed.", len(status.silent))
    yield gauge("delayed_messages", "Delayed messages that wait for their time.", status.delayed)
    yield gauge(
        "due_overdue_seconds",
        "Time since the first thing fell due that nobody has sent, deleted or fired yet.",
        max(0.0, -(status.next_due_in or 0.0)),
    )
    yield gauge("unread_topic_messages", "Messages in topics that no step consumes.", sum(t.messages for t in status.topics))
    yield gauge("dropped_entries", "Unhandled entries and dead letters that a cap has removed.", sum(status.dropped.values()))
    if facts.sizes is not None:
        sizes = GaugeMetricFamily(
            _PREFIX + "stream_bytes", "Memory of the streams, by what they hold.", labels=[_SPACE, "stream"]
        )
        for kind, size in facts.sizes.items():
            sizes.add_metric([namespace, kind], size)
        yield sizes
    yield gauge("status_read_duration_seconds", "How long the last reading of these numbers took.", facts.seconds)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=[label])
    for key, histogram in sorted(values.items()):
        buckets, seen = [], 0
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), list(histogram.counts), strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        family.add_metric([key], buckets, histogram.total)
    return family

"""The metrics, one for each kind of number: its name and text, and how it is read from what `numbers` has gathered."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from motia_redis._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from motia_redis._admin.numbers import Facts, Numbers
    from motia_redis._admin.status import StepStatus
    from motia_redis._metrics import Histogram, StepCounts

#: Values by those of the labels.
Samples: TypeAlias = "Mapping[tuple[str, ...], float]"
Histograms: TypeAlias = "Mapping[tuple[str, ...], Histogram]"

PREFIX: Final = "motia_redis_"
_SPACE: Final = "redis_namespace"  # not `namespace`, which Kubernetes' service discovery gives to each target
_LATE = 5.0  # seconds after its time at which a schedule is late, as `motia-redis status` says it


class Family(NamedTuple):
    """One metric. Its name is that of Prometheus, without the prefix, and ends with its unit, or with `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[str, ...]
    read: Callable[[Numbers], Samples | None]  #: None: the number is not known


class HistogramFamily(NamedTuple):
    """One metric of durations."""

    name: str
    text: str
    label: str
    read: Callable[[Numbers], Histograms]


def _single(read: Callable[[Numbers], float]) -> Callable[[Numbers], Samples]:
    return lambda numbers: {(): read(numbers)}


def _by_name(read: Callable[[Numbers], Mapping[str, float]]) -> Callable[[Numbers], Samples]:
    return lambda numbers: {(name,): value for name, value in sorted(read(numbers).items())}


def _outcomes(numbers: Numbers) -> Samples:
    found: dict[tuple[str, ...], float] = {}
    for name, counts in _steps(numbers):
        for outcome, count in (("handled", counts.handled), ("failed", counts.failed), ("dead_letter", counts.dead_letters)):
            found[name, outcome] = float(count)
    return found


def _steps(numbers: Numbers) -> list[tuple[str, StepCounts]]:
    return sorted(numbers.metrics.steps.items())


def _of_worker(read: Callable[[Numbers], Samples]) -> Callable[[Numbers], Samples | None]:
    return lambda numbers: read(numbers) if numbers.has_worker else None


def _lanes(numbers: Numbers) -> Samples:
    return {(name,): numbers.lanes.get(name, 0) for name in sorted({*numbers.metrics.steps, *numbers.lanes})}


def _of_namespace(name: str, text: str, read: Callable[[Facts], float]) -> Family:
    def samples(numbers: Numbers) -> Samples | None:
        facts = numbers.facts  # once: it may be gone in the next moment
        return None if facts is None else {(numbers.namespace,): read(facts)}

    return Family(name, "gauge", text, (_SPACE,), samples)


def _of_steps(name: str, text: str, read: Callable[[StepStatus], float]) -> Family:
    def samples(numbers: Numbers) -> Samples | None:
        facts = numbers.facts
        return None if facts is None else {(numbers.namespace, step.name): read(step) for step in facts.status.steps}

    return Family(f"step_{name}", "gauge", text, (_SPACE, "step"), samples)


def _stream_bytes(numbers: Numbers) -> Samples | None:
    facts = numbers.facts
    if facts is None or facts.sizes is None:
        return None
    return {(numbers.namespace, kind): size for kind, size in facts.sizes.items()}


HISTOGRAMS: Final = (
    HistogramFamily(
        "call_duration_seconds",
        "Duration of calls that succeeded, repetitions included.",
        "operation",
        lambda numbers: {(name,): histogram for name, histogram in sorted(numbers.metrics.calls.items())},
    ),
    HistogramFamily(
        "handler_duration_seconds",
        "Duration of handlers, failed ones included.",
        "step",
        lambda numbers: {(name,): counts.durations for name, counts in _steps(numbers)},
    ),
)

FAMILIES: Final = (
    # of the process
    Family(
        "build_info",
        "gauge",
        "The library, the Python and the namespace of this process.",
        ("version", "python", _SPACE),
        lambda numbers: {(__version__, platform.python_version(), numbers.namespace): 1.0},
    ),
    Family(
        "changes_total",
        "counter",
        "Changes of keys that were applied.",
        ("operation",),
        _by_name(lambda numbers: numbers.metrics.changes),
    ),
    Family(
        "call_retries_total",
        "counter",
        "Attempts at calls after the first one.",
        ("operation",),
        _by_name(lambda numbers: numbers.metrics.retries),
    ),
    Family(
        "calls_unavailable_total",
        "counter",
        "Calls that raised StateUnavailable.",
        ("operation",),
        _by_name(lambda numbers: numbers.metrics.unavailable),
    ),
    Family(
        "conflicts_total",
        "counter",
        "Changes that another change came before: RevisionConflict.",
        (),
        _single(lambda numbers: numbers.metrics.conflicts),
    ),
    Family(
        "expiries_total",
        "counter",
        "Values that this process let expire.",
        (),
        _single(lambda numbers: numbers.metrics.expiries),
    ),
    Family(
        "watchers",
        "gauge",
        "Watches and mirrors that are open in this process.",
        (),
        _single(lambda numbers: numbers.watchers),
    ),
    Family(
        "events_total",
        "counter",
        "Outcomes of attempts at events: handled, failed (another attempt follows), dead_letter.",
        ("step", "outcome"),
        _outcomes,
    ),
    Family(
        "handlers_running",
        "gauge",
        "Handlers that run now.",
        ("step",),
        lambda numbers: {(name,): counts.running for name, counts in _steps(numbers)},
    ),
    Family("worker_lanes_held", "gauge", "Lanes that this worker holds.", ("step",), _of_worker(_lanes)),
    Family(
        "worker_heartbeat_age_seconds",
        "gauge",
        "Time since the last heartbeat that Redis answered.",
        (),
        _of_worker(_single(lambda numbers: numbers.silence)),
    ),
    Family(
        "redis_up",
        "gauge",
        "1 if the numbers of the namespace could be read from Redis.",
        (),
        _of_worker(_single(lambda numbers: numbers.facts is not None)),
    ),
    # of the namespace: the same in all its processes
    _of_steps(
        "oldest_unhandled_age_seconds",
        "Age of the oldest event that the step has not handled; 0: there is none.",
        lambda step: step.oldest_age or 0.0,
    ),
    _of_steps(
        "entries_behind",
        "Entries that the step has not read or not handled; at most 10,000 of a lane are counted.",
        lambda step: step.lag + step.pending,
    ),
    _of_steps(
        "entries_pending",
        "Of the entries behind, those that were read: they run, or wait for their key or a retry.",
        lambda step: step.pending,
    ),
    _of_steps("lanes", "Lanes of the step.", lambda step: step.lanes),
    _of_steps("lanes_held", "Lanes of the step that a live worker holds.", lambda step: step.lanes_held),
    _of_steps("lanes_unwanted", "Lanes that no live version of the step wants.", lambda step: step.lanes_unwanted),
    _of_steps("paused", "1 if the step is paused.", lambda step: step.paused_for is not None),
    _of_steps(
        "keys_failing",
        "Keys whose handler has failed three times or more, and is tried again.",
        lambda step: step.keys_failing,
    ),
    _of_steps("dead_letters", "Dead letters of the step.", lambda step: step.dead_letters),
    _of_steps("versions", "Versions of the step that live workers run.", lambda step: len(step.versions)),
    _of_steps("schedules", "Schedules of the step's cron triggers.", lambda step: len(step.schedules)),
    _of_steps(
        "schedules_due",
        "Schedules whose time has come.",
        lambda step: sum(each.next_in is not None and each.next_in <= 0 for each in step.schedules),
    ),
    _of_steps(
        "schedules_late",
        "Schedules that should have fired more than 5 s ago.",
        lambda step: sum(each.next_in is not None and each.next_in < -_LATE for each in step.schedules),
    ),
    _of_namespace("workers", "Live workers.", lambda facts: len(facts.status.workers)),
    _of_namespace(
        "workers_silent",
        "Workers that stopped without leaving: paused, cut off, or killed.",
        lambda facts: len(facts.status.silent),
    ),
    _of_namespace("delayed_messages", "Delayed messages that wait for their time.", lambda facts: facts.status.delayed),
    _of_namespace(
        "due_overdue_seconds",
        "Time since the first thing fell due that nobody has sent, deleted or fired yet.",
        lambda facts: max(0.0, -(facts.status.next_due_in or 0.0)),
    ),
    _of_namespace(
        "unread_topic_messages",
        "Messages in topics that no step consumes.",
        lambda facts: sum(topic.messages for topic in facts.status.topics),
    ),
    _of_namespace(
        "dropped_entries",
        "Unhandled entries and dead letters that a cap has removed.",
        lambda facts: sum(facts.status.dropped.values()),
    ),
    Family("stream_bytes", "gauge", "Memory of the streams, by what they hold.", (_SPACE, "stream"), _stream_bytes),
    _of_namespace(
        "status_read_duration_seconds", "How long the last reading of these numbers took.", lambda facts: facts.seconds
    ),
)

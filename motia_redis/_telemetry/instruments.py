"""Show the numbers of a process as metrics of OpenTelemetry. They are counted here, and observed when they are collected.

The API has no histogram that is observed. So each one is three counters: the sum of the durations, their count, and, for
percentiles, the count of those up to each bound (`le`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation, get_meter

from motia_redis._admin.families import FAMILIES, HISTOGRAMS, PREFIX
from motia_redis._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from motia_redis._admin.families import Family, HistogramFamily
    from motia_redis._admin.numbers import Numbers
    from motia_redis._metrics import Histogram

    Parts = list[tuple[float, dict[str, str]]]
    Callback = Callable[[CallbackOptions], Iterable[Observation]]

_FRESH = (
    0.2  # seconds: the instruments are asked one after the other, and what needs the event loop is asked once for all of them
)
_WAIT = 3.0  # seconds to wait for the event loop
_UNITS: Final = {"_seconds": "s", "_bytes": "By"}


class Instruments:
    """Register the instruments, and answer them from the numbers of the process and, while it is connected, of its namespace."""

    def __init__(self, provider: MeterProvider | None, numbers: Numbers) -> None:
        self._process = numbers  #: what is counted in this process
        self._numbers: Numbers | None = numbers  #: None: nothing is told any more
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._observed_at = 0.0
        meter = get_meter("motia_redis", __version__, provider)
        for family in FAMILIES:
            name, unit = otel_name(family.name)
            if family.kind == "counter":
                meter.create_observable_counter(name, [self._callback(family)], unit, family.text)
            else:
                meter.create_observable_gauge(name, [self._callback(family)], unit, family.text)
        for histogram in HISTOGRAMS:
            name, unit = otel_name(histogram.name)
            text = histogram.text
            meter.create_observable_counter(f"{name}.sum", [self._histogram(histogram, _sum)], unit, f"{text} Their sum.")
            meter.create_observable_counter(f"{name}.count", [self._histogram(histogram, _count)], "", f"{text} Their number.")
            meter.create_observable_counter(f"{name}.bucket", [self._histogram(histogram, _buckets)], "", f"{text} Up to `le` s.")

    def attach(self, numbers: Numbers, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from these numbers from now on, of which some are gathered in an event loop."""
        self._numbers, self._loop = numbers, loop

    def detach(self) -> None:
        """Answer from the numbers of the process alone."""
        self._numbers, self._loop = self._process, None

    def stop(self) -> None:
        """Tell nothing any more: the API cannot take an instrument back."""
        self._numbers = self._loop = None

    def _observe(self) -> Numbers | None:
        """Return the numbers, after the event loop has gathered its part. In the loop's own thread nothing can be waited for."""
        loop, numbers = self._loop, self._numbers
        with self._lock:
            if (
                loop is not None
                and numbers is not None
                and time.monotonic() - self._observed_at >= _FRESH
                and not _runs_here(loop)
            ):
                # The loop may have been closed in this moment, or be blocked; a number that is older is no harm.
                with suppress(RuntimeError, TimeoutError):
                    asyncio.run_coroutine_threadsafe(numbers.observe(), loop).result(_WAIT)
                self._observed_at = time.monotonic()
        return numbers

    def _callback(self, family: Family) -> Callback:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            numbers = self._observe()
            samples = None if numbers is None else family.read(numbers)
            for values, value in ({} if samples is None else samples).items():
                yield Observation(value, dict(zip(family.labels, values, strict=True)))

        return observe

    def _histogram(self, family: HistogramFamily, read: Callable[[Histogram], Parts]) -> Callback:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            numbers = self._numbers
            for values, histogram in ({} if numbers is None else family.read(numbers)).items():
                for value, attributes in read(histogram):
                    yield Observation(value, {family.label: values[0], **attributes})

        return observe


def _sum(histogram: Histogram) -> Parts:
    return [(histogram.total, {})]


def _count(histogram: Histogram) -> Parts:
    return [(sum(list(histogram.counts)), {})]


def _buckets(histogram: Histogram) -> Parts:
    return [(seen, {"le": str(bound)}) for bound, seen in histogram.cumulated()]


def otel_name(name: str) -> tuple[str, str]:
    """Return the name of an instrument, and its unit, for a metric of Prometheus.

    Exporters make the metric's name of both again, so that dashboards and alerts serve both.
    """
    name = f"{PREFIX[:-1]}.{name.removesuffix('_total')}"
    for ending, unit in _UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), unit
    return name, ""


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False

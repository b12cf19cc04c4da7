"""Write the numbers of this process, and of the namespace, as Prometheus reads them. Imported only with `--metrics`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from motia_redis._admin.families import FAMILIES, HISTOGRAMS, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from motia_redis._admin.families import HistogramFamily
    from motia_redis._admin.numbers import Numbers


class Exposition:
    """Write what a process has counted, and what it has read of the namespace."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(numbers))
        ProcessCollector(registry=self._registry)

    async def write(self) -> tuple[str, bytes]:
        """Return the type and the text. The text is made in a thread, so that handlers go on."""
        await self._numbers.observe()
        return CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, self._registry)


class _Collector(Collector):
    """Make families of the plain numbers."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        yield from self._single()
        for histogram in HISTOGRAMS:
            yield self._histogram(histogram)

    def _single(self) -> Iterator[Metric]:
        for name, kind, text, labels, read in FAMILIES:
            samples = read(self._numbers)
            if samples is None:
                continue
            family_type = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = family_type(PREFIX + name, text, labels=labels)
            for values, value in samples.items():
                family.add_metric(values, value)
            yield family

    def _histogram(self, histogram: HistogramFamily) -> Metric:
        family = HistogramMetricFamily(PREFIX + histogram.name, histogram.text, labels=[histogram.label])
        for values, durations in histogram.read(self._numbers).items():
            buckets = [(str(bound), float(seen)) for bound, seen in durations.cumulated()]
            family.add_metric(values, buckets, durations.total)
        return family

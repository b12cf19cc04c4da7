"""Switch telemetry on and off, for the whole process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from motia_redis import _metrics, _tracing
from motia_redis._admin.numbers import Numbers
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from motia_redis._store.manager import StateManager
    from motia_redis._telemetry.instruments import Instruments
    from motia_redis._worker.worker import Worker


class _Switch:
    """What is switched on in this process."""

    def __init__(self) -> None:
        self.instruments: Instruments | None = None
        self.counts_here = False  #: nobody else has asked for numbers


_switch = _Switch()


def enable(
    *,
    spans: bool = True,
    metrics: bool = True,
    calls: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make spans and metrics of this process by the API of OpenTelemetry, from now on.

    Call it before workers are made. The providers may be set later: until then nothing is recorded. What was switched on before
    ends.

    Arguments:
        spans: each change and message has a span `send <scope or topic>`, each attempt of a handler `process <scope or topic>`,
            whose parent it is, and each HTTP request to a step one of its method and path.
        metrics: the numbers that `motia-redis worker --metrics` has, of this process. `observe` adds those of the namespace.
        calls: each call of state has a span, too. Needs `spans`.
        tracer_provider: makes the spans; None: the global one of OpenTelemetry.
        meter_provider: makes the instruments; None: the global one.

    Cost: see "OpenTelemetry" of docs/operating.md. Raises StateError without the package opentelemetry-api.
    """
    if calls and not spans:
        raise StateError("telemetry.enable: calls=True needs spans=True: spans of calls are spans")
    try:
        from motia_redis._telemetry.instruments import Instruments  # noqa: PLC0415 - optional
        from motia_redis._telemetry.spans import Spans  # noqa: PLC0415 - optional
    except ImportError:
        raise StateError("telemetry needs the package opentelemetry-api: pip install 'motia-redis[telemetry]'") from None
    disable()
    if spans:
        _tracing.spans = Spans(tracer_provider, calls=calls)
    if metrics:
        _switch.counts_here = _metrics.active is None
        _switch.instruments = Instruments(meter_provider, Numbers(_metrics.active or _metrics.switch_on()))


def disable() -> None:
    """Make no spans and metrics any more. Workers that run go on as they began. Without telemetry this does nothing."""
    _tracing.spans = None
    if _switch.instruments is not None:
        _switch.instruments.stop()
        _switch.instruments = None
        if _switch.counts_here:
            _metrics.switch_off()


@asynccontextmanager
async def observe(state: StateManager, worker: Worker | None = None) -> AsyncIterator[None]:
    """Show the numbers of the manager's namespace and of the worker among the metrics, inside of the block.

    With a `worker` they are read from Redis when metrics are collected, at most once in 5 s. Without one, only what the process
    itself knows is told. `motia-redis worker --telemetry` does this by itself. Without metrics the block does nothing.
    """
    instruments = _switch.instruments
    if instruments is None or _metrics.active is None:
        yield
        return
    numbers = Numbers(_metrics.active, state, worker)
    instruments.attach(numbers, asyncio.get_running_loop())
    try:
        yield
    finally:
        instruments.detach()
        await numbers.aclose()

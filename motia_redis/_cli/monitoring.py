"""Run what watches over this process: probes, metrics and the health file."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

from motia_redis import _metrics
from motia_redis._cli import probes
from motia_redis._cli.listening import listen, quiet_server, url_of
from motia_redis._cli.options import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from uvicorn import Server

    from motia_redis._cli.exposition import Exposition
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.worker import Worker

_log = logging.getLogger("motia_redis")


class Settings(Protocol):
    """The settings that are needed here."""

    @property
    def lease(self) -> float: ...
    @property
    def health(self) -> tuple[str, int] | None: ...
    @property
    def health_file(self) -> Path | None: ...
    @property
    def metrics(self) -> tuple[str, int] | None: ...
    @property
    def telemetry(self) -> bool: ...
    @property
    def telemetry_calls(self) -> bool: ...


def switch_metrics_on() -> None:
    """Count from now on. Raises CommandError without the package that `--metrics` needs."""
    try:
        importlib.import_module("prometheus_client")
    except ImportError:
        raise CommandError("--metrics needs the package prometheus-client: pip install 'motia-redis[metrics]'") from None
    _metrics.switch_on()


def switch_telemetry_on(*, calls: bool) -> None:
    """Make spans and metrics from now on. Raises StateError without the package that `--telemetry` needs."""
    from motia_redis._telemetry import switching  # noqa: PLC0415 - see the docstring of `serving`

    switching.enable(calls=calls)


def warn_without_sdk() -> None:
    """Warn if nobody will get the spans. The application may have configured an SDK, or `opentelemetry-instrument` has."""
    from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider  # noqa: PLC0415 - optional

    if isinstance(get_tracer_provider(), ProxyTracerProvider):
        _log.warning(
            "--telemetry: no SDK of OpenTelemetry is configured, so nothing is exported: start the command by "
            "opentelemetry-instrument, or set the providers in APP"
        )


class Monitoring:
    """Serve probes and metrics on ports of their own, from before the process connects until it has ended."""

    def __init__(self, settings: Settings) -> None:
        self.readiness = probes.Readiness(settings.lease)
        self._exposition: Exposition | None = None
        self._has_metrics = settings.metrics is not None
        self._has_telemetry = settings.telemetry or settings.telemetry_calls

    @classmethod
    async def start(cls, settings: Settings, cleanup: contextlib.AsyncExitStack) -> Monitoring:
        """Begin as the settings say, and end with `cleanup`. Raises CommandError."""
        monitoring = cls(settings)
        if settings.health_file is not None:
            probes.check_file(settings.health_file)
            await cleanup.enter_async_context(_running(probes.touch_regularly(settings.health_file)))
        write = None if settings.metrics is None else monitoring._write_metrics
        if settings.health is not None and settings.health == settings.metrics and settings.health[1]:
            pages = [(settings.health, "probes and metrics", probes.Probes(monitoring.readiness, write))]
        else:
            pages = []
            if settings.health is not None:
                pages.append((settings.health, "probes", probes.Probes(monitoring.readiness)))
            if settings.metrics is not None:
                pages.append((settings.metrics, "metrics", probes.Probes(None, write)))
        for address, what, app in pages:
            listener = cleanup.enter_context(listen(*address, "another port for --health and --metrics"))
            server = quiet_server(app)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            cleanup.push_async_callback(_end_server, server, serving)
            _log.info("%s at %s", what, url_of(listener))
        return monitoring

    async def started(self, state: StateManager, worker: Worker | None, cleanup: contextlib.AsyncExitStack) -> None:
        """Note that the process is connected. `worker`: the one that it runs."""
        self.readiness.started(state, worker)
        if self._has_telemetry:
            from motia_redis._telemetry import switching  # noqa: PLC0415 - see the docstring of `serving`

            await cleanup.enter_async_context(switching.observe(state, worker))
        if self._has_metrics and _metrics.active is not None:
            from motia_redis._admin.numbers import Numbers  # noqa: PLC0415 - see the docstring of `serving`
            from motia_redis._cli.exposition import Exposition  # noqa: PLC0415 - optional

            numbers = Numbers(_metrics.active, state, worker)
            cleanup.push_async_callback(numbers.aclose)
            self._exposition = Exposition(numbers)

    async def _write_metrics(self) -> tuple[str, bytes]:
        return ("text/plain", b"") if self._exposition is None else await self._exposition.write()


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _end_server(server: Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = server.force_exit = True
    await asyncio.wait([serving])

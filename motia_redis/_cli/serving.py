"""Run an application until a signal: serve HTTP, run a worker, or both.

Modules that only a running application needs (uvicorn, Starlette, the worker) are imported when it starts. So `--help` and errors
of the command line do not wait for these imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import click

from motia_redis._cli import probes
from motia_redis._cli.listening import listen, quiet_server, url_of
from motia_redis._cli.monitoring import Monitoring, switch_metrics_on, switch_telemetry_on, warn_without_sdk
from motia_redis._cli.options import EXIT_ERROR, one_line_errors, state_manager
from motia_redis._cli.output import counted
from motia_redis._cli.stopping import Stop
from motia_redis._version import __version__
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from uvicorn import Server

    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager
    from motia_redis._web.access import RequestLog
    from motia_redis._worker.worker import Worker

_log = logging.getLogger("motia_redis")

_PAUSE = 0.5  # seconds between two attempts to connect at the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the options of one command. `run`, `serve` and `worker` differ in `serves` and `works`."""

    app: tuple[str, ...]
    serves: bool
    works: bool
    redis_url: str | None = field(repr=False)
    namespace: str
    log_level: str
    log_format: Literal["text", "json"]
    wait: float
    grace: float
    host: str = "127.0.0.1"
    port: int = 3000
    max_body: int = 1_048_576
    access_log: bool = True
    cors_origins: tuple[str, ...] = ()
    concurrency: int = 64
    lease: float = 3.0
    health: tuple[str, int] | None = None
    health_file: Path | None = None
    metrics: tuple[str, int] | None = None
    telemetry: bool = False
    telemetry_calls: bool = False


def start(settings: Settings) -> None:
    """Load the application and run it until a signal. On an error, end the process with exit code 2."""
    from motia_redis._steps.loading import load_application  # noqa: PLC0415 - see the module's docstring
    from motia_redis._steps.logs import configure_logging, log_uncaught, write_record  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format)
    log_uncaught()
    # The global `stateManager`, which handlers may import, must use the same Redis as `ctx.state`.
    os.environ["MOTIA_REDIS_NAMESPACE"] = settings.namespace
    if settings.redis_url is not None:
        os.environ["MOTIA_REDIS_URL"] = settings.redis_url
    with one_line_errors():
        if settings.metrics is not None:
            switch_metrics_on()
        if settings.telemetry or settings.telemetry_calls:
            switch_telemetry_on(calls=settings.telemetry_calls)
        application = load_application(settings.app)
        if settings.telemetry or settings.telemetry_calls:
            warn_without_sdk()
        stop = Stop(settings.grace, lambda text: write_record(text, settings.log_format))
        with stop, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            _run_until_done(runner.get_loop(), _run(settings, application, stop))


def _run_until_done(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Run the loop until `work` has ended. A task of a handler that raises SystemExit ends the loop, not the process."""
    task = loop.create_task(work)
    while True:
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            # Not from a signal, which `Stop` handles.
            _log.exception("a task ended with %s, which does not end the process", type(error).__name__)
        else:
            return


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional, and used when installed
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(settings: Settings, application: Application, stop: Stop) -> None:
    """Start, run until a signal or a failure, let running handlers and requests finish, and close all connections."""
    with stop.in_loop():
        async with contextlib.AsyncExitStack() as cleanup:
            monitoring = await Monitoring.start(settings, cleanup)
            parts = await _unless(stop, _prepare(settings, application, monitoring, cleanup))
            if parts is not None:
                await _work(parts, stop, monitoring.readiness)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Hold the result of `_prepare`. `server`, `requests` or `worker` is None in a process without it."""

    server: Server | None
    requests: RequestLog | None
    listener: socket.socket | None
    worker: Worker | None
    announcement: str
    logs_announcement: bool


async def _prepare(
    settings: Settings, application: Application, monitoring: Monitoring, cleanup: contextlib.AsyncExitStack
) -> _Parts:
    """Bind the port, connect to Redis and create the consumer groups, for every command."""
    from motia_redis._transport import urls  # noqa: PLC0415 - see the module's docstring
    from motia_redis._worker.worker import Worker  # noqa: PLC0415

    # Bind first: an address that is in use is the fastest error to detect.
    listener = (
        cleanup.enter_context(listen(settings.host, settings.port, "another --host or --port")) if settings.serves else None
    )
    state = state_manager(settings.redis_url, settings.namespace)
    urls.parse(state.url)  # a wrong one is reported alone, not behind what is going to run
    cleanup.push_async_callback(state.close)
    count = _report(settings, application, state)
    worker = Worker(application, state, concurrency=settings.concurrency, lease=settings.lease)
    await _connect(state, worker, settings.wait)
    await monitoring.started(state, worker if settings.works else None, cleanup)
    is_json = settings.log_format == "json"
    if listener is None:
        return _Parts(None, None, None, worker, f"worker ready ({count})", is_json)
    extra = " with a worker" if settings.works else ""
    server, requests = _server(application, state, settings, lambda: worker.is_outage_reported, monitoring.readiness)
    announcement = f"serving {url_of(listener)}{extra} ({count})"
    return _Parts(server, requests, listener, worker if settings.works else None, announcement, is_json)


def _report(settings: Settings, application: Application, state: StateManager) -> str:
    """Log what this process is going to run, and where. Return the number of steps."""
    from motia_redis._transport.urls import redact  # noqa: PLC0415 - see the module's docstring

    place = {"redis": redact(state.url), "namespace": state.namespace}
    _log.info("motia-redis %s", __version__, extra={"fields": place})
    steps = 0
    for step in application.steps:
        served = step.http_triggers if settings.serves else ()
        consumed = [trigger for trigger in step.triggers if trigger not in step.http_triggers] if settings.works else []
        if triggers := [str(trigger) for trigger in (*served, *consumed)]:
            steps += 1
            _log.info("step %s", step.name, extra={"fields": {"triggers": triggers}})
    if settings.serves and not application.http_routes:
        _log.warning("no step has an http trigger: every request will be answered with 404")
    if not settings.serves and not application.worker_steps:
        _log.warning("no step has a trigger that a worker consumes for: this worker has nothing to do")
    return counted(steps, "step")


async def _connect(state: StateManager, worker: Worker, wait: float) -> None:
    """Connect to Redis and create the consumer groups. Wait for a Redis that cannot be reached yet."""
    until, reported = time.monotonic() + wait, False
    while True:
        try:
            await state.connect()
            # A process that only serves creates the groups, too, so that no event is missed before the first worker starts.
            await worker.prepare()
        except StateUnavailable as error:
            left = until - time.monotonic()
            if left <= 0 or not _may_pass(error):
                raise
            if not reported:
                _log.warning("waiting up to %g s for Redis: %s", wait, error)
                reported = True
            await asyncio.sleep(min(_PAUSE, left))
        else:
            if reported:
                _log.info("Redis is available")
            return


def _may_pass(error: StateUnavailable) -> bool:
    """Return whether Redis may become available by itself: it does not answer yet, rather than refuses."""
    from motia_redis._transport import failures, refusals  # noqa: PLC0415 - see the module's docstring

    cause = error.__cause__
    if isinstance(cause, failures.ErrorReply):
        return refusals.is_transient(cause.code, fails_over=False)
    if isinstance(cause, failures.ProtocolMismatch) or (cause and isinstance(cause.__cause__, ssl.SSLError)):
        return False
    return cause is not None


async def _work(parts: _Parts, stop: Stop, readiness: probes.Readiness) -> None:
    """Run the server and the worker until a signal or until one of them ends. Then let both finish what is running."""
    jobs: list[asyncio.Task[None]] = []
    working: asyncio.Task[None] | None = None
    if parts.worker is not None:
        working = asyncio.create_task(parts.worker.run())
        jobs.append(working)
    if parts.server is not None and parts.listener is not None:
        jobs.append(asyncio.create_task(parts.server.serve(sockets=[parts.listener])))
    # The port has accepted connections since it was bound, so a client may connect as soon as this line is printed.
    with contextlib.suppress(OSError):  # the reader of standard output has gone
        click.echo(f"motia-redis: {parts.announcement}")
        sys.stdout.flush()
    if parts.logs_announcement:
        _log.info("%s", parts.announcement)

    def running() -> list[str]:
        found = [] if parts.requests is None else [f"request {text}" for text in parts.requests.running()]
        unread = 0 if parts.server is None else len(parts.server.server_state.connections) - len(found)
        if unread > 0:
            found.append(f"{counted(unread, 'connection')} whose client has not read its response")
        if parts.worker is not None and working is not None and not working.done():
            found += parts.worker.running() or ["the worker, which gives its lanes away"]
        return found

    stop.running = running
    requested = asyncio.create_task(stop.requested())
    await asyncio.wait([*jobs, requested], return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    failed = any(job.done() and not job.cancelled() and job.exception() for job in jobs)
    stop.begin(EXIT_ERROR if failed else 0)
    readiness.stopping()
    if parts.server is not None:
        parts.server.should_exit = True
    if parts.worker is not None:
        parts.worker.stop()
    await stop.wait_for(jobs)
    for job in jobs:
        error: BaseException | None = job.exception() if job.done() and not job.cancelled() else None
        # Unwrap groups of one exception, as the worker's task group raises them.
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is not None:
            raise error


async def _unless(stop: Stop, work: Coroutine[Any, Any, _Parts]) -> _Parts | None:
    """Return the result of `work`. If a signal comes first, cancel `work` and return None."""
    task = asyncio.create_task(work)
    requested = asyncio.create_task(stop.requested())
    await asyncio.wait([task, requested], return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    if task.done():
        return await task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


def _server(
    application: Application,
    state: StateManager,
    settings: Settings,
    is_outage_reported: Callable[[], bool],
    readiness: probes.Readiness,
) -> tuple[Server, RequestLog]:
    """Return the HTTP server, configured to handle neither signals nor logging, and the log of its requests."""
    from motia_redis._web.access import RequestLog  # noqa: PLC0415
    from motia_redis._web.app import build_web_app  # noqa: PLC0415

    app = build_web_app(
        application,
        state,
        max_body_bytes=settings.max_body,
        cors_origins=settings.cors_origins,
        is_outage_reported=is_outage_reported,
    )
    requests = RequestLog(app, writes=settings.access_log)
    return quiet_server(probes.Probes(readiness, rest=requests, hidden=probes.hidden_by(application))), requests

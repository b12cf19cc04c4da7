"""Answer probes: does the event loop turn, can this process do its work; and serve metrics, if they are on.

Everything here runs in the event loop, so a loop that is blocked answers no probe and touches no file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from motia_redis._cli.options import CommandError
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.worker import Worker

_log = logging.getLogger("motia_redis")

LIVE, READY, METRICS = "/livez", "/readyz", "/metrics"

_REDIS_TIMEOUT = 1.0  # seconds; Kubernetes waits one second for a probe, if nothing else is said
_FRESH = 0.5  # seconds for which an answer of Redis counts
_TOUCH = 1.0  # seconds between two touches of the file


class Readiness:
    """Say whether this process can do its work: it has started, its heartbeats arrive, and Redis answers.

    Arguments:
        lease: seconds that a heartbeat counts.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._state: StateManager | None = None
        self._worker: Worker | None = None
        self._is_stopping = False
        self._asking: asyncio.Task[str | None] | None = None
        self._asked_at = -_FRESH
        self._answer: str | None = None

    def started(self, state: StateManager, worker: Worker | None) -> None:
        """Note that the process is connected. `worker`: the one that it runs."""
        self._state, self._worker = state, worker

    def stopping(self) -> None:
        """Note that the process ends."""
        self._is_stopping = True

    async def problem(self) -> str | None:
        """Return why the process is not ready, or None. Takes 1 s at most, and asks Redis twice a second at most."""
        if self._is_stopping:
            return "stopping"
        if self._state is None:
            return "starting"
        if self._worker is not None and (silence := self._worker.silence) > self._lease:
            return f"no heartbeat for {silence:.1f} s; the lease is {self._lease:g} s"
        if time.monotonic() - self._asked_at < _FRESH:
            return self._answer
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(self._state))
        return await asyncio.shield(self._asking)

    async def _ask(self, state: StateManager) -> str | None:
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT):
                await state.check_layout()
            self._answer = None
        except TimeoutError:
            self._answer = "Redis does not answer"
        except StateError as error:
            self._answer = f"Redis: {error}"
        finally:
            self._asked_at, self._asking = time.monotonic(), None
        return self._answer


class Probes:
    """An ASGI application that answers probes and metrics, and passes everything else on.

    Arguments:
        readiness: what `/readyz` asks; None: no probes.
        write_metrics: returns the type and the text of the metrics; None: no metrics.
        rest: what other requests are passed to; None: they are answered with 404.
        hidden: paths that are passed on in any case.
    """

    def __init__(
        self,
        readiness: Readiness | None,
        write_metrics: Callable[[], Awaitable[tuple[str, bytes]]] | None = None,
        *,
        rest: ASGIApp | None = None,
        hidden: Iterable[str] = (),
    ) -> None:
        self._rest = rest
        self._readiness = readiness
        self._write_metrics = write_metrics
        answers = {
            LIVE: self._live if readiness is not None else None,
            READY: self._ready if readiness is not None else None,
            METRICS: self._metrics if write_metrics is not None else None,
        }
        self._answers = {path: answer for path, answer in answers.items() if answer is not None and path not in set(hidden)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = self._answers.get(scope["path"]) if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} else None
        if answer is None and self._rest is not None:
            await self._rest(scope, receive, send)
        elif scope["type"] == "http":
            status, kind, body = (404, "text/plain", b"not found\n") if answer is None else await answer()
            headers = [
                (b"content-type", kind.encode()),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _live(self) -> tuple[int, str, bytes]:
        return 200, "text/plain", b"ok\n"

    async def _ready(self) -> tuple[int, str, bytes]:
        problem = None if self._readiness is None else await self._readiness.problem()
        return (200, "text/plain", b"ok\n") if problem is None else (503, "text/plain; charset=utf-8", f"{problem}\n".encode())

    async def _metrics(self) -> tuple[int, str, bytes]:
        kind, body = ("text/plain", b"") if self._write_metrics is None else await self._write_metrics()
        return 200, kind, body


def hidden_by(application: Application) -> set[str]:
    """Return the paths of probes that a step has a route for, by that very path: the step's route is called, not the probe."""
    paths = {trigger.path: step.name for trigger, step in application.http_routes if trigger.path in {LIVE, READY}}
    for path, step in paths.items():
        _log.warning("step %s has a route %s: no probe is answered there; use --health PORT for probes", step, path)
    return set(paths)


def check_file(path: Path) -> None:
    """Touch a file for the first time. Raises CommandError if that is not possible."""
    try:
        path.touch()
    except OSError as error:
        raise CommandError(f"cannot touch the --health-file {path}: {error.strerror}; choose a folder that exists") from error


async def touch_regularly(path: Path) -> None:
    """Touch a file once a second until cancelled; then remove it."""
    has_failed = False
    try:
        while True:
            try:
                path.touch()  # noqa: ASYNC240  # in the loop, whose turning it shows
                has_failed = False
            except OSError as error:
                if not has_failed:
                    _log.warning("cannot touch the health file %s: %s", path, error.strerror)
                has_failed = True
            await asyncio.sleep(_TOUCH)
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240

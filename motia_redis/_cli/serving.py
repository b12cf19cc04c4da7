"""Run an application until a signal: serve HTTP, run a worker, or both.

Modules that only a running application needs (uvicorn, Starlette, the worker) are imported when it starts. So `--help` and errors
of the command line do not wait for these imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from motia_redis._cli.options import CommandError, one_line_errors, state_manager

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

    from uvicorn import Server

    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the options of one command. `run`, `serve` and `worker` differ in `serves` and `works`."""

    app: tuple[str, ...]
    serves: bool
    works: bool
    redis_url: str | None
    namespace: str
    log_level: str
    log_format: Literal["text", "json"]
    host: str = "127.0.0.1"
    port: int = 3000
    max_body: int = 1_048_576
    concurrency: int = 64
    lease: float = 3.0


def start(settings: Settings) -> None:
    """Load the application and run it until a signal. On an error, end the process with exit code 2."""
    from motia_redis._steps.loading import load_application  # noqa: PLC0415 - see the module's docstring
    from motia_redis._steps.logs import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format)
    # The global `stateManager`, which handlers may import, must use the same Redis as `ctx.state`.
    os.environ["MOTIA_REDIS_NAMESPACE"] = settings.namespace
    if settings.redis_url is not None:
        os.environ["MOTIA_REDIS_URL"] = settings.redis_url
    with one_line_errors():
        application = load_application(settings.app)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, application))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional, and used when installed
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(settings: Settings, application: Application) -> None:
    """Start, run until a signal or a failure, let running handlers and requests finish, and close all connections."""
    stopping = asyncio.Event()
    with _signals(stopping):
        async with contextlib.AsyncExitStack() as cleanup:
            parts = await _unless(stopping, _prepare(settings, application, cleanup))
            if parts is not None:
                await _work(parts, stopping)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Hold the result of `_prepare`. `server` or `worker` is None in a process without it."""

    server: Server | None
    listener: socket.socket | None
    worker: Worker | None
    announcement: str


async def _prepare(settings: Settings, application: Application, cleanup: contextlib.AsyncExitStack) -> _Parts:
    """Bind the port, connect to Redis and create the consumer groups, for every command."""
    from motia_redis._worker.worker import Worker  # noqa: PLC0415 - see the module's docstring

    # Bind first: an address that is in use is the fastest error to detect.
    listener = cleanup.enter_context(_listen(settings.host, settings.port)) if settings.serves else None
    state = state_manager(settings.redis_url, settings.namespace)
    cleanup.push_async_callback(state.close)
    await state.connect()
    worker = Worker(application, state, concurrency=settings.concurrency, lease=settings.lease)
    # A process that only serves creates the groups, too, so that no event is missed before the first worker starts.
    await worker.prepare()
    steps = {id(step) for step in application.http_steps if settings.serves}
    steps |= {id(step) for step in application.worker_steps if settings.works}
    count = f"({len(steps)} step{'' if len(steps) == 1 else 's'})"
    if listener is None:
        return _Parts(None, None, worker, f"worker ready {count}")
    extra = " with a worker" if settings.works else ""
    return _Parts(
        _server(application, state, settings.max_body),
        listener,
        worker if settings.works else None,
        f"serving {_url(listener)}{extra} {count}",
    )


async def _work(parts: _Parts, stopping: asyncio.Event) -> None:
    """Run the server and the worker until `stopping` is set or one of them ends. Then let both finish what is running."""
    jobs: list[asyncio.Task[None]] = []
    if parts.worker is not None:
        jobs.append(asyncio.create_task(parts.worker.run()))
    if parts.server is not None and parts.listener is not None:
        jobs.append(asyncio.create_task(parts.server.serve(sockets=[parts.listener])))
    # The port has accepted connections since it was bound, so a client may connect as soon as this line is printed.
    with contextlib.suppress(OSError):  # the reader of standard output has gone
        click.echo(f"motia-redis: {parts.announcement}")
        sys.stdout.flush()
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait([*jobs, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if parts.server is not None:
        parts.server.should_exit = True
    if parts.worker is not None:
        parts.worker.stop()
    for outcome in await asyncio.gather(*jobs, return_exceptions=True):
        # Unwrap groups of one exception, as the worker's task group raises them.
        while isinstance(outcome, BaseExceptionGroup) and len(outcome.exceptions) == 1:
            outcome = outcome.exceptions[0]  # noqa: PLW2901
        if isinstance(outcome, BaseException):
            raise outcome


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, _Parts]) -> _Parts | None:
    """Return the result of `work`. If `stopping` is set first, cancel `work` and return None."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        return await task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    """Set `stopping` at the first SIGTERM or SIGINT in the block. End the process at once at the second."""
    loop = asyncio.get_running_loop()
    seen = False

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + signum)
        seen = True
        loop.call_soon_threadsafe(stopping.set)

    # Not `loop.add_signal_handler`: a step that blocks the loop would delay the second signal.
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises CommandError if the address is not available."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as exc:
        # The text of `exc` repeats the address, so take the reason from its code.
        reason = os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or str(exc)
        raise CommandError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from exc


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(application: Application, state: StateManager, max_body: int) -> Server:
    """Return the HTTP server, configured to handle neither signals nor logging."""
    import uvicorn  # noqa: PLC0415 - see the module's docstring

    from motia_redis._web.app import create_web_app  # noqa: PLC0415

    class QuietServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    app = create_web_app(application, state, max_body_bytes=max_body)
    return QuietServer(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))

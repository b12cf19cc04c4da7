"""Run an application: serve HTTP, fire triggers, or both, until a signal.

Modules that only a running application needs (uvicorn, Starlette, the worker) are imported when it starts, so that `--help` and a
mistyped option answer at once.
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
    """The options of one command. `serves` and `works` are the difference between `run`, `serve` and `worker`."""

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
    """Load the application and run it until a signal; end the process with the right exit code."""
    from motia_redis._steps.loading import load_application  # noqa: PLC0415 - see the module's docstring
    from motia_redis._steps.logs import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format)
    # The global `stateManager` that handlers may import must mean the same Redis as `ctx.state`.
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
    """Start, work until a signal (or until a part fails), finish what is running and close everything."""
    stopping = asyncio.Event()
    with _signals(stopping):
        async with contextlib.AsyncExitStack() as cleanup:
            parts = await _unless(stopping, _prepare(settings, application, cleanup))
            if parts is not None:
                await _work(parts, stopping)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What `_prepare` made ready; `server` or `worker` is None in a process without it."""

    server: Server | None
    listener: socket.socket | None
    worker: Worker | None
    announcement: str


async def _prepare(settings: Settings, application: Application, cleanup: contextlib.AsyncExitStack) -> _Parts:
    """Bind the port, connect, and create the consumer groups, which holds for every command."""
    from motia_redis._worker.worker import Worker  # noqa: PLC0415 - see the module's docstring

    # Bound first: a port in use is the cheapest thing to find out.
    listener = cleanup.enter_context(_listen(settings.host, settings.port)) if settings.serves else None
    state = state_manager(settings.redis_url, settings.namespace)
    cleanup.push_async_callback(state.close)
    await state.connect()
    worker = Worker(application, state, concurrency=settings.concurrency, lease=settings.lease)
    # A process that only serves creates the groups too: what it changes before the first worker starts is not missed.
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
    """Serve and consume until `stopping` is set or one of the two ends, then let both finish what is running."""
    jobs: list[asyncio.Task[None]] = []
    if parts.worker is not None:
        jobs.append(asyncio.create_task(parts.worker.run()))
    if parts.server is not None and parts.listener is not None:
        jobs.append(asyncio.create_task(parts.server.serve(sockets=[parts.listener])))
    # The port accepts connections since it was bound, so whoever reads this line is answered.
    with contextlib.suppress(OSError):  # nobody reads the output any more
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
        # A group of one (as the worker's task group makes it) says no more than what it holds.
        while isinstance(outcome, BaseExceptionGroup) and len(outcome.exceptions) == 1:
            outcome = outcome.exceptions[0]  # noqa: PLW2901
        if isinstance(outcome, BaseException):
            raise outcome


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, _Parts]) -> _Parts | None:
    """Return the result of `work`, or cancel it and return None if `stopping` is set first."""
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
    """Set `stopping` at the first SIGTERM or SIGINT inside the block; end the process at once at the second."""
    loop = asyncio.get_running_loop()
    seen = False

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + signum)
        seen = True
        loop.call_soon_threadsafe(stopping.set)

    # Not `loop.add_signal_handler`: a handler that blocks the loop must not be able to hold off the second signal.
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises CommandError for an address that cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as exc:
        # The standard library puts the address into the text itself; once is enough.
        reason = os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or str(exc)
        raise CommandError(f"cannot listen on {host}:{port}: {reason}") from exc


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(application: Application, state: StateManager, max_body: int) -> Server:
    """Return the HTTP server, which leaves signals and logging to us."""
    import uvicorn  # noqa: PLC0415 - see the module's docstring

    from motia_redis._web.app import create_web_app  # noqa: PLC0415

    class QuietServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    app = create_web_app(application, state, max_body_bytes=max_body)
    return QuietServer(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))

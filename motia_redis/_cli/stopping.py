"""End a process: a signal asks for it, the grace time bounds it, and a second signal ends it at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType
    from typing import Any, Self

_log = logging.getLogger("motia_redis")

_MOST_NAMED = 10  # of what a process waits for
_FIRST_REPORT = 1.0  # seconds after which a stopping process says what it waits for
_HARD_SHARE, _MOST_HARD = 0.2, 2.0  # what is left of the grace time to end what was cancelled: a share of it, at most 2 s


class Stop:
    """Hold the signals of the main thread in a `with` block, and end the process when its grace time is over.

    A thread of its own watches the time, because nothing else can: a handler may block the event loop, or hang in a thread, which
    Python waits for at the end of a process.

    Arguments:
        grace: seconds from the beginning of the end to the end.
        write: writes a line to the log without locks, which the main thread may hold.
    """

    def __init__(self, grace: float, write: Callable[[str], None]) -> None:
        self.grace = grace
        self._write = write
        self._hard = min(_MOST_HARD, grace * _HARD_SHARE)
        self._codes: queue.SimpleQueue[int] = queue.SimpleQueue()  # its `put` may interrupt itself, as signals do
        self._signaled = False
        self._began: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requested = asyncio.Event()
        self._before: dict[signal.Signals, Any] = {}
        #: What runs and has to end, for people.
        self.running: Callable[[], list[str]] = list

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="motia-redis-stop", daemon=True).start()
        # Not `loop.add_signal_handler`: a step that blocks the loop would delay the second signal.
        self._before = {signum: signal.signal(signum, self._handle) for signum in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._signaled:
            return  # the second signal still ends the process, which may wait for a thread
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def in_loop(self) -> Iterator[None]:
        """Let `requested` return in the running event loop."""
        self._loop = asyncio.get_running_loop()
        if self._signaled:
            self._requested.set()
        try:
            yield
        finally:
            self._loop = None

    async def requested(self) -> None:
        """Wait for the first signal."""
        await self._requested.wait()

    def begin(self, exit_code: int = 0) -> None:
        """Begin the grace time, unless it has begun. When it is over, the process ends with this exit code."""
        if self._began is None:
            self._began = time.monotonic()
            self._codes.put(exit_code)

    async def wait_for(self, jobs: list[asyncio.Task[None]]) -> None:
        """Wait for tasks to end. Say what they wait for, and cancel them shortly before the grace time is over."""
        self.begin()
        hint = "; press Ctrl-C again to end at once" if sys.stdin is not None and sys.stdin.isatty() else ""
        if not await self._ended(jobs, _FIRST_REPORT):
            _log.info("stopping: waiting up to %g s for %s%s", self.grace, self._left(), hint)
        if await self._ended(jobs, self.grace):
            return
        _log.warning("the grace time of %g s is over: ending without %s", self.grace, self._left())
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it logs a traceback for each request that is cancelled
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs, timeout=self._hard / 2)
        self.running = lambda: ["what hangs in a thread"]

    async def _ended(self, jobs: list[asyncio.Task[None]], seconds: float) -> bool:
        """Wait until all tasks have ended, at most that many seconds from the beginning of the grace time."""
        assert self._began is not None  # noqa: S101 - for mypy
        until = self._began + min(seconds, self.grace - self._hard)
        _, left = await asyncio.wait(jobs, timeout=max(until - time.monotonic(), 0))
        return not left

    def _left(self) -> str:
        with contextlib.suppress(RuntimeError):  # the main thread has changed it meanwhile
            running = self.running()
            rest = [f"{len(running) - _MOST_NAMED} more"] if len(running) > _MOST_NAMED else []
            return ", ".join(running[:_MOST_NAMED] + rest) or "what is running"
        return "what is running"

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._signaled:
            os._exit(128 + signum)
        self._signaled = True
        self.begin()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._requested.set)

    def _watch(self) -> None:
        code = self._codes.get()
        time.sleep(self.grace)
        # Nothing can be said where nobody reads standard error any more.
        with contextlib.suppress(Exception):
            self._write(f"the grace time of {self.grace:g} s is over: the process ends now, without {self._left()}")
        os._exit(code)

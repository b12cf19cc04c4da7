"""Run the calls of all threads in one event loop, which has a thread of its own: one in each process.

The thread starts with the first call. A forked child has no such thread: it forgets the loop of its parent, and its first call
starts another one. At exit the loop ends what runs in it and closes its connections.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from motia_redis.errors import EventLoopRunning, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")

_END_SECONDS = 5.0  # for what runs in the loop to end, when the process exits
#: How calls that are not awaited are written with the async manager.
_ASYNC_FORMS = {"scan": "async for item in", **dict.fromkeys(("transaction", "watch", "mirror"), "async with")}
_CANCELLED = "was cancelled: if it makes changes, they may have been made, or may be still"
_CANCEL_SECONDS = 1.0  # for a call to end whose thread was interrupted


class _Call(Generic[_T]):
    """One coroutine that the loop runs for a thread that waits."""

    __slots__ = ("_context", "_done", "_error", "_has_begun", "_is_main", "_make", "_result", "_task", "name")

    def __init__(self, name: str, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self.name = name
        self._make = make
        self._context = copy_context()  # has the trace id, and the event that a handler handles
        self._done = threading.Lock()
        self._done.acquire()  # released when the call has ended
        self._is_main = threading.current_thread() is threading.main_thread()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._result: Any = None
        self._error: BaseException | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the coroutine, in the loop."""
        self._task = loop.create_task(self._run(), context=self._context)

    async def _run(self) -> None:
        self._has_begun = True
        try:
            self._result = await self._make()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the thread that waits
            self._error = error
        finally:
            self._release()

    def cancel(self) -> None:
        """Cancel the coroutine, in the loop."""
        if self._task is not None:
            self._task.cancel()
        if not self._has_begun and self._error is None:  # a task that has not begun runs nothing when it is cancelled
            self.fail()

    def fail(self) -> None:
        """End a call that has not begun."""
        self._error = asyncio.CancelledError()
        self._release()

    def _release(self) -> None:
        if self._is_main or not _is_exiting:  # daemon threads do nothing more at exit, so they print no errors
            self._done.release()

    def wait(self, seconds: float = -1) -> bool:
        """Wait until the coroutine has ended, and return whether it has."""
        return self._done.acquire(timeout=seconds)

    def result(self) -> _T:
        """Return the result of a coroutine that has ended, or raise its error."""
        error, self._error = self._error, None
        if error is None:
            result: _T = self._result
            return result
        try:
            if isinstance(error, asyncio.CancelledError):
                raise StateUnavailable(
                    f"{self.name}: the event loop of motia_redis.sync has ended", maybe_applied=True
                ) from error
            raise error
        finally:
            del error, self  # the traceback would hold them, and they the traceback


class LoopThread:
    """Run coroutines in an event loop of its own thread. Any number of threads may call it."""

    def __init__(self) -> None:
        # The loop of asyncio on a selector of ours, on every system: only so a forked child can give up the descriptors.
        self._selector = selectors.DefaultSelector()
        self._loop = _Loop(self._selector)
        self._new: deque[_Call[Any]] = deque()
        self._is_woken = False
        self._thread = threading.Thread(target=self._main, name="motia_redis.sync", daemon=True)
        self._thread.start()

    def run(self, call: _Call[_T], serve: Callable[[], object] | None = None) -> _T:
        """Run a call and return its result. `serve` is what the calling thread does meanwhile.

        A thread that is interrupted while it waits, as by Ctrl-C, cancels the call.
        """
        try:
            if not self._submit(call):
                raise StateUnavailable(f"{call.name}: the event loop of motia_redis.sync has ended: nothing was sent")  # noqa: TRY301
            if serve is not None:
                serve()
            call.wait()
        except BaseException as error:
            self._notify(self._start_new)  # the interrupt may have come before the wake-up
            self._notify(call.cancel)
            call.wait(_CANCEL_SECONDS)
            note_interrupt(call.name, error)
            raise
        return call.result()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def post(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a coroutine without waiting for it."""
        self._submit(_Call("", make))

    def _submit(self, call: _Call[Any]) -> bool:
        """Let the loop start a call. Return False if the loop has ended."""
        self._new.append(call)
        if self._is_woken:  # one wake-up is enough for the calls of many threads
            return True
        self._is_woken = True
        return self._notify(self._start_new)

    def _start_new(self) -> None:
        self._is_woken = False
        while self._new:
            self._new.popleft().start(self._loop)

    def _notify(self, function: Callable[[], object]) -> bool:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return False
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end_all())
        finally:
            self._loop.close()
            self._is_woken = False  # later calls try to wake the loop, and so notice
            while self._new:
                self._new.popleft().fail()

    async def _end_all(self) -> None:
        """Cancel what runs, and let the generators end that close connections."""
        self._start_new()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_END_SECONDS / 4)
            if all(not task.done() for task in tasks):
                break
        await self._loop.shutdown_asyncgens()

    def end(self) -> None:
        """End the loop and close its connections. Threads that wait get StateUnavailable."""
        self._notify(self._loop.stop)
        self._thread.join(_END_SECONDS)

    def abandon(self) -> None:
        """Give up the loop in a forked child, which has its descriptors but not its thread. The parent notices nothing."""
        # The sockets and the selector are those of the parent: to unregister a socket would do so for the parent. So their
        # numbers are made to mean another file, which ends this process' share in them.
        numbers = [key.fd for key in self._selector.get_map().values()]
        with suppress(AttributeError, ValueError):  # there is a descriptor or not
            numbers.append(self._selector.fileno())
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in numbers:
            with suppress(OSError):
                os.dup2(null, number, inheritable=False)
        os.close(null)
        self._loop.abandon()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that a forked child can give up."""

    _is_abandoned = False

    def is_running(self) -> bool:
        """Return whether the loop runs in this process."""
        return not self._is_abandoned and super().is_running()

    def abandon(self) -> None:
        """Close the loop without a word about what has not ended in it."""
        self._is_abandoned = True
        self.set_exception_handler(lambda _loop, _context: None)
        self.close()


# -- the loop of this process ---------------------------------------------------------------------------------------------

_starting = threading.Lock()
_thread: LoopThread | None = None
_is_exiting = False
_closings: list[Callable[[], object]] = []  # what is called when the loop ends
_renewals: list[Callable[[], object]] = []  # what a forked child calls
_abandoned: list[LoopThread] = []  # in a forked child: what the garbage collector must not find


def running() -> LoopThread | None:
    """Return the loop of this process if it runs."""
    return _thread


def current() -> LoopThread:
    """Return the loop of this process. Start it on the first call."""
    global _thread  # noqa: PLW0603 - one loop for the whole process is the point
    if _thread is None:
        with _starting:
            if _thread is None:
                _thread = LoopThread()
    return _thread


def refuse_inside_loop(name: str) -> None:
    """Raise EventLoopRunning if an event loop runs in this thread: a call that waits would stop it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    form = _ASYNC_FORMS.get(name, "await")
    raise EventLoopRunning(
        f"{name} of motia_redis.sync: an event loop runs in this thread, and the call would stop it: use "
        f"`{form} state.{name}(...)` with motia_redis.StateManager, or call it in a thread, as by asyncio.to_thread()"
    )


def run(name: str, method: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run an async method in the loop of this process and return its result. `name` is that of the call, for errors.

    Raises EventLoopRunning in a thread whose event loop runs, and StateUnavailable when the process ends.
    """
    refuse_inside_loop(name)
    return _started(name).run(_Call(name, partial(method, *args, **kwargs)))


def run_serving(name: str, make: Callable[[], Coroutine[Any, Any, _T]], serve: Callable[[], object]) -> _T:
    """Run a coroutine as `run` does, and meanwhile `serve` in this thread, until that returns."""
    refuse_inside_loop(name)
    return _started(name).run(_Call(name, make), serve)


def _started(name: str) -> LoopThread:
    """Return the loop of this process for a call."""
    if _thread is not None:
        return _thread
    if _is_exiting and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()  # only daemon threads are left, and they do not come to an end
    try:
        return current()
    except RuntimeError as error:  # of the interpreter, which starts no threads any more
        raise StateUnavailable(f"{name}: the process ends: nothing was sent") from error


def note_interrupt(name: str, error: BaseException) -> None:
    """Say in what has interrupted a call that it may have had effects."""
    notes = getattr(error, "__notes__", ())
    if not isinstance(error, StateUnavailable) and not any(note.endswith(_CANCELLED) for note in notes):
        error.add_note(f"{name} {_CANCELLED}")


def on_fork(renew: Callable[[], object]) -> None:
    """Call a function in each forked child, after it has forgotten the loop of its parent."""
    _renewals.append(renew)


def on_end(close: Callable[[], object]) -> None:
    """Call a function when the loop of this process ends."""
    _closings.append(close)


def _forget() -> None:
    """Forget the loop of the parent: its thread does not run here."""
    global _thread, _starting
    old, _thread, _starting = _thread, None, threading.Lock()
    if old is not None:
        _abandoned.append(old)
        old.abandon()
    for renew in _renewals:
        renew()


def end() -> None:
    """End the loop of this process. The next call starts another one."""
    global _thread
    with _starting:
        old, _thread = _thread, None
    for close in _closings:
        close()
    if old is not None:
        old.end()


def _exit() -> None:
    global _is_exiting  # noqa: PLW0603
    _is_exiting = True
    end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_exit)

"""The global `stateManager` and `enqueue`: an awaitable where the calling thread runs an event loop, else the result itself.

So async handlers write `await stateManager.get(...)`, and handlers that are plain functions, which run in threads, and scripts
`stateManager.get(...)`. A condition that is a plain function runs in the thread of the event loop, where the awaitable would be
taken for True: there the calls raise.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from motia_redis._steps.context import parse_message
from motia_redis._steps.logs import LOGGER_NAME, current_step
from motia_redis._store.manager import StateManager
from motia_redis._store.typed_scopes import TypedScope
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from types import FrameType

    from motia_redis._store.codec import Coder
    from motia_redis._sync.manager import StateManager as SyncStateManager
    from motia_redis._sync.typed_scopes import TypedScope as SyncTypedScope

T = TypeVar("T")

_log = logging.getLogger(LOGGER_NAME)

#: Methods that are not calls of Redis, or that only an event loop can use.
_AS_THEY_ARE = {"scope", "open_router", "using"}


class Pending(Coroutine[Any, Any, Any]):
    """A call that has to be awaited. One that is dropped is an error in the log, with the step and the line of the call."""

    __slots__ = ("_call", "_coroutine", "_is_awaited", "_place", "_step")

    def __init__(self, call: str, coroutine: Coroutine[Any, Any, Any], frame: FrameType) -> None:
        self._call = call
        self._coroutine = coroutine
        self._is_awaited = False
        self._place = frame.f_code.co_filename, frame.f_lineno
        self._step = current_step()

    def __await__(self) -> Any:
        self._is_awaited = True  # what awaits keeps the coroutine, and not this object
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        """Run the call until it waits."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the call waits."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Give up the call."""
        self._coroutine.close()

    def __del__(self) -> None:
        if self._is_awaited or inspect.getcoroutinestate(self._coroutine) != inspect.CORO_CREATED:
            return
        self._coroutine.close()
        with suppress(Exception):  # nobody is there to catch it
            place = ":".join(map(str, self._place))
            text = f"{self._call} was not awaited at {place}: nothing was done; write `await {self._call}(...)`"
            _log.error(text, extra={"step": self._step, "fields": {}})


class _Here(threading.local):
    """What runs in this thread."""

    is_condition = False  #: a condition that is a plain function


_here = _Here()


@contextmanager
def plain_condition() -> Iterator[None]:
    """Let calls of the global manager raise inside the block, which runs a condition that is a plain function."""
    before, _here.is_condition = _here.is_condition, True
    try:
        yield
    finally:
        _here.is_condition = before


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def answer(call: str, start: Callable[[], Any], run: Callable[[], Any], frame: FrameType) -> Any:
    """Return what `start` returns where an event loop runs, and what `run` returns where none does."""
    if not _is_in_loop():
        return run()
    if _here.is_condition:
        raise StateError(f"{call} in a condition that is a plain function: write `async def`, and `await {call}(...)`")
    started = start()
    return Pending(call, started, frame) if inspect.iscoroutine(started) else started


class GlobalStateManager(StateManager):
    """The manager whose calls answer in both ways."""

    @functools.cached_property
    def plain(self) -> StateManager:
        """The same manager, as others are: its calls answer awaitables."""
        plain = object.__new__(StateManager)
        vars(plain).update(vars(self))
        return plain

    def _with_coder(self, coder: Coder[Any]) -> Any:
        return self.plain._with_coder(coder)

    def scope(self, name: str, model: type[T]) -> TypedScope[T]:
        """Do what `StateManager.scope` does. The calls of the scope answer in both ways, too."""
        checked = super().scope(name, model)
        return GlobalTypedScope(self, checked.name, model)

    @property
    def for_threads(self) -> SyncStateManager:
        """The same manager for threads without an event loop."""
        from motia_redis._sync import manager  # noqa: PLC0415 - most programs do not need it

        return manager.StateManager.of(self.plain)


class GlobalTypedScope(TypedScope[T]):
    """A typed scope of the global manager, whose calls answer in both ways."""

    _untyped: GlobalStateManager

    @functools.cached_property
    def plain(self) -> TypedScope[T]:
        """The same scope, as others are: its calls answer awaitables."""
        return self._untyped.plain.scope(self.name, self.model)

    @property
    def for_threads(self) -> SyncTypedScope[T]:
        """The same scope for threads without an event loop."""
        return self._untyped.for_threads.scope(self.name, self.model)


def _in_both_ways(method: Callable[..., Any], subject: str) -> Callable[..., Any]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: GlobalStateManager | GlobalTypedScope[Any], *args: Any, **kwargs: Any) -> Any:
        return answer(
            f"{subject}.{name}",
            lambda: getattr(self.plain, name)(*args, **kwargs),
            lambda: getattr(self.for_threads, name)(*args, **kwargs),
            sys._getframe(1),  # a traceback costs twenty times as much
        )

    return call


for _kind, _subject in ((GlobalStateManager, "stateManager"), (GlobalTypedScope, "scope")):
    for _name, _method in inspect.getmembers(_kind.__base__, inspect.isfunction):
        if not _name.startswith("_") and _name not in _AS_THEY_ARE:
            setattr(_kind, _name, _in_both_ways(_method, _subject))

#: The global instance. It needs no set-up.
stateManager: StateManager = GlobalStateManager()  # noqa: N816  # Motia's name
#: The same instance under the name that PEP 8 asks for.
state_manager: StateManager = stateManager


def enqueue(
    message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None
) -> Coroutine[Any, Any, str]:
    """Send a message as `FlowContext.enqueue` does, through the global `stateManager`.

    Like the calls of `stateManager`, it answers an awaitable where the calling thread runs an event loop, and else the id of the
    message itself.
    """
    topic, data, key = parse_message(message)
    manager: Any = stateManager
    sent: Coroutine[Any, Any, str] = answer(
        "enqueue",
        lambda: manager.plain.enqueue(topic, data, key=key, delay=delay, at=at),
        lambda: manager.for_threads.enqueue(topic, data, key=key, delay=delay, at=at),
        sys._getframe(1),
    )
    return sent

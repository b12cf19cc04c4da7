"""The current trace id. It goes from an HTTP request through events and messages to the handlers that they fire."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from motia_redis._ids import random_id

if TYPE_CHECKING:
    from collections.abc import Iterator

_trace_id: ContextVar[str | None] = ContextVar("motia_redis_trace_id", default=None)


def new_trace_id() -> str:
    """Return a fresh random trace id of 32 hex digits, the form of the W3C trace context."""
    return random_id(32)


def current_trace_id() -> str | None:
    """Return the trace id of the handler that runs here, or None outside of a handler."""
    return _trace_id.get()


def enter_trace(trace_id: str) -> None:
    """Make `trace_id` the current one for what follows in this task."""
    _trace_id.set(trace_id)


@contextmanager
def trace(trace_id: str) -> Iterator[str]:
    """Make `trace_id` the current one inside the block; events written there carry it."""
    token = _trace_id.set(trace_id)
    try:
        yield trace_id
    finally:
        _trace_id.reset(token)

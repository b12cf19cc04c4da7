"""The current trace. It goes from an HTTP request through events and messages to the handlers that they fire.

A trace is a text, which events carry: a trace id, or a W3C `traceparent`. The latter has the trace id, and the span that is the
parent of what follows; behind it stand a space and the `tracestate`, if there is one.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from motia_redis._ids import random_id

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_CARRIED = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}( [ -~]*)?")
_SIZE = 55  # characters of a `traceparent`
_STATE = re.compile(r"[ -~]{1,512}")  # W3C: what every system has to pass on

_trace: ContextVar[str | None] = ContextVar("motia_redis_trace", default=None)


def new_trace_id() -> str:
    """Return a fresh random trace id of 32 hex digits, the form of the W3C trace context."""
    return random_id(32)


def trace_of_headers(parent: str, state: str) -> str | None:
    """Return the trace of the headers `traceparent` and `tracestate`; None if the first one is not valid."""
    match = _HEADER.fullmatch(parent.strip())
    # Version 00 has exactly four fields; later ones may have more.
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    parent, state = f"00-{match[2]}-{match[3]}-{match[4]}", state.strip()
    return f"{parent} {state}" if _STATE.fullmatch(state) else parent


def trace_id_of(trace: str) -> str:
    """Return the trace id of a trace. What another client wrote into an event may be any text, which counts as an id."""
    return trace[3:35] if has_parent(trace) else trace


def has_parent(trace: str) -> bool:
    """Return whether a trace names a span."""
    return len(trace) >= _SIZE and _CARRIED.fullmatch(trace) is not None


def current_trace() -> str | None:
    """Return the trace of the handler that runs here, or None outside of a handler."""
    return _trace.get()


def current_trace_id() -> str | None:
    """Return the trace id of the handler that runs here, or None outside of a handler."""
    trace = _trace.get()
    return None if trace is None else trace_id_of(trace)


def enter_trace(trace: str) -> None:
    """Make `trace` the current one for what follows in this task."""
    _trace.set(trace)


@contextmanager
def trace(trace: str) -> Iterator[str]:
    """Make `trace` the current one inside the block; events written there carry it."""
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)

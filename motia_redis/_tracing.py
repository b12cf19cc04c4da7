"""The current trace. It goes from an HTTP request through events and messages to the handlers that they fire.

A trace is a text, which events carry: a trace id, or a W3C `traceparent`. The latter has the trace id, and the span that is the
parent of what follows; behind it stand a space and the `tracestate`, if there is one.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from motia_redis._ids import random_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
    from contextlib import AbstractContextManager
    from contextvars import Token

_T = TypeVar("_T")

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


class SpanTrace(str):
    """A trace that was found to name a span, so that nobody has to look again."""

    __slots__ = ()


def has_parent(trace: str) -> bool:
    """Return whether a trace names a span."""
    return isinstance(trace, SpanTrace) or (len(trace) >= _SIZE and _CARRIED.fullmatch(trace) is not None)


def is_sampled(trace: str) -> bool:
    """Return whether a trace names a span that is recorded."""
    return has_parent(trace) and trace[54] in "13579bdf"  # the lowest bit of the flags


def current_trace() -> str | None:
    """Return the trace of the handler that runs here, or None outside of a handler."""
    return _trace.get()


def current_trace_id() -> str | None:
    """Return the trace id of the handler that runs here, or None outside of a handler."""
    trace = _trace.get()
    return None if trace is None else trace_id_of(trace)


def enter_trace(trace: str) -> Token[str | None]:
    """Make `trace` the current one for what follows in this task. `leave_trace` undoes it."""
    return _trace.set(trace)


def leave_trace(token: Token[str | None]) -> None:
    """Make the trace the current one that was it before."""
    _trace.reset(token)


@contextmanager
def trace(trace: str) -> Iterator[str]:
    """Make `trace` the current one inside the block; events written there carry it."""
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


class CallSpan(Protocol):
    """The span of one call of state, repetitions included."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object, /) -> None: ...

    def ended(self, result: _T, /) -> _T:
        """Note what a call that succeeded has returned, and return that."""
        ...


class Spans(Protocol):
    """Make the spans of this process. `motia_redis._telemetry` does, so that nothing else needs OpenTelemetry."""

    def wants(self, operation: str, /) -> bool:
        """Return whether a call of state has a span here."""
        ...

    def call(self, subject: object, operation: str, router: Any, /) -> CallSpan:
        """Return the span of a call. What the call writes carries the span as its trace."""
        ...

    def receive(self, trace: str, facts: Mapping[str, str], /) -> str:
        """Return in which trace the handlers of an entry run that carries this one, which names no span, or none."""
        ...

    def handling(self, step: str, invoke: Callable[..., Awaitable[Any]], /) -> Callable[..., Awaitable[Any]]:
        """Return `invoke`, with a span around each call of a handler."""
        ...

    def request(self, scope: MutableMapping[str, Any], trace: str, /) -> AbstractContextManager[str]:
        """Return a block in which an HTTP request with this trace is answered. It gives the trace that is current in it."""
        ...

    def found(self, scope: MutableMapping[str, Any], path: str, /) -> None:
        """Note the route of a request."""
        ...

    def answered(self, scope: MutableMapping[str, Any], status: int, /) -> None:
        """Note the status of the response to a request."""
        ...


spans: Spans | None = None  #: of this process; None = none are made

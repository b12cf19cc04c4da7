"""From the trace that an event carries to contexts of OpenTelemetry, and back."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, TraceFlags, TraceState, set_span_in_context

_NOTHING = Context()
_KEY = next(iter(set_span_in_context(INVALID_SPAN, _NOTHING)))  # of the span in a context: a dict is made faster than by the API
_PARENT_SIZE = 55  # characters of a `traceparent`
_STATE_SIZE = 512  # characters of a `tracestate` that every system passes on


def span_context_of(trace: str) -> SpanContext:
    """Return the span that a trace names."""
    state = TraceState.from_header([trace[_PARENT_SIZE + 1 :]]) if len(trace) > _PARENT_SIZE else None
    return SpanContext(int(trace[3:35], 16), int(trace[36:52], 16), True, TraceFlags(int(trace[53:55], 16)), state)


def trace_of(context: SpanContext) -> str:
    """Return the trace that names a span."""
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header() if context.trace_state else ""
    return f"{parent} {state}" if 0 < len(state) <= _STATE_SIZE else parent


class Unsampled(NonRecordingSpan):
    """A span of another process that is not recorded, so that no other of its trace is. It is read only if somebody asks."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def get_span_context(self) -> SpanContext:
        """Return what the trace says."""
        return span_context_of(self.trace)


def alone(span: Span) -> Context:
    """Return a context of a span and nothing else."""
    return Context({_KEY: span})


def remote(trace: str | None) -> Context:
    """Return the context of the span that a trace names; an empty one, in which a new trace begins, if it names none."""
    return _NOTHING if trace is None else alone(NonRecordingSpan(span_context_of(trace)))

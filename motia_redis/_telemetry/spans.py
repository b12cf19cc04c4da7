"""Make spans: for changes and messages, for handlers, for HTTP requests and, if that is asked for, for single calls.

Names and attributes are those of the semantic conventions for messaging, databases and HTTP. No attribute holds a key, a value,
or the text of an error, which may quote a value.

The decision not to sample is taken once, where a trace begins. Who carries on such a trace makes no spans and asks no sampler:
the default sampler of OpenTelemetry would say no, too. That makes it cheap.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span, get_tracer, set_span_in_context

from motia_redis._scripts import storage as scripts
from motia_redis._store.keyspace import Sending, Subject
from motia_redis._store.stream_groups import StreamGroup, scope_name
from motia_redis._telemetry.contexts import Unsampled, alone, remote, span_context_of, trace_of
from motia_redis._tracing import current_trace, enter_trace, has_parent, is_sampled, leave_trace
from motia_redis._version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from motia_redis._steps.context import FlowContext, TriggerInfo
    from motia_redis._transport.router import Router

_T = TypeVar("_T")

CONVENTIONS: Final = "https://opentelemetry.io/schemas/1.40.0"
_SYSTEM: Final = "redis"
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_SPAN = "motia_redis.span"  # of a request, in its ASGI scope

#: Calls that write events and messages.
SENDS: Final = frozenset({"set", "update", "delete", "drop", "expire", "transaction", "enqueue"})
_PIPELINE = "PIPELINE"
#: What a call runs: a command of Redis in capitals, or a script. Other calls are internal, and have no spans.
COMMANDS: Final = {
    "get": "HGET",
    "get_many": "HMGET",
    "entry": "get_entry",
    "set": "mutate",
    "update": "mutate",
    "delete": "mutate",
    "expire": "mutate",
    "transaction": "transact",
    "enqueue": "enqueue",
    "cancel": "cancel_message",
    **dict.fromkeys(("count", "scan", "keys", "list_groups"), _PIPELINE),  # several commands
}

_is_inside: ContextVar[bool] = ContextVar("motia_redis_is_inside_span", default=False)


class Spans:
    """Make the spans of this process. `calls`: single calls have spans, too."""

    def __init__(self, provider: TracerProvider | None, *, calls: bool) -> None:
        self._tracer = get_tracer("motia_redis", __version__, provider, CONVENTIONS)
        self._wanted = SENDS | COMMANDS.keys() if calls else SENDS
        self._calls = calls

    def wants(self, operation: str) -> bool:
        """Return whether a call of state has a span here: nothing that runs inside of a call has one of its own."""
        return operation in self._wanted and not _is_inside.get()

    def call(self, subject: object, operation: str, router: Router) -> _Call:
        """Return the span of a call. What the call writes carries the span as its trace."""
        return _Call(self._tracer, subject, operation, router if self._calls else None)

    def receive(self, trace: str, facts: Mapping[str, str]) -> str:
        """Return in which trace the handlers of an entry run whose trace names no span, or that has none.

        Such are an expiry, a time of a cron trigger, what a process without telemetry wrote. A trace begins here, with a span of
        its own, so that all attempts are in one trace.
        """
        destination = facts.get("topic") or facts.get("stream") or facts.get("scope") or "cron"
        attributes = _messaging("receive", destination)
        if trace:
            attributes["motia_redis.trace_id"] = trace  # in which its writer logs
        span = self._tracer.start_span(f"receive {destination}", remote(None), SpanKind.CONSUMER, attributes)
        span.end()
        context = span.get_span_context()
        return trace_of(context) if context.is_valid else trace

    def handling(self, step: str, invoke: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return `invoke`, with a span around each call of a handler."""

        async def call(handler: Callable[..., Any], input: Any, ctx: FlowContext, *arguments: Any) -> Any:
            carried = current_trace() or ""
            if not has_parent(carried):  # no SDK is configured
                return await invoke(handler, input, ctx, *arguments)
            if not is_sampled(carried):
                token = attach(alone(Unsampled(carried)))
                try:
                    return await invoke(handler, input, ctx, *arguments)
                finally:
                    detach(token)
            with self._process(step, ctx.trigger, carried):
                return await invoke(handler, input, ctx, *arguments)

        return call

    @contextmanager
    def _process(self, step: str, trigger: TriggerInfo, carried: str) -> Iterator[None]:
        """Open the span of one attempt. Its parent, and its link, is what wrote the entry."""
        destination = trigger.topic or trigger.stream or trigger.scope or "cron"
        attributes = _messaging("process", destination)
        attributes["messaging.consumer.group.name"] = step
        if message_id := trigger.message_id or trigger.revision:
            attributes["messaging.message.id"] = message_id
        if trigger.attempt is not None:
            attributes["motia_redis.attempt"] = trigger.attempt
        links = [Link(span_context_of(carried))]
        span = self._tracer.start_span(f"process {destination}", remote(carried), SpanKind.CONSUMER, attributes, links)
        with _current(span, carried):
            yield

    @contextmanager
    def request(self, scope: MutableMapping[str, Any], trace: str) -> Iterator[str]:
        """Open a block in which an HTTP request is answered that came with this trace, and yield the trace that is current in it.

        If an instrumentation of the server has opened a span for the request, that is the one; else a span is opened here.
        """
        context = get_current_span().get_span_context()
        if context.is_valid:
            with _entered(trace_of(context)) as current:
                yield current
            return
        parent = trace if has_parent(trace) else None
        if parent is not None and not is_sampled(parent):
            with _current(Unsampled(parent), parent) as current:
                yield current
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
        }
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracer.start_span(name, remote(parent), SpanKind.SERVER, attributes)
        scope[_SPAN] = span, name
        with _current(span, trace) as current:
            yield current

    def found(self, scope: MutableMapping[str, Any], path: str) -> None:
        """Note the route of a request."""
        if _SPAN in scope:
            span, name = scope[_SPAN]
            span.update_name(f"{name} {path}")
            span.set_attribute("http.route", path)

    def answered(self, scope: MutableMapping[str, Any], status: int) -> None:
        """Note the status of the response to a request."""
        if _SPAN in scope:
            span, _ = scope[_SPAN]
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", str(status))


class _Call:
    """The spans of one call, repetitions included: of what it sends, and inside of it that of the call itself."""

    __slots__ = ("_inside", "_operation", "_router", "_spans", "_subject", "_trace", "_tracer")

    def __init__(self, tracer: Tracer, subject: object, operation: str, router: Router | None) -> None:
        self._tracer = tracer
        self._subject = subject
        self._operation = operation
        self._router = router
        self._spans: list[Span] = []
        self._trace: Token[str | None] | None = None

    def __enter__(self) -> Self:
        self._inside = _is_inside.set(True)
        parent = _parent()
        if parent is None:
            return self
        if self._operation in SENDS:
            self._send(parent)
        if self._router is not None and self._operation in COMMANDS:
            if self._spans:
                parent = set_span_in_context(self._spans[0], parent)
            name, attributes = _database(self._operation, self._router)
            self._spans.append(self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes))
        return self

    def _send(self, parent: Context) -> None:
        subject = self._subject
        sent = subject.destinations if isinstance(subject, Sending) else [subject.scope] if isinstance(subject, Subject) else []
        destinations = {_name(each) for each in sent}
        destination = destinations.pop() if len(destinations) == 1 else ""
        attributes = _messaging("send", destination)
        attributes["motia_redis.operation"] = self._operation
        if self._operation == "transaction" or len(sent) != 1:
            attributes["messaging.batch.message_count"] = len(sent)
        span = self._tracer.start_span(f"send {destination}".rstrip(), parent, SpanKind.PRODUCER, attributes)
        self._spans.append(span)
        context = span.get_span_context()
        if context.is_valid:
            self._trace = enter_trace(trace_of(context))

    def ended(self, result: _T) -> _T:
        """Note the id of the event or message, and return the result."""
        if self._spans and self._spans[0].is_recording() and self._operation in SENDS:
            if isinstance(result, scripts.Mutated) and result.revision:
                self._spans[0].set_attribute("messaging.message.id", result.revision.decode())
            elif isinstance(result, scripts.Enqueued):
                self._spans[0].set_attribute("messaging.message.id", result.request.decode())
                if b"-" not in result.entry_id and len(self._spans) > 1:  # it waits
                    self._spans[1].set_attribute("db.stored_procedure.name", "delay_message")
        return result

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        _is_inside.reset(self._inside)
        if self._trace is not None:
            leave_trace(self._trace)
        for span in reversed(self._spans):
            _end(span, error)


def _parent() -> Context | None:
    """Return the context of a new span; None: it would not be sampled."""
    current = get_current_span()
    if isinstance(current, Unsampled):
        return None
    if current.get_span_context().is_valid:
        return get_current()
    carried = current_trace()
    if carried is None or not has_parent(carried):
        return remote(None)
    return remote(carried) if is_sampled(carried) else None


def _messaging(operation: str, destination: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if destination:
        attributes["messaging.destination.name"] = destination
    return attributes


def _database(operation: str, router: Router) -> tuple[str, dict[str, str]]:
    """Return what the span of a call runs, and its attributes."""
    command, attributes = COMMANDS[operation], {"db.system.name": _SYSTEM, "motia_redis.operation": operation}
    if not command.islower():
        return command, attributes | {"db.operation.name": command}
    how = "FCALL" if router.functions is None or router.functions.usable else "EVALSHA"
    return f"{how} {command}", attributes | {"db.operation.name": how, "db.stored_procedure.name": command}


def _name(destination: object) -> str:
    """Return a scope or topic as spans name it; of a group of an item stream, the stream."""
    text = destination.decode(errors="replace") if isinstance(destination, bytes) else str(destination)
    scope = scope_name(text)
    return scope.stream if isinstance(scope, StreamGroup) else scope


@contextmanager
def _entered(trace: str) -> Iterator[str]:
    token = enter_trace(trace)
    try:
        yield trace
    finally:
        leave_trace(token)


@contextmanager
def _current(span: Span, trace: str) -> Iterator[str]:
    """Make a span the current one, of OpenTelemetry and here, and end it with the block. Without an SDK `trace` stays current."""
    context = span.get_span_context()
    token = attach(alone(span))
    try:
        with _entered(trace_of(context) if context.is_valid else trace) as current:
            yield current
    except BaseException as error:
        _end(span, error)
        raise
    else:
        _end(span, None)
    finally:
        detach(token)


def _end(span: Span, error: BaseException | None) -> None:
    """End a span, with the class of an error."""
    if error is not None and span.is_recording():
        kind = type(error)
        span.set_attribute(
            "error.type", kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        span.set_status(Status(StatusCode.ERROR))
    span.end()

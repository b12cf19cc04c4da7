"""Triggers: the HTTP requests, changes of state, messages and times that a step reacts to."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from urllib.parse import unquote

from motia_redis._steps.context import FlowContext
from motia_redis._steps.http_options import (
    ApiCondition,
    ApiMiddleware,
    QueryParam,
    middleware_problem,
    query_param,
    query_params_problem,
    response_status,
    schemas_problem,
)
from motia_redis._steps.inputs import StateTriggerInput
from motia_redis._steps.invocation import check_function
from motia_redis._steps.models import snake_case
from motia_redis._steps.retrying import config_problem
from motia_redis._steps.schemas import schema_problem
from motia_redis._steps.stream_triggers import StreamTrigger
from motia_redis._steps.where import where_problem
from motia_redis._store.keyspace import RESERVED
from motia_redis._store.stream_groups import StreamGroup
from motia_redis._store.typed_scopes import TypedScope

if TYPE_CHECKING:
    # `Condition` alone means `Condition[Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

#: The methods that an http trigger accepts.
HttpMethod: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
HTTP_METHODS: tuple[HttpMethod, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

#: What decides whether a change fires: a sync or async function of `(input, ctx)` or `(input)`.
Condition: TypeAlias = (
    Callable[[StateTriggerInput[T], FlowContext], bool | Awaitable[bool]]
    | Callable[[StateTriggerInput[T]], bool | Awaitable[bool]]
)

#: The same for messages and times.
InputCondition: TypeAlias = Callable[[Any, FlowContext], bool | Awaitable[bool]] | Callable[[Any], bool | Awaitable[bool]]

#: What becomes of the times that were missed: the latest fires, for all of them, or none.
Missed: TypeAlias = Literal["once", "skip"]
MISSED: tuple[Missed, ...] = ("once", "skip")

_PARAMETER = re.compile(r":[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """Describe an HTTP route, with what its requests and responses must match and what runs around its handler.

    `:name` as a whole path segment is a parameter.
    """

    method: HttpMethod
    path: str
    body_schema: Any = field(default=None, hash=False)
    response_schema: Mapping[int, Any] = field(default_factory=dict[int, Any], hash=False)
    query_params: tuple[QueryParam, ...] = ()
    middleware: tuple[ApiMiddleware, ...] = ()
    condition: ApiCondition | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def segments(self) -> tuple[str, ...]:
        """The decoded segments of the path, without the empty one that a trailing slash leaves; `:name` as written."""
        parts = self.path[1:].removesuffix("/").split("/") if self.path != "/" else []
        return tuple(part if part.startswith(":") else unquote(part) for part in parts)

    @property
    def shape(self) -> tuple[str, tuple[str | None, ...]]:
        """Method and path with parameters as None: two routes of one shape answer the same requests."""
        return self.method, tuple(None if part.startswith(":") else part for part in self.segments)

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if self.method not in HTTP_METHODS:
            return f"the method of an http trigger must be one of {', '.join(HTTP_METHODS)}, not {self.method!r}"
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            return f"the path of an http trigger must be text that begins with a slash, not {self.path!r}"
        if "?" in self.path or "#" in self.path or not self.path.isprintable():
            return f"the path of an http trigger must have no query, fragment or control character: {self.path!r}"
        if self.condition is not None and (problem := check_function(self.condition)):
            return f"the condition of an http trigger {problem}"
        return (
            self._segment_problem()
            or schemas_problem(self.body_schema, self.response_schema)
            or query_params_problem(self.query_params)
            or middleware_problem(self.middleware)
        )

    def _segment_problem(self) -> str | None:
        segments = self.segments
        for segment in segments:
            if not segment:
                return f"the path of an http trigger must have no empty segment: {self.path!r}"
            if segment.startswith(":") and not _PARAMETER.fullmatch(segment):
                return f"a path parameter must be ':' and letters, digits and '_', not {segment!r} in {self.path!r}"
            if segment.startswith(":") and segments.count(segment) > 1:
                return f"the path parameter {segment!r} stands twice in {self.path!r}; give each a name of its own"
        return None


@dataclass(frozen=True, slots=True)
class StateTrigger:
    """Describe the changes of state that fire a step: of all scopes, of one or of one key, narrowed by members and a condition.

    The items of streams are not among them.
    """

    condition: Condition | None = None
    scope: str | None = None
    key: str | None = None
    typed: TypedScope[Any] | None = None  #: what gives the values of the input their type
    where: Mapping[str, Any] | None = field(default=None, hash=False)  #: what members of the new value must equal

    def __str__(self) -> str:
        place = "/".join(name for name in (self.scope, self.key) if name is not None)
        return f"state {place or 'of all scopes'}" + _narrowed(self.where, self.condition)

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if problem := _where_problem(self.where, "state") or _condition_problem(self.condition, "state"):
            return problem
        for label, value in (("scope", self.scope), ("key", self.key)):
            if value is not None and (not isinstance(value, str) or not value):
                return f"the {label} of a state trigger must be text that is not empty, not {value!r}"
        if isinstance(self.scope, StreamGroup):
            return f"a state trigger does not fire for scope {self.scope!r}: use stream({self.scope.stream!r}, group_id=...)"
        if self.scope is not None and self.scope.startswith(RESERVED.decode()):
            return f"the scope of a state trigger begins with {RESERVED.decode()!r}, which is reserved: {self.scope!r:.80}"
        if self.key is not None and self.scope is None:
            return f"a state trigger with key={self.key!r} needs scope= as well"
        return None


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """Describe the messages that fire a step: those of one topic, narrowed by members and a condition."""

    topic: str
    condition: InputCondition | None = None
    input: Any = None  #: the schema of the data
    config: Mapping[str, Any] | None = None  #: how often and when attempts are made, where it is not as the step says
    where: Mapping[str, Any] | None = field(default=None, hash=False)  #: what members of the data must equal

    def __str__(self) -> str:
        return f"queue {self.topic}" + _narrowed(self.where, self.condition)

    @property
    def concurrency(self) -> int | None:
        """How many handlers of the step may run at once in one worker, by the configuration of this trigger."""
        return next((value for name, value in (self.config or {}).items() if snake_case(name) == "concurrency"), None)

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if not isinstance(self.topic, str) or not self.topic or not self.topic.isprintable():
            return f"the topic of a queue trigger must be printable text that is not empty, not {self.topic!r}"
        if self.config is not None and (problem := config_problem(self.config)):
            return problem
        if self.input is not None and (problem := schema_problem(self.input)):
            return f"the input of a queue trigger: {problem}"
        return _where_problem(self.where, "queue") or _condition_problem(self.condition, "queue")


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """Describe the times that fire a step: those of a cron expression in a time zone."""

    expression: str
    timezone: str = "UTC"
    missed: Missed = "once"
    condition: InputCondition | None = None

    def __str__(self) -> str:
        return f"cron {self.expression} ({self.timezone})" + ("" if self.condition is None else " (condition)")

    @property
    def schedule(self) -> str:
        """The name of the schedule: its time zone, and the fields of its expression."""
        from motia_redis._steps import cron_times  # noqa: PLC0415 - only steps with a cron trigger need cronsim

        return f"{self.timezone} {cron_times.canonical(self.expression)}"

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        from motia_redis._steps import cron_times  # noqa: PLC0415 - as above

        if problem := cron_times.expression_problem(self.expression) or cron_times.zone_problem(self.timezone):
            return problem
        if self.missed not in MISSED:
            return f"'missed' of a cron trigger must be one of {', '.join(map(repr, MISSED))}, not {self.missed!r:.80}"
        return _condition_problem(self.condition, "cron")


def _narrowed(where: Mapping[str, Any] | None, condition: object) -> str:
    """Return what narrows a trigger, for people."""
    parts = ["condition"] if condition is not None else []
    if where is not None:
        parts.insert(0, "where " + ", ".join(f"{name}={value!r:.40}" for name, value in where.items()))
    return f" ({', '.join(parts)})" if parts else ""


def _where_problem(where: object, kind: str) -> str | None:
    return None if where is None else where_problem(where, kind)


def _condition_problem(condition: object, kind: str) -> str | None:
    if condition is not None and (problem := check_function(condition)):
        return f"the condition of a {kind} trigger {problem}"
    return None


#: What http(...), state(...), queue(...), cron(...) and stream(...) return.
Trigger: TypeAlias = HttpTrigger | StateTrigger | QueueTrigger | CronTrigger | StreamTrigger


def http(
    method: HttpMethod,
    path: str,
    *,
    body_schema: Any = None,
    response_schema: Mapping[int, Any] | None = None,
    query_params: Sequence[QueryParam | Mapping[str, str]] | None = None,
    middleware: Sequence[ApiMiddleware] | None = None,
    condition: ApiCondition | None = None,
) -> HttpTrigger:
    """Return a trigger that fires on HTTP requests. `api` is another name for this function.

    Arguments:
        method: the HTTP method. A route for GET also answers HEAD.
        path: the path, which begins with a slash. `:name` as a whole segment is a parameter: its decoded value is
            `request.path_params["name"]`. A literal segment takes precedence over a parameter.
        body_schema: what the body of a request must match: a JSON Schema (a dict; needs the extra `jsonschema`), or a pydantic
            model, a dataclass, a TypedDict or another type (needs the extra `typed`). Another body is answered with 400 and the
            places that do not match. JSON is checked strictly: text is no number. The handler gets the plain body.
        response_schema: a schema for each status. A response that does not match the schema of its status is not sent: the
            answer is 500, and the log has the places. Other statuses are not checked.
        query_params: the query parameters that the handler reads, each a QueryParam or a dict of its fields; for readers.
        middleware: functions of `(request, ctx, next)`, async or sync, the first outermost. Each returns a response, its own
            or that of `await next()`, which can be called once.
        condition: a function of `(request, ctx)` or `(request)` that decides whether the request reaches middleware and handler.
            If it returns a false value, the answer is 422. A sync one runs on the event loop and must not block.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    # What does not fit is kept as it is, for `problem` to name it.
    schemas: Any = {} if response_schema is None else response_schema
    params: Any = () if query_params is None else query_params
    functions: Any = () if middleware is None else middleware
    return HttpTrigger(
        # Lower-case names are accepted at run time; type checkers know the standard spelling.
        method.upper() if isinstance(method, str) else method,  # type: ignore[arg-type]
        path,
        body_schema,
        {response_status(status): schema for status, schema in schemas.items()} if isinstance(schemas, Mapping) else schemas,
        tuple(map(query_param, params)) if isinstance(params, list | tuple) else params,
        tuple(functions) if isinstance(functions, list | tuple) else functions,
        condition,
    )


api = http


@overload
def state(
    condition: Condition | None = None,
    *,
    scope: str | None = None,
    key: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> StateTrigger: ...
@overload
def state(
    condition: Condition[T] | None = None,
    *,
    scope: TypedScope[T],
    key: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> StateTrigger: ...
def state(
    condition: Condition[Any] | None = None,
    *,
    scope: str | TypedScope[Any] | None = None,
    key: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> StateTrigger:
    """Return a trigger that fires on changes of state.

    Arguments:
        condition: a function of `(input, ctx)` or `(input)` that decides whether a change fires. It must depend only on its
            input: it runs as soon as the event is read, while handlers of earlier events may still run. A sync one runs on
            the event loop and must not block. One that raises is a failed attempt.
        scope: only changes of this scope fire. None: those of all scopes, but not those of streams. Scope and key are compared
            before the condition runs and cost less. With a typed scope (`stateManager.scope("users", User)`) the condition and
            the handler get a `StateTriggerInput[User]`: the values are of its type, and an event with another value is a failed
            attempt, which raises SchemaMismatch.
        key: only changes of this key in `scope` fire.
        where: only changes fire after which the value has these members, such as `{"status": "paid"}`. A name that begins with a
            slash is a JSON Pointer: `{"/customer/country": "DE", "/lines/0/count": 1}`. All must be equal, as JSON is: numbers by
            value, true is not 1, objects in any order; null is equal to a member that is null, not to one that is missing. A
            deletion does not fire. It is compared with the stored JSON, before `condition` is called, and costs a search of the
            text for what does not fire: no value is decoded.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    if isinstance(scope, TypedScope):
        return StateTrigger(condition, scope.name, key, scope, where)
    return StateTrigger(condition, scope, key, where=where)


def queue(
    topic: str,
    *,
    input: Any = None,
    config: Mapping[str, Any] | None = None,
    condition: InputCondition | None = None,
    where: Mapping[str, Any] | None = None,
) -> QueueTrigger:
    """Return a trigger that fires on messages of a topic.

    Arguments:
        topic: the topic that the messages are sent to with `enqueue`.
        input: the schema of the data: a pydantic model, another type that pydantic knows, or a JSON Schema as a dict. Then each
            message is checked, with the extra `typed` or `jsonschema`, and a model or dataclass gives the handler an object of
            it. One that does not match is a failed attempt, which raises SchemaMismatch.
        config: how attempts are made at messages of this topic, where that is not as the step says: `max_retries` (after the
            first attempt), `backoff_delay_ms` (before the second one), `backoff_type` ("fixed" or "exponential") and
            `visibility_timeout` (seconds that an attempt of an async handler may take). `concurrency` is that of the step: how
            many of its handlers run at once in one worker. Motia's names in camel case are accepted, and its `type`, which
            changes nothing: messages with one key are handled in their order.
        condition: a function of `(data, ctx)` or `(data)` that decides whether a message fires; see `state`. A message that fires
            nothing is acknowledged.
        where: only messages fire whose data has these members; see `state`. It is compared with the JSON that was sent, before
            `input` checks it.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    given: Any = config
    if hasattr(given, "model_dump"):  # an object of pydantic
        given = given.model_dump()
    return QueueTrigger(topic, condition, input, given, where)


def cron(
    expression: str, *, timezone: str = "UTC", missed: Missed = "once", condition: InputCondition | None = None
) -> CronTrigger:
    """Return a trigger that fires at times, each once over all workers. The clock of the Redis server decides.

    Arguments:
        expression: minute, hour, day of month, month and day of week, as for Debian's cron, such as `*/5 * * * *` and
            `30 8 * * MON-FRI`; or `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`. Six fields begin with the second.
        timezone: the IANA name of the time zone of the expression, such as `Europe/Berlin`.
        missed: what happens when no worker has run, or Redis was away, at times of the expression. A time that is late by up to
            60 s was not missed. "once": the latest of the times fires, once for all of them. "skip": none does.
        condition: a function of `(input, ctx)` or `(input)` that decides whether a time fires; see `state`.

    A new or changed expression fires from the time on at which a worker runs with it first.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    return CronTrigger(expression, timezone, missed, condition)

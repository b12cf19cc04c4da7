"""Triggers: the HTTP requests, changes of state and messages that a step reacts to."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from urllib.parse import unquote

from motia_redis._steps.context import FlowContext
from motia_redis._steps.inputs import StateTriggerInput
from motia_redis._steps.invocation import check_function
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

_PARAMETER = re.compile(r":[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """Describe an HTTP route; `:name` as a whole path segment is a parameter."""

    method: HttpMethod
    path: str

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
        return self._segment_problem()

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
    """Describe the changes of state that fire a step: of all scopes, of one or of one key, narrowed by a condition."""

    condition: Condition | None = None
    scope: str | None = None
    key: str | None = None
    typed: TypedScope[Any] | None = None  #: what gives the values of the input their type

    def __str__(self) -> str:
        place = "/".join(name for name in (self.scope, self.key) if name is not None)
        return f"state {place or 'of all scopes'}" + ("" if self.condition is None else " (condition)")

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if self.condition is not None and (problem := check_function(self.condition)):
            return f"the condition of a state trigger {problem}"
        for label, value in (("scope", self.scope), ("key", self.key)):
            if value is not None and (not isinstance(value, str) or not value):
                return f"the {label} of a state trigger must be text that is not empty, not {value!r}"
        if self.key is not None and self.scope is None:
            return f"a state trigger with key={self.key!r} needs scope= as well"
        return None


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """Describe the messages that fire a step: those of one topic."""

    topic: str

    def __str__(self) -> str:
        return f"queue {self.topic}"

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if not isinstance(self.topic, str) or not self.topic or not self.topic.isprintable():
            return f"the topic of a queue trigger must be printable text that is not empty, not {self.topic!r}"
        return None


#: What http(...), state(...) and queue(...) return.
Trigger: TypeAlias = HttpTrigger | StateTrigger | QueueTrigger


def http(method: HttpMethod, path: str) -> HttpTrigger:
    """Return a trigger that fires on HTTP requests.

    Arguments:
        method: the HTTP method. A route for GET also answers HEAD.
        path: the path, which begins with a slash. `:name` as a whole segment is a parameter: its decoded value is
            `request.path_params["name"]`. A literal segment takes precedence over a parameter.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    # Lower-case names are accepted at run time; type checkers know the standard spelling.
    return HttpTrigger(method.upper() if isinstance(method, str) else method, path)  # type: ignore[arg-type]


@overload
def state(condition: Condition | None = None, *, scope: str | None = None, key: str | None = None) -> StateTrigger: ...
@overload
def state(condition: Condition[T] | None = None, *, scope: TypedScope[T], key: str | None = None) -> StateTrigger: ...
def state(
    condition: Condition[Any] | None = None, *, scope: str | TypedScope[Any] | None = None, key: str | None = None
) -> StateTrigger:
    """Return a trigger that fires on changes of state.

    Arguments:
        condition: a function of `(input, ctx)` or `(input)` that decides whether a change fires. It must depend only on its
            input: it runs as soon as the event is read, while handlers of earlier events may still run. A sync one runs on
            the event loop and must not block. One that raises is a failed attempt.
        scope: only changes of this scope fire. Scope and key are compared before the condition runs and cost less. With a typed
            scope (`stateManager.scope("users", User)`) the condition and the handler get a `StateTriggerInput[User]`: the values
            are of its type, and an event with another value is a failed attempt, which raises SchemaMismatch.
        key: only changes of this key in `scope` fire.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    if isinstance(scope, TypedScope):
        return StateTrigger(condition, scope.name, key, scope)
    return StateTrigger(condition, scope, key)


def queue(topic: str) -> QueueTrigger:
    """Return a trigger that fires on messages of a topic.

    Arguments:
        topic: the topic that the messages are sent to with `enqueue`.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    return QueueTrigger(topic)

"""Steps: what a piece of an application reacts to, how it is delivered to, and the function that does the work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from motia_redis._steps.invocation import Function, check_function, is_async
from motia_redis.errors import StepError

__all__ = [
    "HTTP_METHODS",
    "MAX_NAME_LENGTH",
    "HttpTrigger",
    "QueueTrigger",
    "StateTrigger",
    "Step",
    "Trigger",
    "http",
    "queue",
    "state",
    "step",
]

HTTP_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
MAX_NAME_LENGTH = 128

# A name becomes part of Redis keys and a consumer group's name, and is read in one-line logs.
_NAME = re.compile(r"[\w.\-](?:[\w.\- ]*[\w.\-])?")
_PARAMETER = re.compile(r":[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """An HTTP route; `:name` as a whole path segment is a parameter."""

    method: str
    path: str

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
            return f"the method of an http trigger is {', '.join(HTTP_METHODS)}, not {self.method!r}"
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            return f"the path of an http trigger is text that begins with a slash, not {self.path!r}"
        if "?" in self.path or "#" in self.path or not self.path.isprintable():
            return f"the path of an http trigger has no query, fragment or control character: {self.path!r}"
        return self._segment_problem()

    def _segment_problem(self) -> str | None:
        segments = self.segments
        for segment in segments:
            if not segment:
                return f"the path of an http trigger has no empty segment: {self.path!r}"
            if segment.startswith(":") and not _PARAMETER.fullmatch(segment):
                return f"a path parameter is ':' and letters, digits and '_', not {segment!r} in {self.path!r}"
            if segment.startswith(":") and segments.count(segment) > 1:
                return f"the path parameter {segment!r} stands twice in {self.path!r}"
        return None


@dataclass(frozen=True, slots=True)
class StateTrigger:
    """Changes of state, narrowed to a scope or one key of it and by a condition."""

    condition: Function | None = None
    scope: str | None = None
    key: str | None = None

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if self.condition is not None and (trouble := check_function(self.condition)):
            return f"the condition of a state trigger {trouble}"
        for label, value in (("scope", self.scope), ("key", self.key)):
            if value is not None and (not isinstance(value, str) or not value):
                return f"the {label} of a state trigger is text that is not empty, not {value!r}"
        if self.key is not None and self.scope is None:
            return f"a state trigger with key={self.key!r} needs scope= as well"
        return None


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """Messages of one topic, sent with `enqueue`."""

    topic: str

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if not isinstance(self.topic, str) or not self.topic or not self.topic.isprintable():
            return f"the topic of a queue trigger is printable text that is not empty, not {self.topic!r}"
        return None


Trigger = HttpTrigger | StateTrigger | QueueTrigger


def http(method: str, path: str) -> HttpTrigger:
    """Fire on HTTP requests with this method and path; `:name` as a whole path segment is a parameter."""
    return HttpTrigger(method.upper() if isinstance(method, str) else method, path)


def state(condition: Function | None = None, *, scope: str | None = None, key: str | None = None) -> StateTrigger:
    """Fire on changes of state: all of them, those of `scope`, or those of `key` in `scope`.

    `condition` takes `(input, ctx)` or `(input)`, is sync or async, and decides whether a change fires. One that
    raises is a failed attempt. `scope` and `key` are compared before it runs, so they are the cheaper filter. A sync one runs
    on the event loop, not in a thread: it must not block.
    """
    return StateTrigger(condition, scope, key)


def queue(topic: str) -> QueueTrigger:
    """Fire on messages that were sent to `topic` with `enqueue`."""
    return QueueTrigger(topic)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)


# What each key of a step's configuration accepts: the test and its wording. `name` and the triggers are tested further.
_OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "text"),
    "triggers": (lambda value: isinstance(value, list | tuple), "a list of http(...), state(...) and queue(...)"),
    "enqueues": (_is_texts, "a list of topics"),
    "description": (_is_text, "text"),
    "flows": (_is_texts, "a list of names"),
    "max_attempts": (_is_count, "an integer of at least 1"),
    "backoff": (_is_seconds, "a number of seconds over 0"),
    "max_backoff": (_is_seconds, "a number of seconds over 0"),
    "timeout": (lambda value: value is None or _is_seconds(value), "a number of seconds over 0, or None"),
}


class Step:
    """One step: a name, its triggers, delivery options and the handler.

    `config` has the keys `name` and `triggers`, and may have `enqueues`, `description`, `flows` and, for state and
    queue triggers, `max_attempts` (5), `backoff` (0.5 seconds before the second attempt, doubling with each up to
    `max_backoff`, 30 seconds) and `timeout` (seconds that one attempt of an async handler may take; None: no limit).

    Calling a step without a handler with a function binds it (so a step is a decorator); calling one with a handler
    calls the handler, so it stays as testable as a plain function.

    Raises `StepError` for a configuration that does not fit.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name: str = _checked_name(config)
        for key, value in config.items():
            if key not in _OPTIONS:
                raise StepError(f"step {self.name!r}: unknown key {key!r}; accepted are {', '.join(_OPTIONS)}")
            accepts, wording = _OPTIONS[key]
            if not accepts(value):
                raise StepError(f"step {self.name!r}: {key!r} must be {wording}, not {value!r}")
        self.triggers: tuple[Trigger, ...] = self._checked_triggers(config.get("triggers", ()))
        self.enqueues: tuple[str, ...] = tuple(config.get("enqueues", ()))
        self.description: str = config.get("description", "")
        self.flows: tuple[str, ...] = tuple(config.get("flows", ()))
        self.max_attempts: int = config.get("max_attempts", 5)
        self.backoff: float = config.get("backoff", 0.5)
        # A first pause over the default ceiling is what was asked for, so it raises the ceiling.
        self.max_backoff: float = config.get("max_backoff", max(30.0, self.backoff))
        self.timeout: float | None = config.get("timeout")
        if self.max_backoff < self.backoff:
            raise StepError(
                f"step {self.name!r}: 'max_backoff' ({self.max_backoff}) must not be under 'backoff' ({self.backoff})"
            )
        self._handler: Function | None = None

    def _checked_triggers(self, triggers: object) -> tuple[Trigger, ...]:
        if not isinstance(triggers, list | tuple) or not triggers:
            raise StepError(f"step {self.name!r}: 'triggers' must hold at least one http(...), state(...) or queue(...)")
        for trigger in triggers:
            if not isinstance(trigger, HttpTrigger | StateTrigger | QueueTrigger):
                raise StepError(f"step {self.name!r}: {trigger!r} is no trigger; accepted are http(...), state(...), queue(...)")
            if problem := trigger.problem():
                raise StepError(f"step {self.name!r}: {problem}")
        return tuple(triggers)

    @property
    def handler(self) -> Function | None:
        """The bound function, or None."""
        return self._handler

    @property
    def http_triggers(self) -> tuple[HttpTrigger, ...]:
        """The step's HTTP routes."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, HttpTrigger))

    @property
    def state_triggers(self) -> tuple[StateTrigger, ...]:
        """The step's state triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, StateTrigger))

    @property
    def queue_triggers(self) -> tuple[QueueTrigger, ...]:
        """The step's queue triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, QueueTrigger))

    def handle(self, fn: Function) -> Step:
        """Bind `fn`, which takes `(input, ctx)` or `(input)` and is async or sync, and return the step.

        Raises `StepError` if `fn` does not fit or the step has a handler already.
        """
        if self._handler is not None:
            raise StepError(f"step {self.name!r} has a handler already: {self._handler!r}")
        if problem := check_function(fn):
            raise StepError(f"step {self.name!r}: the handler {problem}")
        if self.timeout is not None and not is_async(fn):
            # An attempt that goes on in its thread while the next one runs would break the order of its key.
            raise StepError(f"step {self.name!r}: 'timeout' needs an async handler: a thread cannot be stopped")
        self._handler = fn
        return self

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (the first is 1)."""
        # The exponent is capped because a float has no room for 2 ** 1024; by then the ceiling has long been reached.
        return float(min(self.backoff * 2.0 ** min(attempt - 1, 500), self.max_backoff))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Bind the handler if there is none yet (the decorator form), else call it."""
        if self._handler is not None:
            return self._handler(*args, **kwargs)
        if len(args) == 1 and not kwargs and callable(args[0]):
            return self.handle(args[0])
        raise StepError(f"step {self.name!r} has no handler yet; bind one with .handle(fn) or as a decorator")

    def __repr__(self) -> str:
        return f"<Step {self.name!r}>"


def step(config: Mapping[str, Any]) -> Step:
    """Return the step that `config` describes (see `Step`); bind its handler with `.handle(fn)` or as a decorator."""
    return Step(config)


def _checked_name(config: object) -> str:
    if not isinstance(config, Mapping):
        raise StepError(f"a step is made from a dict with 'name' and 'triggers', not from {config!r}")
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise StepError(f"step {name!r}: 'name' must be 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_', '-' and inner spaces")
    return name

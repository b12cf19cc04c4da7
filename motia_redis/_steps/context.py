"""The context of a handler: state, logger, trigger and `enqueue`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from motia_redis._ids import random_id
from motia_redis._steps.inputs import ApiRequest
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    # Alone it means `FlowContext[Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import TypeVar

    from motia_redis._steps.inputs import StateEventType, StreamEventType
    from motia_redis._steps.logs import Logger
    from motia_redis._store.manager import StateManager
    from motia_redis._sync.manager import StateManager as SyncStateManager

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


#: The kinds of triggers.
TriggerType: TypeAlias = Literal["http", "state", "queue", "cron", "stream"]


# What the context of older versions of Motia had, and what to write now.
_OLD_ATTRIBUTES = {
    "emit": "ctx.enqueue({'topic': ..., 'data': ...})",
    "streams": "Stream(name), such as Stream('todo').get(group_id, item_id)",
}


@dataclass(frozen=True, kw_only=True)
class TriggerInfo:
    """Describe the trigger that fired the handler.

    An `http` trigger has `method` and `path`, the route as the step declares it. A `state` trigger has `scope`, `key`,
    `event_type` and `revision`. A `queue` trigger has `topic` and `message_id`. A `cron` trigger has `expression`, as its
    fields, and `timezone`. A `stream` trigger has `stream`, `group`, `key` (the item), `event_type` and `revision`. All but
    `http` have `attempt` as well: 1 the first time, and one more with each retry. Fields that do not apply are None. `index` is
    the trigger's place among those of the step, from 0; None if that is not known.
    """

    type: TriggerType
    index: int | None = None
    method: str | None = None
    path: str | None = None
    scope: str | None = None
    key: str | None = None
    event_type: StateEventType | StreamEventType | None = None
    revision: str | None = None
    topic: str | None = None
    message_id: str | None = None
    expression: str | None = None
    timezone: str | None = None
    stream: str | None = None
    group: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Context(Generic[T]):
    """What both kinds of contexts have."""

    logger: Logger
    trace_id: str
    trigger: TriggerInfo
    step_name: str
    input_value: Any = None
    _event_id: bytes = field(default_factory=lambda: random_id(32).encode(), repr=False, compare=False)

    def id(self, name: str = "") -> str:
        """Return an id of 32 hex digits that is the same in every attempt at an event, for what has this name there.

        It is another one for each event, step and name, and stays when the step is renamed, or its dead letter retried. Each HTTP
        request has ids of its own, because its handler runs once. Raises StepError for a name that is not text.
        """
        if not isinstance(name, str):
            raise StepError(f"ctx.id takes a name, not {name!r}")
        return blake2b(self._event_id + b"\n\n" + name.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    def is_api(self) -> bool:
        """Return whether an HTTP request fired the handler."""
        return self.trigger.type == "http"

    def is_queue(self) -> bool:
        """Return whether a message fired the handler."""
        return self.trigger.type == "queue"

    def is_state(self) -> bool:
        """Return whether a change of state fired the handler."""
        return self.trigger.type == "state"

    def is_cron(self) -> bool:
        """Return whether a time of a cron trigger fired the handler."""
        return self.trigger.type == "cron"

    def is_stream(self) -> bool:
        """Return whether a change of a stream's item fired the handler."""
        return self.trigger.type == "stream"

    def get_data(self) -> Any:
        """Return the body of a request, None for a cron trigger, and the input for every other trigger."""
        if self.is_cron():
            return None
        return self.input_value.body if isinstance(self.input_value, ApiRequest) else self.input_value

    if not TYPE_CHECKING:  # type checkers know that there are no others

        def __getattr__(self, name: str) -> Any:
            """Say what to write instead of an attribute of older versions of Motia."""
            hint = f"; it is of an older version of Motia: write {_OLD_ATTRIBUTES[name]}" if name in _OLD_ATTRIBUTES else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)

    def _handler(self, handlers: Mapping[str, Callable[..., Any]]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what `match` has to call, and the arguments. Raises StepError if there is nothing for the trigger."""
        names = ("http", "api") if self.trigger.type == "http" else (self.trigger.type,)
        found = next((handlers[name] for name in (*names, "default") if handlers.get(name)), None)
        if found is None:
            raise StepError(f"ctx.match: there is no handler for {self.trigger.type!r}, and no 'default': {sorted(handlers)}")
        arguments = (self,) if self.is_cron() and found is not handlers.get("default") else (self.input_value, self)
        return found, arguments[: _count(found, len(arguments))]


@dataclass(frozen=True, kw_only=True)
class FlowContext(_Context[T]):
    """Give one run of one handler the state, a logger and a way to send messages to other steps.

    `trace_id` is 32 hex digits. It is the same from an HTTP request to all handlers that its changes and messages fire.
    `input_value` is the input of the handler. `FlowContext[...]` may be written as in Motia; it means the same.
    """

    state: StateManager

    async def enqueue(self, message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
        """Send a message to the steps with a `queue` trigger for its topic, and return its id.

        Arguments:
            message: `{"topic": ..., "data": ...}`, where the data is any JSON value. Messages of a topic with the same `"key"`
                (text, optional) run one after the other in each step.
            delay: seconds for which the message waits before it is sent.
            at: the time when it is sent: Unix seconds, or a datetime with a time zone. Give at most one of the two.

        Raises StepError for a message of another shape, and what `StateManager.enqueue` raises.
        """
        topic, data, key = parse_message(message)
        return await self.state.enqueue(topic, data, key=key, delay=delay, at=at)

    async def match(self, handlers: Mapping[str, Callable[..., Any]]) -> Any:
        """Call the handler for the trigger that fired, and return its result: `await ctx.match({"queue": ..., "http": ...})`.

        The names are those of the triggers: `http` (or `api`), `queue`, `state`, `cron` and `stream`; `default` is for all
        others. A handler is async or a plain function, and takes the input and this context, or the input, or nothing; that of
        `cron` takes this context, or nothing. Raises StepError if there is none for the trigger.
        """
        handler, arguments = self._handler(handlers)
        result = handler(*arguments)
        return await result if inspect.isawaitable(result) else result

    def _in_thread(self) -> SyncFlowContext[T]:
        """Return the context for a handler that is a plain function."""
        from motia_redis._sync import manager  # noqa: PLC0415 - most handlers do not need it

        return SyncFlowContext(**{**vars(self), "state": manager.StateManager.of(self.state)})


@dataclass(frozen=True, kw_only=True)
class SyncFlowContext(_Context[T]):
    """Give one run of a handler that is a plain function the same as `FlowContext`, for code without an event loop.

    Such a handler runs in a thread. `state` is a `motia_redis.sync.StateManager`, and no call is awaited.
    """

    state: SyncStateManager

    def enqueue(self, message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
        """Send a message to the steps with a `queue` trigger for its topic, and return its id: see `FlowContext.enqueue`."""
        topic, data, key = parse_message(message)
        return self.state.enqueue(topic, data, key=key, delay=delay, at=at)

    def match(self, handlers: Mapping[str, Callable[..., Any]]) -> Any:
        """Call the handler for the trigger that fired, and return its result: see `FlowContext.match`. It is a plain function."""
        handler, arguments = self._handler(handlers)
        result = handler(*arguments)
        if inspect.iscoroutine(result):
            result.close()
            raise StepError(f"ctx.match: {handler!r} is async: make the step's handler async, or this one a plain function")
        return result


def _count(function: Callable[..., Any], most: int) -> int:
    """Return how many positional arguments a function takes, `most` at most."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions written in C do not tell
        return most
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return most
    return min(
        most, sum(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters)
    )


def parse_message(message: object) -> tuple[str, Any, str | None]:
    """Return topic, data and key of a message, or raise StepError."""
    if not isinstance(message, Mapping):
        raise StepError(f'enqueue takes a dict {{"topic": ..., "data": ...}}, not {message!r}')
    unknown = [str(name) for name in message if name not in ("topic", "data", "key")]
    if unknown or "topic" not in message or "data" not in message:
        raise StepError(f'enqueue takes a dict with "topic", "data" and optionally "key", not with {sorted(map(str, message))}')
    topic, key = message["topic"], message.get("key")
    if not isinstance(topic, str) or not topic:
        raise StepError(f'enqueue: "topic" must be text that is not empty, not {topic!r}')
    if key is not None and (not isinstance(key, str) or not key):
        raise StepError(f'enqueue: "key" must be text that is not empty, not {key!r}')
    return topic, message["data"], key

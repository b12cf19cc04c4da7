"""The context of a handler: state, logger, trigger and `enqueue`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from motia_redis._ids import random_id
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from datetime import datetime

    from motia_redis._steps.inputs import StateEventType
    from motia_redis._steps.logs import Logger
    from motia_redis._store.manager import StateManager


#: The kinds of triggers.
TriggerType: TypeAlias = Literal["http", "state", "queue", "cron"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerInfo:
    """Describe the trigger that fired the handler.

    An `http` trigger has `method` and `path`, the route as the step declares it. A `state` trigger has `scope`, `key`,
    `event_type` and `revision`. A `queue` trigger has `topic` and `message_id`. A `cron` trigger has `expression`, as its five
    fields, and `timezone`. The latter three have `attempt` as well: 1 the first time, and one more with each retry. Fields that
    do not apply are None.
    """

    type: TriggerType
    method: str | None = None
    path: str | None = None
    scope: str | None = None
    key: str | None = None
    event_type: StateEventType | None = None
    revision: str | None = None
    topic: str | None = None
    message_id: str | None = None
    expression: str | None = None
    timezone: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowContext:
    """Give one run of one handler the state, a logger and a way to send messages to other steps.

    `trace_id` is 32 hex digits. It is the same from an HTTP request to all handlers that its changes and messages fire.
    """

    state: StateManager
    logger: Logger
    trace_id: str
    trigger: TriggerInfo
    step_name: str
    _event_id: bytes = field(default_factory=lambda: random_id(32).encode(), repr=False, compare=False)

    def id(self, name: str = "") -> str:
        """Return an id of 32 hex digits that is the same in every attempt at an event, for what has this name there.

        It is another one for each event, step and name, and stays when the step is renamed, or its dead letter retried. Each HTTP
        request has ids of its own, because its handler runs once. Raises StepError for a name that is not text.
        """
        if not isinstance(name, str):
            raise StepError(f"ctx.id takes a name, not {name!r}")
        return blake2b(self._event_id + b"\n\n" + name.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    async def enqueue(self, message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
        """Send a message to the steps with a `queue` trigger for its topic, and return its id.

        Arguments:
            message: `{"topic": ..., "data": ...}`, where the data is any JSON value. Messages of a topic with the same `"key"`
                (text, optional) run one after the other in each step.
            delay: seconds for which the message waits before it is sent.
            at: the time when it is sent: Unix seconds, or a datetime with a time zone. Give at most one of the two.

        Raises StepError for a message of another shape, and what `StateManager.enqueue` raises.
        """
        topic, data, key = _parsed(message)
        return await self.state.enqueue(topic, data, key=key, delay=delay, at=at)


async def enqueue(message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
    """Send a message as `FlowContext.enqueue` does, through the global `stateManager`."""
    # Imported late: the manager brings the Redis client, which a module of step definitions does not need.
    from motia_redis._store.manager import stateManager  # noqa: PLC0415

    topic, data, key = _parsed(message)
    return await stateManager.enqueue(topic, data, key=key, delay=delay, at=at)


def _parsed(message: object) -> tuple[str, Any, str | None]:
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

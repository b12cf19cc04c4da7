"""Call one handler without Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from motia_redis._ids import random_id
from motia_redis._steps import invocation
from motia_redis._steps.context import FlowContext, SyncFlowContext, TriggerInfo, parse_message
from motia_redis._steps.definitions import Step, StepDefinition
from motia_redis._steps.inputs import ApiRequest, CronTriggerInput, StateTriggerInput
from motia_redis._steps.logs import Logger, running_step
from motia_redis._steps.stream_triggers import StreamTriggerInput
from motia_redis._store import codec
from motia_redis._store.limits import Limits
from motia_redis._store.manager import StateManager
from motia_redis._sync import manager as sync
from motia_redis._testing.records import Message
from motia_redis._tracing import new_trace_id, trace
from motia_redis.errors import StateError, StepError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class HandlerRun:
    """Describe one call of a handler by `run_handler`."""

    result: Any  #: what the handler returned
    enqueued: list[Message] = field(default_factory=list)  #: the messages that it sent with `ctx.enqueue`, in their order


async def run_handler(
    step: Step[..., Any] | StepDefinition,
    input: Any = None,
    *,
    state: Any = None,
    trigger: TriggerInfo | None = None,
    attempt: int = 1,
    trace_id: str | None = None,
) -> HandlerRun:
    """Call the handler of a step once, without Redis, and return its result and its messages.

    An `async def` handler runs in this event loop with a `FlowContext`, and a `def` handler in a thread with a `SyncFlowContext`,
    as in production. Conditions, validation, middleware, attempts and `timeout` are left out: `application` tests them.
    `ctx.enqueue` only notes the message, as it would arrive.

    Arguments:
        step: a step.
        input: what the handler gets: an `ApiRequest`, a `StateTriggerInput`, a `CronTriggerInput`, a `StreamTriggerInput`, or the
            data of a message.
        state: what the handler gets as `ctx.state`: a `StateManager`, or a double, such as `unittest.mock.AsyncMock()`. None:
            each use of `ctx.state` raises StateError.
        trigger: what `ctx.trigger` is. Default: it follows from the type of `input`, and from the step's triggers.
        attempt: `ctx.trigger.attempt`.
        trace_id: `ctx.trace_id`. Default: a new one.

    Raises what the handler raises, and StepError if the step has no handler.
    """
    complete = step.step if isinstance(step, StepDefinition) else step
    if not isinstance(complete, Step):
        raise StepError(f"run_handler takes a step with a handler, not {step!r:.80}")
    sent: list[Message] = []
    trace_id = trace_id or new_trace_id()
    given: Any = _NoState(complete.name) if state is None else state
    ctx = _Context(
        state=given,
        logger=Logger(complete.name),
        trace_id=trace_id,
        trigger=trigger or _trigger(complete, input, attempt),
        step_name=complete.name,
        input_value=input,
        _sent=sent,
    )
    with trace(trace_id), running_step(complete.name):
        result = await invocation.call(complete.handler, input, ctx)
    return HandlerRun(result, sent)


def _trigger(step: Step[..., Any], input: Any, attempt: int) -> TriggerInfo:
    """Return what `ctx.trigger` says for an input: as much as the input and the step's first trigger of that kind tell."""
    kind, of_kind, facts = "queue", tuple[Any, ...](step.queue_triggers), dict[str, Any]()
    if isinstance(input, ApiRequest):
        routes = [each for each in step.http_triggers if each.method == input.method] or step.http_triggers
        kind, of_kind = "http", tuple(routes)
        facts = {"method": of_kind[0].method, "path": of_kind[0].path} if of_kind else {}
        return TriggerInfo(type="http", index=_index(step, of_kind), **facts)
    if isinstance(input, StateTriggerInput):
        kind, of_kind = "state", tuple(step.state_triggers)
        facts = {"scope": input.group_id, "key": input.item_id, "event_type": input.event_type, "revision": input.revision}
    elif isinstance(input, CronTriggerInput):
        kind, of_kind = "cron", tuple(step.cron_triggers)
        facts = {"expression": input.expression, "timezone": input.timezone}
    elif isinstance(input, StreamTriggerInput):
        kind, of_kind = "stream", tuple(step.stream_triggers)
        facts = {"stream": input.stream_name, "group": input.group_id, "key": input.id, "event_type": input.event.type}
        facts["revision"] = input.revision
    elif of_kind:
        facts = {"topic": of_kind[0].topic, "message_id": f"0-{random_id(16)}"}
    return TriggerInfo(type=kind, index=_index(step, of_kind), attempt=attempt, **facts)  # type: ignore[arg-type]


def _index(step: Step[..., Any], of_kind: tuple[Any, ...]) -> int | None:
    return step.triggers.index(of_kind[0]) if of_kind else None


class _NoState:
    """Stands for the state of a handler that was given none."""

    def __init__(self, step: str) -> None:
        self._step = step

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise StateError(
            f"run_handler: step {self._step!r} used ctx.state.{name}, and has no state: give run_handler state=..., or test the "
            "step with motia_redis.testing.application"
        )


def _message(message: object, delay: float | None, at: float | datetime | None) -> Message:
    """Return a message as it would arrive. Raises StepError and InvalidValue as `enqueue` does."""
    topic, data, key = parse_message(message)
    subject = f"enqueue to topic {topic!r:.80}"
    text = codec.encode(data, subject=subject, max_bytes=Limits().value_bytes)
    due = datetime.now(UTC) + timedelta(seconds=delay) if delay is not None else None
    if at is not None:
        due = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return Message(topic=topic, data=codec.decode(text, subject=subject), key=key, id=f"0-{random_id(16)}", due=due)


@dataclass(frozen=True, kw_only=True)
class _Context(FlowContext[Any]):
    """The context of a handler whose messages are noted."""

    _sent: list[Message]

    async def enqueue(self, message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
        """Note a message."""
        self._sent.append(_message(message, delay, at))
        return self._sent[-1].id

    def _in_thread(self) -> SyncFlowContext[Any]:
        state: Any = self.state
        if isinstance(state, StateManager):
            state = sync.StateManager.of(state)
        return _SyncContext(**{**vars(self), "state": state})


@dataclass(frozen=True, kw_only=True)
class _SyncContext(SyncFlowContext[Any]):
    """The same for a handler that is a plain function."""

    _sent: list[Message]

    def enqueue(self, message: Mapping[str, Any], *, delay: float | None = None, at: float | datetime | None = None) -> str:
        """Note a message."""
        self._sent.append(_message(message, delay, at))
        return self._sent[-1].id

"""What a step consumes: the streams it reads, and which of their entries it handles."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis import calls, events
from motia_redis.context import FlowContext, TriggerInfo
from motia_redis.logs import Logger
from motia_redis.tracing import new_trace_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from motia_redis.keyspace import Keyspace
    from motia_redis.manager import StateManager
    from motia_redis.steps import StateTrigger, Step


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry of a stream as Redis delivered it."""

    stream: bytes
    id: str
    fields: Mapping[bytes, bytes]

    @property
    def order_key(self) -> tuple[bytes, bytes]:
        """What entries of one stream must share to be handled one after the other: the scope and key, or the topic's key."""
        fields = self.fields
        return fields.get(b"scope", b""), fields.get(b"key") or self.id.encode()

    @property
    def revision(self) -> str:
        """The revision that the change gave its key: the entry's own id, unless it is the retry of a dead letter."""
        return self.fields.get(b"revision", b"").decode() or self.id

    @property
    def only(self) -> str | None:
        """The one step that the entry is for, when it is the retry of a dead letter; else None: it is for all."""
        return self.fields[b"only"].decode() if b"only" in self.fields else None

    @property
    def trace_id(self) -> str:
        """The trace id of the work that wrote the entry; a new one if it had none."""
        return self.fields.get(b"trace", b"").decode() or new_trace_id()


class Subscription:
    """One step's share in the streams. Its consumer group has the step's name."""

    def __init__(self, step: Step, keyspace: Keyspace) -> None:
        self.step = step
        self.group = step.name
        self._state_triggers = step.state_triggers
        self._logger = Logger(step.name)
        streams = [s for trigger in self._state_triggers for s in keyspace.event_streams(trigger.scope, trigger.key)]
        streams += [s for trigger in step.queue_triggers for s in keyspace.topic_streams(trigger.topic)]
        self.streams = list(dict.fromkeys(streams))

    async def handle(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int, executor: Executor) -> None:
        """Run the handler for an entry if a trigger's condition holds. Raises what the two raise."""
        handler = self.step.handler
        assert handler is not None, "Application refuses steps without a handler"  # noqa: S101  # for the type checker
        if entry.only not in (None, self.group):
            return
        if entry.fields[b"type"] == b"topic":
            data = events.decode_message(entry.id, entry.fields)
            info = TriggerInfo(
                type="queue",
                topic=entry.fields[b"topic"].decode(),
                key=entry.fields[b"key"].decode() or None,
                message_id=entry.fields[b"request"].decode(),
                attempt=attempt,
            )
            await calls.call(handler, data, self._context(state, trace_id, info), executor)
            return
        triggers = self._candidates(entry)
        if not triggers:
            return
        change = events.decode_change(entry.revision, entry.fields)
        info = TriggerInfo(
            type="state",
            scope=change.group_id,
            key=change.item_id,
            event_type=change.event_type,
            revision=change.revision,
            attempt=attempt,
        )
        ctx = self._context(state, trace_id, info)
        for trigger in triggers:
            if trigger.condition is None or await _holds(trigger.condition, change, ctx):
                await calls.call(handler, change, ctx, executor)
                return

    def _candidates(self, entry: StreamEntry) -> list[StateTrigger]:
        """Return the state triggers whose `scope` and `key` fit the entry. Cheap: nothing of the values is decoded."""
        scope, key = entry.fields.get(b"scope", b"").decode(), entry.fields[b"key"].decode()
        return [trigger for trigger in self._state_triggers if trigger.scope in (None, scope) and trigger.key in (None, key)]

    def _context(self, state: StateManager, trace_id: str, info: TriggerInfo) -> FlowContext:
        return FlowContext(state=state, logger=self._logger, trace_id=trace_id, trigger=info, step_name=self.group)


async def _holds(condition: calls.Function, input: Any, ctx: FlowContext) -> bool:
    # Conditions look at every event, so a sync one is called on the loop: a thread would cost more than the look.
    result = calls.call_here(condition, input, ctx)
    if not isinstance(result, bool) and inspect.isawaitable(result):
        result = await result
    return bool(result)

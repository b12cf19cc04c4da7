"""What a step consumes: the streams it reads, and which of their entries it handles."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from motia_redis._steps import events, invocation
from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.logs import Logger, enter_step
from motia_redis._tracing import enter_trace, new_trace_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from motia_redis._steps.definitions import Step
    from motia_redis._steps.inputs import StateTriggerInput
    from motia_redis._steps.triggers import StateTrigger
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager

_ENTRIES = 2048  # of one step, read and not yet acknowledged
_REFILL = _ENTRIES // 2  # with so many left, more are read: many at once, which is cheaper for all sides
_BYTES = 16 * 1024 * 1024  # of the same
_PARKED = 20_000  # entries of one step that wait behind a key in back-off, without their data


@dataclass(eq=False, slots=True)
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
    def trace_id(self) -> str:
        """The trace id of the work that wrote the entry; a new one if it had none."""
        return self.fields.get(b"trace", b"").decode() or new_trace_id()


@dataclass(eq=False, slots=True)
class PreparedCall:
    """What the handler is to be called with: a trigger has matched."""

    input: Any
    ctx: FlowContext


class Glance(Enum):
    """What a first look at an entry shows, unless that a trigger matches."""

    UNWANTED = "no trigger matches"
    UNCERTAIN = "it has to be matched where that may take its time, and fail"


class _Trigger:
    """A state trigger in the terms of stream entries, with what is to be known of its condition."""

    __slots__ = ("condition", "is_quick", "key", "scope", "takes_ctx")

    def __init__(self, trigger: StateTrigger) -> None:
        self.scope = None if trigger.scope is None else trigger.scope.encode()
        self.key = None if trigger.key is None else trigger.key.encode()
        self.condition: Any = trigger.condition
        condition = trigger.condition
        self.takes_ctx = condition is not None and invocation.takes_ctx(condition)
        self.is_quick = condition is not None and not invocation.is_async(condition)  #: whether the condition answers at once


class Load:
    """How much of one step is in this process."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self.parked = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be read now."""
        return self.entries > _REFILL or self.bytes >= _BYTES or self.parked >= _PARKED

    @property
    def room(self) -> int:
        """How many more entries may be read now."""
        if self.is_full:
            return 0
        by_entries = _ENTRIES - self.entries
        mean = self.bytes // self.entries if self.entries else 0
        return max(1, min(by_entries, (_BYTES - self.bytes) // mean if mean else by_entries))

    def add(self, size: int) -> None:
        """Count an entry that is here with its data."""
        self.entries += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        """Count such an entry no more."""
        self.entries -= 1
        self.bytes -= size


class Subscription:
    """One step's share in the streams. Its consumer group has the step's name."""

    def __init__(self, step: Step, keyspace: Keyspace) -> None:
        self.step = step
        self.load = Load()
        self.group = step.name
        self._name = step.name.encode()
        self._triggers = [_Trigger(trigger) for trigger in step.state_triggers]
        self._logger = Logger(step.name)
        #: Whether a glance may show anything: some triggers do not want everything.
        self.is_choosy = any(t.is_quick or t.scope is not None for t in self._triggers)
        streams = [s for trigger in step.state_triggers for s in keyspace.event_streams(trigger.scope, trigger.key)]
        streams += [s for trigger in step.queue_triggers for s in keyspace.topic_streams(trigger.topic)]
        self.streams = list(dict.fromkeys(streams))

    def glance(self, entry: StreamEntry, state: StateManager) -> PreparedCall | Glance:
        """Return whether the first attempt at an entry has to call the handler, and with what, if that can be told at once.

        It can when the conditions of all triggers that fit are sync ones, and none raises. Raises nothing itself.
        """
        try:
            fields = entry.fields
            if self._is_for_another(fields):
                return Glance.UNWANTED
            if fields[b"type"] == b"topic":
                return Glance.UNCERTAIN
            candidates = self._candidates(fields)
            if not candidates:
                return Glance.UNWANTED
            traced = bool(fields.get(b"trace"))
            for trigger in candidates:
                if not trigger.is_quick:
                    return Glance.UNCERTAIN
                traced = traced or trigger.takes_ctx
            # In a context of its own: the reader's log lines belong to no step.
            context = contextvars.copy_context()
            return context.run(self._ask, candidates, entry, state, entry.trace_id if traced else None)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  # whatever it is, the attempt will meet it again, and count
            return Glance.UNCERTAIN

    def _ask(
        self, triggers: list[_Trigger], entry: StreamEntry, state: StateManager, trace_id: str | None
    ) -> PreparedCall | Glance:
        """Ask quick conditions. Without a trace id none of them may take a context."""
        enter_step(self.group)
        if trace_id is not None:
            enter_trace(trace_id)
        change = events.decode_change(entry.revision, entry.fields)
        ctx = None
        for trigger in triggers:
            if trigger.takes_ctx and ctx is None:
                ctx = self._context(change, state, trace_id or new_trace_id(), attempt=1)
            answer = invocation.call_here(trigger.condition, change, ctx)
            if not isinstance(answer, bool) and inspect.isawaitable(answer):
                trigger.is_quick = False  # nor will it be the next time
                if inspect.iscoroutine(answer):
                    answer.close()
                return Glance.UNCERTAIN
            if answer:
                return PreparedCall(change, ctx or self._context(change, state, trace_id or new_trace_id(), attempt=1))
        return Glance.UNWANTED

    async def handle(
        self,
        entry: StreamEntry,
        call: PreparedCall | None,
        trace_id: str,
        attempt: int,
        *,
        state: StateManager,
        executor: Executor,
    ) -> None:
        """Run the handler for an entry, with a prepared call or else if a trigger matches. Raises what user code raises."""
        handler = self.step.handler
        assert handler is not None, "Application refuses steps without a handler"  # noqa: S101  # for the type checker
        call = call or await self._match(entry, state, trace_id, attempt)
        if call is not None:
            await invocation.call(handler, call.input, call.ctx, executor)

    async def _match(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall | None:
        """Return what to call the handler with; None when no trigger matches."""
        fields = entry.fields
        if self._is_for_another(fields):
            return None
        if fields[b"type"] == b"topic":
            return self._message(entry, state, trace_id, attempt)
        candidates = self._candidates(fields)
        if not candidates:
            return None
        change = events.decode_change(entry.revision, fields)
        ctx = self._context(change, state, trace_id, attempt)
        for trigger in candidates:
            if trigger.condition is None:
                return PreparedCall(change, ctx)
            answer = invocation.call_here(trigger.condition, change, ctx)
            if not isinstance(answer, bool) and inspect.isawaitable(answer):
                answer = await invocation.Apart(answer)
            if answer:
                return PreparedCall(change, ctx)
        return None

    def _is_for_another(self, fields: Mapping[bytes, bytes]) -> bool:
        """Tell whether an entry is the retry of another step's dead letter."""
        return b"only" in fields and fields[b"only"] != self._name

    def _candidates(self, fields: Mapping[bytes, bytes]) -> list[_Trigger]:
        """Return the state triggers whose `scope` and `key` fit a change. Cheap: nothing is decoded."""
        scope, key = fields[b"scope"], fields[b"key"]
        return [trigger for trigger in self._triggers if trigger.scope in (None, scope) and trigger.key in (None, key)]

    def _context(self, change: StateTriggerInput, state: StateManager, trace_id: str, attempt: int) -> FlowContext:
        info = TriggerInfo(
            type="state",
            scope=change.group_id,
            key=change.item_id,
            event_type=change.event_type,
            revision=change.revision,
            attempt=attempt,
        )
        return FlowContext(state=state, logger=self._logger, trace_id=trace_id, trigger=info, step_name=self.group)

    def _message(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall:
        data = events.decode_message(entry.id, entry.fields)
        info = TriggerInfo(
            type="queue",
            topic=entry.fields[b"topic"].decode(),
            key=entry.fields[b"key"].decode() or None,
            message_id=entry.fields[b"request"].decode(),
            attempt=attempt,
        )
        ctx = FlowContext(state=state, logger=self._logger, trace_id=trace_id, trigger=info, step_name=self.group)
        return PreparedCall(data, ctx)

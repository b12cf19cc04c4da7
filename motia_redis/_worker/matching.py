"""Match entries with the triggers of a step."""

from __future__ import annotations

import contextvars
import inspect
from enum import Enum
from typing import TYPE_CHECKING, Any

from motia_redis._steps import events, invocation
from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.logs import Logger, enter_step
from motia_redis._steps.wants import CRON, TTL_CHANGED
from motia_redis._store import codec
from motia_redis._tracing import enter_trace, new_trace_id
from motia_redis._worker.entries import PreparedCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Mapping

    from motia_redis._steps.definitions import Step
    from motia_redis._steps.inputs import StateTriggerInput
    from motia_redis._steps.triggers import StateTrigger
    from motia_redis._store.codec import Coder
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.entries import StreamEntry

    Matching = Generator[Awaitable[Any], Any, PreparedCall | None]


class MatchResult(Enum):
    """The outcome of `Matcher.match_when_read` when no trigger has matched yet."""

    FILTERED = "the scope and key, or schedule, of no trigger fit: another version of the step may want the entry"
    UNWANTED = "no trigger matches"
    MATCHED = "a trigger without a condition fits: `Matcher.prepare` returns the call for each attempt"
    DEFERRED = "the attempt has to match: a condition is async, raised, or is missing"


class _Trigger:
    """A state trigger with encoded filters, and the properties of its condition."""

    __slots__ = ("coder", "condition", "is_sync", "key", "scope", "takes_ctx")

    def __init__(self, trigger: StateTrigger) -> None:
        self.scope = None if trigger.scope is None else trigger.scope.encode()
        self.key = None if trigger.key is None else trigger.key.encode()
        self.coder: Coder[Any] = codec if trigger.typed is None else trigger.typed.coder
        self.condition: Any = trigger.condition
        condition = trigger.condition
        self.takes_ctx = condition is not None and invocation.takes_ctx(condition)
        self.is_sync = condition is not None and not invocation.is_async(condition)  #: there is a condition, and it is sync


class Matcher:
    """Match entries with the triggers of one step."""

    def __init__(self, step: Step) -> None:
        self._step_name = step.name
        self._encoded_name = step.name.encode()
        self._triggers = [_Trigger(trigger) for trigger in step.state_triggers]
        self._schedules = {trigger.schedule.encode() for trigger in step.cron_triggers}
        self._logger = Logger(step.name)

    def match_when_read(self, entry: StreamEntry, state: StateManager) -> PreparedCall | MatchResult:
        """Return the call for the first attempt at an entry, or why there is none. Raise nothing.

        Conditions are called only if those of all triggers that fit are sync. A condition that raises defers the match: the
        attempt calls the condition again, and then its error counts.
        """
        try:
            fields = entry.fields
            if self._is_for_none_of_them(fields):
                return MatchResult.UNWANTED
            kind = fields[b"type"]
            if kind == b"topic" or (kind == CRON and fields[b"schedule"] in self._schedules):
                return MatchResult.MATCHED
            candidates = [] if kind == CRON else self._candidates(fields)
            if not candidates:
                return MatchResult.FILTERED
            if candidates[0].condition is None:
                return MatchResult.MATCHED
            if all(trigger.is_sync for trigger in candidates):
                is_traced = entry.is_traced or any(trigger.takes_ctx for trigger in candidates)
                trace_id = entry.trace_id if is_traced else ""
                # In a context of its own: log lines of the reader must not name this step.
                return contextvars.copy_context().run(self._match_sync, candidates, entry, state, trace_id)
        except BaseException:  # noqa: BLE001, S110 - the attempt meets the error again, and counts it; no cancellation can arrive here
            pass
        return MatchResult.DEFERRED

    def prepare(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall:
        """Return the call for an attempt at an entry that is `MATCHED`. Raises CorruptValue and SchemaMismatch."""
        if entry.fields[b"type"] == b"topic":
            return self._message(entry, state, trace_id, attempt)
        if entry.fields[b"type"] == CRON:
            return self._time(entry, state, trace_id, attempt)
        change = events.decode_change(entry.revision, entry.fields, self._candidates(entry.fields)[0].coder)
        return PreparedCall(change, self._context(entry, change, state, trace_id, attempt))

    async def match(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall | None:
        """Return the call for an attempt; None when no trigger matches. Raise what a condition raises."""
        fields = entry.fields
        if not {b"type", b"scope", b"key"} <= fields.keys():
            raise events.foreign_entry(entry.revision)
        matching = self._matching(self._candidates(fields), entry, state, trace_id, attempt)
        answer = None
        while True:
            try:
                pending = matching.send(answer)
            except StopIteration as done:
                call: PreparedCall | None = done.value
                return call
            answer = await invocation.Apart(pending)

    def _match_sync(
        self, candidates: list[_Trigger], entry: StreamEntry, state: StateManager, trace_id: str
    ) -> PreparedCall | MatchResult:
        enter_step(self._step_name)
        if trace_id:
            enter_trace(trace_id)
        matching = self._matching(candidates, entry, state, trace_id, 1)
        try:
            pending = next(matching)
        except StopIteration as done:
            return done.value or MatchResult.UNWANTED
        matching.close()
        if inspect.iscoroutine(pending):
            pending.close()
        return MatchResult.DEFERRED

    def _matching(
        self, candidates: list[_Trigger], entry: StreamEntry, state: StateManager, trace_id: str, attempt: int
    ) -> Matching:
        """Call conditions in turn; yield what has to be awaited, to be sent its result; return the call.

        Without a trace id no condition may take a context.
        """
        change: StateTriggerInput | None = None
        ctx: FlowContext | None = None
        coder: Coder[Any] = codec
        for trigger in candidates:
            if change is None or trigger.coder is not coder:
                coder, change = trigger.coder, events.decode_change(entry.revision, entry.fields, trigger.coder)
            if ctx is None and trigger.takes_ctx:
                ctx = self._context(entry, change, state, trace_id, attempt)
            if trigger.condition is not None:
                answer = invocation.call_here(trigger.condition, change, ctx)
                if not isinstance(answer, bool) and inspect.isawaitable(answer):
                    trigger.is_sync = False  # its next entries are not matched when they are read
                    answer = yield answer
                if not answer:
                    continue
            return PreparedCall(change, ctx or self._context(entry, change, state, trace_id or new_trace_id(), attempt))
        return None

    def _is_for_none_of_them(self, fields: Mapping[bytes, bytes]) -> bool:
        """Return whether no trigger of the step gets the entry, whatever its filters: see `Wants.match`."""
        return fields[b"type"] == TTL_CHANGED or (b"only" in fields and fields[b"only"] != self._encoded_name)

    def _candidates(self, fields: Mapping[bytes, bytes]) -> list[_Trigger]:
        """Return the state triggers whose `scope` and `key` fit a change. Decode nothing."""
        scope, key = fields[b"scope"], fields[b"key"]
        return [trigger for trigger in self._triggers if trigger.scope in (None, scope) and trigger.key in (None, key)]

    def _context(
        self, entry: StreamEntry, change: StateTriggerInput, state: StateManager, trace_id: str, attempt: int
    ) -> FlowContext:
        info = TriggerInfo(
            type="state",
            scope=change.group_id,
            key=change.item_id,
            event_type=change.event_type,
            revision=change.revision,
            attempt=attempt,
        )
        return self._flow_context(entry, info, state, trace_id)

    def _message(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall:
        data = events.decode_message(entry.id, entry.fields)
        info = TriggerInfo(
            type="queue",
            topic=entry.fields[b"topic"].decode(),
            key=entry.fields.get(b"key", b"").decode() or None,
            message_id=entry.fields[b"request"].decode(),
            attempt=attempt,
        )
        return PreparedCall(data, self._flow_context(entry, info, state, trace_id))

    def _time(self, entry: StreamEntry, state: StateManager, trace_id: str, attempt: int) -> PreparedCall:
        time = events.decode_time(entry.id, entry.fields)
        info = TriggerInfo(type="cron", expression=time.expression, timezone=time.timezone, attempt=attempt)
        return PreparedCall(time, self._flow_context(entry, info, state, trace_id))

    def _flow_context(self, entry: StreamEntry, info: TriggerInfo, state: StateManager, trace_id: str) -> FlowContext:
        return FlowContext(
            state=state,
            logger=self._logger,
            trace_id=trace_id,
            trigger=info,
            step_name=self._step_name,
            _event_id=entry.event_id,
        )

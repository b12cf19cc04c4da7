"""Match entries with the triggers of a step."""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
from enum import Enum
from typing import TYPE_CHECKING, Any

from motia_redis import _tracing
from motia_redis._steps import events, invocation
from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.inputs import CronTriggerInput, StateTriggerInput
from motia_redis._steps.logs import Logger, enter_step
from motia_redis._steps.models import made_of
from motia_redis._steps.schemas import Reader
from motia_redis._steps.stream_triggers import StreamTrigger, StreamTriggerInput, decode_item_change
from motia_redis._steps.triggers import CronTrigger, QueueTrigger, StateTrigger
from motia_redis._steps.wants import CRON, TTL_CHANGED, is_silent
from motia_redis._steps.where import Where
from motia_redis._store import codec
from motia_redis._store.keyspace import RESERVED
from motia_redis._store.stream_groups import StreamGroup, stream_prefix
from motia_redis._tracing import enter_trace, trace_id_of
from motia_redis._worker.entries import PreparedCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Mapping

    from motia_redis._steps.definitions import Step
    from motia_redis._store.codec import Coder
    from motia_redis._store.manager import StateManager
    from motia_redis._worker.entries import StreamEntry

    Matching = Generator[Awaitable[Any], Any, PreparedCall | None]

_NO_INFO: dict[str, Any] = {field.name: None for field in dataclasses.fields(TriggerInfo)}


class MatchResult(Enum):
    """The outcome of `Matcher.select` and `Matcher.match_when_read` when no trigger has matched yet."""

    FILTERED = "the scope and key, topic or schedule of no trigger fit: another version of the step may want the entry"
    UNWANTED = "no trigger matches"
    DEFERRED = "the attempt has to match: a condition is async, raised, or is missing"


class Candidate:
    """A trigger of the step, its place among them, its members (`where`), and the properties of its condition.

    State and stream triggers have encoded filters.
    """

    __slots__ = ("coder", "condition", "index", "is_sync", "key", "prefix", "scope", "takes_ctx", "where")

    def __init__(self, index: int, trigger: Any) -> None:
        self.index = index
        self.scope, self.key = None, None
        self.prefix = b""  #: of the scopes of a stream's groups
        self.coder: Any = codec  #: what reads the value or the data
        if isinstance(trigger, StateTrigger):
            self.scope = None if trigger.scope is None else trigger.scope.encode()
            self.key = None if trigger.key is None else trigger.key.encode()
            self.coder = codec if trigger.typed is None else trigger.typed.coder
        elif isinstance(trigger, StreamTrigger):
            self.prefix = stream_prefix(trigger.stream_name)
            self.scope = None if trigger.group_id is None else StreamGroup(trigger.stream_name, trigger.group_id).encode()
            self.key = None if trigger.item_id is None else trigger.item_id.encode()
            self.coder = codec if trigger.typed is None else trigger.typed.coder
        elif isinstance(trigger, QueueTrigger) and trigger.input is not None:
            self.coder = Reader(trigger.input)
        where: Mapping[str, Any] | None = getattr(trigger, "where", None)  # state and queue triggers have it
        self.where = None if where is None else Where(where)
        self.condition: Any = trigger.condition
        condition = trigger.condition
        self.takes_ctx = condition is not None and invocation.takes_ctx(condition)
        self.is_sync = condition is not None and not invocation.is_async(condition)  #: there is a condition, and it is sync


class Matcher:
    """Match entries with the triggers of one step."""

    def __init__(self, step: Step) -> None:
        self._step_name = step.name
        self._encoded_name = step.name.encode()
        self._states: list[Candidate] = []
        self._streams: list[Candidate] = []
        self._named: dict[tuple[bytes, bytes], list[Candidate]] = {}  # by type of entry, and topic or schedule
        for index, trigger in enumerate(step.triggers):
            if isinstance(trigger, StateTrigger):
                self._states.append(Candidate(index, trigger))
            elif isinstance(trigger, StreamTrigger):
                self._streams.append(Candidate(index, trigger))
            elif isinstance(trigger, QueueTrigger):
                self._named.setdefault((b"topic", trigger.topic.encode()), []).append(Candidate(index, trigger))
            elif isinstance(trigger, CronTrigger):
                self._named.setdefault((CRON, trigger.schedule.encode()), []).append(Candidate(index, trigger))
        self._has_where = any(getattr(trigger, "where", None) is not None for trigger in step.triggers)
        self._handler_takes_ctx = invocation.takes_ctx(step.handler)  # for others none is made, see `_needs_context`
        self._logger = Logger(step.name)

    def select(self, fields: Mapping[bytes, bytes]) -> list[Candidate] | MatchResult:
        """Return the triggers that an entry fits but for their conditions, or that there are none. Decode and raise nothing."""
        try:
            if (
                fields[b"type"] == TTL_CHANGED
                or (b"only" in fields and fields[b"only"] != self._encoded_name)
                or (b"reason" in fields and is_silent(fields))
            ):
                return MatchResult.UNWANTED  # whatever the filters are, see `Wants.match`
            candidates = self._candidates(fields)
        except KeyError:  # an entry of another client: the attempt says so
            return MatchResult.DEFERRED
        if not candidates:
            return MatchResult.FILTERED
        return self._fitting(candidates, fields) or MatchResult.UNWANTED

    def match_when_read(
        self, candidates: list[Candidate], entry: StreamEntry, state: StateManager
    ) -> PreparedCall | Candidate | MatchResult:
        """Return the call for the first attempt at an entry that fits these triggers, or why there is none. Raise nothing.

        A trigger: it has no condition, so `prepare` returns the call for each attempt.

        Conditions are called only if those of all triggers that fit are sync. A condition that raises defers the match: the
        attempt calls the condition again, and then its error counts.
        """
        if candidates[0].condition is None:
            return candidates[0]
        try:
            if all(trigger.is_sync for trigger in candidates):
                is_traced = entry.is_traced or any(trigger.takes_ctx for trigger in candidates)
                trace = entry.trace if is_traced else ""
                # In a context of its own: log lines of the reader must not name this step.
                return contextvars.copy_context().run(self._match_sync, candidates, entry, state, trace)
        except BaseException:  # noqa: BLE001, S110 - the attempt meets the error again, and counts it; no cancellation can arrive here
            pass
        return MatchResult.DEFERRED

    def prepare(self, trigger: Candidate, entry: StreamEntry, state: StateManager, trace: str, attempt: int) -> PreparedCall:
        """Return the call for an attempt at an entry that a trigger fits. Raises CorruptValue and SchemaMismatch."""
        value = _decode(entry, trigger)
        ctx: FlowContext | None = None
        if self._needs_context(trace):
            ctx = self._context(entry, value, _info(entry, value, trigger, attempt), state, trace)
        return PreparedCall(value, ctx, trace)

    async def match(self, entry: StreamEntry, state: StateManager, trace: str, attempt: int) -> PreparedCall | None:
        """Return the call for an attempt; None when no trigger matches. Raise what a condition raises."""
        try:
            candidates = self._fitting(self._candidates(entry.fields), entry.fields)
        except KeyError:
            raise events.foreign_entry(entry.revision) from None
        matching = self._matching(candidates, entry, state, trace, attempt)
        answer = None
        while True:
            try:
                pending = matching.send(answer)
            except StopIteration as done:
                call: PreparedCall | None = done.value
                return call
            answer = await invocation.Apart(pending)

    def _match_sync(
        self, candidates: list[Candidate], entry: StreamEntry, state: StateManager, trace: str
    ) -> PreparedCall | MatchResult:
        enter_step(self._step_name)
        if trace:
            enter_trace(trace)
        matching = self._matching(candidates, entry, state, trace, 1)
        try:
            pending = next(matching)
        except StopIteration as done:
            return done.value or MatchResult.UNWANTED
        matching.close()
        if inspect.iscoroutine(pending):
            pending.close()
        return MatchResult.DEFERRED

    def _matching(
        self, candidates: list[Candidate], entry: StreamEntry, state: StateManager, trace: str, attempt: int
    ) -> Matching:
        """Call conditions in turn; yield what has to be awaited, to be sent its result; return the call.

        Without a trace no condition may take a context.
        """
        value: Any = None
        coder: Coder[Any] | None = None
        for trigger in candidates:
            if trigger.coder is not coder:
                coder = trigger.coder
                value = _decode(entry, trigger)
            ctx: FlowContext | None = None
            if trigger.takes_ctx:
                ctx = self._context(entry, value, _info(entry, value, trigger, attempt), state, trace)
            if trigger.condition is not None:
                answer = invocation.call_here(trigger.condition, value, ctx)
                if not isinstance(answer, bool) and inspect.isawaitable(answer):
                    trigger.is_sync = False  # its next entries are not matched when they are read
                    answer = yield answer
                if not answer:
                    continue
            trace = trace or entry.trace
            needed = self._needs_context(trace)
            if ctx is None and needed:
                ctx = self._context(entry, value, _info(entry, value, trigger, attempt), state, trace)
            return PreparedCall(value, ctx if needed else None, trace)
        return None

    def _needs_context(self, trace: str) -> bool:
        """Return whether the handler takes a context, or a span tells what it says."""
        return self._handler_takes_ctx or (_tracing.spans is not None and _tracing.is_sampled(trace))

    def _candidates(self, fields: Mapping[bytes, bytes]) -> list[Candidate]:
        """Return the triggers that fit an entry but for their conditions. Decode nothing. Raises KeyError for a foreign entry."""
        kind = fields[b"type"]
        if kind in (b"topic", CRON):
            return self._named.get((kind, fields[b"schedule" if kind == CRON else b"topic"]), [])
        scope, key = fields[b"scope"], fields[b"key"]
        of_kind = self._states
        if scope.startswith(RESERVED):
            of_kind = [trigger for trigger in self._streams if scope.startswith(trigger.prefix)]
        found = []
        for trigger in of_kind:  # for each entry: a comprehension would be one more call
            if (trigger.scope is None or trigger.scope == scope) and (trigger.key is None or trigger.key == key):
                found.append(trigger)  # noqa: PERF401
        return found

    def _fitting(self, candidates: list[Candidate], fields: Mapping[bytes, bytes]) -> list[Candidate]:
        """Return those whose members (`where`) the entry has, too. Raise nothing."""
        if not self._has_where:
            return candidates
        # A deletion has no new value, and an entry of another client may have none.
        text = fields.get(b"data" if fields[b"type"] == b"topic" else b"new", b"")
        if len(candidates) == 1:  # the usual case: what does not fire should cost little
            where = candidates[0].where
            return candidates if where is None or where.match(text) else []
        return [trigger for trigger in candidates if trigger.where is None or trigger.where.match(text)]

    def _context(self, entry: StreamEntry, value: Any, info: TriggerInfo, state: StateManager, trace: str) -> FlowContext:
        return made_of(
            FlowContext,
            {
                "logger": self._logger,
                "trace_id": trace_id_of(trace),
                "trigger": info,
                "step_name": self._step_name,
                "input_value": value,
                "_event_id": entry.event_id,
                "state": state,
            },
        )


def _decode(entry: StreamEntry, trigger: Candidate) -> Any:
    """Return the input that an entry is for a trigger."""
    kind = entry.fields[b"type"]
    if kind == b"topic":
        return events.decode_message(entry.id, entry.fields, trigger.coder)
    if kind == CRON:
        return events.decode_time(entry.id, entry.fields)
    decode = decode_item_change if trigger.prefix else events.decode_change
    return decode(entry.revision, entry.fields, trigger.coder)


def _info(entry: StreamEntry, value: Any, trigger: Candidate, attempt: int) -> TriggerInfo:
    """Return what the context tells of the trigger. `value` is the input."""
    return made_of(TriggerInfo, {**_NO_INFO, **_facts(entry, value), "index": trigger.index, "attempt": attempt})


def _facts(entry: StreamEntry, value: Any) -> dict[str, Any]:
    if isinstance(value, StateTriggerInput):
        return {
            "type": "state",
            "scope": value.group_id,
            "key": value.item_id,
            "event_type": value.event_type,
            "revision": value.revision,
        }
    if isinstance(value, CronTriggerInput):
        return {"type": "cron", "expression": value.expression, "timezone": value.timezone}
    if isinstance(value, StreamTriggerInput):
        return {
            "type": "stream",
            "stream": value.stream_name,
            "group": value.group_id,
            "key": value.id,
            "event_type": value.event.type,
            "revision": value.revision,
        }
    fields = entry.fields
    return {
        "type": "queue",
        "topic": fields[b"topic"].decode(),
        "key": fields.get(b"key", b"").decode() or None,
        "message_id": fields[b"request"].decode(),
    }

"""Matching of one entry, without Redis: what a condition raises is the attempt's, never the reader's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_redis import queue, step
from motia_redis import state as state_trigger
from motia_redis._worker.entries import StreamEntry
from motia_redis._worker.matching import Candidate, Matcher, MatchResult

UNUSED_STATE: Any = object()
ENTRY = StreamEntry(b"events", "1-0", {b"type": b"state:created", b"scope": b"users", b"key": b"ann", b"new": b"1"})


class Panic(BaseException):
    pass


def matcher(condition: Any, *, with_ctx: bool = True) -> Matcher:
    async def handler(input: Any, ctx: Any) -> None: ...

    async def plain(input: Any) -> None: ...

    triggers = [state_trigger(condition), queue("mail")]
    return Matcher(step({"name": "S", "triggers": triggers}).handle(handler if with_ctx else plain))


def when_read(matching: Matcher, entry: StreamEntry) -> Any:
    """Return what is known of an entry's match when it is read."""
    selected = matching.select(entry.fields)
    return matching.match_when_read(selected, entry, UNUSED_STATE) if isinstance(selected, list) else selected


MESSAGE = StreamEntry(b"events", "1-0", {b"type": b"topic", b"topic": b"mail", b"request": b"r", b"data": b"1"})


@pytest.mark.parametrize("entry", [ENTRY, MESSAGE], ids=["change", "message"])
def test_entry_without_a_condition_is_matched_once_for_all_attempts(entry: StreamEntry) -> None:
    matching = matcher(None)
    found: Any = when_read(matching, entry)
    assert isinstance(found, Candidate)
    contexts: list[Any] = [matching.prepare(found, entry, UNUSED_STATE, "0" * 32, attempt).ctx for attempt in (1, 2)]
    assert [ctx.trigger.attempt for ctx in contexts] == [1, 2]


@pytest.mark.parametrize("condition", [None, lambda _, ctx: ctx.trigger.attempt == 1])
def test_context_is_made_only_for_functions_that_take_one(condition: Any) -> None:
    for with_ctx in (True, False):
        matching = matcher(condition, with_ctx=with_ctx)
        found: Any = when_read(matching, ENTRY)
        if isinstance(found, Candidate):
            found = matching.prepare(found, ENTRY, UNUSED_STATE, "0" * 32, 1)
        assert len(found.trace) == 32
        assert with_ctx == (found.ctx is not None and found.ctx.trace_id == found.trace)


def test_trigger_without_a_condition_behind_one_with_a_condition_is_asked_in_turn() -> None:
    async def handler(input: Any) -> None: ...

    def later(input: Any) -> bool:
        raise AssertionError

    first = Matcher(step({"name": "S", "triggers": [state_trigger(), state_trigger(later)]}).handle(handler))
    found = when_read(first, ENTRY)
    assert isinstance(found, Candidate)
    assert found.index == 0
    last = Matcher(step({"name": "S", "triggers": [state_trigger(later), state_trigger()]}).handle(handler))
    assert when_read(last, ENTRY) is MatchResult.DEFERRED


ERRORS = [Panic(), GeneratorExit(), KeyboardInterrupt(), SystemExit(1), StopIteration(), asyncio.CancelledError(), ValueError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["sync", "async", "no bool"])
async def test_condition_that_raises_defers_the_match_and_fails_the_attempt(error: BaseException, kind: str) -> None:
    def sync(input: Any) -> bool:
        raise error

    async def on_loop(input: Any) -> bool:
        raise error

    class Answer:
        def __bool__(self) -> bool:
            raise error

    condition: Any = {"sync": sync, "async": on_loop, "no bool": lambda change: Answer()}[kind]
    assert when_read(matcher(condition), ENTRY) is MatchResult.DEFERRED
    raised: BaseException | None = None
    try:  # a plain `try`, because the exception must come out of the `await`
        await matcher(condition).match(ENTRY, UNUSED_STATE, "0" * 32, 1)
    except BaseException as caught:  # noqa: BLE001
        raised = caught
    assert raised is not None
    assert error in (raised, raised.__cause__)
    assert kind == "no bool" or not isinstance(raised, SystemExit | KeyboardInterrupt)


async def test_cancellation_of_the_attempt_reaches_an_async_condition() -> None:
    began = asyncio.Event()

    async def waits(input: Any) -> bool:
        began.set()
        await asyncio.Event().wait()
        return True

    task = asyncio.create_task(matcher(waits).match(ENTRY, UNUSED_STATE, "0" * 32, 1))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()

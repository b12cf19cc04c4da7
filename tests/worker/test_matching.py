"""Matching of one entry, without Redis: what a condition raises is the attempt's, never the reader's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_redis import state as state_trigger
from motia_redis import step
from motia_redis._worker.entries import StreamEntry
from motia_redis._worker.matching import Matcher, MatchResult

FAKE_STATE: Any = object()
ENTRY = StreamEntry(b"events", "1-0", {b"type": b"state:created", b"scope": b"users", b"key": b"ann", b"new": b"1"})


class Panic(BaseException):
    pass


def matcher(condition: Any) -> Matcher:
    async def handler(input: Any) -> None: ...

    return Matcher(step({"name": "S", "triggers": [state_trigger(condition)]}).handle(handler))


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
    assert matcher(condition).match_when_read(ENTRY, FAKE_STATE) is MatchResult.DEFERRED
    raised: BaseException | None = None
    try:  # a plain `try`, because the exception must come out of the `await`
        await matcher(condition).match(ENTRY, FAKE_STATE, "0" * 32, 1)
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

    task = asyncio.create_task(matcher(waits).match(ENTRY, FAKE_STATE, "0" * 32, 1))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()

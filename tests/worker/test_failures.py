"""Worker: what a handler raises is a failed attempt, which delays only its key; then a dead letter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, StateTriggerInput, queue
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._steps.logs import TextFormatter
from tests.support.dead_letters import wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis


async def test_handler_that_raises_is_retried_with_growing_backoff(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    times: list[float] = []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        times.append(asyncio.get_running_loop().time())
        assert ctx.trigger.attempt == len(times)
        if len(times) < 3:
            raise ValueError("not yet")

    async with working(state, record(handler, state_trigger(), backoff=0.1)):
        await state.set("users", "ann", 1)

        async def three() -> bool:
            return len(times) == 3

        await until(three, "three attempts")
    # The second pause is twice the first, each with a jitter of a fifth.
    assert times[1] - times[0] >= 0.075
    assert times[2] - times[1] >= 0.155
    assert await pending(raw, namespace) == 0
    assert not raw.keys(f"{{{namespace}:*:dead:*")


async def test_handler_that_always_raises_dead_letters_and_delays_only_its_key(
    state: StateManager, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        if input.item_id == "poison":
            raise ValueError("cannot digest")
        await good(input, ctx)

    async with working(state, record(handler, state_trigger(), max_attempts=2, backoff=0.05)):
        await state.set("users", "poison", {"n": 1})
        for number in range(20):
            await state.set("users", f"good{number}", number)
        await good.wait(20)

        async def buried() -> bool:
            return bool(raw.keys(f"{{{namespace}:*:dead:Record"))

        await until(buried, "a dead letter")
    (stream,) = raw.keys(f"{{{namespace}:*:dead:Record")
    ((_, letter),) = raw.xrange(stream)
    assert letter[b"error"] == b"ValueError"
    assert letter[b"text"] == b"cannot digest"
    assert letter[b"attempts"] == b"2"
    assert letter[b"key"] == b"poison"
    lines = [TextFormatter().format(logged) for logged in caplog.records if "step Record" in logged.getMessage()]
    assert len(lines) == 2
    assert lines[0].count("Traceback") == 1
    (found,) = await DeadLetters(state).list()
    assert lines[1].endswith(f' show="motia-redis dead show --namespace {namespace} --step Record {found.id}"')
    assert letter[b"new"].strip() == b'{"n":1}'
    assert await pending(raw, namespace) == 0, "moved and acknowledged in one step"


@pytest.mark.parametrize("failure", ["timeout", "condition", "cancel", "exit"])
async def test_every_kind_of_failure_is_a_failed_attempt(
    state: StateManager, raw: redis.Redis, namespace: str, failure: str
) -> None:
    def condition(input: StateTriggerInput) -> bool:
        if failure == "condition":
            raise KeyError("no such member")
        return True

    async def handler(input: StateTriggerInput) -> None:
        if failure == "timeout":
            await asyncio.sleep(60)
        if failure == "cancel":
            raise asyncio.CancelledError
        raise SystemExit(3)

    name = {"timeout": b"TimeoutError", "condition": b"KeyError", "cancel": b"CancelledError", "exit": b"RuntimeError"}[failure]
    options = {"max_attempts": 2, "backoff": 0.01, "timeout": 0.1}
    async with working(state, record(handler, state_trigger(condition), **options)):
        await state.set("users", "ann", 1)

        async def buried() -> bool:
            return bool(raw.keys(f"{{{namespace}:*:dead:Record"))

        await until(buried, "a dead letter")
    (stream,) = raw.keys(f"{{{namespace}:*:dead:Record")
    letter = raw.xrange(stream)[0][1]
    assert letter[b"error"] == name
    if failure == "timeout":
        assert letter[b"text"] == b"the handler took longer than the step's timeout of 0.1 s"


@pytest.mark.parametrize("limit", [None, 5.0])
@pytest.mark.parametrize("reaction", ["none", "swallows it", "goes on waiting"])
async def test_generator_exit_that_a_future_raises_into_a_handler_is_a_failed_attempt(
    state: StateManager, limit: float | None, reaction: str
) -> None:
    """Python closes the coroutines that wait for the future, this package's too, instead of raising the exception in each."""
    attempts: list[int | None] = []
    good = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        if input.item_id != "poison":
            await good(input, ctx)
            return
        attempts.append(ctx.trigger.attempt)
        loop = asyncio.get_running_loop()
        broken = loop.create_future()
        loop.call_soon(broken.set_exception, GeneratorExit("a library closed it"))
        try:
            await broken
        except GeneratorExit:
            if reaction == "none":
                raise
            if reaction == "goes on waiting":
                await asyncio.sleep(0.01)

    letters = DeadLetters(state)
    async with working(state, record(handler, state_trigger(), max_attempts=3, backoff=0.01, timeout=limit), concurrency=1):
        for number in range(2):
            await state.set("users", "poison", number)
            await state.set("users", f"good{number}", number)
        found = await wait_for_dead_letters(letters, 2)
        await good.wait(2)
    assert attempts == [1, 2, 3] * 2
    assert [letter.attempts for letter in found] == [3, 3]
    assert {letter.error_type for letter in found} == {"RuntimeError" if reaction == "goes on waiting" else "GeneratorExit"}


async def test_failing_key_with_a_long_queue_does_not_delay_other_keys(state: StateManager) -> None:
    """G7: entries that wait behind a key in backoff do not use up the limit for other keys."""
    good = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        if input.item_id == "poison":
            raise ValueError("not now")
        await good(input, ctx)

    async with working(state, record(handler, state_trigger(scope="users"), backoff=20)):
        for first in range(0, 2000, 100):
            await asyncio.gather(*(state.set("users", "poison", number) for number in range(first, first + 100)))
        for number in range(50):
            await state.set("users", f"good{number}", number)
        await good.wait(50)


async def test_entries_behind_a_failing_key_are_handled_in_order(state: StateManager) -> None:
    seen: list[int] = []
    failures = 2

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal failures
        if input.new_value == 3 and failures:
            failures -= 1
            raise ValueError("not yet")
        seen.append(input.new_value)

    async with working(state, record(handler, state_trigger(), backoff=0.2)):
        for number in range(50):
            await state.set("users", "ann", number)

        async def all_seen() -> bool:
            return len(seen) == 50

        await until(all_seen, "50 events")
    assert seen == list(range(50))


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "y"},
        {"type": "state:updated"},
        {"type": "state:updated", "scope": "users", "key": b"\xff", "new": "1"},
        {"type": "state:updated", "scope": "users", "key": "ann", "new": "1", "kept": "x"},
        {"type": "topic", "data": "1"},
        {"type": "topic", "data": "1", "topic": "mail"},
    ],
    ids=["unknown", "no scope", "no UTF-8", "no number", "no topic", "no id"],
)
async def test_entry_that_another_client_wrote_into_a_stream_becomes_a_dead_letter_that_says_so(
    state: StateManager, raw: redis.Redis, namespace: str, fields: dict[str, Any]
) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(), queue("mail"), max_attempts=1)):
        for stream in (await state.connect()).event_streams("users"):
            raw.xadd(stream, fields)
        lanes = len((await state.connect()).event_streams("users"))

        async def buried() -> bool:
            return len(await DeadLetters(state).list()) == lanes

        await until(buried, "a dead letter for each entry")
        await state.set("users", "ann", 1)
        await recorder.wait(1)
    for letter in await DeadLetters(state).list():
        assert letter.error_type == "CorruptValue"
        assert letter.error_text.endswith("is no event and no message: another client wrote it into the stream")

"""Conditions: which events they accept, how often they run, and how filtered events are acknowledged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, StateTriggerInput, Worker, logger, queue, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._tracing import current_trace_id, trace
from tests.support.waiting import until
from tests.support.workers import pending, working

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from motia_redis._steps.definitions import Step


def filtered(handler: Any, *triggers: Any, **config: Any) -> Step:
    return step({"name": "Filtered", "triggers": list(triggers), **config}).handle(handler)


async def none_pending(raw: redis.Redis, namespace: str) -> None:
    async def settled() -> bool:
        return await pending(raw, namespace) == 0

    await until(settled, "everything is acknowledged")


class Asked:
    """A condition that accepts even numbers and records each number it was called with."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, input: StateTriggerInput) -> bool:
        self.numbers.append(input.new_value)
        return input.new_value % 2 == 0


def as_sync(asked: Asked) -> Any:
    return asked


def as_sync_with_ctx(asked: Asked) -> Any:
    def condition(input: StateTriggerInput, ctx: FlowContext) -> bool:
        assert (ctx.step_name, ctx.trigger.attempt, ctx.trigger.key) == ("Filtered", 1, input.item_id)
        assert ctx.trace_id == current_trace_id()
        return asked(input)

    return condition


def as_async(asked: Asked) -> Any:
    async def condition(input: StateTriggerInput, ctx: FlowContext) -> bool:
        await asyncio.sleep(0)
        return asked(input)

    return condition


@pytest.mark.parametrize("form", [as_sync, as_sync_with_ctx, as_async])
async def test_condition_runs_once_and_filtered_entries_are_acknowledged(
    state: StateManager, raw: redis.Redis, namespace: str, form: Callable[[Asked], Any]
) -> None:
    asked, seen = Asked(), []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        assert ctx.trigger.attempt == 1
        assert ctx.trace_id == current_trace_id()
        seen.append(input.new_value)

    async with working(state, filtered(handler, state_trigger(form(asked)))):
        for first in range(0, 500, 100):
            await asyncio.gather(*(state.set("users", f"key{n}", n) for n in range(first, first + 100)))

        async def all_asked() -> bool:
            return len(asked.numbers) >= 500 and len(seen) >= 250

        await until(all_asked, "500 events")
        await none_pending(raw, namespace)
    assert sorted(asked.numbers) == list(range(500))
    assert sorted(seen) == list(range(0, 500, 2))


async def test_awaitable_returned_by_a_sync_condition_is_awaited(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    asked, seen = Asked(), []
    condition = as_async(asked)

    def sync_condition(input: StateTriggerInput, ctx: FlowContext) -> Any:
        return condition(input, ctx)

    async def handler(input: StateTriggerInput) -> None:
        seen.append(input.new_value)

    async with working(state, filtered(handler, state_trigger(sync_condition))):
        for number in range(10):
            await state.set("users", "ann", number)

        async def all_seen() -> bool:
            return len(seen) >= 5

        await until(all_seen, "5 events")
        await none_pending(raw, namespace)
    assert asked.numbers == list(range(10)), "the coroutine that was made at the first look never ran"
    assert seen == list(range(0, 10, 2))


async def test_later_matches_of_a_key_do_not_overtake_a_running_match(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """Filtered entries between two matches of one key do not wait for the first and do not start the second."""
    asked, seen, go = Asked(), [], asyncio.Event()

    async def handler(input: StateTriggerInput) -> None:
        seen.append(("start", input.new_value))
        await go.wait()
        seen.append(("end", input.new_value))

    async with working(state, filtered(handler, state_trigger(asked))):
        for number in range(5):
            await state.set("users", "ann", number)

        async def three_are_left() -> bool:
            return len(asked.numbers) == 5 and await pending(raw, namespace) == 3

        await until(three_are_left, "1 and 3 are acknowledged while 0 is being handled")
        assert seen == [("start", 0)]
        go.set()
        await none_pending(raw, namespace)
    assert seen == [(what, number) for number in (0, 2, 4) for what in ("start", "end")]


async def test_filtered_entries_are_acknowledged_while_their_key_backs_off(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    asked = Asked()
    seen: list[int] = []
    failed = asyncio.Event()

    async def handler(input: StateTriggerInput) -> None:
        if not seen:
            seen.append(-1)
            failed.set()
            raise ValueError("not yet")
        seen.append(input.new_value)

    async with working(state, filtered(handler, state_trigger(asked), backoff=1.5)):
        await state.set("users", "ann", 0)
        await failed.wait()
        for number in range(1, 100):
            await state.set("users", "ann", number)

        async def matches_are_left() -> bool:
            return await pending(raw, namespace) == 50

        await until(matches_are_left, "only matches wait for the key in back-off")
        assert seen == [-1]
        await none_pending(raw, namespace)
    assert seen == [-1, *range(0, 100, 2)]
    counts = {number: asked.numbers.count(number) for number in range(100)}
    assert {counts[number] for number in range(1, 100, 2)} == {1}
    # The failed one is asked again for its second attempt, parked ones when they come back: their input was not kept.
    assert {counts[number] for number in range(0, 100, 2)} == {2}


async def test_condition_that_raises_fails_the_attempt_and_runs_again(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """An exception of a condition affects only its own entry."""
    failures = [ValueError("no"), asyncio.CancelledError(), SystemExit(3), KeyError("n"), None]
    asked: list[str] = []
    seen: list[tuple[str, int | None]] = []

    def condition(input: StateTriggerInput) -> bool:
        asked.append(input.item_id)
        if input.item_id == "bad" and (failure := failures.pop(0)):
            raise failure
        return True

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        seen.append((input.item_id, ctx.trigger.attempt))

    async with working(state, filtered(handler, state_trigger(condition), backoff=0.01, max_backoff=0.01)):
        await state.set("users", "bad", 1)
        await state.set("users", "good", 1)

        async def both_seen() -> bool:
            return len(seen) == 2

        await until(both_seen, "both events")
        await none_pending(raw, namespace)
    # Twice for the first attempt: when the entry was read, and when it was handled.
    assert sorted(seen) == [("bad", 4), ("good", 1)]
    assert asked.count("bad") == 5
    assert asked.count("good") == 1


async def test_entry_is_handled_if_any_trigger_matches(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    seen: list[Any] = []

    async def handler(input: Any, ctx: FlowContext) -> None:
        seen.append(input if ctx.trigger.type == "queue" else (input.group_id, input.item_id, input.new_value))

    async def is_big(input: StateTriggerInput) -> bool:
        return input.new_value > 10

    triggers = [
        state_trigger(Asked(), scope="mixed"),
        state_trigger(is_big, scope="mixed"),
        state_trigger(scope="all", key="ann"),
        state_trigger(lambda change: False),
        queue("mail"),
    ]
    async with working(state, filtered(handler, *triggers)):
        for scope, key, number in [
            ("mixed", "a", 2),
            ("mixed", "b", 3),
            ("mixed", "c", 13),
            ("all", "ann", 5),
            ("all", "bob", 4),
        ]:
            await state.set(scope, key, number)
        await state.enqueue("mail", "hello")

        async def four_seen() -> bool:
            return len(seen) >= 4

        await until(four_seen, "4 events")
        await none_pending(raw, namespace)
    assert sorted(map(str, seen)) == sorted(map(str, [("mixed", "a", 2), ("mixed", "c", 13), ("all", "ann", 5), "hello"]))


async def test_unreadable_entry_does_not_delay_other_keys(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    seen: list[int] = []

    async def handler(input: StateTriggerInput) -> None:
        seen.append(input.new_value)

    async with working(state, filtered(handler, state_trigger(Asked()), max_attempts=1)):
        stream = (await state.connect()).state_keys(b"users", b"ann").events
        raw.xadd(stream, {"written": "by another program"})
        raw.xadd(stream, {"type": "state:created", "scope": "users", "key": "bob", "new": "{not JSON"})
        await state.set("users", "ann", 2)

        async def handled() -> bool:
            return seen == [2]

        await until(handled, "the event behind them")
        await none_pending(raw, namespace)


async def test_log_records_of_a_condition_name_step_and_trace(state: StateManager, caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()

    def condition(input: StateTriggerInput) -> bool:
        logger.info(f"looked at {input.item_id}")
        if input.item_id == "untraced":
            asked.set()
        return False

    async def handler(input: StateTriggerInput) -> None:
        raise AssertionError("nothing matches")

    caplog.set_level("INFO")
    async with working(state, filtered(handler, state_trigger(condition, scope="users"))):
        with trace("ab" * 16):
            await state.set("users", "traced", 1)
        await state.set("users", "untraced", 1)
        await asked.wait()
    found = {record.message: vars(record) for record in caplog.records if record.message.startswith("looked")}
    assert found["looked at traced"]["step"] == found["looked at untraced"]["step"] == "Filtered"
    assert found["looked at traced"]["trace_id"] == "ab" * 16
    assert found["looked at untraced"]["trace_id"] is None


async def test_many_filtered_entries_do_not_block_the_event_loop(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """Conditions alone never block the event loop of the worker for long."""
    asked, most = 0, 0

    def condition(input: StateTriggerInput) -> bool:
        nonlocal asked
        asked += 1
        return False

    async def handler(input: StateTriggerInput) -> None:
        raise AssertionError("nothing matches")

    refused = filtered(handler, state_trigger(condition))
    await Worker(Application((refused,)), state).prepare()
    for first in range(0, 3000, 200):
        await asyncio.gather(*(state.set("users", f"key{n}", n) for n in range(first, first + 200)))
    async with working(state, refused):
        before = 0
        while asked < 3000:
            await asyncio.sleep(0)
            most, before = max(most, asked - before), asked
        await none_pending(raw, namespace)
    assert most < 400

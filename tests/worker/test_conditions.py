"""Conditions of queue triggers, configurations of queues, and the place of the trigger that fired."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from motia_redis import queue, step
from motia_redis import state as state_trigger
from motia_redis.admin import DeadLetters
from motia_redis.errors import StepError
from tests.support.dead_letters import wait_for_dead_letters
from tests.support.waiting import until_holds
from tests.support.workers import working

if TYPE_CHECKING:
    from motia_redis import FlowContext, StateManager


@pytest.mark.parametrize("is_async", [False, True])
async def test_message_that_a_condition_refuses_is_acknowledged(state: StateManager, is_async: bool) -> None:
    seen: list[tuple[int, int | None]] = []

    def is_large(data: Any, ctx: FlowContext) -> bool:
        return bool(data > 10 and ctx.trigger.topic == "orders" and ctx.input_value == data)

    async def is_large_async(data: Any, ctx: FlowContext) -> bool:
        return is_large(data, ctx)

    def is_odd(data: Any) -> bool:
        return bool(data % 2)

    async def handler(data: Any, ctx: FlowContext) -> None:
        seen.append((data, ctx.trigger.index))

    condition = is_large_async if is_async else is_large
    handled = step(
        {"name": "S", "triggers": [state_trigger(), queue("orders", condition=condition), queue("orders", condition=is_odd)]}
    ).handle(handler)
    async with working(state, handled):
        for number in (1, 2, 12, 13):
            await state.enqueue("orders", number, key="k")
        await until_holds(lambda: len(seen) == 3, "the messages are handled")
    # Each by the first trigger that wants it, and 2 by none.
    assert seen == [(1, 2), (12, 1), (13, 1)]
    assert await DeadLetters(state).list() == []


async def test_condition_that_raises_is_a_failed_attempt(state: StateManager) -> None:
    asked: list[int] = []

    def condition(data: Any) -> bool:
        asked.append(data)
        raise ValueError("no answer")

    async def handler(data: Any) -> None:
        raise AssertionError("never")

    handled = step({"name": "S", "triggers": [queue("t", condition=condition)], "max_attempts": 2, "backoff": 0.01}).handle(
        handler
    )
    async with working(state, handled):
        await state.enqueue("t", 1)

        letters = await wait_for_dead_letters(DeadLetters(state), 1)
    assert len(asked) == 3  # once when it was read, and in each attempt
    assert letters[0].error_text == "no answer"


async def test_config_of_a_queue_trigger_is_honoured(state: StateManager) -> None:
    attempts: list[tuple[str, int | None, float]] = []

    async def handler(data: Any, ctx: FlowContext) -> None:
        attempts.append((str(ctx.trigger.topic), ctx.trigger.attempt, time.monotonic()))
        raise ValueError("no")

    config = {"maxRetries": 2, "backoffType": "fixed", "backoffDelayMs": 100}
    handled = step({"name": "S", "triggers": [queue("a", config=config), queue("b")], "max_attempts": 1}).handle(handler)
    async with working(state, handled):
        await state.enqueue("a", 1)
        await state.enqueue("b", 1)

        await wait_for_dead_letters(DeadLetters(state), 2)
    assert sorted((topic, attempt) for topic, attempt, _ in attempts) == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]
    times = [at for topic, _, at in attempts if topic == "a"]
    assert all(0.07 < after - before < 5 for before, after in pairwise(times))


async def test_visibility_timeout_ends_an_attempt(state: StateManager) -> None:
    import asyncio

    async def handler(data: Any) -> None:
        await asyncio.sleep(60)

    handled = step({"name": "S", "triggers": [queue("a", config={"maxRetries": 0, "visibilityTimeout": 0.1})]}).handle(handler)
    async with working(state, handled):
        await state.enqueue("a", 1)

        letters = await wait_for_dead_letters(DeadLetters(state), 1)
    assert "longer than the step's timeout of 0.1 s" in letters[0].error_text


class Order(BaseModel):
    number: int
    note: str = ""


JSON_SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


@pytest.mark.parametrize(
    ("schema", "good"),
    [(Order, Order(number=7)), (JSON_SCHEMA, {"number": 7}), (dict[str, int], {"number": 7})],
    ids=["model", "json", "type"],
)
async def test_messages_are_checked_by_the_input_of_the_trigger(state: StateManager, schema: Any, good: Any) -> None:
    seen: list[Any] = []

    async def handler(data: Any, ctx: FlowContext) -> None:
        seen.append((data, ctx.input_value))

    handled = step({"name": "S", "triggers": [queue("orders", input=schema)], "max_attempts": 1}).handle(handler)
    async with working(state, handled):
        await state.enqueue("orders", {"number": "seven"})
        await state.enqueue("orders", {"number": 7})
        (letter,) = await wait_for_dead_letters(DeadLetters(state), 1)
        await until_holds(lambda: len(seen) == 1, "the message that matches is handled")
    assert seen == [(good, good)]
    assert letter.error_type == "SchemaMismatch"
    assert "topic 'orders'" in letter.error_text
    assert "'/number'" in letter.error_text


def test_input_that_is_no_schema_is_rejected() -> None:
    with pytest.raises(StepError, match="step 'S': the input of a queue trigger: "):
        step({"name": "S", "triggers": [queue("t", input={"type": "no such type"})]})

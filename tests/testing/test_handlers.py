"""`run_handler` calls a handler as a worker or the web server would, without Redis."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from motia_redis import (
    ApiRequest,
    CronTriggerInput,
    FlowContext,
    StateManager,
    StateTriggerInput,
    SyncFlowContext,
    cron,
    http,
    queue,
    state,
    step,
)
from motia_redis.errors import InvalidValue, StateError, StepError
from motia_redis.testing import run_handler

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


@step({"name": "Order", "triggers": [queue("orders"), http("POST", "/orders/:id"), state(scope="orders"), cron("@daily")]})
async def order(input: Any, ctx: FlowContext) -> Any:
    await ctx.enqueue({"topic": "mail", "data": {"attempt": ctx.trigger.attempt}, "key": "k"})
    await ctx.enqueue({"topic": "later", "data": (1, 2)}, delay=60)
    return ctx.trigger


@step({"name": "Thread", "triggers": [queue("orders")]})
def in_thread(data: Any, ctx: SyncFlowContext) -> Any:
    ctx.enqueue({"topic": "mail", "data": data})
    return threading.current_thread().name, type(ctx.state).__module__, ctx.step_name


async def test_result_and_messages_are_returned() -> None:
    run = await run_handler(order, {"n": 1}, attempt=3)
    assert (run.result.type, run.result.topic, run.result.index, run.result.attempt) == ("queue", "orders", 0, 3)
    mail, later = run.enqueued
    assert (mail.topic, mail.data, mail.key, mail.due) == ("mail", {"attempt": 3}, "k", None)
    assert later.data == [1, 2], "as it would arrive"
    assert later.due is not None
    assert later.due > datetime.now(UTC)


async def test_trigger_follows_from_the_input() -> None:
    request = (await run_handler(order, ApiRequest(method="POST", path="/orders/1"))).result
    assert (request.type, request.index, request.method, request.path) == ("http", 1, "POST", "/orders/:id")
    change = (await run_handler(order, StateTriggerInput(group_id="orders", item_id="7", new_value=1))).result
    assert (change.type, change.index, change.scope, change.key, change.event_type) == (
        "state", 2, "orders", "7", "state:created",
    )  # fmt: skip
    now = datetime.now(UTC)
    time = (
        await run_handler(order, CronTriggerInput(scheduled_at=now, fired_at=now, expression="@daily", timezone="UTC"))
    ).result
    assert (time.type, time.index, time.timezone) == ("cron", 3, "UTC")


async def test_plain_function_runs_in_a_thread_with_a_context_for_threads(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as manager:
        run = await run_handler(in_thread, 5, state=manager)
    name, module, step_name = run.result
    assert name != threading.main_thread().name
    assert module.startswith("motia_redis._sync")
    assert step_name == "Thread"
    assert [message.data for message in run.enqueued] == [5]


async def test_state_is_what_is_given_or_an_error_that_says_what_to_do() -> None:
    @step({"name": "Reads", "triggers": [queue("q")]})
    async def reads(data: Any, ctx: FlowContext) -> Any:
        return await ctx.state.get("users", data)

    with pytest.raises(StateError, match=r"step 'Reads' used ctx\.state\.get, and has no state: give run_handler state="):
        await run_handler(reads, "a")
    double = AsyncMock()
    double.get.return_value = {"name": "Ada"}
    assert (await run_handler(reads, "a", state=double)).result == {"name": "Ada"}
    double.get.assert_awaited_once_with("users", "a")


async def test_what_a_handler_raises_is_raised_and_what_is_no_message_is_refused() -> None:
    @step({"name": "Bad", "triggers": [queue("q")]})
    async def bad(data: Any, ctx: FlowContext) -> None:
        await ctx.enqueue(data)

    with pytest.raises(StepError, match="topic"):
        await run_handler(bad, {"data": 1})
    with pytest.raises(InvalidValue):
        await run_handler(bad, {"topic": "t", "data": {1, 2}})
    with pytest.raises(StepError, match="takes a step with a handler"):
        await run_handler(step({"name": "NoHandler", "triggers": []}))

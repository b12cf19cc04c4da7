"""Steps with a handler for each kind of their triggers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from motia_redis import (
    ApiRequest,
    ApiResponse,
    Application,
    CronTriggerInput,
    FlowContext,
    StateTriggerInput,
    SyncFlowContext,
    TriggerInfo,
    create_web_app,
    cron,
    http,
    load_application,
    multi_trigger_step,
    queue,
    state,
    stream,
)
from motia_redis._steps import invocation
from motia_redis._steps.logs import Logger
from motia_redis.errors import StepError
from tests.support.waiting import until, until_holds
from tests.support.workers import working

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis import StateManager
    from motia_redis._steps.context import TriggerType

ALL: Any = {"name": "All", "triggers": [queue("t"), http("POST", "/t"), cron("@daily"), state(scope="s")]}
BOTH: Any = {"name": "Both", "triggers": [queue("t"), http("POST", "/t")]}


def context(kind: TriggerType, value: Any = None) -> FlowContext[Any]:
    manager: Any = None
    trigger = TriggerInfo(type=kind)
    return FlowContext(state=manager, logger=Logger("s"), trace_id="0" * 32, trigger=trigger, step_name="All", input_value=value)


async def on_queue(data: Any) -> Any:
    return ["queue", data]


async def on_http(request: Any, ctx: FlowContext) -> Any:
    return ["http", request, ctx.step_name]


async def on_cron(ctx: FlowContext) -> Any:
    return ["cron", ctx.input_value]


async def on_state(input: Any, ctx: FlowContext) -> Any:
    return ["state", input]


async def test_handler_of_the_kind_of_the_trigger_is_called() -> None:
    chained = multi_trigger_step(ALL).on_queue(on_queue).on_http(on_http).on_cron(on_cron).on_state(on_state).handlers()
    at_once = multi_trigger_step(ALL).handlers({"queue": on_queue, "api": on_http, "cron": on_cron, "state": on_state})
    mixed = multi_trigger_step(ALL).on_queue(on_queue).on_cron(on_cron).handlers({"http": on_http, "state": on_state})
    for made in (chained, at_once, mixed):
        assert await made(1, context("queue")) == ["queue", 1]
        assert await made(2, context("http")) == ["http", 2, "All"]
        assert await made(3, context("cron", 3)) == ["cron", 3]
        assert await made(4, context("state")) == ["state", 4]
        assert await invocation.call(made.handler, 1, context("queue")) == ["queue", 1]


async def test_handler_of_a_stream_is_called() -> None:
    made = multi_trigger_step({"name": "Items", "triggers": [stream("todo")]}).on_stream(on_state).handlers()
    assert await made(1, context("stream")) == ["state", 1]


async def test_cron_handler_may_take_nothing() -> None:
    async def tick() -> str:
        return "tick"

    made = multi_trigger_step({"name": "Tick", "triggers": [cron("@daily")]}).on_cron(tick).handlers()
    assert await made(None, context("cron")) == "tick"


async def test_plain_functions_run_in_a_thread_with_the_context_for_threads(state: StateManager) -> None:
    found = []

    def plain(data: Any, ctx: SyncFlowContext) -> None:
        found.append((data, type(ctx), threading.current_thread() is threading.main_thread()))

    made = multi_trigger_step({"name": "Plain", "triggers": [queue("t")]}).handlers({"queue": plain})
    async with working(state, made):
        await state.enqueue("t", 1)
        await until_holds(lambda: bool(found), "the message was handled")
    assert found == [(1, SyncFlowContext, False)]


async def test_one_step_answers_requests_handles_messages_and_sees_changes(state: StateManager) -> None:
    async def take(request: ApiRequest[Any], ctx: FlowContext) -> ApiResponse[Any]:
        await ctx.enqueue({"topic": "t", "data": request.body})
        return ApiResponse(status=202)

    async def keep(data: Any, ctx: FlowContext) -> None:
        await ctx.state.set("s", "k", data)

    async def see(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.set("seen", input.item_id, input.new_value)

    async def tick(ctx: FlowContext) -> None:
        assert isinstance(ctx.input_value, CronTriggerInput)

    made = multi_trigger_step(ALL).on_http(take).on_queue(keep).on_state(see).on_cron(tick).handlers()
    transport = httpx.ASGITransport(app=create_web_app(Application((made,)), state))
    async with working(state, made), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        assert (await client.post("/t", json={"n": 1})).status_code == 202

        async def is_seen() -> bool:
            return await state.get("seen", "k") == {"n": 1}

        await until(is_seen, "the change was handled")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: multi_trigger_step(BOTH).on_queue(on_queue).handlers(),
            "no handler for its triggers of the kind 'http'",
        ),
        (lambda: multi_trigger_step({"name": "N", "triggers": []}).handlers(), "'N' has no handler"),
        (lambda: multi_trigger_step(BOTH).handlers({"event": on_queue}), "no kind of trigger 'event'; there are http, queue"),
        (lambda: multi_trigger_step(BOTH).on_queue(on_queue).on_queue(on_queue), "has a handler for 'queue' already"),
        (lambda: multi_trigger_step(BOTH).on_queue(lambda: None), "the handler for 'queue' must take"),
        (lambda: multi_trigger_step(ALL).on_cron(on_http), "the handler for 'cron' must take .ctx. or nothing"),
        (lambda: multi_trigger_step(BOTH).handlers({"queue": 1}), "the handler for 'queue' must be a function"),  # type: ignore[dict-item]
        (lambda: multi_trigger_step(BOTH).on_queue(on_queue).on_http(lambda request: 1).handlers(), "all async, or all plain"),
        (lambda: multi_trigger_step({"name": "N"}), "'triggers' is missing"),  # type: ignore[typeddict-item]
    ],
)
def test_what_does_not_fit_is_rejected_when_the_step_is_defined(make: Any, message: str) -> None:
    with pytest.raises(StepError, match=message):
        make()


def test_step_cannot_be_completed_twice() -> None:
    builder = multi_trigger_step(BOTH).on_queue(on_queue).on_http(on_http)
    assert builder.handlers() is builder.step
    with pytest.raises(StepError, match="has a handler already"):
        builder.handlers()


def test_plain_functions_have_no_timeout() -> None:
    config: Any = {"name": "N", "triggers": [queue("t")], "timeout": 1}
    with pytest.raises(StepError, match="'timeout' needs an async handler"):
        multi_trigger_step(config).on_queue(print).handlers()


HEAD = "from motia_redis import multi_trigger_step, queue\nmade = multi_trigger_step({'name': 'M', 'triggers': [queue('t')]})"


def test_file_with_such_a_step_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "multi_loaded_step.py").write_text(f"{HEAD}.on_queue(print).handlers()\n")
    assert [step.name for step in load_application([str(tmp_path)]).steps] == ["M"]


def test_file_with_an_incomplete_step_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "multi_incomplete_step.py").write_text(f"{HEAD}.on_queue(print)\n")
    with pytest.raises(StepError, match=r"'M'> is not complete: call .handlers\(\)"):
        load_application([str(tmp_path)])

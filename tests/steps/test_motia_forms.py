"""Forms of Motia's Python package that handlers, conditions and their tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import ApiRequest, ApiResponse, CronTriggerInput, FlowContext, StateTriggerInput, SyncFlowContext, TriggerInfo
from motia_redis._steps import invocation
from motia_redis._steps.logs import Logger
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from motia_redis import StateManager
    from motia_redis._steps.context import TriggerType


def context(state: Any, kind: TriggerType, value: Any) -> FlowContext[Any]:
    return FlowContext(
        state=state, logger=Logger("s"), trace_id="0" * 32, trigger=TriggerInfo(type=kind), step_name="s", input_value=value
    )


def test_inputs_can_be_subscripted_and_made_without_what_nobody_has() -> None:
    request = ApiRequest[dict[str, Any]](body={"a": 1})
    assert (request.method, request.path, request.body) == ("GET", "/", {"a": 1})
    assert ApiResponse[Any](status=201, body={"ok": True}).status == 201
    created = StateTriggerInput[int](group_id="g", item_id="i", new_value=1)
    assert (created.event_type, created.revision, created.timestamp) == ("state:created", "0-0", 0)
    assert StateTriggerInput(group_id="g", item_id="i", old_value=1).event_type == "state:deleted"
    assert StateTriggerInput(group_id="g", item_id="i", old_value=1, new_value=2).event_type == "state:updated"


def test_inputs_can_be_made_and_dumped_with_names_in_camel_case() -> None:
    made: Any = StateTriggerInput
    change = made(groupId="g", itemId="i", newValue={"a": 1})
    assert change == StateTriggerInput(group_id="g", item_id="i", new_value={"a": 1})
    assert change.model_dump(by_alias=True)["groupId"] == change.model_dump()["group_id"] == "g"
    request: Any = ApiRequest
    assert request(pathParams={"id": "1"}).model_dump(by_alias=True)["pathParams"] == {"id": "1"}
    assert ApiResponse(body=1).model_dump() == {"status": 200, "body": 1, "headers": {}}
    with pytest.raises(TypeError, match="groupid"):
        made(groupid="g")


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [("http", ApiRequest(body={"a": 1}), {"a": 1}), ("queue", {"b": 2}, {"b": 2}), ("cron", object(), None)],
)
def test_context_tells_what_fired_it(kind: TriggerType, value: Any, data: Any) -> None:
    ctx = context(None, kind, value)
    assert (ctx.is_api(), ctx.is_queue(), ctx.is_cron(), ctx.is_state()) == (
        kind == "http",
        kind == "queue",
        kind == "cron",
        kind == "state",
    )
    assert ctx.get_data() == data
    assert ctx.input_value is value


async def test_match_calls_the_handler_of_the_trigger_with_what_it_takes() -> None:
    async def with_ctx(value: Any, ctx: Any) -> Any:
        return value, ctx

    async def only_ctx(ctx: Any) -> Any:
        return ctx

    async def nothing() -> str:
        return "nothing"

    ctx = context(None, "queue", 1)
    assert await ctx.match({"queue": with_ctx, "http": nothing}) == (1, ctx)
    assert await ctx.match({"queue": lambda value: value + 1}) == 2
    assert await ctx.match({"default": lambda *args: args}) == (1, ctx)
    assert await context(None, "http", 1).match({"api": lambda value: value}) == 1
    cron = context(None, "cron", 1)
    assert await cron.match({"cron": nothing}) == "nothing"
    assert await cron.match({"cron": only_ctx}) is cron
    assert await cron.match({"default": with_ctx}) == (1, cron)
    with pytest.raises(StepError, match=r"there is no handler for 'queue', and no 'default': \['http'\]"):
        await ctx.match({"http": nothing})


async def test_plain_handler_gets_a_context_without_awaits(state: StateManager) -> None:
    seen: list[Any] = []

    def handler(value: Any, ctx: SyncFlowContext[Any]) -> Any:
        seen.append(ctx)
        ctx.state.set("s", "k", value)
        ctx.enqueue({"topic": "t", "data": 1})
        return ctx.match({"queue": lambda value: ctx.state.get("s", "k")})

    ctx = context(state, "queue", 7)
    assert await invocation.call(handler, 7, ctx) == 7
    assert await state.get("s", "k") == 7
    assert isinstance(seen[0], SyncFlowContext)
    assert (seen[0].trace_id, seen[0].step_name, seen[0].id("x")) == (ctx.trace_id, ctx.step_name, ctx.id("x"))
    async_handler: Any = test_match_calls_the_handler_of_the_trigger_with_what_it_takes
    with pytest.raises(StepError, match="is async: make the step's handler async"):
        seen[0].match({"queue": async_handler})


def test_cron_input_is_dumped_with_its_times() -> None:
    assert set(CronTriggerInput.__dataclass_fields__) >= {"scheduled_at", "fired_at"}

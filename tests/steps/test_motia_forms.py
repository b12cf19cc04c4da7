"""Forms of Motia's Python package that handlers, conditions and their tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from motia_redis import (
    ApiRequest,
    ApiResponse,
    Application,
    CronTriggerInput,
    FlowContext,
    StateTriggerInput,
    SyncFlowContext,
    TriggerInfo,
    cron,
    queue,
    step,
)
from motia_redis._steps import invocation
from motia_redis._steps.logs import Logger
from motia_redis._steps.retrying import RetryPolicy, with_config
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


CONFIG: dict[str, Any] = {"name": "Orders::Create", "triggers": [queue("orders")]}


async def handle(value: Any, ctx: Any) -> None: ...


def test_configuration_of_motia_is_accepted() -> None:
    made = step(
        {
            "name": "Orders::Create",
            "triggers": [
                {"type": "queue", "topic": "orders", "config": {"maxRetries": 2}},
                {"type": "api", "method": "post", "path": "/orders"},
                {"type": "cron", "expression": "@daily"},
                {"type": "state", "scope": "orders"},
            ],
            "enqueues": ["a", {"topic": "b", "label": "second", "conditional": True}],  # type: ignore[list-item]
            "virtualEnqueues": ["c"],  # type: ignore[typeddict-unknown-key]
            "virtualSubscribes": ["d"],
            "includeFiles": ["template.html"],
            "flows": ["shop"],
        },
        handle,
    )
    assert [str(trigger) for trigger in made.triggers] == ["queue orders", "POST /orders", "cron @daily (UTC)", "state orders"]
    assert made.enqueues == ("a", "b")
    assert Application((made,)).worker_steps == (made,)


def test_step_without_triggers_is_accepted() -> None:
    never = step({"name": "Diagram", "triggers": []}, handle)
    assert Application((never,)).worker_steps == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"emits": ["a"]}, "'emits' is a key of Motia 0.x; write 'enqueues': [...]"),
        ({"subscribes": ["a"]}, "'subscribes' is a key of Motia 0.x; write 'triggers': [queue(topic)] for each topic"),
        ({"type": "api"}, "'type' is a key of Motia 0.x; write 'triggers': [http(method, path)]"),
        ({"triggers": [{"type": "event", "topic": "a"}]}, "the type 'event' is of Motia 0.x; write 'queue'"),
        ({"triggers": [{"type": "cron", "cron": "* * * * *"}]}, "'cron' in a cron trigger is of Motia 0.x; write 'expression'"),
        ({"triggers": [{"type": "socket"}]}, "the 'type' of a trigger must be one of 'http', 'api', 'queue', 'cron', 'state'"),
        ({"triggers": [{"topic": "a"}]}, "not None"),
        (
            {"triggers": [{"type": "queue"}]},
            "a queue trigger as a dict: missing a required argument: 'topic'; accepted are",
        ),
        ({"triggers": [{"type": "queue", "topic": "a", "scope": "b"}]}, "unexpected keyword argument 'scope'"),
        ({"triggers": [queue("a", config={"maxRetries": -1})]}, "'maxRetries' in the config of a queue trigger must be"),
        ({"triggers": [queue("a", config={"delaySeconds": 5})]}, "send a message that waits with enqueue(..., delay=)"),
        ({"triggers": [queue("a", config={"concurrency": 0})]}, "'concurrency' in the config of a queue trigger must be"),
        ({"triggers": [queue("a", config={"retries": 2})]}, "has no 'retries'; accepted are type, max_retries"),
        ({"triggers": [queue("a", config=3)]}, "the config of a queue trigger must be a dict"),  # type: ignore[arg-type]
        ({"triggers": [queue("a", condition=3)]}, "the condition of a queue trigger"),  # type: ignore[arg-type]
        ({"triggers": [cron("@daily", condition=3)]}, "the condition of a cron trigger"),  # type: ignore[arg-type]
        ({"enqueues": [3]}, "'enqueues' must be a list of topics, or of dicts"),
    ],
)
def test_what_does_not_fit_says_what_to_write(change: dict[str, Any], says: str) -> None:
    with pytest.raises(StepError) as caught:
        step({**CONFIG, **change})  # type: ignore[typeddict-item]
    assert says in str(caught.value)
    assert str(caught.value).startswith("step 'Orders::Create': ")


def test_config_of_a_queue_says_how_attempts_are_made() -> None:
    policy = RetryPolicy(5, 0.5, 30.0, None)
    motias = {
        "type": "fifo",
        "maxRetries": 2,
        "visibilityTimeout": 60,
        "delaySeconds": 0,
        "backoffType": None,
        "concurrency": None,
    }
    assert with_config(policy, motias, can_time_out=True) == RetryPolicy(3, 0.5, 30.0, 60.0)
    assert with_config(policy, motias, can_time_out=False) == RetryPolicy(3, 0.5, 30.0, None)
    fixed = with_config(policy, {"backoff_type": "fixed", "backoff_delay_ms": 2000}, can_time_out=True)
    assert [fixed.pause(attempt) for attempt in (1, 2, 9)] == [2.0, 2.0, 2.0]
    grown = with_config(policy, {"backoffDelayMs": 40_000}, can_time_out=True)
    assert [grown.pause(attempt) for attempt in (1, 2)] == [40.0, 40.0]

    class Config(BaseModel):
        max_retries: int = 1

    assert queue("a", config=Config()).config == {"max_retries": 1}  # type: ignore[arg-type]


def test_cron_input_is_dumped_with_its_times() -> None:
    assert set(CronTriggerInput.__dataclass_fields__) >= {"scheduled_at", "fired_at"}


def test_attributes_of_older_contexts_say_what_to_write() -> None:
    ctx: Any = context(None, "queue", 1)
    with pytest.raises(AttributeError, match=r"'FlowContext' object has no attribute 'emit'; .* write ctx\.enqueue\("):
        ctx.emit({"topic": "t", "data": 1})
    with pytest.raises(AttributeError, match=r"write Stream\(name\)"):
        _ = ctx.streams.todo
    with pytest.raises(AttributeError, match=r"no attribute 'other'$"):
        _ = ctx.other
    assert not hasattr(ctx, "emit")

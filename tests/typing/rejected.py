"""Mistakes of a user: mypy and pyright must flag every line with an ignore, and an ignore that is not needed fails `make lint`.

The file is checked and never run.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from motia_redis import (
    KEEP,
    ApiRequest,
    ApiResponse,
    Application,
    FlowContext,
    StateManager,
    StateTriggerInput,
    Stream,
    StreamTriggerInput,
    cron,
    http,
    queue,
    state,
    stateManager,
    step,
    stream,
    sync,
)
from motia_redis.types import Operation, StepConfig


async def wrong_operations(state: StateManager) -> None:
    await state.update("users", "ann", [{"op": "incr", "path": "/n", "value": 1}])  # type: ignore[misc, list-item]
    await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": "1"}])  # type: ignore[misc, list-item]
    await state.update("users", "ann", [{"op": "increment", "path": "/n", "by": 1}])  # type: ignore[list-item]
    await state.update("users", "ann", [{"op": "remove"}])  # type: ignore[list-item]
    await state.update("users", "ann", [{"op": "move", "path": "/a"}])  # type: ignore[typeddict-item]
    await state.update("users", "ann", [{"type": "add", "path": "a", "value": 1}])  # type: ignore[misc, list-item]
    await state.update("users", "ann", {"op": "remove", "path": "/a"})  # type: ignore[arg-type]
    await state.get_many("users", 7)  # type: ignore[arg-type]
    await state.get_many("users", ["ann"], True)  # type: ignore[call-arg]
    await state.modify("users", "ann", {"name": "Ann"})  # type: ignore[arg-type]
    await state.set("users", "ann", 1, ttl="60")  # type: ignore[arg-type]
    await state.expire("users", "ann", KEEP)  # type: ignore[arg-type]
    await state.enqueue("mail", 1, delay="1")  # type: ignore[arg-type]
    await state.set_many("users", ["ann"])  # type: ignore[arg-type]
    async with state.transaction() as tx:
        tx.check("users", "ann", 7)  # type: ignore[arg-type]
        tx.update("users", "ann", [{"op": "incr", "path": "/n", "value": 1}])  # type: ignore[misc, list-item]
        await tx.delete("users", "ann")  # type: ignore[func-returns-value, misc]
    with state.transaction():  # type: ignore[attr-defined]
        pass
    incomplete: Operation = {"type": "set", "path": "a"}  # type: ignore[typeddict-item]
    await state.update("users", "ann", [incomplete])


StateManager(durability="safe")  # type: ignore[arg-type]
StateManager(partitions=4)  # type: ignore[call-arg]


def is_on(request: ApiRequest) -> bool:
    return True


http("FETCH", "/users")  # type: ignore[arg-type]
http("GET", "/users", condition=lambda: True)  # type: ignore[arg-type]
http("GET", "/users", middleware=[is_on])  # type: ignore[list-item]
http("GET", "/users", response_schema=[int])  # type: ignore[arg-type]
http("GET", "/users", query_params=["page"])  # type: ignore[list-item]
queue(7)  # type: ignore[arg-type]
cron("@daily", missed="all")  # type: ignore[arg-type]
cron("@daily", "UTC")  # type: ignore[call-arg]

step({"name": "S", "triggers": [queue("t")], "max_atempts": 3})  # type: ignore[call-overload]
step({"name": "S"})  # type: ignore[call-overload]
step({"name": "S", "triggers": [queue("t")], "max_attempts": "3"})  # type: ignore[call-overload]
step({"name": "S", "triggers": ["t"]})  # type: ignore[call-overload]
step({"name": "S", "triggers": [queue("t")], "enqueues": "t"})  # type: ignore[call-overload]
config: StepConfig = {"triggers": [queue("t")]}  # type: ignore[typeddict-item]


def on_int(input: int) -> bool:
    return input > 0


def on_three(input: StateTriggerInput, ctx: FlowContext, more: int) -> bool:
    return more > 0


def text(input: StateTriggerInput) -> str:
    return input.group_id


state(on_int)  # type: ignore[arg-type]
state(on_three)  # type: ignore[arg-type]
state(text)  # type: ignore[arg-type]
state("users")  # type: ignore[call-overload]


@step({"name": "Create", "triggers": [http("POST", "/users")]})
async def create(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    return ApiResponse(status="201")  # type: ignore[arg-type]


async def wrong_calls(request: ApiRequest, ctx: FlowContext, anything: Any) -> None:
    await create(request)  # type: ignore[call-arg]
    await create(ctx, request)  # type: ignore[arg-type]
    answer: int = await create(request, ctx)  # type: ignore[assignment]
    definition = step({"name": "S", "triggers": [queue("t")]})
    Application((definition,))  # type: ignore[arg-type]
    definition(request, ctx)  # type: ignore[arg-type]
    definition.handle(answer)  # type: ignore[arg-type]
    await ctx.enqueue("mail")  # type: ignore[arg-type]


class User(BaseModel):
    name: str


class Cart(BaseModel):
    items: list[str]


users = stateManager.scope("users", User)


async def wrong_types() -> None:
    await users.set("ann", {"name": "Ann"})  # type: ignore[arg-type]
    await users.set("ann", Cart(items=[]))  # type: ignore[arg-type]
    await users.set_many({"ann": 1})  # type: ignore[dict-item]
    await users.get("users", "ann")  # type: ignore[call-arg]
    await users.modify("ann", lambda user: Cart(items=[]))  # type: ignore[arg-type, return-value]
    cart: Cart | None = await users.get("ann")  # type: ignore[assignment]
    stateManager.scope("users", 7)  # type: ignore[arg-type]
    stateManager.scope("users")  # type: ignore[call-arg]


def of_carts(input: StateTriggerInput[Cart]) -> bool:
    return input.new_value is not None


def unchecked(input: StateTriggerInput[User]) -> bool:
    return bool(input.new_value.name)  # type: ignore[union-attr]


state(of_carts, scope=users)  # type: ignore[arg-type]


carts = Stream("carts", model=Cart)


def of_users(input: StreamTriggerInput[User]) -> bool:
    return bool(input.event.data.name)


async def wrong_items() -> None:
    await carts.set("ann", "1", {"items": []})  # type: ignore[arg-type]
    await carts.set("ann", "1", User(name="Ann"))  # type: ignore[arg-type]
    await carts.get("ann")  # type: ignore[call-arg]
    user: User | None = await carts.get("ann", "1")  # type: ignore[assignment]
    carts.get("ann", "1")  # type: ignore[unused-coroutine]


stream()  # type: ignore[call-overload]
stream(7)  # type: ignore[call-overload]
stream("carts", "ann")  # type: ignore[call-overload]
stream(carts, condition=of_users)  # type: ignore[arg-type]
stream("carts", condition=on_int)  # type: ignore[arg-type]
Stream("carts", state=sync.stateManager)  # type: ignore[arg-type]
Stream("carts", model=7)  # type: ignore[arg-type]

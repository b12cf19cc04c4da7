"""A program as a user writes it: mypy and pyright, both strict, must accept every line of it (`make lint`)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel
from typing_extensions import TypedDict

import motia_redis
from motia_redis import (
    KEEP,
    ApiRequest,
    ApiResponse,
    Application,
    CronTriggerInput,
    Entry,
    FlowContext,
    Layout,
    Limits,
    QueryParam,
    Retention,
    StateManager,
    StateTriggerInput,
    Stream,
    StreamTriggerInput,
    SyncFlowContext,
    TriggerInfo,
    Worker,
    api,
    create_web_app,
    cron,
    enqueue,
    http,
    load_application,
    logger,
    queue,
    state,
    stateManager,
    step,
    stream,
    sync,
)
from motia_redis.admin import DeadLetters, Imported, RefusedLine, examine, export_values, forget_step, import_values, read_status
from motia_redis.errors import (
    CorruptValue,
    NotDurable,
    RevisionConflict,
    SchemaMismatch,
    StateError,
    StateUnavailable,
    StepError,
    TestFailed,
    UpdateFailed,
)
from motia_redis.types import (
    ApiCondition,
    ApiMiddleware,
    Bookmark,
    Change,
    ChangeReason,
    ChangeType,
    Condition,
    CronTrigger,
    Durability,
    HttpMethod,
    Mirror,
    Missed,
    Operation,
    StateEventType,
    Step,
    StepConfig,
    StepDefinition,
    StreamCondition,
    StreamEvent,
    StreamEventType,
    StreamGroup,
    Synced,
    Transaction,
    TransactionInfo,
    Trigger,
    TriggerType,
    TypedScope,
    Watch,
)

# -- steps ------------------------------------------------------------------------------------------------------------


@step({"name": "CreateOrder", "triggers": [http("POST", "/orders/:id")], "enqueues": ["mail"], "description": "Take an order."})
async def create(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    order = await ctx.state.set("orders", request.path_params["id"], {"status": "new", "total": 0})
    ctx.logger.info("order created", {"trace": ctx.trace_id, "step": ctx.step_name})
    return ApiResponse(status=201, body=order, headers={"x-order": request.path_params["id"], "x-tags": ["a", "b"]})


class NewOrder(BaseModel):
    items: list[str]


async def signed_in(request: ApiRequest, ctx: FlowContext, next: Callable[[], Awaitable[ApiResponse]]) -> ApiResponse:
    if "authorization" not in request.headers:
        return ApiResponse(status=401)
    response = assert_type(await next(), ApiResponse)
    return replace(response, headers={**response.headers, "vary": "authorization"})


def passes(request: ApiRequest, ctx: SyncFlowContext, next: Callable[[], Awaitable[ApiResponse]]) -> Awaitable[ApiResponse]:
    return next()


async def refuses(request: ApiRequest, ctx: FlowContext, next: Callable[[], Awaitable[ApiResponse]]) -> dict[str, Any]:
    return {"status": 403}


async def is_staff(request: ApiRequest, ctx: FlowContext) -> bool:
    return await ctx.state.get("staff", request.headers["x-user"]) is not None


around: list[ApiMiddleware] = [signed_in, passes, refuses]
only_staff: ApiCondition = is_staff
api(
    "POST",
    "/orders",
    body_schema=NewOrder,
    response_schema={201: {"type": "object"}, 400: NewOrder},
    query_params=[QueryParam("dry_run", "store nothing"), {"name": "page", "description": "which page"}],
    middleware=around,
    condition=only_staff,
)
http("GET", "/orders", middleware=[signed_in, passes], condition=lambda request: request.path != "/")


def is_last(input: StateTriggerInput) -> bool:
    transaction = assert_type(input.transaction, TransactionInfo | None)
    return transaction is not None and transaction.index == transaction.size - 1


def is_paid(input: StateTriggerInput) -> bool:
    return input.new_value is not None and input.new_value["status"] == "paid"


def is_of(scope: str) -> Condition:
    def matches(input: StateTriggerInput, ctx: FlowContext) -> bool:
        return input.group_id == scope

    return matches


async def is_known(input: StateTriggerInput, ctx: FlowContext) -> bool:
    return await ctx.state.get("customers", input.item_id) is not None


@step({
    "name": "ShipOrder",
    "triggers": [
        state(is_paid, scope="orders"),
        state(is_of("returns")),
        state(is_paid, scope="orders", where={"status": "paid", "/lines/0/count": 1}),
        queue("orders", where={"priority": 1, "tags": ["new"]}),
        state(condition=is_known, scope="orders", key="first"),
        state(lambda input: input.old_value is None, scope="drafts"),
        state(lambda input, ctx: ctx.trigger.attempt == 1, scope="drafts"),
    ],
    "max_attempts": 3,
    "backoff": 0.1,
    "max_backoff": 10,
    "timeout": 2.5,
    "effects_once": True,
    "flows": ("orders",),
})  # fmt: skip
async def ship(input: StateTriggerInput, ctx: FlowContext) -> None:
    kind: StateEventType = input.event_type
    assert_type(ctx.trigger, TriggerInfo)
    trigger: TriggerType = ctx.trigger.type
    ctx.logger.info(f"{kind} by {trigger}", {"revision": input.revision, "at": input.timestamp})
    await ctx.enqueue({"topic": "mail", "data": {"order": input.item_id, "id": ctx.id("mail")}, "key": input.item_id})


@step({"name": "Report", "triggers": [cron("@daily"), cron("0 8 * * MON", timezone="Europe/Berlin", missed="skip")]})
async def report(input: CronTriggerInput, ctx: FlowContext) -> None:
    assert_type(input.fired_at - input.scheduled_at, timedelta)
    assert_type(ctx.trigger.expression, str | None)
    missed: Missed = "once"
    trigger: CronTrigger = cron("*/5 * * * *", missed=missed)
    ctx.logger.info(f"{input.expression} {input.timezone}", {"next": str(trigger)})


@step({"name": "SendMail", "triggers": [queue("mail")]})
def send(data: dict[str, Any]) -> int:
    logger.info("mail sent", data)
    return len(data)


config: StepConfig = {"name": "Audit", "triggers": [state(), queue("audit")]}
audit_definition = step(config)


async def audit(input: StateTriggerInput | dict[str, Any], ctx: FlowContext) -> None:
    await enqueue({"topic": "seen", "data": None})


audit_step = audit_definition.handle(audit)

# A step is called like its handler, with the handler's own types.
assert_type(audit_definition, StepDefinition)
assert_type(send({"order": "1"}), int)
send_step: Step[[dict[str, Any]], int] = send
any_step: Step = audit_step


def called(request: ApiRequest, ctx: FlowContext) -> Coroutine[Any, Any, ApiResponse]:
    return create(request, ctx)


async def test_of_a_user(ctx: FlowContext) -> None:
    assert_type(await create(ApiRequest("POST", "/orders/1", {"id": "1"}), ctx), ApiResponse)
    assert_type(audit_step.name, str)
    assert_type(audit_step.triggers, tuple[Trigger, ...])


# -- state ------------------------------------------------------------------------------------------------------------


def operations(by: int) -> list[Operation]:
    return [{"op": "increment", "path": "/visits", "value": by}, {"type": "decrement", "path": ["a", "b"], "by": 0.5}]


def add_one(value: int | None) -> int:
    return (value or 0) + 1


async def add_one_later(value: Any) -> Any:
    return value + 1


async def change(durability: Durability) -> None:
    manager = StateManager(
        "redis://localhost:6379/0",
        namespace="shop",
        layout=Layout(partitions=4, lanes=2),
        limits=Limits(value_bytes=1024),
        retention=Retention(entries=10),
        durability=durability,
    )
    async with manager as state:
        value = await state.get("users", "ann")
        await state.set("users", "ann", {"name": value}, if_revision=None, idempotency_key="sign-up ann")
        patch: list[Operation] = [
            {"op": "add", "path": "/tags/-", "value": ["x"]},
            {"op": "remove", "path": "/tags/0"},
            {"op": "replace", "path": "/name", "value": "Ann"},
            {"op": "move", "from": "/a", "path": "/b"},
            {"op": "copy", "from": "/a", "path": "/b"},
            {"op": "test", "path": "/a", "value": None},
            {"op": "increment", "path": "/n", "value": 1},
            {"op": "decrement", "path": "/n", "value": 1.5},
            {"op": "append", "path": "/tags", "value": "y"},
            {"op": "merge", "path": "", "value": {"z": 1}},
        ]
        await state.update("users", "ann", patch, strict=True)
        await state.update(
            "users",
            "ann",
            [
                {"type": "set", "path": "name", "value": "Ann"},
                {"type": "set", "value": {"name": "Ann"}},
                {"type": "merge", "value": {"age": 7}},
                {"type": "increment", "path": "visits", "by": 1},
                {"type": "increment", "path": "visits", "value": 1},
                {"type": "append", "path": ["address", "lines"], "value": "x"},
                {"type": "remove", "path": "old"},
            ],
        )
        await state.update("users", "ann", operations(2))
        entry = await state.entry("users", "ann")
        assert_type(entry, Entry | None)
        if entry is not None:
            await state.delete("users", "ann", if_revision=entry.revision)
        assert_type(await state.get_many("users", {"ann", "bob"}, atomic=False), dict[str, Any])
        await state.modify("users", "ann", add_one, attempts=3, ttl=60)
        await state.modify("users", "ann", add_one_later)
        await state.modify("users", "ann", lambda value: value or 0)
        await state.set("sessions", "s1", {}, ttl=60)
        await state.set("sessions", "s1", {}, ttl=KEEP)
        await state.update("sessions", "s1", [{"op": "add", "path": "/n", "value": 1}], ttl=None)
        assert_type(await state.expire("sessions", "s1", 0.5), bool)
        assert_type(await state.enqueue("mail", {}, delay=1.5), str)
        assert_type(await state.cancel(await state.enqueue("mail", {}, at=datetime.now(UTC))), bool)
        async with state.transaction(idempotency_key="payment 7") as tx:
            assert_type(tx, Transaction)
            tx.check("users", "ann", None)
            tx.set("users", "ann", {}, ttl=60)
            tx.update("users", "ann", [{"op": "add", "path": "/n", "value": 1}], strict=True)
            tx.delete("users", "bob")
            tx.enqueue("{users}mail", {}, key="ann")
        assert_type(tx.revisions, dict[tuple[str, str], str | None])
        assert_type(tx.message_ids, list[str])
        await state.set_many("users", {"ann": 1}, ttl=KEEP, atomic=False)
        assert_type(await state.delete_many("users", ["ann"]), int)
        assert_type(await state.keys("users"), list[str])
        assert_type(await state.count("users"), int)
        assert_type(await state.items("users"), dict[str, Any])
        assert_type(await state.list_groups(), list[str])
        async with state.watch("users", prefix="a", start="snapshot", on_gap="resync") as watch:
            async for item in watch:
                match item:
                    case Change():
                        assert_type(item.type, ChangeType)
                        assert_type(item.transaction, TransactionInfo | None)
                        assert_type(item.reason, ChangeReason | None)
                        assert_type(item.expires_at, float | None)
                    case Synced() | Bookmark():
                        assert_type(item.cursor, str)
        async with state.mirror("flags", max_age=5) as flags:
            assert_type(flags, Mirror)
            assert_type(flags.age, float)
            end = flags.on_change(lambda change: print(change.key))
            end()
            await flags.reached("1-1")
        async for key, _ in state.scan("users"):
            assert_type(key, str)
        await state.clear("users")
        assert_type(await state.enqueue("mail", {"to": "ann"}, key="ann"), str)


async def fails() -> str:
    try:
        await stateManager.get("users", "ann")
    except RevisionConflict as error:
        return f"{error.expected} {error.actual}"
    except StateUnavailable as error:
        return str(error.maybe_applied)
    except (TestFailed, UpdateFailed, NotDurable, CorruptValue, StepError) as error:
        return str(error.code)
    except StateError as error:
        return str(error)
    return motia_redis.__version__


# -- typed scopes -----------------------------------------------------------------------------------------------------


class User(BaseModel):
    name: str
    age: int = 0


@dataclass
class Cart:
    items: list[str]


class Flag(TypedDict):
    enabled: bool


users = stateManager.scope("users", User)
carts = stateManager.scope("carts", Cart)
flags = stateManager.scope("flags", Flag)
assert_type(users, TypedScope[User])
assert_type(carts, TypedScope[Cart])
assert_type(flags, TypedScope[Flag])


def older(user: User | None) -> User:
    return User(name="Ann") if user is None else user.model_copy(update={"age": user.age + 1})


async def older_later(user: User | None) -> User:
    return older(user)


async def use_typed(manager: StateManager) -> None:
    assert_type(await users.get("ann"), User | None)
    assert_type(await users.entry("ann"), Entry[User] | None)
    assert_type(await users.set("ann", User(name="Ann"), ttl=60, if_revision=None), User)
    assert_type(await users.patch("ann", age=7), User)
    assert_type(await users.modify("ann", older), User)
    assert_type(await users.modify("ann", older_later, attempts=3), User)
    assert_type(await users.update("ann", [{"op": "increment", "path": "/age", "value": 1}]), User)
    assert_type(await users.delete("ann"), User | None)
    assert_type(await users.list(), list[User])
    assert_type(await users.items(), dict[str, User])
    assert_type(await users.keys(), list[str])
    assert_type(await users.count(), int)
    assert_type(await users.get_many(["ann"]), dict[str, User])
    await users.set_many({"ann": User(name="Ann")})
    assert_type(await users.delete_many(["ann"]), int)
    assert_type(await users.expire("ann", 5), bool)
    async for key, user in users.scan():
        assert_type((key, user), tuple[str, User])
    async with users.watch("ann", start="snapshot") as watch:
        assert_type(watch, Watch[User])
        async for item in watch:
            if isinstance(item, Change):
                assert_type(item.value, User | None)
                break
    async with users.mirror() as mirror:
        assert_type(mirror, Mirror[User])
        assert_type(mirror["ann"], User)
        assert_type(mirror.get("ann"), User | None)
        assert_type(await mirror.read("ann"), User | None)
    await users.clear()
    cart = await carts.set("ann", Cart([]))
    assert_type(await carts.modify("ann", lambda cart: replace(cart or Cart([]), items=["x"])), Cart)
    assert_type(await flags.set("beta", {"enabled": len(cart.items) > 0}), Flag)
    assert_type(users.using(manager), TypedScope[User])
    assert_type(users.model, type[User])
    try:
        await users.get("ann")
    except SchemaMismatch as error:
        assert_type((error.scope, error.key, error.field), tuple[str, str, str])


def is_adult(input: StateTriggerInput[User]) -> bool:
    return input.new_value is not None and input.new_value.age >= 18


def any_change(input: StateTriggerInput) -> bool:
    return input.new_value is not None


@step({
    "name": "Adult",
    "triggers": [
        state(is_adult, scope=users),
        state(any_change, scope=users, key="ann"),
        state(lambda input: input.new_value is None or input.new_value.age > 0, scope=users),
        state(scope=users),
    ],
})  # fmt: skip
async def adult(input: StateTriggerInput[User], ctx: FlowContext) -> None:
    assert_type(input.new_value, User | None)
    assert_type(input.old_value, User | None)
    assert_type(await users.using(ctx.state).get(input.item_id), User | None)


# -- streams ----------------------------------------------------------------------------------------------------------

todo: Stream[dict[str, Any]] = Stream("todo")  # as Motia's steps have it
typed_carts = Stream("carts", model=Cart)
any_stream: Stream = Stream("any")
assert_type(typed_carts, Stream[Cart])


def is_full(input: StreamTriggerInput[Cart]) -> bool:
    return len(input.event.data.items) > 9


async def is_known_item(input: StreamTriggerInput, ctx: FlowContext) -> bool:
    return await ctx.state.get("known", input.id) is not None


def is_of_group(group: str) -> StreamCondition:
    def matches(input: StreamTriggerInput) -> bool:
        return input.group_id == group

    return matches


@step({
    "name": "FullCart",
    "triggers": [
        stream(typed_carts, condition=is_full),
        stream(typed_carts, condition=is_known_item),
        stream("carts", group_id="a", item_id="b", condition=is_of_group("a")),
        stream(typed_carts, condition=lambda input: not input.event.data.items),
    ],
})  # fmt: skip
async def full_cart(input: StreamTriggerInput[Cart], ctx: FlowContext) -> None:
    assert_type(input.event, StreamEvent[Cart])
    assert_type(input.event.data, Cart)
    assert_type(input.event.old_data, Cart | None)
    kind: StreamEventType = input.event.type
    assert_type(await typed_carts.using(ctx.state).get(input.group_id, input.id), Cart | None)
    ctx.logger.info(kind, {"stream": ctx.trigger.stream, "group": ctx.trigger.group, "is_stream": ctx.is_stream()})


def plain_full_cart(input: StreamTriggerInput[Cart], ctx: SyncFlowContext) -> None:
    assert_type(typed_carts.using(ctx.state), sync.Stream[Cart])
    assert_type(typed_carts.using(ctx.state).get(input.group_id, input.id), Cart | None)


async def use_streams(manager: StateManager) -> None:
    assert_type(await todo.get("inbox", "1"), dict[str, Any] | None)
    assert_type(await todo.set("inbox", "1", {"text": "milk"}, ttl=60, if_revision=None), dict[str, Any])
    assert_type(await todo.update("inbox", "1", [{"op": "remove", "path": "/text"}]), dict[str, Any])
    assert_type(await todo.delete("inbox", "1"), dict[str, Any] | None)
    assert_type(await todo.list("inbox"), list[dict[str, Any]])
    assert_type(await typed_carts.get_group("ann"), list[Cart])
    assert_type(await typed_carts.list_groups(), list[str])
    assert_type(await any_stream.set("a", "b", 7), Any)
    assert_type(todo.group("inbox"), StreamGroup)
    assert_type(await manager.count(todo.group("inbox")), int)
    assert_type(manager.scope(typed_carts.group("ann"), Cart), TypedScope[Cart])
    await asyncio.create_task(typed_carts.set("ann", "1", Cart([])))


def use_plain_streams(manager: sync.StateManager) -> None:
    plain = sync.Stream("carts", model=Cart, state=manager)
    assert_type(plain.set("ann", "1", Cart([])), Cart)
    assert_type(plain.list("ann"), list[Cart])
    assert_type(plain.list_groups(), list[str])


# -- running and administration ---------------------------------------------------------------------------------------


def route(method: HttpMethod, path: str) -> Trigger:
    return http(method, path)


async def work(manager: StateManager) -> None:
    application = Application((create, ship, send, audit_step))
    assert_type(load_application(["orders_step.py"]), Application)
    web = create_web_app(application, manager, max_body_bytes=1024, watch="/state", allow=lambda request, scope: scope == "carts")
    assert web.routes
    async with Worker(application, manager, grace=10) as embedded:
        assert_type(embedded, Worker)
    assert_type(load_application([Path("steps")]), Application)
    worker = Worker(application, manager, concurrency=8, lease=3.0)
    running = asyncio.create_task(worker.run())
    worker.stop()
    await running


async def administer(manager: StateManager) -> None:
    status = await read_status(manager)
    for one in status.steps:
        print(one.name, one.lag, one.dead_letters)
    examination = await examine(manager, stuck_after=60.0)
    for examined in examination.servers:
        print(examined.address, [finding.outcome for finding in examined.findings])
    print(examination.has_failed, [finding.check for finding in examination.findings])
    letters = DeadLetters(manager)
    for letter in await letters.list("ShipOrder", limit=10):
        await letters.retry(letter.step, letter.id)
    print((await forget_step(manager, "OldStep")).groups)
    refused: list[RefusedLine] = []
    file = io.BytesIO()
    print((await export_values(manager, file.write, scopes=["carts"])).cursor)
    file.seek(0)
    assert_type(await import_values(manager, file, existing="keep", refused=refused.append), Imported)

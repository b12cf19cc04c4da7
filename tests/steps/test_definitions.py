"""Steps: what a configuration accepts, how handlers are bound, and how a user's function is called."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.definitions import HttpTrigger, QueueTrigger, StateTrigger, Step, http, queue, state, step
from motia_redis._steps.inputs import StateTriggerInput
from motia_redis._steps.invocation import call
from motia_redis._steps.logs import Logger
from motia_redis.errors import StepError


def config(**extra: Any) -> dict[str, Any]:
    return {"name": "S", "triggers": [queue("t")], **extra}


# -- configuration ----------------------------------------------------------------------------------------------------


def test_a_step_has_what_its_configuration_says() -> None:
    made = step({
        "name": "On user.change_1-a",
        "description": "what it does",
        "triggers": [http("post", "/users/:id"), state(scope="users", key="u1"), queue("user.changed")],
        "enqueues": ["a", "b"],
        "flows": ["f"],
        "max_attempts": 2,
        "backoff": 1,
        "max_backoff": 3,
        "timeout": 2.5,
    })  # fmt: skip
    assert made.name == "On user.change_1-a"
    assert made.description == "what it does"
    assert made.triggers == (
        HttpTrigger("POST", "/users/:id"),
        StateTrigger(None, "users", "u1"),
        QueueTrigger("user.changed"),
    )
    assert made.http_triggers == made.triggers[:1]
    assert made.state_triggers == made.triggers[1:2]
    assert made.queue_triggers == made.triggers[2:]
    assert (made.enqueues, made.flows) == (("a", "b"), ("f",))
    assert (made.max_attempts, made.backoff, made.max_backoff, made.timeout) == (2, 1, 3, 2.5)


def test_the_delivery_options_have_the_documented_defaults() -> None:
    made = step(config())
    assert (made.max_attempts, made.backoff, made.max_backoff, made.timeout) == (5, 0.5, 30.0, None)


def test_pauses_double_up_to_the_ceiling_at_any_attempt() -> None:
    made = step(config(backoff=0.5, max_backoff=3))
    assert [made.pause(attempt) for attempt in (1, 2, 3, 4, 5, 100_000)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_a_first_pause_over_the_default_ceiling_raises_the_ceiling() -> None:
    assert step(config(backoff=60)).pause(3) == 60


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"retries": 3}, "unknown key 'retries'; accepted are name, triggers"),
        ({"description": 3}, "'description' must be text"),
        ({"enqueues": "topic"}, "'enqueues' must be a list of topics"),
        ({"enqueues": [""]}, "'enqueues' must be a list of topics"),
        ({"flows": [1]}, "'flows' must be a list"),
        ({"max_attempts": 0}, "'max_attempts' must be an integer of at least 1"),
        ({"max_attempts": True}, "'max_attempts' must be an integer"),
        ({"max_attempts": 1.5}, "'max_attempts' must be an integer"),
        ({"backoff": 0}, "'backoff' must be a number of seconds over 0"),
        ({"backoff": float("nan")}, "'backoff' must be a number"),
        ({"max_backoff": float("inf")}, "'max_backoff' must be a number"),
        ({"backoff": 2, "max_backoff": 1}, "'max_backoff' (1) must not be under 'backoff' (2)"),
        ({"timeout": "1"}, "'timeout' must be a number of seconds over 0, or None"),
        ({"triggers": []}, "at least one http(...), state(...) or queue(...)"),
        ({"triggers": queue("t")}, "'triggers' must be a list"),
        ({"triggers": [{"type": "http"}]}, "is no trigger; accepted are http(...), state(...), queue(...)"),
        ({"triggers": [http("FETCH", "/")]}, "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS, not 'FETCH'"),
        ({"triggers": [http("GET", "users")]}, "begins with a slash, not 'users'"),
        ({"triggers": [http("GET", None)]}, "begins with a slash, not None"),  # type: ignore[arg-type]
        ({"triggers": [http("GET", "/users?x=1")]}, "no query"),
        ({"triggers": [http("GET", "/users//x")]}, "no empty segment"),
        ({"triggers": [http("GET", "/users/:")]}, "not ':' in '/users/:'"),
        ({"triggers": [http("GET", "/users/:id.json")]}, "not ':id.json'"),
        ({"triggers": [http("GET", "/:id/of/:id")]}, "stands twice"),
        ({"triggers": [state(key="k")]}, "key='k' needs scope="),
        ({"triggers": [state(scope="")]}, "scope of a state trigger is text that is not empty"),
        ({"triggers": [state("users")]}, "condition of a state trigger must be a function, not 'users'"),  # type: ignore[arg-type]
        ({"triggers": [state(lambda a, b, c: True)]}, "condition of a state trigger must take (input, ctx) or (input)"),
        ({"triggers": [queue("")]}, "topic of a queue trigger"),
        ({"triggers": [queue(3)]}, "not 3"),  # type: ignore[arg-type]
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_at_once_naming_the_step(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(StepError) as caught:
        step(config(**bad))
    assert says in str(caught.value)
    assert str(caught.value).startswith("step 'S': ")


@pytest.mark.parametrize("name", [None, "", 3, "a\nb", "a\x00", "a:b", "a{b}", " a", "a ", "a" * 129])
def test_a_name_that_could_not_be_a_consumer_group_is_refused(name: object) -> None:
    with pytest.raises(StepError, match="'name' must be 1 to 128 letters"):
        step({"name": name, "triggers": [queue("t")]})


def test_a_step_is_made_from_a_dict_only() -> None:
    with pytest.raises(StepError, match="from a dict"):
        step("S")  # type: ignore[arg-type]


# -- binding ----------------------------------------------------------------------------------------------------------


def test_handle_binds_and_returns_the_step() -> None:
    made = step(config())
    assert made.handle(print) is made
    assert made.handler is print


def test_a_step_is_a_decorator_and_the_decorated_handler_stays_callable() -> None:
    @step(config())
    def double(input: int) -> int:
        return input * 2

    assert isinstance(double, Step)
    assert double(21) == 42


def test_a_second_handler_is_refused() -> None:
    made = step(config()).handle(print)
    with pytest.raises(StepError, match="'S' has a handler already"):
        made.handle(repr)


def test_calling_a_step_without_handler_says_so() -> None:
    with pytest.raises(StepError, match="'S' has no handler yet"):
        step(config())({"a": 1}, None)


async def yielding(input: Any) -> Any:
    yield input


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (3, "must be a function, not 3"),
        (lambda: None, r"must take \(input, ctx\) or \(input\), not \(\)"),
        (lambda a, b, c: None, "must take"),
        (lambda a, *, needed: None, "must take"),
        (yielding, "must return, not yield"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused_when_bound(handler: Any, says: str) -> None:
    with pytest.raises(StepError, match=f"step 'S': the handler {says}"):
        step(config()).handle(handler)


# -- calling ----------------------------------------------------------------------------------------------------------


class Callable2:
    async def __call__(self, input: Any, ctx: Any) -> Any:
        return input, ctx


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, input: Any) -> Any:
        return input


async def async_two(input: Any, ctx: Any) -> Any:
    return input, ctx


async def async_one(input: Any) -> Any:
    return input


def sync_around_async(input: Any) -> Any:
    return async_one(input)


def advance(input: Any) -> Any:
    return next(input)


@pytest.mark.parametrize(
    ("fn", "result"),
    [
        (async_two, ("i", "c")),
        (async_one, "i"),
        (lambda given, ctx: (given, ctx), ("i", "c")),
        (lambda given: given, "i"),
        (lambda *args: args, ("i", "c")),
        (lambda given, ctx=None: (given, ctx), ("i", "c")),
        (lambda given, n=7: (given, n), ("i", 7)),
        (sync_around_async, "i"),
        (functools.partial(lambda extra, given: (extra, given), "e"), ("e", "i")),
        (Callable2(), ("i", "c")),
        (Unhashable(), "i"),
    ],
)
async def test_a_function_gets_the_context_exactly_when_it_takes_one(fn: Any, result: Any) -> None:
    assert await call(fn, "i", "c") == result


async def test_a_sync_function_runs_in_a_thread_so_that_it_cannot_stop_the_loop() -> None:
    loop = asyncio.get_running_loop()
    released = threading.Event()

    def blocks(input: Any) -> bool:
        loop.call_soon_threadsafe(released.set)  # runs while this waits only if the loop goes on
        return released.wait(5)

    assert await call(blocks, 1, None)


async def test_a_sync_function_runs_in_the_executor_given() -> None:
    with ThreadPoolExecutor(thread_name_prefix="mine") as executor:
        name = await call(lambda given: threading.current_thread().name, 1, None, executor)
    assert name.startswith("mine")


async def test_a_sync_function_sees_the_callers_context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert await call(lambda given: variable.get(), 1, None) == "set"


async def test_what_a_function_raises_reaches_the_caller() -> None:
    async def fails(input: Any) -> None:
        raise KeyError(input)

    with pytest.raises(KeyError, match="i"):
        await call(fails, "i", None)
    with pytest.raises(ZeroDivisionError):
        await call(lambda given: 1 / given, 0, None)


async def test_a_sync_function_that_raises_stop_iteration_does_not_hang_its_caller() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(call(advance, iter(()), None), 5)


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_handler_cannot_end_the_process(is_async: bool) -> None:
    async def leave(input: Any) -> None:
        raise SystemExit(3)

    def leave_sync(input: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        await call(leave if is_async else leave_sync, 1, None)


# -- inputs and context -----------------------------------------------------------------------------------------------


def test_the_timestamp_of_a_change_is_the_milliseconds_of_its_revision() -> None:
    change = StateTriggerInput(
        group_id="users",
        item_id="u1",
        old_value=None,
        new_value=1,
        event_type="state:created",
        revision="1700000000123-4",
    )
    assert change.timestamp == 1700000000123
    assert change.type == "state"


class FakeState:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, str | None]] = []

    async def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> str:
        self.sent.append((topic, data, key))
        return "1-0"


def context_on(fake: FakeState) -> FlowContext:
    return FlowContext(
        state=fake,  # type: ignore[arg-type]
        logger=Logger("S"),
        trace_id="0" * 31 + "1",
        trigger=TriggerInfo(type="queue", topic="t", message_id="1-0", attempt=1),
        step_name="S",
    )


async def test_enqueue_sends_topic_data_and_key() -> None:
    fake = FakeState()
    await context_on(fake).enqueue({"topic": "t", "data": None})
    await context_on(fake).enqueue({"topic": "t", "data": [1], "key": "k"})
    assert fake.sent == [("t", None, None), ("t", [1], "k")]


@pytest.mark.parametrize(
    "message",
    [
        "t",
        {"topic": "t"},
        {"data": 1},
        {"topic": "", "data": 1},
        {"topic": 1, "data": 1},
        {"topic": "t", "data": 1, "key": ""},
        {"topic": "t", "data": 1, "kye": "k"},
    ],
)
async def test_a_message_of_another_shape_is_refused_and_nothing_is_sent(message: Any) -> None:
    fake = FakeState()
    with pytest.raises(StepError, match="enqueue"):
        await context_on(fake).enqueue(message)
    assert fake.sent == []


async def test_the_global_enqueue_uses_the_global_state_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    from motia_redis._steps import context
    from motia_redis._store import manager

    fake = FakeState()
    monkeypatch.setattr(manager, "stateManager", fake)
    await context.enqueue({"topic": "t", "data": 1})
    assert fake.sent == [("t", 1, None)]


def test_a_timeout_needs_a_handler_that_can_be_stopped() -> None:
    def blocking(input: Any) -> None:
        """Runs in a thread."""

    with pytest.raises(StepError, match="'timeout' needs an async handler"):
        step({"name": "Slow", "triggers": [queue("t")], "timeout": 1}).handle(blocking)

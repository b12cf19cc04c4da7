"""State triggers with a typed scope: conditions and handlers get values of its type, and other values are failed attempts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, TypeAdapter, model_validator

from motia_redis import Entry, FlowContext, StateManager, StateTriggerInput, stateManager, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis.errors import StepError
from tests.support.dead_letters import wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import Callable


class User(BaseModel):
    name: str
    age: int = 0


class Person(BaseModel):
    name: str


users = stateManager.scope("users", User)  # as a step file has it, without a connection


def sync(condition: Callable[[Any], bool]) -> Any:
    return condition


def asynchronous(condition: Callable[[Any], bool]) -> Any:
    async def later(input: Any) -> bool:
        await asyncio.sleep(0)
        return condition(input)

    return later


async def test_handler_gets_values_of_the_type(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope=users))):
        typed = users.using(state)
        await typed.set("ann", User(name="Ann"))
        await typed.patch("ann", age=7)
        await state.set("others", "ann", 5)
        await typed.delete("ann")
        await recorder.wait(3)
    young, old = User(name="Ann"), User(name="Ann", age=7)
    assert [(change.old_value, change.new_value) for change in recorder.inputs] == [(None, young), (young, old), (old, None)]
    assert isinstance(recorder.inputs[0], StateTriggerInput)
    assert [context.trigger.scope for context in recorder.contexts] == ["users"] * 3


@pytest.mark.parametrize("form", [sync, asynchronous])
async def test_condition_gets_values_of_the_type(state: StateManager, form: Any) -> None:
    recorder = Recorder()

    def is_adult(input: StateTriggerInput[User]) -> bool:
        return input.new_value is not None and input.new_value.age >= 18

    async with working(state, record(recorder, state_trigger(form(is_adult), scope=users, key="ann"))):
        for age in (17, 18, 19):
            await state.set("users", "ann", {"name": "Ann", "age": age})
            await state.set("users", "bob", {"name": "Bob", "age": age})
        await recorder.wait(2)
    assert [change.new_value for change in recorder.inputs] == [User(name="Ann", age=18), User(name="Ann", age=19)]


def always(_: Any) -> bool:
    return True


@pytest.mark.parametrize("condition", [None, sync(always), asynchronous(always)], ids=["none", "sync", "async"])
async def test_value_of_another_type_is_a_failed_attempt_and_then_a_dead_letter(state: StateManager, condition: Any) -> None:
    seen: list[Any] = []

    async def handler(input: StateTriggerInput[User], ctx: FlowContext) -> None:
        seen.append(input.new_value)

    config: Any = {"name": "Record", "triggers": [state_trigger(condition, scope=users)], "max_attempts": 2, "backoff": 0.01}
    async with working(state, step(config).handle(handler)):
        await state.set("users", "ann", {"name": "Ann", "age": "7"})
        (letter,) = await wait_for_dead_letters(DeadLetters(state), 1, "Record")
    assert letter.error_type == "SchemaMismatch"
    place = f"event {letter.revision} of scope 'users' key 'ann'"
    assert letter.error_text.startswith(f"{place}: the stored value does not match User: at '/age'")
    assert letter.attempts == 2
    assert letter.change.new_value == {"name": "Ann", "age": "7"}
    assert seen == []


async def test_dead_letter_can_be_retried_with_a_type_that_accepts_the_value(state: StateManager) -> None:
    class Lenient(BaseModel):
        name: str
        age: int | str

    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope=users), max_attempts=1)):
        await state.set("users", "ann", {"name": "Ann", "age": "7"})
        (letter,) = await wait_for_dead_letters(DeadLetters(state), 1, "Record")
    async with working(state, record(recorder, state_trigger(scope=state.scope("users", Lenient)))):
        await DeadLetters(state).retry("Record", letter.id)
        await recorder.wait(1)
    assert recorder.inputs[0].new_value == Lenient(name="Ann", age="7")


async def test_each_trigger_of_a_step_gets_the_values_of_its_own_type(state: StateManager) -> None:
    asked: list[Any] = []
    recorder = Recorder()

    def note(answer: bool) -> Callable[[Any], bool]:
        def condition(input: StateTriggerInput[Any]) -> bool:
            asked.append(input.new_value)
            return answer

        return condition

    triggers = [
        state_trigger(note(False), scope=users),
        state_trigger(note(False), scope="users"),
        state_trigger(note(True), scope=state.scope("users", Person)),
    ]
    async with working(state, record(recorder, *triggers)):
        await state.set("users", "ann", {"name": "Ann"})
        await recorder.wait(1)
    assert asked == [User(name="Ann"), {"name": "Ann"}, Person(name="Ann")]
    assert recorder.inputs[0].new_value == Person(name="Ann")


class Span(BaseModel):
    first: int
    last: int

    @model_validator(mode="after")
    def check(self) -> Span:
        if self.last < self.first:
            raise ValueError("last is before first")
        return self


async def test_handler_that_runs_again_makes_each_typed_change_once_and_gets_the_same_values(state: StateManager) -> None:
    results: list[Any] = []
    spans, typed = state.scope("spans", Span), users.using(state)

    async def handler(input: StateTriggerInput[User], ctx: FlowContext) -> None:
        assert ctx.trigger.attempt is not None
        age = ctx.trigger.attempt
        results.append(
            [
                await typed.set("bob", User(name="Bob", age=age)),
                await typed.patch("bob", age=age + 10),
                await spans.set("a", Span(first=age, last=20)),
                await spans.patch("a", last=20 + age),
                await typed.modify("bob", lambda user: User(name="Bob", age=(user.age if user else 0) + 100)),
            ]
        )
        if age == 1:
            raise ValueError("again")

    once = record(handler, state_trigger(scope=users, key="ann"), backoff=0.01, effects_once=True)
    async with working(state, once):
        await typed.set("ann", User(name="Ann"))

        async def ran_twice() -> bool:
            return len(results) == 2

        await until(ran_twice, "two attempts")
    span = Span(first=1, last=20)
    bob = [User(name="Bob", age=age) for age in (1, 11, 111)]
    assert results == [[bob[0], bob[1], span, Span(first=1, last=21), bob[2]]] * 2
    assert (await typed.get("bob"), await spans.get("a")) == (bob[2], Span(first=1, last=21))


def test_input_of_a_type_can_be_made_and_resolved_by_pydantic() -> None:
    given: Any = {"group_id": "users", "item_id": "ann", "event_type": "state:created", "revision": "5-1"}
    ann = User(name="Ann")
    made = StateTriggerInput[User](old_value=None, new_value=ann, **given)
    assert (made.new_value, made.timestamp) == (ann, 5)
    assert made == TypeAdapter(StateTriggerInput[User]).validate_python(
        {"old_value": None, "new_value": {"name": "Ann"}, **given}
    )
    entry = Entry[User](ann, "5-1")
    assert entry == Entry(ann, "5-1")


def test_what_is_no_scope_is_rejected_by_the_step() -> None:
    scope: Any = User
    with pytest.raises(StepError, match="the scope of a state trigger must be text"):
        step({"name": "Record", "triggers": [state_trigger(scope=scope)]})


def test_trigger_of_a_typed_scope_is_shown_by_its_scope() -> None:
    assert str(state_trigger(scope=users, key="ann")) == "state users/ann"
    assert state_trigger(scope=users).scope == "users"

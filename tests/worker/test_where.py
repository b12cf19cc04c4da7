"""Triggers with `where`: which changes and messages fire, beside conditions, other triggers, retries and dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from motia_redis import queue, step
from motia_redis import state as state_trigger
from motia_redis._steps import events
from motia_redis.admin import DeadLetters
from tests.support.dead_letters import wait_for_dead_letters
from tests.support.waiting import until_holds
from tests.support.workers import working

if TYPE_CHECKING:
    import pytest

    from motia_redis import FlowContext, StateManager, StateTriggerInput


async def test_state_trigger_fires_for_changes_to_a_value_with_these_members_only(
    state: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int | None]] = []
    decoded: list[str] = []
    decode = events.decode_change

    def noted(entry_id: str, fields: Any, coder: Any) -> Any:
        decoded.append(fields[b"key"].decode())
        return decode(entry_id, fields, coder)

    monkeypatch.setattr(events, "decode_change", noted)

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        seen.append((input.item_id, ctx.trigger.index))

    triggers = [state_trigger(scope="orders", where={"status": "paid", "/customer/country": "DE"})]
    triggers.append(state_trigger(scope="orders", where={"urgent": True}))
    async with working(state, step({"name": "S", "triggers": triggers}).handle(handler)):
        await state.set("orders", "open", {"status": "open", "customer": {"country": "DE"}})
        await state.set("orders", "abroad", {"status": "paid", "customer": {"country": "FR"}})
        await state.set("orders", "paid", {"status": "paid", "customer": {"country": "DE"}})
        await state.delete("orders", "paid")
        await state.set("orders", "number", {"urgent": 1})
        await state.set("orders", "urgent", {"urgent": True})
        await state.update("orders", "open", [{"op": "replace", "path": "/status", "value": "paid"}])
        await until_holds(lambda: len(seen) == 3, "the changes are handled")
    assert sorted(seen) == [("open", 0), ("paid", 0), ("urgent", 1)]
    assert sorted(decoded) == ["open", "paid", "urgent"], "what does not fire is not decoded"
    assert await DeadLetters(state).list() == []


async def test_condition_is_called_for_what_where_lets_through(state: StateManager) -> None:
    asked: list[Any] = []
    seen: list[Any] = []

    def condition(data: Any) -> bool:
        asked.append(data["n"])
        return bool(data["n"] > 1)

    async def handler(data: Any) -> None:
        seen.append(data["n"])

    trigger = queue("orders", where={"kind": "a"}, condition=condition)
    async with working(state, step({"name": "S", "triggers": [trigger]}).handle(handler)):
        for number, kind in enumerate("abaaB"):
            await state.enqueue("orders", {"n": number, "kind": kind}, key="k")
        await until_holds(lambda: seen == [2, 3], "the messages are handled")
    assert asked == [0, 2, 3]


async def test_later_attempts_and_retried_dead_letters_fire_for_the_same_trigger(state: StateManager) -> None:
    seen: list[tuple[int | None, int]] = []

    async def handler(data: Any, ctx: FlowContext) -> None:
        seen.append((ctx.trigger.index, ctx.trigger.attempt))
        if len(seen) < 3:
            raise ValueError("no")

    triggers = [queue("t", where={"a": 2}), queue("t", where={"a": 1}), queue("t")]
    handled = step({"name": "S", "triggers": triggers, "max_attempts": 2, "backoff": 0.01}).handle(handler)
    async with working(state, handled):
        await state.enqueue("t", {"a": 1})
        letters = DeadLetters(state)
        await until_holds(lambda: len(seen) == 2, "both attempts were made")
        await wait_for_dead_letters(letters, 1)
        await letters.retry_all()
        await until_holds(lambda: len(seen) == 3, "the dead letter was retried")
    assert seen == [(1, 1), (1, 2), (1, 1)]


async def test_typed_scope_checks_only_what_where_lets_through(state: StateManager) -> None:
    class Order(BaseModel):
        status: str
        total: int

    seen: list[Any] = []

    async def handler(input: StateTriggerInput[Order]) -> None:
        seen.append(input.new_value)

    trigger = state_trigger(scope=state.scope("orders", Order), where={"status": "paid"})
    async with working(state, step({"name": "S", "triggers": [trigger], "max_attempts": 1}).handle(handler)):
        await state.set("orders", "a", {"status": "open", "total": "none"})
        await state.set("orders", "b", {"status": "paid", "total": 3})
        await until_holds(lambda: len(seen) == 1, "the change is handled")
    assert seen == [Order(status="paid", total=3)]
    assert await DeadLetters(state).list() == []

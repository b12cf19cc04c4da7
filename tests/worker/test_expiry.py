"""Values that expire, as workers see them: an event like any other, in order, within a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis import StateTriggerInput
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from tests.support.clocks import set_namespace_clock
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


def described(change: Any) -> tuple[str, str | None, Any, Any]:
    return change.event_type, change.reason, change.old_value, change.new_value


async def test_handler_and_condition_get_the_reason_and_the_old_value(state: StateManager) -> None:
    recorder, async_recorder = Recorder(), Recorder()

    async def is_deleted(change: StateTriggerInput) -> bool:
        return change.reason is not None

    async with working(
        state,
        record(recorder, state_trigger(scope="users", condition=lambda change: change.reason == "expired"), name="Sync"),
        record(async_recorder, state_trigger(scope="users", condition=is_deleted), name="Async"),
    ):
        await state.set("users", "bob", {"n": 1}, ttl=60)
        await state.delete("users", "bob")
        await state.set("users", "ann", {"n": 5}, ttl=0.05)
        await async_recorder.wait(2)
        await recorder.wait(1)
    assert [described(change) for change in recorder.inputs] == [("state:deleted", "expired", {"n": 5}, None)]
    assert sorted(described(change) for change in async_recorder.inputs) == [
        ("state:deleted", "deleted", {"n": 1}, None),
        ("state:deleted", "expired", {"n": 5}, None),
    ]
    assert recorder.contexts[0].trigger.event_type == "state:deleted"
    assert recorder.contexts[0].trigger.revision == recorder.inputs[0].revision


async def test_dead_letter_of_an_expiry_keeps_its_reason(state: StateManager) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", state_trigger(condition=lambda change: change.reason is not None))):
        await state.set("users", "ann", {"n": 5}, ttl=0.05)
        (letter,) = await wait_for_dead_letters(letters, 1)
        assert (letter.change.reason, letter.change.old_value) == ("expired", {"n": 5})
        failing.fixed = True
        await letters.retry("Sick", letter.id)
        await failing.received.wait(1)
    assert described(failing.received.inputs[0]) == ("state:deleted", "expired", {"n": 5}, None)


async def test_expiry_is_handled_in_order_with_the_other_events_of_its_key(state: StateManager) -> None:
    recorder = Recorder()
    rounds = 5
    async with working(state, record(recorder, state_trigger(scope="users")), workers=2):
        for number in range(rounds):
            await state.set("users", "ann", {"n": number}, ttl=60)
            await state.update("users", "ann", INCREMENT)
            await state.expire("users", "ann", 0.01)
            await recorder.wait(3 * (number + 1))
    expected = [
        change
        for n in range(rounds)
        for change in (
            ("state:created", None, None, {"n": n}),
            ("state:updated", None, {"n": n}, {"n": n + 1}),
            ("state:deleted", "expired", {"n": n + 1}, None),
        )
    ]
    assert [described(change) for change in recorder.inputs] == expected


async def test_expiry_that_a_change_finds_is_handled_before_the_change(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="users"))) as (worker,):
        await state.set("users", "ann", {"n": 5}, ttl=60)
        await recorder.wait(1)
        worker.stop()
    await set_namespace_clock(state, 61)
    await state.update("users", "ann", INCREMENT)
    async with working(state, record(recorder, state_trigger(scope="users"))):
        await recorder.wait(3)
    assert [described(change) for change in recorder.inputs] == [
        ("state:created", None, None, {"n": 5}),
        ("state:deleted", "expired", {"n": 5}, None),
        ("state:created", None, None, {"n": 1}),
    ]


async def test_change_of_the_time_to_live_fires_no_trigger_and_blocks_no_lane(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    seen: list[str] = []

    def condition(change: StateTriggerInput) -> bool:
        seen.append(change.event_type)
        return True

    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(), state_trigger(scope="users", condition=condition))):
        await state.set("users", "ann", {"n": 1})
        for number in range(30):
            assert await state.expire("users", "ann", 1000 + number)
        await state.update("users", "ann", INCREMENT)
        await recorder.wait(2)
        for number in range(30):  # and as the last entries of the lane
            assert await state.expire("users", "ann", 2000 + number)

        async def is_done() -> bool:
            return await pending(raw, namespace) == 0

        await until(is_done, "the step has finished every entry")
    assert [change.event_type for change in recorder.inputs] == ["state:created", "state:updated"]
    assert "state:ttl" not in seen


async def test_event_is_there_within_a_second_of_its_time(state: StateManager) -> None:
    recorder, count = Recorder(), 200
    ttls = {f"key{number}": 200 + number for number in range(count)}
    async with working(state, record(recorder, state_trigger()), workers=2):
        for number, (key, ttl) in enumerate(ttls.items()):
            await state.set(f"scope{number % 40}", key, number, ttl=ttl / 1000)
        await recorder.wait(2 * count)
    begun = {change.item_id: change.timestamp for change in recorder.inputs if change.event_type == "state:created"}
    ended = {change.item_id: change.timestamp for change in recorder.inputs if change.reason == "expired"}
    assert len(recorder.inputs) == 2 * count
    late = sorted(ended[key] - begun[key] - ttl for key, ttl in ttls.items())
    assert late[0] >= -2, "the time that a script reads and the id of its event may differ by a millisecond"
    assert late[count // 2] <= 1000

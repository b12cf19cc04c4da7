"""Worker: events and messages reach their steps, failures are retried and dead-lettered, and a stop waits for handlers."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from motia_redis import FlowContext, StateManager, StateTriggerInput, Worker, logger, queue, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._tracing import trace
from motia_redis._worker import chains
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import pytest
    import redis


async def test_change_reaches_its_step_with_old_and_new_value(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger())):
        await state.set("users", "ann", {"n": 1, "big": 9007199254740993})
        await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])
        await recorder.wait(2)
        entry = await state.entry("users", "ann")
        await state.delete("users", "ann")
        await recorder.wait(3)
    created, updated, deleted = recorder.inputs
    assert (created.type, created.group_id, created.item_id) == ("state", "users", "ann")
    assert [i.event_type for i in recorder.inputs] == ["state:created", "state:updated", "state:deleted"]
    assert (created.old_value, created.new_value) == (None, {"n": 1, "big": 9007199254740993})
    assert (updated.old_value, updated.new_value) == ({"n": 1, "big": 9007199254740993}, {"n": 2, "big": 9007199254740993})
    assert deleted.new_value is None
    assert entry is not None
    assert updated.revision == entry.revision
    assert updated.timestamp == int(updated.revision.split("-")[0])
    trigger = recorder.contexts[1].trigger
    assert (trigger.type, trigger.scope, trigger.key, trigger.revision, trigger.attempt) == (
        "state", "users", "ann", updated.revision, 1,
    )  # fmt: skip


async def test_scope_key_and_condition_select_events(state: StateManager) -> None:
    def big(input: StateTriggerInput) -> bool:
        return bool(input.new_value["n"] > 10)

    async def even(input: StateTriggerInput, ctx: FlowContext) -> bool:
        assert ctx.trigger.scope == "orders"
        return bool(input.new_value["n"] % 2 == 0)

    recorders = [Recorder() for _ in range(4)]
    steps = [
        step({"name": f"Step{number}", "triggers": triggers}).handle(recorder)
        for number, (recorder, triggers) in enumerate(
            zip(
                recorders,
                [
                    [state_trigger(scope="users")],
                    [state_trigger(scope="users", key="ann")],
                    [state_trigger(big, scope="orders")],
                    [state_trigger(even, scope="orders"), state_trigger(big, scope="orders")],
                ],
                strict=True,
            )
        )
    ]
    async with working(state, *steps):
        for scope, key, n in [
            ("users", "ann", 1),
            ("users", "bob", 2),
            ("orders", "a", 3),
            ("orders", "b", 12),
            ("orders", "c", 4),
        ]:
            await state.set(scope, key, {"n": n})
        for recorder, count in zip(recorders, (2, 1, 1, 2), strict=True):
            await recorder.wait(count)
    found = [sorted((i.group_id, i.item_id) for i in recorder.inputs) for recorder in recorders]
    assert found == [
        [("users", "ann"), ("users", "bob")],
        [("users", "ann")],
        [("orders", "b")],
        [("orders", "b"), ("orders", "c")],
    ]


async def test_every_step_gets_every_event_and_workers_share_them(state: StateManager) -> None:
    one, two = Recorder(), Recorder()
    steps = [
        step({"name": "One", "triggers": [state_trigger()]}).handle(one),
        step({"name": "Two", "triggers": [state_trigger()]}).handle(two),
    ]
    async with working(state, *steps, workers=3):
        await asyncio.gather(*(state.set("users", str(number), number) for number in range(300)))
        await one.wait(300)
        await two.wait(300)
    for recorder in (one, two):
        assert sorted(i.new_value for i in recorder.inputs) == list(range(300)), "each once, although three workers run"


async def test_messages_reach_the_steps_of_their_topic(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail"))):
        message = await state.enqueue("mail", {"to": "ann", "n": []})
        await state.enqueue("other", 1)
        await state.enqueue("mail", "second", key="ann")
        await recorder.wait(2)
    assert sorted(map(repr, recorder.inputs)) == ["'second'", "{'to': 'ann', 'n': []}"]
    by_id = {ctx.trigger.message_id: ctx.trigger for ctx in recorder.contexts}
    assert by_id[message].topic == "mail"
    assert {trigger.key for trigger in by_id.values()} == {None, "ann"}


async def test_messages_and_changes_of_one_key_stay_in_order(state: StateManager) -> None:
    """In one worker, handlers of different keys run concurrently, and those of one key one after the other."""
    seen: dict[str, list[int]] = {}
    running: set[str] = set()

    async def handler(input: StateTriggerInput) -> None:
        assert input.item_id not in running, "two events of one key at once"
        running.add(input.item_id)
        await asyncio.sleep(0.001 * (input.new_value % 3))
        seen.setdefault(input.item_id, []).append(input.new_value)
        running.discard(input.item_id)

    async with working(state, record(handler, state_trigger())):
        for number in range(40):
            await asyncio.gather(*(state.set("users", f"key{key}", number) for key in range(5)))

        async def all_seen() -> bool:
            return sum(map(len, seen.values())) == 200

        await until(all_seen, "200 events")
    assert all(numbers == list(range(40)) for numbers in seen.values())


async def test_messages_of_a_key_are_in_one_lane(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """Only within a lane is there an order: with one key in several lanes, workers would handle its messages side by side."""
    for number in range(20):
        await state.enqueue("mail", number, key="ann")
    (lane,) = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    assert raw.xlen(lane) == 20
    for number in range(40):
        await state.enqueue("mail", number)
    assert len(list(raw.scan_iter(f"{{{namespace}:*}}:topic:*"))) > 1, "messages without a key are spread"


async def test_trace_id_is_passed_from_the_change_to_the_last_handler(state: StateManager) -> None:
    last = Recorder()

    async def cascade(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.set("copies", input.item_id, input.new_value)

    async def forward(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.enqueue({"topic": "copied", "data": input.item_id})

    steps = [
        step({"name": "Cascade", "triggers": [state_trigger(scope="users")]}).handle(cascade),
        step({"name": "Forward", "triggers": [state_trigger(scope="copies")]}).handle(forward),
        step({"name": "Last", "triggers": [queue("copied")]}).handle(last),
    ]
    async with working(state, *steps):
        with trace("ab" * 16):
            await state.set("users", "ann", 1)
        await last.wait(1)
    assert last.contexts[0].trace_id == "ab" * 16


async def test_sync_handlers_run_in_threads_and_may_block(state: StateManager) -> None:
    threads: set[str] = set()
    both = threading.Barrier(2, timeout=20)

    def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        both.wait()  # holds up its thread until a second handler runs beside it
        threads.add(threading.current_thread().name)

    async with working(state, record(handler, state_trigger())):
        await asyncio.gather(state.set("users", "ann", 1), state.set("users", "bob", 1))

        async def two() -> bool:
            return len(threads) == 2

        await until(two, "two handlers at once")
    assert threading.main_thread().name not in threads


async def test_stop_waits_for_running_handlers_and_acknowledges_them(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    started, finished = asyncio.Event(), []

    async def handler(input: StateTriggerInput) -> None:
        started.set()
        await asyncio.sleep(0.3)
        finished.append(input.item_id)

    async with working(state, record(handler, state_trigger())):
        await state.set("users", "ann", 1)
        await started.wait()
    assert finished == ["ann"]
    assert await pending(raw, namespace) == 0


async def test_events_before_the_first_worker_are_handled_once_groups_exist(state: StateManager) -> None:
    recorder = Recorder()
    steps = record(recorder, state_trigger())
    await Worker(Application((steps,)), state).prepare()
    for number in range(300):  # more than the history that a lane without subscribers keeps
        await state.set("users", "ann", number)
    async with working(state, steps):
        await recorder.wait(300)
    assert [i.new_value for i in recorder.inputs] == list(range(300))


async def test_step_that_triggers_itself_is_named_once(
    state: StateManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chains, "_LONG", 20)
    recorder = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await recorder(input, ctx)
        if input.new_value < 50:
            await ctx.state.set("users", "ann", input.new_value + 1)

    async with working(state, record(handler, state_trigger(scope="users"))):
        await state.set("users", "ann", 0)
        await recorder.wait(51)
    named = [entry.getMessage() for entry in caplog.records if "within one trace" in entry.getMessage()]
    assert named == ["step Record ran 20 times within one trace: does it trigger itself, directly or by other steps?"]


async def test_the_logger_names_step_and_trace(state: StateManager, caplog: pytest.LogCaptureFixture) -> None:
    done = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        ctx.logger.info("by context", {"key": input.item_id})
        logger.info("global")
        await done(input, ctx)

    caplog.set_level("INFO")
    async with working(state, record(handler, state_trigger())):
        await state.set("users", "ann", 1)
        await done.wait(1)
    records = {record.msg: record for record in caplog.records}
    assert vars(records["by context"])["fields"] == {"key": "ann"}
    for name in ("by context", "global"):
        assert vars(records[name])["step"] == "Record"
        assert vars(records[name])["trace_id"] == done.contexts[0].trace_id

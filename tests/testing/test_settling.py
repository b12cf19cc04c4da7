"""`settle` handles everything there is, and nothing is handled without it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Stream, cron, enqueue, queue, state, stateManager, step, stream
from motia_redis.admin import pause_step, resume_step
from motia_redis.errors import StateError, StepError
from motia_redis.testing import application
from motia_redis.types import StreamGroup
from tests.support.workers import Recorder, record

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

COUNT = [{"op": "increment", "path": "/n", "value": 1}]


async def test_settle_handles_what_follows_from_what_it_handles(server: RedisServer) -> None:
    @step({"name": "First", "triggers": [state(scope="numbers")]})
    async def first(input: Any, ctx: Any) -> None:
        if input.new_value < 20:
            await ctx.state.set("numbers", "n", input.new_value + 1)
        else:
            await ctx.enqueue({"topic": "end", "data": input.new_value})

    @step({"name": "Last", "triggers": [queue("end")]})
    def last(data: Any, ctx: Any) -> None:
        time.sleep(0.02)
        ctx.state.set("result", "n", data)

    async with application(first, last, url=server.url) as app:
        await app.state.set("numbers", "n", 1)
        await app.settle()
        assert await app.state.get("result", "n") == 20
        assert [change.new_value for change in await app.changes("numbers")] == list(range(1, 21))
        assert [message.data for message in await app.enqueued("end")] == [20]


async def test_settle_leaves_what_a_paused_step_has_not_handled(server: RedisServer) -> None:
    paused, other, ticks = Recorder(), Recorder(), Recorder()
    steps = [record(paused, queue("mail")), step({"name": "Other", "triggers": [queue("mail")]}).handle(other)]
    steps.append(step({"name": "Tick", "triggers": [cron("* * * * *")]}).handle(ticks))
    async with application(*steps, url=server.url) as app:
        await app.advance(60)
        assert len(ticks.inputs) == 1
        for name in ("Record", "Tick"):
            await pause_step(app.state, name)
        for number in range(3):
            await app.state.enqueue("mail", number)
        await app.settle()
        await app.advance(3600)
        assert (paused.inputs, sorted(other.inputs), len(ticks.inputs)) == ([], [0, 1, 2], 1)
        for name in ("Record", "Tick"):
            await resume_step(app.state, name)
        await app.settle()
        assert sorted(paused.inputs) == [0, 1, 2]
        times = [tick.scheduled_at.timestamp() for tick in ticks.inputs]
        assert len(times) == 3, "the next time when the step was paused, and the latest one of those that were missed"
        assert (times[1] - times[0], times[2] - times[0]) == (60, 3600)


async def test_rate_limits_nothing_in_a_test(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, queue("mail"), rate="1/d", concurrency=1), url=server.url) as app:
        for number in range(3):
            await app.state.enqueue("mail", number)
        await app.settle()
        assert len(recorder.inputs) == 3


async def test_settle_waits_for_handlers_that_wait(server: RedisServer) -> None:
    ended = []

    @step({"name": "Slow", "triggers": [queue("slow")]})
    async def slow(data: Any) -> None:
        await asyncio.sleep(0.1)
        ended.append(data)

    async with application(slow, url=server.url) as app:
        for number in range(3):
            await app.state.enqueue("slow", number, key="same")
        await app.settle()
        assert ended == [0, 1, 2]


async def test_nothing_is_handled_before_settle(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, queue("topic")), url=server.url) as app:
        await app.state.enqueue("topic", 1, key="k")
        await asyncio.sleep(0.05)
        assert recorder.inputs == []
        assert [(message.topic, message.data, message.key) for message in await app.enqueued()] == [("topic", 1, "k")]
        await app.settle()
        assert recorder.inputs == [1]
        await app.settle()
        assert recorder.inputs == [1]


async def test_state_triggers_fire_for_changes_after_the_application_was_made(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(url=server.url) as seeded:
        await seeded.state.set("users", "old", 1)
        from motia_redis._testing.apps import new_app

        app = new_app(seeded.state, (record(recorder, state(scope="users")),), None)
        await app.state.set("users", "new", 2)
        await app.settle()
        assert [each.item_id for each in recorder.inputs] == ["new"]
        assert [change.item_id for change in await app.changes()] == ["new"]


async def test_entry_that_waits_for_its_next_attempt_keeps_its_key_and_no_other(server: RedisServer) -> None:
    handled = []

    @step({"name": "Step", "triggers": [queue("topic")], "backoff": 1000, "max_backoff": 1000})
    async def handler(data: Any) -> None:
        if data == "bad":
            raise ValueError(data)
        handled.append(data)

    async with application(handler, url=server.url) as app:
        await app.state.enqueue("topic", "bad", key="a")
        await app.state.enqueue("topic", "behind", key="a")
        await app.state.enqueue("topic", "beside", key="b")
        await app.settle()
        assert handled == ["beside"]
        await app.settle()
        assert handled == ["beside"]


async def test_settle_that_takes_too_long_names_the_handler_and_what_is_left(server: RedisServer) -> None:
    gate = asyncio.Event()

    ended = []

    @step({"name": "Stuck", "triggers": [queue("topic")]})
    async def stuck(data: Any) -> None:
        try:
            await gate.wait()
        finally:
            ended.append(data)

    async with application(stuck, url=server.url) as app:
        await app.state.enqueue("topic", 1, key="k")
        await app.state.enqueue("topic", 2, key="k")
        with pytest.raises(TimeoutError, match=r"not quiet after 0\.2 s: running: .*Stuck.*; not handled, by step: Stuck 2"):
            await app.settle(within=0.2)
        assert ended == [1], "the handler was cancelled"
        gate.set()
        await app.settle()
        assert ended == [1, 1, 2]


async def test_settle_does_not_get_slower_with_each_call(server: RedisServer, raw: redis.Redis) -> None:
    async with application("examples/users.py", url=server.url) as app:
        for _ in range(3):
            await app.settle()
        assert raw.hlen(f"{app.state.namespace}:workers") == 0


async def test_steps_that_trigger_each_other_without_end_are_a_timeout(server: RedisServer) -> None:
    @step({"name": "Again", "triggers": [state(scope="n")]})
    async def again(input: Any, ctx: Any) -> None:
        await ctx.state.update("n", "n", COUNT)

    async with application(again, url=server.url) as app:
        await app.state.update("n", "n", COUNT)
        with pytest.raises(TimeoutError, match="Again"):
            await app.settle(within=0.2)


async def test_two_calls_at_once_are_refused(server: RedisServer) -> None:
    errors: list[StateError] = []
    async with application(url=server.url) as empty:
        await empty.settle()

        @step({"name": "Settles", "triggers": [queue("topic")]})
        async def settles(data: Any) -> None:
            try:
                await app.settle()
            except StateError as error:
                errors.append(error)

        async with application(settles, url=server.url) as app:
            await app.state.enqueue("topic", 1)
            await app.settle()
        assert str(errors[0]).startswith("settle was called while settle of this application runs")


async def test_global_manager_uses_the_namespace_of_the_test_one_after_the_other(server: RedisServer) -> None:
    @step({"name": "Async", "triggers": [queue("topic")]})
    async def on_loop(data: Any) -> None:
        await stateManager.update("counts", "async", COUNT)
        await enqueue({"topic": "thread", "data": data})

    @step({"name": "Thread", "triggers": [queue("thread")]})
    def in_thread(data: Any) -> None:
        stateManager.update("counts", "thread", COUNT)

    before = dict(os.environ)
    for _ in range(2):
        async with application(on_loop, in_thread, url=server.url) as app:
            assert os.environ["MOTIA_REDIS_NAMESPACE"] == app.state.namespace
            await app.state.enqueue("topic", 1)
            await app.settle()
            assert await app.state.items("counts") == {"async": {"n": 1}, "thread": {"n": 1}}
    assert dict(os.environ) == before


async def test_changes_of_items_of_streams_are_those_of_their_scope(server: RedisServer) -> None:
    recorder = Recorder()
    todos = Stream("todos")
    async with application(record(recorder, stream("todos")), url=server.url) as app:
        await todos.using(app.state).set("inbox", "1", {"text": "milk"})
        await app.state.set("other", "k", 1)
        await app.settle()
        assert [each.id for each in recorder.inputs] == ["1"]
        assert [change.group_id for change in await app.changes()] == ["other"]
        assert [change.item_id for change in await app.changes(StreamGroup("todos", "inbox"))] == ["1"]


async def test_application_leaves_no_key_and_no_task(server: RedisServer, raw: redis.Redis) -> None:
    async with application("examples/users.py", url=server.url) as app:
        await app.state.set("users", "a", {"login_count": 1})
        await app.settle()
        namespace = app.state.namespace
        assert list(raw.scan_iter(f"*{namespace}*"))
    assert list(raw.scan_iter(f"*{namespace}*")) == []
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_no_part_of_an_application_is_named(server: RedisServer) -> None:
    with pytest.raises(StepError, match="made of steps, step files and applications, not of 5"):
        async with application(5, url=server.url):  # type: ignore[arg-type]
            pass
    with pytest.raises(StepError, match="has no handler"):
        async with application(step({"name": "NoHandler", "triggers": []}), url=server.url):
            pass

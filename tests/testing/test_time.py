"""`advance` lets everything happen that falls due, in the order of time, without waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import cron, queue, state, step
from motia_redis.errors import StateError
from motia_redis.testing import application
from tests.support.workers import Recorder, record

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


async def test_attempts_follow_their_pauses_exactly(server: RedisServer) -> None:
    attempts = []

    @step({"name": "Fails", "triggers": [queue("topic")], "max_attempts": 4, "backoff": 10, "max_backoff": 25})
    async def fails(data: Any, ctx: Any) -> None:
        attempts.append(ctx.trigger.attempt)
        raise ValueError("always")

    async with application(fails, url=server.url) as app:
        await app.state.enqueue("topic", 1)
        await app.settle()
        for seconds, expected in ((9.999, 1), (0.001, 2), (19.999, 2), (0.001, 3), (24.999, 3), (0.001, 4), (1000, 4)):
            await app.advance(seconds)
            assert attempts == list(range(1, expected + 1))
        (letter,) = await app.dead_letters("Fails")
        assert (letter.attempts, letter.error_text) == (4, "always")
        assert await app.dead_letters("Other") == []


async def test_one_advance_makes_all_attempts(server: RedisServer) -> None:
    @step({"name": "Fails", "triggers": [queue("topic")]})
    def fails(data: Any) -> None:
        raise ValueError(data)

    async with application(fails, url=server.url) as app:
        for number in range(3):
            await app.state.enqueue("topic", number, key="same")
        await app.advance(60)
        assert [letter.data for letter in await app.dead_letters()] == [0, 1, 2]


async def test_delayed_messages_are_sent_and_handled_at_their_time(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, queue("topic")), url=server.url) as app:
        for seconds in (3600, 60, 30):
            await app.state.enqueue("topic", seconds, delay=seconds)
        await app.settle()
        assert recorder.inputs == []
        assert [message.data for message in await app.enqueued("topic") if message.due] == [30, 60, 3600]
        await app.advance(3000)
        assert recorder.inputs == [30, 60]
        assert [(message.data, message.due is None) for message in await app.enqueued("topic")] == [
            (30, True), (60, True), (3600, False),
        ]  # fmt: skip
        await app.advance(600)
        assert recorder.inputs == [30, 60, 3600]


async def test_values_expire_and_fire_their_triggers(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, state(scope="sessions")), url=server.url) as app:
        await app.state.set("sessions", "s", 1, ttl=1800)
        await app.advance(1790)
        assert await app.state.get("sessions", "s") == 1
        await app.advance(10)
        assert await app.state.get("sessions", "s") is None
        assert [(each.event_type, each.reason) for each in recorder.inputs] == [
            ("state:created", None), ("state:deleted", "expired"),
        ]  # fmt: skip


async def test_every_time_of_a_cron_trigger_fires_in_its_order_with_the_other_things(server: RedisServer) -> None:
    happened = []

    @step({"name": "Hourly", "triggers": [cron("0 * * * *"), queue("topic")]})
    async def hourly(input: Any, ctx: Any) -> None:
        happened.append(input if ctx.is_queue() else input.scheduled_at.strftime("%H:%M"))

    began = time.monotonic()
    async with application(hourly, url=server.url, now=datetime(2030, 1, 1, 8, 30, tzinfo=UTC)) as app:
        await app.state.enqueue("topic", "between", delay=3600)
        await app.advance(4 * 3600)
    assert happened == ["09:00", "between", "10:00", "11:00", "12:00"]
    assert time.monotonic() - began < 60  # not four hours


async def test_no_time_is_left_out_and_none_fires_twice(server: RedisServer) -> None:
    recorder = Recorder()
    start = datetime(2030, 1, 1, 8, 0, 30, tzinfo=UTC)
    async with application(record(recorder, cron("* * * * *")), url=server.url, now=start) as app:
        await app.advance(7200)
    expected = [start + timedelta(seconds=30 + 60 * number) for number in range(120)]
    assert [each.scheduled_at for each in recorder.inputs] == expected


async def test_time_of_a_daily_trigger_comes_with_the_day_in_its_time_zone(server: RedisServer) -> None:
    recorder = Recorder()
    steps = record(recorder, cron("30 8 * * MON-FRI", timezone="Europe/Berlin"))
    async with application(steps, url=server.url, now=datetime(2030, 1, 4, 12, 0, tzinfo=UTC)) as app:  # a Friday
        await app.advance(timedelta(days=3).total_seconds())
    assert [each.scheduled_at.isoformat() for each in recorder.inputs] == ["2030-01-07T08:30:00+01:00"]


async def test_handlers_that_send_delayed_messages_are_followed(server: RedisServer) -> None:
    times = []

    @step({"name": "Poll", "triggers": [queue("poll")]})
    async def poll(data: int, ctx: Any) -> None:
        times.append(data)
        await ctx.enqueue({"topic": "poll", "data": data + 1}, delay=10)

    async with application(poll, url=server.url) as app:
        await app.state.enqueue("poll", 0)
        await app.advance(35)
        assert times == [0, 1, 2, 3]


async def test_time_does_not_go_back(server: RedisServer) -> None:
    async with application(url=server.url) as app:
        for seconds in (-1, float("nan")):
            with pytest.raises(StateError, match="time does not go back"):
                await app.advance(seconds)
        await app.advance(0)

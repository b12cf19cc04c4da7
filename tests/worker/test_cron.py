"""Cron triggers: each time fires once over all workers; what becomes of missed times; retries, order, versions, renames."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from motia_redis import Application, CronTriggerInput, FlowContext, StateManager, Worker, cron, queue, step
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import forget_step, rename_step
from motia_redis._admin.status import StepSchedule, read_status
from motia_redis._scripts import timing
from motia_redis._scripts.timing import NextTime, Schedule, ScheduleKeys
from motia_redis._store.sweeping import due_keys
from motia_redis._worker import scheduling
from motia_redis._worker.scheduling import next_time
from motia_redis.errors import StepMissing
from tests.support.clocks import set_namespace_time
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.servers import RedisServer
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import redis

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

DAY = timedelta(days=1)
START = datetime(2027, 5, 3, 2, 0, tzinfo=UTC)  # a Monday
AT_THREE = START + timedelta(hours=1)
DAILY = "0 3 * * *"


@pytest.fixture(autouse=True)
def _looks_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LOOK", 0.02)
    monkeypatch.setattr(scheduling, "_OTHERS", 2)


class Site:
    """The schedules of the step `Record`, as Redis has them."""

    def __init__(self, state: StateManager, raw: redis.Redis, keyspace: Keyspace) -> None:
        self.raw = raw
        self.state = state
        self.stream = keyspace.cron("Record")
        self.hash = keyspace.schedules(self.stream, "Record")
        self.partition = keyspace.partition(b"cron")
        self.due = keyspace.due(self.partition)
        self.keys = ScheduleKeys(self.due, keyspace.trimmed(self.due), self.hash)

    def fired(self) -> list[datetime]:
        """Return the times that have fired, in order."""
        entries: Any = self.raw.xrange(self.stream)
        return [datetime.fromtimestamp(int(fields[b"due"]) / 1000, UTC) for _, fields in entries]

    def next(self) -> list[datetime]:
        """Return the times that wait."""
        found: Any = self.raw.zrange(self.due, 0, -1, withscores=True)
        return [datetime.fromtimestamp(score / 1000, UTC) for member, score in found if member.startswith(b"schedule:")]

    async def wait_for_next(self, *times: datetime) -> None:
        """Wait until these times wait, and no others."""
        await until_holds(lambda: self.next() == sorted(times), f"{times} are scheduled")

    async def pass_by(self, moment: datetime, *, expected: int) -> None:
        """Let it be this time, and wait until so many times have fired in all, and what follows is scheduled."""
        await set_namespace_time(self.state, moment)
        await until_holds(lambda: len(self.fired()) >= expected, f"{expected} times have fired, {len(self.fired())} have")
        await until_holds(lambda: all(time > moment for time in self.next()) and self.next() != [], "the next time is scheduled")


@pytest.fixture
async def site(state: StateManager, raw: redis.Redis) -> Site:
    await set_namespace_time(state, START)
    return Site(state, raw, await state.connect())


@pytest.fixture
async def router(state: StateManager) -> AsyncIterator[Router]:
    router = await state.open_router()
    yield router
    await router.aclose()


async def settle(seconds: float = 0.5) -> None:
    """Give what must not happen the time to happen."""
    await asyncio.sleep(seconds)


async def wait_until_held(state: StateManager) -> None:
    """Wait until a worker holds the lane of the step."""

    async def is_held() -> bool:
        steps = (await read_status(state)).steps
        return bool(steps) and steps[0].lanes_held == 1

    await until(is_held, "a worker holds the lane")


# -- each time once -----------------------------------------------------------------------------------------------------------


async def test_each_time_fires_once_over_all_workers(state: StateManager, site: Site, each_way: None) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, cron(DAILY)), workers=4):
        for day in range(7):
            await site.pass_by(AT_THREE + day * DAY + timedelta(seconds=5), expected=day + 1)
            await recorder.wait(day + 1)
        await settle()
    assert [each.scheduled_at for each in recorder.inputs] == [AT_THREE + day * DAY for day in range(7)]
    assert site.fired() == [AT_THREE + day * DAY for day in range(7)]


async def test_handler_gets_scheduled_and_actual_time_in_the_zone_of_the_trigger(state: StateManager, site: Site) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, cron("30  5 * * mon", timezone="Europe/Berlin"))):
        await site.pass_by(START + timedelta(hours=1, minutes=30, seconds=20), expected=1)
        await recorder.wait(1)
    (given,), (ctx,) = recorder.inputs, recorder.contexts
    assert isinstance(given, CronTriggerInput)
    assert given.scheduled_at == datetime(2027, 5, 3, 5, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert str(given.scheduled_at) == "2027-05-03 05:30:00+02:00"
    assert timedelta(seconds=20) <= given.fired_at - given.scheduled_at < timedelta(seconds=30)
    assert (given.expression, given.timezone, given.type) == ("30 5 * * MON", "Europe/Berlin", "cron")
    assert (ctx.trigger.type, ctx.trigger.expression, ctx.trigger.timezone) == ("cron", "30 5 * * MON", "Europe/Berlin")
    assert (ctx.trigger.attempt, ctx.trigger.topic, ctx.trigger.scope) == (1, None, None)


@pytest.mark.parametrize(
    ("zone", "expression", "times"),
    [
        ("Europe/Berlin", "0,30 2 * * *", ["2027-03-28 01:00", "2027-03-29 00:00"]),
        ("America/New_York", "30 2 * * *", ["2027-03-14 07:00", "2027-03-15 06:30"]),
        ("Europe/Berlin", "30 2 * * *", ["2027-10-31 00:30", "2027-11-01 01:30"]),
        ("America/New_York", "30 1 * * *", ["2027-11-07 05:30", "2027-11-08 06:30"]),
        ("Europe/Berlin", "30 * * * *", ["2027-10-31 00:30", "2027-10-31 01:30", "2027-10-31 02:30"]),
        ("America/New_York", "*/30 * * * *", ["2027-11-07 05:00", "2027-11-07 05:30", "2027-11-07 06:00", "2027-11-07 06:30"]),
    ],
)
async def test_times_fire_once_where_summer_time_begins_and_ends(
    state: StateManager, site: Site, zone: str, expression: str, times: list[str]
) -> None:
    expected = [datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times]
    await set_namespace_time(state, expected[0] - timedelta(minutes=20))
    recorder = Recorder()
    async with working(state, record(recorder, cron(expression, timezone=zone)), workers=2):
        for count, time in enumerate(expected, 1):
            await site.wait_for_next(time)
            await site.pass_by(time + timedelta(seconds=3), expected=count)
        await recorder.wait(len(expected))
    assert site.fired() == expected
    assert [each.scheduled_at for each in recorder.inputs] == expected
    assert all(timedelta(seconds=3) <= each.fired_at - each.scheduled_at < timedelta(seconds=30) for each in recorder.inputs)
    offsets = [time.astimezone(ZoneInfo(zone)).utcoffset() for time in expected]
    assert [each.scheduled_at.utcoffset() for each in recorder.inputs] == offsets


async def test_time_is_scheduled_and_fired_once_whoever_calls_how_often(router: Router, site: Site, state: StateManager) -> None:
    schedule, after, time = "UTC 0 3 * * *", int(START.timestamp() * 1000), int(AT_THREE.timestamp() * 1000)

    async def say(count: int, after: int | None, time: int | None) -> list[Schedule]:
        calls = [(site.keys, "Record", [NextTime(schedule, after, time, "time")])] * count
        return [reply.asked[0] for reply in await timing.schedule(router, calls)]

    site.raw.xgroup_create(site.stream, "Record", mkstream=True)
    (first,) = await say(1, None, None)
    after = first.after
    assert first.next is None
    assert site.next() == []
    assert await say(3, after, time) == [Schedule(after, time)] * 3
    assert await say(3, after, time + 60_000) == [Schedule(after, time)] * 3, "the first one decides"
    assert await say(3, after - 1, time - 60_000) == [Schedule(after, time)] * 3
    await set_namespace_time(state, AT_THREE + timedelta(seconds=1))
    keys = due_keys(await state.connect(), site.partition)
    fired = [
        timing.fire_due(router, keys, others=[site.hash, site.stream], most=10, most_bytes=1000, limits=b"") for _ in range(5)
    ]
    assert sorted(reply.happened for reply in await asyncio.gather(*fired)) == [0, 0, 0, 0, 1]
    assert await say(3, after, time) == [Schedule(time, None)] * 3, "what is said about an earlier time changes nothing"
    assert await say(1, time, time) == [Schedule(time, None)]
    assert await say(1, time, time - 1) == [Schedule(time, None)]
    assert site.fired() == [AT_THREE]
    assert site.next() == []


async def test_time_whose_member_was_removed_is_scheduled_again(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
        site.raw.delete(site.due)
        await site.wait_for_next(AT_THREE)


# -- missed times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "late", "fires"),
    [
        ("once", 40, [AT_THREE]), ("skip", 40, [AT_THREE]),
        ("once", 61, [AT_THREE]), ("skip", 61, []),
        ("once", 3 * 86_400 + 7200, [AT_THREE + 3 * DAY]), ("skip", 3 * 86_400 + 7200, []),
        ("once", 3 * 86_400 + 30, [AT_THREE + 3 * DAY]), ("skip", 3 * 86_400 + 30, [AT_THREE + 3 * DAY]),
    ],
)  # fmt: skip
async def test_times_of_an_outage_fire_once_or_not_at_all(
    state: StateManager,
    site: Site,
    missed: Any,
    late: int,
    fires: list[datetime],
    each_way: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    trigger = record(recorder, cron(DAILY, missed=missed))
    async with working(state, trigger):
        await site.wait_for_next(AT_THREE)
    moment = AT_THREE + timedelta(seconds=late)
    await set_namespace_time(state, moment)
    following = next(AT_THREE + day * DAY for day in range(10) if AT_THREE + day * DAY > moment)
    async with working(state, trigger, workers=3):
        await recorder.wait(len(fires))
        await site.wait_for_next(following)
        await settle()
    assert [each.scheduled_at for each in recorder.inputs] == site.fired() == fires
    lines = [line.message for line in caplog.records if "missed its times" in line.message]
    assert bool(lines) == (late % 86_400 > 60)
    outcome = "the latest fires now" if missed == "once" else "none of them fires"
    begin = "step Record: cron 0 3 * * * (UTC) missed its times after 2027-05-03 02:00:"
    assert all(line.startswith(begin) and line.endswith(outcome) for line in lines)


async def test_what_a_worker_could_not_say_is_not_said_later(
    state: StateManager, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile it may be out of date: another time is the latest that was missed."""
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
    await set_namespace_time(state, AT_THREE + timedelta(hours=1))
    says, failed = timing.schedule, 0

    async def fail_once(router: Router, steps: Any) -> Any:
        nonlocal failed
        if not failed and any(time.how == "late" for _, _, times in steps for time in times):
            failed += 1
            await set_namespace_time(state, AT_THREE + 2 * DAY + timedelta(hours=1))
            raise OSError
        return await says(router, steps)

    recorder = Recorder()
    worker = Worker(Application((record(recorder, cron(DAILY)),)), state)
    monkeypatch.setattr("motia_redis._worker.groups.schedule_now", do_nothing)
    monkeypatch.setattr(timing, "schedule", fail_once)
    running = asyncio.create_task(worker.run())
    await site.wait_for_next(AT_THREE + 3 * DAY)
    await recorder.wait(1)
    worker.stop()
    await running
    assert failed == 1
    assert site.fired() == [AT_THREE + 2 * DAY]


async def do_nothing(*arguments: object) -> None:
    """Stand in for a part that another part makes up for."""


async def test_missed_time_is_not_fired_before_a_worker_has_decided(router: Router, site: Site, state: StateManager) -> None:
    """The first of several missed times waits in Redis. A process that only sends what is due must not fire it."""
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
    await set_namespace_time(state, AT_THREE + 2 * DAY + timedelta(hours=1))
    keys = due_keys(await state.connect(), site.partition)
    fired = await timing.fire_due(router, keys, others=[site.hash, site.stream], most=10, most_bytes=1000, limits=b"")
    assert (fired.happened, fired.errors) == (1, [])
    assert (site.fired(), site.next()) == ([], [])
    recorder = Recorder()
    async with working(state, record(recorder, cron(DAILY))):
        await recorder.wait(1)
    assert recorder.inputs[0].scheduled_at == AT_THREE + 2 * DAY


@pytest.mark.parametrize(
    ("missed", "now", "expected"),
    [
        ("once", 0, (600_000, "time")), ("skip", 599_999, (600_000, "time")),
        ("once", 600_000, (600_000, "time")), ("skip", 660_000, (600_000, "time")),
        ("once", 660_001, (600_000, "late")), ("skip", 660_001, (600_000, "skip")),
        ("once", 3_000_000, (3_000_000, "time")), ("skip", 3_061_000, (3_000_000, "skip")),
    ],
)  # fmt: skip
def test_next_time_is_the_latest_that_has_come_and_60_seconds_decide(missed: Any, now: int, expected: tuple[int, str]) -> None:
    from motia_redis._steps.cron_times import Times

    assert next_time(Times("*/10 * * * *", UTC), 0, now, missed) == expected


# -- no past ------------------------------------------------------------------------------------------------------------------


async def test_new_expression_has_no_past_not_even_of_a_moment(state: StateManager, site: Site) -> None:
    await set_namespace_time(state, AT_THREE + timedelta(seconds=1))
    recorder = Recorder()
    async with working(state, record(recorder, cron(DAILY)), workers=2):
        await site.wait_for_next(AT_THREE + DAY)
        await settle()
        assert site.fired() == []
        await site.pass_by(AT_THREE + DAY + timedelta(seconds=5), expected=1)
        await recorder.wait(1)
    assert site.fired() == [AT_THREE + DAY]


async def test_changed_expression_or_zone_has_no_past(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
    await set_namespace_time(state, AT_THREE + timedelta(hours=6))
    recorder = Recorder()
    async with working(state, record(recorder, cron("0 4 * * *"), cron(DAILY, timezone="Europe/Berlin"))):
        await site.wait_for_next(AT_THREE + DAY + timedelta(hours=1), AT_THREE + DAY - timedelta(hours=2))
        await settle()
        assert site.fired() == []
        await site.pass_by(AT_THREE + DAY - timedelta(hours=2) + timedelta(seconds=5), expected=1)
        await site.pass_by(AT_THREE + DAY + timedelta(hours=1, seconds=5), expected=2)
        await recorder.wait(2)
    assert [each.timezone for each in recorder.inputs] == ["Europe/Berlin", "UTC"]


async def test_past_begins_when_the_groups_are_created(state: StateManager, site: Site) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, cron(DAILY))) as (worker,):
        worker.stop()
    site.raw.delete(site.hash, site.due)
    await worker.prepare()
    assert site.next() == [AT_THREE]


@pytest.mark.parametrize("others", [[queue("mail")], [cron("0 5 * * *"), queue("mail")]])
async def test_removed_trigger_is_forgotten_and_has_no_past_when_it_returns(
    state: StateManager, site: Site, others: list[Any], each_way: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_KEPT", 0.3)
    async with working(state, record(Recorder(), cron(DAILY), queue("mail"))):
        await site.wait_for_next(AT_THREE)
    recorder = Recorder()
    async with working(state, record(recorder, *others)):
        await until_holds(lambda: not site.raw.hexists(site.hash, "UTC 0 3 * * *"), "it is forgotten")
    assert AT_THREE not in site.next()
    await set_namespace_time(state, AT_THREE + timedelta(hours=1))
    async with working(state, record(recorder, cron(DAILY), queue("mail"))):
        await until_holds(lambda: AT_THREE + DAY in site.next(), "the next time is scheduled")
        await settle()
    assert recorder.inputs == []


async def test_unwanted_schedule_is_kept_as_long_as_a_version_wants_it(
    state: StateManager, second: StateManager, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_KEPT", 0.4)
    async with working(state, record(Recorder(), cron(DAILY), queue("mail"))):
        await site.wait_for_next(AT_THREE)
        before = site.raw.hget(site.hash, "UTC 0 3 * * *").rpartition(b":")[0]  # type: ignore[union-attr]
        async with working(second, record(Recorder(), cron("0 4 * * *"), queue("mail"))):
            await settle(1.5)
            assert site.raw.hget(site.hash, "UTC 0 3 * * *").rpartition(b":")[0] == before  # type: ignore[union-attr]


async def test_unwanted_schedule_is_kept_by_a_worker_that_did_not_look_all_the_time(
    state: StateManager, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it did not look, Redis may have been away, or its process stood still: so may those that want the schedule."""
    monkeypatch.setattr(scheduling, "_KEPT", 0.2)
    monkeypatch.setattr(scheduling, "_GAP", 0.0)
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
    async with working(state, record(Recorder(), cron("0 4 * * *"))):
        await settle(1.0)
        assert site.raw.hexists(site.hash, "UTC 0 3 * * *")


# -- versions -----------------------------------------------------------------------------------------------------------------


async def test_two_versions_with_different_expressions_fire_both_each_in_its_own(
    state: StateManager, second: StateManager, site: Site
) -> None:
    old, new = Recorder(), Recorder()
    async with working(state, record(old, cron(DAILY))), working(second, record(new, cron("0 4 * * *"))):
        for day in range(2):
            await site.wait_for_next(AT_THREE + day * DAY, AT_THREE + day * DAY + timedelta(hours=1))
            await site.pass_by(AT_THREE + day * DAY + timedelta(seconds=2), expected=2 * day + 1)
            await site.pass_by(AT_THREE + day * DAY + timedelta(hours=1, seconds=2), expected=2 * day + 2)
        await old.wait(2)
        await new.wait(2)
    assert [each.expression for each in old.inputs] == [DAILY] * 2
    assert [each.expression for each in new.inputs] == ["0 4 * * *"] * 2


async def test_versions_with_one_expression_share_its_times(state: StateManager, second: StateManager, site: Site) -> None:
    recorder = Recorder()
    trigger = cron(DAILY)
    async with working(state, record(recorder, trigger)), working(second, record(recorder, trigger, cron("0 5 * * *"))):
        await site.wait_for_next(AT_THREE, AT_THREE + timedelta(hours=2))
        await site.pass_by(AT_THREE + timedelta(seconds=2), expected=1)
        await recorder.wait(1)
        await settle()
    assert len(recorder.inputs) == 1


# -- like any message ---------------------------------------------------------------------------------------------------------


async def test_failed_time_is_retried_and_the_times_behind_it_wait(state: StateManager, site: Site) -> None:
    runs: list[tuple[int, int]] = []

    async def handler(input: CronTriggerInput, ctx: FlowContext) -> None:
        runs.append((input.scheduled_at.minute, ctx.trigger.attempt or 0))
        if input.scheduled_at.minute == 0 and len(runs) < 3:
            raise ValueError

    async with working(state, step({"name": "Record", "triggers": [cron("* * * * *")], "backoff": 1}).handle(handler)):
        await site.pass_by(AT_THREE + timedelta(seconds=1), expected=1)
        await until_holds(lambda: len(runs) == 1, "the first attempt")
        await site.pass_by(AT_THREE + timedelta(seconds=61), expected=2)
        await until_holds(lambda: len(runs) == 4, "all attempts")
    assert runs == [(0, 1), (0, 2), (0, 3), (1, 1)]


async def test_times_of_several_triggers_of_a_step_run_one_after_the_other(state: StateManager, site: Site) -> None:
    running, most = 0, 0
    done: list[str] = []

    async def handler(input: CronTriggerInput) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        done.append(input.expression)

    triggers = [cron(f"{minute},30 3 * * *") for minute in range(5)]
    async with working(state, step({"name": "Record", "triggers": triggers}).handle(handler), workers=2):
        await site.wait_for_next(*(AT_THREE + timedelta(minutes=minute) for minute in range(5)))
        await set_namespace_time(state, AT_THREE + timedelta(minutes=30, seconds=3))
        await until_holds(lambda: len(done) == 5, "all have run")
    assert most == 1


async def test_dead_letter_of_a_time_is_shown_and_retried(state: StateManager, site: Site) -> None:
    handler, letters = FailingHandler(), DeadLetters(state)
    async with working(state, failing_step(handler, "Record", cron(DAILY))):
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
        (letter,) = await wait_for_dead_letters(letters, 1)
        assert (letter.event_type, letter.schedule, letter.topic, letter.scope) == ("cron", "UTC 0 3 * * *", None, None)
        assert letter.cron_time.scheduled_at == AT_THREE
        handler.fixed = True
        await letters.retry("Record", letter.id)
        await handler.received.wait(1)
    assert handler.received.inputs == [letter.cron_time]
    assert await letters.count() == 0


async def test_dead_letter_that_no_version_wants_cannot_be_retried(state: StateManager, site: Site) -> None:
    letters = DeadLetters(state)
    async with working(state, failing_step(FailingHandler(), "Record", cron(DAILY))):
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
        (letter,) = await wait_for_dead_letters(letters, 1)
    async with working(state, failing_step(FailingHandler(), "Record", cron("0 4 * * *"))):
        await wait_until_held(state)
        with pytest.raises(StepMissing, match=r"covers cron 'UTC 0 3 \* \* \*'"):
            await letters.retry("Record", letter.id)


async def test_entry_of_another_client_becomes_a_dead_letter(state: StateManager, site: Site) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, cron(DAILY), max_attempts=1)):
        site.raw.xadd(site.stream, {"type": "cron", "schedule": "UTC 0 3 * * *", "due": "x", "fired": "1"})
        site.raw.xadd(site.stream, {"type": "cron"})
        letters = await wait_for_dead_letters(DeadLetters(state), 2)
        site.raw.xtrim(site.stream, 0)
        site.raw.hset(site.hash, "UTC 0 3 * * *", "nonsense")
        site.raw.hset(site.hash, "more", "nonsense")
        await until_holds(lambda: b"nonsense" not in site.raw.hvals(site.hash), "the records are repaired")
        await site.wait_for_next(AT_THREE)
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
        await recorder.wait(1)
    assert {letter.error_type for letter in letters} == {"CorruptValue"}


# -- names --------------------------------------------------------------------------------------------------------------------


async def test_renamed_step_keeps_its_schedules_times_dead_letters_and_ids(
    state: StateManager, site: Site, raw: redis.Redis, namespace: str
) -> None:
    ids: list[str] = []
    letters = DeadLetters(state)

    def failing(name: str, succeeds_at: int, **config: Any) -> Any:
        async def handler(input: CronTriggerInput, ctx: FlowContext) -> None:
            ids.append(ctx.id("mail"))
            if len(ids) < succeeds_at:
                raise ValueError

        return step({"name": name, "triggers": [cron(DAILY)], **config}).handle(handler)

    async with working(state, failing("Record", 9, max_attempts=1)):
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
        (letter,) = await wait_for_dead_letters(letters, 1)
    async with working(state, failing("Record", 9, backoff=1.5, max_attempts=2)):
        await site.pass_by(AT_THREE + DAY + timedelta(seconds=5), expected=2)
        await until_holds(lambda: len(ids) == 2, "the first attempt of the second time")
    await set_namespace_time(state, AT_THREE + 2 * DAY + timedelta(seconds=30))
    done = await rename_step(state, "Record", "Report")
    assert (done.groups, done.dead_letters) == (1, 1)
    assert not list(raw.scan_iter(f"{{{namespace}:*Record*"))
    async with working(state, failing("Report", 1, backoff=0.1)):
        await letters.retry("Report", letter.id)
        await until_holds(lambda: ids.count(ids[0]) == 2, "the retried time")
        await until_holds(lambda: len(set(ids)) == 3, "the time that was due during the rename")
    (found,) = (await read_status(state)).steps
    assert (found.name, [each.name for each in found.schedules], found.lanes_unwanted) == ("Report", ["UTC 0 3 * * *"], 0)


async def test_forgotten_step_leaves_nothing_and_its_times_stop(
    state: StateManager, site: Site, raw: redis.Redis, namespace: str
) -> None:
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
    await forget_step(state, "Record")
    assert site.next() == []
    assert not [key for key in raw.scan_iter(f"{{{namespace}:*") if b"Record" in key]
    recorder = Recorder()
    await set_namespace_time(state, AT_THREE + 3 * DAY + timedelta(hours=1))
    async with working(state, record(recorder, cron(DAILY))):
        await site.wait_for_next(AT_THREE + 4 * DAY)
        await settle(0.2)
    assert recorder.inputs == []


async def test_lanes_of_a_step_without_cron_triggers_any_more_can_be_forgotten(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY), queue("mail"))):
        await site.wait_for_next(AT_THREE)
    async with working(state, record(Recorder(), queue("mail"))):

        async def is_unwanted() -> bool:
            return (await read_status(state)).steps[0].lanes_unwanted == 1

        await until(is_unwanted, "the lane is unwanted")
        assert (await forget_step(state, "Record", only_lanes=True)).groups == 1
    assert not site.raw.exists(site.stream, site.hash)


async def test_time_of_a_step_without_a_stream_makes_none(state: StateManager, router: Router, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
    site.raw.delete(site.stream)
    await set_namespace_time(state, AT_THREE + timedelta(seconds=1))
    keys = due_keys(await state.connect(), site.partition)
    fired = await timing.fire_due(router, keys, others=[site.hash, site.stream], most=10, most_bytes=1000, limits=b"")
    assert (fired.happened, fired.errors) == (1, [])
    assert not site.raw.exists(site.stream, site.hash)


# -- clocks and servers -------------------------------------------------------------------------------------------------------


async def test_clock_that_was_set_back_repeats_no_time(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron("0 * * * *"))):
        await site.pass_by(AT_THREE + timedelta(seconds=5), expected=1)
        await set_namespace_time(state, AT_THREE - timedelta(hours=3))
        await settle(0.3)
        assert site.next() == [AT_THREE + timedelta(hours=1)]
    assert site.fired() == [AT_THREE]


async def test_clock_that_was_days_ahead_does_not_stop_a_schedule(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY))):
        await site.wait_for_next(AT_THREE)
        await site.pass_by(AT_THREE + 400 * DAY + timedelta(seconds=5), expected=1)
        await set_namespace_time(state, START)
        await site.wait_for_next(AT_THREE)


async def test_full_server_goes_on_to_fire_times(tmp_path: Path, namespace: str) -> None:
    import redis

    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        async with StateManager(server.url, namespace=namespace) as state:
            site = Site(state, raw, await state.connect())
            await set_namespace_time(state, START)
            recorder = Recorder()
            async with working(state, record(recorder, cron("* * * * *"))):
                raw.config_set("maxmemory", 1)
                for minute in range(1, 4):
                    moment = START + timedelta(minutes=minute, seconds=1)
                    offset = int((moment.timestamp() - datetime.now(UTC).timestamp()) * 1000)
                    raw.config_set("maxmemory", 0)
                    raw.hset(site.keys.trimmed, "clock", offset)  # type: ignore[arg-type]
                    raw.config_set("maxmemory", 1)
                    await recorder.wait(minute)


async def test_redis_that_lost_its_data_fires_again(tmp_path: Path, namespace: str) -> None:
    import redis

    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        async with StateManager(server.url, namespace=namespace) as state:
            site = Site(state, raw, await state.connect())
            await set_namespace_time(state, START)
            recorder = Recorder()
            async with working(state, record(recorder, cron(DAILY))):
                await site.wait_for_next(AT_THREE)
                await wait_until_held(state)
                raw.flushall()
                await set_namespace_time(state, AT_THREE + timedelta(hours=1))
                await site.wait_for_next(AT_THREE + DAY)
                await until_holds(lambda: bool(raw.exists(site.stream)), "the group is there again")
                await site.pass_by(AT_THREE + DAY + timedelta(seconds=5), expected=1)
                await recorder.wait(1)
            assert [each.scheduled_at for each in recorder.inputs] == [AT_THREE + DAY]


async def test_status_says_when_a_schedule_is_next(state: StateManager, site: Site) -> None:
    async with working(state, record(Recorder(), cron(DAILY), cron("0 5 * * *", timezone="Europe/Berlin"))):
        await wait_until_held(state)
        (found,) = (await read_status(state)).steps
    assert [schedule.name for schedule in found.schedules] == ["Europe/Berlin 0 5 * * *", "UTC 0 3 * * *"]
    assert all(3500 < (schedule.next_in or 0) <= 3600 for schedule in found.schedules)
    assert (found.lanes, found.lanes_held, found.lag) == (1, 1, 0)
    assert found.versions[0].schedules == ["Europe/Berlin 0 5 * * *", "UTC 0 3 * * *"]
    assert StepSchedule(name="x", next_in=None).next_in is None

"""Seeking: a step handles again from a moment on, in order, exactly what it should, while workers run or not."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Worker, queue, step
from motia_redis import state as state_trigger
from motia_redis._scripts import delivery
from motia_redis._steps.application import Application
from motia_redis.admin import pause_step, resume_step, seek_step
from motia_redis.errors import InvalidTime, StepInUse, StepMissing
from tests.support.waiting import until, until_holds
from tests.support.workers import pending, record, working

if TYPE_CHECKING:
    import redis

USERS = state_trigger(scope="users")
EPOCH = 0.0


class Log:
    """What a handler has seen, in order: key and value of each change."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    async def __call__(self, input: Any) -> None:
        self.seen.append((input.item_id, input.new_value))

    def of(self, key: str) -> list[Any]:
        return [value for name, value in self.seen if name == key]


async def write(state: StateManager, *values: int, keys: int = 3) -> list[str]:
    """Give each key these values, each in a millisecond of its own. Return the revisions of the first key."""
    revisions = []
    for value in values:
        await asyncio.sleep(0.003)
        for key in range(keys):
            await state.set("users", f"key{key}", value)
        entry = await state.entry("users", "key0")
        assert entry is not None
        revisions.append(entry.revision)
    return revisions


async def all_handled(state: StateManager, raw: redis.Redis) -> None:
    async def none_is_left() -> bool:
        return await pending(raw, state.namespace) == 0

    await until(none_is_left, "everything is handled and recorded")


@pytest.mark.parametrize("is_paused", [False, True])
async def test_everything_is_handled_again_in_order_by_workers_that_run(
    state: StateManager, raw: redis.Redis, *, is_paused: bool
) -> None:
    log = Log()
    async with working(state, record(log, USERS), workers=2, heartbeat=0.1) as team:
        revisions = await write(state, 1, 2, 3)
        await until_holds(lambda: len(log.seen) == 9, "all are handled")
        await all_handled(state, raw)
        if is_paused:
            await pause_step(state, "Record")
            await until_holds(lambda: all("Record" in w._run.membership.paused for w in team), "they know")  # type: ignore[union-attr]
        sought = await seek_step(state, "Record", revisions[1])
        assert (sought.again, sought.skipped, sought.lanes_trimmed) == (6, 0, 0)
        if is_paused:
            await write(state, 4)
            leases = list(raw.scan_iter(f"{{{state.namespace}:*leases"))
            await until_holds(lambda: not any(b"moved" in raw.hvals(name) for name in leases), "the workers have learned it")
            assert len(log.seen) == 9
            await resume_step(state, "Record")
        else:
            await write(state, 4)
        await until_holds(lambda: len(log.seen) >= 18, "those from the revision on are handled again")
        await all_handled(state, raw)
    for key in ("key0", "key1", "key2"):
        assert log.of(key)[:3] == [1, 2, 3]
        assert log.of(key)[-3:] == [2, 3, 4], log.of(key)
        assert len(log.of(key)) == 6 or not is_paused


async def test_step_without_workers_goes_on_from_a_time(state: StateManager, raw: redis.Redis) -> None:
    log = Log()
    async with working(state, record(log, USERS)):
        await write(state, 1)
        await until_holds(lambda: len(log.seen) == 3, "all are handled")
    await asyncio.sleep(0.01)
    moment = int(raw.time()[0]) + int(raw.time()[1]) / 1e6  # type: ignore[index]
    async with working(state, record(log, USERS)):
        await write(state, 2, 3)
        await until_holds(lambda: len(log.seen) == 9, "all are handled")
    dry = await seek_step(state, "Record", moment, dry_run=True)
    assert dry.again == 6
    assert await pending(raw, state.namespace) == 0, "a dry run changes nothing"
    assert await seek_step(state, "Record", datetime.fromtimestamp(moment, UTC)) == dry
    assert await pending(raw, state.namespace) == 6
    async with working(state, record(log, USERS)):
        await until_holds(lambda: len(log.seen) == 15, "those from the moment on are handled again")
        await all_handled(state, raw)
    assert [log.of(f"key{key}") for key in range(3)] == [[1, 2, 3, 2, 3]] * 3


async def test_what_is_not_handled_stays_unless_it_is_to_be_skipped(state: StateManager, raw: redis.Redis) -> None:
    log = Log()
    await Worker(Application((record(log, USERS),)), state).prepare()
    revisions = await write(state, 1, 2, 3)
    sought = await seek_step(state, "Record", revisions[2])
    assert (sought.again, sought.skipped, sought.lanes) == (0, 0, 0), "no lane has come as far"
    assert await pending(raw, state.namespace) == 9
    sought = await seek_step(state, "Record", revisions[2], skip=True)
    assert (sought.again, sought.skipped) == (0, 6)
    async with working(state, record(log, USERS)):
        await until_holds(lambda: len(log.seen) >= 1, "only the rest is handled")
        await all_handled(state, raw)
    assert sorted(log.seen) == [("key0", 3), ("key1", 3), ("key2", 3)]


async def test_unfinished_entries_keep_their_attempts_before_and_lose_them_after(state: StateManager, raw: redis.Redis) -> None:
    """Two keys fail: the first has its entry before the new place, the other one behind it."""
    attempts: list[tuple[int, int]] = []

    async def handler(input: Any, ctx: Any) -> None:
        attempts.append((input.new_value, ctx.trigger.attempt))
        if input.new_value in (1, 4) and ctx.trigger.attempt == 1:
            raise ValueError

    key = "same lane"
    failing = record(handler, USERS, backoff=30, max_backoff=30)
    async with working(state, failing):
        await state.set("users", "a", 1)
        await until_holds(lambda: attempts == [(1, 1)], "the first fails")
        second = await state.set("users", key, 2)
        assert second == 2
        entry = await state.entry("users", key)
        await state.set("users", key, 3)
        await state.set("users", key, 4)
        await until_holds(lambda: len(attempts) == 4, "the others were tried")
    assert entry is not None
    sought = await seek_step(state, "Record", entry.revision)
    assert sought.again == 2, "4 is not finished, so it is not handled again"
    assert await pending(raw, state.namespace) == 4
    fields = [raw.hgetall(name) for name in raw.scan_iter(f"{{{state.namespace}:*entries:Record:*")]
    known = sorted(value.split(b":")[0] for found in fields for name, value in found.items() if name != b"position")
    assert known == [b"1"], "the entry before has its attempt, the one behind begins anew"


async def test_lane_is_read_again_only_when_the_handler_that_runs_has_ended(state: StateManager, raw: redis.Redis) -> None:
    seen: list[int] = []
    begun, may_end = asyncio.Event(), asyncio.Event()
    is_first = True

    async def handler(input: Any) -> None:
        nonlocal is_first
        if input.new_value == 3 and is_first:
            is_first = False
            begun.set()
            await may_end.wait()
        seen.append(input.new_value)

    async with working(state, record(handler, USERS), heartbeat=0.1) as team:
        for value in (1, 2, 3):
            await state.set("users", "ann", value)
        await begun.wait()
        assert (await seek_step(state, "Record", EPOCH)).again == 2
        await until_holds(lambda: len(team[0].held_lanes()) < 8, "the worker has learned it")
        await asyncio.sleep(0.3)
        assert seen == [1, 2], "the key's handlers never run beside each other"
        may_end.set()
        await until_holds(lambda: len(seen) >= 6, "all are handled again")
        await all_handled(state, raw)
    assert seen == [1, 2, 3, 1, 2, 3], "3, which ran meanwhile, too"


async def test_entry_that_runs_at_a_worker_that_gave_its_lane_away_refuses_a_seek(state: StateManager, raw: redis.Redis) -> None:
    begun, may_end, seen = asyncio.Event(), asyncio.Event(), []

    async def handler(input: Any) -> None:
        begun.set()
        await may_end.wait()
        seen.append(input.new_value)

    slow = record(handler, USERS)
    async with working(state, slow) as team:
        await state.set("users", "ann", 1)
        await begun.wait()
        team[0].stop()
        await until_holds(lambda: not team[0].held_lanes(), "the lanes are given away")
        with pytest.raises(StepInUse, match="repeat the call when they have ended"):
            await seek_step(state, "Record", EPOCH)
        may_end.set()
    assert seen == [1]
    await seek_step(state, "Record", EPOCH)
    async with working(state, slow):
        await until_holds(lambda: seen == [1, 1], "it is handled again")


async def test_moved_lane_stays_with_its_worker(state: StateManager, raw: redis.Redis) -> None:
    """Its tenure ends, but nobody else may take the lane while handlers run there."""
    begun, may_end, seen = asyncio.Event(), asyncio.Event(), []

    async def handler(input: Any) -> None:
        seen.append(input.new_value)
        if input.new_value == 2:
            begun.set()
            await may_end.wait()

    async with working(state, record(handler, USERS), heartbeat=0.1, lease=1.0):
        await state.set("users", "ann", 1)
        await all_handled(state, raw)
        await state.set("users", "ann", 2)
        await begun.wait()
        await seek_step(state, "Record", EPOCH)
        async with working(state, record(handler, USERS), heartbeat=0.1, lease=1.0) as more:
            await until_holds(lambda: len(more[0].held_lanes()) > 0, "other lanes move")
            await asyncio.sleep(2.5)
            assert seen == [1, 2], "the key's handlers never run beside each other, whoever is assigned the lane"
            may_end.set()
            await until_holds(lambda: seen == [1, 2, 1, 2], "it is handled again")


async def test_lane_that_is_assigned_to_another_worker_meanwhile_moves_there(state: StateManager, raw: redis.Redis) -> None:
    log = Log()
    steps = record(log, USERS)
    async with working(state, steps, heartbeat=0.1):
        await write(state, *range(10), keys=20)
        await until_holds(lambda: len(log.seen) == 200, "all are handled")
        for _ in range(3):
            seen = len(log.seen)
            joining = working(state, steps, heartbeat=0.1)
            _, more = await asyncio.gather(seek_step(state, "Record", EPOCH), joining.__aenter__())
            try:
                await until_holds(lambda seen=seen: len(log.seen) >= seen + 200, "all are handled again")  # type: ignore[misc]
                await until_holds(lambda more=more: len(more[0].held_lanes()) == 4, "half of the lanes move")  # type: ignore[misc]
            finally:
                await joining.__aexit__(None, None, None)
        await all_handled(state, raw)


async def test_nothing_that_the_new_place_needs_is_trimmed(
    state: StateManager, raw: redis.Redis, every_change_looks: None
) -> None:
    log = Log()
    async with working(state, record(log, USERS)):
        await write(state, 1, 2)
        await until_holds(lambda: len(log.seen) == 6, "all are handled")
        await all_handled(state, raw)
    await seek_step(state, "Record", EPOCH)
    from motia_redis.admin import change_settings

    await change_settings(state, entries=1, seconds=0.001, bytes=1)
    await write(state, 3)
    async with working(state, record(log, USERS)):
        await until_holds(lambda: len(log.seen) == 15, "nothing is missing")
    assert log.of("key0") == [1, 2, 1, 2, 3]


async def test_what_was_trimmed_is_told(state: StateManager, raw: redis.Redis) -> None:
    log = Log()
    async with working(state, record(log, USERS)):
        await write(state, 1, 2, keys=1)
        await until_holds(lambda: len(log.seen) == 2, "all are handled")
        await all_handled(state, raw)
    keyspace = await state.connect()
    (stream,) = keyspace.event_streams("users", "key0")
    raw.xtrim(stream, maxlen=1, approximate=False)
    raw.hset(keyspace.trimmed(stream), b"floor " + stream, raw.xrange(stream)[0][0])  # type: ignore[arg-type]
    sought = await seek_step(state, "Record", EPOCH)
    assert (sought.again, sought.lanes_trimmed) == (1, 1)


async def test_effects_once_has_its_effects_again(state: StateManager, raw: redis.Redis) -> None:
    async def count(input: Any, ctx: Any) -> None:
        await ctx.state.update("counts", input.item_id, [{"type": "increment", "path": "n", "by": 1}])

    counting = record(count, USERS, effects_once=True)
    await state.set("counts", "ann", {"n": 0})

    async def counted(number: int) -> bool:
        value: Any = await state.get("counts", "ann")
        return bool(value["n"] == number)

    async with working(state, counting, heartbeat=0.1):
        await state.set("users", "ann", 1)
        await until(lambda: counted(1), "it is counted")
        await all_handled(state, raw)
        await until_holds(lambda: not list(raw.scan_iter(f"*{state.namespace}:*effects:*")), "its record is freed")
        await seek_step(state, "Record", EPOCH)
        await until(lambda: counted(2), "it is counted again")


async def test_messages_and_dead_letters(state: StateManager, raw: redis.Redis) -> None:
    seen: list[int] = []

    async def handler(data: Any) -> None:
        seen.append(data)
        if data == 2:
            raise ValueError

    async with working(state, record(handler, queue("mail"), max_attempts=1), heartbeat=0.1):
        for number in (1, 2, 3):
            await state.enqueue("mail", number, key="same")
        await until_holds(lambda: seen == [1, 2, 3], "all are handled")
        await all_handled(state, raw)
        assert (await seek_step(state, "Record", EPOCH)).again == 3
        await until_holds(lambda: seen == [1, 2, 3] * 2, "all are handled again, the dead letter's message, too")


async def test_seek_takes_a_time_a_revision_and_nothing_else(state: StateManager) -> None:
    await Worker(Application((record(Log(), USERS),)), state).prepare()
    for wrong in ("yesterday", datetime(2020, 1, 1), None, True, -1, float("nan"), "12"):
        with pytest.raises(InvalidTime, match="must be Unix seconds, a datetime with a time zone or a revision"):
            await seek_step(state, "Record", wrong)  # type: ignore[arg-type]
    for ahead in (time.time() + 3600, f"{int(time.time() * 1000) + 3_600_000}-0"):
        with pytest.raises(InvalidTime, match="is in the future"):
            await seek_step(state, "Record", ahead, skip=True)
    with pytest.raises(StepMissing, match="steps: 'Record'"):
        await seek_step(state, "Recrod", EPOCH)


async def test_change_after_a_skip_to_now_is_handled(state: StateManager, raw: redis.Redis) -> None:
    log = Log()
    other = step({"name": "Other", "triggers": [USERS]}).handle(Log())
    await Worker(Application((record(log, USERS), other)), state).prepare()
    await write(state, 1, 2)
    await asyncio.sleep(0.003)
    assert (await seek_step(state, "Record", time.time() + 1, skip=True)).skipped == 6
    await write(state, 3)
    async with working(state, record(log, USERS)):
        await until_holds(lambda: len(log.seen) == 3, "the new ones are handled")
    assert {value for _, value in log.seen} == {3}


async def test_worker_learns_of_a_seek_also_if_the_reply_that_tells_it_is_lost(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, lost = Log(), 0
    renew_lease = delivery.renew_lease

    async def losing(*arguments: Any, **options: Any) -> bool:
        nonlocal lost
        in_order = await renew_lease(*arguments, **options)
        if not in_order and not options["first"]:
            lost += 1
            raise ConnectionError
        return in_order

    async with working(state, record(log, USERS), heartbeat=0.1):
        await write(state, 1, 2)
        await until_holds(lambda: len(log.seen) == 6, "all are handled")
        await all_handled(state, raw)
        monkeypatch.setattr(delivery, "renew_lease", losing)
        await seek_step(state, "Record", EPOCH)
        await until_holds(lambda: len(log.seen) == 12, "all are handled again")
    assert lost == 1

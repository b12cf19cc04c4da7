"""A paused step: nothing of it is handled in any worker, nothing is lost, and other steps go on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Worker, cron, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis.admin import forget_step, pause_step, read_status, rename_step, resume_step
from motia_redis.errors import StepMissing
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

USERS = state_trigger(scope="users")
HEARTBEAT = 0.1


async def paused_for(state: StateManager, name: str) -> float | None:
    status = await read_status(state)
    return next(found.paused_for for found in status.steps if found.name == name)


async def pause(state: StateManager, team: list[Worker], name: str) -> None:
    """Pause a step and wait until all workers know."""
    assert (await pause_step(state, name)).changed
    await until_holds(
        lambda: all(worker._run is not None and name in worker._run.membership.paused for worker in team),
        f"all workers know that {name} is paused",
        deadline=5,
    )


async def test_paused_step_handles_nothing_in_any_worker_and_others_go_on(
    state: StateManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "motia_redis.worker")
    paused, other = Recorder(), Recorder()
    steps = record(paused, USERS), step({"name": "Other", "triggers": [USERS]}).handle(other)
    async with working(state, *steps, workers=2, heartbeat=HEARTBEAT) as team:
        await state.set("users", "ann", 0)
        await paused.wait(1)
        began = time.monotonic()
        await pause(state, team, "Record")
        assert time.monotonic() - began < 20 * HEARTBEAT
        for number in range(40):
            await state.set("users", f"key{number}", number)
        await other.wait(41)
        held = {found.name: found.lanes_held for found in (await read_status(state)).steps}
        assert held["Record"] == held["Other"] == 8, "lanes stay with their workers"
        assert len(paused.inputs) == 1
        assert (await resume_step(state, "Record")).changed
        await paused.wait(41)
    assert caplog.text.count("step Record is paused") == 2
    assert caplog.text.count("step Record is resumed") == 2


async def test_running_handler_ends_and_its_key_waits(state: StateManager) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    async def handler(input: Any) -> None:
        begun.set()
        await may_end.wait()
        seen.append(input.new_value)

    async with working(state, record(handler, USERS), heartbeat=HEARTBEAT) as team:
        await state.set("users", "ann", 1)
        await state.set("users", "ann", 2)
        await begun.wait()
        await pause(state, team, "Record")
        may_end.set()
        await until_holds(lambda: seen == [1], "the running handler ends")
        await state.set("users", "ann", 3)

        async def has_recorded() -> bool:
            (found,) = (await read_status(state)).steps
            return found.pending + found.lag == 2

        await until(has_recorded, "its end is recorded")
        assert seen == [1]
        await resume_step(state, "Record")
        await until_holds(lambda: seen == [1, 2, 3], "the others follow in order")


async def test_retry_waits_while_the_step_is_paused(state: StateManager) -> None:
    attempts: list[int] = []

    async def handler(input: Any, ctx: Any) -> None:
        attempts.append(ctx.trigger.attempt)
        if len(attempts) == 1:
            await pause_step(state, "Record")
            raise ValueError("again")

    async with working(state, record(handler, USERS, backoff=0.5), heartbeat=0.05) as team:
        await state.set("users", "ann", 1)
        await until_holds(lambda: attempts == [1], "the first attempt fails")
        await until_holds(lambda: "Record" in team[0]._run.membership.paused, "the worker knows")  # type: ignore[union-attr]
        (queue,) = team[0]._run.dispatcher._waiting  # type: ignore[union-attr]
        await until_holds(lambda: not queue.is_waiting, "the pause of the attempt is over")
        await asyncio.sleep(0)
        assert attempts == [1]
        await resume_step(state, "Record")
        await until_holds(lambda: attempts == [1, 2], "the next attempt is made")


async def test_worker_that_starts_knows_before_it_handles_anything(state: StateManager) -> None:
    paused, other = Recorder(), Recorder()
    steps = record(paused, USERS), step({"name": "Other", "triggers": [USERS]}).handle(other)
    await Worker(Application(steps), state).prepare()
    await pause_step(state, "Record")
    for number in range(20):
        await state.set("users", f"key{number}", number)
    async with working(state, *steps, workers=2):
        await other.wait(20)
        assert not paused.inputs
        assert await paused_for(state, "Record") is not None
    async with working(state, *steps, workers=1):  # all workers were started again
        await state.set("users", "key0", 0)
        await other.wait(21)
        assert not paused.inputs
        await resume_step(state, "Record")
        await paused.wait(21)


async def test_lane_that_moves_to_another_worker_stays_paused(state: StateManager) -> None:
    recorder, other = Recorder(), Recorder()
    steps = record(recorder, USERS), step({"name": "Other", "triggers": [USERS]}).handle(other)
    async with working(state, *steps, heartbeat=HEARTBEAT) as team:
        await pause(state, team, "Record")
        async with working(state, *steps, heartbeat=HEARTBEAT) as more:
            await until_holds(lambda: more[0].held_lanes().count("Record") == 4, "half of the lanes move")
            for number in range(40):
                await state.set("users", f"key{number}", number)
            await other.wait(40)
        assert not recorder.inputs
        await resume_step(state, "Record")
        await recorder.wait(40)


async def test_pause_and_resume_say_whether_they_changed_anything(state: StateManager) -> None:
    await Worker(Application((record(Recorder(), USERS),)), state).prepare()
    first = await pause_step(state, "Record")
    again = await pause_step(state, "Record")
    assert (first.changed, first.since, again.changed) == (True, None, False)
    assert again.since is not None
    assert abs(again.since - time.time()) < 60
    resumed = await resume_step(state, "Record")
    assert (resumed.changed, resumed.since) == (True, again.since)
    assert (await resume_step(state, "Record")).changed is False
    assert await paused_for(state, "Record") is None


async def test_unknown_step_is_refused_with_the_names_of_the_known_ones(state: StateManager) -> None:
    with pytest.raises(StepMissing, match="steps: none"):
        await pause_step(state, "Recrod")
    await Worker(Application((record(Recorder(), USERS),)), state).prepare()
    with pytest.raises(StepMissing, match=r"there is no step 'Recrod' in namespace .*; steps: 'Record'$"):
        await pause_step(state, "Recrod")
    with pytest.raises(StepMissing):
        await resume_step(state, "Recrod")


async def test_pause_goes_with_a_renamed_step_and_ends_with_a_forgotten_one(state: StateManager, raw: redis.Redis) -> None:
    worker = Worker(Application((record(Recorder(), USERS),)), state)
    await worker.prepare()
    await pause_step(state, "Record")
    await rename_step(state, "Record", "Written")
    assert await paused_for(state, "Written") is not None
    assert [field for field in raw.hkeys(f"{state.namespace}:workers") if field.startswith(b"paused")] == [b"paused Written"]
    await forget_step(state, "Written")
    assert not [field for field in raw.hkeys(f"{state.namespace}:workers") if field.startswith(b"paused")]


async def test_full_redis_accepts_a_pause(state: StateManager, raw: redis.Redis) -> None:
    await Worker(Application((record(Recorder(), USERS),)), state).prepare()
    raw.config_set("maxmemory", 1)
    try:
        assert (await pause_step(state, "Record")).changed
        assert (await resume_step(state, "Record")).changed
    finally:
        raw.config_set("maxmemory", 0)


async def test_attempt_that_ended_its_task_is_recorded_while_the_step_is_paused(state: StateManager, raw: redis.Redis) -> None:
    """What such a future raises closes the coroutine that decides what follows: another task decides it."""
    begun, may_end, attempts = asyncio.Event(), asyncio.Event(), []

    async def handler(_: Any, ctx: Any) -> None:
        attempts.append(ctx.trigger.attempt)
        if len(attempts) == 1:
            begun.set()
            await may_end.wait()
            failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(failing.set_exception, GeneratorExit())
            await failing

    async with working(state, record(handler, USERS, backoff=0.05), heartbeat=HEARTBEAT) as team:
        await state.set("users", "ann", 1)
        await begun.wait()
        await pause(state, team, "Record")
        may_end.set()

        def fields() -> list[bytes]:
            hashes = list(raw.scan_iter(f"{{{state.namespace}:*entries:Record:*"))
            return [value for name in hashes for field, value in raw.hgetall(name).items() if field != b"position"]

        # Also a heartbeat records the attempt, but not when the next one may begin.
        await until_holds(lambda: [value.split(b":")[1] != b"0" for value in fields()] == [True], "its outcome is recorded")
        assert attempts == [1]
        await resume_step(state, "Record")
        await until_holds(lambda: attempts == [1, 2], "the next one follows")


async def test_times_of_a_paused_step_are_missed(state: StateManager) -> None:
    ticks, witness = Recorder(), Recorder()
    steps = record(ticks, cron("* * * * * *")), step({"name": "Other", "triggers": [cron("* * * * * *")]}).handle(witness)
    async with working(state, *steps, heartbeat=HEARTBEAT) as team:
        await ticks.wait(1)
        await pause(state, team, "Record")
        handled, before = len(ticks.inputs), len(witness.inputs)
        await witness.wait(before + 5)
        assert len(ticks.inputs) == handled
        resumed = time.time()
        await resume_step(state, "Record")
        await until_holds(lambda: any(tick.scheduled_at.timestamp() > resumed + 1 for tick in ticks.inputs), "it fires again")
    times = [tick.scheduled_at.timestamp() for tick in ticks.inputs[handled:] if tick.scheduled_at.timestamp() < resumed - 1.5]
    assert len(times) <= 1, "only the time that was the next one when the step was paused"

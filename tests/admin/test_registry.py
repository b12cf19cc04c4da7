"""Steps on record: `steps create`, `rename` and `forget`, and their effect on groups, lanes and dead letters."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from motia_redis import StateManager, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import forget_step
from motia_redis._admin.status import read_status
from motia_redis.errors import StepInUse, StepMissing
from tests.admin.test_status import status_of
from tests.support.commands import error_line, run_command
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


@pytest.mark.usefixtures("every_change_looks")
async def test_streams_are_trimmed_after_a_step_is_forgotten(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    state = StateManager(server.url, namespace=namespace, deadline=0)  # no events are kept for repeated calls
    keyspace = await state.connect()
    (stream,) = keyspace.event_streams("users", "ann")
    recorder = Recorder()
    stays = record(recorder, state_trigger(scope="users"))
    async with working(state, stays, failing_step(Recorder(), "Goes", state_trigger(scope="users"))):
        pass
    async with working(state, stays):
        for number in range(1500):
            await state.set("users", "ann", number)
        await recorder.wait(1500)
        assert raw.xlen(stream) == 1500, "kept for the step that is gone"
        done = await forget_step(state, "Goes")
        assert (done.groups, done.dead_letters) == (8, 0)
        for number in range(500):
            await state.set("users", "ann", number)
        await recorder.wait(2000)
        for number in range(500):
            await state.set("users", "ann", number)
        assert raw.xlen(stream) < 900, "trimmed to what the other step needs, and the history"
    assert [step.name for step in (await read_status(state)).steps] == ["Record"]
    with pytest.raises(StepMissing):
        await forget_step(state, "Goes")
    await state.close()


async def test_forget_removes_groups_attempts_and_lanes_and_keeps_letters_unless_asked(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str
) -> None:
    letters = DeadLetters(state)
    steps = [
        failing_step(FailingHandler(), "Sick", state_trigger(scope="users"), queue("mail")),
        record(Recorder(), state_trigger(scope="users")),
    ]
    async with working(state, *steps):
        await state.set("users", "ann", 1)
        await state.enqueue("mail", 1)
        await wait_for_dead_letters(letters, 2)
        with pytest.raises(StepInUse, match=f"process {os.getpid()} on "):
            await forget_step(state, "Sick")
        assert (await status_of(state, "Sick")).lanes == 16, "refused: nothing was changed"
    (stream,) = (await state.connect()).event_streams("users", "ann")
    raw.hset((await state.connect()).entries(stream, "Sick"), "something", 1)
    place = f"namespace {namespace!r} of {server.url}"

    done = await run_command(server, namespace, "steps", "forget", "Sick")
    assert (done.returncode, done.stdout) == (0, f"forgot step Sick: 16 consumer groups removed, 2 dead letters kept ({place})\n")
    found = await status_of(state, "Sick")
    assert (found.lanes, found.dead_letters) == (0, 2), "status shows what is left of it"
    done = await run_command(server, namespace, "steps", "forget", "Sick", "--with-dead-letters")
    assert done.stdout == f"forgot step Sick: 0 consumer groups removed, 2 dead letters dropped ({place})\n"
    assert [step.name for step in (await read_status(state)).steps] == ["Record"]
    assert await letters.count() == 0
    assert not raw.keys(f"{{{namespace}:*Sick*")
    assert not [field for key in raw.keys(f"{{{namespace}:*:leases") for field in raw.hkeys(key) if b"Sick" in field]
    error = error_line(await run_command(server, namespace, "steps", "forget", "Sick"))
    assert error == (f"there is no step 'Sick' in namespace '{namespace}': check the name with `motia-redis status` ({place})")


async def test_lanes_that_no_version_wants_are_shown_and_can_be_forgotten_alone(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str
) -> None:
    keyspace = await state.connect()
    before, after = Recorder(), Recorder()
    async with working(state, record(before, state_trigger(scope="orders"))):
        await state.set("orders", "ann", 1)
        await before.wait(1)
    async with working(state, record(after, state_trigger(scope="users"))):
        await asyncio.gather(*(state.set("orders", f"key{number}", 1) for number in range(300)))
        await state.set("users", "ann", 1)
        await after.wait(1)
        found = await status_of(state, "Record")
        assert (found.lag, found.lanes, found.lanes_unwanted) == (0, 8, 8)
        done = await run_command(server, namespace, "status")
        line = (
            r"Record: no version wants 8 lanes any more \(changes of partition \d+\): motia-redis steps forget 'Record' --lanes"
        )
        assert re.search(line, done.stdout)
        done = await run_command(server, namespace, "steps", "forget", "Record", "--lanes")
        assert done.stdout.startswith("forgot unwanted lanes of step Record: 8 consumer groups removed (namespace ")
        found = await status_of(state, "Record")
        assert (found.lanes, found.lanes_unwanted) == (8, 0)
        await state.set("users", "ann", 2)
        await after.wait(2)
        error = error_line(await run_command(server, namespace, "steps", "forget", "Record", "--lanes"))
        assert "still runs in process" in error
        async with working(state, record(after, state_trigger(scope="users"), queue("mail"))):

            async def both_run() -> bool:
                return len((await status_of(state, "Record")).versions) == 2

            await until(both_run, "both versions are alive")
            done = await run_command(server, namespace, "status")
        for wants in ("scope users", "scope users, topic mail"):
            assert f"\n  Record: 1 worker of a version for {wants}\n" in done.stdout
    assert not any(raw.xinfo_groups(stream) for stream in keyspace.event_streams("orders"))


async def test_step_keeps_position_attempts_and_dead_letters_under_a_new_name(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    failing, letters = FailingHandler(), DeadLetters(state)
    old = step({"name": "Old", "triggers": [state_trigger(scope="users")], "max_attempts": 1}).handle(failing)
    async with working(state, old):
        await state.set("users", "ann", 1)
        await wait_for_dead_letters(letters, 1)
        error = error_line(await run_command(server, namespace, "steps", "rename", "Old", "New"))
        assert "a worker runs step 'Old'" in error
    await state.set("users", "bob", 2)
    done = await run_command(server, namespace, "steps", "rename", "Old", "New")
    assert done.stdout == f"renamed step Old to New: 8 consumer groups, 1 dead letter (namespace {namespace!r} of {server.url})\n"
    recorder = Recorder()
    new = step({"name": "New", "triggers": [state_trigger(scope="users")]}).handle(recorder)
    async with working(state, new):
        await recorder.wait(1)
        (letter,) = await letters.list("New")
        await letters.retry("New", letter.id)
        await recorder.wait(2)
    assert [change.item_id for change in recorder.inputs] == ["bob", "ann"]
    assert [found.name for found in (await read_status(state)).steps] == ["New"]
    error = error_line(await run_command(server, namespace, "steps", "rename", "Old", "Other"))
    assert "there is no step 'Old'" in error


async def test_steps_create_makes_groups_before_any_worker_runs(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "from motia_redis import state, step\n\n\n"
        "@step({'name': 'Step', 'triggers': [state(scope='users')]})\n"
        "async def handle(input):\n    print('got', input.item_id, flush=True)\n"
    )
    app = str(tmp_path / "app.py")
    done = await run_command(server, namespace, "steps", "create", app)
    assert done.stdout == f"steps: Step; 8 consumer groups created (namespace {namespace!r} of {server.url})\n"
    done = await run_command(server, namespace, "steps", "create", app)
    assert done.stdout.startswith("steps: Step; 0 consumer groups created (namespace ")
    await state.set("users", "ann", 1)
    assert (await status_of(state, "Step")).lag == 1, "the change waits for the first worker"


async def test_worker_continues_after_its_step_was_forgotten_by_force(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="users"))):
        await state.set("users", "ann", 1)
        await recorder.wait(1)
        await forget_step(state, "Record", force=True)
        await state.set("users", "ann", 2)

        async def handled() -> bool:
            return 2 in [i.new_value for i in recorder.inputs]

        await until(handled, "the event after")


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (["status"], "motia-redis status"),
        (["doctor"], "motia-redis doctor"),
        (["dead"], "motia-redis dead list"),
        (["dead", "list"], "motia-redis dead list --step"),
        (["dead", "show"], "motia-redis dead show --step"),
        (["dead", "retry"], "motia-redis dead retry --step"),
        (["dead", "drop"], "motia-redis dead drop --step"),
        (["scheduled"], "motia-redis scheduled list"),
        (["scheduled", "list"], "motia-redis scheduled list --topic"),
        (["scheduled", "cancel"], "motia-redis scheduled cancel 3-"),
        (["steps"], "motia-redis steps create app.py"),
        (["steps", "create"], "motia-redis steps create app.py"),
        (["steps", "rename"], "motia-redis steps rename SendMail Mail"),
        (["steps", "forget"], "motia-redis steps forget OldStep"),
    ],
)
def test_command_has_help_with_an_example(arguments: list[str], example: str) -> None:
    command = [sys.executable, "-m", "motia_redis", *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert f"Example:\n    {example}" in done.stdout
    if arguments not in (["dead"], ["scheduled"], ["steps"]):
        assert "--redis" in done.stdout
        assert "--namespace" in done.stdout

"""`motia-redis steps pause` and `steps resume`, and where a pause is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from motia_redis import StateManager, Worker, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis.admin import pause_step
from tests.support.commands import error_line, run_command

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


async def prepare(state: StateManager, *names: str) -> None:
    async def handler(_: object) -> None: ...

    steps = tuple(step({"name": name, "triggers": [state_trigger()]}).handle(handler) for name in names)
    await Worker(Application(steps), state).prepare()


async def test_commands_pause_and_resume_a_step(state: StateManager, server: RedisServer, namespace: str) -> None:
    await prepare(state, "Mail", "Other")
    done = await run_command(server, namespace, "steps", "pause", "Mail")
    assert (done.returncode, done.stdout) == (0, f"paused step Mail (namespace {namespace!r} of {server.url})\n")
    again = await run_command(server, namespace, "steps", "pause", "Mail")
    assert again.returncode == 0
    assert again.stdout.startswith("step Mail was paused already, since 20")
    shown = await run_command(server, namespace, "status")
    assert "Mail: paused for 0:00:0" in shown.stdout
    assert "nothing is handled: motia-redis steps resume 'Mail'" in shown.stdout
    assert "Other: paused" not in shown.stdout
    steps = json.loads((await run_command(server, namespace, "status", "--json")).stdout)["steps"]
    paused = {found["name"]: found["paused_for"] for found in steps}
    assert 0 <= paused["Mail"] < 60
    assert paused["Other"] is None
    done = await run_command(server, namespace, "steps", "resume", "Mail")
    assert done.stdout.startswith("resumed step Mail, which was paused since 20")
    assert (await run_command(server, namespace, "steps", "resume", "Mail")).stdout.startswith("step Mail was not paused (")
    assert "paused" not in (await run_command(server, namespace, "status")).stdout


async def test_unknown_step_is_one_line_that_names_the_others(state: StateManager, server: RedisServer, namespace: str) -> None:
    await prepare(state, "Mail")
    for command in ("pause", "resume"):
        done = await run_command(server, namespace, "steps", command, "Mial")
        assert error_line(done).startswith(f"there is no step 'Mial' in namespace {namespace!r}; steps: 'Mail'")


async def test_pause_survives_a_restart_of_redis(tmp_path: object) -> None:
    """The embedded server has an append-only file."""
    url = f"embedded://{tmp_path}/data"
    async with StateManager(url, namespace="shop") as state:
        await prepare(state, "Mail")
        await pause_step(state, "Mail")
    async with StateManager(url, namespace="shop") as state:
        again = await pause_step(state, "Mail")
        assert again.changed is False

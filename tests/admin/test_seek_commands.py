"""`motia-redis steps seek`: it counts, asks, and moves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis import state as state_trigger
from tests.support.commands import error_line, run_command
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


async def handle(state: StateManager, raw: redis.Redis, recorder: Recorder, count: int) -> None:
    """Handle what there is, until so much was handled in all."""
    async with working(state, record(recorder, state_trigger(scope="users"))):
        await recorder.wait(count)

        async def is_recorded() -> bool:
            return await pending(raw, state.namespace) == 0

        await until(is_recorded, "it is recorded")


@pytest.fixture
async def handled(state: StateManager, raw: redis.Redis) -> Recorder:
    """Provide a step that has handled three changes."""
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="users"))):
        for number in (1, 2, 3):
            await state.set("users", "ann", number)
            await asyncio.sleep(0.003)
    await handle(state, raw, recorder, 3)
    return recorder


async def test_seek_counts_asks_and_moves(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, handled: Recorder
) -> None:
    async def run(*options: str, input: str = "") -> Any:
        return await run_command(server, namespace, "steps", "seek", "Record", *options, input=input)

    revision = handled.inputs[1].revision
    done = await run("--to", revision, "--dry-run")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("step Record, from 20")
    assert done.stdout.splitlines()[1:] == ["  2 entries will be handled again, in 1 lane"]
    assert await pending(raw, namespace) == 0
    refused = await run("--to", revision, input="n\n")
    assert refused.returncode == 2
    assert "nothing was moved" in refused.stderr
    assert await pending(raw, namespace) == 0
    done = await run("--to", revision, input="y\n")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "moved step Record")
    assert await pending(raw, namespace) == 2
    await handle(state, raw, handled, 5)
    assert [change.new_value for change in handled.inputs] == [1, 2, 3, 2, 3]


async def test_times_in_every_form(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, handled: Recorder
) -> None:
    ago = datetime.now(UTC) - timedelta(hours=1)
    for form in ("1h ago", ago.isoformat(), str(ago.timestamp())):
        done = await run_command(server, namespace, "steps", "seek", "Record", "--to", form, "--dry-run")
        assert "  3 entries will be handled again, in 1 lane" in done.stdout.splitlines(), (form, done)
    await state.set("users", "ann", 4)
    await asyncio.sleep(0.003)
    done = await run_command(server, namespace, "steps", "seek", "Record", "--to", "0s ago", "--skip", "--yes")
    assert "  1 unhandled entry will be skipped" in done.stdout.splitlines()
    assert await pending(raw, namespace) == 0
    done = await run_command(server, namespace, "steps", "seek", "Record", "--to", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is neither a time with its time zone nor a revision; write" in done.stderr
    done = await run_command(server, namespace, "steps", "seek", "Recrod", "--to", "1h ago", "--yes")
    assert "there is no step 'Recrod'" in error_line(done)
    assert "steps: 'Record'" in error_line(done)

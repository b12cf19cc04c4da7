"""The worker and the web server as processes of the command: signals, traces, and a Redis that cannot be reached."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.applications import Command
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis import StateManager
    from tests.support.servers import RedisServer


SLOW_STEP = """
import asyncio
from motia_redis import state, step

@step({"name": "Slow", "triggers": [state(scope="users")]})
async def slow(input, ctx):
    await ctx.state.set("log", "started", input.new_value)
    await asyncio.sleep(0.5)
    await ctx.state.set("log", "finished", input.new_value)
"""


async def test_sigterm_waits_for_running_handlers_and_exits_0(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    with Command(tmp_path, "worker", ".", "--redis", server.url, "--namespace", namespace) as worker:
        await state.set("users", "ann", 7)

        async def started() -> bool:
            return await state.get("log", "started") == 7

        await until(started, "the handler starts")
        assert worker.stop() == 0
        assert await state.get("log", "finished") == 7


HTTP_STEP = """
from motia_redis import http, state, step

@step({"name": "Create", "triggers": [http("POST", "/items/:id")]})
async def create(request, ctx):
    await ctx.state.set("items", request.path_params["id"], {"trace": ctx.trace_id})
    return {"status": 201, "body": {"trace": ctx.trace_id}}

@step({"name": "React", "triggers": [state(scope="items")]})
async def react(input, ctx):
    await ctx.state.set("reactions", input.item_id, ctx.trace_id)
"""


async def test_run_serves_and_works_with_one_trace_id(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    import httpx

    (tmp_path / "app.py").write_text(HTTP_STEP)
    command = ["run", "app.py", "--port", "0", "--redis", server.url, "--namespace", namespace]
    with Command(tmp_path, *command, ready="serving") as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
            response = await client.post("/items/one")
        assert response.status_code == 201
        trace_id = response.json()["trace"]
        assert response.headers["x-trace-id"] == trace_id

        async def reacted() -> bool:
            return await state.get("reactions", "one") == trace_id

        await until(reacted, "the trigger fires with the request's trace id")
        assert process.stop() == 0


@pytest.mark.parametrize("command", [["run", "--port", "0"], ["serve", "--port", "0"], ["worker"]], ids=" ".join)
def test_unreachable_redis_prints_one_line_and_exits_2(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HTTP_STEP)
    arguments = [sys.executable, "-m", "motia_redis", *command, "app.py", "--redis", "redis://127.0.0.1:1/0", "--wait", "0"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("motia-redis: error: ")
    assert "cannot reach Redis at redis://127.0.0.1:1/0" in line

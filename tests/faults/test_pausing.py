"""Pausing a step while worker processes handle a load, are killed, stand still, and Redis is started again."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
import redis

from motia_redis import StateManager
from motia_redis.admin import pause_step, read_status, resume_step
from tests.faults.worker_processes import Load, WorkerProcesses
from tests.support.servers import RedisServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

QUIET = 1.5  # seconds: three heartbeats of all workers


async def test_paused_step_stays_quiet_through_kills_and_loses_nothing(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=50)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(3)
        await workers.ready(3)
        stop = asyncio.Event()
        sending = asyncio.create_task(load.send_until(stop, per_second=200))
        await load.recorded(100)
        await pause_step(state, "Record")
        await asyncio.sleep(QUIET)
        workers.processes[1].send_signal(signal.SIGSTOP)
        before = len(load.lines("record"))
        applied = len(load.lines("applied"))
        workers.replace(0)
        workers.start()
        await workers.ready(5)

        async def others_took_the_lanes() -> bool:
            (found,) = [step for step in (await read_status(state)).steps if step.name == "Record"]
            return found.lanes_held == found.lanes

        await until(others_took_the_lanes, "the lanes of the killed worker and of the one that stands still are taken")
        workers.processes[0].send_signal(signal.SIGCONT)  # a worker that lived on moved to the front when the first was replaced
        await asyncio.sleep(QUIET)
        assert len(load.lines("record")) == before, "nothing of the step is handled"
        assert len(load.lines("applied")) > applied, "another step goes on"
        stop.set()
        await sending
        await resume_step(state, "Record")
        await load.handled(deadline=60)
    load.check_order()


async def test_step_stays_paused_when_redis_is_killed_and_started_again(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, namespace=namespace) as state:
            with redis.Redis.from_url(server.url) as raw, WorkerProcesses(tmp_path, server.url, namespace) as workers:
                load = Load(state, raw, namespace, keys=20)
                workers.start(2)
                await workers.ready(2)
                await pause_step(state, "Record")
                await asyncio.sleep(QUIET)
                server.kill()
                server.start()
                await load.send(200, per_second=1e9)
                await load.handled("applied", deadline=30)
                assert not load.lines("record")
                await resume_step(state, "Record")
                await load.handled(deadline=30)

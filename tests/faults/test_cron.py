"""Cron triggers under faults: each time fires once, and is handled, while workers and Redis are killed."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from motia_redis import Retention, StateManager, cron, step
from motia_redis._admin.registry import forget_step, rename_step
from motia_redis.errors import StateError
from tests.faults.worker_processes import FULL, WorkerProcesses
from tests.support.clocks import set_namespace_time
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer
from tests.support.waiting import until
from tests.support.workers import Recorder, working

pytestmark = pytest.mark.alone

APPLICATION = Path(__file__).parent / "cron_step.py"
KEPT = Retention(seconds=3600)  # the stream still has all times at the end
START = datetime(2027, 5, 3, 2, 0, 30, tzinfo=UTC)


class Ticks:
    """The times of the step `Tick`: one for each minute."""

    def __init__(self, state: StateManager, raw: Any) -> None:
        self.state = state
        self.minutes = 0  # that have passed
        self._raw = raw

    def fired(self) -> list[int]:
        """Return the minutes since the start that have fired, in order."""
        (stream,) = self._raw.scan_iter(f"{{{self.state.namespace}:*}}:cron:Tick")
        times = [int(fields[b"due"]) // 1000 for _, fields in self._raw.xrange(stream)]
        return [(time - int(START.timestamp()) + 30) // 60 for time in times]

    def handled(self) -> list[int]:
        """Return the minutes that were handled, as often as they were."""
        found = self._raw.lrange(f"log:{self.state.namespace}:cron", 0, -1)
        return [(int(line.split()[0]) - int(START.timestamp()) + 30) // 60 for line in found]

    async def set_time(self) -> None:
        """Let the clock of the namespace go on from the minutes that have passed."""
        while True:
            try:
                return await set_namespace_time(self.state, START + timedelta(minutes=self.minutes))
            except (StateError, redis.exceptions.RedisError, OSError):
                await asyncio.sleep(0.05)

    async def pass_minute(self, *, deadline: float = 30) -> None:
        """Let a minute pass, and wait until its time has fired: no time is missed."""
        self.minutes += 1
        await self.set_time()

        async def has_fired() -> bool:
            try:
                return self.minutes in self.fired()
            except (redis.exceptions.RedisError, ValueError):
                return False

        await until(has_fired, f"minute {self.minutes} has fired", deadline=deadline)

    async def check(self, *, deadline: float = 60) -> int:
        """Wait until all times are handled; check that each fired once. Return how often one was handled again."""
        expected = list(range(1, self.minutes + 1))

        async def all_handled() -> bool:
            return set(self.handled()) >= set(expected)

        await until(all_handled, f"{self.minutes} times are handled", deadline=deadline)
        assert self.fired() == expected
        return len(self.handled()) - len(expected)


async def test_each_time_fires_once_in_several_processes(
    raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
        ticks = Ticks(state, raw)
        await ticks.set_time()
        with WorkerProcesses(tmp_path, server.url, namespace, application=APPLICATION) as workers:
            workers.start(3)
            await workers.ready(3)
            for _ in range(300 if FULL else 30):
                await ticks.pass_minute()
            assert await ticks.check() == 0, "nobody died, so no time was handled twice"


async def test_killed_workers_lose_no_time_and_fire_none_twice(
    raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    kills = 30 if FULL else 6
    async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
        ticks = Ticks(state, raw)
        await ticks.set_time()
        with WorkerProcesses(tmp_path, server.url, namespace, application=APPLICATION) as workers:
            workers.start(3)
            await workers.ready(3)
            for kill in range(kills):
                passing = asyncio.create_task(ticks.pass_minute())
                await asyncio.sleep(random.uniform(0, 0.3))  # a kill before, while or after it fires
                workers.replace(random.randrange(3))
                await passing
                for _ in range(5):
                    await ticks.pass_minute()
                await workers.ready(4 + kill)
            again = await ticks.check()
    print(f"{ticks.minutes} times, {kills} kills: {again} were handled again")
    assert again <= kills


async def test_killed_redis_loses_no_time_and_fires_none_twice(namespace: str, tmp_path: Path) -> None:
    kills = 10 if FULL else 2
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
            ticks = Ticks(state, redis.Redis.from_url(server.url))
            await ticks.set_time()
            with WorkerProcesses(tmp_path, server.url, namespace, application=APPLICATION) as workers:
                workers.start(2)
                await workers.ready(2)
                for _ in range(kills):
                    for _ in range(3):
                        await ticks.pass_minute()
                    server.kill()
                    await asyncio.sleep(random.uniform(0.1, 0.5))
                    await asyncio.to_thread(server.start)
                for _ in range(3):
                    await ticks.pass_minute()
                await ticks.check()


async def test_cluster_fires_each_time_once_and_its_step_can_be_renamed_and_forgotten(namespace: str, tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with StateManager(cluster.url, namespace=namespace, retention=KEPT) as state:
            keyspace = await state.connect()
            stream = keyspace.cron("Tick")
            ticks = Ticks(state, cluster.processes[cluster.owner(redis.crc.key_slot(stream))].client)
            await ticks.set_time()
            recorder = Recorder()
            async with working(state, step({"name": "Tick", "triggers": [cron("* * * * *")]}).handle(recorder), workers=2):
                for _ in range(3):
                    await ticks.pass_minute()
                await recorder.wait(3)
            assert ticks.fired() == [1, 2, 3]
            await rename_step(state, "Tick", "Tock")
            assert (await forget_step(state, "Tock")).groups == 1

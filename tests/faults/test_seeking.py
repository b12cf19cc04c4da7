"""Seeking while workers handle a load, are killed and join: every key is handled in order, and everything once more."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from motia_redis.admin import seek_step
from tests.faults.worker_processes import FULL, Load, WorkerProcesses
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer

pytestmark = pytest.mark.alone


def trailing_runs(load: Load) -> dict[str, list[int]]:
    """Return for each key the numbers from its last 1 on, without those that came twice in a row."""
    found: dict[str, list[int]] = defaultdict(list)
    for key, number, *_ in load.lines("record"):
        if number == "1":
            found[key] = []
        if not found[key] or found[key][-1] != int(number):
            found[key].append(int(number))
    return found


async def test_seeks_under_load_lose_no_event_and_keep_the_order_of_each_key(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    events, keys, seeks = (3000, 100, 8) if FULL else (800, 60, 3)
    load = Load(state, raw, namespace, keys=keys)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(3)
        await workers.ready(3)
        sending = asyncio.create_task(load.send(events, per_second=events / 4))
        for number in range(seeks):
            await load.recorded(events // (2 * seeks))
            await seek_step(state, "Record", 0.0)
            if number % 2 == 0:
                await asyncio.sleep(random.random() * 0.2)  # before or after the workers have learned it
                workers.replace(random.randrange(3))
        await sending
        await load.handled(deadline=60)
        before = len(load.lines("record"))
        sought = await seek_step(state, "Record", 0.0)
        wanted = {key: list(range(1, last + 1)) for key, last in load.sent.items()}
        await until_holds(
            lambda: len(load.lines("record")) >= before + sought.again and trailing_runs(load) == wanted,
            "everything is handled once more, in order",
            deadline=60,
        )
    duplicates = load.check_order()
    print(f"{sum(load.sent.values())} events, {seeks + 1} seeks, {duplicates} handled again, the last seek said {sought.again}")

"""Values that expire under faults: each ends with one event, that is handled, while workers and Redis are killed."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import Retention, StateManager
from motia_redis._steps.events import decode_change
from motia_redis.errors import StateError
from tests.faults.worker_processes import FULL, WorkerProcesses
from tests.support.servers import RedisServer
from tests.support.waiting import until, until_holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

KEPT = Retention(seconds=3600)  # the streams still have all events at the end
SCOPE = "expiring"


class Values:
    """Values with a time to live, each of its own key, and what became of them."""

    def __init__(self, raw: redis.Redis, namespace: str) -> None:
        self.acknowledged: set[str] = set()
        self.failed = 0
        self._raw = raw
        self._namespace = namespace

    async def set(self, state: StateManager, count: int, *, over: float, ahead: float, stop: asyncio.Event | None = None) -> None:
        """Set values over some seconds, and go on until `stop`; each expires up to `ahead` seconds later.

        Change every third one before, or after.
        """
        began = time.monotonic()
        for number in itertools.count():
            if number >= count and (stop is None or stop.is_set()):
                break
            key = f"key{number}"
            try:
                await state.set(SCOPE, key, {"n": 0}, ttl=random.uniform(0.01, ahead))
                self.acknowledged.add(key)
                if number % 3 == 0:
                    other = f"key{number // 2}"
                    await state.update(SCOPE, other, [{"op": "increment", "path": "/n", "value": 1}], ttl=ahead)
                    self.acknowledged.add(other)
            except StateError:
                self.failed += 1
                continue
            await asyncio.sleep(max(0.0, began + over * number / count - time.monotonic()))

    async def acknowledge(self, more: int) -> None:
        """Wait until so many values more are acknowledged."""
        enough = len(self.acknowledged) + more
        await until_holds(lambda: len(self.acknowledged) >= enough, f"{more} more values", deadline=60)

    async def check(self, state: StateManager, *, deadline: float = 60) -> int:
        """Wait until all values have expired and that is handled; check the events. Return how many expiries there were."""
        events: dict[str, list[Any]] = {}

        async def all_gone() -> bool:
            try:
                return await state.count(SCOPE) == 0
            except StateError:
                return False

        await until(all_gone, "all values have expired", deadline=deadline)
        for stream in self._raw.scan_iter(f"{{{self._namespace}:*}}:events:*"):
            entries: Any = self._raw.xrange(stream)
            for entry, fields in entries:
                change = decode_change(entry.decode(), fields)
                events.setdefault(change.item_id, []).append(change)
        assert events.keys() >= self.acknowledged
        ended: Counter[tuple[str, int]] = Counter()
        for key, changes in events.items():
            last = None
            for change in changes:
                assert change.old_value == last, f"{key}: {change} does not start from {last}"
                last = change.new_value
                if last is None:
                    assert change.reason == "expired"
                    ended[key, change.old_value["n"]] += 1
            assert last is None, f"{key} ends with {last}"

        async def handled() -> bool:
            lines: Any = self._raw.lrange(f"log:{self._namespace}:expired", 0, -1)
            seen = Counter((key.decode(), int(n)) for key, n in map(bytes.split, lines))
            return all(seen[value] >= count for value, count in ended.items())

        await until(handled, "all expiries are handled", deadline=deadline)
        return ended.total()


async def test_killed_workers_lose_no_expiry_and_write_none_twice(
    raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    count, kills = (15_000, 8) if FULL else (800, 2)
    values, stop = Values(raw, namespace), asyncio.Event()
    async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
        with WorkerProcesses(tmp_path, server.url, namespace) as workers:
            workers.start(3)
            await workers.ready(3)
            setting = asyncio.create_task(values.set(state, count, over=kills * 1.5, ahead=1.5, stop=stop))
            for kill in range(kills):
                await values.acknowledge(count * 3 // (4 * kills))
                await workers.ready(3 + kill)
                workers.replace(random.randrange(3))
            stop.set()
            await setting
            print(f"{await values.check(state)} expiries, {kills} workers killed")
    assert not values.failed


async def test_killed_redis_loses_no_expiry_and_writes_none_twice(namespace: str, tmp_path: Path) -> None:
    count, kills = (8_000, 6) if FULL else (500, 1)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        values, stop = Values(redis.Redis.from_url(server.url), namespace), asyncio.Event()
        async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
            with WorkerProcesses(tmp_path, server.url, namespace) as workers:
                workers.start(2)
                await workers.ready(2)
                setting = asyncio.create_task(values.set(state, count, over=kills * 3, ahead=1.5, stop=stop))
                for _ in range(kills):
                    await values.acknowledge(count // (2 * kills))
                    server.kill()
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(server.start)
                stop.set()
                await setting
                print(f"{await values.check(state)} expiries, {kills} restarts of Redis")


async def test_values_that_expire_while_everything_is_down_end_once_on_return(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        raw = redis.Redis.from_url(server.url)
        values = Values(raw, namespace)
        async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
            with WorkerProcesses(tmp_path, server.url, namespace) as workers:
                workers.start()
                await workers.ready(1)  # from now on the step gets all events
            await values.set(state, 300, over=0.1, ahead=0.5)
            server.kill()
            await asyncio.sleep(0.6)
            server.start()
            with WorkerProcesses(tmp_path, server.url, namespace) as workers:
                workers.start(3)

                async def all_gone() -> bool:
                    return not any(raw.zcard(key) for key in raw.scan_iter(f"{{{namespace}:*}}:due"))

                await until(all_gone, "the workers have found what was due")
                await values.check(state)

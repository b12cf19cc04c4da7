"""Delayed messages under faults: each is sent once, at its time, while workers and Redis are killed."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import Retention, StateManager
from motia_redis.errors import StateError
from tests.faults.worker_processes import FULL, WorkerProcesses
from tests.support.servers import RedisServer
from tests.support.waiting import until, until_holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

KEPT = Retention(seconds=3600)  # the streams still have all messages at the end


class Messages:
    """Delayed messages of one topic, and what became of them."""

    def __init__(self, raw: redis.Redis, namespace: str) -> None:
        self.acknowledged: set[str] = set()
        self.failed = 0
        self._raw = raw
        self._namespace = namespace

    async def send(
        self, state: StateManager, count: int, *, over: float, ahead: float, stop: asyncio.Event | None = None
    ) -> None:
        """Send messages over some seconds, and go on until `stop`. Each is due up to `ahead` seconds later.

        A call that fails is left as it is.
        """
        began = time.monotonic()
        for number in itertools.count():
            if number >= count and (stop is None or stop.is_set()):
                break
            try:
                self.acknowledged.add(await state.enqueue("due", number, delay=random.uniform(0.01, ahead)))
            except StateError:
                self.failed += 1
                continue
            await asyncio.sleep(max(0.0, began + over * number / count - time.monotonic()))

    async def acknowledge(self, more: int) -> None:
        """Wait until so many messages more are acknowledged."""
        enough = len(self.acknowledged) + more
        await until_holds(lambda: len(self.acknowledged) >= enough, f"{more} more messages", deadline=60)

    def entries(self) -> list[tuple[str, int]]:
        """Return id and lateness (milliseconds) of each message in the streams."""
        streams: Any = self._raw.scan_iter(f"{{{self._namespace}:*}}:topic:*")
        return [
            (fields[b"request"].decode(), int(entry.split(b"-")[0]) - int(fields[b"due"]))
            for stream in streams
            for entry, fields in self._raw.xrange(stream)
        ]

    async def check(self, *, deadline: float = 60) -> list[int]:
        """Wait until all acknowledged messages are handled; check that each was sent once. Return how late they were, sorted."""

        async def handled() -> bool:
            try:
                lines: Any = self._raw.lrange(f"log:{self._namespace}:due", 0, -1)
            except redis.exceptions.ConnectionError:
                return False
            return self.acknowledged <= {line.split()[0].decode() for line in lines}

        await until(handled, f"{len(self.acknowledged)} messages are handled", deadline=deadline)
        entries = self.entries()
        ids = [message for message, _ in entries]
        assert len(ids) == len(set(ids)), "a message was sent twice"
        assert set(ids) >= self.acknowledged
        late = sorted(late for _, late in entries)
        assert late[0] >= 0, "a message was sent before its time"
        return late


async def test_killed_workers_delay_no_message_for_long(
    raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    count, kills = (20_000, 12) if FULL else (1_500, 3)
    messages, stop = Messages(raw, namespace), asyncio.Event()
    async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
        with WorkerProcesses(tmp_path, server.url, namespace) as workers:
            workers.start(3)
            await workers.ready(3)
            sending = asyncio.create_task(messages.send(state, count, over=kills * 1.5, ahead=2.0, stop=stop))
            for kill in range(kills):
                await messages.acknowledge(count * 3 // (4 * kills))
                await workers.ready(3 + kill)
                workers.replace(random.randrange(3))
            stop.set()
            await sending
            late = await messages.check()
    p99 = late[len(late) * 99 // 100]
    print(f"{len(late)} messages, {kills} kills: late p50 {late[len(late) // 2]} ms, p99 {p99} ms, most {late[-1]} ms")
    assert not messages.failed
    assert p99 <= 1000 + 2000 * (not FULL), "a killed worker is the first of a third of the partitions for a lease"


async def test_killed_redis_loses_no_message_and_sends_none_twice(namespace: str, tmp_path: Path) -> None:
    count, kills = (10_000, 6) if FULL else (800, 1)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        messages, stop = Messages(redis.Redis.from_url(server.url), namespace), asyncio.Event()
        async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
            with WorkerProcesses(tmp_path, server.url, namespace) as workers:
                workers.start(2)
                await workers.ready(2)
                sending = asyncio.create_task(messages.send(state, count, over=kills * 3, ahead=2.0, stop=stop))
                for _ in range(kills):
                    await messages.acknowledge(count // (2 * kills))
                    server.kill()
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(server.start)
                stop.set()
                await sending
                late = await messages.check()
    print(f"{len(late)} messages, {kills} restarts of Redis: late p50 {late[len(late) // 2]} ms, most {late[-1]} ms")


async def test_what_fell_due_while_everything_was_down_is_sent_once_on_return(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        messages = Messages(redis.Redis.from_url(server.url), namespace)
        async with StateManager(server.url, namespace=namespace, retention=KEPT) as state:
            await messages.send(state, 500, over=0.1, ahead=0.5)
        server.kill()
        await asyncio.sleep(0.6)
        server.start()
        with WorkerProcesses(tmp_path, server.url, namespace) as workers:
            workers.start(3)
            await messages.check()

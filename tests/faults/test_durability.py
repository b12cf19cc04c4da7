"""Acknowledged changes survive kills of redis-server under load, each with its event (G3)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._steps.events import decode_change
from motia_redis._store.limits import Retention
from motia_redis.errors import NotDurable, StateError
from tests.faults.worker_processes import FULL
from tests.support.servers import RedisServer, packaged
from tests.support.waiting import until_holds

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]
KEYS = 8
ALL = Retention(entries=1_000_000)


async def test_killed_redis_keeps_every_acknowledged_change_with_its_event(tmp_path: Path) -> None:
    kills = 10 if FULL else 2
    done: Counter[str] = Counter()
    stop = asyncio.Event()
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, retention=ALL) as state:

            async def count(key: str) -> None:
                while not stop.is_set():
                    value = await state.update("load", key, INCREMENT)
                    done[key] += 1
                    assert value == {"n": done[key]}, "an increment was lost or applied twice"

            async def make(more: int) -> None:
                enough = done.total() + more
                await until_holds(lambda: done.total() >= enough, f"{more} more changes", deadline=60)

            tasks = [asyncio.create_task(count(f"key{number}")) for number in range(KEYS)]
            for _ in range(kills):
                await make(random.randrange(50, 400))
                server.kill()
                await asyncio.to_thread(server.start)
            await make(100)
            stop.set()
            await asyncio.gather(*tasks)
            with redis.Redis.from_url(server.url) as raw:
                events = check_events(raw, "motia")
            for number in range(KEYS):
                assert await state.get("load", f"key{number}") == {"n": done[f"key{number}"]}
    assert events == done.total()
    print(f"{kills} kills of redis-server: {done.total()} changes acknowledged, each stored with its event")


def check_events(raw: redis.Redis, namespace: str) -> int:
    """Assert that each event starts from the value before it and that the last one left the stored value; return their number."""
    found = 0
    last: dict[tuple[str, str], Any] = {}
    streams: Any = raw.scan_iter(f"{{{namespace}:*}}:events:*")
    for stream in streams:
        for entry_id, fields in raw.xrange(stream):
            change = decode_change(entry_id.decode(), fields)
            place = (change.group_id, change.item_id)
            assert change.old_value == last.get(place), f"{place}: an event does not start from the value before it"
            assert (change.event_type == "state:created") == (change.old_value is None)
            last[place] = change.new_value
            tag = stream.partition(b"}:")[0] + b"}:"
            revision = raw.hget(tag + b"revision:" + change.group_id.encode(), change.item_id)
            newer = tuple(map(int, (revision or b"9" * 15 + b"-0").split(b"-")))
            assert tuple(map(int, entry_id.split(b"-"))) <= newer, "the stored revision is older than an event"
            found += 1
    for (scope, key), value in last.items():
        hashes: Any = raw.keys(f"{{{namespace}:*}}:state:{scope}")
        stored = raw.hget(hashes[0], key) if hashes else None
        assert (stored is None) == (value is None), f"{scope} {key}: the stored value does not fit the last event"
    return found


async def test_fsynced_change_survives_a_kill_and_fails_without_append_only_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged("redis-8.2")))
    options = ("--appendonly", "yes", "--appendfsync", "everysec")
    with RedisServer(tmp_path, *options) as server, redis.Redis.from_url(server.url) as raw:
        manager = StateManager(server.url, durability="fsynced", durability_timeout=30.0)
        async with manager as state:
            await state.set("users", "ann", 1)
            server.kill()
            server.start()
            assert await state.get("users", "ann") == 1
            raw.config_set("appendonly", "no")
            with pytest.raises(NotDurable, match="the change stands on the primary, but it cannot be made fsynced"):
                await state.set("users", "ann", 2)
        with pytest.raises(StateError, match="'fsynced' needs appendonly yes"):
            await manager.connect()


async def test_fsynced_is_rejected_on_a_server_older_than_redis_7_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged("redis-6.2")))
    with (
        RedisServer(tmp_path, "--appendonly", "yes") as server,
        pytest.raises(StateError, match=r"'fsynced' needs Redis 7\.2 or newer"),
    ):
        await StateManager(server.url, durability="fsynced").connect()

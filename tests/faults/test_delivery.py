"""Delivery under faults (G5, G6, G7): every event, in order, through kills, pauses, restarts and scaling."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from tests.faults.team import FULL, Load, Team
from tests.support.servers import RedisServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

pytestmark = pytest.mark.alone

LEASE = 3.0  # seconds, the default


async def test_killed_workers_lose_nothing_and_keep_the_order(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    events, keys, kills = (20_000, 500, 12) if FULL else (3_000, 200, 3)
    load = Load(state, raw, namespace, keys=keys)
    with Team(tmp_path, server.url, namespace) as team:
        team.start(4)
        await team.ready(4)
        rate = events / kills
        sending = asyncio.create_task(load.send(events, per_second=rate))
        for _ in range(kills):
            await asyncio.sleep(1)
            team.replace(random.randrange(4))
        killed = time.monotonic()
        await sending
        await load.handled(deadline=60)
        took = time.monotonic() - killed
    duplicates = load.check_order()
    print(f"{events} events, {keys} keys, {kills} kills: done {took:.1f} s after the last, {duplicates} duplicates")
    assert took < 10 + LEASE * (not FULL)
    assert duplicates <= kills * 4 * 512


async def test_a_paused_worker_s_late_acknowledgements_are_refused(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    events, keys, pauses = (20_000, 500, 4) if FULL else (2_000, 100, 1)
    load = Load(state, raw, namespace, keys=keys)
    with Team(tmp_path, server.url, namespace, RECORDER_PAUSE="0.02") as team:
        team.start(3)
        await team.ready(3)
        sending = asyncio.create_task(load.send(events, per_second=events / (pauses * 4 * LEASE)))
        for _ in range(pauses):
            await asyncio.sleep(LEASE / 2)
            paused = random.choice(team.workers)
            paused.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3 * LEASE)
            paused.send_signal(signal.SIGCONT)
        await sending
        await load.handled(deadline=60)
        assert "lost the leases" in team.output, "the paused worker knows"
        # What was applied with the revision as guard is in order, however late the paused process woke up.
        applied: dict[str, list[int]] = {}
        for key, number in load.lines("applied"):
            applied.setdefault(key, []).append(int(number))
        assert all(numbers == sorted(set(numbers)) for numbers in applied.values())
        assert all(applied[key][-1] == last for key, last in load.sent.items())


async def test_a_killed_redis_loses_no_event(namespace: str, tmp_path: Path) -> None:
    import redis

    events, keys, kills = (10_000, 300, 5) if FULL else (1_500, 100, 1)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, namespace=namespace) as state:
            load = Load(state, redis.Redis.from_url(server.url), namespace, keys=keys)
            with Team(tmp_path, server.url, namespace) as team:
                team.start(2)
                await team.ready(2)
                sending = asyncio.create_task(load.send(events, per_second=events / (kills * 3)))
                for _ in range(kills):
                    await asyncio.sleep(1.5)
                    server.kill()
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(server.start)
                await sending
                took = await load.handled(deadline=60)
                assert all(worker.poll() is None for worker in team.workers), "workers go on by themselves"
            print(f"{events} events, {kills} restarts of Redis: done {took:.1f} s after the last was sent")
            load.check_order()


async def test_scaling_loses_no_event_and_stalls_nobody(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    seconds = 6 if FULL else 3
    load = Load(state, raw, namespace, keys=200)
    with Team(tmp_path, server.url, namespace) as team:
        team.start(1)
        await team.ready(1)
        sending = asyncio.create_task(load.send(400 * 3 * seconds, per_second=400))
        await asyncio.sleep(seconds)
        team.start(3)
        await team.ready(4)
        await asyncio.sleep(seconds)
        lanes = lanes_by_worker(raw, namespace, "Record")
        for worker in team.workers[2:]:
            worker.send_signal(signal.SIGTERM)
        await sending
        await load.handled(deadline=30)
        assert [worker.wait(20) for worker in team.workers[2:]] == [0, 0]
    assert load.check_order() == 0, "who leaves hands over: nothing runs twice"
    times = [float(line[5]) for line in load.lines("record")]
    stall = max(after - before for before, after in pairwise(times))
    print(f"longest time without any event handled: {stall:.2f} s; lanes of the scope's 8: {sorted(lanes.values())}")
    assert stall < 2.0
    assert sorted(lanes.values()) == [2, 2, 2, 2], "lanes spread evenly"


def lanes_by_worker(raw: redis.Redis, namespace: str, step: str) -> dict[bytes, int]:
    """Return how many lanes of a step each worker holds."""
    found: dict[bytes, int] = {}
    for key in raw.keys(f"{{{namespace}:*:leases"):
        for field, value in raw.hgetall(key).items():
            if field.startswith(b"lane " + step.encode() + b"\n"):
                found[value] = found.get(value, 0) + 1
    return found


async def test_poison_ends_in_dead_letters_and_harms_nobody_else(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=100)

    def letters(step: str) -> list[Any]:
        return [letter for key in raw.keys(f"{{{namespace}:*:dead:{step}") for letter in raw.xrange(key)]

    with Team(tmp_path, server.url, namespace) as team:
        team.start(2)
        await team.ready(2)
        for key in ("fail", "hang", "exit"):
            await state.set("poison", key, {"n": 1})
        sending = asyncio.create_task(load.send(4000 if FULL else 1500, per_second=300))

        async def all_dead() -> bool:
            for index, worker in enumerate(team.workers):
                if worker.poll() is not None:  # what a supervisor does
                    assert worker.returncode == 9
                    team.workers.pop(index)
                    team.start()
            return all(letters(step) for step in ("Fail", "Hang", "Exit"))

        await until(all_dead, "three dead letters", deadline=60)
        await sending
        await load.handled(deadline=30)
    load.check_order()
    stories = {step: [(m[b"error"], m[b"attempts"]) for _, m in letters(step)] for step in ("Fail", "Hang", "Exit")}
    assert stories == {
        "Fail": [(b"ValueError", b"3")],
        "Hang": [(b"TimeoutError", b"2")],
        "Exit": [(b"WorkerDied", b"2")],
    }
    assert len(load.lines("exit")) == 3, "once unsuspected, then as often as it may be tried"


async def test_cascades_complete_and_keep_the_order(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=100, scope="level0")
    with Team(tmp_path, server.url, namespace) as team:
        team.start(3)
        await team.ready(3)
        await load.send(4000 if FULL else 1000, per_second=500)
        await load.handled("level3", deadline=30)
    load.check_order("level3")


async def test_a_handler_that_blocks_its_thread_loses_no_lease(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    seconds = 10.0 if FULL else LEASE + 1.5
    load = Load(state, raw, namespace, keys=10)
    with Team(tmp_path, server.url, namespace) as team:
        team.start(2)
        await team.ready(2)
        await state.set("block", "one", {"seconds": seconds})
        await load.send(100, per_second=100)

        async def done() -> bool:
            return len(load.lines("block")) >= 1

        await until(done, "the blocking handler ends", deadline=seconds + 20)
        await load.handled(deadline=20)
        assert "lost the leases" not in team.output
    assert len(load.lines("block")) == 1, "no duplicate"


async def test_a_killed_worker_s_lanes_are_taken_over_within_five_seconds(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=50)
    with Team(tmp_path, server.url, namespace) as team:
        team.start(2)
        await team.ready(2)
        await load.send(100, per_second=200)
        await load.handled(deadline=20)
        team.workers[0].kill()
        await load.send(100, per_second=1000)
        took = await load.handled(deadline=20)
    print(f"taken over after {took:.1f} s")
    assert took < 5.0

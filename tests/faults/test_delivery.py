"""Delivery under faults (G5, G6, G7): each step handles every event, in order, despite kills, pauses, restarts and scaling."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from tests.faults.worker_processes import FULL, Load, WorkerProcesses
from tests.support.servers import RedisServer
from tests.support.waiting import until, until_holds

if TYPE_CHECKING:
    from pathlib import Path

    import redis

pytestmark = pytest.mark.alone

LEASE = 3.0  # seconds; the default


async def test_killed_workers_lose_no_event_and_keep_the_order_of_each_key(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    events, keys, kills = (20_000, 500, 12) if FULL else (3_000, 200, 3)
    load = Load(state, raw, namespace, keys=keys)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        began = time.monotonic()
        workers.start(4)
        await workers.ready(4)
        starting, pace = time.monotonic() - began, await load.pace()
        rate = events / kills
        sending = asyncio.create_task(load.send(events, per_second=rate))
        for _ in range(kills):
            await load.recorded(events * 3 // (4 * kills))
            workers.replace(random.randrange(4))
        killed, handled = time.monotonic(), {(line[0], line[1]) for line in load.lines("record")}
        await sending
        await load.handled(deadline=60)
        took = time.monotonic() - killed
    duplicates = load.check_order()
    # The lanes are taken over within two leases. The rest depends on the machine: on what it does without kills.
    limit = 2 * LEASE + starting + 4 * (sum(load.sent.values()) - len(handled)) * pace
    print(
        f"{events} events, {keys} keys, {kills} kills: done {took:.1f} s after the last kill (limit {limit:.1f} s), "
        f"{duplicates} duplicates"
    )
    assert took < limit
    assert duplicates <= kills * 4 * 512


async def test_late_acknowledgements_of_a_paused_worker_are_rejected(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    rate, keys, pauses = (670, 500, 4) if FULL else (270, 100, 1)
    load = Load(state, raw, namespace, keys=keys)
    with WorkerProcesses(tmp_path, server.url, namespace, RECORDER_PAUSE="0.02") as workers:
        workers.start(3)
        await workers.ready(3)
        stop = asyncio.Event()
        sending = asyncio.create_task(load.send_until(stop, per_second=rate))

        def are_shared(count: int) -> bool:
            holders = [lanes_by_worker(raw, namespace, step).keys() for step in ("Record", "Apply")]
            return all(len(found) == count and b"" not in found for found in holders)

        for _ in range(pauses):
            await until_holds(lambda: are_shared(3), "the three workers share the lanes", deadline=60)
            await load.recorded(100)
            paused = random.choice(workers.processes)
            paused.send_signal(signal.SIGSTOP)
            await until_holds(lambda: are_shared(2), "the others have taken the lanes of the paused worker", deadline=60)
            paused.send_signal(signal.SIGCONT)
            await load.recorded(100)
        stop.set()
        await sending
        await load.handled(deadline=60)

        async def has_noticed() -> bool:
            return "lost the leases" in workers.output

        await until(has_noticed, "the paused worker logs that it lost its leases", deadline=60)

        async def all_applied() -> bool:
            return dict(map(tuple, load.lines("applied"))) == {key: str(last) for key, last in load.sent.items()}

        await until(all_applied, "the step Apply has applied the last change of each key", deadline=60)
        # The paused worker went on with its old events. The revision as a guard keeps their effects in order.
        applied: dict[str, list[int]] = {}
        for key, number in load.lines("applied"):
            applied.setdefault(key, []).append(int(number))
        assert all(numbers == sorted(set(numbers)) for numbers in applied.values())


async def test_killed_redis_loses_no_event(namespace: str, tmp_path: Path) -> None:
    import redis

    events, keys, kills = (10_000, 300, 5) if FULL else (1_500, 100, 1)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, namespace=namespace) as state:
            load = Load(state, redis.Redis.from_url(server.url), namespace, keys=keys)
            with WorkerProcesses(tmp_path, server.url, namespace) as workers:
                workers.start(2)
                await workers.ready(2)
                sending = asyncio.create_task(load.send(events, per_second=events / (kills * 3)))
                for _ in range(kills):
                    await load.recorded(events // kills // 4)
                    server.kill()
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(server.start)
                await sending
                took = await load.handled(deadline=60)
                assert all(worker.poll() is None for worker in workers.processes), "a worker ended when Redis was killed"
            print(f"{events} events, {kills} restarts of Redis: done {took:.1f} s after the last was sent")
            load.check_order()


async def test_scaling_loses_no_event_and_pauses_less_than_two_seconds(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    seconds = 6 if FULL else 3
    load = Load(state, raw, namespace, keys=200)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(1)
        await workers.ready(1)
        stop = asyncio.Event()
        sending = asyncio.create_task(load.send_until(stop, per_second=400))
        await asyncio.sleep(seconds)
        workers.start(3)
        await workers.ready(4)

        async def is_even() -> bool:
            return sorted(lanes_by_worker(raw, namespace, "Record").values()) == [2, 2, 2, 2]

        await until(is_even, "each of the four workers has two of the scope's eight lanes", deadline=60)
        for worker in workers.processes[2:]:
            worker.send_signal(signal.SIGTERM)
        await asyncio.sleep(seconds)
        stop.set()
        await sending
        await load.handled(deadline=30)
        assert [worker.wait(20) for worker in workers.processes[2:]] == [0, 0]
    assert load.check_order() == 0, "an event ran twice although no worker was killed"
    times = [float(line[5]) for line in load.lines("record")]
    stall = max(after - before for before, after in pairwise(times))
    print(f"longest time in which no event was handled: {stall:.2f} s")
    assert stall < 2.0


def lanes_by_worker(raw: redis.Redis, namespace: str, step: str) -> dict[bytes, int]:
    """Return the number of lanes of a step for each worker."""
    found: dict[bytes, int] = {}
    for key in raw.keys(f"{{{namespace}:*:leases"):
        for field, value in raw.hgetall(key).items():
            if field.startswith(b"lane " + step.encode() + b"\n"):
                found[value] = found.get(value, 0) + 1
    return found


async def test_failing_handlers_end_in_dead_letters_and_other_keys_are_handled(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=100)

    def letters(step: str) -> list[Any]:
        return [letter for key in raw.keys(f"{{{namespace}:*:dead:{step}") for letter in raw.xrange(key)]

    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(2)
        await workers.ready(2)
        sending = asyncio.create_task(load.send(4000 if FULL else 1500, per_second=300))
        for key in ("fail", "hang"):
            await state.set("poison", key, {"n": 1})

        async def failures_dead() -> bool:
            return all(letters(step) for step in ("Fail", "Hang"))

        # Before a process ends: if it ended between the last attempt and the dead letter, the letter would name its end.
        await until(failures_dead, "two dead letters", deadline=60)
        await state.set("poison", "exit", {"n": 1})

        async def all_dead() -> bool:
            for index, worker in enumerate(workers.processes):
                if worker.poll() is not None:  # restart it, as a supervisor does
                    assert worker.returncode == 9
                    workers.processes.pop(index)
                    workers.start()
            return all(letters(step) for step in ("Fail", "Hang", "Exit"))

        await until(all_dead, "three dead letters", deadline=60)
        await sending
        await load.handled(deadline=30)
    load.check_order()
    outcomes = {step: [(m[b"error"], m[b"attempts"]) for _, m in letters(step)] for step in ("Fail", "Hang", "Exit")}
    assert outcomes == {
        "Fail": [(b"ValueError", b"3")],
        "Hang": [(b"TimeoutError", b"2")],
        "Exit": [(b"WorkerDied", b"2")],
    }
    assert len(load.lines("exit")) == 3, "the handler must run once before it is suspect, and max_attempts times after"


async def test_chained_steps_complete_and_keep_the_order_of_each_key(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=100, scope="level0")
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(3)
        await workers.ready(3)
        await load.send(4000 if FULL else 1000, per_second=500)
        await load.handled("level3", deadline=30)
    load.check_order("level3")


async def test_handler_that_blocks_its_thread_keeps_its_leases(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    seconds = 10.0 if FULL else LEASE + 1.5
    load = Load(state, raw, namespace, keys=10)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(2)
        await workers.ready(2)
        await state.set("block", "one", {"seconds": seconds})
        await load.send(100, per_second=100)

        async def done() -> bool:
            return len(load.lines("block")) >= 1

        await until(done, "the blocking handler ends", deadline=seconds + 20)
        await load.handled(deadline=20)
        assert "lost the leases" not in workers.output
    assert len(load.lines("block")) == 1, "the blocking handler ran twice"


async def test_lanes_of_a_killed_worker_are_taken_over_within_five_seconds(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    load = Load(state, raw, namespace, keys=50)
    with WorkerProcesses(tmp_path, server.url, namespace) as workers:
        workers.start(2)
        await workers.ready(2)
        pace = await load.pace()
        workers.processes[0].kill()
        await load.send(100, per_second=1000)
        took = await load.handled(deadline=20)
    print(f"lanes taken over after {took:.1f} s")
    assert took < 5.0 + 4 * 100 * pace

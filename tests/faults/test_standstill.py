"""Order and once (G5, G6, G7) when the network or Redis stands still, or connections are cut, and no worker dies."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from motia_redis import StateManager, Worker
from motia_redis._admin.dead_letters import DeadLetters
from tests.faults.observed_runs import Runs, Writer, drained, holders_of, is_shared, lanes_of, running
from tests.faults.proxy import FaultProxy, StallProxy
from tests.faults.worker_processes import FULL
from tests.support.clusters import Process, free_port
from tests.support.scripts import targets
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import redis

pytestmark = pytest.mark.alone

LEASE = 3.0 if FULL else 1.2  # seconds
STALL = LEASE * 1.7


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Process]:
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
async def direct(own: Process, namespace: str) -> AsyncIterator[StateManager]:
    async with StateManager(f"redis://127.0.0.1:{own.port}", namespace=namespace) as state:
        yield state


async def test_requests_that_arrive_late_from_a_worker_that_was_cut_off_have_no_effect(
    own: Process, direct: StateManager, namespace: str
) -> None:
    keys, batch, runs, raw = 40, 30, Runs(0.01), own.client
    writer = Writer(direct, keys)
    progress = targets("progress")

    async def handled() -> None:
        await until_holds(lambda: runs.has_all(keys, writer.events), "every event is handled")
        await drained(raw, namespace)

    async with StallProxy(own.port) as proxy, StateManager(f"redis://127.0.0.1:{proxy.port}", namespace=namespace) as cut_off:
        one = Worker(runs.application("one"), cut_off, lease=LEASE)
        two = Worker(runs.application("two"), direct, lease=LEASE)
        async with running(raw, one, two):
            await writer.write(5)
            await handled()
            runs.seconds = 1.6 * LEASE / batch  # what is queued lasts until the lanes have been taken
            await writer.write(batch)
            await until_holds(lambda: len(runs.begins["one"]) > 8 * keys / 2, "the first worker is busy for some time")
            # A read of new entries; what only waits for some asks for one of each.
            proxy.arm(b"XREAD\r\n$5\r\nCOUNT\r\n$2\r\n")
            async with asyncio.timeout(60):
                while not proxy.is_stalled:
                    await writer.write(1)
            stalled = time.monotonic()
            await writer.write(batch)
            await until_holds(lambda: any(target in proxy.held for target in progress), "a progress is on its way, too")
            await until_holds(lambda: len(lanes_of(raw)) == 1, "the other worker has taken all lanes")
            taken = time.monotonic()
            await asyncio.sleep(max(0.0, stalled + STALL - time.monotonic()))
            assert runs.begins["one"][-1] < taken, "a handler began on the worker whose lease had run out"
            runs.seconds = 0.01
            await writer.write(batch)  # something to read for the read that arrives late
            proxy.release()
            released = time.monotonic()
            await handled()
            took = time.monotonic() - released
            await until_holds(lambda: is_shared(raw, 2), "the worker that was cut off has lanes again")
            ran = len(runs.begins["one"])
            await writer.write(2)
            await handled()
            assert len(runs.begins["one"]) > ran
    runs.check_order()
    print(f"{keys * writer.events} events, {runs.count} runs; all handled {took:.1f} s after the network was back")
    assert runs.count - keys * writer.events <= 2 * 64 + keys * batch, "more ran again than the worker could have in flight"


async def test_cut_connections_make_no_event_run_again(own: Process, direct: StateManager, namespace: str) -> None:
    """What records progress gets lost, or its reply, and with the connection what else is on its way; the lanes stay."""
    keys, events, runs = 60, 200 if FULL else 40, Runs(0.002)
    faults, scripts = ("before", "after", "middle"), targets("progress")
    writer = Writer(direct, keys)
    async with (
        FaultProxy(own.port, rate=0.1, seed=keys, delay=0.0, faults=faults, scripts=scripts) as proxy,
        StateManager(f"redis://127.0.0.1:{proxy.port}", namespace=namespace) as behind,
        running(own.client, Worker(runs.application("one"), behind)),
    ):
        for number in range(events):
            await writer.write(1)
            if number % 4 == 1:
                own.client.client_kill_filter(_type="normal", skipme=True)
        await until_holds(lambda: runs.has_all(keys, events), "every event is handled")
        await drained(own.client, namespace)
    print(f"{keys * events} events, {runs.count} runs, {events // 4} cuts, faults {dict(proxy.injected)}")
    assert set(proxy.injected) == set(faults), "not every kind of fault was injected"
    assert all(runs.numbers(key) == list(range(events)) for key in runs.by_key), "an event ran twice, or out of order"


@pytest.mark.parametrize("workers", [1, 2])
async def test_redis_that_stands_still_longer_than_the_lease_makes_no_handler_run_twice(
    own: Process, direct: StateManager, namespace: str, workers: int
) -> None:
    keys, runs, raw = 20, Runs(0), own.client
    runs.go = asyncio.Event()
    team = [Worker(runs.application(str(number), max_attempts=1), direct, lease=LEASE) for number in range(workers)]
    try:
        async with running(raw, *team):
            await Writer(direct, keys).write(2)
            await until_holds(lambda: runs.count == keys, "a handler of each key runs")
            before = holders_of(raw)
            for _ in range(3 if FULL else 1):
                own.signal(signal.SIGSTOP)
                await asyncio.sleep(STALL)
                own.signal(signal.SIGCONT)
                await until_renewed(raw, workers)
                await asyncio.sleep(LEASE)  # what would be taken for dead is taken now
                assert holders_of(raw) == before, "a lane was taken from a worker that lives"
            assert runs.count == keys, "a handler began beside one that still runs"
            runs.go.set()
            await until_holds(lambda: runs.has_all(keys, 2), "every event is handled")
            await drained(raw, namespace)
    finally:
        runs.go.set()
    assert runs.overlaps == 0
    assert all(runs.numbers(key) == [0, 1] for key in runs.by_key)
    assert await DeadLetters(direct).count() == 0


async def until_renewed(raw: redis.Redis, workers: int) -> None:
    """Wait until so many workers have leases that have not run out, in every partition."""

    def is_renewed() -> bool:
        now = time.time() * 1000
        fields = [raw.hgetall(key).items() for key in raw.scan_iter("{*}:leases")]
        live = [sum(name.startswith(b"worker ") and int(value) > now for name, value in found) for found in fields]
        return bool(live) and min(live) == workers

    await until_holds(is_renewed, "every worker has renewed its leases")

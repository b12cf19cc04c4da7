"""Order and once (G5, G6, G7) when the network or Redis stands still, or connections are cut, and no worker dies."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, Worker, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._scripts.loader import load
from motia_redis._steps.application import Application
from tests.faults.proxy import FaultProxy, StallProxy
from tests.faults.worker_processes import FULL
from tests.support.clusters import Process, free_port
from tests.support.waiting import until, until_holds
from tests.support.workers import pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import redis

    from motia_redis._steps.inputs import StateTriggerInput

pytestmark = pytest.mark.alone

LEASE = 3.0 if FULL else 1.2  # seconds
STALL = LEASE * 1.7


class Runs:
    """A handler of some seconds that notes when it ran for each event. The events of a key are numbered from 0."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.go: asyncio.Event | None = None  #: if there is one, handlers wait for it
        self.by_key: dict[str, list[tuple[str, int]]] = defaultdict(list)  #: worker and number of each run
        self.begins: dict[str, list[float]] = defaultdict(list)  #: times at which each worker began a run
        self.overlaps = 0
        self._running: dict[str, int] = defaultdict(int)

    def application(self, worker: str, **config: Any) -> Application:
        async def handle(input: StateTriggerInput, _: FlowContext) -> None:
            await self._run(worker, input.group_id + "/" + input.item_id, input.new_value)

        return Application((step({"name": "Step", "triggers": [state_trigger()], **config}).handle(handle),))

    async def _run(self, worker: str, key: str, number: int) -> None:
        self.by_key[key].append((worker, number))
        self.begins[worker].append(time.monotonic())
        self._running[key] += 1
        self.overlaps += self._running[key] > 1
        try:
            await (self.go.wait() if self.go else asyncio.sleep(self.seconds))
        finally:
            self._running[key] -= 1

    @property
    def count(self) -> int:
        return sum(map(len, self.by_key.values()))

    def numbers(self, key: str) -> list[int]:
        return [number for _, number in self.by_key[key]]

    def has_all(self, keys: int, events: int) -> bool:
        return len(self.by_key) == keys and all(len(set(self.numbers(key))) == events for key in self.by_key)

    def check_order(self) -> None:
        """Assert that no event ran for the first time after a newer one of its key."""
        for key in self.by_key:
            firsts = list(dict.fromkeys(self.numbers(key)))
            assert firsts == sorted(firsts), f"{key} was handled out of order: {self.by_key[key]}"


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


@contextlib.asynccontextmanager
async def running(raw: redis.Redis, *workers: Worker) -> AsyncIterator[None]:
    """Run workers inside the block, which begins when they share the lanes."""
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        try:
            await until_holds(lambda: is_shared(raw, len(workers)), "the workers share the lanes")
            yield
        finally:
            for worker in workers:
                worker.stop()


def holders_of(raw: redis.Redis) -> dict[bytes, bytes]:
    """Return the worker and the tenure of each lane."""
    fields = {name: value for key in raw.scan_iter("{*}:leases") for name, value in raw.hgetall(key).items()}
    return {name: value for name, value in fields.items() if not name.startswith(b"worker ")}


def lanes_of(raw: redis.Redis) -> dict[bytes, int]:
    """Return how many lanes each worker holds; b"" for those that nobody holds."""
    found: dict[bytes, int] = defaultdict(int)
    for key in raw.scan_iter("{*}:leases"):
        for name, worker in raw.hgetall(key).items():
            if name.startswith(b"lane "):
                found[worker] += 1
    return found


def is_shared(raw: redis.Redis, workers: int) -> bool:
    """Return whether so many workers share all lanes evenly."""
    found = lanes_of(raw)
    return b"" not in found and len(found) == workers and max(found.values()) - min(found.values()) <= 16


async def drained(raw: redis.Redis, namespace: str, deadline: float = 20.0) -> None:
    async def is_drained() -> bool:
        return await pending(raw, namespace) == 0

    await until(is_drained, "everything is handled and recorded", deadline=deadline)


class Writer:
    """Writes the next change of each key: its number."""

    def __init__(self, state: StateManager, keys: int) -> None:
        self.events = 0  #: of each key
        self._state = state
        self._keys = keys

    async def write(self, events: int) -> None:
        """Write so many changes of each key, those of one key in order."""
        for _ in range(events):
            await asyncio.gather(*(self._state.set(f"scope{key}", "key", self.events) for key in range(self._keys)))
            self.events += 1


async def test_requests_that_arrive_late_from_a_worker_that_was_cut_off_have_no_effect(
    own: Process, direct: StateManager, namespace: str
) -> None:
    keys, batch, runs, raw = 40, 30, Runs(0.03), own.client
    writer = Writer(direct, keys)
    progress = load("progress").sha.encode()

    async def handled() -> None:
        await until_holds(lambda: runs.has_all(keys, writer.events), "every event is handled")
        await drained(raw, namespace)

    async with StallProxy(own.port) as proxy, StateManager(f"redis://127.0.0.1:{proxy.port}", namespace=namespace) as cut_off:
        one = Worker(runs.application("one"), cut_off, lease=LEASE)
        two = Worker(runs.application("two"), direct, lease=LEASE)
        async with running(raw, one, two):
            await writer.write(5)
            await handled()
            await writer.write(batch)
            await until_holds(lambda: len(runs.begins["one"]) > 10 * keys / 2, "the first worker is busy for some time")
            # A read of new entries; what only waits for some asks for one of each.
            proxy.arm(b"XREAD\r\n$5\r\nCOUNT\r\n$2\r\n")
            while not proxy.is_stalled:
                await writer.write(1)
            stalled = time.monotonic()
            await writer.write(batch)
            await until_holds(lambda: progress in proxy.held, "a progress is on its way, too")
            await until_holds(lambda: len(lanes_of(raw)) == 1, "the other worker has taken all lanes")
            taken = time.monotonic()
            await asyncio.sleep(max(0.0, stalled + STALL - time.monotonic()))
            assert runs.begins["one"][-1] < taken, "a handler began on the worker whose lease had run out"
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
    assert took < 10
    assert runs.count - keys * writer.events <= 2 * 64 + keys * batch, "more ran again than the worker could have in flight"


async def test_cut_connections_make_no_event_run_again(own: Process, direct: StateManager, namespace: str) -> None:
    """What records progress gets lost, or its reply, and with the connection what else is on its way; the lanes stay."""
    keys, events, runs = 60, 200 if FULL else 40, Runs(0.002)
    faults, scripts = ("before", "after", "middle"), {load("progress").sha.encode()}
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

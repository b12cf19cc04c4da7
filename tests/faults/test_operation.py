"""Delivery in operation (G5, G6, G9): a rolling deploy, a full Redis, a clock that jumps, lost data."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Worker, queue
from motia_redis._admin.status import read_status
from motia_redis._store.limits import Retention
from motia_redis.errors import StateUnavailable
from tests.faults.observed_runs import Runs, Writer, drained, is_shared, lanes_of, running
from tests.faults.worker_processes import FULL, WorkerProcesses
from tests.support.clocks import JumpingClock
from tests.support.clusters import Process, free_port
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support.servers import RedisServer

pytestmark = pytest.mark.alone

LEASE = 3.0 if FULL else 1.2  # seconds
SMALL = Retention(entries=10, bytes=0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Give a function that starts a server of this test."""
    servers = []

    def start_one(*options: str, **settings: Any) -> Process:
        server = Process(tmp_path / f"redis{len(servers)}", free_port(), "--save", "", *options, **settings)
        servers.append(server)
        server.start()
        return server

    yield start_one
    for server in servers:
        server.end()


# -- a rolling deploy ---------------------------------------------------------------------------------------------------------


class Versions:
    """Versions of an application, each in a process of its own, and what they handle."""

    def __init__(self, state: StateManager, raw: redis.Redis, namespace: str) -> None:
        self.sent: set[str] = set()
        self._state = state
        self._raw = raw
        self._namespace = namespace
        self._log = f"log:{namespace}:versions"

    async def send(self, scopes: list[str], topics: list[str], count: int) -> None:
        """Write changes of these scopes, and messages of these topics: `count` of each, each with a key of its own."""
        first = len(self.sent)
        for number in range(first, first + count):
            for scope in scopes:
                await self._state.set(scope, f"key{number}", number)
                self.sent.add(f"{scope}/key{number}/{number}")
            for topic in topics:
                await self._state.enqueue(topic, f"{topic}/{number}", key=f"key{number}")
                self.sent.add(f"{topic}/{number}")

    @property
    def handled(self) -> Counter[str]:
        """Return how often each event was handled."""
        lines: Any = self._raw.lrange(self._log, 0, -1)
        return Counter(line.decode().partition(" ")[2] for line in lines)

    async def wait(self) -> None:
        """Wait until everything is handled."""

        async def done() -> bool:
            return set(self.handled) == self.sent

        await until(done, "both versions together handle everything")

    def _heartbeats(self) -> dict[bytes, bytes]:
        found: Any = self._raw.hgetall(f"{self._namespace}:workers")
        return found

    async def live(self) -> dict[str, int]:
        """Return how many versions of each step the status shows."""
        return {step.name: len(step.versions) for step in (await read_status(self._state)).steps}


async def test_rolling_deploy_loses_no_event_of_the_old_or_the_new_version(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    count = 200 if FULL else 30
    versions = Versions(state, raw, namespace)

    def deploy(version: str) -> WorkerProcesses:
        directory = tmp_path / version
        directory.mkdir()
        application = Path(__file__).parent / "versions_step.py"
        return WorkerProcesses(
            directory, server.url, namespace, application=application, options=("--lease", "1"), DEPLOYED_VERSION=version
        )

    async def live(wanted: int) -> None:
        async def is_so() -> bool:
            return await versions.live() == {"Scopes": wanted, "Topics": wanted}

        await until(is_so, f"the status shows {wanted} versions")

    with deploy("1") as old, deploy("2") as new:
        old.start()
        await old.ready(1)
        await live(1)
        await versions.send(["orders", "photos"], ["mail"], count)
        new.start()
        await new.ready(1)
        await live(2)
        await versions.send(["orders", "photos", "carts"], ["mail", "post"], count)
        await versions.wait()
        old.processes[0].send_signal(signal.SIGTERM)
        sending = asyncio.create_task(versions.send(["orders", "carts"], ["post"], count))
        assert await asyncio.to_thread(old.processes[0].wait, 20) == 0
        for number in range(20):  # what only the old version wants, which counts for two leases more
            await state.set("photos", f"late{number}", number)
        await sending
        await versions.wait()
        await live(1)

        async def passed() -> bool:
            steps = (await read_status(state)).steps
            return {step.name: (step.lag, step.pending) for step in steps} == {"Scopes": (0, 0), "Topics": (0, 0)}

        await until(passed, "what no version wants any more is passed over")
    assert set(versions.handled.values()) == {1}, "no worker died, so nothing is handled twice"
    print(f"{len(versions.sent)} events by two versions, each handled once")


# -- a full Redis -------------------------------------------------------------------------------------------------------------


async def test_backlog_of_a_full_redis_is_handled_and_makes_room(start: Callable[..., Process], namespace: str) -> None:
    messages, size = (3_000 if FULL else 600), 20_000
    own, recorder = start(), Recorder()
    async with StateManager(f"redis://127.0.0.1:{own.port}", namespace=namespace, deadline=0.0, retention=SMALL) as state:
        step = record(recorder, queue("mail"))
        async with working(state, step):
            await until_holds(lambda: is_shared(own.client, 1), "the worker holds the lanes")
        for number in range(messages):  # a backlog: no worker runs
            await state.enqueue("mail", {"n": number, "pad": "x" * size}, key=f"key{number % 64}")
        full = used_memory(own.client)
        own.client.config_set("maxmemory", full - 1_000_000)
        with pytest.raises(StateUnavailable, match="full"):
            await state.set("users", "ann", "x" * size)
        async with working(state, step):  # also the start of a worker works
            await recorder.wait(messages)

            async def is_drained() -> bool:
                return await pending(own.client, namespace) == 0

            await until(is_drained, "everything is recorded")

            async def is_accepted() -> bool:
                with suppress(StateUnavailable):
                    await state.set("users", "ann", "x" * size)
                    return True
                return False

            await until(is_accepted, "there is room again")
            await until_holds(lambda: used_memory(own.client) < full / 2, "the streams are trimmed, without a write to them")
    print(f"{messages} messages handled over maxmemory, {full / 1e6:.1f} MB before, {used_memory(own.client) / 1e6:.1f} MB after")
    numbers: dict[int, list[int]] = {}
    for each in recorder.inputs:
        numbers.setdefault(each["n"] % 64, []).append(each["n"])
    assert all(found == sorted(set(found)) for found in numbers.values()), "a message was handled twice, or out of order"
    assert sum(map(len, numbers.values())) == messages


def used_memory(raw: redis.Redis) -> int:
    info: Any = raw.info("memory")
    return int(info["used_memory"])


# -- a clock that jumps -------------------------------------------------------------------------------------------------------


async def test_jumps_of_the_servers_clock_stop_no_lane_and_run_nothing_twice(
    start: Callable[..., Process], namespace: str, tmp_path: Path
) -> None:
    clock = JumpingClock(tmp_path)
    own = start(environment=clock.environment)
    raw, keys = own.client, 20
    runs, slow = Runs(0.002), asyncio.Event()
    runs.waits_at["slow/key"] = slow
    async with StateManager(f"redis://127.0.0.1:{own.port}", namespace=namespace, deadline=0.0, retention=SMALL) as state:
        writer = Writer(state, keys)
        team = [Worker(runs.application(name, max_attempts=1), state, lease=LEASE) for name in ("one", "two")]
        crashed = Worker(runs.application("crashed"), state, lease=LEASE)
        async with running(raw, *team):
            await state.set("slow", "key", 0)
            await until_holds(lambda: runs.by_key["slow/key"] != [], "the slow handler runs")
            for ahead in (3600, 0, 120, 0):  # seconds; far longer than the deadlines
                clock.set(ahead)
                await until_holds(lambda ahead=ahead: abs(clock_of(raw) - ahead) < 2, "the clock of the server has jumped")
                began = time.monotonic()
                await writer.write(30)
                await until_holds(lambda: runs.has_all(keys, writer.events), "every event is handled")
                print(f"{ahead} s ahead: handled after {time.monotonic() - began:.1f} s")
                await asyncio.sleep(LEASE)  # what the jump would let run out has run out
            # The lease of a worker that ends while the clock is ahead looks valid for an hour.
            clock.set(3600)
            ending = asyncio.create_task(crashed.run())
            await until_holds(lambda: is_shared(raw, 3), "three workers share the lanes")
            ending.cancel()
            await asyncio.wait([ending])
            clock.set(0)
            began = time.monotonic()
            await until_holds(lambda: is_shared(raw, 2), "its lanes are taken")
            print(f"lanes of a worker that crashed an hour ahead: taken after {time.monotonic() - began:.1f} s")
            assert len(runs.by_key["slow/key"]) == 1, "a handler began beside itself"
            slow.set()
            await writer.write(30)
            await until_holds(lambda: runs.has_all(keys, writer.events), "every event is handled")
            await drained(raw, namespace)

            async def is_trimmed() -> bool:
                await writer.write(1)
                return max(raw.xlen(stream) for stream in raw.scan_iter("{*}:events:*")) < 100

            lengths = sorted(raw.xlen(stream) for stream in raw.scan_iter("{*}:events:*"))
            await until(is_trimmed, f"the streams are trimmed, of {lengths} entries")
    runs.check_order()
    assert runs.overlaps == 0
    assert lanes_of(raw).keys() == {b""}, "the workers have released everything"


def clock_of(raw: redis.Redis) -> float:
    """Return how many seconds the clock of the server is ahead."""
    now: Any = raw.time()
    return float(now[0]) - time.time()


# -- lost data ----------------------------------------------------------------------------------------------------------------


async def test_workers_go_on_after_all_data_is_lost(start: Callable[..., Process], namespace: str) -> None:
    own, keys, runs = start(), 20, Runs(0.002)
    async with StateManager(f"redis://127.0.0.1:{own.port}", namespace=namespace) as state:
        writer = Writer(state, keys)
        team = [Worker(runs.application(name), state, lease=LEASE) for name in ("one", "two")]
        async with running(own.client, *team):
            for _ in range(6 if FULL else 2):
                await writer.write(20)
                own.client.flushall()  # while handlers run, and before the end of the backlog
                lost = writer.events
                began = time.monotonic()
                await writer.write(20)
                wanted = set(range(lost, writer.events))
                await until_holds(
                    lambda wanted=wanted: all(wanted <= set(runs.numbers(f"scope{key}/key")) for key in range(keys)),
                    "what was written after the loss is handled",
                )
                print(f"handled {time.monotonic() - began:.1f} s after the loss")
                await until_holds(lambda: is_shared(own.client, 2), "the workers share the lanes")
            await drained(own.client, namespace)
    runs.check_order()

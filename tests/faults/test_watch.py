"""A watch misses, doubles and reorders nothing unless it says so (G12), while servers die, networks fail and slots move."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from motia_redis import Retention, StateManager
from motia_redis._store.lanes import Batch, PartitionLog
from motia_redis._store.watch_intake import Intake
from tests.faults.watchers import SCOPES, Recorder, Violation, Writers, check, read_lanes, stored_places
from tests.faults.worker_processes import FULL
from tests.support.clusters import Cluster, Process, Sentinels, free_port
from tests.support.waiting import until_holds, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    import redis

pytestmark = pytest.mark.alone

ALL = Retention(entries=1_000_000, bytes=10**12)


class Run:
    """Writers and watches on one namespace."""

    def __init__(self, url: str, *, seed: int, restarts: float = 0.01, **options: Any) -> None:
        self.rnd = random.Random(seed)
        self.writing = StateManager(url, retention=ALL, **options)
        self.watching = StateManager(url, retention=ALL)
        scopes = [*SCOPES, None]
        self.scopes = {
            f"{start} {scope} {number}": scope for start in ("now", "snapshot") for scope in scopes for number in range(2)
        }
        self.recorders = [
            Recorder(name, self.watching, self.rnd, scope, start=name.split()[0], restarts=restarts * (number % 2))
            for number, (name, scope) in enumerate(self.scopes.items())
        ]

    @asynccontextmanager
    async def going_on(self, patience: float = 60) -> AsyncIterator[Writers]:
        """Write and watch; at the end wait until all watches have seen the last changes. Raises TimeoutError if they do not."""
        async with self.writing, self.watching:
            tasks = [asyncio.create_task(recorder.run()) for recorder in self.recorders]
            writers = Writers(self.writing, self.rnd)
            try:
                await writers.until_more(50)
                yield writers
                await writers.until_more(50)
                await writers.end()
                async with asyncio.timeout(patience):
                    await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def check(self, url: str, nodes: Iterable[redis.Redis]) -> str:
        """Raise Violation unless all watches have shown what the lanes hold; return a summary."""
        async with StateManager(url) as state:
            names, stored = await state.connect(), await stored_places(state)
        lanes = read_lanes(names, nodes)
        shown = [check(recorder, lanes, stored, self.scopes[recorder.name]) for recorder in self.recorders]
        counts: dict[str, int] = {}
        for recorder in self.recorders:
            for name, count in recorder.counts.items():
                counts[name] = counts.get(name, 0) + count
        return f"{sum(map(len, lanes.values()))} changes, {len(shown)} watches have shown {sum(shown)}; {counts}"


async def test_watches_see_all_through_kills_stops_and_cut_connections(tmp_path: Path) -> None:
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    url, rounds = f"redis://127.0.0.1:{server.port}", 40 if FULL else 3
    try:
        server.start()
        run = Run(url, seed=rounds, deadline=5.0)
        async with run.going_on() as writers:
            for number in range(rounds):
                server.kill()
                await asyncio.to_thread(server.start)
                await writers.until_more(100)
                for _ in range(5):
                    server.client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
                    await writers.until_more(20)
                if number % 3 == 0:
                    server.signal(signal.SIGSTOP)
                    await asyncio.sleep(4)  # longer than an attempt waits, and than a blocking read
                    server.signal(signal.SIGCONT)
                    await writers.until_more(50)
        print(f"{rounds} kills, {5 * rounds} cuts:", await run.check(url, [server.client]))
    finally:
        server.end()
    assert not {name for recorder in run.recorders for name in recorder.counts} & {"HistoryGone", "HistoryForked"}


async def test_watches_see_all_while_their_slot_moves(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        run = Run(cluster.url, seed=3, deadline=20.0)
        async with run.going_on() as writers:
            slot = key_slot((await run.writing.connect()).values(SCOPES[0].encode()))
            for _ in range(30 if FULL else 4):
                await asyncio.to_thread(cluster.migrate, slot, (cluster.owner(slot) + 1) % 3)
                await writers.until_more(50)
        print("slots moved:", await run.check(cluster.url, [node.client for node in cluster.processes]))
    assert not {name for recorder in run.recorders for name in recorder.counts} & {"HistoryGone", "HistoryForked"}


async def test_watches_see_all_or_say_so_when_a_primary_is_lost(tmp_path: Path) -> None:
    """Writes of the last moment are lost with it. A watch that has shown one of them has another history than the server."""
    with Sentinels(tmp_path) as sentinels:
        run = Run(sentinels.url, seed=4, deadline=20.0)
        async with run.going_on() as writers:
            for _ in range(4 if FULL else 1):
                primary = sentinels.primary()
                replicas = [server for server in sentinels.servers if server is not primary]
                for replica in replicas:  # from now on nothing is replicated: these changes will be lost
                    replica.signal(signal.SIGSTOP)
                primary.client.execute_command("CLIENT KILL TYPE replica")
                await writers.until_more(200)
                seen = [recorder.counts["changes"] for recorder in run.recorders]
                await writers.until_more(50)
                await until_holds(
                    lambda seen=seen: all(r.counts["changes"] > n for r, n in zip(run.recorders, seen, strict=True)),
                    "each watch has seen changes that will be lost",
                )
                lost = sentinels.kill_primary()
                for replica in replicas:
                    replica.signal(signal.SIGCONT)
                await writers.until_more(200)
                await asyncio.to_thread(lost.start)
                await asyncio.to_thread(wait_until, sentinels.is_complete, "the old primary is back as a replica", deadline=60)
        print("fail-over:", await run.check(sentinels.url, [sentinels.primary().client]))
    assert all(recorder.counts["HistoryForked"] for recorder in run.recorders), "each watch has seen changes that were lost"


async def test_watch_of_a_process_that_slept_while_events_were_trimmed_says_so(tmp_path: Path) -> None:
    """The connection lives on, so only the clock tells."""
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    url = f"redis://127.0.0.1:{server.port}"
    program = (
        "import asyncio, sys\n"
        "from motia_redis import StateManager\n"
        "async def main():\n"
        "    async with StateManager(sys.argv[1]) as state, state.watch('s') as watch:\n"
        "        print('ready', flush=True)\n"
        "        async for item in watch:\n"
        "            if type(item).__name__ == 'Change':\n"
        "                print(item.value, flush=True)\n"
        "asyncio.run(main())\n"
    )
    try:
        server.start()
        async with StateManager(url, retention=Retention(entries=0, most_entries=100), deadline=0) as state:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            assert process.stdout
            assert process.stderr
            try:
                assert await process.stdout.readline() == b"ready\n"
                process.send_signal(signal.SIGSTOP)
                await asyncio.gather(*(state.set("s", "n", number) for number in range(3000)))
                await asyncio.sleep(6)
                process.send_signal(signal.SIGCONT)
                async with asyncio.timeout(30):
                    error = await process.stderr.read()
                shown = await process.stdout.read()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    finally:
        server.end()
    assert b"HistoryGone" in error
    assert shown == b""


def torn(patch: pytest.MonkeyPatch) -> None:
    init = PartitionLog.__init__

    def never_joins(self: PartitionLog, streams: Any, positions: Any, **options: Any) -> None:
        init(self, streams, positions, **{**options, "joins": False, "first": None})

    patch.setattr(PartitionLog, "__init__", never_joins)


def cursor_too_far(patch: pytest.MonkeyPatch) -> None:
    positions = Batch.positions
    patch.setattr(Batch, "positions", lambda self, _: (positions(self, len(self._steps) - 1)[0], None))


def cursor_without_the_place_in_a_transaction(patch: pytest.MonkeyPatch) -> None:
    positions = Batch.positions
    patch.setattr(Batch, "positions", lambda self, index: (positions(self, index)[0], None))


def snapshot_of_what_has_changed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("motia_redis._store.snapshots.order", lambda _: (0, 0))


def events_while_joining_lost(patch: pytest.MonkeyPatch) -> None:
    release = Intake.release

    def forget(self: Intake, positions: Any) -> None:
        self.hold()
        release(self, positions)

    patch.setattr(Intake, "release", forget)


def events_shown_twice_after_joining(patch: pytest.MonkeyPatch) -> None:
    release = Intake.release

    def without_floors(self: Intake, positions: Any) -> None:
        release(self, positions)
        self._floors.clear()

    patch.setattr(Intake, "release", without_floors)


BUILDS = [
    torn, cursor_too_far, cursor_without_the_place_in_a_transaction, snapshot_of_what_has_changed,
    events_while_joining_lost, events_shown_twice_after_joining,
]  # fmt: skip


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
async def test_build_without_a_mechanism_is_detected(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches restart until the check has found the fault."""
    build(monkeypatch)
    monkeypatch.setattr("motia_redis._store.scans.PAGE_ITEMS", 3)
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    url = f"redis://127.0.0.1:{server.port}"
    try:
        server.start()
        for seed in range(20):
            run = Run(url, seed=seed, restarts=0.05)
            try:
                async with run.going_on(5) as writers:
                    await writers.until_more(300)
                await run.check(url, [server.client])
            except (Violation, TimeoutError) as fault:
                print(repr(fault))
                return
            server.client.flushall()
    finally:
        server.end()
    raise AssertionError("20 runs, and the check has found nothing")

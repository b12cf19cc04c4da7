"""Sessions of several event loops, and the embedded server that they share."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store.keyspace import Layout
from motia_redis._store.limits import Limits, Retention
from motia_redis._store.settings import GivenSettings
from motia_redis._transport import embedded
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import StateUnavailable
from tests.support.embedded import has_ended, server_pid
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the state of processes from /proc")


def sessions(manager: StateManager) -> int:
    return len(manager._sessions._slots)


def test_ended_loop_leaves_no_session(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)
    loops = []

    async def visit() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await manager.update("counters", "visits", INCREMENT)

    for _ in range(20):
        asyncio.run(visit())
        assert sessions(manager) == 0
    gc.collect()
    assert [loop for loop in loops if loop() is not None] == []


@pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the expected warning for a loop that was closed without cleanup
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loops_closed_without_cleanup_leave_one_session_until_close(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(manager.set("users", "ann", 1))
        loop.close()
        assert sessions(manager) == 1
    asyncio.run(manager.close())
    assert sessions(manager) == 0
    gc.collect()


async def test_failed_connect_leaves_no_session() -> None:
    manager = StateManager("redis://127.0.0.1:1")
    results = await asyncio.gather(*(manager.get("users", "ann") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [StateUnavailable] * 5
    assert sessions(manager) == 0


async def test_concurrent_connect_and_close_leave_no_session(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)

    async def visit() -> None:
        await manager.connect()
        await manager.close()

    await asyncio.gather(*(visit() for _ in range(50)))
    await manager.close()
    assert sessions(manager) == 0


def test_pickled_manager_keeps_its_settings_but_not_its_connections(server: RedisServer, namespace: str) -> None:
    manager = StateManager(
        server.url,
        namespace=namespace,
        layout=Layout(2, 2),
        limits=Limits(value_bytes=1000),
        retention=Retention(7),
        deadline=5.0,
    )

    async def visit(one: StateManager) -> Any:
        return await one.update("counters", "visits", INCREMENT)

    async def both() -> None:
        await visit(manager)
        copy = pickle.loads(pickle.dumps(manager))
        assert await visit(copy) == {"n": 2}
        assert (copy.url, copy.namespace, copy.limits) == (manager.url, manager.namespace, manager.limits)
        assert (copy._sessions.layout, copy._sessions.given) == (Layout(2, 2), GivenSettings(Retention(7), 5.0))
        await copy.close()

    asyncio.run(both())


# -- the embedded server --------------------------------------------------------------------------------------------------


def pid_of(directory: Path) -> int:
    return server_pid(f"unix://{directory}/redis.sock")


@linux
def test_close_stops_the_embedded_server_after_several_loops(tmp_path: Path) -> None:
    manager = StateManager(f"embedded://{tmp_path}")

    async def visit() -> None:
        await manager.set("users", "ann", 1)

    for _ in range(3):
        asyncio.run(visit())
    pid = pid_of(tmp_path)

    async def end() -> None:
        await manager.set("users", "ann", 2)
        await manager.close()

    asyncio.run(end())
    wait_until(lambda: has_ended(pid), "the server ends with its last user")


@linux
def test_close_keeps_the_embedded_server_for_other_loops(tmp_path: Path) -> None:
    manager = StateManager(f"embedded://{tmp_path}")
    opened, done = threading.Event(), threading.Event()

    async def other() -> None:
        await manager.set("users", "ann", 1)
        opened.set()
        await asyncio.to_thread(done.wait)
        assert await manager.get("users", "ann") == 1
        await manager.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, other())
        try:
            assert opened.wait(20)
            asyncio.run(manager.close())
            assert manager._sessions._endpoint is not None
            assert manager._sessions._endpoint._server is not None
            pid = pid_of(tmp_path)
        finally:
            done.set()
        running.result()
    wait_until(lambda: has_ended(pid), "the server ends with its last user")


def test_loops_in_eight_threads_join_the_embedded_server_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = StateManager(f"embedded://{tmp_path}")
    joins = []
    join = EmbeddedServer.join
    together = threading.Barrier(8)

    def counted(directory: Path) -> EmbeddedServer:
        joins.append(directory)
        return join(directory)

    monkeypatch.setattr(EmbeddedServer, "join", counted)

    async def visit() -> Any:
        together.wait()
        return await manager.update("counters", "visits", INCREMENT)

    with ThreadPoolExecutor(8) as pool:
        counts = sorted(result["n"] for result in pool.map(lambda _: asyncio.run(visit()), range(8)))
    assert counts == list(range(1, 9))
    assert len(joins) == 1
    asyncio.run(manager.close())


@linux
async def test_failed_calls_restart_a_crashed_embedded_server(tmp_path: Path) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        for round_number in range(1, 4):
            assert await state.update("counters", "visits", INCREMENT) == {"n": round_number}
            pid = pid_of(tmp_path)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: has_ended(pid), "the server is dead")  # type: ignore[misc]
            failed = await asyncio.gather(*(state.get("counters", "visits") for _ in range(20)), return_exceptions=True)
            assert [error for error in failed if not isinstance(error, StateUnavailable | dict)] == []
            assert await state.get("counters", "visits") == {"n": round_number}
        pid = pid_of(tmp_path)
    wait_until(lambda: has_ended(pid), "the server ends with its last handle")


@linux
async def test_revive_restarts_only_a_crashed_embedded_server(tmp_path: Path) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        await state.set("users", "ann", 1)
        pid = pid_of(tmp_path)
        await state.revive()
        assert pid_of(tmp_path) == pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), "the server is dead")
        await asyncio.gather(*(state.revive() for _ in range(10)))
        assert pid_of(tmp_path) != pid
        router = await state.open_router()
        assert await router.execute("any", "PING")
        await router.aclose()


async def test_revive_does_nothing_for_other_urls(state: StateManager) -> None:
    await state.revive()
    await StateManager("redis://127.0.0.1:1").revive()


@linux
async def test_failed_restart_of_the_embedded_server_raises_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        await state.set("users", "ann", 1)
        pid = pid_of(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), "the server is dead")

        def missing(_: Path) -> Path:
            raise StateUnavailable("no program")

        with monkeypatch.context() as patched:
            patched.setattr(embedded, "find_server_for", missing)
            with pytest.raises(StateUnavailable, match="scope 'users' key 'ann': no program"):
                await state.get("users", "ann")
        assert await state.get("users", "ann") == 1

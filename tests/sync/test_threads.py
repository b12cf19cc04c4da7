"""Any number of threads use one manager, and share its connections."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from motia_redis._sync import loop_thread
from motia_redis.errors import EventLoopRunning, StateUnavailable
from motia_redis.sync import StateManager

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


def test_threads_share_one_loop_and_its_connections(state: StateManager, raw: redis.Redis) -> None:
    def count(number: int) -> int:
        for _ in range(50):
            state.update("counters", "all", [{"op": "increment", "path": "/n", "value": 1}])
            state.set("counters", f"own{number}", number)
            assert state.get("counters", f"own{number}") == number
        return number

    before = len(raw.client_list())
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(count, range(32))) == list(range(32))
    assert state.get("counters", "all") == {"n": 1600}
    assert len(raw.client_list()) - before <= 2
    assert [thread.name for thread in threading.enumerate()].count("motia_redis.sync") == 1


def test_first_calls_of_many_threads_start_one_thread(server: RedisServer, namespace: str) -> None:
    loop_thread.end()
    state = StateManager(server.url, namespace=namespace)
    start = threading.Barrier(16)

    def get(_: int) -> object:
        start.wait()
        return state.get("a", "key")

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(get, range(16))) == [None] * 16
    assert [thread.name for thread in threading.enumerate()].count("motia_redis.sync") == 1
    state.close()


def test_call_sees_the_context_variables_of_its_thread(server: RedisServer, namespace: str) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    seen = []

    async def credentials() -> tuple[str | None, str]:
        seen.append(name.get())
        raise ConnectionError("no service")

    state = StateManager("redis://127.0.0.1:1", namespace=namespace, credentials=credentials, deadline=0)
    name.set("ann")
    with pytest.raises(StateUnavailable, match="no service"):
        state.get("a", "key")
    assert seen == ["ann"]
    state.close()


def test_call_in_the_loop_thread_raises_instead_of_waiting_for_itself(state: StateManager) -> None:
    failures: list[Exception] = []

    def call(_: object) -> None:
        try:
            state.get("flags", "beta")
        except EventLoopRunning as error:
            failures.append(error)

    with state.mirror("flags") as flags:
        flags.on_change(call)
        state.set("flags", "beta", 1)
        entry = state.entry("flags", "beta")
        assert entry is not None
        flags.reached(entry.revision)
    assert len(failures) == 1

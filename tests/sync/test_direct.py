"""Calls that begin in the calling thread keep the promises of the async manager when something is not ordinary."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._sync import direct, loop_thread
from motia_redis.errors import CorruptValue, InvalidName, LayoutMismatch, StateUnavailable
from motia_redis.sync import StateManager
from tests.support.servers import RedisServer, has_functions
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that went to the event loop."""
    seen: list[str] = []
    run = loop_thread.LoopThread.run

    def note(self: loop_thread.LoopThread, call: Any, serve: Any = None) -> Any:
        seen.append(call.name)
        return run(self, call, serve)

    monkeypatch.setattr(loop_thread.LoopThread, "run", note)
    return seen


def call_everything(state: StateManager) -> None:
    state.set("a", "key", {"n": 2})
    state.get("a", "key")
    state.get("a", "none")
    state.entry("a", "key")
    state.update("a", "key", [{"op": "increment", "path": "/n", "value": 1}])
    state.get_many("a", ["key"])
    state.expire("a", "key", 60)
    with state.transaction() as tx:
        tx.update("a", "key", [{"op": "increment", "path": "/n", "value": 1}])
    assert state.get("a", "key") == {"n": 4}
    state.enqueue("topic", 1, key="a")
    state.cancel(state.enqueue("topic", 1, key="a", delay=60))
    state.delete("a", "key")


def test_calls_of_one_round_trip_do_not_go_to_the_loop(each_way: None, state: StateManager, visits: list[str]) -> None:
    state.set("a", "other", 1)  # with it the scope stays, whose creation is looked at in the loop
    call_everything(state)  # and loads the scripts
    visits.clear()
    call_everything(state)
    assert visits == []


@pytest.mark.parametrize("command", [("FUNCTION", "FLUSH"), ("SCRIPT", "FLUSH")])
def test_script_that_the_server_lost_is_loaded_again(
    each_way: None, state: StateManager, raw: redis.Redis, command: tuple[str, ...]
) -> None:
    state.set("a", "key", 0)
    if command[0] == "FUNCTION" and not has_functions():
        pytest.skip("the server has no functions")
    for number in range(3):
        raw.execute_command(*command)
        assert state.update("a", "key", [{"op": "replace", "path": "", "value": number}]) == number
        assert state.entry("a", "key") is not None


def test_connections_that_are_killed_lose_no_change_and_repeat_none(state: StateManager, raw: redis.Redis) -> None:
    def count(number: int) -> None:
        for _ in range(60):
            state.update("a", f"key{number % 3}", [{"op": "increment", "path": "/n", "value": 1}])
            state.get("a", "key0")

    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.02):
            raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    state.set("a", "key0", {"n": 0})
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(count, range(12)))
    finally:
        is_over.set()
        killer.join()
    assert [state.get("a", f"key{number}") for number in range(3)] == [{"n": 240}] * 3


def test_connection_that_the_server_closed_is_opened_again(state: StateManager, raw: redis.Redis, visits: list[str]) -> None:
    state.set("a", "key", 1)
    raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def goes_direct() -> bool:
        visits.clear()
        return state.get("a", "key") == 1 and visits == []

    wait_until(goes_direct, "calls go directly again")


def test_large_values_go_to_the_loop_and_small_ones_of_other_scopes_do_not(state: StateManager, visits: list[str]) -> None:
    large = "x" * 200_000
    state.set("small", "key", 1)
    state.set("large", "key", large)
    assert state.get("large", "key") == large
    visits.clear()
    assert state.get("large", "key") == large
    assert len(visits) == 1
    assert state.get("small", "key") == 1
    assert len(visits) == 1


def test_expired_and_corrupt_values_read_as_by_the_async_manager(state: StateManager, raw: redis.Redis) -> None:
    state.set("a", "key", 1, ttl=0.05)
    wait_until(lambda: state.get("a", "key") is None, "the value has expired")
    raw.hset(state.connect().values(b"a").decode(), "bad", "no JSON")
    with pytest.raises(CorruptValue, match="scope 'a' key 'bad'"):
        state.get("a", "bad")
    for scope, key in ((["a"], "key"), ("", "key"), ("a", ""), ("a", 1), ("\ud800", "key")):
        with pytest.raises(InvalidName):
            state.get(scope, key)  # type: ignore[arg-type]


def test_server_that_restarts_without_its_data_gets_the_layout_again(tmp_path: Path, namespace: str) -> None:
    server = RedisServer(tmp_path)
    with server, StateManager(server.url, namespace=namespace) as state:
        state.set("a", "key", 1)
        server.kill()
        server.start()
        assert state.get("a", "key") is None
        assert state.set("a", "key", 2) == 2
        assert state.check_layout() is None
        assert state.get("a", "key") == 2


def test_other_layout_after_a_loss_of_data_is_refused(tmp_path: Path, namespace: str) -> None:
    server = RedisServer(tmp_path)
    with server, StateManager(server.url, namespace=namespace) as state:
        state.set("a", "key", 1)
        server.kill()
        server.start()
        from motia_redis import Layout

        with StateManager(server.url, namespace=namespace, layout=Layout(partitions=1, lanes=1)) as other:
            other.set("a", "key", 2)
        for _ in range(2):
            with pytest.raises(LayoutMismatch):
                state.get("a", "key")
        with pytest.raises(LayoutMismatch):
            state.set("a", "key", 1)


def test_server_that_does_not_answer_raises_after_one_attempt_without_a_deadline(
    server: RedisServer, namespace: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "ATTEMPT_TIMEOUT", 0.2)
    with StateManager(server.url, namespace=namespace, deadline=0) as state:
        state.set("a", "key", 1)
        raw.execute_command("CLIENT", "PAUSE", "1000", "ALL")
        begun = time.monotonic()
        with pytest.raises(StateUnavailable) as failed:
            state.set("a", "key", 2)
        assert failed.value.maybe_applied
        assert time.monotonic() - begun < 0.9
        raw.execute_command("CLIENT", "UNPAUSE")
        assert state.get("a", "key") in (1, 2)


def test_closed_manager_leaves_no_connection(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    before = len(raw.client_list())
    with StateManager(server.url, namespace=namespace) as state:
        state.set("a", "key", 1)
        assert state.get("a", "key") == 1
        assert len(raw.client_list()) > before
    wait_until(lambda: len(raw.client_list()) == before, "all connections are closed")
    state = StateManager(server.url, namespace=namespace)
    assert state.get("a", "key") == 1
    assert state.get("a", "key") == 1
    state.close()
    wait_until(lambda: len(raw.client_list()) == before, "all connections are closed")


def test_dropped_manager_leaves_no_connection(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    before = len(raw.client_list())
    state = StateManager(server.url, namespace=namespace)
    state.set("a", "key", 1)
    assert state.get("a", "key") == 1
    del state
    wait_until(lambda: len(raw.client_list()) == before, "all connections are closed")


def test_calls_while_the_manager_is_closed_again_and_again(state: StateManager) -> None:
    is_over = threading.Event()

    def close() -> None:
        while not is_over.wait(0.01):
            state.close()

    state.set("a", "key", {"n": 0})
    closer = threading.Thread(target=close)
    closer.start()
    try:
        for number in range(300):
            assert state.get("a", "key") == {"n": number}
            state.update("a", "key", [{"op": "increment", "path": "/n", "value": 1}])
    finally:
        is_over.set()
        closer.join()

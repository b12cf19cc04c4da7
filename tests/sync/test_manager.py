"""All calls of the sync manager, against a real server."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import TYPE_CHECKING

import pytest

import motia_redis
from motia_redis import KEEP, Entry, Limits
from motia_redis.errors import (
    CorruptValue,
    EventLoopRunning,
    InvalidName,
    InvalidValue,
    RevisionConflict,
    StateError,
    StateUnavailable,
    TestFailed,
    TransactionFailed,
    TransactionMisused,
)
from motia_redis.sync import StateManager, state_manager, stateManager

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


def test_values_are_stored_read_and_deleted(state: StateManager) -> None:
    assert state.get("users", "ann") is None
    assert state.set("users", "ann", {"n": 1}) == {"n": 1}
    assert state.get("users", "ann") == {"n": 1}
    assert state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 2}]) == {"n": 3}
    entry = state.entry("users", "ann")
    assert isinstance(entry, Entry)
    assert state.set("users", "ann", {"n": 4}, ttl=60, if_revision=entry.revision) == {"n": 4}
    assert state.update("users", "ann", [], ttl=KEEP) == {"n": 4}
    assert state.expire("users", "ann", None) is True
    assert state.delete("users", "ann") == {"n": 4}
    assert state.delete("users", "ann") is None


def test_scopes_are_read_as_a_whole(state: StateManager) -> None:
    values = {f"key{number}": number for number in range(1200)}
    state.set_many("many", values, atomic=False)
    assert sorted(state.list("many")) == list(range(1200))
    assert state.items("many") == values
    assert sorted(state.keys("many")) == sorted(values)
    assert dict(state.scan("many")) == values
    assert state.count("many") == 1200
    assert state.list_groups() == ["many"]
    assert state.get_many("many", ["key7", "none"]) == {"key7": 7}
    assert state.delete_many("many", ["key7", "none"]) == 1
    state.clear("many")
    assert state.count("many") == 0


def test_scan_that_is_left_early_reads_no_further(state: StateManager) -> None:
    state.set_many("many", {f"key{number}": number for number in range(2000)}, atomic=False)
    pairs = state.scan("many")
    key, value = next(pairs)
    assert key == f"key{value}"
    pairs.close()  # type: ignore[attr-defined]  # a generator
    assert list(pairs) == []


def test_error_of_a_scan_comes_after_the_values_before_it(state: StateManager, raw: redis.Redis) -> None:
    state.set_many("many", {f"key{number}": number for number in range(10)})
    raw.hset(state.connect().values(b"many").decode(), "key5", "no JSON")
    found = []
    with pytest.raises(CorruptValue):
        found.extend(value for _, value in state.scan("many"))
    assert found == list(range(len(found)))
    with pytest.raises(InvalidName):
        next(state.scan(""))


def test_messages_are_sent_and_cancelled(state: StateManager) -> None:
    assert state.enqueue("mails", {"to": "ann"})
    waiting = state.enqueue("mails", {"to": "ann"}, delay=60)
    assert state.cancel(waiting) is True
    assert state.cancel(waiting) is False


def test_errors_are_those_of_the_async_manager(state: StateManager) -> None:
    state.set("users", "ann", {"n": 1})
    with pytest.raises(InvalidName):
        state.get("", "ann")
    with pytest.raises(InvalidValue, match="ann"):
        state.set("users", "ann", object())
    with pytest.raises(RevisionConflict) as conflict:
        state.set("users", "ann", 1, if_revision=None)
    assert conflict.value.expected is None
    with pytest.raises(TestFailed):
        state.update("users", "ann", [{"op": "test", "path": "/n", "value": 2}])
    with pytest.raises(TypeError):
        state.get("users")  # type: ignore[call-arg]


def test_transaction_is_applied_when_its_block_ends(state: StateManager) -> None:
    with state.transaction() as tx:
        tx.check("{a}/one", "key", None)
        tx.set("{a}/one", "key", 1)
        tx.update("{a}/two", "key", [{"op": "add", "path": "/n", "value": 2}])
        tx.delete("{a}/two", "other")
        tx.enqueue("{a}/mails", {"n": 1})
        assert state.get("{a}/one", "key") is None
    assert tx.values == {("{a}/one", "key"): 1, ("{a}/two", "key"): {"n": 2}}
    assert tx.revisions["{a}/two", "other"] is None
    assert len(tx.message_ids) == 1
    assert state.get("{a}/two", "key") == {"n": 2}


def test_transaction_whose_block_raises_sends_nothing(state: StateManager) -> None:
    def block() -> None:
        with state.transaction() as tx:
            tx.set("a", "key", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert state.get("a", "key") is None


def test_transaction_that_fails_names_the_check(state: StateManager) -> None:
    state.set("a", "key", 1)

    def block() -> None:
        with state.transaction() as tx:
            tx.set("a", "other", 2)
            tx.check("a", "key", None)

    with pytest.raises(TransactionFailed) as failed:
        block()
    assert (failed.value.key, failed.value.index) == ("key", 1)
    assert state.get("a", "other") is None


def test_transaction_without_changes_has_no_results(state: StateManager) -> None:
    with state.transaction() as tx:
        pass
    assert tx.revisions == {}


def test_transaction_is_used_in_one_block_and_does_not_nest(state: StateManager) -> None:
    with state.transaction() as tx, pytest.raises(TransactionMisused, match="do not nest"), state.transaction():
        pass
    with pytest.raises(TransactionMisused, match="used before"), tx:
        pass
    with pytest.raises(TransactionMisused, match=r"inside of `with state\.transaction"):
        tx.set("a", "key", 1)


def test_function_of_modify_runs_in_the_calling_thread_and_may_call_the_manager(state: StateManager) -> None:
    state.set("other", "key", 10)
    assert state.modify("a", "key", lambda value: (value or 0) + state.get("other", "key")) == 10
    assert state.modify("a", "key", lambda value: (value or 0) + state.get("other", "key")) == 20


def test_modify_calls_its_function_again_after_a_conflict(state: StateManager) -> None:
    seen = []

    def add(value: int | None) -> int:
        seen.append(value)
        if len(seen) == 1:
            state.set("a", "key", 5)
        return (value or 0) + 1

    assert state.modify("a", "key", add) == 6
    assert seen == [None, 5]


def test_what_the_function_of_modify_raises_is_raised(state: StateManager) -> None:
    def fail(_: object) -> object:
        raise ZeroDivisionError

    def stop(_: object) -> object:
        raise KeyboardInterrupt

    async def later(_: object) -> object:
        return 1

    with pytest.raises(ZeroDivisionError):
        state.modify("a", "key", fail)
    with pytest.raises(KeyboardInterrupt):
        state.modify("a", "key", stop)
    with pytest.raises(InvalidValue, match="plain function"):
        state.modify("a", "key", later)
    with pytest.raises(StateError, match="takes a function"):
        state.modify("a", "key", 1)  # type: ignore[arg-type]
    assert state.get("a", "key") is None
    assert state.modify("a", "key", lambda _: 1) == 1


def test_closed_manager_connects_again(server: RedisServer, namespace: str) -> None:
    state = StateManager(server.url, namespace=namespace)
    state.set("a", "key", 1)
    state.close()
    state.close()
    assert state.get("a", "key") == 1
    state.close()
    with state, state:
        assert state.get("a", "key") == 1


def test_copies_and_pickles_have_the_same_settings(server: RedisServer, namespace: str) -> None:
    state = StateManager(server.url, namespace=namespace, limits=Limits(name_bytes=7), ttl={"a": 60}, durability_timeout=2)
    for other in (copy.copy(state), pickle.loads(pickle.dumps(state))):
        assert isinstance(other, StateManager)
        assert (other.url, other.namespace, other.limits) == (server.url, namespace, Limits(name_bytes=7))
        assert other.durability.timeout == 2
        with other:
            other.set("a", "key", 1)
            entry = other.entry("a", "key")
            assert entry is not None
            assert entry.expires_at is not None
    assert repr(state) == f"<sync StateManager {server.url} namespace={namespace!r}>"


def test_settings_and_layout_can_be_read(state: StateManager) -> None:
    assert state.connect().layout.partitions == 16
    assert state.settings().deadline == 10
    state.check_layout()
    state.revive()


def test_unreachable_redis_raises_what_the_async_manager_raises(tmp_path: object) -> None:
    state = StateManager(f"unix://{tmp_path}/none.sock", deadline=0)
    with pytest.raises(StateUnavailable, match="cannot reach Redis"):
        state.get("a", "key")
    with pytest.raises(StateUnavailable), state:
        pass
    state.close()


async def test_call_inside_a_running_loop_names_the_async_way(state: StateManager, namespace: str) -> None:
    with pytest.raises(
        EventLoopRunning, match=r"await state\.get\(\.\.\.\)` with motia_redis\.StateManager, .* asyncio.to_thread"
    ):
        state.get("a", "key")
    with pytest.raises(EventLoopRunning, match=r"async with state\.transaction\(\.\.\.\)`"), state.transaction():
        pass
    with pytest.raises(EventLoopRunning, match=r"async for item in state\.scan\(\.\.\.\)`"):
        next(state.scan("a"))
    for misuse in (
        lambda: state.set("a", "key", 1),
        lambda: list(state.scan("a")),
        lambda: state.modify("a", "key", lambda _: 1),
        lambda: state.transaction().__enter__(),
        lambda: state.watch("a").__enter__(),
        lambda: state.mirror("a").__enter__(),
        state.close,
        state.__enter__,
    ):
        with pytest.raises(EventLoopRunning):
            misuse()
    assert await asyncio.to_thread(state.set, "a", "key", 1) == 1
    async with motia_redis.StateManager(state.url, namespace=namespace) as other:
        assert await other.get("a", "key") == 1
    await asyncio.to_thread(state.close)


def test_global_instance_is_a_sync_manager() -> None:
    assert stateManager is state_manager
    assert type(stateManager) is StateManager
    assert issubclass(EventLoopRunning, StateError)

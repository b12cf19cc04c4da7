"""Idempotency keys: a call that is repeated under its key is applied once, and returns the first result."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motia_redis import StateManager
from motia_redis._store import keyspace
from motia_redis._store.keyspace import Layout
from motia_redis.errors import (
    IdempotencyKeyReused,
    RevisionConflict,
    StateError,
)
from tests.store.test_once import INCREMENT, events

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


async def test_call_with_the_same_idempotency_key_returns_the_first_result(
    state: StateManager, second: StateManager, raw: redis.Redis, namespace: str
) -> None:
    for manager in (state, second, state):
        assert await manager.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 1}
    assert await state.update("users", "ann", INCREMENT, idempotency_key="b") == {"n": 2}
    assert await state.update("users", "bob", INCREMENT, idempotency_key="a") == {"n": 1}, "another key of the state"
    for manager in (state, second):
        assert await manager.delete("users", "ann", idempotency_key="c") == {"n": 2}
        assert await manager.delete("users", "nobody", idempotency_key="c") is None
        assert await manager.set("users", "cid", [1], if_revision=None, idempotency_key="d") == [1]
    ids = {await manager.enqueue("mail", "x", idempotency_key="e") for manager in (state, second)}
    assert len(ids) == 1
    await state.set("users", "nobody", 1)
    assert await second.delete("users", "nobody", idempotency_key="c") is None, "nothing was there at the first call"
    assert await state.get("users", "nobody") == 1
    assert len(events(raw, namespace)) == 6


async def test_known_result_of_an_idempotency_key_is_written_again(state: StateManager, raw: redis.Redis) -> None:
    """The wait for replicas or the disk covers what its own connection wrote: without a write it would cover nothing."""

    def writes() -> int:
        info: Any = raw.info("persistence")
        return int(info["rdb_changes_since_last_save"])

    await state.update("users", "ann", INCREMENT, idempotency_key="a")
    before = writes()
    assert await state.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 1}
    assert writes() > before


async def test_idempotency_key_is_rejected_for_another_call(state: StateManager) -> None:
    await state.set("users", "ann", 1, idempotency_key="a")
    for other in (
        state.set("users", "ann", 2, idempotency_key="a"),
        state.update("users", "ann", INCREMENT, idempotency_key="a"),
        state.delete("users", "ann", idempotency_key="a"),
    ):
        with pytest.raises(IdempotencyKeyReused, match="scope 'users' key 'ann'"):
            await other
    assert await state.get("users", "ann") == 1
    with pytest.raises(StateError, match="idempotency_key must not be empty"):
        await state.set("users", "ann", 1, idempotency_key="")


SEPARATORS = ["\n", ":", "\0", "\x1f", "1:"]


@pytest.mark.parametrize("separator", SEPARATORS)
async def test_calls_whose_names_run_together_are_different(server: RedisServer, namespace: str, separator: str) -> None:
    """G4: with a line break in a name, two calls had one record, and the second one was silently not made."""
    parts = ["x", f"{separator}x", f"x{separator}", f"x{separator}x", f"x{separator}x{separator}x"]
    async with StateManager(server.url, namespace=namespace, layout=Layout(1, 1)) as state:  # one partition has all records
        for scope, key, name in product(parts, repeat=3):
            await state.update(scope, key, INCREMENT, idempotency_key=name)
            await state.update(scope, key, INCREMENT, idempotency_key=name)
        assert [await state.get(scope, key) for scope, key in product(parts, repeat=2)] == [{"n": len(parts)}] * len(parts) ** 2
        sent = {await state.enqueue(topic, "same", idempotency_key=name) for topic, name in product(parts, repeat=2)}
        assert len(sent) == len(parts) ** 2


async def test_change_and_message_whose_names_run_together_are_different(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, layout=Layout(1, 1)) as state:
        await state.enqueue("s\nk", "data", idempotency_key="x")
        assert await state.set("s", "k", 1, idempotency_key="x") == 1
        assert await state.get("s", "k") == 1


@given(st.lists(st.lists(st.binary(max_size=4) | st.sampled_from([b"1:a", b":", b"\n"]), max_size=4), min_size=2, max_size=2))
def test_different_parts_never_give_the_same_text(lists: list[list[bytes]]) -> None:
    first, second = lists
    assert (keyspace.join(first) == keyspace.join(second)) == (first == second)


async def test_rejected_call_can_be_repeated_under_its_idempotency_key(state: StateManager) -> None:
    await state.set("users", "ann", 1)
    with pytest.raises(RevisionConflict):
        await state.set("users", "ann", 2, if_revision=None, idempotency_key="a")
    await state.delete("users", "ann")
    assert await state.set("users", "ann", 2, if_revision=None, idempotency_key="a") == 2


async def test_idempotency_keys_are_kept_for_the_configured_time(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async with StateManager(server.url, namespace=namespace, idempotency_seconds=0.05) as state:
        await state.update("users", "ann", INCREMENT, idempotency_key="a")
        await asyncio.sleep(0.1)
        assert await state.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 2}
    async with StateManager(server.url, namespace=namespace) as state:
        await state.update("users", "bob", INCREMENT, idempotency_key="a")
    kept = [raw.pttl(key) for key in raw.scan_iter(f"{{{namespace}:*}}:idempotency:*")]
    assert 86_390_000 < max(kept) <= 86_400_000

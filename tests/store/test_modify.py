"""modify: read a value, call a function with it and store the result, again if somebody else changed the key."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import CorruptValue, InvalidValue, RevisionConflict, StateError, ValueTooLarge

if TYPE_CHECKING:
    import redis


def add_one(value: Any) -> Any:
    return (value or 0) + 1


def values_of(namespace: str, scope: str) -> bytes:
    return Keyspace(namespace, Layout()).values(scope.encode())


async def test_result_of_the_function_is_stored_and_returned(state: StateManager) -> None:
    seen: list[Any] = []

    def function(value: Any) -> Any:
        seen.append(value)
        return {"n": (value or {"n": 0})["n"] + 1}

    assert await state.modify("users", "ann", function) == {"n": 1}
    assert await state.modify("users", "ann", function) == {"n": 2}
    assert await state.get("users", "ann") == {"n": 2}
    assert seen == [None, {"n": 1}]


async def test_async_function_is_awaited(state: StateManager) -> None:
    async def add(by: int, value: Any) -> Any:
        await asyncio.sleep(0)
        return (value or 0) + by

    assert await state.modify("users", "ann", partial(add, 3)) == 3
    assert await state.modify("users", "ann", lambda value: add(4, value)) == 7
    assert await state.get("users", "ann") == 7


async def test_value_changed_in_place_and_returned_is_stored(state: StateManager) -> None:
    stored = await state.set("users", "ann", {"tags": []})

    def function(value: Any) -> Any:
        value["tags"].append("x")
        return value

    assert await state.modify("users", "ann", function) == {"tags": ["x"]}
    assert await state.get("users", "ann") == {"tags": ["x"]}
    assert stored == {"tags": []}, "the function gets a copy"


async def test_equal_value_is_stored_with_a_new_revision(state: StateManager) -> None:
    await state.set("users", "ann", 1)
    before = await state.entry("users", "ann")
    assert await state.modify("users", "ann", lambda value: value) == 1
    after = await state.entry("users", "ann")
    assert before
    assert after
    assert after.revision != before.revision


@pytest.mark.parametrize("value", [0, False, "", [], {}])
async def test_empty_result_is_a_value(state: StateManager, value: Any) -> None:
    assert await state.modify("users", "ann", lambda _: value) == value
    assert await state.get("users", "ann") == value


# -- other changes in between -----------------------------------------------------------------------------------------------


async def test_function_is_called_again_with_the_value_of_another_change(state: StateManager, second: StateManager) -> None:
    seen: list[Any] = []

    async def function(value: Any) -> Any:
        seen.append(value)
        if len(seen) == 1:
            await second.set("users", "ann", 10)
        elif len(seen) == 2:
            await second.delete("users", "ann")
        return add_one(value)

    assert await state.modify("users", "ann", function) == 1
    assert seen == [None, 10, None]
    assert await state.get("users", "ann") == 1


async def test_64_tasks_lose_no_change_of_one_counter(state: StateManager, second: StateManager) -> None:
    managers = [state, second] * 32
    results = await asyncio.gather(*(manager.modify("counters", "n", add_one, attempts=50) for manager in managers))
    assert sorted(results) == list(range(1, 65))
    assert await state.get("counters", "n") == 64


async def test_key_that_changes_each_time_ends_in_a_conflict_that_names_the_attempts(
    state: StateManager, second: StateManager
) -> None:
    calls = 0

    async def function(value: Any) -> Any:
        nonlocal calls
        calls += 1
        await second.set("users", "ann", {"by": "second", "call": calls})
        return {"by": "first"}

    with pytest.raises(RevisionConflict, match="scope 'users' key 'ann': modify gave up after attempts=3") as caught:
        await state.modify("users", "ann", function, attempts=3)
    assert calls == 3
    entry = await state.entry("users", "ann")
    assert entry
    assert entry.value == {"by": "second", "call": 3}
    assert caught.value.actual == entry.revision
    assert caught.value.expected not in (None, entry.revision)


async def test_single_attempt_does_not_wait(state: StateManager, second: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    async def function(value: Any) -> Any:
        await second.set("users", "ann", 1)
        return 2

    def no_pause(*_: object) -> None:
        pytest.fail("the last attempt must not be followed by a pause")

    monkeypatch.setattr("motia_redis._store.changing.Backoff.sleep", no_pause)
    with pytest.raises(RevisionConflict):
        await state.modify("users", "ann", function, attempts=1)


async def test_value_of_another_client_can_be_modified(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    raw.hset(values_of(namespace, "users"), "ann", "41")
    entry = await state.entry("users", "ann")
    assert entry
    assert entry.revision == "0-0"
    assert await state.modify("users", "ann", add_one) == 42
    assert await state.get("users", "ann") == 42


# -- time to live -----------------------------------------------------------------------------------------------------------


async def test_time_to_live_is_kept_unless_another_is_given(state: StateManager) -> None:
    async def expires_at() -> float | None:
        entry = await state.entry("users", "ann")
        assert entry
        return entry.expires_at

    await state.set("users", "ann", 1, ttl=60)
    first = await expires_at()
    assert first is not None
    await state.modify("users", "ann", add_one)
    assert await expires_at() == first
    await state.modify("users", "ann", add_one, ttl=600)
    later = await expires_at()
    assert later is not None
    assert later > time.time() + 500
    await state.modify("users", "ann", add_one, ttl=None)
    assert await expires_at() is None
    assert await state.get("users", "ann") == 4


async def test_expired_value_is_no_value(state: StateManager) -> None:
    await state.set("users", "ann", 41, ttl=0.001)
    await asyncio.sleep(0.01)  # by the clock of this machine the value has expired now
    assert await state.modify("users", "ann", add_one) == 1
    entry = await state.entry("users", "ann")
    assert entry
    assert entry.expires_at is None


# -- what the function must not do ------------------------------------------------------------------------------------------


async def test_function_that_raises_changes_nothing(state: StateManager) -> None:
    await state.set("users", "ann", {"n": 1})
    before = await state.entry("users", "ann")

    def function(value: Any) -> Any:
        value["n"] = 2
        raise ZeroDivisionError("by the function")

    async def later(value: Any) -> Any:
        return function(value)

    for each in (function, later):
        with pytest.raises(ZeroDivisionError, match="by the function"):
            await state.modify("users", "ann", each)
    assert await state.entry("users", "ann") == before


async def test_conflict_that_the_function_raises_is_not_taken_for_its_own(state: StateManager) -> None:
    calls = 0

    async def function(_: Any) -> Any:
        nonlocal calls
        calls += 1
        await state.set("users", "bob", 1, if_revision="1-0")

    with pytest.raises(RevisionConflict, match="key 'bob'"):
        await state.modify("users", "ann", function)
    assert calls == 1


async def test_function_that_returns_none_is_rejected_and_changes_nothing(state: StateManager) -> None:
    await state.set("users", "ann", {"n": 1})
    before = await state.entry("users", "ann")

    async def nothing(_: Any) -> None:
        pass

    for function in (lambda value: value.clear(), nothing):
        with pytest.raises(
            InvalidValue, match=r"key 'ann': the function of modify returned None: return the new value.*delete\(\)"
        ):
            await state.modify("users", "ann", function)
    assert await state.entry("users", "ann") == before


async def test_result_that_cannot_be_stored_is_rejected(state: StateManager) -> None:
    with pytest.raises(InvalidValue, match="set is not a JSON value"):
        await state.modify("users", "ann", lambda _: {1})
    with pytest.raises(ValueTooLarge):
        await state.modify("users", "ann", lambda _: "x" * state.limits.value_bytes)
    assert await state.entry("users", "ann") is None


async def test_corrupt_value_is_reported_and_the_function_not_called(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    raw.hset(values_of(namespace, "users"), "ann", "{")
    with pytest.raises(CorruptValue, match="key 'ann'"):
        await state.modify("users", "ann", lambda _: pytest.fail("called"))


@pytest.mark.parametrize("attempts", [0, -1, True, 1.5, "3", None])
async def test_wrong_attempts_are_rejected_before_anything_is_sent(attempts: Any) -> None:
    with pytest.raises(StateError, match="attempts of modify must be a number from 1"):
        await StateManager("redis://127.0.0.1:1").modify("users", "ann", add_one, attempts=attempts)


async def test_value_in_place_of_a_function_is_rejected_before_anything_is_sent() -> None:
    value: Any = {"name": "Ann"}
    with pytest.raises(StateError, match="modify takes a function"):
        await StateManager("redis://127.0.0.1:1").modify("users", "ann", value)

"""get_many: the values of several keys, at one moment or in pages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._scripts import storage
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.scans import PAGE_BYTES
from motia_redis._transport.failures import ConnectionLost
from motia_redis.errors import CorruptValue, InvalidName, StateError, TooManyKeys

if TYPE_CHECKING:
    import redis


both = pytest.mark.parametrize("atomic", [True, False])


def count_commands(raw: redis.Redis, *names: str) -> int:
    """Return how many commands of these names the server has counted."""
    stats: Any = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def values_of(namespace: str, scope: str) -> bytes:
    return Keyspace(namespace, Layout()).values(scope.encode())


def fill(raw: redis.Redis, namespace: str, scope: str, count: int) -> dict[str, Any]:
    """Store values as another client would, and return them."""
    raw.hset(values_of(namespace, scope), mapping={f"key {number}": f"{number}" for number in range(count)})
    return {f"key {number}": number for number in range(count)}


@both
async def test_keys_with_a_value_are_returned_in_the_order_given(state: StateManager, atomic: bool) -> None:
    for key, value in (("ann", {"n": 1}), ("bob", None), ("cy", [])):
        await state.set("users", key, value)
    found = await state.get_many("users", ["cy", "nobody", "bob", "cy", "ann", "bob"], atomic=atomic)
    assert list(found.items()) == [("cy", []), ("bob", None), ("ann", {"n": 1})]
    assert await state.get_many("users", ["nobody"], atomic=atomic) == {}
    assert await state.get_many("nothing", ["ann"], atomic=atomic) == {}


@both
async def test_any_iterable_of_keys_is_accepted(state: StateManager, atomic: bool) -> None:
    await state.set("users", "ключ", 1)
    await state.set("users", "a\x00b", 2)
    wanted = {"ключ": 1, "a\x00b": 2}
    for keys in (tuple(wanted), set(wanted), wanted, wanted.keys(), (key for key in wanted)):
        assert await state.get_many("users", keys, atomic=atomic) == wanted


@both
async def test_expired_value_is_not_shown(state: StateManager, atomic: bool) -> None:
    await state.set("users", "ann", 1, ttl=0.001)
    await state.set("users", "bob", 2, ttl=60)
    await asyncio.sleep(0.01)  # by the clock of this machine the value has expired now
    assert await state.get_many("users", ["ann", "bob"], atomic=atomic) == {"bob": 2}


async def test_no_keys_need_no_redis_but_a_valid_scope() -> None:
    state = StateManager("redis://127.0.0.1:1")
    assert await state.get_many("users", []) == {}
    assert await state.get_many("users", iter(()), atomic=False) == {}
    with pytest.raises(InvalidName, match="the scope must not be empty"):
        await state.get_many("", [])


@pytest.mark.parametrize("keys", ["ann", b"ann", ["ann", b"bob"], ["ann", None], [["ann"]], ["ann", ""], ["lone \ud800"]])
@both
async def test_wrong_keys_are_rejected_before_anything_is_sent(keys: Any, atomic: bool) -> None:
    state = StateManager("redis://127.0.0.1:1")
    with pytest.raises(InvalidName):
        await state.get_many("users", keys, atomic=atomic)


async def test_one_string_in_place_of_several_is_named(state: StateManager) -> None:
    with pytest.raises(InvalidName, match="scope 'users': get_many takes several keys, such as a list, not one: 'ann'"):
        await state.get_many("users", "ann")


# -- one moment -------------------------------------------------------------------------------------------------------------


async def test_a_thousand_keys_are_read_by_one_command(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    wanted = fill(raw, namespace, "many", 1000)
    before = count_commands(raw, "hmget", "hget")
    assert await state.get_many("many", [*wanted, *wanted]) == wanted, "the same key twice counts once"
    assert count_commands(raw, "hmget", "hget") == before + 1


async def test_more_keys_than_one_moment_allows_are_rejected() -> None:
    state = StateManager("redis://127.0.0.1:1")
    keys = [f"key {number}" for number in range(1001)]
    with pytest.raises(
        TooManyKeys, match=r"scope 'many': get_many reads at most 1000 keys in one moment, not 1001: .*atomic=False"
    ):
        await state.get_many("many", keys)
    assert issubclass(TooManyKeys, StateError)


async def test_no_change_happens_between_the_values(state: StateManager, second: StateManager) -> None:
    """The writer changes the keys in order, so at one moment no key is ahead of the one before it."""
    keys = [str(number) for number in range(300)]
    reading = True

    async def write() -> None:
        number = 0
        while reading:
            number += 1
            for key in keys:
                await second.set("users", key, number)

    await asyncio.gather(*(state.set("users", key, 0) for key in keys))
    writer = asyncio.create_task(write())
    try:
        for _ in range(200):
            found = list((await state.get_many("users", keys)).values())
            assert found == sorted(found, reverse=True)
            assert found[0] - found[-1] <= 1
    finally:
        reading = False
        await writer


# -- pages ------------------------------------------------------------------------------------------------------------------


async def test_any_number_of_keys_is_read_in_pages(state: StateManager, raw: redis.Redis, namespace: str, each_way: None) -> None:
    wanted = fill(raw, namespace, "many", 3000)
    keys = [key for number in range(3000) for key in (f"key {number}", f"missing {number}")]
    calls = count_commands(raw, "fcall", "evalsha")
    found = await state.get_many("many", keys, atomic=False)
    assert list(found.items()) == list(wanted.items())
    assert count_commands(raw, "fcall", "evalsha") <= calls + 6000 / 500 + 4, "few calls for the keys of this size"


async def test_pages_are_bounded_by_the_bytes_of_the_values(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = storage.scan_items

    async def scan_items(*arguments: Any, **more: Any) -> storage.ItemsPage:
        page = await original(*arguments, **more)
        sizes.append(sum(map(len, page.items.values())))
        return page

    wanted = {f"small {number}": number for number in range(600)}
    wanted |= {f"large {number}": "x" * 100_000 * (1 + number % 3) for number in range(30)}
    for key, value in wanted.items():
        await state.set("mixed", key, value)
    monkeypatch.setattr(storage, "scan_items", scan_items)
    assert await state.get_many("mixed", wanted, atomic=False) == wanted
    assert max(sizes) <= max(PAGE_BYTES, 300_100)
    assert len(sizes) <= 40


async def test_page_is_read_again_after_a_failed_attempt(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {str(number): number for number in range(1200)}
    await asyncio.gather(*(state.set("many", key, value) for key, value in wanted.items()))
    original = storage.scan_items
    calls = 0

    async def scan_items(*arguments: Any, **more: Any) -> storage.ItemsPage:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionLost("cut by the test")
        return await original(*arguments, **more)

    monkeypatch.setattr(storage, "scan_items", scan_items)
    assert list((await state.get_many("many", wanted, atomic=False)).items()) == list(wanted.items())
    assert calls == 4


# -- faults -----------------------------------------------------------------------------------------------------------------


@both
async def test_corrupt_value_error_names_scope_and_key(
    state: StateManager, raw: redis.Redis, namespace: str, atomic: bool
) -> None:
    await state.set("users", "ann", 1)
    raw.hset(values_of(namespace, "users"), "bob", "{")
    with pytest.raises(CorruptValue, match="scope 'users' key 'bob': the stored text is not JSON"):
        await state.get_many("users", ["ann", "bob"], atomic=atomic)
    assert await state.get_many("users", ["ann"], atomic=atomic) == {"ann": 1}

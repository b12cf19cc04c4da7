"""Scans: keys, items, count and scan of a scope, and the size of their pages."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis._store import codec
from motia_redis._store.scans import PAGE_BYTES, PAGE_ITEMS, PageSize
from motia_redis._transport.failures import ConnectionLost
from motia_redis._transport.router import Router
from motia_redis.errors import CorruptValue, InvalidName
from tests.support.scripts import CALLS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from motia_redis import StateManager


async def test_list_items_keys_count_and_scan_agree(state: StateManager) -> None:
    wanted = {f"key {number} ☃": {"n": number} for number in range(2000)}
    await asyncio.gather(*(state.set("big", key, value) for key, value in wanted.items()))
    assert await state.items("big") == wanted
    assert sorted(await state.keys("big")) == sorted(wanted)
    assert await state.count("big") == 2000
    assert {key: value async for key, value in state.scan("big")} == wanted
    assert sorted(value["n"] for value in await state.list("big")) == list(range(2000))


async def test_empty_scope_has_no_items_and_invalid_name_is_rejected(state: StateManager) -> None:
    assert (await state.keys("none"), await state.items("none"), await state.count("none")) == ([], {}, 0)
    assert [item async for item in state.scan("none")] == []
    for call in (state.keys(""), state.items(""), state.count("")):
        with pytest.raises(InvalidName, match="scope must not be empty"):
            await call


async def test_existing_keys_are_returned_once_while_other_keys_change(state: StateManager) -> None:
    stays = {f"stays{number}" for number in range(1500)}
    await asyncio.gather(*(state.set("busy", key, 1) for key in stays))
    stop = asyncio.Event()

    async def come_and_go() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            names = [f"passes{number}.{index}" for index in range(200)]
            await asyncio.gather(*(state.set("busy", name, 1) for name in names))
            await asyncio.gather(*(state.delete("busy", name) for name in names))

    moving = asyncio.create_task(come_and_go())
    for _ in range(5):
        keys = await state.keys("busy")
        assert len(keys) == len(set(keys))
        assert stays <= set(keys)
        assert stays <= (await state.items("busy")).keys()
    stop.set()
    await moving


async def test_corrupt_value_error_names_scope_and_key(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", 1)
    raw.hset((await state.connect()).values(b"users"), "bob", "{broken")
    with pytest.raises(CorruptValue, match="scope 'users' key 'bob'"):
        await state.items("users")
    assert sorted(await state.keys("users")) == ["ann", "bob"]


async def test_scan_yields_what_comes_before_a_corrupt_value_and_decodes_nothing_ahead(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state.set_many("users", {str(number): number for number in range(30)})
    decoded = 0
    loads = codec.orjson.loads

    def noted(text: bytes) -> Any:
        nonlocal decoded
        decoded += 1
        return loads(text)

    order = [key async for key, _ in state.scan("users")]
    values = (await state.connect()).values(b"users")
    raw.hset(values, order[20], "{broken")
    monkeypatch.setattr(codec.orjson, "loads", noted)
    seen = []

    async def read() -> None:
        async for key, value in state.scan("users"):
            seen.append((key, value))
            assert decoded == len(seen), "a value is decoded when it is yielded"

    with pytest.raises(CorruptValue, match=f"scope 'users' key '{order[20]}'"):
        await read()
    assert seen == [(key, int(key)) for key in order[:20]]


async def test_scan_reads_the_next_page_while_one_is_processed_and_cancels_it_when_closed(
    state: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state.set_many("big", {str(number): "x" * 1000 for number in range(500)}, atomic=False)
    asked = 0
    original = Router.execute_at

    async def execute_at(router: Router, address: str, *command: Any) -> Any:
        nonlocal asked
        asked += 1
        return await original(router, address, *command)

    monkeypatch.setattr(Router, "execute_at", execute_at)
    scan: AsyncGenerator[tuple[str, Any]] = state.scan("big")  # type: ignore[assignment]  # it is one
    await anext(scan)
    assert asked == 2
    await scan.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_keys_that_are_not_utf_8_are_read_beside_others(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", 1)
    raw.hset((await state.connect()).values(b"users"), b"\xff", "2")
    wanted = {"ann": 1, "\udcff": 2}
    assert await state.items("users") == wanted
    assert dict([pair async for pair in state.scan("users")]) == wanted
    assert sorted(await state.keys("users")) == sorted(wanted)


async def test_list_reads_ahead_and_cancels_its_read_on_error(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.gather(*(state.set("big", str(number), "x" * 1000) for number in range(1000)))
    assert len(await state.list("big")) == 1000, "the server knows the script"
    asked, decoded = 0, []
    original, loads = Router.execute_at, codec.orjson.loads

    async def execute_at(router: Router, address: str, *command: Any) -> Any:
        nonlocal asked
        asked += 1
        return await original(router, address, *command)

    def noted(text: bytes) -> Any:
        decoded.append(asked)
        return loads(text)

    with monkeypatch.context() as patched:
        patched.setattr(Router, "execute_at", execute_at)
        patched.setattr(codec.orjson, "loads", noted)
        assert len(await state.list("big")) == 1000
    assert decoded[0] == 2, "the second page was asked for before the first one was decoded"
    raw.hset((await state.connect()).values(b"big"), mapping={str(number): "{broken" for number in range(1000)})
    with pytest.raises(CorruptValue, match="scope 'big' key '"):
        await state.list("big")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def watch_pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that gets the items and bytes of every page that is read."""
    pages: list[tuple[int, int]] = []
    original = PageSize.record_page

    def record_page(size: PageSize, items: int, bytes_read: int) -> None:
        pages.append((items, bytes_read))
        original(size, items, bytes_read)

    monkeypatch.setattr(PageSize, "record_page", record_page)
    return pages


def can_list_names_alone(raw: redis.Redis) -> bool:
    """Return whether HSCAN of this server can leave the values out: since Redis 7.4 and Valkey 8."""
    try:
        raw.hset("hash of test_scan", "key", "value")
        raw.execute_command("HSCAN", "hash of test_scan", 0, "NOVALUES")
    except redis.ResponseError:
        return False
    return True


async def test_large_values_are_read_in_small_pages(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        await state.set("big", str(number), "x" * 1_000_000)
    pages = watch_pages(monkeypatch)
    assert len(await state.items("big")) == 40
    if can_list_names_alone(raw):
        assert {items for items, _ in pages} <= {0, 1}
    else:
        assert max(size for _, size in pages) <= 8_100_000, "a page is one bucket of the hash, mostly of one or two items"
    read = len(pages)
    async for _ in state.scan("big"):
        break
    assert len(pages) <= read + 1, "breaking out early stops further reads"
    assert len(await state.keys("big")) == 40


async def test_values_of_mixed_sizes_are_read_in_pages_of_the_target_size(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {f"{number}": "x" * (number % 10 * 20_000) for number in range(200)}
    for key, value in wanted.items():
        await state.set("mixed", key, value)
    pages = watch_pages(monkeypatch)
    assert await state.items("mixed") == wanted
    if can_list_names_alone(raw):
        assert max(size for _, size in pages) < PAGE_BYTES + 180_100


async def test_keys_deleted_while_their_page_is_read_are_left_out(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {str(number): "x" * 200_000 for number in range(20)}
    for key, value in wanted.items():
        await state.set("big", key, value)
    found = {}
    async for key, value in state.scan("big"):
        found[key] = value
        if len(found) == 1:
            for other in range(10, 20):
                await state.delete("big", str(other))
    assert {key: found[key] for key in map(str, range(10))} == {key: wanted[key] for key in map(str, range(10))}
    assert found.keys() <= wanted.keys()


async def test_scan_starts_again_after_a_failed_attempt(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(600):
        await state.set("users", str(number), number)
    assert len(await state.list("users")) == 600, "the server knows the script"
    original, cursors = Router.execute_at, []

    async def execute_at(router: Router, address: str, *command: Any) -> Any:
        cursors.append(command[4 if command[0] in CALLS else 2])
        if len(cursors) == 3:
            raise ConnectionLost("the reply got lost")
        return await original(router, address, *command)

    monkeypatch.setattr(Router, "execute_at", execute_at)
    assert len(await state.list("users")) == 600
    assert cursors[0] == cursors[3] == 0


async def test_list_uses_little_more_memory_than_its_result(state: StateManager) -> None:
    for first in range(0, 10_000, 500):
        await asyncio.gather(*(state.set("big", str(number), "x" * 1000) for number in range(first, first + 500)))
    tracemalloc.start()
    try:
        values = await state.list("big")
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(values) == 10_000
    assert peak < 1.3 * size


async def test_clear_continues_after_an_interruption(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1200):
        await state.set("users", str(number), number)
    original = Router.gather
    pages = 0

    async def gather(router: Router, calls: Any, **options: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise asyncio.CancelledError
        return await original(router, calls, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Router, "gather", gather)
        with pytest.raises(asyncio.CancelledError):
            await state.clear("users")
    assert 0 < await state.count("users") < 1200
    await state.clear("users")
    assert await state.count("users") == 0
    streams: Any = raw.scan_iter(f"{{{namespace}:*}}:events:*")
    kinds = [(f[b"key"], f[b"type"]) for stream in streams for _, f in raw.xrange(stream)]
    assert len(kinds) == len(set(kinds)) == 2400, "created once and deleted once"


def test_page_size_grows_up_to_the_byte_limit() -> None:
    size = PageSize()
    assert size.count == 1
    for _ in range(5):
        size.record_page(size.count, size.count * 10)
    assert size.count == PAGE_ITEMS
    size = PageSize()
    for _ in range(5):
        size.record_page(size.count, size.count * 10_000)
    assert size.count == PAGE_BYTES // 10_000
    size.record_page(1, 4_000_000)
    assert size.count == 1, "one big value makes the next pages small"
    size = PageSize()
    size.record_page(0, 0)
    assert size.count > 1, "an empty page tells nothing of sizes"

"""Trimming: unneeded entries are removed soon, in short steps, and the first remaining id is recorded (lib/retention.lua)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from motia_redis import StateManager
from motia_redis._store import mutations
from motia_redis._store.keyspace import Keyspace, Layout

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

#: Old events: ARGV[1] of them, of ARGV[2] bytes each.
_FILL = """
for number = 1, ARGV[1] do
  redis.call("XADD", KEYS[1], 1000 + number .. "-0", "type", "state:created", "new", string.rep("x", ARGV[2]))
end
"""


@pytest.fixture
def lane(namespace: str) -> bytes:
    return Keyspace(namespace, Layout()).state_keys(b"users", b"ann").events


def fill(raw: redis.Redis, lane: bytes, count: int, size: int) -> None:
    raw.eval(_FILL, 1, lane, count, size)  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("every_change_looks")
async def test_three_trims_clear_ten_thousand_small_events(state: StateManager, raw: redis.Redis, lane: bytes) -> None:
    fill(raw, lane, 10_000, 200)
    for number in range(3):
        await state.set("users", "ann", number)
    assert raw.xlen(lane) < 110, "the new ones, and what shares a node with them"


@pytest.mark.usefixtures("every_change_looks")
@pytest.mark.parametrize(("size", "least", "most"), [(200, 4000, 5000), (5000, 200, 400), (100_000, 90, 110)])
async def test_one_trim_removes_a_bounded_number_of_bytes(
    state: StateManager, raw: redis.Redis, lane: bytes, size: int, least: int, most: int
) -> None:
    count = 2 * most
    fill(raw, lane, count, size)
    for looks in (1, 2):
        await state.set("users", "ann", looks)
        gone = count + looks - raw.xlen(lane)
        assert looks * least <= gone <= min(looks * most, count)


@pytest.mark.usefixtures("every_change_looks")
async def test_trim_records_the_first_remaining_id(state: StateManager, raw: redis.Redis, namespace: str, lane: bytes) -> None:
    fill(raw, lane, 20_000, 200)
    await state.set("users", "ann", 1)
    first: Any = raw.xrange(lane, count=1)
    assert raw.hget(Keyspace(namespace, Layout()).trimmed(lane), b"floor " + lane) == first[0][0]


@pytest.mark.usefixtures("every_change_looks")
async def test_streams_with_large_nodes_are_trimmed(state: StateManager, raw: redis.Redis, lane: bytes) -> None:
    usual = raw.config_get("stream-node-max-*")
    raw.config_set("stream-node-max-entries", 1000)
    raw.config_set("stream-node-max-bytes", 0)
    try:
        fill(raw, lane, 5500, 200)
        await state.set("users", "ann", 1)
        assert raw.xlen(lane) == 501, "the last node, which is not old as a whole"
    finally:
        for name, value in usual.items():
            raw.config_set(name, value)


@pytest.mark.usefixtures("every_change_looks")
async def test_trim_keeps_entries_that_a_consumer_group_needs(state: StateManager, raw: redis.Redis, lane: bytes) -> None:
    fill(raw, lane, 5000, 200)
    raw.xgroup_create(lane, "step", "4000-0")  # it has had 3000 of them
    await state.set("users", "ann", 1)
    first: Any = raw.xrange(lane, count=1)
    assert b"3900-0" < first[0][0] <= b"4001-0", "whole nodes go"


def test_one_write_in_64_trims(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "generator", random.Random(1))
    monkeypatch.setattr(mutations, "monotonic", lambda: 1000.0)
    manager = StateManager(server.url)
    looks = sum(manager._mutations._trims_now() for _ in range(64_000))
    assert 900 < looks < 1100


def test_first_write_after_a_pause_trims(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "generator", Mock(getrandbits=lambda _: 1))  # never by chance
    times = [1000.0, 1000.05, 1000.11, 1000.2, 1001.0, 1001.01]
    monkeypatch.setattr(mutations, "monotonic", iter(times).__next__)
    manager = StateManager(server.url)
    looks = [manager._mutations._trims_now() for _ in times]
    assert looks == [True, False, True, False, True, False]

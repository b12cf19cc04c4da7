"""Trimming: unneeded entries are removed soon, in short steps, and the first remaining id is recorded (lib/retention.lua)."""

from __future__ import annotations

import random
import shutil
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from motia_redis import Retention, StateManager
from motia_redis._scripts import loader
from motia_redis._store import mutations
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import StateError, StateUnavailable
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


# -- bytes ----------------------------------------------------------------------------------------------------------------


def first_id(raw: redis.Redis, lane: bytes) -> bytes:
    entries: Any = raw.xrange(lane, count=1)
    return bytes(entries[0][0])


MANY = Retention(entries=100_000, seconds=10**9, bytes=1_000_000)


@pytest.mark.usefixtures("every_change_looks")
@pytest.mark.parametrize("size", [200, 20_000])
async def test_stream_over_its_bytes_loses_its_oldest_entries(
    server: RedisServer, raw: redis.Redis, namespace: str, lane: bytes, size: int
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=MANY, deadline=0) as state:
        fill(raw, lane, 4_000_000 // size, size)
        for number in range(6):
            await state.set("users", "ann", number)
    assert 850_000 < raw.memory_usage(lane) < 1_050_000


@pytest.mark.usefixtures("every_change_looks")
async def test_bytes_do_not_remove_what_a_group_or_a_repeated_call_needs(
    server: RedisServer, raw: redis.Redis, namespace: str, lane: bytes
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=MANY) as state:
        fill(raw, lane, 100, 20_000)
        raw.xgroup_create(lane, "step", "1030-0")
        for number in range(150):
            await state.set("users", "ann", f"{number}{'x' * 20_000}")
        assert first_id(raw, lane) == b"1030-0", "the group has handled entries up to this one"
        raw.xgroup_setid(lane, "step", "$")
        await state.set("users", "ann", 1)
        await state.set("users", "ann", 1)
        assert raw.xlen(lane) == 152, "the changes of the last 20 s"


# -- topics that no step consumes yet ------------------------------------------------------------------------------------------


@pytest.fixture
def mail(namespace: str) -> bytes:
    names = Keyspace(namespace, Layout())
    return names.topic(b"mail", names.lane(b"ann"))


@pytest.mark.usefixtures("every_change_looks")
async def test_topic_without_group_keeps_its_messages(server: RedisServer, raw: redis.Redis, namespace: str, mail: bytes) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(entries=10), deadline=0) as state:
        for number in range(1000):
            await state.enqueue("mail", number, key="ann")
        assert raw.xlen(mail) == 1000
        names = await state.connect()
        assert raw.smembers(names.topics(names.partition(b"mail"))) == {b"mail"}
        raw.xgroup_create(mail, "step", "$")
        await state.enqueue("mail", 1, key="ann")
        assert raw.xlen(mail) < 150, "the group needs one of them"


@pytest.mark.usefixtures("every_change_looks")
@pytest.mark.parametrize("limit", [{"topic_entries": 8 * 300}, {"topic_bytes": 8 * 300 * 128}], ids=["entries", "bytes"])
async def test_messages_over_the_limit_of_a_topic_are_dropped_counted_and_logged(
    server: RedisServer, raw: redis.Redis, namespace: str, mail: bytes, limit: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(**limit)) as state:
        for number in range(1000):
            await state.enqueue("mail", f"{number}{'x' * 20}", key="ann")
        trimmed = (await state.connect()).trimmed(mail)
    kept = raw.xlen(mail)
    if "topic_entries" in limit:
        assert 300 <= kept <= 400, "the limit is for all lanes of the topic"
    else:
        assert 30_000 < raw.memory_usage(mail) < 45_000
    assert int(raw.hget(trimmed, b"dropped " + mail) or 0) == 1000 - kept
    assert "entries were dropped that no step had handled" in caplog.text


@pytest.mark.usefixtures("every_change_looks")
async def test_messages_of_a_topic_without_group_have_an_age(
    server: RedisServer, raw: redis.Redis, namespace: str, mail: bytes
) -> None:
    fill(raw, mail, 1000, 200)
    async with StateManager(server.url, namespace=namespace) as state:
        await state.enqueue("mail", 1, key="ann")
        assert raw.xlen(mail) < 110, "whole nodes go"
        assert not raw.hexists((await state.connect()).trimmed(mail), b"dropped " + mail)


async def test_refused_message_does_not_put_its_topic_on_record(raw: redis.Redis, state: StateManager, mail: bytes) -> None:
    raw.set(mail, "text")
    with pytest.raises(StateUnavailable, match="holds another type"):
        await state.enqueue("mail", 1, key="ann")
    names = await state.connect()
    assert not raw.exists(names.topics(names.partition(b"mail")))


# -- a clock that was set back ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_change_looks")
async def test_trimming_goes_on_while_ids_are_ahead_of_the_clock(
    server: RedisServer, raw: redis.Redis, namespace: str, lane: bytes
) -> None:
    """The server's clock was an hour ahead and was set back: new ids stay an hour ahead."""
    kept = Retention(entries=0, seconds=0.5)
    async with StateManager(server.url, namespace=namespace, retention=kept, deadline=0) as state:
        ahead = f"{int(time.time() * 1000) + 3_600_000}-0"
        raw.xadd(lane, {"type": "other"}, id=ahead)
        for number in range(500):
            await state.set("users", "ann", number)
        assert raw.xlen(lane) == 501, "they are young"

        async def trimmed() -> bool:
            await state.set("users", "ann", 1)
            return raw.xlen(lane) < 400

        await until(trimmed, "entries that were there half a second ago go")
        assert first_id(raw, lane).startswith(ahead.partition("-")[0].encode())


@pytest.mark.usefixtures("every_change_looks")
async def test_floor_of_an_emptied_stream_is_behind_ids_ahead_of_the_clock(
    server: RedisServer, raw: redis.Redis, namespace: str, lane: bytes
) -> None:
    ahead = int(time.time() * 1000) + 3_600_000
    raw.eval(
        "for n = 1, 200 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. n, 'new', string.rep('x', 5000)) end", 1, lane, ahead
    )
    kept = Retention(entries=0, most_entries=0)
    async with StateManager(server.url, namespace=namespace, retention=kept, deadline=0) as state:
        await state.set("users", "ann", "x" * 5000)
        floor = raw.hget((await state.connect()).trimmed(lane), b"floor " + lane) or b""
    assert int(floor.partition(b"-")[0]) >= ahead


# -- dead letters ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trim_dead(raw: redis.Redis, tmp_path: Path) -> Callable[[str], int]:
    """Return a function that trims the stream `dead` to limits by lib/retention.lua."""
    shutil.copytree(loader.directory() / "lib", tmp_path / "lib")
    (tmp_path / "trim.lua").write_text(
        'return require("lib.retention").trim_dead(redis.call, KEYS[1], KEYS[2], ARGV[1], ARGV[2])\n'
    )
    source = loader.assemble("trim", tmp_path)

    def trim(limits: str) -> int:
        newest: Any = raw.xinfo_stream("dead")["last-generated-id"]  # type: ignore[index]
        return int(raw.eval(source, 2, "dead", "dead:trimmed", limits, newest))  # type: ignore[no-untyped-call]

    raw.delete("dead", "dead:trimmed")
    return trim


@pytest.mark.parametrize(("count", "cap"), [(11, 10), (150, 10), (10_000, 1_000)])
def test_dead_letters_over_their_cap_are_dropped_and_counted(
    raw: redis.Redis, trim_dead: Callable[[str], int], count: int, cap: int
) -> None:
    for number in range(count):
        raw.xadd("dead", {"n": number})
    dropped = trim_dead(f"{cap}:1000000")
    assert count - cap - 100 <= dropped <= count - cap, "of many, whole nodes go"
    assert raw.xlen("dead") == count - dropped
    dropped += trim_dead(f"{cap}:1000000")
    assert raw.xlen("dead") == cap
    assert int(raw.hget("dead:trimmed", "dropped dead") or 0) == dropped == count - cap
    assert trim_dead(f"{cap}:1000000") == 0


def test_dead_letters_over_their_age_are_dropped_to_the_last_one(raw: redis.Redis, trim_dead: Callable[[str], int]) -> None:
    fill(raw, b"dead", 250, 10)
    raw.xadd("dead", {"n": 1})
    assert trim_dead("1000:3600000") == 250
    assert raw.xlen("dead") == 1
    assert raw.hget("dead:trimmed", "dropped dead") == b"250"


@pytest.mark.parametrize("settings", [{"bytes": -1}, {"topic_seconds": -1.0}, {"dead_letters": 0}, {"dead_letter_seconds": 1e11}])
def test_limits_that_are_not_valid_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="retention "):
        Retention(**settings)

"""A Redis over maxmemory: what frees memory works, what stores more is refused (lua/lib/full.lua), on every server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import forget_step
from motia_redis._store import effects
from motia_redis.errors import OutcomeUnknown, StateUnavailable
from tests.store.test_effects import begin
from tests.store.test_once import Faults
from tests.support.clocks import set_namespace_clock
from tests.support.servers import PACKAGED, RedisServer, packaged
from tests.support.waiting import within_deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path

    from motia_redis._store.keyspace import StateKeys

pytestmark = pytest.mark.usefixtures("each_way")

VALUE = "x" * 20_000


@pytest.fixture(params=PACKAGED)
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Give a plain client of a server that only this test uses."""
    try:
        monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged(request.param)))
    except ImportError as error:
        pytest.skip(str(error))
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def manager(own: redis.Redis) -> AsyncIterator[StateManager]:
    url = f"unix://{own.connection_pool.connection_kwargs['path']}"
    async with StateManager(url, namespace="full") as state:
        yield state


def used_memory(own: redis.Redis) -> int:
    info: Any = own.info("memory")
    return int(info["used_memory"])


def bytes_of_keys(own: redis.Redis) -> int:
    """Return the memory of all keys: without that of Lua, whose garbage collector runs when it likes."""
    sizes: list[Any] = [own.memory_usage(key, samples=0) for key in own.scan_iter()]
    return sum(sizes)


def fill_up(own: redis.Redis, over: int = 400_000) -> None:
    """Set maxmemory below the memory that is used: by more than the buffer that the function library came in, which is freed."""
    own.config_set("maxmemory", used_memory(own) - over)


async def refuses(call: Awaitable[Any]) -> None:
    with pytest.raises(StateUnavailable, match=r"is full \(maxmemory\): nothing was changed") as caught:
        await call
    assert not caught.value.maybe_applied


def keys_of(names: Any, scope: str, key: str) -> StateKeys:
    keys: StateKeys = names.state_keys(scope.encode(), key.encode())
    return keys


async def test_writes_are_refused_and_deletions_work(own: redis.Redis, manager: StateManager) -> None:
    await manager.set("users", "ann", {"n": 1})
    await manager.set("users", "bob", {"n": 1})
    await manager.enqueue("mail", 1, key="a")
    fill_up(own)
    for key in ("ann", "new"):
        for options in ({}, {"idempotency_key": "a"}):
            await refuses(manager.set("users", key, 1, **options))
            await refuses(manager.update("users", key, [{"op": "add", "path": "/m", "value": 1}], **options))
    await refuses(manager.enqueue("mail", 2, key="a"))
    await refuses(manager.enqueue("mail", 2, key="a", idempotency_key="a"))
    await refuses(manager.enqueue("other", 2))
    assert await manager.items("users") == {"ann": {"n": 1}, "bob": {"n": 1}}
    assert await manager.delete("users", "ann") == {"n": 1}
    assert await manager.delete("users", "ann") is None
    assert await manager.delete("users", "nobody", idempotency_key="a") is None
    assert await manager.delete("users", "bob", idempotency_key="b") == {"n": 1}
    assert await manager.delete("users", "bob", idempotency_key="b") == {"n": 1}, "the first result"
    assert await manager.list_groups() == []


async def test_transactions_are_refused_but_for_deletions(own: redis.Redis, manager: StateManager) -> None:
    await manager.set_many("carts", {"ann": 1, "bob": 2, "carl": 3})
    entry = await manager.entry("carts", "bob")
    assert entry
    fill_up(own)

    async def store() -> None:
        async with manager.transaction() as tx:
            tx.delete("carts", "ann")
            tx.set("carts", "dan", 1)

    await refuses(store())
    async with manager.transaction() as tx:
        tx.check("carts", "bob", entry.revision)
        tx.delete("carts", "bob")
    assert tx.revisions["carts", "bob"]
    async with manager.transaction() as tx:
        tx.check("carts", "bob", None)
    assert await manager.delete_many("carts", ["ann", "bob"]) == 1
    assert await manager.keys("carts") == ["carl"]


async def test_clear_of_a_full_redis_frees_its_memory(own: redis.Redis, manager: StateManager) -> None:
    for number in range(300):
        await manager.set("big", str(number), VALUE)
    await manager.set("users", "ann", 1)
    before = used_memory(own)
    fill_up(own)
    await refuses(manager.set("users", "ann", 2))
    await manager.clear("big")
    assert await manager.count("big") == 0
    assert used_memory(own) < before - 9_000_000, "values and events are gone, although the events are younger than 20 s"
    await manager.set("users", "ann", 2)


async def test_refused_write_trims_its_stream_by_the_retention(own: redis.Redis, manager: StateManager) -> None:
    names = await manager.connect()
    keys = keys_of(names, "users", "ann")
    for number in range(300):
        own.xadd(keys.events, {"new": VALUE}, id=f"{1000 + number}-0")
    fill_up(own, over=1_000_000)
    await refuses(manager.set("users", "ann", 1))
    assert own.xlen(keys.events) < 300
    await manager.set("users", "ann", 1)


async def test_deletion_keeps_what_a_group_needs_and_its_event(own: redis.Redis, manager: StateManager) -> None:
    keys = keys_of(await manager.connect(), "users", "ann")
    for number in range(5):
        await manager.set("users", "ann", VALUE + str(number))
    entries: Any = own.xrange(keys.events)
    own.xgroup_create(keys.events, "step", entries[2][0])
    fill_up(own)
    await manager.delete("users", "ann")
    left: Any = own.xrange(keys.events)
    assert [entry[0] for entry in left[:-1]] == [entry[0] for entry in entries[2:]]
    assert (left[-1][1][b"type"], left[-1][1][b"old"].startswith(b'"xxx')) == (b"state:deleted", True)
    assert own.hget((await manager.connect()).trimmed(keys.events), b"floor " + keys.events) == entries[2][0]
    assert not own.exists(keys.values, keys.revisions, keys.scopes)


async def test_repeated_deletion_whose_event_was_trimmed_is_not_applied_again(
    own: redis.Redis, manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(await manager.connect(), "users", "ann")
    await manager.set("users", "ann", VALUE)
    fill_up(own)
    faults = Faults(monkeypatch)
    faults.lose = 1
    slow = asyncio.create_task(manager.delete("users", "ann"))
    await within_deadline(faults.lost.wait())
    assert not own.exists(keys.values), "the first attempt was applied"
    assert own.xlen(keys.events) == 0, "its event was trimmed"
    own.config_set("maxmemory", 0)
    own.hset(keys.values, "ann", "1")
    with pytest.raises(OutcomeUnknown, match="events of that time were trimmed") as caught:
        await slow
    assert caught.value.maybe_applied
    assert own.hget(keys.values, "ann") == b"1"


async def test_repeated_deletion_is_answered_while_its_event_is_kept(
    own: redis.Redis, manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(await manager.connect(), "users", "ann")
    await manager.set("users", "ann", VALUE)
    own.xgroup_create(keys.events, "step", "0")
    fill_up(own)
    faults = Faults(monkeypatch)
    faults.lose = 1
    assert await manager.delete("users", "ann") == VALUE
    assert own.xlen(keys.events) == 2


async def test_result_of_an_applied_call_is_found_on_a_full_redis(
    own: redis.Redis, manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.connect()
    assert await manager.set("users", "bob", VALUE, idempotency_key="a") == VALUE
    faults = Faults(monkeypatch)
    faults.lose = 1
    slow = asyncio.create_task(manager.set("users", "ann", VALUE))
    await within_deadline(faults.lost.wait())
    fill_up(own)
    assert await slow == VALUE
    assert await manager.set("users", "bob", VALUE, idempotency_key="a") == VALUE
    await refuses(manager.set("users", "bob", VALUE, idempotency_key="b"))


async def test_values_expire_on_a_full_redis_and_free_memory(own: redis.Redis, manager: StateManager) -> None:
    for number in range(50):
        await manager.set("users", f"key{number}", VALUE, ttl=60)
    await manager.set("users", "ann", {"n": 1}, ttl=60)
    await manager.set("users", "bob", {"n": 1}, ttl=6000)
    await manager.set("users", "cy", {"n": 1})
    await set_namespace_clock(manager, 61)
    fill_up(own)
    events = keys_of(await manager.connect(), "users", "ann").events
    count = own.xlen(events)
    await refuses(manager.set("users", "new", 1, ttl=60))
    await refuses(manager.set("users", "bob", 1, ttl=60))
    await refuses(manager.set("users", "ann", 1, ttl=60))  # nor is the expiry before it written
    await refuses(manager.update("users", "ann", [{"op": "add", "path": "/m", "value": 1}]))
    await refuses(manager.expire("users", "cy", 60))
    await refuses(manager.expire("users", "ann", 60))
    assert own.xlen(events) == count
    before = bytes_of_keys(own)
    assert await manager.delete("users", "key0") is None
    assert await manager.count("users") == 2, "what was due has expired"
    assert own.xlen(events) > 0
    assert bytes_of_keys(own) < before + 25 * len(VALUE), "the event holds the text that the value had"
    reasons = [fields.get(b"reason") for stream in own.scan_iter("*:events:*") for _, fields in own.xrange(stream)]
    assert reasons.count(b"expired") == 51, "each has its event"
    assert await manager.items("users") == {"bob": {"n": 1}, "cy": {"n": 1}}


async def test_failed_deletion_on_a_full_redis_changes_nothing(own: redis.Redis, manager: StateManager) -> None:
    keys = keys_of(await manager.connect(), "users", "ann")
    await manager.set("users", "ann", VALUE)
    fill_up(own)
    events = own.xlen(keys.events)
    own.rename(keys.revisions, "{full:0}:kept")
    own.config_set("maxmemory", 0)
    own.set(keys.revisions, VALUE)
    fill_up(own)
    with pytest.raises(StateUnavailable, match="holds another type"):
        await manager.delete("users", "ann")
    assert (own.xlen(keys.events), own.hexists(keys.values, "ann")) == (events, True)


async def test_dead_letters_are_dropped_and_steps_forgotten(own: redis.Redis, manager: StateManager) -> None:
    names = await manager.connect()
    stream = names.topic(b"mail", 0)
    dead, leases = names.dead(stream, "Mail"), names.leases(stream)
    own.xgroup_create(stream, "Mail", "$", mkstream=True)
    own.hset(leases, b"lane Mail\n" + stream, "")
    letter = {"step": "Mail", "stream": stream, "id": "1-0", "error": "E", "text": "no", "attempts": 5, "time": 1}
    for number in range(20):
        own.xadd(dead, letter | {"type": "topic", "topic": "mail", "key": "", "data": f'"{number}{VALUE}"'})
    fill_up(own)
    letters = DeadLetters(manager)
    found = await letters.list("Mail", limit=1)
    await letters.retry("Mail", found[0].id)
    assert own.xlen(stream) == 1, "it moved"
    assert await letters.drop_all("Mail") == 19
    fill_up(own)
    assert (await forget_step(manager, "Mail")).groups == 1
    assert not own.xinfo_groups(stream)


async def test_clear_waits_for_durability_on_a_full_redis(own: redis.Redis) -> None:
    info: Any = own.info("server")
    if info["redis_version"].startswith("6."):
        pytest.skip("fsynced needs Redis 7.2")
    own.config_set("appendonly", "yes")
    url = f"unix://{own.connection_pool.connection_kwargs['path']}"
    async with StateManager(url, namespace="full", durability="fsynced", durability_timeout=30.0) as state:
        await state.set("big", "a", VALUE)
        fill_up(own)
        await state.clear("big")
        assert await state.count("big") == 0


async def test_effects_that_are_deletions_are_recorded_and_found(own: redis.Redis, manager: StateManager) -> None:
    for number in range(100):
        await manager.set("users", f"u{number}", VALUE)
    fill_up(own)
    try:
        for _ in range(2):  # attempts of a handler
            begin(manager)
            assert await manager.delete("users", "u0") == VALUE
            assert await manager.delete("users", "nobody") is None
            await refuses(manager.set("users", "new", 1))
    finally:
        effects.enter(None)

"""Values with a time to live: what calls promise about them, and the expiry as a change."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import KEEP, StateManager
from motia_redis._steps.events import decode_change
from motia_redis.errors import IdempotencyKeyReused, KeyMissing, RevisionConflict, UpdateFailed
from tests.fuzzing import old_text
from tests.support.clocks import set_namespace_clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from motia_redis import Entry, StateTriggerInput
    from tests.support.servers import RedisServer

    Change = Callable[[StateManager], Awaitable[Any]]

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


async def events(state: StateManager, raw: redis.Redis, scope: str = "users", key: str = "ann") -> list[StateTriggerInput]:
    """Return the events of a key, oldest first. The lane has no other key in these tests."""
    found: Any = raw.xrange((await state.connect()).state_keys(scope.encode(), key.encode()).events)
    return [decode_change(entry_id.decode(), fields) for entry_id, fields in found]


async def due(state: StateManager, raw: redis.Redis, scope: str = "users") -> dict[bytes, float]:
    """Return what falls due in the partition of a scope."""
    keyspace = await state.connect()
    found: Any = raw.zrange(keyspace.due(keyspace.partition(scope.encode())), 0, -1, withscores=True)
    return dict(found)


async def entry_of(state: StateManager) -> Entry:
    entry = await state.entry("users", "ann")
    assert entry
    return entry


# -- setting a time to live -------------------------------------------------------------------------------------------------


async def test_set_with_ttl_says_when_the_value_expires(state: StateManager, raw: redis.Redis) -> None:
    before = time.time()
    assert await state.set("users", "ann", {"n": 1}, ttl=60) == {"n": 1}
    entry = await entry_of(state)
    assert entry.value == {"n": 1}
    assert entry.expires_at is not None
    assert before + 59.9 < entry.expires_at < time.time() + 60.1
    ((member, score),) = (await due(state, raw)).items()
    assert member.startswith(b"expiry:")
    assert member.endswith(b":5:usersann")
    assert score == round(entry.expires_at * 1000)


async def test_set_without_ttl_lets_the_value_live(state: StateManager) -> None:
    await state.set("users", "ann", 1, ttl=60)
    await state.set("users", "ann", 2)
    assert (await entry_of(state)).expires_at is None
    await state.set("users", "ann", 3, ttl=60)
    await state.set("users", "ann", 4, ttl=None)
    assert (await entry_of(state)).expires_at is None


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.set("users", "ann", {"n": 2}, ttl=KEEP),
        lambda state: state.update("users", "ann", INCREMENT),
        lambda state: state.update("users", "ann", INCREMENT, strict=True),
        lambda state: state.update("users", "ann", INCREMENT * 3, ttl=KEEP),
        lambda state: state.update("users", "ann", [{"op": "replace", "path": "", "value": {"n": 2}}]),
        lambda state: state.update("users", "ann", [{"op": "add", "path": "/m", "value": [1]}]),
        lambda state: state.update("users", "ann", [{"op": "move", "from": "/n", "path": "/m"}]),
        lambda state: state.update("users", "ann", [{"op": "merge", "path": "", "value": {"n": 2, "x": " "}}]),
    ],
)
@pytest.mark.parametrize("default", [None, 5])
async def test_change_keeps_the_time(server: RedisServer, namespace: str, change: Change, default: int | None) -> None:
    async with StateManager(server.url, namespace=namespace, ttl={"users": default} if default else None) as state:
        await state.set("users", "ann", {"n": 1}, ttl=60)
        before = await entry_of(state)
        result = await change(state)
        after = await entry_of(state)
        assert after.value == result
        assert after.value != before.value
        assert after.expires_at == before.expires_at


async def test_update_can_set_and_remove_the_time(state: StateManager, raw: redis.Redis) -> None:
    await state.update("users", "ann", INCREMENT, ttl=60)
    first = (await entry_of(state)).expires_at
    assert first is not None
    await state.update("users", "ann", INCREMENT, ttl=600)
    second = (await entry_of(state)).expires_at
    assert second is not None
    assert 539 < second - first < 541
    await state.update("users", "ann", [{"op": "test", "path": "/n", "value": 2}], ttl=60)  # only the time changes
    assert (await entry_of(state)).expires_at != second
    assert await state.update("users", "ann", INCREMENT, ttl=None) == {"n": 3}
    assert (await entry_of(state)).expires_at is None
    assert await due(state, raw) == {}
    assert [(event.event_type, event.old_value, event.new_value) for event in await events(state, raw)] == [
        ("state:created", None, {"n": 1}),
        ("state:updated", {"n": 1}, {"n": 2}),
        ("state:updated", {"n": 2}, {"n": 2}),
        ("state:updated", {"n": 2}, {"n": 3}),
    ]


@pytest.mark.parametrize("text", [b'{"a":1}\t\r\t', b'{ "a" : 1 }\n ', b'{"a":1}'])
@pytest.mark.parametrize("operations", [[], [{"op": "test", "path": "/a", "value": 1}], [{"op": "remove", "path": "/b"}]])
async def test_event_of_an_update_that_changes_the_time_alone_tells_every_byte(
    state: StateManager, raw: redis.Redis, text: bytes, operations: Any
) -> None:
    names = (await state.connect()).state_keys(b"users", b"ann")
    raw.hset(names.values, "ann", text)
    texts: list[Any] = [text]
    for ttl in (60, 600, None):
        await state.update("users", "ann", operations, ttl=ttl)
        texts.append(raw.hget(names.values, "ann"))
    assert texts[0] == texts[3] != texts[1] != texts[2]
    found: Any = raw.xrange(names.events)
    assert [fields[b"new"] for _, fields in found] == texts[1:]
    assert [old_text(fields) for _, fields in found] == texts[:3]


async def test_default_of_the_scope_holds_for_what_is_set_or_created(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, ttl={"users": 60}) as state:
        await state.set("users", "ann", {"n": 1})
        assert (await entry_of(state)).expires_at is not None
        await state.set("users", "ann", {"n": 1}, ttl=None)
        assert (await entry_of(state)).expires_at is None
        await state.update("users", "ann", INCREMENT)  # KEEP: it never expires
        assert (await entry_of(state)).expires_at is None
        for create in (
            lambda: state.update("users", "ann", INCREMENT),
            lambda: state.set("users", "ann", 1, ttl=KEEP),
            lambda: state.set("users", "ann", 1),
        ):
            await state.delete("users", "ann")
            await create()
            assert (await entry_of(state)).expires_at is not None
        await state.set("other", "ann", 1)
        other = await state.entry("other", "ann")
        assert other
        assert other.expires_at is None


async def test_keep_where_there_is_nothing_never_expires(state: StateManager) -> None:
    await state.set("users", "ann", 1, ttl=KEEP)
    assert (await entry_of(state)).expires_at is None


async def test_expire_is_a_change_of_its_own(state: StateManager, raw: redis.Redis) -> None:
    assert await state.expire("users", "ann", 60) is False
    await state.set("users", "ann", {"n": 1})
    first = await entry_of(state)
    assert await state.expire("users", "ann", None) is True  # nothing to change
    assert (await entry_of(state)) == first
    assert await state.expire("users", "ann", 60) is True
    second = await entry_of(state)
    assert second.value == first.value
    assert second.expires_at is not None
    assert second.revision > first.revision
    assert await state.expire("users", "ann", 600) is True
    assert await state.expire("users", "ann", None) is True
    last = await entry_of(state)
    assert last.expires_at is None
    assert await due(state, raw) == {}
    found = await events(state, raw)
    assert [str(event.event_type) for event in found] == ["state:created", "state:ttl", "state:ttl", "state:ttl"]
    assert [(event.old_value, event.new_value) for event in found[1:]] == [({"n": 1}, {"n": 1})] * 3
    assert found[-1].revision == last.revision


async def test_expire_that_changes_nothing_does_not_set_the_clock_back(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", 1)
    raw.hset((await state.connect()).revisions(b"users"), "ann", "1000-0")  # the revision of a value that is old
    assert await state.expire("users", "ann", None)
    session = await state._sessions.get()
    assert session.clock.at(time.monotonic()) > time.time() * 1000 - 60_000


async def test_text_of_another_client_can_expire_and_stays_as_it_is(state: StateManager, raw: redis.Redis) -> None:
    keys = (await state.connect()).state_keys(b"users", b"ann")
    raw.hset(keys.values, "ann", '{ "a": "{" , "n" : 1 }\n')
    assert await state.expire("users", "ann", 60)
    assert await state.update("users", "ann", INCREMENT) == {"a": "{", "n": 2}
    assert (await entry_of(state)).expires_at is not None
    text: Any = raw.hget(keys.values, "ann")
    assert text.startswith(b'{ "a": "{" , "n" : 2 }\n')
    assert await state.expire("users", "ann", None)
    assert raw.hget(keys.values, "ann") == b'{ "a": "{" , "n" : 2 }\n'


async def test_idempotency_key_covers_the_ttl(state: StateManager) -> None:
    await state.set("users", "ann", 1, ttl=60, idempotency_key="k")
    before = await entry_of(state)
    await state.set("users", "ann", 1, ttl=60, idempotency_key="k")
    assert await entry_of(state) == before
    with pytest.raises(IdempotencyKeyReused):
        await state.set("users", "ann", 1, ttl=61, idempotency_key="k")


# -- a change that meets a value whose time has run out ---------------------------------------------------------------------


async def expired(state: StateManager, raw: redis.Redis) -> str:
    """Let the value `{"n": 5}` of users/ann run out of time, unnoticed. Return its revision."""
    await state.set("users", "ann", {"n": 5}, ttl=60)
    await set_namespace_clock(state, 61)
    return (await entry_of(state)).revision


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (lambda state: state.set("users", "ann", {"n": 1}), {"n": 1}),
        (lambda state: state.set("users", "ann", {"n": 1}, ttl=60), {"n": 1}),
        (lambda state: state.set("users", "ann", {"n": 1}, ttl=KEEP), {"n": 1}),
        (lambda state: state.set("users", "ann", {"n": 1}, if_revision=None), {"n": 1}),
        (lambda state: state.set("users", "ann", {"n": 1}, idempotency_key="k"), {"n": 1}),
        (lambda state: state.update("users", "ann", INCREMENT), {"n": 1}),
        (lambda state: state.update("users", "ann", INCREMENT, if_revision=None), {"n": 1}),
    ],
)
async def test_change_finds_no_value_and_comes_after_the_expiry(
    state: StateManager, raw: redis.Redis, change: Change, value: Any
) -> None:
    await expired(state, raw)
    assert await change(state) == value
    _, expiry, created = await events(state, raw)
    assert (expiry.event_type, expiry.reason, expiry.old_value, expiry.new_value) == ("state:deleted", "expired", {"n": 5}, None)
    assert (created.event_type, created.reason, created.old_value, created.new_value) == ("state:created", None, None, value)
    assert (await entry_of(state)).revision == created.revision
    assert await state.list_groups() == ["users"]


async def test_expiry_has_no_request_id(state: StateManager, raw: redis.Redis) -> None:
    await expired(state, raw)
    await state.set("users", "ann", 1)
    found: Any = raw.xrange((await state.connect()).state_keys(b"users", b"ann").events)
    assert b"request" not in found[1][1]
    assert b"request" in found[2][1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda state: state.update("users", "ann", INCREMENT, strict=True), KeyMissing),
        (lambda state: state.update("users", "ann", [{"op": "test", "path": "/n", "value": 5}]), UpdateFailed),
        (lambda state: state.update("users", "ann", [{"op": "increment", "path": "/a/b/c", "value": 5}]), UpdateFailed),
    ],
)
async def test_refused_change_writes_neither_itself_nor_the_expiry(
    state: StateManager, raw: redis.Redis, change: Change, error: type[Exception]
) -> None:
    await expired(state, raw)
    with pytest.raises(error):
        await change(state)
    assert len(await events(state, raw)) == 1


async def test_revision_of_an_expired_value_does_not_hold(state: StateManager, raw: redis.Redis) -> None:
    revision = await expired(state, raw)
    with pytest.raises(RevisionConflict) as caught:
        await state.set("users", "ann", 1, if_revision=revision)
    assert caught.value.actual is None
    assert len(await events(state, raw)) == 1


async def test_delete_of_an_expired_value_returns_none_and_writes_the_expiry(state: StateManager, raw: redis.Redis) -> None:
    await expired(state, raw)
    assert await state.delete("users", "ann") is None
    assert [event.reason for event in await events(state, raw)] == [None, "expired"]
    assert await state.list_groups() == []
    assert await due(state, raw) == {}


async def test_clear_writes_one_event_for_an_expired_value(state: StateManager, raw: redis.Redis) -> None:
    await expired(state, raw)
    await state.clear("users")
    assert [event.reason for event in await events(state, raw)] == [None, "expired"]
    assert await state.count("users") == 0


async def test_expire_does_not_bring_an_expired_value_back(state: StateManager, raw: redis.Redis) -> None:
    await expired(state, raw)
    assert await state.expire("users", "ann", 60) is False
    assert [event.reason for event in await events(state, raw)] in ([None], [None, "expired"])


# -- reading ------------------------------------------------------------------------------------------------------------------


async def test_expired_value_is_not_shown(state: StateManager) -> None:
    await state.set("users", "ann", 1, ttl=0.001)
    await state.set("users", "bob", 2, ttl=60)
    await state.set("users", "cy", 3)
    await asyncio.sleep(0.01)  # by the clock of this machine the value has expired now
    assert await state.get("users", "ann") is None
    assert await state.entry("users", "ann") is None
    assert sorted(await state.list("users")) == [2, 3]
    assert await state.items("users") == {"bob": 2, "cy": 3}
    assert dict([pair async for pair in state.scan("users")]) == {"bob": 2, "cy": 3}


async def test_names_and_counts_let_what_is_due_expire_first(state: StateManager, raw: redis.Redis) -> None:
    for call, expected in ((state.count("users"), 1), (state.keys("users"), ["bob"])):
        await set_namespace_clock(state, 0)
        await state.set("users", "ann", 1, ttl=60)
        await state.set("users", "bob", 1)
        await set_namespace_clock(state, 61)
        assert await call == expected
    await set_namespace_clock(state, 0)
    await state.clear("users")
    await state.set("users", "ann", 1, ttl=60)
    await set_namespace_clock(state, 61)
    assert await state.list_groups() == []
    assert (await events(state, raw))[-1].reason == "expired"

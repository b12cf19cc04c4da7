"""Values that fall due: one event each, whoever looks, whatever another client has put there."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from motia_redis import KEEP, Layout, StateManager
from motia_redis._admin.scheduled import Scheduled
from motia_redis._admin.status import read_status
from motia_redis._scripts import timing
from motia_redis._steps.events import decode_change
from motia_redis._store import expiry
from motia_redis._store import sweeping as sweeps
from motia_redis._store.codec import CANONICAL_MARK
from motia_redis._store.keyspace import Keyspace
from motia_redis.errors import CorruptValue, StateUnavailable
from tests.fuzzing import old_text
from tests.store.test_expiry_text import spell
from tests.store.test_once import Faults
from tests.store.test_ttl import INCREMENT, due, events
from tests.support.clocks import set_namespace_clock
from tests.support.waiting import until, until_holds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from motia_redis import StateTriggerInput
    from tests.support.servers import RedisServer


@pytest.fixture
async def faults(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> Faults:
    await state.get("users", "ann")  # connected
    return Faults(monkeypatch)


@pytest.fixture
async def sweeping(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    async with StateManager(server.url, namespace=namespace, sweep=True) as state:
        yield state


def check_chain(found: list[tuple[StateTriggerInput, dict[bytes, bytes]]], *, ahead: float = 0) -> int:
    """Assert that each event of a key starts from the value before it; return how many values have expired.

    The clock of the namespace is `ahead` seconds before that of the server.
    """
    last: bytes | None = None
    expired = 0
    for change, fields in found:
        old = old_text(fields) if b"new" in fields else fields[b"old"]
        assert (old or None) == last, f"{change} starts from {old!r}, the value was {last!r}"
        if change.reason == "expired":
            expired += 1
            at = expiry.expires_at(old)
            assert at is not None
            assert change.timestamp / 1000 + ahead >= at - 0.002, (
                "a script's time and the id of its event may differ by a millisecond"
            )
            assert b"request" not in fields
        else:
            assert b"request" in fields
        last = fields.get(b"new")
    return expired


def all_events(raw: redis.Redis, namespace: str) -> dict[tuple[str, str], list[tuple[StateTriggerInput, dict[bytes, bytes]]]]:
    found: dict[Any, Any] = {}
    for stream in raw.scan_iter(f"{{{namespace}:*}}:events:*"):
        entries: Any = raw.xrange(stream)
        for entry_id, fields in entries:
            change = decode_change(entry_id.decode(), fields)
            found.setdefault((change.group_id, change.item_id), []).append((change, fields))
    return found


# -- who looks ----------------------------------------------------------------------------------------------------------------


async def test_manager_that_sweeps_writes_the_event_within_a_second(
    sweeping: StateManager, raw: redis.Redis, namespace: str
) -> None:
    ttls = {(f"scope{number % 20}", f"key{number}"): 100 + 5 * number for number in range(100)}
    for (scope, key), ttl in ttls.items():
        await sweeping.set(scope, key, 1, ttl=ttl / 1000)

    async def all_gone() -> bool:
        return all(len(found) == 2 for found in all_events(raw, namespace).values())

    await until(all_gone, "all values have expired")
    found = all_events(raw, namespace)
    assert found.keys() == ttls.keys()
    late = sorted(ended.timestamp - begun.timestamp - ttls[name] for name, ((begun, _), (ended, _)) in found.items())
    assert late[0] >= -2, "the time that a script reads and the id of its event may differ by a millisecond"
    assert late[50] <= 1000
    assert await sweeping.list_groups() == []


async def test_each_value_ends_once_while_sweepers_and_changes_race(
    server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    managers = [StateManager(server.url, namespace=namespace, sweep=number < 3) for number in range(4)]
    choose = random.Random(7)

    async def change(number: int) -> None:
        state, scope, key = choose.choice(managers), f"scope{number % 2}", f"key{choose.randrange(4)}"
        match choose.randrange(9):
            case 0 | 1 | 2:
                await state.set(scope, key, {"n": number}, ttl=choose.choice((0.001, 0.003, 0.01, 0.03)))
            case 3:
                await state.set(scope, key, {"n": number}, ttl=choose.choice((KEEP, None, 0.01)))
            case 4:
                await state.update(scope, key, INCREMENT)
            case 5:
                await state.update(scope, key, INCREMENT, ttl=choose.choice((0.002, 0.02)))
            case 6:
                await state.expire(scope, key, 0.001)
            case 7:
                await state.delete(scope, key)
            case _:
                await choose.choice((state.count, state.keys, state.clear))(scope)

    try:
        for first in range(0, 3000, 30):
            await asyncio.gather(*(change(number) for number in range(first, first + 30)))

        async def settled() -> bool:
            keys = await managers[3].connect()
            return not any(raw.zcard(keys.due(partition)) for partition in range(16))

        await until(settled, "nothing is due any more")
        found = all_events(raw, namespace)
        assert sum(check_chain(each) for each in found.values()) > 100
        for (scope, key), each in found.items():
            entry = await managers[3].entry(scope, key)
            assert (entry and entry.expires_at) is None
            assert (entry and entry.revision) == (each[-1][0].revision if each[-1][0].new_value is not None else None)
    finally:
        for manager in managers:
            await manager.close()


async def test_repetition_of_an_update_whose_value_has_expired_meanwhile_is_not_applied_again(
    state: StateManager, faults: Faults, raw: redis.Redis
) -> None:
    for lost in (1, 2):
        faults.lose = lost
        assert await state.update("users", "ann", INCREMENT, ttl=0.001) == {"n": 1}
        await asyncio.sleep(0.005)
    assert [event.new_value for event in await events(state, raw) if event.new_value] == [{"n": 1}] * 2


# -- what stands in the sorted set ----------------------------------------------------------------------------------------------


async def test_member_of_a_value_that_does_not_expire_any_more_is_removed_when_it_is_due(
    sweeping: StateManager, raw: redis.Redis
) -> None:
    await sweeping.set("users", "ann", 1, ttl=60)
    await sweeping.set("users", "ann", 2)
    assert len(await due(sweeping, raw)) == 1, "a plain set looks at nothing"
    await set_namespace_clock(sweeping, 61)

    async def is_removed() -> bool:
        return await due(sweeping, raw) == {}

    await until(is_removed, "the member is removed")
    assert await sweeping.get("users", "ann") == 2
    assert [event.reason for event in await events(sweeping, raw)] == [None, None]


async def test_member_of_a_value_that_lives_longer_stays_until_then(sweeping: StateManager, raw: redis.Redis) -> None:
    await sweeping.set("users", "ann", 1, ttl=600)
    ((member, at),) = (await due(sweeping, raw)).items()
    keyspace = await sweeping.connect()
    raw.zadd(keyspace.due(keyspace.partition(b"users")), {member: at - 599_999})

    async def is_corrected() -> bool:
        return await due(sweeping, raw) == {member: at}

    await until(is_corrected, "the time of the member is that of the value")
    assert await sweeping.get("users", "ann") == 1


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        (None, True),
        (b"1", True),
        (b"", True),
        (b'{"a": 1} \n', True),
        (b"1" + spell(1000)[:-1] + b"x" + CANONICAL_MARK, True),  # no time
        (b"1" + spell(1000)[1:] + CANONICAL_MARK, True),  # too short
        (b"1" + spell(1000) + b"\t\t\t", True),  # no mark
        (spell(1000) + CANONICAL_MARK, False),  # no JSON, but a time
        (b'{"a' + spell(1000) + CANONICAL_MARK, False),
        (b"[1 ] " + spell(1000) + expiry.FOREIGN_MARK, False),
    ],
)
async def test_foreign_and_broken_texts_stay_or_expire_as_their_end_says(
    sweeping: StateManager, raw: redis.Redis, text: bytes | None, is_kept: bool
) -> None:
    await sweeping.set("users", "ann", 1, ttl=60)
    await sweeping.set("users", "bob", 1, ttl=60)
    keyspace = await sweeping.connect()
    names = keyspace.state_keys(b"users", b"ann")
    if text is None:
        raw.hdel(names.values, "ann")
    else:
        raw.hset(names.values, "ann", text)
    await set_namespace_clock(sweeping, 61)

    async def is_settled() -> bool:
        return await due(sweeping, raw) == {} and not raw.hexists(names.values, "bob")

    await until(is_settled, "nothing is due")
    assert raw.hget(names.values, "ann") == (text if is_kept else None)
    found: Any = raw.xrange(names.events)
    reasons = [fields.get(b"reason") for _, fields in found if fields[b"key"] == b"ann"]
    assert reasons == ([None] if is_kept else [None, b"expired"])
    if not is_kept:
        assert found[-1][1][b"old"] == text or found[-2][1][b"old"] == text
        assert await sweeping.get("users", "ann") is None


async def test_key_of_another_type_holds_up_no_other_value(
    sweeping: StateManager, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In one partition: a broken member, a scope whose keys have another type, and a value that expires."""
    keyspace = await sweeping.connect()
    partition = keyspace.partition(b"users")
    others = [f"s{number}" for number in range(200) if keyspace.partition(b"s%d" % number) == partition][:2]
    await sweeping.set(others[0], "ann", 1, ttl=60)
    await sweeping.set(others[1], "ann", 1, ttl=60)
    await sweeping.set("users", "ann", 1, ttl=61)
    raw.delete(keyspace.values(others[0].encode()))
    raw.set(keyspace.values(others[0].encode()), "x")
    raw.delete(keyspace.revisions(others[1].encode()))
    raw.set(keyspace.revisions(others[1].encode()), "x")
    raw.zadd(keyspace.due(partition), {"expiry:x": 0, "expiry:": 0})
    await set_namespace_clock(sweeping, 62)

    async def is_gone() -> bool:
        return not raw.hexists(keyspace.values(b"users"), "ann")

    await until(is_gone, "the value has expired")

    def lines(text: str) -> int:
        return sum("put off for 10 s" in record.message and text in record.message for record in caplog.records)

    await until_holds(lambda: lines("WRONGTYPE") == 2 == lines("cannot be read"), "the failures are reported")
    assert len(await due(sweeping, raw)) == 4


async def test_change_and_the_expiry_before_it_are_written_together_or_neither(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", {"n": 5}, ttl=60)
    keyspace = await state.connect()
    key = keyspace.due(keyspace.partition(b"users"))
    raw.delete(key)
    raw.set(key, "x")
    await set_namespace_clock(state, 61)
    with pytest.raises(StateUnavailable, match="WRONGTYPE"):
        await state.set("users", "ann", 1, ttl=60)
    assert len(await events(state, raw)) == 1
    raw.delete(key)
    await state.set("users", "ann", 1, ttl=60)
    assert [event.reason for event in await events(state, raw)] == [None, "expired", None]


# -- all calls agree ------------------------------------------------------------------------------------------------------------


async def test_all_calls_agree_about_expired_values(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    scopes = [f"scope{number}" for number in range(20)]
    for scope in scopes:
        for key in ("a", "b"):
            await state.set(scope, key, 1, ttl=60)
    for scope in scopes[:10]:
        await state.set(scope, "c", 1)
    await state.enqueue("mail", 1, delay=1000)
    status = await read_status(state)
    assert (status.delayed, await Scheduled(state).count(), len(await Scheduled(state).list())) == (1, 1, 1)
    assert 0 < (status.next_due_in or 0) <= 60
    await set_namespace_clock(state, 61)
    assert ((await read_status(state)).next_due_in or 0) < 0, "nobody sweeps"
    assert sorted(await state.list_groups()) == sorted(scopes[:10])
    assert [await state.count(scope) for scope in scopes] == [1] * 10 + [0] * 10
    assert [await state.keys(scope) for scope in scopes] == [["c"]] * 10 + [[]] * 10
    for scope in scopes:
        await state.clear(scope)
    assert await state.list_groups() == []
    found = all_events(raw, namespace)
    assert len(found) == 50
    assert sum(check_chain(each, ahead=61) for each in found.values()) == 40
    status = await read_status(state)
    assert status.delayed == 1
    assert (status.next_due_in or 0) + 61 > 900


async def test_count_without_permission_to_sweep_counts_what_is_there(
    server: RedisServer, raw: redis.Redis, state: StateManager, namespace: str
) -> None:
    await state.set("users", "ann", 1, ttl=60)
    await set_namespace_clock(state, 61)
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all", "-@sortedset")
    try:
        url = server.url.replace("unix://", f"unix://{namespace}:secret@")
        async with StateManager(url, namespace=namespace) as reader:
            assert await reader.count("users") == 1
            assert await reader.keys("users") == ["ann"]
            assert await reader.list_groups() == ["users"]
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)


async def test_value_that_is_no_json_can_be_deleted_before_it_expires(state: StateManager, raw: redis.Redis) -> None:
    names = (await state.connect()).state_keys(b"users", b"ann")
    raw.hset(names.values, "ann", b'{"a' + spell(2**41) + CANONICAL_MARK)
    for call in (state.get("users", "ann"), state.entry("users", "ann"), state.delete("users", "ann")):
        with pytest.raises(CorruptValue):
            await call
    assert not raw.exists(names.values)


async def test_call_that_counts_waits_for_what_is_due_for_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """More falls due all the time: without the bound the call would never end."""
    clock, batches = count(step=0.3), 0

    async def look(*_: Any) -> list[timing.Fired]:
        return [timing.Fired(0, 0.0, 0, [], [])]

    async def fire(*_: Any, **__: Any) -> timing.Fired:
        nonlocal batches
        batches += 1
        assert batches < 100, "the call does not end"
        return timing.Fired(200, 0.0, 0, [], [])

    monkeypatch.setattr(sweeps, "timing", Mock(fire_due_many=look, fire_due=fire))
    monkeypatch.setattr(sweeps, "time", Mock(monotonic=lambda: next(clock)))
    assert await sweeps.settle(Mock(), Keyspace("motia", Layout()), [3], b"")
    assert batches == 3

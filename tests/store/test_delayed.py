"""Delayed messages: sent once, at their time, until they are cancelled."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import Retention, StateManager
from motia_redis._scripts import timing
from motia_redis._store import retries
from motia_redis._store.sweeping import due_keys
from motia_redis._tracing import trace
from motia_redis._transport.router import Router
from motia_redis.errors import (
    IdempotencyKeyReused,
    InvalidName,
    InvalidTime,
    OutcomeUnknown,
    StateUnavailable,
    TooManyDelayed,
)
from tests.store.test_once import Faults
from tests.support.clocks import set_namespace_clock
from tests.support.loops import run_in_loop
from tests.support.servers import RedisServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

YEAR = 366 * 86_400


@pytest.fixture
async def faults(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> Faults:
    await state.get("users", "ann")  # connected
    return Faults(monkeypatch)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call wait so long before it is repeated that other things can happen first."""
    monkeypatch.setattr(retries, "_PAUSES", (1.0, 1.0))


@pytest.fixture
async def sweeping(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    async with StateManager(server.url, namespace=namespace, sweep=True) as state:
        yield state


async def fire(state: StateManager, *, most: int = 1000, most_bytes: int = 1_000_000, limits: bytes = b"") -> int:
    """Let what is due now happen, in all partitions; return how many things that were."""
    keyspace, router, happened = await state.connect(), await state.open_router(), 0
    try:
        for partition in range(keyspace.layout.partitions):
            streams: list[bytes] = []
            while True:
                keys = due_keys(keyspace, partition)
                fired = await timing.fire_due(router, keys, others=streams, most=most, most_bytes=most_bytes, limits=limits)
                assert not fired.errors
                happened += fired.happened
                streams += fired.missing
                if fired.wait != 0:
                    break
    finally:
        await router.aclose()
    return happened


def messages(raw: redis.Redis, namespace: str) -> list[dict[bytes, bytes]]:
    """Return what was sent to all topics, by time."""
    streams: Any = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    entries: list[Any] = [entry for stream in streams for entry in raw.xrange(stream)]
    return [fields for _, fields in sorted(entries, key=lambda entry: tuple(map(int, entry[0].split(b"-"))))]


def waiting(raw: redis.Redis, namespace: str) -> int:
    """Return how many messages wait; what says when they are due agrees."""
    tags = [f"{{{namespace}:{partition}}}:" for partition in range(16)]
    dues: list[Any] = [raw.zcard(f"{tag}due") for tag in tags]
    assert dues == [raw.hlen(f"{tag}delayed") for tag in tags]
    return sum(dues)


# -- at its time ------------------------------------------------------------------------------------------------------


async def test_message_is_sent_at_its_time_with_all_that_was_given(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    before = time.time()
    with trace("0123456789abcdef0123456789abcdef"):
        message = await state.enqueue("mail", {"to": "änn"}, key="ann", delay=0.3)
    plain = await state.enqueue("mail", "plain", at=before + 0.3)
    assert messages(raw, namespace) == []
    assert waiting(raw, namespace) == 2
    while waiting(raw, namespace):
        await fire(state)
    assert time.time() >= before + 0.3
    sent = {fields[b"request"].decode(): fields for fields in messages(raw, namespace)}
    due = int(sent[message].pop(b"due"))
    assert before + 0.3 <= due / 1000 <= before + 1.5
    assert sent[message] == {
        b"type": b"topic",
        b"topic": b"mail",
        b"data": '{"to":"änn"}'.encode(),
        b"request": message.encode(),
        b"key": b"ann",
        b"trace": b"0123456789abcdef0123456789abcdef",
    }
    due = math.ceil((before + 0.3) * 1000)
    assert sent[plain] == {
        b"type": b"topic", b"topic": b"mail", b"data": b'"plain"', b"request": plain.encode(), b"due": b"%d" % due
    }  # fmt: skip
    assert await fire(state) == 0


async def test_message_is_never_early(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    keyspace, router = await state.connect(), await state.open_router()
    keys, streams = due_keys(keyspace, keyspace.partition(b"mail")), keyspace.topic_streams("mail")
    for number in range(60):
        began = time.time_ns()
        await state.enqueue("mail", number, delay=0.003)
        while not (await timing.fire_due(router, keys, others=streams, most=1, most_bytes=1, limits=b"")).happened:
            pass
        assert time.time_ns() - began >= 3_000_000
    await router.aclose()
    assert sorted(int(fields[b"data"]) for fields in messages(raw, namespace)) == list(range(60))


@pytest.mark.parametrize("data", ["", "x" * 100_000, "\r\n\x00", [1, "2:3\n"]], ids=["empty", "large", "control", "colons"])
@pytest.mark.parametrize("key", [None, "1:2\n3", "}:topic:1:x"])
async def test_any_key_topic_and_data_survives(
    state: StateManager, raw: redis.Redis, namespace: str, key: str | None, data: Any
) -> None:
    topic = "}:topic:7:\n{odd}"
    await state.enqueue(topic, data, key=key, delay=0.001)
    await state.enqueue(topic, data, key=key)
    while not await fire(state):
        pass
    now, later = messages(raw, namespace)
    assert int(later.pop(b"due")) > 0
    assert now.pop(b"request") != later.pop(b"request")
    assert now == later
    assert not key or len(set(raw.scan_iter(f"{{{namespace}:*}}:topic:*"))) == 1, "a key has one lane"


async def test_sweeping_manager_sends_messages_soon_after_their_time(
    state: StateManager, sweeping: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """Also those that another process has added since it last looked."""
    for number in range(20):
        await state.enqueue(f"topic {number}", number, delay=0.02 * number + 0.01)

    async def sent() -> bool:
        return len(messages(raw, namespace)) == 20

    await until(sent, "all messages are sent")
    late = [
        int(entry_id.split(b"-")[0]) - int(fields[b"due"])
        for stream in raw.scan_iter(f"{{{namespace}:*}}:topic:*")
        for entry_id, fields in raw.xrange(stream)
    ]
    assert min(late) >= 0
    assert waiting(raw, namespace) == 0


async def test_time_is_that_of_the_server_moved_by_the_clock_of_the_namespace(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    await state.enqueue("mail", 1, key="a", delay=86_400)
    await state.enqueue("mail", 2, key="a", at=time.time() + 2 * 86_400)
    assert await fire(state) == 0
    await set_namespace_clock(state, 86_401)
    assert await fire(state) == 1
    await state.enqueue("mail", 3, key="a", delay=86_400)
    await set_namespace_clock(state, 2 * 86_401)
    assert await fire(state) == 2
    assert [fields[b"data"] for fields in messages(raw, namespace)] == [b"1", b"2", b"3"]
    ids = [entry_id for stream in raw.scan_iter(f"{{{namespace}:*}}:topic:*") for entry_id, _ in raw.xrange(stream)]
    assert all(abs(int(entry_id.split(b"-")[0]) / 1000 - time.time()) < 5 for entry_id in ids), "ids keep to the server's clock"


@pytest.mark.parametrize("when", [{"delay": 0}, {"delay": 0.0}, {"at": 10**9}, {"at": datetime(2020, 1, 1, tzinfo=UTC)}])
async def test_no_delay_and_a_time_that_has_passed_mean_at_once(
    state: StateManager, raw: redis.Redis, namespace: str, when: dict[str, Any]
) -> None:
    if when.get("at") == 10**9:
        when = {"at": time.time() - 1}
    message = await state.enqueue("mail", 1, **when)
    (sent,) = messages(raw, namespace)
    assert sent[b"request"].decode() == message
    assert waiting(raw, namespace) == 0
    assert not await state.cancel(message)


async def test_message_to_a_topic_without_steps_stays_until_its_time_whatever_is_trimmed(
    server: RedisServer, raw: redis.Redis, namespace: str, every_change_looks: None
) -> None:
    kept = Retention(entries=0, topic_entries=8, topic_seconds=0.0, bytes=0)
    async with StateManager(server.url, namespace=namespace, retention=kept, deadline=0) as state:
        message = await state.enqueue("mail", "later", key="a", delay=1000)
        for number in range(300):
            await state.enqueue("mail", number, key="a")
        await set_namespace_clock(state, 1001)
        assert await fire(state) == 1
        assert messages(raw, namespace)[-1][b"request"].decode() == message


async def test_sending_also_trims_a_topic_that_no_step_consumes(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    kept = Retention(topic_entries=80)  # 10 in each lane
    async with StateManager(server.url, namespace=namespace, retention=kept) as state:
        for number in range(600):
            await state.enqueue("mail", number, key="a", delay=1000)
        await set_namespace_clock(state, 1001)
        limits = (await state.settings()).topic_trimming(8)
        assert await fire(state, most=50, limits=limits) == 600
        assert len(messages(raw, namespace)) < 300
        trimmed = raw.hgetall((await state.connect()).trimmed((await state.connect()).topic(b"mail", 0)))
        assert sum(int(value) for name, value in trimmed.items() if name.startswith(b"dropped ")) > 300, "counted"


async def test_one_call_is_bounded_by_number_and_bytes(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    keyspace = await state.connect()
    partition = keyspace.partition(b"mail")
    for number in range(30):
        await state.enqueue("mail", f"{number:010000}", key=str(number % 5), delay=1000)
    await set_namespace_clock(state, 1001)
    router, keys = await state.open_router(), due_keys(keyspace, partition)
    streams = keyspace.topic_streams("mail")
    try:
        fired = await timing.fire_due(router, keys, others=streams, most=7, most_bytes=10**9, limits=b"")
        assert (fired.happened, fired.wait) == (7, 0)
        fired = await timing.fire_due(router, keys, others=streams, most=100, most_bytes=45_000, limits=b"")
        assert (fired.happened, fired.wait) == (5, 0)
        fired = await timing.fire_due(router, keys, others=streams, most=100, most_bytes=1, limits=b"")
        assert fired.happened == 1, "one of any size"
        fired = await timing.fire_due(router, keys, others=streams, most=100, most_bytes=10**9, limits=b"")
        assert (fired.happened, fired.wait) == (17, None)
    finally:
        await router.aclose()


async def test_script_appends_only_to_streams_among_its_keys(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """A slot of a Cluster that moves to another node would otherwise get a second stream on the old one."""
    keyspace = await state.connect()
    await state.enqueue("mail", 1, key="a", delay=1000)
    await state.enqueue("mail", 2, key="b", delay=1000)
    await set_namespace_clock(state, 1001)
    router, keys = await state.open_router(), due_keys(keyspace, keyspace.partition(b"mail"))
    try:
        fired = await timing.fire_due(router, keys, others=[], most=10, most_bytes=10**9, limits=b"")
        one, other = (keyspace.topic(b"mail", keyspace.lane(key)) for key in (b"a", b"b"))
        assert (fired.happened, fired.wait, set(fired.missing)) == (0, 0, {one, other})
        fired = await timing.fire_due(router, keys, others=[one], most=10, most_bytes=10**9, limits=b"")
        assert (fired.happened, fired.wait, fired.missing) == (1, 0, [other])
    finally:
        await router.aclose()
    assert await fire(state) == 1


async def test_what_cannot_be_sent_is_put_off_and_holds_up_nothing(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    keyspace = await state.connect()
    partition = keyspace.partition(b"mail")
    keys, stream = due_keys(keyspace, partition), keyspace.topic(b"mail", keyspace.lane(b"a"))
    broken = await state.enqueue("mail", 1, key="a", delay=1000)
    good = await state.enqueue("mail", 2, key="b", delay=1000)
    lost = await state.enqueue("mail", 3, key="b", delay=1000)
    odd = await state.enqueue("mail", 4, key="b", delay=1000)
    raw.set(stream, "another client's")
    raw.hdel(keys.delayed, lost)
    raw.hset(keys.delayed, odd, "another client's")
    raw.zadd(keys.due, {"unknown:x": 1})
    await set_namespace_clock(state, 1001)
    router = await state.open_router()
    streams = keyspace.topic_streams("mail")
    try:
        fired = await timing.fire_due(router, keys, others=streams, most=100, most_bytes=10**9, limits=b"")
        assert (fired.happened, len(fired.errors)) == (2, 3)
        assert 5 < (fired.wait or 0) <= 10
        assert any(b"WRONGTYPE" in error and broken.encode() in error for error in fired.errors)
        assert any(b"cannot be read" in error for error in fired.errors)
        raw.delete(stream)
        await set_namespace_clock(state, 1012)
        fired = await timing.fire_due(router, keys, others=streams, most=100, most_bytes=10**9, limits=b"")
        assert (fired.happened, len(fired.errors)) == (1, 2)
    finally:
        await router.aclose()
    assert {fields[b"request"].decode() for fields in messages(raw, namespace)} == {good, broken}


# -- applied once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_repetition_finds_the_message_that_waits(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str, lost: int
) -> None:
    faults.lose = lost
    message = await state.enqueue("mail", 1, delay=1000)
    assert waiting(raw, namespace) == 1
    assert await state.cancel(message)


async def test_repetition_needs_no_room_for_the_message_that_waits(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(entries=1, most_entries=1)) as state:
        await state.connect()
        Faults(monkeypatch).lose = 1
        assert await state.cancel(await state.enqueue("mail", 1, delay=1000))


async def test_repetition_finds_the_message_that_was_sent_or_cancelled_meanwhile(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str, patient: None
) -> None:
    for number in range(2):
        faults.lose = 1
        slow = asyncio.create_task(state.enqueue("mail", number, delay=0.001 if number else 1000))
        await faults.lost.wait()
        faults.lost.clear()
        assert waiting(raw, namespace) == 1
        (item,) = [field for key in raw.scan_iter(f"{{{namespace}:*}}:delayed") for field in raw.hkeys(key)]
        if number:
            while not await fire(state):
                pass
        else:
            assert await state.cancel(item.decode())
        assert await slow == item.decode()
        assert waiting(raw, namespace) == 0
    assert [fields[b"data"] for fields in messages(raw, namespace)] == [b"1"]


async def test_first_attempt_that_comes_after_its_repetition_changes_nothing(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    for ending in ("waits", "sent", "cancelled"):
        faults.hold, faults.held = 1, []
        message = await state.enqueue("mail", ending, delay=0.001 if ending == "sent" else 1000)
        if ending == "sent":
            while not await fire(state):
                pass
        elif ending == "cancelled":
            assert await state.cancel(message)
        count = waiting(raw, namespace)
        assert (await faults.held[0]())[1].decode() == message
        assert waiting(raw, namespace) == count
    assert [fields[b"data"] for fields in messages(raw, namespace)] == [b'"sent"']


async def test_cancelled_message_stays_cancelled_when_its_first_attempt_comes_late(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    """The call had no repetition, so only the cancellation has left a record."""
    message = await state.enqueue("mail", 1, delay=1000)
    assert await state.cancel(message)
    keyspace = await state.connect()
    keys = due_keys(keyspace, keyspace.partition(b"mail"))
    late = timing.DelayedMessage(
        keyspace.topic(b"mail", 0), keys, keyspace.request(keys.due, message.encode()), None,
        b"", b"1", message.encode(), b"", b"+1000000", 10, b"",
    )  # fmt: skip
    router = await state.open_router()
    reply = await timing.delay_message(router, late)
    await router.aclose()
    assert reply.request.decode() == message
    assert waiting(raw, namespace) == 0


@pytest.mark.parametrize("lost", [1, 2])
async def test_cancel_with_a_lost_reply_says_that_the_message_waited(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str, lost: int
) -> None:
    message = await state.enqueue("mail", 1, delay=1000)
    faults.lose = lost
    assert await state.cancel(message)
    assert not await state.cancel(message)


async def test_idempotency_key_covers_a_message_as_long_as_it_waits_and_after(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    def send(delay: float, data: int = 1) -> Any:
        return state.enqueue("mail", data, key="ann", delay=delay, idempotency_key="welcome")

    first = await send(1000)
    assert await send(1000) == first
    assert waiting(raw, namespace) == 1
    for other in (send(1001), send(1000, data=2), state.enqueue("mail", 1, key="ann", idempotency_key="welcome")):
        with pytest.raises(IdempotencyKeyReused):
            await other
    (record,) = raw.scan_iter(f"{{{namespace}:*}}:idempotency:*")
    assert 86_400 + 900 < raw.ttl(record) <= 86_400 + 1000, "from its time on"
    await set_namespace_clock(state, 1001)
    assert await fire(state) == 1
    assert await send(1000) == first
    at = time.time() + 5000
    second = await state.enqueue("mail", 2, at=at, idempotency_key="other")
    assert await state.cancel(second)
    assert await state.enqueue("mail", 2, at=at, idempotency_key="other") == second, "cancelled for good"
    assert waiting(raw, namespace) == 0


async def test_delay_counts_from_the_call_when_attempts_fail(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    faults.hold = 4  # the fifth attempt is the first to arrive
    began = time.time()
    await state.enqueue("mail", 1, delay=10)
    elapsed = time.time() - began
    (due,) = [score for key in raw.scan_iter(f"{{{namespace}:*}}:due") for _, score in raw.zrange(key, 0, -1, withscores=True)]
    assert elapsed > 0.05
    assert began + 10 <= due / 1000 <= began + 10 + 0.05 + elapsed / 2


async def test_repetition_whose_first_attempt_was_sent_and_trimmed_is_told_that_nobody_knows(
    state: StateManager, faults: Faults, namespace: str, raw: redis.Redis, patient: None
) -> None:
    faults.lose = 1
    slow = asyncio.create_task(state.enqueue("mail", 1, key="a", delay=0.001))
    await faults.lost.wait()
    while not await fire(state):
        pass
    (stream,) = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    tag = stream[: stream.index(b"}:") + 2]
    floor = raw.xinfo_stream(stream)["last-generated-id"]
    raw.xtrim(stream, maxlen=0)
    raw.hset(tag + b"trimmed", b"floor " + stream, floor)
    with pytest.raises(OutcomeUnknown, match="trimmed"):
        await slow


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_cancel_is_true_while_the_message_waits_and_false_afterwards(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    late, soon = await state.enqueue("mail", 1, delay=1000), await state.enqueue("mail", 2, delay=0.001)
    now = await state.enqueue("mail", 3)
    while not await fire(state):
        pass
    assert [await state.cancel(message) for message in (late, late, soon, now)] == [True, False, False, False]
    assert await state.cancel("3-0123456789abcdef") is False, "of a message that was never there"
    assert waiting(raw, namespace) == 0
    assert len(messages(raw, namespace)) == 2


@pytest.mark.parametrize(
    "nonsense",
    ["", "x", "1-0", "65536-0123456789abcdef", "3-0123456789ABCDEF", "3-0123456789abcdef\n", None, 3, b"3-0123456789abcdef"],
)
async def test_cancel_of_nonsense_is_rejected(state: StateManager, nonsense: Any) -> None:
    with pytest.raises(InvalidName, match="message id"):
        await state.cancel(nonsense)


# -- bad times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "when",
    [
        {"delay": -0.001}, {"delay": -1}, {"delay": math.nan}, {"delay": math.inf}, {"delay": -math.inf}, {"delay": True},
        {"delay": False}, {"delay": "5"}, {"delay": timedelta(seconds=5)}, {"delay": Decimal(5)}, {"delay": 10 * YEAR + 1},
        {"delay": 10**400}, {"at": math.nan}, {"at": math.inf}, {"at": True}, {"at": "2030-01-01"}, {"at": datetime(2030, 1, 1)},
        {"at": date(2030, 1, 1)}, {"at": 5}, {"at": 0}, {"at": -1}, {"at": 1_700_000_000_000}, {"at": 10**400},
        {"at": datetime(2900, 1, 1, tzinfo=UTC)}, {"at": datetime.max.replace(tzinfo=UTC)}, {"delay": 1, "at": 2_000_000_000},
        {"delay": 0, "at": 2_000_000_000},
    ],
    ids=str,
)  # fmt: skip
async def test_bad_time_is_rejected_and_nothing_is_sent(
    state: StateManager, raw: redis.Redis, namespace: str, when: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTime, match=r"^topic 'mail': (delay|at|give either)"):
        await state.enqueue("mail", 1, **when)
    assert waiting(raw, namespace) == 0
    assert messages(raw, namespace) == []


async def test_extreme_times_are_accepted(state: StateManager) -> None:
    for when in ({"delay": 10 * YEAR}, {"delay": 1e-9}, {"at": time.time() + 10 * YEAR - 60}):
        assert await state.cancel(await state.enqueue("mail", 1, **when))


async def test_number_of_waiting_messages_is_bounded(server: RedisServer, namespace: str) -> None:
    kept = Retention(entries=1, most_entries=3)
    async with StateManager(server.url, namespace=namespace, retention=kept) as state:
        sent = [await state.enqueue("mail", number, delay=1000) for number in range(3)]
        with pytest.raises(TooManyDelayed, match=r"topic 'mail': 3 delayed messages wait .*most_entries"):
            await state.enqueue("mail", 3, delay=1000)
        await state.enqueue("mail", 3)
        assert await state.cancel(sent[0])
        await state.enqueue("mail", 3, delay=1000)


# -- a server that is full, away, or without its data ------------------------------------------------------------------


async def test_full_redis_refuses_delayed_messages_and_sends_those_that_wait(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as own, redis.Redis.from_url(own.url) as raw:
        async with StateManager(own.url, namespace="full", deadline=0) as state:
            sent = [await state.enqueue("mail", "x" * 1000, delay=1000) for _ in range(200)]
            info: Any = raw.info("memory")
            raw.config_set("maxmemory", info["used_memory"] - 100_000)
            with pytest.raises(StateUnavailable, match=r"is full \(maxmemory\): nothing was changed"):
                await state.enqueue("mail", 1, delay=1000)
            assert await state.cancel(sent.pop())
            assert not await state.cancel("3-0123456789abcdef")
            keyspace = await state.connect()
            raw.config_set("maxmemory", 0)
            await set_namespace_clock(state, 1001)
            raw.config_set("maxmemory", info["used_memory"] - 100_000)
            before = sum(raw.memory_usage(key, samples=0) or 0 for key in raw.scan_iter())
            assert await fire(state) == 199, "what waits only moves"
            after = sum(raw.memory_usage(key, samples=0) or 0 for key in raw.scan_iter())
            assert after < 1.5 * before, "a stream has some room in its nodes"
            assert raw.hlen(keyspace.delayed(keyspace.partition(b"mail"))) == 0
            assert sorted(fields[b"request"].decode() for fields in messages(raw, "full")) == sorted(sent)


async def test_messages_survive_a_killed_server_and_are_sent_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as own:
        async with StateManager(own.url, namespace="killed", sweep=True) as state:
            sent = [await state.enqueue("mail", number, delay=0.3 + 0.002 * number) for number in range(200)]
            own.kill()
            await asyncio.sleep(0.5)  # while some fall due
            own.start()
            with redis.Redis.from_url(own.url) as raw:

                async def all_sent() -> bool:
                    return len(messages(raw, "killed")) >= 200

                await until(all_sent, "all messages are sent")
                assert sorted(fields[b"request"].decode() for fields in messages(raw, "killed")) == sorted(sent)
    lines = [record.message for record in caplog.records if "nothing that is due happens" in record.message]
    assert len(lines) == 1, "an outage is one line, and another one at its end"
    assert any("is back after" in record.message for record in caplog.records)


async def test_sweep_without_permission_is_reported_once_and_the_manager_goes_on(
    server: RedisServer, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all", "-@sortedset")
    try:
        url = server.url.replace("unix://", f"unix://{namespace}:secret@")
        async with StateManager(url, namespace=namespace, sweep=True) as state:

            async def reported() -> bool:
                return any("nothing that is due happens" in record.message for record in caplog.records)

            await until(reported, "the refusal is reported")
            await state.set("users", "ann", 1)
            await asyncio.sleep(0.5)  # several more looks
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)
    (line,) = [record for record in caplog.records if "due happens" in record.message]
    assert "refuses calls" in line.message
    assert line.levelno == logging.WARNING


def test_sweep_ends_with_its_manager_and_with_its_event_loop(server: RedisServer, namespace: str) -> None:
    async def close() -> None:
        state = StateManager(server.url, namespace=namespace, sweep=True)
        before = asyncio.all_tasks()
        await state.connect()
        assert len(asyncio.all_tasks() - before) >= 1
        await state.close()
        assert asyncio.all_tasks() == before
        await state.connect()  # and starts again

    async def leave_open() -> None:
        await StateManager(server.url, namespace=namespace, sweep=True).connect()

    for main in (close, leave_open):
        run_in_loop("asyncio", main())


async def test_sweep_stays_asleep_while_nothing_is_due(
    server: RedisServer, state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        await state.enqueue(f"topic {number}", number, delay=1000)
    calls = 0
    fire_due, gather = timing.fire_due, Router.gather

    async def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return await fire_due(*arguments, **options)

    looks = 0

    async def gathering(router: Router, commands: Any, **options: Any) -> Any:
        nonlocal looks
        looks += len(commands) == 16
        return await gather(router, commands, **options)

    monkeypatch.setattr(timing, "fire_due", counting)
    monkeypatch.setattr(Router, "gather", gathering)
    async with StateManager(server.url, namespace=namespace, sweep=True):
        await asyncio.sleep(1.2)
    assert calls == 0
    assert 3 <= looks <= 6, "one round trip for all partitions, four times a second"

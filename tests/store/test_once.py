"""A call is applied once: lost replies, late first attempts, idempotency keys, trimmed events, durability."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store import mutations, retries
from motia_redis._store.limits import Retention
from motia_redis._transport.failures import ConnectionLost, ReplyTimeout
from motia_redis._transport.router import Router
from motia_redis.errors import (
    NotDurable,
    OutcomeUnknown,
    RevisionConflict,
    StateError,
    StateUnavailable,
)
from tests.support.scripts import CALLS, count_calls
from tests.support.waiting import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.servers import RedisServer

pytestmark = pytest.mark.usefixtures("each_way")

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


class Faults:
    """Lose replies of scripts between a manager and Redis, or delay requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lose = 0  # how many replies to lose
        self.hold = 0  # how many requests to hold back
        self.held: list[Any] = []
        self.lost = asyncio.Event()
        execute, pipeline = Router.execute, Router.pipeline

        async def faulty(command: Any, send: Callable[[], Any]) -> Any:
            if command[0] in CALLS and self.hold:
                self.hold -= 1
                self.held.append(send)
                self.lost.set()
                raise ReplyTimeout("held back")
            reply = await send()
            if command[0] in CALLS and self.lose:
                self.lose -= 1
                self.lost.set()
                raise ConnectionLost("the reply got lost")
            return reply

        async def faulty_execute(router: Router, key: bytes, *command: Any) -> Any:
            return await faulty(command, lambda: execute(router, key, *command))

        async def faulty_pipeline(router: Router, key: bytes, commands: Any) -> Any:
            if len(commands) == 1:  # goes through execute
                return await pipeline(router, key, commands)
            return await faulty(commands[0], lambda: pipeline(router, key, commands))

        monkeypatch.setattr(Router, "execute", faulty_execute)
        monkeypatch.setattr(Router, "pipeline", faulty_pipeline)


@pytest.fixture
async def faults(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> Faults:
    await state.get("users", "ann")  # connected
    return Faults(monkeypatch)


def events(raw: redis.Redis, namespace: str) -> list[dict[bytes, bytes]]:
    streams: Any = raw.scan_iter(f"{{{namespace}:*}}:events:*")
    return [fields for stream in streams for _, fields in raw.xrange(stream)]


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_change_with_a_lost_reply_is_applied_once(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str, lost: int
) -> None:
    faults.lose = lost
    assert await state.update("users", "ann", INCREMENT) == {"n": 1}
    faults.lose = lost
    assert await state.update("users", "ann", INCREMENT) == {"n": 2}
    faults.lose = lost
    assert await state.set("users", "ann", "x") == "x"
    faults.lose = lost
    assert await state.delete("users", "ann") == "x", "the first result, not that nothing was there"
    faults.lose = lost
    await state.set("users", "ann", 1, if_revision=None)  # the second attempt must not meet the first
    faults.lose = lost
    await state.enqueue("mail", "hello", key="ann")
    assert len(events(raw, namespace)) == 5
    (topic,) = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    assert raw.xlen(topic) == 1


async def test_first_attempt_is_found_after_changes_by_other_clients(
    server: RedisServer, state: StateManager, faults: Faults, namespace: str
) -> None:
    async with StateManager(server.url, namespace=namespace) as other:
        for change in (other.set("users", "ann", {"n": 10}), other.delete("users", "ann")):
            await state.set("users", "ann", {"n": 0})
            faults.lose = 1
            slow = asyncio.create_task(state.update("users", "ann", INCREMENT))
            await faults.lost.wait()
            faults.lost.clear()
            await change
            assert await slow == {"n": 1}
            assert await other.get("users", "ann") in ({"n": 10}, None)


async def test_first_attempt_that_arrives_after_its_repetition_changes_nothing(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    faults.hold = 1
    assert await state.update("users", "ann", INCREMENT) == {"n": 1}
    assert (await faults.held[0]())[1].startswith(b'{"n":1}'), "the late attempt gets the result of the repetition"
    assert await state.get("users", "ann") == {"n": 1}
    faults.hold = 2  # two attempts are late, and come in the wrong order
    assert await state.update("users", "ann", INCREMENT) == {"n": 2}
    for late in faults.held[1:]:
        await late()
    assert await state.get("users", "ann") == {"n": 2}
    assert len(events(raw, namespace)) == 2


async def test_first_attempt_that_arrives_after_a_rejected_repetition_changes_nothing(
    state: StateManager, faults: Faults
) -> None:
    await state.set("users", "ann", 1)
    faults.hold = 1
    with pytest.raises(RevisionConflict):
        await state.set("users", "ann", 2, if_revision=None)
    await state.delete("users", "ann")  # now its condition would hold
    with pytest.raises(Exception, match="UNKNOWN late"):
        await faults.held[0]()
    assert await state.get("users", "ann") is None


@pytest.mark.parametrize("ahead", [0, 4000])
async def test_repetition_delayed_by_a_paused_server_finds_the_first_attempt(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """The first attempt was applied a minute ago. The second waited for that minute, with the elapsed time of its sending.

    The caller's clock may be `ahead` of the server's, milliseconds: it takes the call for a later one than its event.
    """
    keys = (await state.connect()).state_keys(b"users", b"ann")
    ago = int(time.time() * 1000) - 60_000
    applied = {
        "type": "state:created",
        "scope": "users",
        "key": "ann",
        "new": '{"n":1}',
        "request": "f" * 16,
    }
    raw.hset(keys.revisions, "ann", raw.xadd(keys.events, applied, id=f"{ago}-0"))
    raw.hset(keys.values, "ann", '{"n":1}')
    monkeypatch.setattr(mutations, "_request_id", lambda: b"f" * 16)
    monkeypatch.setattr(retries, "FIRST", retries.Attempt(2, ago + ahead, 1000))
    assert await state.update("users", "ann", INCREMENT) == {"n": 1}
    assert await state.get("users", "ann") == {"n": 1}


async def test_repetition_is_not_applied_when_its_event_may_be_trimmed(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch, raw: redis.Redis
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(entries=0, most_entries=0)) as state:
        keys = (await state.connect()).state_keys(b"users", b"ann")
        faults = Faults(monkeypatch)
        faults.lose = 1
        slow = asyncio.create_task(state.update("users", "ann", INCREMENT))
        await faults.lost.wait()
        for _ in range(2000):
            raw.xadd(keys.events, {"type": "other"})
        raw.hset(keys.revisions, "ann", (raw.xadd(keys.events, {"type": "other"})))
        raw.eval("redis.call('XTRIM', KEYS[1], 'MAXLEN', 1); redis.call('HSET', KEYS[2], 'floor ' .. KEYS[1], '9999999999999-0')",
                 2, keys.events, (await state.connect()).trimmed(keys.events))  # fmt: skip
        with pytest.raises(OutcomeUnknown, match="events of that time were trimmed") as caught:
            await slow
        assert caught.value.maybe_applied
        assert isinstance(caught.value, StateUnavailable)


async def test_long_search_for_an_event_uses_short_script_calls(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    keys = (await state.connect()).state_keys(b"users", b"ann")
    for found in (True, False):
        before = await state.entry("users", "ann")
        faults.lose, faults.hold = (1, 0) if found else (0, 1)
        slow = asyncio.create_task(state.update("users", "ann", INCREMENT))
        await faults.lost.wait()
        faults.lost.clear()
        script = "for n = 1, 3500 do redis.call('XADD', KEYS[1], '*', 'type', 'other', 'pad', 'x') end"
        raw.eval(script, 1, keys.events)
        raw.hset(keys.revisions, "ann", raw.xadd(keys.events, {"type": "other"}))
        raw.config_resetstat()
        assert await slow == {"n": before.value["n"] + 1 if before else 1}
        calls = count_calls(raw)
        assert calls >= 4, "1,000 events a call"
    await faults.held[0]()
    assert await state.get("users", "ann") == {"n": 2}
    assert sum(event[b"type"] != b"other" for event in events(raw, namespace)) == 2


async def test_first_attempt_that_arrives_while_its_repetition_searches_changes_nothing(
    state: StateManager, second: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repetition has searched a part of the events, and would not see one that is added behind that part."""
    keys = (await state.connect()).state_keys(b"users", b"ann")
    await second.get("users", "ann")
    ago = int(time.time() * 1000) - 60_000
    script = "for n = 1, 2500 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. n, 'type', 'other') end"
    raw.eval(script, 1, keys.events, str(ago))
    raw.hset(keys.revisions, "ann", f"{ago}-2500")
    monkeypatch.setattr(mutations, "_request_id", lambda: b"f" * 16)
    first, execute = retries.FIRST, Router.execute
    outcomes: list[Any] = []

    async def meet(router: Router, key: bytes, *command: Any) -> Any:
        reply = await execute(router, key, *command)
        if reply == b"SEARCHING" and not outcomes:
            monkeypatch.setattr(retries, "FIRST", first)
            outcomes.append(None)
            outcomes[0] = (await asyncio.gather(second.update("users", "ann", INCREMENT), return_exceptions=True))[0]
        return reply

    monkeypatch.setattr(Router, "execute", meet)
    monkeypatch.setattr(retries, "FIRST", retries.Attempt(2, ago - 1000, 61_000))
    assert await state.update("users", "ann", INCREMENT) == {"n": 1}
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert [event for event in events(raw, namespace) if event[b"type"] != b"other"] != []
    assert await state.get("users", "ann") == {"n": 1}
    assert sum(event[b"type"] != b"other" for event in events(raw, namespace)) == 1


@pytest.mark.usefixtures("every_change_looks")
async def test_events_are_kept_while_an_attempt_may_search_for_them(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    for number in range(1000):
        await state.set("users", "ann", number)
    assert raw.xlen((await state.connect()).state_keys(b"users", b"ann").events) == 1000


async def test_attempts_end_at_the_deadline_and_the_error_has_maybe_applied(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StateManager(server.url, namespace=namespace, deadline=2) as state:
        await state.get("users", "ann")
        faults = Faults(monkeypatch)
        faults.lose = 10_000
        began = time.monotonic()
        with pytest.raises(StateUnavailable, match="the change may have been applied") as caught:
            await state.set("users", "ann", 1)
        assert caught.value.maybe_applied
        assert 1 <= time.monotonic() - began < DEADLINE
        assert 2 <= 10_000 - faults.lose <= 200, "attempts with pauses between"

    began = time.monotonic()
    with pytest.raises(StateUnavailable) as caught:
        await StateManager("redis://127.0.0.1:1", deadline=600).set("users", "ann", 1)
    assert not caught.value.maybe_applied
    assert time.monotonic() - began < DEADLINE, "the first connection attempt fails fast"


async def test_lost_reply_under_an_idempotency_key_returns_the_first_result(state: StateManager, faults: Faults) -> None:
    faults.lose = 2
    assert await state.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 1}
    faults.hold = 1
    assert await state.update("users", "ann", INCREMENT, idempotency_key="b") == {"n": 2}
    await faults.held[0]()
    assert await state.get("users", "ann") == {"n": 2}


async def test_too_few_replicas_raise_not_durable_and_the_change_stands(server: RedisServer, namespace: str) -> None:
    settings: Any = {"namespace": namespace, "durability": "replicated", "durability_timeout": 0.05}
    async with StateManager(server.url, **settings) as state:
        with pytest.raises(NotDurable, match="the change stands on the primary, but 0 of 1 replicas"):
            await state.set("users", "ann", 1)
        assert await state.get("users", "ann") == 1
        for call in (state.clear("users"), state.enqueue("mail", 1)):
            with pytest.raises(NotDurable):
                await call


@pytest.mark.parametrize(
    "settings",
    [
        {"durability": "disk"},
        {"replicas": 0},
        {"durability_timeout": 0},
        {"deadline": -1},
        {"deadline": "1"},
        {"idempotency_seconds": 0},
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        StateManager(**settings)

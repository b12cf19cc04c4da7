"""Worker: handled events are trimmed, except for those that are to be kept; a hard cap is never silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Worker
from motia_redis import state as state_trigger
from motia_redis._admin.settings import change_settings
from motia_redis._steps.application import Application
from motia_redis._store.limits import Retention
from motia_redis.errors import StateError
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


@pytest.mark.usefixtures("every_change_looks")
async def test_handled_events_are_trimmed(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    recorder = Recorder()
    state = StateManager(server.url, namespace=namespace, deadline=0)  # no events are kept for repeated calls
    async with state, working(state, record(recorder, state_trigger(scope="users"))):
        for number in range(1500):
            await state.set("users", "ann", number)
        await recorder.wait(1500)
        for number in range(300):
            await state.set("users", "ann", number)
        await recorder.wait(1800)
    streams = raw.keys(f"{{{namespace}:*:events:*")
    assert sum(raw.xlen(stream) for stream in streams) < 1000


@pytest.mark.usefixtures("every_change_looks")
async def test_handled_events_are_kept_for_the_configured_time(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(entries=10, seconds=3600)) as state:
        recorder = Recorder()
        async with working(state, record(recorder, state_trigger())):
            for number in range(1000):
                await state.set("users", "ann", number)
            await recorder.wait(1000)
            await state.set("users", "ann", 1000)
        assert raw.xlen((await state.connect()).state_keys(b"users", b"ann").events) == 1001
        await change_settings(state, seconds=0.0)
        for number in range(1000):
            await state.set("users", "bob", number)
        lanes = [raw.xlen(key) for key in raw.keys(f"{{{namespace}:*:events:*")]
        assert max(lanes) >= 1000, "what a step has not handled stays"


@pytest.mark.parametrize("settings", [{"entries": -1}, {"entries": 11, "most_entries": 10}, {"seconds": -1.0}])
def test_invalid_retention_is_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(StateError, match=r"retention (entries|seconds) must be from 0"):
        Retention(**settings)


@pytest.mark.usefixtures("every_change_looks")
async def test_hard_cap_logs_and_counts_dropped_events(
    server: RedisServer, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """G9: a step without workers cannot fill Redis. Its lost entries are logged and counted."""
    async with StateManager(server.url, namespace=namespace, retention=Retention(most_entries=300)) as state:
        await Worker(Application((record(Recorder(), state_trigger()),)), state).prepare()
        for first in range(0, 3000, 100):
            await asyncio.gather(*(state.set("users", "ann", number) for number in range(first, first + 100)))
        keyspace = await state.connect()
        keys = keyspace.state_keys(b"users", b"ann")
        kept = raw.xlen(keys.events)
        lost = raw.hget(keyspace.trimmed(keys.events), b"dropped " + keys.events)
    assert kept < 1000
    assert int(lost or 0) == 3000 - kept
    assert "over the hard cap" in caplog.text

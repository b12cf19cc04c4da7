"""Messages without a key: which lanes of a topic they take."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from motia_redis._store.lane_turns import LaneTurns

if TYPE_CHECKING:
    import pytest
    import redis

    from motia_redis import StateManager


async def lengths(state: StateManager, raw: redis.Redis, topic: str) -> list[int]:
    names = await state.connect()
    return [int(raw.xlen(names.topic(topic.encode(), lane))) for lane in range(names.layout.lanes)]  # type: ignore[arg-type]


async def test_few_messages_without_a_key_spread_evenly_over_the_lanes_of_each_topic(
    state: StateManager, raw: redis.Redis
) -> None:
    async def send(topic: str) -> None:
        await asyncio.gather(*(state.enqueue(topic, {"n": number}) for number in range(10)))
        for number in range(2):
            await state.enqueue("other", number)  # topics have turns of their own
        async with state.transaction() as tx:
            for number in range(10):
                tx.enqueue(topic, {"n": number})

    for topic in ("mail", "sms", "calls"):
        await send(topic)
        assert sorted(await lengths(state, raw, topic)) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert sorted(await lengths(state, raw, "other")) == [0, 0, 1, 1, 1, 1, 1, 1]


async def test_messages_with_a_key_are_in_the_lane_of_the_key_however_many_have_none(
    state: StateManager, raw: redis.Redis
) -> None:
    names = await state.connect()
    for _ in range(9):
        await state.enqueue("mail", 1, key="ann")
        await state.enqueue("other", 1)
    assert raw.xlen(names.topic(b"mail", names.lane(b"ann"))) == 9


async def test_same_idempotency_key_leads_to_the_same_lane_in_every_process(state: StateManager, raw: redis.Redis) -> None:
    for _ in range(3):
        await state.enqueue("mail", 1)  # moves the turns on
        assert await state.enqueue("mail", 2, idempotency_key="once") == await state.enqueue("mail", 2, idempotency_key="once")
    assert sum(await lengths(state, raw, "mail")) == 4


def test_processes_begin_at_different_lanes_also_forked_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({LaneTurns().take(b"mail") % 8 for _ in range(200)}) == 8
    turns = LaneTurns()
    first = turns.take(b"mail")
    assert [turns.take(b"mail") - first for _ in range(3)] == [1, 2, 3]
    starts = set()
    for process in range(200):
        monkeypatch.setattr(os, "getpid", lambda process=process: -process)
        starts.add(turns.take(b"mail") % 8)
    assert len(starts) == 8


def test_turns_of_many_topics_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motia_redis._store.lane_turns._TOPICS", 10)
    turns = LaneTurns()
    for number in range(1000):
        turns.take(b"topic %d" % number)
    assert len(turns._next) <= 10

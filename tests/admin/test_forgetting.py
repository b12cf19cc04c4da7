"""Forgetting a step or some of its lanes: only what nobody wants goes, and the streams are trimmed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._admin.registry import forget_step
from motia_redis._admin.topics import read_unread_topics
from motia_redis._scripts import administration
from motia_redis._scripts.administration import ForgottenCounts, StepKeys
from motia_redis._store.keyspace import partition_of
from tests.store.test_retention import fill

if TYPE_CHECKING:
    import redis

    from motia_redis._store.keyspace import Keyspace
    from tests.support.servers import RedisServer

STEP = "Ship"


def lane(stream: bytes, step: str = STEP) -> bytes:
    return step.encode() + b"\n" + stream


class Site:
    """Hold a step with a group, a lane and an unfinished entry on some streams of one partition."""

    def __init__(self, raw: redis.Redis, names: Keyspace, holder: str = "") -> None:
        self.raw = raw
        partition = names.partition(b"mail")
        self.events = [names.events(partition, number) for number in (0, 1, 2)]
        self.topic = names.topic(b"mail", 4)
        stream = self.topic
        self.leases, self.names = names.leases(stream), names
        self.dead, self.topics = names.dead(stream, STEP), names.topics(partition)
        for stream in (*self.events, self.topic):
            raw.xadd(stream, {"type": "other"})
            raw.xgroup_create(stream, STEP, "0")
            raw.hset(self.leases, b"lane " + lane(stream), holder)  # type: ignore[arg-type]
            raw.hset(names.entries(stream, STEP), "1-0", "1:0:")
        raw.xadd(self.dead, {"step": STEP})

    def keys(self, *streams: bytes) -> StepKeys:
        entries = [self.names.entries(stream, STEP) for stream in streams]
        due, schedules = self.names.due(partition_of(self.dead)), self.names.schedules(self.dead, STEP)
        return StepKeys(self.leases, self.topics, self.dead, due, schedules, streams, entries)

    def with_group(self) -> list[bytes]:
        return [stream for stream in (*self.events, self.topic) if self.raw.xinfo_groups(stream)]


async def test_only_the_given_lanes_are_forgotten(state: StateManager, raw: redis.Redis) -> None:
    router = await state.open_router()
    site = Site(raw, await state.connect())
    raw.xgroup_create(site.events[0], "Other", "0")
    raw.hset(site.leases, b"lane " + lane(site.events[0], "Other"), "")  # type: ignore[arg-type]
    gone, kept = [site.events[0], site.topic], site.events[1:]
    assert await administration.forget_step(router, [site.keys(*gone)], step=STEP, mode="lanes") == [ForgottenCounts(2, 1)]
    assert site.with_group() == [site.events[0], *kept], "the group of the other step stays"
    (group,) = raw.xinfo_groups(site.events[0])
    assert group["name"] == b"Other"
    assert set(raw.hkeys(site.leases)) == {b"lane " + lane(stream) for stream in kept} | {
        b"lane " + lane(site.events[0], "Other")
    }
    with_entries = [stream for stream in (*site.events, site.topic) if raw.exists(site.names.entries(stream, STEP))]
    assert with_entries == kept
    assert raw.xlen(site.dead) == 1
    assert [topic.name for topic in await read_unread_topics(router, await state.connect())] == ["mail"]
    assert await administration.forget_step(router, [site.keys(*gone)], step=STEP, mode="lanes") == [ForgottenCounts(0, 1)]
    await router.aclose()


async def test_lane_that_a_live_worker_holds_is_not_forgotten(state: StateManager, raw: redis.Redis) -> None:
    router = await state.open_router()
    site = Site(raw, await state.connect(), holder="w1")
    now = raw.time()[0] * 1000  # type: ignore[index]
    raw.hset(site.leases, "worker w1", now + 60_000)
    assert await administration.forget_step(router, [site.keys(*site.events)], step=STEP, mode="lanes") == [ForgottenCounts(0, 1)]
    assert set(site.with_group()) == {*site.events, site.topic}
    raw.hset(site.leases, "worker w1", now - 60_000)
    assert await administration.forget_step(router, [site.keys(*site.events)], step=STEP, mode="lanes") == [ForgottenCounts(3, 1)]
    await router.aclose()


@pytest.mark.parametrize("drop", [False, True])
async def test_whole_step_is_forgotten(state: StateManager, raw: redis.Redis, drop: bool) -> None:
    site = Site(raw, await state.connect())
    done = await forget_step(state, STEP, with_dead_letters=drop)
    assert (done.groups, done.dead_letters, site.with_group()) == (4, 1, [])
    left: Any = raw.hkeys(site.leases)
    assert left == ([] if drop else [b"forgotten Ship"])
    assert not any(raw.exists(site.names.entries(stream, STEP)) for stream in (*site.events, site.topic))
    assert raw.exists(site.dead) == (not drop)
    assert raw.smembers(site.topics) == {b"mail"}


async def test_forgetting_trims_the_streams_that_it_freed(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as state:
        names = await state.connect()
        streams = [names.events(3, 1), names.events(5, 0)]
        for stream in streams:
            fill(raw, stream, 20_000, 200)
            raw.xgroup_create(stream, STEP, "0")
        raw.xgroup_create(streams[1], "Other", "11000-0")
        raw.hset(names.leases(streams[0]), b"lane " + lane(streams[0]), "")  # type: ignore[arg-type]
        await forget_step(state, STEP)
        assert raw.xlen(streams[0]) == 0, "nobody writes to the stream, and all of it is old"
        assert 10_000 <= raw.xlen(streams[1]) < 10_110, "what the other step needs"
        assert raw.hget(names.trimmed(streams[0]), b"floor " + streams[0]) == b"21000-0"


async def test_forgetting_keeps_what_the_retention_keeps(state: StateManager, raw: redis.Redis) -> None:
    """A repeated call may look for young events, and another step may consume the topic."""
    names = await state.connect()
    streams = [names.state_keys(b"users", b"ann").events, names.topic(b"mail", names.lane(b"ann"))]
    for number in range(300):
        await state.set("users", "ann", number)
        await state.enqueue("mail", number, key="ann")
    for stream in streams:
        raw.xgroup_create(stream, STEP, "$")
        raw.hset(names.leases(stream), b"lane " + lane(stream), "")  # type: ignore[arg-type]
    assert (await forget_step(state, STEP)).groups == 2
    assert [raw.xlen(stream) for stream in streams] == [300, 300]

"""Time-outs and large calls: small calls do not wait behind large ones, and calls fail when nothing makes progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport.multiplexing import LARGE, pack
from tests.support.fake_redis import (
    BULK,
    PATIENCE,
    FakeRedis,
    call,
    connected,
    connections,
    echo,
    get,
    reaching,
    starts_big,
    text,
)
from tests.support.loops import all_over
from tests.support.waiting import seen, soon

if TYPE_CHECKING:
    from collections.abc import Callable


# -- time-outs ----------------------------------------------------------------------------------------------------------------


async def test_a_call_without_a_reply_fails_in_time_and_later_ones_wait_their_own() -> None:
    async with FakeRedis() as fake, connected(fake, patience=1.0) as (connection, peer):
        began = asyncio.get_running_loop().time()
        first = connection.send(get("a"))
        await asyncio.wait([first], timeout=0.5)
        later = connection.send(get("b"))
        with pytest.raises(RedisTimeoutError, match="no reply for 1 s"):
            await soon(first)
        assert 1.0 <= asyncio.get_running_loop().time() - began < 3.0
        assert connection.closing, "whoever is slow gets no new calls"
        assert not later.done()
        await peer.has(2)
        peer.write(text(b"a") + text(b"b"))
        assert await soon(later) == b"b", "not the reply that came too late"
        await seen(connection.ended.done, "a link that nobody waits for, and that takes no calls, ends")


async def test_a_big_reply_may_take_longer_than_the_time_out_as_long_as_it_moves() -> None:
    async with FakeRedis() as fake, connected(fake, patience=0.6) as (connection, peer):
        reply, behind = connection.send(get("big")), connection.send(get("small"))
        await peer.has(2)
        data = text(bytes(300_000)) + text(b"small")
        for number in range(15):
            peer.write(data[number * 20_000 :][:20_000])
            await asyncio.wait([reply], timeout=0.1)
            assert not reply.done(), "it is not complete, and has not failed"
        peer.write(data[300_000:])
        assert await soon(reply) == bytes(300_000)
        assert await soon(behind) == b"small", "whoever waits behind it has not given up"


async def test_a_big_reply_that_stops_moving_fails() -> None:
    async with FakeRedis() as fake, connected(fake, patience=0.2) as (connection, peer):
        reply = connection.send(get("big"))
        await peer.has(1)
        peer.write(text(bytes(300_000))[:200_000])
        with pytest.raises(RedisTimeoutError):
            await soon(reply)


async def test_calls_behind_a_big_reply_have_their_own_time_after_it() -> None:
    async with FakeRedis() as fake, connected(fake, patience=0.5) as (connection, peer):
        large, behind = connection.send(get("big")), connection.send(get("small"))
        await peer.has(2)
        peer.write(text(bytes(300_000))[:200_000])
        await asyncio.wait([large], timeout=0.75)  # the time of both is over
        peer.write(text(bytes(300_000))[200_000:])
        assert await soon(large) == bytes(300_000)
        await asyncio.wait([behind], timeout=0.4)  # and here it has been looked at again
        peer.write(text(b"small"))
        assert await soon(behind) == b"small"


@pytest.mark.parametrize("moves", [True, False])
async def test_a_big_command_may_take_longer_than_the_time_out_as_long_as_it_moves(moves: bool) -> None:
    async with FakeRedis(echo) as fake, connected(fake, patience=0.4) as (connection, peer):
        peer.transport.pause_reading()
        calls = [connection.send(pack(("SET", "big", bytes(8 * BULK))))]
        for _ in range(12):
            await asyncio.wait(calls[:1], timeout=0.1)
            if moves:
                peer.transport.resume_reading()
                for _ in range(8):  # parts of it
                    await asyncio.sleep(0)
                peer.transport.pause_reading()
                assert not calls[0].done()
            elif not connection.closing:
                calls.append(connection.send(get("small")))  # more to be written is no movement
        peer.transport.resume_reading()
        if moves:
            assert await soon(calls[0]) == bytes(8 * BULK)
        else:
            with pytest.raises(RedisTimeoutError):
                await soon(calls[0])
            assert len(calls) < 9, "in its time, however many come after it"
            await soon(asyncio.gather(*calls, return_exceptions=True))


# -- large commands and replies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links_before", [1, 2])
async def test_while_a_big_reply_comes_others_use_another_connection(links_before: int) -> None:
    async with FakeRedis(starts_big) as fake, reaching(fake.url) as router:
        await call(router, "opens the connection")
        if links_before == 2:
            await router.execute("other", "SET", "other", bytes(LARGE))
        large = call(router, "big")
        await seen(lambda: connections(router)[0].is_congested, "the reply has begun to come")
        for key in ("a", "b", "c"):
            assert await asyncio.wait_for(call(router, key), PATIENCE / 5) == key.encode()
        assert not large.done()
        fake.peers[0].write(text(bytes(BULK))[2 * LARGE :])
        assert await soon(large) == bytes(BULK)


async def test_a_key_with_big_replies_is_remembered_and_leaves_the_first_connection_alone() -> None:
    async with FakeRedis(lambda peer, command: text(bytes(LARGE)) if command[-1] == b"big" else echo(peer, command)) as fake:
        async with reaching(fake.url) as router:
            (await call(router, "big"), await call(router, "small"))
            (node,) = router._nodes.values()
            assert node.connections.expects_large_reply("big")
            assert not node.connections.expects_large_reply("small")
            (await call(router, "big"), await call(router, "small"))
        first, second = ([command[1] for command in peer.commands] for peer in fake.peers)
        assert first == [b"big", b"small", b"small"]
        assert second == [b"big"]


async def test_while_a_big_command_goes_out_others_do_not_wait() -> None:
    async with FakeRedis(echo) as fake, reaching(fake.url) as router:
        await router.execute("big", "SET", "big", bytes(LARGE))  # opens two
        fake.peers[1].transport.pause_reading()
        writes = [asyncio.create_task(router.execute("big", "SET", "big", bytes(BULK))) for _ in range(10)]
        for number in range(20):
            assert await asyncio.wait_for(call(router, f"{number}"), PATIENCE / 5) == b"%d" % number
        assert not writes[0].done()
        fake.peers[1].transport.resume_reading()
        await soon(asyncio.gather(*writes))
        assert 2 <= len(fake.peers) <= 4, "however much is under way"
        assert all(len(command) == 2 for command in fake.peers[0].commands), "big ones have other connections"


async def test_a_connection_that_does_not_take_what_is_written_gets_no_more() -> None:
    async with FakeRedis(echo) as fake, reaching(fake.url) as router:
        await router.execute("big", "SET", "big", bytes(LARGE))
        fake.peers[0].transport.pause_reading()
        stuck = [asyncio.create_task(router.execute("a", "SET", "a", bytes(LARGE // 2))) for _ in range(500)]
        await seen(lambda: connections(router)[0].is_congested, "the first connection is full")
        assert await asyncio.wait_for(call(router, "b"), PATIENCE / 5) == b"b"
        assert not stuck[-1].done()
        fake.peers[0].transport.resume_reading()
        await soon(asyncio.gather(*stuck))


@pytest.mark.parametrize(
    "promise",
    [
        test_a_call_without_a_reply_fails_in_time_and_later_ones_wait_their_own,
        test_while_a_big_command_goes_out_others_do_not_wait,
    ],
)
def test_the_same_holds_over_uvloop(promise: Callable[[], Any]) -> None:
    all_over("uvloop", promise())

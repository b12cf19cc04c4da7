"""Time-outs and large calls: small calls do not wait behind large ones, and calls fail when nothing makes progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport.multiplexing import LARGE, pack
from tests.support.fake_redis import (
    LARGE_SIZE,
    REPLY_TIMEOUT,
    FakeRedis,
    begin_large_reply,
    bulk_reply,
    connections,
    echo,
    open_peer,
    open_router,
    pack_get,
    start_get,
)
from tests.support.loops import run_in_loop
from tests.support.waiting import until_holds, within_deadline

if TYPE_CHECKING:
    from collections.abc import Callable


# -- time-outs ----------------------------------------------------------------------------------------------------------------


async def test_call_without_reply_times_out_before_later_calls_do() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        began = asyncio.get_running_loop().time()
        first = connection.send(pack_get("a"))
        await asyncio.wait([first], timeout=0.5)
        later = connection.send(pack_get("b"))
        with pytest.raises(RedisTimeoutError, match="no reply for 1 s"):
            await within_deadline(first)
        assert 1.0 <= asyncio.get_running_loop().time() - began < 3.0
        assert connection.closing, "a connection takes no new calls after a time-out"
        assert not later.done()
        await peer.wait_for_calls(2)
        peer.write(bulk_reply(b"a") + bulk_reply(b"b"))
        assert await within_deadline(later) == b"b", "the late reply of the first call is dropped"
        await until_holds(connection.ended.done, "a closing connection ends after its last waiting call")


async def test_large_reply_that_makes_progress_does_not_time_out() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=0.6) as (connection, peer):
        reply, behind = connection.send(pack_get("large")), connection.send(pack_get("small"))
        await peer.wait_for_calls(2)
        data = bulk_reply(bytes(300_000)) + bulk_reply(b"small")
        for number in range(15):
            peer.write(data[number * 20_000 :][:20_000])
            await asyncio.wait([reply], timeout=0.1)
            assert not reply.done(), "the incomplete reply does not time out"
        peer.write(data[300_000:])
        assert await within_deadline(reply) == bytes(300_000)
        assert await within_deadline(behind) == b"small", "a call behind the large reply does not time out"


async def test_large_reply_without_progress_times_out() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=0.2) as (connection, peer):
        reply = connection.send(pack_get("large"))
        await peer.wait_for_calls(1)
        peer.write(bulk_reply(bytes(300_000))[:200_000])
        with pytest.raises(RedisTimeoutError):
            await within_deadline(reply)


async def test_time_out_of_a_call_behind_a_large_reply_starts_after_that_reply() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=0.5) as (connection, peer):
        large, behind = connection.send(pack_get("large")), connection.send(pack_get("small"))
        await peer.wait_for_calls(2)
        peer.write(bulk_reply(bytes(300_000))[:200_000])
        await asyncio.wait([large], timeout=0.75)  # past the deadline of both calls
        peer.write(bulk_reply(bytes(300_000))[200_000:])
        assert await within_deadline(large) == bytes(300_000)
        await asyncio.wait([behind], timeout=0.4)  # past the next check of the timer
        peer.write(bulk_reply(b"small"))
        assert await within_deadline(behind) == b"small"


@pytest.mark.parametrize("progressing", [True, False])
async def test_large_command_times_out_only_without_progress(progressing: bool) -> None:
    async with FakeRedis(echo) as fake, open_peer(fake, reply_timeout=0.4) as (connection, peer):
        peer.transport.pause_reading()
        calls = [connection.send(pack(("SET", "large", bytes(8 * LARGE_SIZE))))]
        for _ in range(12):
            await asyncio.wait(calls[:1], timeout=0.1)
            if progressing:
                peer.transport.resume_reading()
                for _ in range(8):  # read a part of the command
                    await asyncio.sleep(0)
                peer.transport.pause_reading()
                assert not calls[0].done()
            elif not connection.closing:
                calls.append(connection.send(pack_get("small")))  # more unsent bytes are no progress
        peer.transport.resume_reading()
        if progressing:
            assert await within_deadline(calls[0]) == bytes(8 * LARGE_SIZE)
        else:
            with pytest.raises(RedisTimeoutError):
                await within_deadline(calls[0])
            assert len(calls) < 9, "later calls do not postpone the time-out"
            await within_deadline(asyncio.gather(*calls, return_exceptions=True))


# -- large commands and replies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections_before", [1, 2])
async def test_small_calls_use_another_connection_during_a_large_reply(connections_before: int) -> None:
    async with FakeRedis(begin_large_reply) as fake, open_router(fake.url) as router:
        await start_get(router, "opens the connection")
        if connections_before == 2:
            await router.execute("other", "SET", "other", bytes(LARGE))
        large = start_get(router, "large")
        await until_holds(lambda: connections(router)[0].is_congested, "the first bytes of the reply arrive")
        for key in ("a", "b", "c"):
            assert await asyncio.wait_for(start_get(router, key), REPLY_TIMEOUT / 5) == key.encode()
        assert not large.done()
        fake.peers[0].write(bulk_reply(bytes(LARGE_SIZE))[2 * LARGE :])
        assert await within_deadline(large) == bytes(LARGE_SIZE)


async def test_key_with_a_large_reply_uses_a_secondary_connection_afterwards() -> None:
    async with FakeRedis(
        lambda peer, command: bulk_reply(bytes(LARGE)) if command[-1] == b"large" else echo(peer, command)
    ) as fake:
        async with open_router(fake.url) as router:
            (await start_get(router, "large"), await start_get(router, "small"))
            (node,) = router._nodes.values()
            assert node.connections.expects_large_reply("large")
            assert not node.connections.expects_large_reply("small")
            (await start_get(router, "large"), await start_get(router, "small"))
        first, second = ([command[1] for command in peer.commands] for peer in fake.peers)
        assert first == [b"large", b"small", b"small"]
        assert second == [b"large"]


async def test_small_calls_do_not_wait_behind_large_commands() -> None:
    async with FakeRedis(echo) as fake, open_router(fake.url) as router:
        await router.execute("large", "SET", "large", bytes(LARGE))  # opens two connections
        fake.peers[1].transport.pause_reading()
        writes = [asyncio.create_task(router.execute("large", "SET", "large", bytes(LARGE_SIZE))) for _ in range(10)]
        for number in range(20):
            assert await asyncio.wait_for(start_get(router, f"{number}"), REPLY_TIMEOUT / 5) == b"%d" % number
        assert not writes[0].done()
        fake.peers[1].transport.resume_reading()
        await within_deadline(asyncio.gather(*writes))
        assert 2 <= len(fake.peers) <= 4, "a group has at most four connections"
        assert all(len(command) == 2 for command in fake.peers[0].commands), "large commands use secondary connections"


async def test_connection_with_a_full_write_buffer_gets_no_new_calls() -> None:
    async with FakeRedis(echo) as fake, open_router(fake.url) as router:
        await router.execute("large", "SET", "large", bytes(LARGE))
        fake.peers[0].transport.pause_reading()
        unsent = [asyncio.create_task(router.execute("a", "SET", "a", bytes(LARGE // 2))) for _ in range(500)]
        await until_holds(lambda: connections(router)[0].is_congested, "the first connection is full")
        assert await asyncio.wait_for(start_get(router, "b"), REPLY_TIMEOUT / 5) == b"b"
        assert not unsent[-1].done()
        fake.peers[0].transport.resume_reading()
        await within_deadline(asyncio.gather(*unsent))


@pytest.mark.parametrize(
    "promise",
    [
        test_call_without_reply_times_out_before_later_calls_do,
        test_small_calls_do_not_wait_behind_large_commands,
    ],
)
def test_promise_holds_over_uvloop(promise: Callable[[], Any]) -> None:
    run_in_loop("uvloop", promise())

"""Time-outs and large calls: small calls do not wait behind large ones, and calls fail when nothing makes progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport.multiplexing import LARGE, pack
from tests.support.fake_redis import (
    LARGE_SIZE,
    FakeRedis,
    ManualClock,
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

    from motia_redis._transport.multiplexing import MultiplexedConnection
    from tests.support.fake_redis import Peer


# -- time-outs ----------------------------------------------------------------------------------------------------------------


async def test_call_without_reply_times_out_before_later_calls_do() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        clock = ManualClock(connection)
        first = connection.send(pack_get("a"))
        await peer.wait_for_calls(1)
        clock.advance(0.5)
        later = connection.send(pack_get("b"))
        await peer.wait_for_calls(2)
        clock.advance(0.4)
        assert not first.done()
        clock.advance(0.2)
        with pytest.raises(RedisTimeoutError, match="no reply for 1 s"):
            await within_deadline(first)
        assert connection.closing, "a connection takes no new calls after a time-out"
        assert not later.done()
        peer.write(bulk_reply(b"a") + bulk_reply(b"b"))
        assert await within_deadline(later) == b"b", "the late reply of the first call is dropped"
        clock.advance(2.0)
        await until_holds(connection.ended.done, "a closing connection ends after its last waiting call")


async def test_answered_calls_are_not_timed_any_more() -> None:
    """Otherwise a busy connection would remember each of the calls of a time-out's length."""
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1000.0) as (connection, peer):
        for number in range(1, 50):
            call = connection.send(pack_get("a"))
            await peer.wait_for_calls(number)
            peer.write(bulk_reply(b"a"))
            assert await within_deadline(call) == b"a"
        assert len(connection._timeouts._deadlines) == 0


async def write_part(connection: MultiplexedConnection, peer: Peer, data: bytes) -> None:
    """Let the peer write a part of a reply, and wait until it has arrived."""
    expected = connection._partial + len(data)
    peer.write(data)
    await until_holds(lambda: connection._partial == expected, "the part arrives")


async def test_large_reply_that_makes_progress_does_not_time_out() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        clock = ManualClock(connection)
        reply, behind = connection.send(pack_get("large")), connection.send(pack_get("small"))
        await peer.wait_for_calls(2)
        data = bulk_reply(bytes(300_000)) + bulk_reply(b"small")
        for number in range(15):
            await write_part(connection, peer, data[number * 20_000 :][:20_000])
            clock.advance(0.9)  # less than from one check to the next
            assert not reply.done(), "the incomplete reply does not time out"
        peer.write(data[300_000:])
        assert await within_deadline(reply) == bytes(300_000)
        assert await within_deadline(behind) == b"small", "a call behind the large reply does not time out"


async def test_large_reply_without_progress_times_out() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        clock = ManualClock(connection)
        reply = connection.send(pack_get("large"))
        await peer.wait_for_calls(1)
        await write_part(connection, peer, bulk_reply(bytes(300_000))[:200_000])
        clock.advance(1.1)
        assert not reply.done()
        clock.advance(1.1)
        with pytest.raises(RedisTimeoutError):
            await within_deadline(reply)


async def test_time_out_of_a_call_behind_a_large_reply_starts_after_that_reply() -> None:
    async with FakeRedis() as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        clock = ManualClock(connection)
        large, behind = connection.send(pack_get("large")), connection.send(pack_get("small"))
        await peer.wait_for_calls(2)
        await write_part(connection, peer, bulk_reply(bytes(300_000))[:200_000])
        clock.advance(1.5)  # past the deadline of both calls
        peer.write(bulk_reply(bytes(300_000))[200_000:])
        assert await within_deadline(large) == bytes(300_000)
        clock.advance(0.8)  # past the next check of the timer
        peer.write(bulk_reply(b"small"))
        assert await within_deadline(behind) == b"small"


@pytest.mark.parametrize("progressing", [True, False])
async def test_large_command_times_out_only_without_progress(progressing: bool) -> None:
    async with FakeRedis(echo) as fake, open_peer(fake, reply_timeout=1.0) as (connection, peer):
        clock = ManualClock(connection)
        peer.transport.pause_reading()
        calls = [connection.send(pack(("SET", "large", bytes(8 * LARGE_SIZE))))]
        await until_holds(lambda: connection.unwritten() > 0, "the transport holds what the peer does not read")
        for _ in range(12):
            if progressing:
                before = connection.unwritten()
                peer.transport.resume_reading()
                await until_holds(lambda before=before: connection.unwritten() < before, "a part of the command is read")  # type: ignore[misc]
                peer.transport.pause_reading()
                clock.advance(0.9)
                assert not calls[0].done()
                if not connection.unwritten():
                    break
            elif not connection.closing:
                calls.append(connection.send(pack_get("small")))  # more unsent bytes are no progress
                await asyncio.sleep(0)
                clock.advance(0.25)
        peer.transport.resume_reading()
        if progressing:
            assert await within_deadline(calls[0]) == bytes(8 * LARGE_SIZE)
        else:
            with pytest.raises(RedisTimeoutError):
                await within_deadline(calls[0])
            assert len(calls) < 10, "later calls do not postpone the time-out"
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
            assert await within_deadline(start_get(router, key)) == key.encode()
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
            assert await within_deadline(start_get(router, f"{number}")) == b"%d" % number
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
        assert await within_deadline(start_get(router, "b")) == b"b"
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

"""Multiplexed connections: calls are sent together, get their replies in order, and fail when the connection ends."""

from __future__ import annotations

import asyncio
import gc
import select
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError, ResponseError

from motia_redis._transport.failures import ConnectionLost, ProtocolMismatch
from motia_redis._transport.multiplexing import LARGE
from tests.support.fake_redis import (
    LARGE_SIZE,
    REPLY_TIMEOUT,
    FakeRedis,
    bulk_reply,
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


async def test_call_on_an_idle_connection_is_written_at_once() -> None:
    async with FakeRedis(echo) as fake, open_peer(fake) as (connection, peer):
        reply = connection.send(pack_get("a"))
        # The loop has not run since `send`, so `send` itself has written the command.
        assert select.select([peer.transport.get_extra_info("socket").fileno()], [], [], 1.0)[0]
        assert await reply == b"a"


async def test_calls_made_while_others_wait_are_written_together() -> None:
    async with FakeRedis(echo) as fake, open_router(fake.url) as router:
        await start_get(router, "opens the connection")
        replies = await asyncio.gather(*(start_get(router, str(number)) for number in range(64)))
        assert replies == [str(number).encode() for number in range(64)]
        (peer,) = fake.peers
        assert peer.packets <= 4, "the call that connects, the first of the 64 calls, and the other 63"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_replies_split_at_any_byte_reach_their_callers_in_order(size: int) -> None:
    sent = [
        b"$1\r\na\r\n",
        b":7\r\n",
        b"-WRONGTYPE no\r\n",
        b"_\r\n",
        b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
        b"%1\r\n+k\r\n,1.5\r\n",
        b"+OK\r\n",
    ]
    async with FakeRedis() as fake, open_peer(fake) as (connection, peer):
        calls = [connection.send(pack_get(number)) for number in range(len(sent))]
        await peer.wait_for_calls(len(sent))
        assert [command[1] for command in peer.commands] == [b"%d" % number for number in range(len(sent))]
        replies = b"".join(sent)
        for at in range(0, len(replies), size):
            peer.write(replies[at : at + size])
            await asyncio.sleep(0)
        found = await within_deadline(asyncio.gather(*calls))
        assert isinstance(found[2], ResponseError), "an error reply is the result of its own call"
        assert found[:2] + found[3:] == [b"a", 7, None, [1, [b""]], {b"k": 1.5}, b"OK"]


@pytest.mark.parametrize("written", [True, False])
async def test_cancelled_call_does_not_shift_later_replies(written: bool) -> None:
    async with FakeRedis() as fake, open_router(fake.url) as router:
        opening = start_get(router, "0")
        await until_holds(lambda: bool(fake.peers), "the connection is open")
        await fake.peers[0].wait_for_calls(1)
        first, cancelled, last = (start_get(router, key) for key in "123")
        await (fake.peers[0].wait_for_calls(4) if written else asyncio.sleep(0))
        cancelled.cancel()
        await fake.peers[0].wait_for_calls(4)
        fake.peers[0].write(b"".join(map(bulk_reply, [b"0", b"1", b"2", b"3"])))
        assert await within_deadline(asyncio.gather(opening, first, last)) == [b"0", b"1", b"3"]
        assert cancelled.cancelled()
        fake.answer = echo
        assert await start_get(router, "4") == b"4", "the connection stays in use"
        assert len(fake.peers) == 1


@pytest.mark.parametrize("last", [b"", b"$100\r\nhalf", b":1"], ids=["between-replies", "in-a-string", "in-a-number"])
@pytest.mark.parametrize("close_method", ["close", "abort"])
async def test_ended_connection_fails_its_calls_and_is_replaced(last: bytes, close_method: str) -> None:
    async with FakeRedis() as fake, open_router(fake.url) as router:
        calls = [start_get(router, str(number)) for number in range(5)]
        await until_holds(lambda: bool(fake.peers) and len(fake.peers[0].commands) == 5, "all calls arrive")
        fake.peers[0].write(bulk_reply(b"0") + last)
        assert await within_deadline(calls[0]) == b"0"
        getattr(fake.peers[0].transport, close_method)()
        found = await within_deadline(asyncio.gather(*calls[1:], return_exceptions=True))
        assert {type(error) for error in found} == {ConnectionLost}
        fake.answer = echo
        assert await start_get(router, "5") == b"5"
        assert len(fake.peers) == 2


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n", b"\x15\x03\x01\x00\x02"])
async def test_server_of_another_protocol_fails_calls_at_once(words: bytes) -> None:
    began = asyncio.get_running_loop().time()
    async with FakeRedis(greeting=words) as fake, open_router(fake.url) as router:
        with pytest.raises(RedisError):
            await start_get(router, "a")
    async with FakeRedis(lambda *_: words) as fake, open_router(fake.url) as router:
        found = await asyncio.gather(start_get(router, "a"), start_get(router, "b"), return_exceptions=True)
        assert {type(error) for error in found} == {ProtocolMismatch}
    assert asyncio.get_running_loop().time() - began < REPLY_TIMEOUT / 2


async def test_reply_without_a_call_ends_the_connection() -> None:
    async with FakeRedis(echo) as fake, open_router(fake.url) as router:
        assert await start_get(router, "a") == b"a"
        fake.peers[0].write(bulk_reply(b"whose?"))
        await until_holds(lambda: fake.peers[0].lost, "the connection ends")
        assert await start_get(router, "b") == b"b", "no call gets that reply"
        assert len(fake.peers) == 2


async def test_push_messages_are_not_taken_for_replies() -> None:
    pushed = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
    async with FakeRedis(lambda peer, command: pushed + echo(peer, command) + pushed) as fake, open_peer(fake) as (connection, _):
        calls = [connection.send(pack_get(number)) for number in range(3)]
        assert await within_deadline(asyncio.gather(*calls)) == [b"0", b"1", b"2"]
        connection.data_received(b">1\r\n" + bulk_reply(bytes(2 * LARGE)))
        assert not connection.is_congested, "a complete reply delays no call"


async def test_close_fails_waiting_calls_and_closes_all_connections() -> None:
    async with FakeRedis() as fake:
        async with open_router(fake.url) as router:
            calls = [start_get(router, str(number)) for number in range(5)]
            calls.append(asyncio.create_task(router.execute("large", "SET", "large", bytes(LARGE_SIZE))))
            await until_holds(lambda: sum(len(peer.commands) for peer in fake.peers) == 6, "all calls arrive")
        found = await within_deadline(asyncio.gather(*calls, return_exceptions=True))
        assert {type(error) for error in found} == {ConnectionLost}
        await fake.wait_closed()
        gc.collect()


@pytest.mark.parametrize(
    "promise",
    [
        test_calls_made_while_others_wait_are_written_together,
        test_reply_without_a_call_ends_the_connection,
        test_close_fails_waiting_calls_and_closes_all_connections,
    ],
)
def test_promise_holds_over_uvloop(promise: Callable[[], Any]) -> None:
    run_in_loop("uvloop", promise())

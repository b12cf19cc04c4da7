"""Multiplexed connections: calls are sent together, get their replies in order, and fail when the connection ends."""

from __future__ import annotations

import asyncio
import gc
import select
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from motia_redis._transport.multiplexing import LARGE
from tests.support.fake_redis import BULK, PATIENCE, FakeRedis, call, connected, echo, get, reaching, text
from tests.support.loops import all_over
from tests.support.waiting import seen, soon

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_call_alone_goes_out_at_once() -> None:
    async with FakeRedis(echo) as fake, connected(fake) as (connection, peer):
        reply = connection.send(get("a"))
        # The loop does not run here: what is at the other end was written within `send`.
        assert select.select([peer.transport.get_extra_info("socket").fileno()], [], [], 1.0)[0]
        assert await reply == b"a"


async def test_calls_made_while_others_wait_go_out_together() -> None:
    async with FakeRedis(echo) as fake, reaching(fake.url) as router:
        await call(router, "opens the connection")
        replies = await asyncio.gather(*(call(router, str(number)) for number in range(64)))
        assert replies == [str(number).encode() for number in range(64)]
        (peer,) = fake.peers
        assert peer.packets <= 4, "the first call of all, the first of 64, and the others"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_replies_reach_their_callers_in_order_however_they_are_cut(size: int) -> None:
    sent = [
        b"$1\r\na\r\n",
        b":7\r\n",
        b"-WRONGTYPE no\r\n",
        b"_\r\n",
        b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
        b"%1\r\n+k\r\n,1.5\r\n",
        b"+OK\r\n",
    ]
    async with FakeRedis() as fake, connected(fake) as (connection, peer):
        calls = [connection.send(get(number)) for number in range(len(sent))]
        await peer.has(len(sent))
        assert [command[1] for command in peer.commands] == [b"%d" % number for number in range(len(sent))]
        replies = b"".join(sent)
        for at in range(0, len(replies), size):
            peer.write(replies[at : at + size])
            await asyncio.sleep(0)
        found = await soon(asyncio.gather(*calls))
        assert isinstance(found[2], ResponseError), "an error is the result of its own call"
        assert found[:2] + found[3:] == [b"a", 7, None, [1, [b""]], {b"k": 1.5}, b"OK"]


@pytest.mark.parametrize("written", [True, False])
async def test_a_cancelled_call_takes_nothing_from_its_neighbours(written: bool) -> None:
    async with FakeRedis() as fake, reaching(fake.url) as router:
        opening = call(router, "0")
        await seen(lambda: bool(fake.peers), "the connection is open")
        await fake.peers[0].has(1)
        first, cancelled, last = (call(router, key) for key in "123")
        await (fake.peers[0].has(4) if written else asyncio.sleep(0))
        cancelled.cancel()
        await fake.peers[0].has(4)
        fake.peers[0].write(b"".join(map(text, [b"0", b"1", b"2", b"3"])))
        assert await soon(asyncio.gather(opening, first, last)) == [b"0", b"1", b"3"]
        assert cancelled.cancelled()
        fake.answer = echo
        assert await call(router, "4") == b"4", "the connection goes on"
        assert len(fake.peers) == 1


@pytest.mark.parametrize("last", [b"", b"$100\r\nhalf", b":1"], ids=["between replies", "in a text", "in a number"])
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_when_a_connection_ends_its_calls_fail_and_the_next_gets_another(last: bytes, way: str) -> None:
    async with FakeRedis() as fake, reaching(fake.url) as router:
        calls = [call(router, str(number)) for number in range(5)]
        await seen(lambda: bool(fake.peers) and len(fake.peers[0].commands) == 5, "all calls arrive")
        fake.peers[0].write(text(b"0") + last)
        assert await soon(calls[0]) == b"0"
        getattr(fake.peers[0].transport, way)()
        found = await soon(asyncio.gather(*calls[1:], return_exceptions=True))
        assert {type(error) for error in found} == {RedisConnectionError}
        fake.answer = echo
        assert await call(router, "5") == b"5"
        assert len(fake.peers) == 2


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n", b"\x15\x03\x01\x00\x02"])
async def test_what_is_no_redis_is_an_error_at_once(words: bytes) -> None:
    began = asyncio.get_running_loop().time()
    async with FakeRedis(greeting=words) as fake, reaching(fake.url) as router:
        with pytest.raises(RedisError):
            await call(router, "a")
    async with FakeRedis(lambda *_: words) as fake, reaching(fake.url) as router:
        found = await asyncio.gather(call(router, "a"), call(router, "b"), return_exceptions=True)
        assert {type(error) for error in found} == {InvalidResponse}
    assert asyncio.get_running_loop().time() - began < PATIENCE / 2


async def test_a_reply_without_a_call_ends_the_connection() -> None:
    async with FakeRedis(echo) as fake, reaching(fake.url) as router:
        assert await call(router, "a") == b"a"
        fake.peers[0].write(text(b"whose?"))
        await seen(lambda: fake.peers[0].lost, "the connection ends")
        assert await call(router, "b") == b"b", "and nobody gets that reply"
        assert len(fake.peers) == 2


async def test_pushed_messages_are_nobodys_replies_and_no_part_of_one() -> None:
    pushed = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
    async with FakeRedis(lambda peer, command: pushed + echo(peer, command) + pushed) as fake, connected(fake) as (connection, _):
        calls = [connection.send(get(number)) for number in range(3)]
        assert await soon(asyncio.gather(*calls)) == [b"0", b"1", b"2"]
        connection.data_received(b">1\r\n" + text(bytes(2 * LARGE)))
        assert not connection.is_congested, "nobody would wait behind what has come whole"


async def test_closing_fails_the_calls_that_wait_and_leaves_nothing_open() -> None:
    async with FakeRedis() as fake:
        async with reaching(fake.url) as router:
            calls = [call(router, str(number)) for number in range(5)]
            calls.append(asyncio.create_task(router.execute("big", "SET", "big", bytes(BULK))))
            await seen(lambda: sum(len(peer.commands) for peer in fake.peers) == 6, "all calls arrive")
        found = await soon(asyncio.gather(*calls, return_exceptions=True))
        assert {type(error) for error in found} == {RedisConnectionError}
        await fake.gone()
        gc.collect()


@pytest.mark.parametrize(
    "promise",
    [
        test_calls_made_while_others_wait_go_out_together,
        test_a_reply_without_a_call_ends_the_connection,
        test_closing_fails_the_calls_that_wait_and_leaves_nothing_open,
    ],
)
def test_the_same_holds_over_uvloop(promise: Callable[[], Any]) -> None:
    all_over("uvloop", promise())

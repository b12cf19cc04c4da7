"""Connections that many calls share (links.py), against a server that answers late, in pieces, wrongly or never."""

from __future__ import annotations

import asyncio
import gc
import select
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport import endpoint
from motia_redis._transport.multiplexing import LARGE, MultiplexedConnection, open_connection, pack
from tests.support.waiting import DEADLINE, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

    from motia_redis._transport.router import Router

PATIENCE = 10.0  # seconds to wait for a reply, where a test is not about that
BULK = 4 * 1024 * 1024


def text(data: bytes) -> bytes:
    """Return `data` as a reply."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def echo(peer: Peer, command: list[bytes]) -> bytes:
    """Answer a call with its last argument."""
    return text(command[-1])


def get(key: object) -> bytes:
    return pack(("GET", str(key)))


class Peer(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, server: FakeRedis) -> None:
        self.commands: list[list[bytes]] = []  #: without those that redis-py sends to begin with
        self.packets = 0  #: in which they came
        self.lost = False
        self._server = server
        self._parser = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._server.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        before = len(self.commands)
        while isinstance(command := self._parser.gets(), list):
            if command[0] == b"HELLO":
                self.write(self._server.greeting)
            elif command[0] == b"CLIENT":
                self.write(b"+OK\r\n")
                if command[2] == b"LIB-VER":  # the last one
                    self._server.greeted(self)
            else:
                self.commands.append(command)
                self.write(self._server.answer(self, command) or b"")
        self.packets += len(self.commands) > before

    def write(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    async def has(self, count: int) -> None:
        await seen(lambda: len(self.commands) >= count, f"{count} calls arrive")


class FakeRedis:
    """A server that gives `answer`'s replies, or none for None. Serves on `async with`, at a loopback port."""

    def __init__(
        self,
        answer: Callable[[Peer, list[bytes]], bytes | None] = lambda *_: None,
        *,
        greeting: bytes = b"%1\r\n+proto\r\n:3\r\n",
        greeted: Callable[[Peer], None] = lambda _: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.greeting = greeting
        self.greeted = greeted
        self.peers: list[Peer] = []
        self.port = 0
        self._tls = tls

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()
        await self.gone("the fake server's connections end")

    async def gone(self, what: str = "the client closes all connections") -> None:
        await seen(lambda: all(peer.lost for peer in self.peers), what)


async def seen(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    await until(holds, what)


async def soon(call: Awaitable[Any]) -> Any:
    """Wait for what must not hang."""
    return await asyncio.wait_for(call, DEADLINE)


@asynccontextmanager
async def connected(fake: FakeRedis, *, patience: float = PATIENCE) -> AsyncIterator[tuple[MultiplexedConnection, Peer]]:
    """Give a link and the server's side of it."""
    connection = await open_connection(Connection(host="127.0.0.1", port=fake.port), patience)
    assert connection is not None, "the transport of the connection is found"
    try:
        yield connection, fake.peers[-1]
    finally:
        connection.close()
        await soon(asyncio.shield(connection.ended))


@asynccontextmanager
async def reaching(url: str, *, patience: float = PATIENCE) -> AsyncIterator[Router]:
    router = await endpoint.Endpoint(url).open_router(max_connections=4, reply_timeout=patience)
    try:
        yield router
    finally:
        await router.aclose()


def connections(router: Router) -> list[MultiplexedConnection]:
    (node,) = router._nodes.values()
    return node.connections._connections


def call(router: Router, key: str) -> asyncio.Task[Any]:
    return asyncio.create_task(router.execute(key, "GET", key))


# -- together, and in order ---------------------------------------------------------------------------------------------------


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


# -- connections that end -----------------------------------------------------------------------------------------------------


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


# -- nobody waits for the bytes of others -------------------------------------------------------------------------------------


def starts_big(peer: Peer, command: list[bytes]) -> bytes:
    """Answer with the beginning of a big reply where one is asked for."""
    return text(bytes(BULK))[: 2 * LARGE] if command[-1] == b"big" else echo(peer, command)


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


# -- closing ------------------------------------------------------------------------------------------------------------------


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


# -- over another event loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "promise",
    [
        test_calls_made_while_others_wait_go_out_together,
        test_a_call_without_a_reply_fails_in_time_and_later_ones_wait_their_own,
        test_a_reply_without_a_call_ends_the_connection,
        test_while_a_big_command_goes_out_others_do_not_wait,
        test_closing_fails_the_calls_that_wait_and_leaves_nothing_open,
    ],
)
def test_the_same_holds_over_uvloop(promise: Callable[[], Any]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(promise())

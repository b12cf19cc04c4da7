"""A fake Redis server whose replies a test chooses: late, in pieces, malformed or never."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
from redis.asyncio import Connection

from motia_redis._transport import endpoint
from motia_redis._transport.multiplexing import LARGE, MultiplexedConnection, open_connection, pack
from tests.support.waiting import seen, soon

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from typing import Self

    from motia_redis._transport.router import Router

PATIENCE = 10.0  # seconds to wait for a reply, in tests of other things than time-outs
BULK = 4 * 1024 * 1024


def text(data: bytes) -> bytes:
    """Return `data` as a reply."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def echo(peer: Peer, command: list[bytes]) -> bytes:
    """Answer a call with its last argument."""
    return text(command[-1])


def starts_big(peer: Peer, command: list[bytes]) -> bytes:
    """Answer with the beginning of a big reply where one is asked for."""
    return text(bytes(BULK))[: 2 * LARGE] if command[-1] == b"big" else echo(peer, command)


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

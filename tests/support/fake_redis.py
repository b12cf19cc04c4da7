"""A fake Redis server whose replies a test chooses: late, in pieces, malformed or never."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from motia_redis._transport import endpoint
from motia_redis._transport.connecting import open_connection
from motia_redis._transport.multiplexing import LARGE, MultiplexedConnection, pack
from motia_redis._transport.urls import Server
from tests.support.waiting import until_holds, within_deadline

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from typing import Self

    from motia_redis._transport.router import Router

REPLY_TIMEOUT = 10.0  # seconds; the reply time-out in tests of other behaviour
LARGE_SIZE = 4 * 1024 * 1024


def bulk_reply(data: bytes) -> bytes:
    """Return `data` encoded as a bulk string reply."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def echo(peer: Peer, command: list[bytes]) -> bytes:
    """Answer a call with its last argument."""
    return bulk_reply(command[-1])


def begin_large_reply(peer: Peer, command: list[bytes]) -> bytes:
    """Answer a call for the key `large` with the first bytes of a large reply, and others like `echo`."""
    return bulk_reply(bytes(LARGE_SIZE))[: 2 * LARGE] if command[-1] == b"large" else echo(peer, command)


def pack_get(key: object) -> bytes:
    return pack(("GET", str(key)))


class Peer(asyncio.Protocol):
    """Serve one connection and record its commands."""

    def __init__(self, server: FakeRedis) -> None:
        self.commands: list[list[bytes]] = []  #: without HELLO
        self.packets = 0  #: the number of reads that contained commands
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
                self._server.on_greeted(self)
            else:
                self.commands.append(command)
                self.write(self._server.answer(self, command) or b"")
        self.packets += len(self.commands) > before

    def write(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    async def wait_for_calls(self, count: int) -> None:
        await until_holds(lambda: len(self.commands) >= count, f"{count} calls arrive")


class FakeRedis:
    """Serve a loopback port within `async with`. `answer` returns the reply to a command, or None for no reply."""

    def __init__(
        self,
        answer: Callable[[Peer, list[bytes]], bytes | None] = lambda *_: None,
        *,
        greeting: bytes = b"%1\r\n+proto\r\n:3\r\n",
        on_greeted: Callable[[Peer], None] = lambda _: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.greeting = greeting
        self.on_greeted = on_greeted
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
        await self.wait_closed("the fake server's connections end")

    async def wait_closed(self, what: str = "the client closes all connections") -> None:
        await until_holds(lambda: all(peer.lost for peer in self.peers), what)


@asynccontextmanager
async def open_peer(
    fake: FakeRedis, *, reply_timeout: float = REPLY_TIMEOUT
) -> AsyncIterator[tuple[MultiplexedConnection, Peer]]:
    """Open a multiplexed connection to a fake server; return it and the server's side of it."""
    connection = await open_connection(Server(host="127.0.0.1", port=fake.port), reply_timeout)
    try:
        yield connection, fake.peers[-1]
    finally:
        connection.close()
        await within_deadline(asyncio.shield(connection.ended))


@asynccontextmanager
async def open_router(url: str, *, reply_timeout: float = REPLY_TIMEOUT) -> AsyncIterator[Router]:
    router = await endpoint.Endpoint(url).open_router(max_connections=4, reply_timeout=reply_timeout)
    try:
        yield router
    finally:
        await router.aclose()


def connections(router: Router) -> list[MultiplexedConnection]:
    (node,) = router._nodes.values()
    return node.connections._connections


def start_get(router: Router, key: str) -> asyncio.Task[Any]:
    return asyncio.create_task(router.execute(key, "GET", key))


class ManualClock:
    """The clock of a connection's reply time-outs, from now on: it stands still until a test lets it go on.

    So a test on a busy machine neither times out too early nor has to wait.
    """

    def __init__(self, connection: MultiplexedConnection) -> None:
        self._now = asyncio.get_running_loop().time()
        self._timers: list[_Timer] = []
        timeouts: Any = connection._timeouts
        timeouts.stop()
        timeouts._loop, timeouts._timer = self, None
        if timeouts._deadlines:
            timeouts._start(timeouts._deadlines[0][1])

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        self._timers.append(_Timer(when, callback))
        return self._timers[-1]

    def advance(self, seconds: float) -> None:
        """Let the clock go on, and call what is due meanwhile."""
        end = self._now + seconds
        while due := [timer for timer in self._timers if timer.when <= end and not timer.cancelled]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            self._now = max(self._now, first.when)
            first.callback()
        self._now = end


@dataclass(eq=False)
class _Timer:
    when: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

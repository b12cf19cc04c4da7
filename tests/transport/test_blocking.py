"""A connection that threads share without an event loop: every call gets its own reply, or an error that says what was sent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._transport.blocking import BlockingConnection, take_over
from motia_redis._transport.endpoint import Endpoint
from motia_redis._transport.failures import ConnectionLost, ErrorReply, NotSent, ProtocolMismatch, ReplyTimeout
from motia_redis._transport.multiplexing import pack
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support.servers import RedisServer


class Peer:
    """The other end of a connection, by which a test answers as it likes."""

    def __init__(self, timeout: float = DEADLINE) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(DEADLINE)
        self.connection = BlockingConnection(ours, timeout)

    def receive(self, count: int) -> list[int]:
        """Read so many ECHO commands and return their numbers."""
        data = b""
        while data.count(b"ECHO") < count or not data.endswith(b"\r\n"):
            data += self.socket.recv(65536)
        return [int(part.split(b"\r\n")[2]) for part in data.split(b"ECHO")[1:]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.connection.close()
    made.socket.close()


def echo(number: int) -> bytes:
    return pack(("ECHO", str(number)))


def open_connection(url: str) -> BlockingConnection:
    async def open_and_take_over() -> BlockingConnection:
        router = await Endpoint(url).open_router(max_connections=1, reply_timeout=5)
        connection = await router.open_apart()
        assert connection is not None
        taken = take_over(connection, 5)
        await router.aclose()
        return taken

    return asyncio.run(open_and_take_over())


def start(connection: BlockingConnection, count: int) -> tuple[list[Any], list[threading.Thread]]:
    """Let threads send an ECHO each; return where their replies or errors will be."""
    found: list[Any] = [None] * count

    def send(number: int) -> None:
        try:
            found[number] = connection.send(echo(number))
        except Exception as error:  # noqa: BLE001
            found[number] = error

    threads = [threading.Thread(target=send, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    return found, threads


def test_every_thread_gets_its_own_replies(server: RedisServer) -> None:
    connection = open_connection(server.url)

    def work(thread: int) -> None:
        for number in range(200):
            words = str(thread * 1000 + number) * random.choice([1, 1, 1, 500])
            assert connection.send(pack(("ECHO", words))) == words.encode()

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(24)))
    connection.close()


def test_error_reply_is_a_result(server: RedisServer) -> None:
    connection = open_connection(server.url)
    reply = connection.send(pack(("NONE",)))
    assert isinstance(reply, ErrorReply)
    assert not connection.is_broken
    connection.close()
    with pytest.raises(NotSent):
        connection.send(pack(("PING",)))


def test_calls_that_come_during_another_one_leave_together(peer: Peer) -> None:
    first = threading.Thread(target=peer.connection.send, args=[echo(99)])
    first.start()
    assert peer.receive(1) == [99]
    found, threads = start(peer.connection, 20)
    wait_until(lambda: len(peer.connection._queue) == 20, "all threads queue")
    peer.socket.sendall(b"$2\r\n99\r\n")
    numbers = peer.receive(20)  # of one write: nothing has answered in between
    assert sorted(numbers) == list(range(20))
    peer.socket.sendall(b"".join(b"+%d\r\n" % number for number in numbers))
    for thread in [first, *threads]:
        thread.join(DEADLINE)
    assert [int(reply) for reply in found] == list(range(20))


def test_lost_connection_tells_what_was_sent(peer: Peer) -> None:
    def lose() -> None:
        with pytest.raises(ConnectionLost):
            peer.connection.send(echo(99))

    first = threading.Thread(target=lose)
    first.start()
    peer.receive(1)
    found, threads = start(peer.connection, 5)
    wait_until(lambda: len(peer.connection._queue) == 5, "all threads queue")
    peer.socket.close()
    for thread in [first, *threads]:
        thread.join(DEADLINE)
    assert [type(error) for error in found] == [NotSent] * 5
    assert peer.connection.is_broken
    with pytest.raises(NotSent):
        peer.connection.send(echo(1))


def test_missing_reply_breaks_the_connection() -> None:
    peer = Peer(timeout=0.2)
    with pytest.raises(ReplyTimeout, match=r"no reply for 0\.2 s"):
        peer.connection.send(echo(1))
    assert peer.connection.is_broken
    peer.socket.close()


@pytest.mark.parametrize("reply", [b"no RESP\r\n", b"+1\r\n+2\r\n"])
def test_what_is_no_reply_breaks_the_connection(peer: Peer, reply: bytes) -> None:
    peer.socket.sendall(reply)
    with pytest.raises(ProtocolMismatch) as mismatch:
        peer.connection.send(echo(1))
    assert mismatch.value.sent
    assert peer.connection.is_broken


def test_pushed_message_is_no_reply(peer: Peer) -> None:
    peer.socket.sendall(b">2\r\n+invalidate\r\n+x\r\n+1\r\n")
    assert peer.connection.send(echo(1)) in (b"1", "1")


def test_call_of_a_signal_handler_inside_of_a_call_is_refused(peer: Peer) -> None:
    """It would wait for the call that it interrupts."""
    seen: list[Exception] = []

    def handle(*_: object) -> None:
        try:
            peer.connection.send(echo(2))
        except NotSent as error:
            seen.append(error)
        peer.socket.sendall(b"+1\r\n")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        assert peer.connection.send(echo(1)) in (b"1", "1")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 1
    assert peer.receive(1) == [1]


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("place", ["leads", "queues", "leads next"])
def test_interrupted_thread_does_not_hold_up_others(peer: Peer, place: str) -> None:
    """The main thread is interrupted; the others get replies or errors at once, long before the time-out."""

    def handle(*_: object) -> None:
        raise Interrupt

    connection = peer.connection
    first = threading.Thread(target=lambda: start(connection, 1)[1][0].join(DEADLINE))
    if place != "leads":
        first.start()
        assert peer.receive(1) == [0]
    found: list[Any] = []

    def interrupt() -> None:
        if place == "leads":
            peer.receive(1)
        wait_until(lambda: len(connection._queue) == (place != "leads"), "the main thread waits")
        others, threads = start(connection, 3)
        wait_until(lambda: len(connection._queue) == 3 + (place != "leads"), "others queue")
        os.kill(os.getpid(), signal.SIGUSR1)
        if place != "leads":
            if place == "queues":
                interrupted.wait(DEADLINE)
            peer.socket.sendall(b"+0\r\n")
            if place == "queues":
                numbers = peer.receive(3)
                peer.socket.sendall(b"".join(b"+%d\r\n" % number for number in numbers))
        if place == "leads next":
            interrupted.wait(DEADLINE)
            peer.socket.close()
        for thread in threads:
            thread.join(DEADLINE / 2)
        found.extend(others)

    interrupted = threading.Event()
    before = signal.signal(signal.SIGUSR1, handle)
    helper = threading.Thread(target=interrupt)
    try:
        helper.start()
        with pytest.raises(Interrupt):
            connection.send(echo(7))
    finally:
        signal.signal(signal.SIGUSR1, before)
        interrupted.set()
    helper.join(DEADLINE)
    if place != "leads":
        first.join(DEADLINE)
    assert len(found) == 3
    assert None not in found


def test_keys_of_a_server_with_tls_or_of_several_servers_have_no_such_connection() -> None:
    async def ask(url: str) -> object:
        router = await Endpoint(url).open_router(max_connections=1, reply_timeout=5)
        return await router.open_apart()

    for url in ("rediss://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main"):
        assert asyncio.run(ask(url)) is None


def test_connection_that_was_taken_over_stays_open(server: RedisServer, raw: redis.Redis) -> None:
    before = len(raw.client_list())
    connection = open_connection(server.url)
    assert connection.send(pack(("PING",))) == b"PONG"
    assert len(raw.client_list()) == before + 1
    connection.close()
    wait_until(lambda: len(raw.client_list()) == before, "the server has closed it")

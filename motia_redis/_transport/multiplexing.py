"""Connections that many calls share: calls made while others wait go out together, and their replies come back in that order.

redis-py opens the connection (address, TLS, password, database); then its transport is handed to a `Link`, which packs commands
and reads replies with hiredis and keeps nothing but a queue of who waits. A call that is alone is written at once. One that finds
others waiting is written with all that are made in the same turn of the event loop: so at 64 tasks a system call carries some 64
commands, and costs a fraction of what it costs to lend a connection to each.

What would hold up others goes elsewhere: big commands, and calls whose replies are known to be big, have links of their own, and
a link in the midst of a big reply takes no new calls. Blocking commands do not belong on links at all (see nodes.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

LARGE: Final = 64 * 1024  # bytes of a command or reply from which on others should not have to wait behind it
_MAX_CONNECTIONS = 4  # to one node: one for what is small, the others for what is big
_LARGE_KEYS = 1024  # keys with big replies that are remembered
_READ_BUFFER = 1024 * 1024  # bytes that hiredis keeps for the next replies instead of giving them back
_INCOMPLETE: Final = object()
_Pushed: Final = hiredis.PushNotification


class MultiplexedConnection(asyncio.Protocol):
    """One connection and the calls that wait for their replies on it. Made by `open_link`; belongs to one event loop.

    Error replies are results: instances of redis-py's ResponseError. A call fails with redis-py's ConnectionError when the
    connection ends before its reply, and with its TimeoutError when there is none `timeout` seconds after it was written and
    nothing moves either; the link is `closing` then, and takes no new calls.
    """

    def __init__(self, writer: asyncio.StreamWriter, reply_timeout: float) -> None:
        self.closing = False  #: takes no new calls; those that wait may still get their replies
        self._writer = writer  # closes the transport when it is collected itself
        self._transport = writer.transport
        self._timeout = reply_timeout
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()  #: done when the connection has ended
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._reader.setmaxbuf(_READ_BUFFER)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._sent = 0  # calls so far; those of them that are not answered wait
        self._last_large = 0  # of those sent, the last one whose command was big
        self._written = 0  # bytes of commands
        self._partial = 0  # bytes of a reply that is not complete
        self._paused = False  # the peer does not keep up with what is written
        # After each write: how many calls were sent by then, and until when they may wait.
        self._deadlines: deque[tuple[int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_progress = (0, 0)  # how far what is big had come when the timer was set

    @property
    def pending(self) -> int:
        """How many calls wait for their replies."""
        return len(self._waiting)

    @property
    def is_congested(self) -> bool:
        """Whether a call that is made now would wait for the bytes of a big one."""
        return self._partial >= LARGE or self._sent - len(self._waiting) < self._last_large or self._paused

    def send(self, data: bytes) -> asyncio.Future[Any]:
        """Send one packed command; return the future of its reply. Its cancellation does not take the command back."""
        future: asyncio.Future[Any] = self._loop.create_future()
        idle = not self._waiting
        self._waiting.append(future)
        self._sent += 1
        if len(data) >= LARGE:
            self._last_large = self._sent
        if idle:
            self._write(data)
        else:
            if not self._unsent:
                self._loop.call_soon(self._flush)
            self._unsent.append(data)
        return future

    def close(self) -> None:
        """Close the connection; calls that wait fail."""
        self.closing = True
        self._transport.abort()

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._write(data)

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Give the replies to those who wait."""
        reader, waiting = self._reader, self._waiting
        partial = self._partial + len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                partial = 0
                if isinstance(reply, _Pushed):
                    continue
                future = waiting.popleft()
                if not future.done():  # else its caller was cancelled, or has given up
                    future.set_result(reply)
        except (RedisError, IndexError) as error:  # no Redis, or a reply that nobody has asked for
            self._fail(error if isinstance(error, RedisError) else InvalidResponse("a reply without a call"))
            self._transport.abort()
            return
        self._partial = partial
        deadlines, answered = self._deadlines, self._sent - len(waiting)
        while deadlines and deadlines[0][0] <= answered:
            deadlines.popleft()

    def eof_received(self) -> None:
        """Take no more calls: the connection ends."""
        self.closing = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all calls that wait."""
        self.ended.set_result(None)
        self._fail(RedisConnectionError(f"Connection lost: {exc}" if exc else "Connection closed by server."))
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Take note that the peer does not keep up."""
        self._paused = True

    def resume_writing(self) -> None:
        """Take note that it does again."""
        self._paused = False

    def _fail(self, error: Exception) -> None:
        self.closing = True
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    # -- time-outs: one timer, for the oldest write -------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        self._written += len(data)
        deadline = self._loop.time() + self._timeout
        self._deadlines.append((self._sent, deadline))
        if self._timer is None:
            self._schedule_check(deadline)

    def _schedule_check(self, when: float) -> None:
        self._last_progress = self._progress()
        self._timer = self._loop.call_at(when, self._check_timeouts)

    def _progress(self) -> tuple[int, int]:
        """Return how far the reply and the commands have come that are on their way; equal as long as nothing moves."""
        # Not how much is still to be written: that also changes when a peer that takes nothing is sent more.
        unwritten = self._transport.get_write_buffer_size()
        return self._partial, self._written - unwritten if unwritten else 0

    def _check_timeouts(self) -> None:
        """Fail calls that have waited too long, unless a big reply, or a big command, is on its way and moves."""
        self._timer = None
        now = self._loop.time()
        progressing = self._progress() != self._last_progress
        while not progressing and self._deadlines and self._deadlines[0][1] <= now:
            self._expire(self._deadlines.popleft()[0])
        if self.closing and all(future.done() for future in self._waiting):
            self._transport.abort()
        elif self._deadlines:
            self._schedule_check(now + self._timeout if progressing else self._deadlines[0][1])

    def _expire(self, sent: int) -> None:
        """Fail the calls up to this one; their places in the queue stay, as their replies may still come."""
        error = RedisTimeoutError(f"no reply for {self._timeout:g} s")
        self.closing = True
        for future in islice(self._waiting, len(self._waiting) - (self._sent - sent)):
            if not future.done():
                future.set_exception(error)


async def open_connection(unopened: Any, reply_timeout: float) -> MultiplexedConnection | None:
    """Connect with redis-py and take over the transport; None when the connection shows none (it is no real one).

    Errors are those of redis-py for connecting.
    """
    await unopened.connect()
    # There is no public way to the transport. Whatever a later redis-py keeps there, calls then go through its own client.
    reader, writer = getattr(unopened, "_reader", None), getattr(unopened, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        await unopened.disconnect(nowait=True)
        return None
    if reader.at_eof() or writer.transport.is_closing():  # which a link would not be told any more
        await unopened.disconnect(nowait=True)
        raise RedisConnectionError("Connection closed by server while connecting to it.")
    unopened._reader = unopened._writer = None  # not its own any more: it neither uses nor closes it
    connection = MultiplexedConnection(writer, reply_timeout)
    writer.transport.set_protocol(connection)
    return connection


class ConnectionGroup:
    """The links to one node, opened as they are needed."""

    def __init__(self, connection: Callable[[], AbstractConnection], reply_timeout: float) -> None:
        self._connection = connection
        self._timeout = reply_timeout
        self._connections: list[MultiplexedConnection] = []
        self._dedicated: set[MultiplexedConnection] = set()  # taken apart now
        self._idle_dedicated: list[MultiplexedConnection] = []  # which were, and can be again
        self._large_keys: dict[Any, None] = {}
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self.unsupported = False  #: connections of this client show no transport: everything has to go through redis-py

    def available(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the link for a call, or None when one has to be opened first."""
        connections = self._connections
        if large or not connections or connections[0].closing or connections[0].is_congested:
            return self._select_uncongested(large=large)
        return connections[0]

    async def get(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the link for a call, opened if need be; None when this client has none. Errors are redis-py's."""
        for _ in range(_MAX_CONNECTIONS):  # and no more, where each ends at once
            if (connection := self.available(large=large)) is not None or self.unsupported:
                return connection
            try:
                await self._grow()
            except (RedisError, OSError):
                if not self._usable():
                    raise
                break
        usable = self._usable()
        if not usable:
            raise RedisConnectionError("Connection closed by server while connecting to it.")
        return _least_busy(usable[large:] or usable)  # late is better than never, as when Redis takes no more clients

    async def acquire_dedicated(self) -> MultiplexedConnection | None:
        """Return a link that nobody else uses until `give_back`, for a command that waits inside of Redis; None as `get`."""
        self._idle_dedicated = [connection for connection in self._idle_dedicated if not connection.closing]
        connection = self._idle_dedicated.pop() if self._idle_dedicated else await self._open_one()
        if connection is not None:
            self._dedicated.add(connection)
        return connection

    def release_dedicated(self, connection: MultiplexedConnection) -> None:
        """Take a link back; closed, if its reply is still to come."""
        self._dedicated.discard(connection)
        if connection.pending:
            connection.close()
        elif not connection.closing:
            self._idle_dedicated.append(connection)

    def _select_uncongested(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the link that holds a call up least, None for a new one; what is big leaves the first one alone."""
        usable = self._usable()
        for connection in usable[large:]:
            if not connection.is_congested:
                return connection
        return _least_busy(usable[large:]) if len(usable) >= _MAX_CONNECTIONS else None

    def _usable(self) -> list[MultiplexedConnection]:
        self._connections = [connection for connection in self._connections if not connection.ended.done()]
        return [connection for connection in self._connections if not connection.closing]

    async def _grow(self) -> None:
        """Wait until one more link is open: for all who wait it is the same one, or the same error."""
        if self._closed:
            raise _closed()
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.ensure_future(self._open())
            # Else asyncio complains of an error that nobody has seen when all who waited were cancelled.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([opening])  # and do not cancel it for the others
        if opening.cancelled():
            raise _closed()
        opening.result()

    async def _open(self) -> None:
        connection = await self._open_one()
        if connection is not None:
            self._connections.append(connection)

    async def _open_one(self) -> MultiplexedConnection | None:
        connection = await open_connection(self._connection(), self._timeout)
        if connection is None:
            self.unsupported = True
        elif self._closed:
            connection.close()
            raise _closed()
        return connection

    def expects_large_reply(self, key: Any) -> bool:
        """Tell whether calls for this key have had big replies."""
        return key in self._large_keys

    def note_large_reply(self, key: Any) -> None:
        """Remember a key with a big reply, so that others do not wait for the next one."""
        self._large_keys[key] = None
        if len(self._large_keys) > _LARGE_KEYS:
            del self._large_keys[next(iter(self._large_keys))]

    async def aclose(self) -> None:
        """Close all links, also one that is being opened: for good, even when the wait for their end is cancelled."""
        self._closed = True
        connections = [*self._connections, *self._dedicated, *self._idle_dedicated]
        ends: list[asyncio.Future[None]] = [connection.ended for connection in connections]
        for connection in connections:
            connection.close()
        if self._opening is not None:
            self._opening.cancel()
            ends.append(self._opening)
        if ends:
            await asyncio.wait(ends)


def _closed() -> RedisConnectionError:
    return RedisConnectionError("Closed while connecting to the server.")


def _least_busy(connections: Sequence[MultiplexedConnection]) -> MultiplexedConnection:
    return min(connections, key=lambda connection: connection.pending)


def pack(command: Sequence[Any]) -> bytes:
    """Return a command as Redis takes it; names of two words, such as XINFO STREAM, become two."""
    name = command[0]
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed

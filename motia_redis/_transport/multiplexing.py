"""Multiplex the calls of one event loop over few connections to each server.

redis-py opens a connection: address, TLS, password, database. A `MultiplexedConnection` then takes over its transport. It packs
commands and parses replies with hiredis, and keeps a queue of the calls that wait: replies come in the order of the commands.

A call that finds no other call waiting is written at once. Calls that are made while others wait are written together, once per
turn of the event loop. So with 64 tasks one system call carries about 64 commands.

Small calls do not wait behind large ones. Large commands, and calls for keys that had large replies, use secondary connections. A
connection that is receiving a large reply takes no new calls. Blocking commands need a dedicated connection (see router.py).
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

LARGE: Final = 64 * 1024  # bytes; other calls should not wait behind a command or reply of this size
_MAX_CONNECTIONS = 4  # to one node: the first for small calls, and secondary ones
_LARGE_KEYS = 1024  # the number of keys with large replies that a group remembers
_READ_BUFFER = 1024 * 1024  # bytes; hiredis keeps a buffer of this size for the next replies instead of freeing it
_INCOMPLETE: Final = object()
_Pushed: Final = hiredis.PushNotification


class MultiplexedConnection(asyncio.Protocol):
    """Send calls over one connection and give each its reply. Create it with `open_connection`; it belongs to one event loop.

    An error reply is a result: an instance of redis-py's ResponseError. A call fails with redis-py's ConnectionError when the
    connection ends before its reply arrives. A call fails with redis-py's TimeoutError when no reply has arrived `reply_timeout`
    seconds after the call was written, unless a large reply or command makes progress. After a time-out the connection is
    `closing`.
    """

    def __init__(self, writer: asyncio.StreamWriter, reply_timeout: float) -> None:
        self.closing = False  #: true when it takes no new calls; waiting calls may still get their replies
        self._writer = writer  # keeps a reference: the writer closes the transport when it is garbage-collected
        self._transport = writer.transport
        self._timeout = reply_timeout
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()  #: done once the connection has ended
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._reader.setmaxbuf(_READ_BUFFER)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._sent = 0  # the number of calls so far; the last len(_waiting) of them have no reply yet
        self._last_large = 0  # the value of _sent after the last large command
        self._written = 0  # bytes of commands
        self._partial = 0  # bytes received of an incomplete reply
        self._paused = False  # true while the write buffer is full
        # One entry per write: the value of _sent after it, and the deadline of its calls.
        self._deadlines: deque[tuple[int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_progress = (0, 0)  # the result of _progress() when the timer was set

    @property
    def pending(self) -> int:
        """Return the number of calls that wait for their replies."""
        return len(self._waiting)

    @property
    def is_congested(self) -> bool:
        """Return whether a new call would wait behind a large command or reply."""
        return self._partial >= LARGE or self._sent - len(self._waiting) < self._last_large or self._paused

    def send(self, data: bytes) -> asyncio.Future[Any]:
        """Send one packed command and return the future of its reply. Cancelling the future does not revoke the command."""
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
        """Close the connection. Waiting calls fail."""
        self.closing = True
        self._transport.abort()

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._write(data)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse replies and give each to the oldest waiting call."""
        reader, waiting = self._reader, self._waiting
        partial = self._partial + len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                partial = 0
                if isinstance(reply, _Pushed):
                    continue
                future = waiting.popleft()
                if not future.done():  # a cancelled or timed-out call keeps its place in the queue
                    future.set_result(reply)
        except (RedisError, IndexError) as error:  # the server speaks another protocol, or no call waits for the reply
            self._fail(error if isinstance(error, RedisError) else InvalidResponse("received a reply that belongs to no call"))
            self._transport.abort()
            return
        self._partial = partial
        deadlines, answered = self._deadlines, self._sent - len(waiting)
        while deadlines and deadlines[0][0] <= answered:
            deadlines.popleft()

    def eof_received(self) -> None:
        """Take no new calls, because the server has closed its side."""
        self.closing = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all waiting calls."""
        self.ended.set_result(None)
        self._fail(RedisConnectionError(f"Connection lost: {exc}" if exc else "Connection closed by server."))
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Mark the connection as congested: the write buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Mark the write buffer as no longer full."""
        self._paused = False

    def _fail(self, error: Exception) -> None:
        self.closing = True
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    # -- time-outs: one timer, set for the oldest write ---------------------------------------------------------------

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
        """Return the bytes received of an incomplete reply, and the bytes sent of the commands if some are unsent."""
        # The size of the write buffer alone would not do: a new call changes it although the server reads nothing.
        unwritten = self._transport.get_write_buffer_size()
        return self._partial, self._written - unwritten if unwritten else 0

    def _check_timeouts(self) -> None:
        """Fail calls whose deadline has passed, unless a large reply or command makes progress."""
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
        """Fail the first `sent` calls. They keep their places in the queue, because their replies may still come."""
        error = RedisTimeoutError(f"no reply for {self._timeout:g} s")
        self.closing = True
        for future in islice(self._waiting, len(self._waiting) - (self._sent - sent)):
            if not future.done():
                future.set_exception(error)


async def open_connection(unopened: Any, reply_timeout: float) -> MultiplexedConnection | None:
    """Connect with redis-py and take over the transport. Return None when the connection has no transport (a fake one).

    Raises redis-py's errors for connecting.
    """
    await unopened.connect()
    # redis-py has no public access to the transport. If a later version has other attributes, calls go through its client.
    reader, writer = getattr(unopened, "_reader", None), getattr(unopened, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        await unopened.disconnect(nowait=True)
        return None
    if reader.at_eof() or writer.transport.is_closing():  # asyncio reports the end only once
        await unopened.disconnect(nowait=True)
        raise RedisConnectionError("Connection closed by server while connecting to it.")
    unopened._reader = unopened._writer = None  # so that redis-py neither uses nor closes the transport
    connection = MultiplexedConnection(writer, reply_timeout)
    writer.transport.set_protocol(connection)
    return connection


class ConnectionGroup:
    """Open, choose and close the connections to one node.

    `make_connection` returns an unopened connection of redis-py.
    """

    def __init__(self, make_connection: Callable[[], AbstractConnection], reply_timeout: float) -> None:
        self._make_connection = make_connection
        self._timeout = reply_timeout
        self._connections: list[MultiplexedConnection] = []
        self._dedicated: set[MultiplexedConnection] = set()  # in use
        self._idle_dedicated: list[MultiplexedConnection] = []  # ready for reuse
        self._large_keys: dict[Any, None] = {}
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self.unsupported = False  #: true when this client has no transport: all calls must go through redis-py

    def available(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the connection for a call, or None when one has to be opened first."""
        connections = self._connections
        if large or not connections or connections[0].closing or connections[0].is_congested:
            return self._select_uncongested(large=large)
        return connections[0]

    async def get(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the connection for a call; open one if necessary. Return None if unsupported. Raises redis-py's errors."""
        for _ in range(_MAX_CONNECTIONS):  # bounded, because each new connection may end at once
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
        return _least_busy(usable[large:] or usable)  # congested, but Redis may accept no more clients

    async def acquire_dedicated(self) -> MultiplexedConnection | None:
        """Return a connection for one blocking command, exclusive until `release_dedicated`. Return None if unsupported."""
        self._idle_dedicated = [connection for connection in self._idle_dedicated if not connection.closing]
        connection = self._idle_dedicated.pop() if self._idle_dedicated else await self._open_one()
        if connection is not None:
            self._dedicated.add(connection)
        return connection

    def release_dedicated(self, connection: MultiplexedConnection) -> None:
        """Make a connection available for reuse. Close it if a call still waits on it."""
        self._dedicated.discard(connection)
        if connection.pending:
            connection.close()
        elif not connection.closing:
            self._idle_dedicated.append(connection)

    def _select_uncongested(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the best open connection, or None to open another. Large calls do not use the first connection."""
        usable = self._usable()
        for connection in usable[large:]:
            if not connection.is_congested:
                return connection
        return _least_busy(usable[large:]) if len(usable) >= _MAX_CONNECTIONS else None

    def _usable(self) -> list[MultiplexedConnection]:
        self._connections = [connection for connection in self._connections if not connection.ended.done()]
        return [connection for connection in self._connections if not connection.closing]

    async def _grow(self) -> None:
        """Open one more connection. Concurrent callers wait for the same connection and get the same error."""
        if self._closed:
            raise _closed()
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.ensure_future(self._open())
            # Read the error, or asyncio logs "exception was never retrieved" when all callers were cancelled.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([opening])  # unlike `await opening`, cancelling one caller does not cancel it for the others
        if opening.cancelled():
            raise _closed()
        opening.result()

    async def _open(self) -> None:
        connection = await self._open_one()
        if connection is not None:
            self._connections.append(connection)

    async def _open_one(self) -> MultiplexedConnection | None:
        connection = await open_connection(self._make_connection(), self._timeout)
        if connection is None:
            self.unsupported = True
        elif self._closed:
            connection.close()
            raise _closed()
        return connection

    def expects_large_reply(self, key: Any) -> bool:
        """Return whether a call for this key had a large reply."""
        return key in self._large_keys

    def note_large_reply(self, key: Any) -> None:
        """Remember that a call for this key had a large reply."""
        self._large_keys[key] = None
        if len(self._large_keys) > _LARGE_KEYS:
            del self._large_keys[next(iter(self._large_keys))]

    async def aclose(self) -> None:
        """Close all connections, and one that is being opened, and wait for their end. A cancelled call still closes them."""
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
    """Return a command in the Redis protocol. A name of two words, such as XINFO STREAM, becomes two arguments."""
    name = command[0]
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed

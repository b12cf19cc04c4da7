"""Connections that many calls share: calls made while others wait go out together, and replies come back in that order.

A `MultiplexedConnection` packs commands and reads replies with hiredis. It keeps no more state than the queue of calls that wait.
A call that is alone is written at once. Calls that are made in the same turn of the event loop are written together, so at 64
tasks one system call carries many commands.

Caller and server are to work at the same time. Redis answers all commands of a read together, so calls that leave in one write
come back in one read, and each side would wait for the other. Therefore, while the server has nothing to do, a connection sends
the first half of the calls that it expects as soon as they are there: the server works on it while the caller makes the others.

Large commands and replies would delay others. They use connections of their own, and a connection in the middle of a large reply
takes no new calls. Blocking commands use dedicated connections (see router.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
from redis.exceptions import InvalidResponse, RedisError

from motia_redis._transport.failures import ConnectionLost, NotSent, ProtocolMismatch, ReplyTimeout, error_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    _Connect = Callable[[], Awaitable["MultiplexedConnection"]]

LARGE: Final = 64 * 1024  # bytes of a command or reply that other calls should not have to wait for
_MAX_CONNECTIONS = 4  # shared ones to one node: one for small calls, the others for large ones
_LARGE_KEYS = 1024  # keys with large replies that are remembered
_READ_BUFFER = 1024 * 1024  # bytes that hiredis keeps for the next replies instead of freeing them
_INCOMPLETE: Final = object()
_Pushed: Final = hiredis.PushNotification


class MultiplexedConnection(asyncio.Protocol):
    """One connection and the calls that wait for their replies on it. It belongs to one event loop.

    Error replies are results: instances of ErrorReply. A call fails with NotSent when the connection ended before the command was
    written, with ConnectionLost when it ended before the reply, and with ReplyTimeout when there is no reply `reply_timeout`
    seconds after the command was written, and nothing moves either. The connection is `closing` then, and takes no new calls.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, reply_timeout: float) -> None:
        self.closing: bool = False  #: no new calls; those that wait may still get their replies
        self.ended: asyncio.Future[None] = loop.create_future()  #: done when the connection has ended
        self.server_version: tuple[int, int] | None = None  #: major and minor; None = the server did not say it
        self._loop = loop
        self._transport = cast("asyncio.Transport", None)  # set by `connection_made`, before any call
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=error_reply, notEnoughData=_INCOMPLETE)
        self._reader.setmaxbuf(_READ_BUFFER)
        self._waiting: deque[asyncio.Future[Any]] = deque()  # in the order of the commands; the last ones may be unsent
        self._unsent: list[bytes] = []
        self._peak = 0  # the most calls that waited at once since the server was last idle
        self._first_batch = 0  # calls to collect before an idle server gets them; 0 and 1: none
        self._partial = 0  # bytes of a reply that is not complete
        self._large_until = 0  # of the calls sent so far, the number of the last one with a large command
        self._paused = False  # the peer does not keep up with what is written
        self._timeouts = _Timeouts(self, reply_timeout)

    @property
    def pending(self) -> int:
        """Return how many calls wait for their replies."""
        return len(self._waiting)

    @property
    def is_congested(self) -> bool:
        """Return whether a new call would wait for the bytes of a large one."""
        return self._partial >= LARGE or self._paused or self._timeouts.answered < self._large_until

    def send(self, data: bytes) -> asyncio.Future[Any]:
        """Send one packed command and return the future of its reply. Cancelling the future does not take the command back."""
        future: asyncio.Future[Any] = self._loop.create_future()
        waiting, unsent = self._waiting, self._unsent
        waiting.append(future)
        if len(data) >= LARGE:
            self._large_until = self._timeouts.sent + len(unsent) + 1
        if not unsent:
            if self._first_batch < 2 and len(waiting) == 1:
                self._write(data, 1)
                return future
            self._loop.call_soon(self._flush)
        unsent.append(data)
        if len(unsent) == self._first_batch == len(waiting):  # the server has nothing to do
            self._flush()
        return future

    def close(self) -> None:
        """Close the connection. Calls that wait fail."""
        self.closing = True
        self._transport.abort()

    def _flush(self) -> None:
        unsent = self._unsent
        if unsent:
            data = b"".join(unsent) if len(unsent) > 1 else unsent[0]
            count = len(unsent)
            unsent.clear()
            self._write(data, count)

    def _write(self, data: bytes, calls: int) -> None:
        self._transport.write(data)
        self._timeouts.written(calls, len(data))

    # -- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give the replies to the calls that wait."""
        reader, waiting = self._reader, self._waiting
        self._peak = max(self._peak, len(waiting))
        partial = self._partial + len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                partial = 0
                if isinstance(reply, _Pushed):
                    continue
                future = waiting.popleft()
                if not future.done():  # its caller was cancelled, or has given up
                    future.set_result(reply)
        except (RedisError, IndexError) as error:  # no RESP, or a reply without a call
            text = str(error) if isinstance(error, RedisError) else "a reply without a command"
            self._fail(ProtocolMismatch(text, sent=True))
            self._transport.abort()
            return
        self._partial = partial
        if not waiting:
            self._first_batch = (self._peak + 1) // 2
            self._peak = 0
        self._timeouts.received(len(waiting) - len(self._unsent), partial)

    def eof_received(self) -> None:
        """Take no more calls: the connection ends."""
        self.closing = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all calls that wait."""
        self.ended.set_result(None)
        self._timeouts.stop()
        reason = f"the connection broke: {getattr(exc, 'strerror', None) or exc}"
        lost = ConnectionLost(reason if exc else "the server closed the connection")
        lost.__cause__ = exc
        self._fail(lost)

    def pause_writing(self) -> None:
        """Note that the peer does not keep up."""
        self._paused = True

    def resume_writing(self) -> None:
        """Note that the peer keeps up again."""
        self._paused = False

    def _fail(self, error: RedisError) -> None:
        self.closing = True
        waiting, self._waiting = self._waiting, deque()
        first_unsent = len(waiting) - len(self._unsent)
        self._unsent.clear()
        for number, future in enumerate(waiting):
            if not future.done():
                future.set_exception(error if number < first_unsent else NotSent(str(error)))

    # -- called by the time-outs --------------------------------------------------------------------------------------

    def unwritten(self) -> int:
        """Return how many bytes the transport still has to write."""
        return self._transport.get_write_buffer_size()

    def expire(self, calls: int, error: Exception) -> None:
        """Fail the first calls in the queue. They stay there, because their replies may still come."""
        self.closing = True
        for future in islice(self._waiting, calls):
            if not future.done():
                future.set_exception(error)

    def end_if_abandoned(self) -> None:
        """Close a closing connection on which nobody waits any more."""
        if self.closing and all(future.done() for future in self._waiting):
            self._transport.abort()


class _Timeouts:
    """The time-outs of one connection, with one timer: for the oldest write whose calls are not answered."""

    __slots__ = (
        "_bytes",
        "_connection",
        "_deadlines",
        "_loop",
        "_partial",
        "_progress",
        "_timeout",
        "_timer",
        "_unanswered",
        "sent",
    )

    def __init__(self, connection: MultiplexedConnection, timeout: float) -> None:
        self.sent = 0  #: calls written so far
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._unanswered = 0  # of the calls written so far
        self._deadlines: deque[tuple[int, float]] = deque()  # after each write: calls written so far, until when they may wait
        self._timer: asyncio.TimerHandle | None = None
        self._bytes = 0  # written so far
        self._partial = 0  # received of a reply that is not complete
        self._progress = (0, 0)  # when the timer was set

    @property
    def answered(self) -> int:
        """Return how many calls have been answered so far."""
        return self.sent - self._unanswered

    def written(self, calls: int, size: int) -> None:
        """Start the time of calls that were just written."""
        self.sent += calls
        self._unanswered += calls
        self._bytes += size
        deadline = self._loop.time() + self._timeout
        self._deadlines.append((self.sent, deadline))
        if self._timer is None:
            self._start(deadline)

    def received(self, unanswered: int, partial: int) -> None:
        """End the time of calls that are answered."""
        self._unanswered, self._partial = unanswered, partial
        deadlines, answered = self._deadlines, self.answered
        while deadlines and deadlines[0][0] <= answered:
            deadlines.popleft()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _start(self, when: float) -> None:
        self._progress = self._measure()
        self._timer = self._loop.call_at(when, self._check)

    def _measure(self) -> tuple[int, int]:
        """Return how far an incomplete reply and unwritten commands have come: equal as long as nothing moves."""
        # Not the unwritten bytes themselves: they also change when a stalled peer is sent more.
        unwritten = self._connection.unwritten()
        return self._partial, self._bytes - unwritten if unwritten else 0

    def _check(self) -> None:
        """Fail calls that have waited too long, unless a large reply or command is in transit and moves."""
        self._timer = None
        now = self._loop.time()
        moves = self._measure() != self._progress
        while not moves and self._deadlines and self._deadlines[0][1] <= now:
            calls = self._unanswered - (self.sent - self._deadlines.popleft()[0])
            self._connection.expire(calls, ReplyTimeout(f"no reply for {self._timeout:g} s"))
        self._connection.end_if_abandoned()
        if self._deadlines:
            self._start(now + self._timeout if moves else self._deadlines[0][1])


class ConnectionGroup:
    """The connections to one node, opened by `connect` as they are needed. `on_end` is called when one has ended."""

    def __init__(self, connect: _Connect, max_dedicated: int, on_end: Callable[[object], None]) -> None:
        self._connect, self._on_end = connect, on_end
        self._connections: list[MultiplexedConnection] = []
        self._dedicated: set[MultiplexedConnection] = set()  # in use
        self._idle_dedicated: list[MultiplexedConnection] = []
        self._dedicated_turns = asyncio.Semaphore(max_dedicated)
        self._large_keys: dict[Any, None] = {}
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    def available(self, *, large: bool) -> MultiplexedConnection | None:
        """Return the connection for a call, or None when one has to be opened first."""
        connections = self._connections
        if large or not connections or connections[0].closing or connections[0].is_congested:
            return self._select_uncongested(large=large)
        return connections[0]

    async def get(self, *, large: bool) -> MultiplexedConnection:
        """Return the connection for a call, opened if need be. Errors are those of opening."""
        for _ in range(_MAX_CONNECTIONS):  # and no more, if each one ends at once
            if (connection := self.available(large=large)) is not None:
                return connection
            try:
                await self._grow()
            except (RedisError, OSError):
                if not self._usable():
                    raise
                break
        usable = self._usable()
        if not usable:
            raise NotSent("the server closed the connection")
        return _least_busy(usable[large:] or usable)  # a slow connection is better than none, as when Redis takes no more clients

    async def acquire_dedicated(self) -> MultiplexedConnection:
        """Return a connection that no other call uses until `release_dedicated`. Errors are those of opening."""
        await self._dedicated_turns.acquire()
        try:
            self._idle_dedicated = [connection for connection in self._idle_dedicated if not connection.closing]
            connection = self._idle_dedicated.pop() if self._idle_dedicated else await self._open_one()
        except BaseException:
            self._dedicated_turns.release()
            raise
        self._dedicated.add(connection)
        return connection

    def release_dedicated(self, connection: MultiplexedConnection) -> None:
        """Take a dedicated connection back. It is closed if its reply is still to come."""
        self._dedicated_turns.release()
        self._dedicated.discard(connection)
        if connection.pending or self._closed:
            connection.close()
        elif not connection.closing:
            self._idle_dedicated.append(connection)

    def _select_uncongested(self, *, large: bool) -> MultiplexedConnection | None:
        """Return a connection without congestion, None for a new one. Large calls leave the first connection alone."""
        usable = self._usable()
        for connection in usable[large:]:
            if not connection.is_congested:
                return connection
        return _least_busy(usable[large:]) if len(usable) >= _MAX_CONNECTIONS else None

    def _usable(self) -> list[MultiplexedConnection]:
        self._connections = [connection for connection in self._connections if not connection.ended.done()]
        return [connection for connection in self._connections if not connection.closing]

    async def _grow(self) -> None:
        """Wait until one more connection is open. All callers that wait get the same one, or the same error."""
        if self._closed:
            raise _closed()
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.ensure_future(self._open())
            # Otherwise asyncio reports an error that nobody has seen when all callers that waited were cancelled.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([opening])  # without cancelling it for the others
        if opening.cancelled():
            raise _closed()
        opening.result()

    async def _open(self) -> None:
        connection = await self._open_one()
        self._connections.append(connection)  # not the list of before: it may have been replaced meanwhile

    async def _open_one(self) -> MultiplexedConnection:
        connection = await self._connect()
        if self._closed:
            connection.close()
            raise _closed()
        connection.ended.add_done_callback(self._on_end)
        return connection

    def expects_large_reply(self, key: Any) -> bool:
        """Return whether calls for this key have had large replies."""
        return key in self._large_keys

    def note_large_reply(self, key: Any) -> None:
        """Remember a key with a large reply: its next calls use a connection for large ones."""
        self._large_keys[key] = None
        if len(self._large_keys) > _LARGE_KEYS:
            del self._large_keys[next(iter(self._large_keys))]

    async def aclose(self) -> None:
        """Close all connections, also one that is being opened. They are closed even if the wait for their end is cancelled."""
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


def _closed() -> NotSent:
    return NotSent("closed while connecting to the server")


def _least_busy(connections: Sequence[MultiplexedConnection]) -> MultiplexedConnection:
    return min(connections, key=lambda connection: connection.pending)


def pack(command: Sequence[Any]) -> bytes:
    """Return a command in the form of RESP. A name of two words, such as XINFO STREAM, becomes two arguments."""
    name = command[0]
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed

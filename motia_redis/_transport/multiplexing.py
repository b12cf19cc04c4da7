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

BIG: Final = 64 * 1024  # bytes of a command or reply from which on others should not have to wait behind it
_MOST_LINKS = 4  # to one node: one for what is small, the others for what is big
_BULKY = 1024  # keys with big replies that are remembered
_READ_BUFFER = 1024 * 1024  # bytes that hiredis keeps for the next replies instead of giving them back
_INCOMPLETE: Final = object()
_Pushed: Final = hiredis.PushNotification


class Link(asyncio.Protocol):
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
        self._last_big = 0  # of those sent, the last one whose command was big
        self._written = 0  # bytes of commands
        self._partial = 0  # bytes of a reply that is not complete
        self._paused = False  # the peer does not keep up with what is written
        # After each write: how many calls were sent by then, and until when they may wait.
        self._deadlines: deque[tuple[int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._moved = (0, 0)  # how far what is big had come when the timer was set

    @property
    def pending(self) -> int:
        """How many calls wait for their replies."""
        return len(self._waiting)

    @property
    def held_up(self) -> bool:
        """Whether a call that is made now would wait for the bytes of a big one."""
        return self._partial >= BIG or self._sent - len(self._waiting) < self._last_big or self._paused

    def send(self, data: bytes) -> asyncio.Future[Any]:
        """Send one packed command; return the future of its reply. Its cancellation does not take the command back."""
        future: asyncio.Future[Any] = self._loop.create_future()
        idle = not self._waiting
        self._waiting.append(future)
        self._sent += 1
        if len(data) >= BIG:
            self._last_big = self._sent
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
            self._look_again(deadline)

    def _look_again(self, when: float) -> None:
        self._moved = self._movement()
        self._timer = self._loop.call_at(when, self._look)

    def _movement(self) -> tuple[int, int]:
        """Return how far the reply and the commands have come that are on their way; equal as long as nothing moves."""
        # Not how much is still to be written: that also changes when a peer that takes nothing is sent more.
        unwritten = self._transport.get_write_buffer_size()
        return self._partial, self._written - unwritten if unwritten else 0

    def _look(self) -> None:
        """Fail calls that have waited too long, unless a big reply, or a big command, is on its way and moves."""
        self._timer = None
        now = self._loop.time()
        moves = self._movement() != self._moved
        while not moves and self._deadlines and self._deadlines[0][1] <= now:
            self._expire(self._deadlines.popleft()[0])
        if self.closing and all(future.done() for future in self._waiting):
            self._transport.abort()
        elif self._deadlines:
            self._look_again(now + self._timeout if moves else self._deadlines[0][1])

    def _expire(self, sent: int) -> None:
        """Fail the calls up to this one; their places in the queue stay, as their replies may still come."""
        error = RedisTimeoutError(f"no reply for {self._timeout:g} s")
        self.closing = True
        for future in islice(self._waiting, len(self._waiting) - (self._sent - sent)):
            if not future.done():
                future.set_exception(error)


async def open_link(connection: Any, reply_timeout: float) -> Link | None:
    """Connect with redis-py and take over the transport; None when the connection shows none (it is no real one).

    Errors are those of redis-py for connecting.
    """
    await connection.connect()
    # There is no public way to the transport. Whatever a later redis-py keeps there, calls then go through its own client.
    reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        await connection.disconnect(nowait=True)
        return None
    if reader.at_eof() or writer.transport.is_closing():  # which a link would not be told any more
        await connection.disconnect(nowait=True)
        raise RedisConnectionError("Connection closed by server while connecting to it.")
    connection._reader = connection._writer = None  # not its own any more: it neither uses nor closes it
    link = Link(writer, reply_timeout)
    writer.transport.set_protocol(link)
    return link


class Links:
    """The links to one node, opened as they are needed."""

    def __init__(self, connection: Callable[[], AbstractConnection], reply_timeout: float) -> None:
        self._connection = connection
        self._timeout = reply_timeout
        self._links: list[Link] = []
        self._apart: set[Link] = set()  # taken apart now
        self._spare: list[Link] = []  # which were, and can be again
        self._bulky: dict[Any, None] = {}
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self.unsupported = False  #: connections of this client show no transport: everything has to go through redis-py

    def ready(self, *, big: bool) -> Link | None:
        """Return the link for a call, or None when one has to be opened first."""
        links = self._links
        if big or not links or links[0].closing or links[0].held_up:
            return self._choose(big=big)
        return links[0]

    async def get(self, *, big: bool) -> Link | None:
        """Return the link for a call, opened if need be; None when this client has none. Errors are redis-py's."""
        for _ in range(_MOST_LINKS):  # and no more, where each ends at once
            if (link := self.ready(big=big)) is not None or self.unsupported:
                return link
            try:
                await self._one_more()
            except (RedisError, OSError):
                if not self._usable():
                    raise
                break
        usable = self._usable()
        if not usable:
            raise RedisConnectionError("Connection closed by server while connecting to it.")
        return _least_busy(usable[big:] or usable)  # late is better than never, as when Redis takes no more clients

    async def take_apart(self) -> Link | None:
        """Return a link that nobody else uses until `give_back`, for a command that waits inside of Redis; None as `get`."""
        self._spare = [link for link in self._spare if not link.closing]
        link = self._spare.pop() if self._spare else await self._open_link()
        if link is not None:
            self._apart.add(link)
        return link

    def give_back(self, link: Link) -> None:
        """Take a link back; closed, if its reply is still to come."""
        self._apart.discard(link)
        if link.pending:
            link.close()
        elif not link.closing:
            self._spare.append(link)

    def _choose(self, *, big: bool) -> Link | None:
        """Return the link that holds a call up least, None for a new one; what is big leaves the first one alone."""
        usable = self._usable()
        for link in usable[big:]:
            if not link.held_up:
                return link
        return _least_busy(usable[big:]) if len(usable) >= _MOST_LINKS else None

    def _usable(self) -> list[Link]:
        self._links = [link for link in self._links if not link.ended.done()]
        return [link for link in self._links if not link.closing]

    async def _one_more(self) -> None:
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
        link = await self._open_link()
        if link is not None:
            self._links.append(link)

    async def _open_link(self) -> Link | None:
        link = await open_link(self._connection(), self._timeout)
        if link is None:
            self.unsupported = True
        elif self._closed:
            link.close()
            raise _closed()
        return link

    def is_bulky(self, key: Any) -> bool:
        """Tell whether calls for this key have had big replies."""
        return key in self._bulky

    def saw_big(self, key: Any) -> None:
        """Remember a key with a big reply, so that others do not wait for the next one."""
        self._bulky[key] = None
        if len(self._bulky) > _BULKY:
            del self._bulky[next(iter(self._bulky))]

    async def aclose(self) -> None:
        """Close all links, also one that is being opened: for good, even when the wait for their end is cancelled."""
        self._closed = True
        links = [*self._links, *self._apart, *self._spare]
        ends: list[asyncio.Future[None]] = [link.ended for link in links]
        for link in links:
            link.close()
        if self._opening is not None:
            self._opening.cancel()
            ends.append(self._opening)
        if ends:
            await asyncio.wait(ends)


def _closed() -> RedisConnectionError:
    return RedisConnectionError("Closed while connecting to the server.")


def _least_busy(links: Sequence[Link]) -> Link:
    return min(links, key=lambda link: link.pending)


def pack(command: Sequence[Any]) -> bytes:
    """Return a command as Redis takes it; names of two words, such as XINFO STREAM, become two."""
    name = command[0]
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed

"""A connection that threads share without an event loop: each call costs one write and one read, by the threads themselves.

The first thread leads: it writes its command, reads the reply, and returns. Threads that come meanwhile queue. When the leader is
done, the first in the queue leads next: it takes the commands of all others, writes them at once, reads all replies, and hands
them out. So 64 threads cost Redis a few large writes, and the interpreter one switch for each call.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import InvalidResponse

from motia_redis._transport.failures import ConnectionLost, NotSent, ProtocolMismatch, ReplyTimeout, error_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.multiplexing import MultiplexedConnection

_MOST = 128  # commands of one write
_READ = 64 * 1024
_INCOMPLETE: Final = object()
_Pushed: Final = hiredis.PushNotification


class _Turn:
    """A thread that queues with its command."""

    # Of the class, because that costs less than slots that are set.
    reply: Any = None
    error: Exception | None = None
    leads = False
    is_gone = False  # it was interrupted
    next: _Turn | None = None  # whom to wake next

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.wake = threading.Lock()  # released when there is a reply or an error, or the thread leads
        self.wake.acquire()

    def pass_on(self) -> None:
        """Wake the next thread."""
        following, self.next = self.next, None
        if following is not None:
            following.wake.release()


class BlockingConnection:
    """Send commands of many threads over one socket, on which somebody has logged in. A forked child must not use it.

    Error replies are results. A call raises NotSent, ConnectionLost, ReplyTimeout or ProtocolMismatch, as those of
    `MultiplexedConnection` do; the connection `is_broken` then. So it is if nothing comes for `reply_timeout` seconds.
    """

    def __init__(self, sock: socket.socket, reply_timeout: float) -> None:
        self.is_broken: bool = False
        self._sock = sock
        self._timeout = reply_timeout
        # Not by `settimeout`, which makes Python ask the system before each read and write whether it may.
        sock.setblocking(True)
        interval = struct.pack("@ll", int(reply_timeout), int(reply_timeout % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, interval)
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=error_reply, notEnoughData=_INCOMPLETE)
        self._queue: deque[_Turn] = deque()  # only the leader takes out
        self._lead = threading.Lock()  # held by the leader, or for a thread that is about to lead
        self._inside: set[int] = set()  # threads that send
        self._appointing = threading.RLock()  # while a thread is made the leader, or leaves

    def __del__(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> Any:
        """Send one packed command and return its reply."""
        thread = get_ident()
        if thread in self._inside:  # a signal handler, or a finalizer: it would wait for what it has interrupted
            raise NotSent("the thread is in another call")
        self._inside.add(thread)
        try:
            return self._exchange_for_all(data) if self._lead.acquire(blocking=False) else self._queue_up(data)
        finally:
            self._inside.discard(thread)

    def _queue_up(self, data: bytes) -> Any:
        """Wait for the reply of a command that another thread sends, or for the lead."""
        turn = _Turn(data)
        try:
            self._queue.append(turn)
            if not self._lead.locked():
                self._appoint()
            # Twice: for the exchange that runs, and that with this command. A leader answers or breaks in that time.
            if not turn.wake.acquire(timeout=2 * self._timeout + 1):
                self.is_broken = True
                raise ReplyTimeout(f"no reply for {2 * self._timeout + 1:g} s")  # noqa: TRY301
        except BaseException:
            self._leave(turn)
            raise
        turn.pass_on()
        if turn.leads:
            return self._exchange_for_all(data)
        if turn.error is not None:
            raise turn.error
        return turn.reply

    def close(self) -> None:
        """Close the connection, when the exchange that runs is over."""
        self.is_broken = True
        has_lead = self._lead.acquire(timeout=self._timeout)
        self._sock.close()
        if has_lead:
            self._end_queue(NotSent("the connection was closed"))
            self._lead.release()
            self._appoint()  # who has come since finds that it is broken

    def abandon(self) -> None:
        """Close the socket of a forked child, where locks may be held by threads that it does not have."""
        self.is_broken = True
        self._sock.close()

    def _exchange_for_all(self, data: bytes) -> Any:
        """Send a command with those of the queue, hand out the replies, and return the first one. This thread leads."""
        turns: list[_Turn] = []
        queue = self._queue
        try:
            while queue and len(turns) < _MOST:
                turns.append(queue.popleft())
            if self.is_broken:
                raise NotSent("the connection was closed")  # noqa: TRY301
            replies = self._exchange(b"".join([data, *[turn.data for turn in turns]]) if turns else data, len(turns) + 1)
        except BaseException as error:
            self.is_broken = True
            self._sock.close()
            lost = (
                error if isinstance(error, Exception) else ConnectionLost("the thread that used the connection was interrupted")
            )
            _fail(turns, lost)
            self._end_queue(NotSent(str(lost)))
            self._lead.release()
            self._appoint()  # who has come since finds that it is broken
            raise
        self._lead.release()
        if queue:
            self._appoint()  # first, so that the next exchange begins while these threads wake up
        if turns:
            self._hand_out(turns, replies)
        return replies[0]

    def _exchange(self, data: bytes, count: int) -> Sequence[Any]:
        reader, replies = self._reader, []
        try:
            self._sock.sendall(data)
            while True:
                received = self._sock.recv(_READ)
                if not received:
                    raise ConnectionLost("the server closed the connection")
                reader.feed(received)
                while (reply := reader.gets()) is not _INCOMPLETE:
                    if not isinstance(reply, _Pushed):
                        replies.append(reply)
                if len(replies) == count:
                    return replies
                if len(replies) > count:
                    raise ProtocolMismatch("a reply without a command", sent=True)
        except BlockingIOError:  # the time-out of the socket
            raise ReplyTimeout(f"no reply for {self._timeout:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"the connection broke: {error.strerror or error}") from error
        except InvalidResponse as error:
            raise ProtocolMismatch(str(error), sent=True) from error

    def _hand_out(self, turns: Sequence[_Turn], replies: Sequence[Any]) -> None:
        """Give the threads that queued their replies. Each wakes the next one: all at once would contend for the interpreter."""
        with self._appointing:
            following: _Turn | None = None
            for number in range(len(turns) - 1, -1, -1):
                turn = turns[number]
                turn.reply = replies[number + 1]
                if not turn.is_gone:
                    turn.next, following = following, turn
        if following is not None:
            following.wake.release()

    def _appoint(self) -> None:
        """Let the first thread of the queue lead, if nobody does."""
        while self._queue and self._lead.acquire(blocking=False):
            with self._appointing:
                turn = self._queue.popleft() if self._queue else None
                if turn is not None and not turn.is_gone:
                    turn.leads = True
                    turn.wake.release()
                    return
            self._lead.release()  # and look again: somebody may have come meanwhile, and seen a leader

    def _leave(self, turn: _Turn) -> None:
        """Pass the lead on if it was given to a thread that does not wait any more."""
        with self._appointing:
            turn.is_gone = True
            leads = turn.leads
        turn.pass_on()
        if leads:
            self._lead.release()
            self._appoint()

    def _end_queue(self, error: Exception) -> None:
        turns = []
        with suppress(IndexError):
            while True:
                turns.append(self._queue.popleft())
        _fail(turns, error)


def take_over(connection: MultiplexedConnection, reply_timeout: float) -> BlockingConnection:
    """Return an idle connection without TLS for threads. It ends for its event loop, not for the server."""
    sock = connection._transport.get_extra_info("socket").dup()
    connection.close()
    return BlockingConnection(sock, reply_timeout)


def _fail(turns: Sequence[_Turn], error: Exception) -> None:
    for turn in turns:
        turn.error = type(error)(*error.args) if not isinstance(error, ProtocolMismatch) else error
        turn.wake.release()

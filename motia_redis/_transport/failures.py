"""How a call to Redis can fail, as types: what was sent, what was answered, and what to raise for it.

    redis.RedisError
    ├── NotSent                 the command did not leave this process
    │   └── ConnectFailed       because no connection could be opened
    ├── ConnectionLost          the connection ended after the command was written: it may have run
    ├── ReplyTimeout            no reply in time: the command may have run, or may still run
    ├── ProtocolMismatch        the reply is not RESP: the peer is no Redis
    └── ErrorReply              Redis answered with an error: the command changed nothing
        ├── NoScript            the server does not know the script or the function
        ├── UnknownCommand      the server does not know the command
        └── Redirection         another node serves the slot (MOVED, ASK)

All decisions (repeat, `maybe_applied`, start the embedded server again) depend on these types and on `ErrorReply.code`. The
classes extend those of redis-py, so that a caller can catch either.
"""

from __future__ import annotations

import re
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport import refusals
from motia_redis._transport.urls import redact
from motia_redis.errors import StateUnavailable

#: The position in a script or function that Redis adds to an error: in front (6.2) or behind (7). Valkey 9 leaves the hash of the
#: script or the name of the function out.
_POSITION = re.compile(
    r"^(?:ERR )?Error running script \([^)]*\): |@?user_(?:script|function): ?\d+: ?"
    r"| script: (?:\w+, )?on @?user_(?:script|function):\d+\.?$"
)
#: fakeredis puts ERR in front of the errors of scripts, which begin with a code of their own.
_SECOND_CODE = re.compile(r"^ERR (?=[A-Z]{6,}\b)")


class NotSent(RedisConnectionError):
    """The command did not leave this process."""


class ConnectFailed(NotSent):
    """No connection could be opened."""


class ConnectionLost(RedisConnectionError):
    """The connection ended between the command and its reply."""


class ReplyTimeout(RedisTimeoutError):
    """No reply came in time."""


class ProtocolMismatch(InvalidResponse):
    """The peer answered in another protocol. `sent`: a command was written before, besides the handshake."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ErrorReply(ResponseError):
    """An error reply. `code` is its first word, such as NOPERM. The text has no position in a script."""

    def __init__(self, text: str) -> None:
        text = _SECOND_CODE.sub("", _POSITION.sub("", text).lstrip("-").strip())
        super().__init__(text)
        code = text.partition(" ")[0]
        self.code = code if code.isupper() else "ERR"  # the errors of some commands in scripts of Redis 6.2 have no code


class NoScript(ErrorReply):
    """The server does not know the script or the function. Nothing was run."""

    node: Any = None  #: the node that answered; set by the router


class UnknownCommand(ErrorReply):
    """The server does not know the command. Nothing was run."""


class Redirection(ErrorReply):
    """Another node serves the slot: from now on (MOVED), or for this one command (ASK). Nothing was run."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        _, slot, address = self.args[0].split()
        self.slot = int(slot)
        host, _, port = address.rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)

    @property
    def is_permanent(self) -> bool:
        """Return whether the slot has moved."""
        return self.code == "MOVED"


def error_reply(text: str) -> ErrorReply:
    """Return the exception for an error reply of RESP."""
    if text.startswith(("NOSCRIPT", "ERR Function not found")):
        return NoScript(text)
    if text.startswith("ERR unknown command"):
        return UnknownCommand(text)
    if text.startswith(("MOVED ", "ASK ")):
        return Redirection(text)
    return ErrorReply(text)


#: The connection did not bring a reply.
UNREACHABLE = (NotSent, ConnectionLost, ReplyTimeout, ProtocolMismatch)


def is_disconnected(error: Exception) -> bool:
    """Return whether the server may have ended: it does not answer at all, rather than slowly."""
    return isinstance(error, NotSent | ConnectionLost) and not _is_slow(error)


def was_sent(error: Exception) -> bool:
    """Return whether the command may have reached Redis and run."""
    if isinstance(error, ProtocolMismatch):
        return error.sent
    return isinstance(error, ConnectionLost | ReplyTimeout)


def to_unavailable(subject: object, url: str, error: Exception, *, maybe_applied: bool = False) -> StateUnavailable:
    """Return the error to raise for a Redis that cannot be reached or refuses the call."""
    applied = "; the change may have been applied" if maybe_applied else ""
    at = redact(url)
    if isinstance(error, ErrorReply):
        message = f"{subject}: Redis at {at} {refusals.explain(error.code, str(error))}{applied}"
    elif isinstance(error, ProtocolMismatch):
        message = f"{subject}: Redis at {at} is not a Redis: it answered in another protocol ({error}){applied}"
    elif _is_slow(error):
        details = f" ({error})" if str(error) else ""
        listens = "a Redis with TLS listens" if url.startswith("rediss") else "a Redis listens"
        reason = f"no reply in time{details}: check that {listens} there and is not blocked"
        message = f"{subject}: cannot reach Redis at {at}: {reason}{applied}"
    else:
        message = f"{subject}: cannot reach Redis at {at}: {str(error) or type(error).__name__}{applied}"
    return StateUnavailable(message, maybe_applied=maybe_applied)


def _is_slow(error: BaseException | None) -> bool:
    """Return whether the server did not answer in time, a command or a connection attempt."""
    return isinstance(error, ReplyTimeout | TimeoutError) or (isinstance(error, ConnectFailed) and _is_slow(error.__cause__))

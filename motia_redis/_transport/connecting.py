"""Open connections: socket, TLS, login, protocol and database."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from functools import cache
from typing import TYPE_CHECKING, Any

from motia_redis._transport.failures import ConnectFailed, ConnectionLost, ErrorReply, ProtocolMismatch, ReplyTimeout
from motia_redis._transport.multiplexing import MultiplexedConnection, pack

if TYPE_CHECKING:
    from motia_redis._transport.urls import Server, Tls

CONNECT_TIMEOUT = 5.0  # seconds for all of it
_CLOSE_PATIENCE = 0.05  # seconds in which a server that rejects the connection closes it
_VERSION = re.compile(rb"(\d+)\.(\d+)")
_VERIFICATION = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


async def open_connection(server: Server, reply_timeout: float) -> MultiplexedConnection:
    """Return a connection that is logged in, speaks RESP3 and has selected the server's database.

    Raises ConnectFailed when the server cannot be reached, or does not answer within CONNECT_TIMEOUT; ErrorReply when it rejects
    the login; ProtocolMismatch when it is no Redis. No command of a caller was sent then.
    """
    connection: MultiplexedConnection | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await _open_socket(server, reply_timeout)
            await _log_in(connection, server)
    except (TimeoutError, ReplyTimeout) as error:
        _abort(connection)
        raise ConnectFailed(f"no answer from {server.address} while connecting") from error
    except ConnectionLost as error:
        _abort(connection)
        raise ConnectFailed(f"{error} while connecting") from error
    except (OSError, UnicodeError) as error:  # ssl.SSLError is an OSError, too
        _abort(connection)
        raise ConnectFailed(f"{_reason(error)} while connecting to {server.address}") from error
    except BaseException:
        _abort(connection)
        raise
    return connection


async def _open_socket(server: Server, reply_timeout: float) -> MultiplexedConnection:
    loop = asyncio.get_running_loop()

    def protocol() -> MultiplexedConnection:
        return MultiplexedConnection(loop, reply_timeout)

    if server.path:
        _, connection = await loop.create_unix_connection(protocol, server.path)
        return connection
    context = None if server.tls is None else _context(server.tls)
    transport, connection = await loop.create_connection(
        protocol, server.host, server.port, ssl=context, server_hostname=server.host if context else None
    )
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


async def _log_in(connection: MultiplexedConnection, server: Server) -> None:
    """Send what makes the connection usable, in one write, and check the replies."""
    hello: tuple[Any, ...] = ("HELLO", 3)
    commands: list[tuple[Any, ...]] = []
    if server.username is not None:
        hello += ("AUTH", server.username, server.password or "")
    elif server.password is not None:
        # Not by HELLO, which needs a user: a server without a password would take any password of its default user.
        commands.append(("AUTH", server.password))
    if server.client_name is not None:
        hello += ("SETNAME", server.client_name)
    commands.append(hello)
    if server.database:
        commands.append(("SELECT", server.database))
    try:
        replies = await asyncio.gather(*(connection.send(pack(command)) for command in commands))
    except ProtocolMismatch as error:
        raise ProtocolMismatch(str(error), sent=False) from None
    for reply in replies:
        if isinstance(reply, ErrorReply):
            # A server that has too many clients says so and closes the connection: later it may take one.
            await asyncio.wait([connection.ended], timeout=_CLOSE_PATIENCE)
            raise ConnectFailed(f"the server closed the connection: {reply}") if connection.ended.done() else reply
    greeting = replies[commands.index(hello)]
    if not isinstance(greeting, dict):
        raise ProtocolMismatch(f"the reply to HELLO 3 is {greeting!r:.80}", sent=False)
    if (version := _VERSION.match(greeting.get(b"version") or b"")) is not None:
        connection.server_version = int(version[1]), int(version[2])


@cache
def _context(tls: Tls) -> ssl.SSLContext:
    """Return the context for TLS options. It is made once: reading certificates takes time."""
    context = ssl.create_default_context(cafile=tls.ca_certs, capath=tls.ca_path)
    context.check_hostname = tls.check_hostname and tls.cert_reqs != "none"
    context.verify_mode = _VERIFICATION[tls.cert_reqs]
    if tls.certfile or tls.keyfile:
        context.load_cert_chain(tls.certfile or "", tls.keyfile, tls.password)
    if tls.ciphers:
        context.set_ciphers(tls.ciphers)
    return context


def _abort(connection: MultiplexedConnection | None) -> None:
    if connection is not None:
        connection.close()


def _reason(error: OSError | UnicodeError) -> str:
    """Return an error of the system as a phrase: several addresses of one host give several errors."""
    if isinstance(error, UnicodeError):
        return "the host has no valid name"
    if isinstance(error, ConnectionError) and error.errno:  # asyncio writes a text of its own, with the address
        return os.strerror(error.errno)
    return str(error.strerror or error) or type(error).__name__

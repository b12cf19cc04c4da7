"""Open the clients of an event loop from a URL."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import logging
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from motia_redis._transport import urls
from motia_redis._transport.connecting import CONNECT_TIMEOUT, open_connection
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis._transport.failures import ConnectFailed
from motia_redis._transport.router import Router
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from motia_redis._transport.multiplexing import MultiplexedConnection
    from motia_redis._transport.urls import Server


_log = logging.getLogger("motia_redis.state")

#: Returns a user name (None: the default user) and a password. Called before each connection to a server of the data.
Credentials: TypeAlias = Callable[[], Awaitable[tuple[str | None, str]]]


class Endpoint:
    """Resolve a URL to routers. Start or join the embedded server if the URL names one.

    Thread-safe: event loops in several threads share one endpoint, and so one handle of the embedded server.
    """

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self.url = url
        self._credentials = credentials
        self._target = urls.parse(url)
        self._lock = threading.Lock()  # held while joining, which blocks: acquire it in a thread
        self._server: EmbeddedServer | None = None
        self._revivals = 0  # the number of restarts that began, including failed ones

    @property
    def fails_over(self) -> bool:
        """Return whether another server may become the primary of the same keys."""
        return self._target.kind in ("sentinel", "cluster")

    async def open_router(self, *, max_connections: int, reply_timeout: float) -> Router:
        """Return a router for the running loop. It sends nothing again that may have been run.

        At most `max_connections` calls at once use dedicated connections to one node; others wait for their turn. A call fails
        that has no reply after `reply_timeout` seconds. Raises StateUnavailable or StateError when the embedded server cannot be
        started.
        """
        target = self._target
        if target.kind == "embedded":
            target = urls.parse(await asyncio.to_thread(self._join))
        return Router(target, partial(self._connect, reply_timeout=reply_timeout), max_connections)

    async def _connect(self, server: Server, *, reply_timeout: float) -> MultiplexedConnection:
        """Open a connection. Join the embedded server again if its folder was deleted and there is another server now."""
        if self._server is not None and not self._server.is_current:
            await self.revive()
        is_sentinel = self._target.kind == "sentinel" and server in self._target.seeds
        if self._credentials is not None and not is_sentinel:
            server = await self._with_credentials(server, self._credentials)
        return await open_connection(server, reply_timeout=reply_timeout)

    async def _with_credentials(self, server: Server, credentials: Credentials) -> Server:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                username, password = await credentials()
        except Exception as error:  # the caller's code, which may ask another service
            raise ConnectFailed(f"no credentials for {server.address}: {type(error).__name__}: {error}") from error
        return dataclasses.replace(server, username=username, password=password)

    async def revive(self) -> None:
        """Restart the embedded server if it crashed. Do nothing for other URLs, or while the server runs.

        Of several concurrent callers one restarts the server. Only that one gets the error, StateUnavailable.
        """
        if self._server is not None:
            await asyncio.to_thread(self._rejoin, self._revivals)

    def release(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Release the handle of the embedded server, if there is one, unless `unless()` is true. Idempotent."""
        with self._lock:
            if not unless():
                self._replace(None)

    def _join(self) -> str:
        with self._lock:
            if self._server is None:
                self._replace(_join(self.url, self._target.directory))
            assert self._server is not None  # noqa: S101 - for mypy
            return self._server.url

    def _rejoin(self, revivals: int) -> None:
        with self._lock:
            if self._server is None or self._revivals != revivals:
                return  # released, or restarted by another caller
            self._revivals += 1
            # Join before leaving: a running server must not lose its last user.
            was_current = self._server.is_current
            server = _join(self.url, self._target.directory)
            if not was_current:
                _log.error(
                    "%s: the folder was deleted while it was in use: its data is gone, and a new server was started", self.url
                )
            self._replace(server)

    def _replace(self, server: EmbeddedServer | None) -> None:
        old, self._server = self._server, server
        if server is not None:
            atexit.register(server.leave)
        if old is not None:
            atexit.unregister(old.leave)
            old.leave()


def unused_directory(url: str) -> Path | None:
    """Return the directory of an `embedded://` URL if no server has kept data there, else None. Raises StateError.

    For what must not create a server in a folder that a mistake names.
    """
    target = urls.parse(url)
    if target.kind != "embedded":
        return None
    directory = _directory(url, target.directory)
    # The append-only file of Redis 7 and later, of Redis 6, and the socket.
    return None if any((directory / name).exists() for name in ("appendonlydir", "appendonly.aof", "redis.sock")) else directory


def _join(url: str, directory: str) -> EmbeddedServer:
    return EmbeddedServer.join(_directory(url, directory))


def _directory(url: str, directory: str) -> Path:
    try:
        return Path(directory or urls.DEFAULT_DIRECTORY).expanduser()
    except RuntimeError as error:  # no such user, for ~user
        raise StateError(f"{url}: {error}") from None

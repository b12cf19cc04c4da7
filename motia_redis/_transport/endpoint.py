"""From a URL to the clients of the running event loop."""

from __future__ import annotations

import asyncio
import atexit
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from motia_redis._transport import urls
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis._transport.router import Router
from motia_redis._transport.urls import Target, redact
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_TIMEOUT = 5.0  # seconds


class Endpoint:
    """Where Redis is: resolves the URL, starting or joining the embedded server if it names one.

    Thread-safe: event loops in several threads share one endpoint, and with it one use of the embedded server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._target = urls.parse(url)
        self._lock = threading.Lock()  # held while joining, so never in an event loop
        self._server: EmbeddedServer | None = None
        self._revivals = 0  # begun ones, also those that failed

    @property
    def fails_over(self) -> bool:
        """Whether another server may become the primary of the same keys."""
        return self._target.kind in ("sentinel", "cluster")

    async def open_router(self, *, max_connections: int, reply_timeout: float) -> Router:
        """Return new clients of the running loop, which re-send nothing by themselves.

        Calls that take a connection for themselves wait for their turn beyond `max_connections` at once to one node; whoever
        waits for a reply gives up after `reply_timeout` seconds. Raises StateUnavailable or StateError when the embedded server
        cannot be started.
        """
        target = self._target
        if target.kind == "embedded":
            target = Target("single", (await asyncio.to_thread(self._join),))
        return Router(target, partial(_connect, max_connections, reply_timeout), reply_timeout)

    async def revive(self) -> None:
        """Start the embedded server again if it ended while in use; nothing to do for other URLs or a server that lives.

        Of callers that come at the same time one does it, and gets the error if there is one: StateUnavailable.
        """
        if self._server is not None:
            await asyncio.to_thread(self._rejoin, self._revivals)

    def release(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Give up this endpoint's use of the embedded server, if there is one, unless somebody needs it. Idempotent."""
        with self._lock:
            if not unless():
                self._replace(None)

    def _join(self) -> str:
        with self._lock:
            if self._server is None:
                self._replace(_join(self.url))
            assert self._server is not None  # noqa: S101 - for mypy
            return self._server.url

    def _rejoin(self, revivals: int) -> None:
        with self._lock:
            if self._server is None or self._revivals != revivals:
                return  # released, or somebody else was first
            self._revivals += 1
            # The new handle first: a server that lives must not see its last user leave.
            self._replace(_join(self.url))

    def _replace(self, server: EmbeddedServer | None) -> None:
        old, self._server = self._server, server
        if server is not None:
            atexit.register(server.leave)
        if old is not None:
            atexit.unregister(old.leave)
            old.leave()


def _connect(max_connections: int, reply_timeout: float, url: str) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=reply_timeout,
            # A change that is re-sent blindly is applied twice.
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )
    except ValueError:  # redis-py is stricter than urls.parse in something
        raise StateError(f"{redact(url)!r} is not the URL of a Redis") from None
    return Redis.from_pool(pool)


def _join(url: str) -> EmbeddedServer:
    directory = url.removeprefix(urls.EMBEDDED) or urls.DEFAULT_URL.removeprefix(urls.EMBEDDED)
    try:
        return EmbeddedServer.join(Path(directory).expanduser())
    except RuntimeError as error:  # no such user, for ~user
        raise StateError(f"{url}: {error}") from None

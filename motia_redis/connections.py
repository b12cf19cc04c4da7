"""From a URL to a Redis client of the running event loop."""

from __future__ import annotations

import asyncio
import atexit
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis.embedded import EmbeddedServer
from motia_redis.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

DEFAULT_URL = "embedded://.motia"
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)

_CONNECT_TIMEOUT = 5.0  # seconds
_REPLY_TIMEOUT = 10.0  # seconds; longer than any blocking read that this package makes


def redact(url: str) -> str:
    """Return `url` without user and password, for messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Endpoint:
    """Where Redis is: resolves the URL, starting or joining the embedded server if it names one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._server: EmbeddedServer | None = None
        scheme = url.partition("://")[0]
        if scheme in ("redis+sentinel", "redis+cluster"):
            raise StateError(f"{redact(url)}: {scheme}:// is not supported yet; use redis://, rediss:// or unix://")
        if scheme not in ("redis", "rediss", "unix", "embedded"):
            raise StateError(
                f"{redact(url)!r} is not the URL of a Redis; use redis://host:port/0, rediss://, unix:///path or embedded://dir"
            )

    async def client(self, *, max_connections: int) -> Redis:
        """Return a new client of the running loop, which re-sends nothing by itself.

        Callers beyond `max_connections` at once wait for their turn. Raises StateUnavailable or StateError.
        """
        url = self.url
        if url.startswith("embedded://"):
            if self._server is None:
                self._server = await asyncio.to_thread(_join, url.removeprefix("embedded://"))
                atexit.register(self._server.leave)
            url = self._server.url
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=max_connections,
                timeout=None,
                socket_connect_timeout=_CONNECT_TIMEOUT,
                socket_timeout=_REPLY_TIMEOUT,
                # A change that is re-sent blindly is applied twice.
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
            )
        except ValueError as error:
            raise StateError(f"{redact(url)!r} is not the URL of a Redis: {error}") from None
        return Redis.from_pool(pool)

    def release(self) -> None:
        """Give up this endpoint's use of the embedded server, if there is one. Idempotent."""
        if self._server is not None:
            atexit.unregister(self._server.leave)
            self._server.leave()
            self._server = None


def _join(directory: str) -> EmbeddedServer:
    return EmbeddedServer.join(Path(directory or ".").expanduser())


async def close_with_loop(client: Redis) -> AsyncGenerator[None]:
    """Close the client at the latest when its loop shuts down its generators, as `asyncio.run` does at its end.

    So a program that never closes its manager leaves no connection open behind its loop.
    """
    try:
        yield
    finally:
        await client.aclose()


def unavailable(where: str, url: str, error: Exception) -> StateUnavailable:
    """Return the error for a Redis that cannot be reached or refuses the call."""
    text = str(error) or type(error).__name__
    if isinstance(error, UNREACHABLE):
        return StateUnavailable(f"{where}: cannot reach Redis at {redact(url)}: {text}")
    return StateUnavailable(f"{where}: Redis at {redact(url)} refused the call: {text}")

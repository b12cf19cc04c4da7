"""From a URL to a Redis client of the running event loop."""

from __future__ import annotations

import asyncio
import atexit
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis import replies
from motia_redis.embedded import EmbeddedServer
from motia_redis.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_URL = "embedded://.motia"
EMBEDDED = "embedded://"
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)
CONNECT_TIMEOUT = 5.0  # seconds

_REPLY_TIMEOUT = 10.0  # seconds; longer than any blocking read that this package makes
_FORMS = "redis://user:password@host:port/0, rediss://, unix:///path or embedded://dir"
_MALFORMED = "host, port or options are malformed (a password needs %-escapes for / ? # @ : [ ])"
_FILE = re.compile(".+", re.DOTALL)
#: What may stand behind the `?` of a URL. redis-py knows more, most of which would change what this package relies on.
_OPTIONS = {
    "db": re.compile(r"[0-9]{1,6}"),
    "client_name": re.compile(r"[!-~]+"),
    "ssl_keyfile": _FILE,
    "ssl_certfile": _FILE,
    "ssl_password": _FILE,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_ciphers": _FILE,
    "ssl_cert_reqs": re.compile("none|optional|required"),
    "ssl_check_hostname": re.compile("true|false", re.IGNORECASE),
}


def redact(url: str) -> str:
    """Return `url` without user, password and options, for messages; never raises, however malformed the URL is."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch("[A-Za-z+.-]+", scheme):
        return re.split("[?#]", url.rpartition("@")[2])[0]
    if scheme == "embedded":  # a path as it is
        return url
    shown, *options = re.split("[?#]", rest, maxsplit=1)
    if scheme == "unix" and rest.startswith("/"):  # a path, in which an @ is an @
        return f"{scheme}://{shown}"
    if options and "@" not in shown and "@" in options[0]:
        return f"{scheme}://..."  # a password that holds a ? or #, perhaps
    return f"{scheme}://{shown.rpartition('@')[2]}"


def check_url(url: object) -> str:
    """Return `url` when it is the URL of a Redis that this package can use; raise StateError, which says why, otherwise."""
    if not isinstance(url, str):
        raise StateError(f"the URL of a Redis must be a string, not {type(url).__name__}: {url!r:.80}")
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise StateError(f"{redact(url)}: {scheme}:// is not supported yet; use redis://, rediss:// or unix://")
    fault = _fault(url, scheme)
    if fault:
        raise StateError(f"{redact(url)!r} is not the URL of a Redis: {fault}; use {_FORMS}")
    return url


def _fault(url: str, scheme: str) -> str | None:
    """Say what is wrong with a URL, without quoting what could be its password; None when nothing is."""
    if any(character < " " for character in url):
        return "it holds a control character"
    if scheme == "embedded":
        return None
    if scheme not in ("redis", "rediss", "unix"):
        return "it begins with none of the known schemes"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return _MALFORMED
    if port == 0 or parts.fragment or "@" in parts.query:
        return _MALFORMED
    if scheme == "unix":
        at_fault = "the socket's path must be absolute, unix:///path" if host or not parts.path else None
    else:
        at_fault = None if re.fullmatch(r"(/[0-9]{0,6})?", parts.path) else "the database must be a number"
    return at_fault or _bad_option(scheme, options, db_in_path=scheme != "unix" and len(parts.path) > 1)


def _bad_option(scheme: str, options: list[tuple[str, str]], *, db_in_path: bool) -> str | None:
    """Say which option cannot be used, and why; None when all can."""
    seen = {"db"} if db_in_path else set()
    for name, value in options:
        if name in ("username", "password"):
            return f"{name} must stand before the host, not behind the `?`"
        if name not in _OPTIONS:
            return f"unknown option {name!r:.40} (known: {', '.join(_OPTIONS)})"
        if name.startswith("ssl_") and scheme != "rediss":
            return f"option {name} needs rediss://"
        if name in seen:
            return f"{name} is given twice"
        if not _OPTIONS[name].fullmatch(value):
            return f"option {name} has a value that it cannot have"
        seen.add(name)
    return None


class Endpoint:
    """Where Redis is: resolves the URL, starting or joining the embedded server if it names one.

    Thread-safe: event loops in several threads share one endpoint, and with it one use of the embedded server.
    """

    def __init__(self, url: str) -> None:
        self.url = check_url(url)
        self._lock = threading.Lock()  # held while joining, so never in an event loop
        self._server: EmbeddedServer | None = None
        self._revivals = 0  # begun ones, also those that failed

    async def client(self, *, max_connections: int) -> Redis:
        """Return a new client of the running loop, which re-sends nothing by itself.

        Callers beyond `max_connections` at once wait for their turn. Raises StateUnavailable or StateError.
        """
        url = await asyncio.to_thread(self._join) if self.url.startswith(EMBEDDED) else self.url
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=max_connections,
                timeout=None,
                socket_connect_timeout=CONNECT_TIMEOUT,
                socket_timeout=_REPLY_TIMEOUT,
                # A change that is re-sent blindly is applied twice.
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
            )
        except ValueError:  # redis-py is stricter than check_url in something
            raise StateError(f"{redact(url)!r} is not the URL of a Redis; use {_FORMS}") from None
        return Redis.from_pool(pool)

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


def _join(url: str) -> EmbeddedServer:
    directory = url.removeprefix(EMBEDDED) or DEFAULT_URL.removeprefix(EMBEDDED)
    try:
        return EmbeddedServer.join(Path(directory).expanduser())
    except RuntimeError as error:  # no such user, for ~user
        raise StateError(f"{url}: {error}") from None


def is_gone(error: Exception) -> bool:
    """Tell whether the error may mean that the server is not there any more (and not that it is slow, or refuses)."""
    return (
        isinstance(error, UNREACHABLE)
        and not isinstance(error, RedisTimeoutError | TimeoutError)
        and replies.refusal(error) is None
    )


def unavailable(where: str, url: str, error: Exception) -> StateUnavailable:
    """Return the error for a Redis that cannot be reached or refuses the call."""
    at = f"{where}: Redis at {redact(url)}"
    if (reason := replies.refusal(error)) is not None:
        return StateUnavailable(f"{at} {reason}")
    text = replies.essence(error)
    if isinstance(error, UNREACHABLE):
        if isinstance(error, RedisTimeoutError | TimeoutError):
            text = f"no answer in time ({text}): is it a Redis, and not held up?"
        sent = "" if "connecting to" in text else "; if this was a change, it may have been applied"
        return StateUnavailable(f"{where}: cannot reach Redis at {redact(url)}: {text}{sent}")
    return StateUnavailable(f"{at} refused the call: {text}")

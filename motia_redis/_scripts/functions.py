"""Run the scripts as functions of the servers, where that can be had: Redis 7.0 or newer, and a user with the permission.

All entry points are functions of one library, whose name is a hash of its text. So different versions of this package have
different functions, side by side on one server. A server that says that it does not know the library gets it: a new one, a node
that was added to a Cluster, one whose functions were deleted. It keeps the library with its data, and gives it to its replicas.

The description of the functions says on which day the library was last known to be in use. Every router renews it once a day. Who
loads or renews a library deletes those of this package that nobody has renewed for a week. A library that is deleted all the same
is loaded again by the next call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import RedisError

from motia_redis._transport.failures import ErrorReply, NoScript, UnknownCommand
from motia_redis._version import __version__
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from motia_redis._transport.router import Node, Router

_log = logging.getLogger("motia_redis.state")

#: "never": scripts only. For tests and benchmarks, and for servers whose functions belong to someone else.
VARIABLE: Final = "MOTIA_REDIS_FUNCTIONS"
OLDEST_SERVER: Final = (7, 0)

_NAME = re.compile(r"motia_[0-9a-f]{16}")
_KEPT = timedelta(days=7)  # how long a library stays that nobody has renewed
_RENEWED_AFTER, _RENEWED_EVERY = 60.0, 86_400.0  # seconds: from the first call, and from then on
_PAUSE = 10.0  # seconds of scripts only, after a server could not load the library


class Library(NamedTuple):
    """The functions of all entry points."""

    name: str
    body: str

    def text(self, day: date) -> str:
        """Return the text to load, with the day on which the library is in use."""
        about = f"motia-redis {__version__}, in use on {day.isoformat()}"
        return f'#!lua name={self.name}\nlocal LIBRARY, ABOUT = "{self.name}", "{about}"\n{self.body}'


class Functions:
    """Decides for a router whether calls run as functions, and loads the library. `close` it with the router.

    What holds for one node is taken to hold for all of them: both ways do the same, and may change at any time.
    """

    def __init__(self, router: Router, library: Library) -> None:
        self._router, self._library = router, library
        self._loop = asyncio.get_running_loop()
        self._loading: dict[tuple[Node, str], asyncio.Task[bool]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False
        self.usable = True  #: whether a call tries a function first
        if (reason := forbidden(router)) is not None:
            self._stop(reason)
        else:
            self._after(_RENEWED_AFTER, self._renew)

    def close(self) -> None:
        """Cancel what runs in the background. What calls wait for is not cancelled: it ends with its connection."""
        self.usable, self._closed = False, True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def refuse(self, error: ErrorReply) -> bool:
        """Return whether this error of a function says that it cannot be called here, so that a script must run.

        A full server refuses functions that may store more before they run. A script runs until it stores something.
        """
        if isinstance(error, UnknownCommand) or error.code == "NOPERM":
            self._stop(str(error))
            return True
        return error.code == "OOM"

    async def load(self, node: Node) -> bool:
        """Load the library at a node that does not know it; return whether that may have succeeded. Calls share an attempt."""
        return await self._share(node, self._library.name, self._load)

    async def load_script(self, node: Node, text: str) -> bool:
        """Load a script at a node that does not know it; return whether that succeeded. Calls share an attempt.

        Otherwise each of a thousand calls that wait would send the text, which is a hundred times as large as a call.
        """

        async def load_text(node: Node) -> bool:
            try:
                await self._router.execute_at(node, "SCRIPT LOAD", text)
            except RedisError:  # not permitted, or unreachable: a call that sends the text itself will show it
                return False
            return True

        return await self._share(node, text, load_text)

    async def _share(self, node: Node, what: str, attempt: Callable[[Node], Coroutine[Any, Any, bool]]) -> bool:
        task = self._loading.get((node, what))
        if task is None:
            task = self._loading[node, what] = self._loop.create_task(attempt(node))
            task.add_done_callback(lambda _: self._loading.pop((node, what), None))
        return await asyncio.shield(task)

    def pause(self, reason: str) -> None:
        """Use scripts only, for some time."""
        if self.usable:
            self.usable = False
            _log.debug("calls run as scripts for %g s: %s", _PAUSE, reason)
            self._after(_PAUSE, self._resume)

    async def _load(self, node: Node) -> bool:
        try:
            await self._router.execute_at(node, "FUNCTION LOAD", self._library.text(today()))
        except ErrorReply as error:
            if isinstance(error, UnknownCommand) or error.code == "NOPERM":
                self._stop(str(error))
                return False
            if error.code == "ERR":  # another process has loaded it, or it cannot be loaded; the next call will show
                return True
            self.pause(str(error))  # it is full, a replica, or does not take writes for another reason
            return False
        except RedisError as error:  # the call itself was not sent
            self.pause(str(error))
            return False
        self._start(partial(self._tend, node))
        return True

    def _stop(self, reason: str) -> None:
        if self.usable:
            self.usable = False
            _log.debug("calls run as scripts: %s", reason)

    async def _resume(self) -> None:
        self.usable = True

    async def _renew(self) -> None:
        self._after(_RENEWED_EVERY, self._renew)
        if self.usable:
            for node in await self._router.primaries():
                await self._tend(node)

    async def _tend(self, node: Node) -> None:
        """Note at a node that the library is in use today, if it has the library. Delete libraries that nobody has renewed."""
        day = today()
        found = await find_libraries(self._router, node)
        if found.get(self._library.name, day) < day:
            await self._router.execute_at(node, "FUNCTION LOAD", "REPLACE", self._library.text(day))
        for name, last in found.items():
            if name != self._library.name and day - last > _KEPT:
                _log.info("%s: deleting the function library %s, last used on %s", node.server.address, name, last)
                await self._router.execute_at(node, "FUNCTION DELETE", name)

    def _after(self, seconds: float, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._closed:
            self._timers[run.__name__] = self._loop.call_later(seconds, lambda: self._start(run))

    def _start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def guarded() -> None:
            try:
                await run()
            except (RedisError, OSError) as error:  # the next renewal tries again
                _log.debug("function library %s: %s", self._library.name, error)

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def forbidden(router: Router) -> str | None:
    """Return why no function is to be tried at the servers of a router; None if one may be tried. Raises StateError."""
    setting = os.environ.get(VARIABLE, "auto")
    if setting not in ("auto", "never"):
        raise StateError(f'{VARIABLE}={setting!r}: must be "auto" or "never"')
    if setting == "never":
        return f"{VARIABLE}=never"
    version = router.server_version
    if version is not None and version < OLDEST_SERVER:
        return f"server version {'.'.join(map(str, version))} has no functions"
    return None


async def find_libraries(router: Router, node: Node) -> dict[str, date]:
    """Return the libraries of this package at a node, of all its versions, with the days on which they were last in use."""
    found = {}
    for library in await router.execute_at(node, "FUNCTION LIST", "LIBRARYNAME", "motia_*"):
        name = library[b"library_name"].decode()
        about = {(function[b"description"] or b"").decode(errors="replace") for function in library[b"functions"]}
        last = _last_use(about.pop()) if len(about) == 1 else None
        if _NAME.fullmatch(name) and last is not None:
            found[name] = last
    return found


def _last_use(about: str) -> date | None:
    try:
        return datetime.strptime(about.rpartition(", in use on ")[2], "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None


async def explain(router: Router, node: Node, library: Library) -> str:
    """Return how calls run at a node, and why. Changes nothing: the library is not loaded if it is not there."""
    if (reason := forbidden(router)) is not None:
        return f"run as scripts: {reason}"
    # A function without its keys, and a library without text: they report errors of their own if the user may send them.
    error = await _error_of(router, node, "FCALL", f"{library.name}_get_entry", 0)
    known = not isinstance(error, NoScript)
    if not known:
        error = await _error_of(router, node, "FUNCTION LOAD", "")
    if error.code == "NOPERM":
        return f"run as scripts: {error}; with the ACL rule in docs/operating.md they run as functions, with less server time"
    if isinstance(error, UnknownCommand) or error.code == "OOM":
        return f"run as scripts: {error}"
    return f"run as functions of the library {library.name}" + ("" if known else ", which the next call loads")


async def _error_of(router: Router, node: Node, *command: Any) -> ErrorReply:
    try:
        return ErrorReply(f"no error for {command[0]}: {await router.execute_at(node, *command)!r:.100}")
    except ErrorReply as error:
        return error


def today() -> date:
    """Return the day by this machine's clock, in UTC."""
    return datetime.now(UTC).date()

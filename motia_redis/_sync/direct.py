"""Make the first attempt at a call in the calling thread, over a connection without an event loop.

A call of `StateManager` is a coroutine that awaits nothing but the replies of its router. With a router that waits for replies in
the calling thread, such a coroutine runs to its end at once, without the event loop: that saves two switches between threads.
Whatever is not an ordinary reply (a lost connection, a time-out, a server without the script) is left to the event loop, which
goes on as after a first attempt of its own. So all promises about repeated calls hold.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import hiredis
import orjson
from redis.exceptions import RedisError

from motia_redis import _metrics, _tracing
from motia_redis._scripts import error_codes
from motia_redis._store import expiry, keyspace, manager
from motia_redis._store.keyspace import Subject
from motia_redis._store.mutations import Mutations
from motia_redis._store.retries import FIRST, Retries
from motia_redis._store.sessions import ATTEMPT_TIMEOUT
from motia_redis._sync import loop_thread
from motia_redis._transport.blocking import take_over
from motia_redis._transport.failures import ErrorReply
from motia_redis._transport.multiplexing import LARGE, pack
from motia_redis._transport.replies import convert
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session, Sessions
    from motia_redis._transport.blocking import BlockingConnection
    from motia_redis._transport.router import Router

_P = ParamSpec("_P")
_T = TypeVar("_T")

_KNOWN_NAMES = 1024  # keys with large values, and scopes, that are remembered
_PAUSE = 1.0  # seconds after an attempt to open a connection that failed


MISSED: Final[Any] = object()  #: no reply


class _Elsewhere(Exception):
    """The event loop has to make the call, of which nothing was run."""


class _DirectRouter:
    """What the calls of a `StateManager` use of a router, in the calling thread. Raises _Elsewhere for what is not ordinary."""

    def __init__(self, router: Router, connection: BlockingConnection) -> None:
        self.connection = connection
        self._router = router
        self._large: set[Any] = set()  # keys with large values, which would delay the calls of others
        self.hashes: dict[str, bytes] = {}  #: of scopes that were read: the names of the hashes of values

    @property
    def functions(self) -> Any:
        """How scripts run at the server."""
        functions = self._router.functions
        if functions is None:  # to be made in the loop
            raise _Elsewhere
        return functions

    async def execute(self, key: bytes | str, *command: Any) -> Any:
        """Run a command and return its reply."""
        data = pack(command)
        if len(data) >= LARGE or key in self._large:
            raise _Elsewhere
        reply = self.connection.send(data)
        if isinstance(reply, ErrorReply):
            if error_codes.is_script_error(reply):
                raise reply
            raise _Elsewhere  # an error reply has changed nothing
        if isinstance(reply, bytes) and len(reply) >= LARGE:
            if len(self._large) >= _KNOWN_NAMES:
                self._large.clear()
            self._large.add(key)
        return convert(command[0], reply)

    def name_hash(self, scope: str, values: bytes) -> bytes:
        """Remember and return the name of the hash with the values of a scope."""
        if len(self.hashes) >= _KNOWN_NAMES:
            self.hashes.clear()
        self.hashes[scope] = values
        return values

    def read(self, values: bytes, key: bytes) -> Any:
        """Return the reply of HGET, or MISSED: run the call in another way."""
        if values in self._large:
            return MISSED
        command: Any = ("HGET", values, key)
        reply = self.connection.send(hiredis.pack_command(command))
        return reply if reply is None or (type(reply) is bytes and len(reply) < LARGE) else MISSED

    async def pipeline(self, key: bytes | str, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run one command. Several, as for durability, are left to the loop."""
        if len(commands) > 1:
            raise _Elsewhere
        return [await self.execute(key, *commands[0])]


class _DirectRetries(Retries):
    """Make the first attempt in the calling thread, and others in the event loop."""

    def __init__(self, sessions: Sessions, retries: Retries) -> None:
        self._sessions = sessions
        self._retries = retries
        self._ours: _Ours | None = None
        self._opening = threading.Lock()
        self._next_opening = 0.0
        self._is_possible = os.name == "posix"

    @property
    def place(self) -> tuple[str, str]:
        """Return the URL and the namespace of the calls."""
        return self._retries.place

    async def run(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        *,
        operation: str = "other",
        is_mutation: bool = False,
        changes: int = 0,
    ) -> _T:
        """Return the result of `call`. Promises and errors are those of `Retries.run`."""
        ours = self.current()
        if ours is None:
            return self._in_loop(subject, call, operation=operation, is_mutation=is_mutation, changes=changes)
        if _tracing.spans is not None and _tracing.spans.wants(operation):
            with _tracing.spans.call(subject, operation, ours.of_loop.router) as span:
                return span.ended(await self.run(subject, call, operation=operation, is_mutation=is_mutation, changes=changes))
        began = time.monotonic()
        ours.session.settings = ours.of_loop.settings
        try:
            result = await call(ours.session, FIRST)
        except _Elsewhere:
            return self._in_loop(subject, call, operation=operation, is_mutation=is_mutation, changes=changes)
        except (RedisError, OSError) as failure:
            if error_codes.is_script_error(failure):
                raise
            result = self.go_on(subject, call, began, ours, failure, operation=operation, is_mutation=is_mutation)
        if _metrics.active is not None:
            _metrics.active.add_call(operation, began, changes)
        return result

    def _in_loop(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        *,
        operation: str,
        is_mutation: bool,
        changes: int,
    ) -> _T:
        run = self._retries.run
        return loop_thread.run(str(subject), run, subject, call, operation=operation, is_mutation=is_mutation, changes=changes)

    def go_on(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        began: float,
        ours: _Ours,
        failure: Exception,
        *,
        operation: str,
        is_mutation: bool = False,
    ) -> _T:
        """Return the result of a call whose attempt in this thread failed: the event loop repeats it."""
        repeat = self._retries.repeat
        return loop_thread.run(
            str(subject), repeat, subject, call, began, ours.of_loop, failure, operation=operation, is_mutation=is_mutation
        )

    async def check_layout(self, subject: object) -> None:
        """Look at the layout of the namespace again, in the event loop."""
        loop_thread.run(str(subject), self._retries.check_layout, subject)

    def current(self) -> _Ours | None:
        """Return the session for threads, or None: the call is left to the loop."""
        ours = self._ours
        if ours is not None and not (ours.of_loop.is_over or ours.connection.is_broken):
            losses = ours.of_loop.router.losses  # after a loss the server may be another one, or without its data
            if losses == ours.losses and losses == ours.of_loop.losses:
                return ours
        thread = loop_thread.running()
        of_loop = None if thread is None else self._sessions.of(thread.loop)
        if of_loop is None or of_loop.losses != of_loop.router.losses:  # the loop connects, or looks at the layout
            return None
        if self._is_possible and time.monotonic() >= self._next_opening and self._opening.acquire(blocking=False):
            try:
                return self._open(of_loop)
            finally:
                self._opening.release()
        return None

    def _open(self, of_loop: Session) -> _Ours | None:
        self._next_opening = time.monotonic() + _PAUSE
        self.close()
        try:
            connection = loop_thread.run("connect", _connect, of_loop)
        except (RedisError, OSError, StateError):  # the loop meets it, too, and says so
            return None
        if connection is None:
            self._is_possible = False
            return None
        self._next_opening = 0.0
        router = _DirectRouter(of_loop.router, connection)
        session = dataclasses.replace(of_loop, router=cast("Router", router))
        self._ours = _Ours(of_loop, of_loop.losses, router, connection, session)
        return self._ours

    def close(self) -> None:
        """Close the connection. The next call opens another one."""
        ours, self._ours = self._ours, None
        if ours is not None:
            ours.connection.close()

    def abandon(self) -> None:
        """Give up the connection, in a forked child or at exit."""
        ours, self._ours = self._ours, None
        if ours is not None:
            ours.connection.abandon()


@dataclasses.dataclass(frozen=True, slots=True)
class _Ours:
    """What threads use."""

    of_loop: Session  #: the session of the event loop
    losses: int  #: of connections of the loop, when this one was opened
    router: _DirectRouter
    connection: BlockingConnection
    session: Session  #: the same, with that router


async def _connect(session: Session) -> BlockingConnection | None:
    connection = await session.router.open_apart()
    return None if connection is None else take_over(connection, ATTEMPT_TIMEOUT)


class DirectState(manager.StateManager):
    """The manager `state`, for calls that await nothing but replies. Call its methods by `drive`."""

    _retries: _DirectRetries

    def __init__(self, state: manager.StateManager) -> None:
        self.__dict__.update(vars(state))
        self._retries = _DirectRetries(self._sessions, self._retries)
        self._mutations = Mutations(self._retries, self.limits, self.durability, self._idempotency_seconds)

    def read(self, scope: str, key: str) -> Any | None:
        """Return what `get` returns, without a type: it is `get` without a coroutine, which would take as long again."""
        loop_thread.refuse_inside_loop("get")
        ours = self._retries.current()
        if ours is None or (_tracing.spans is not None and _tracing.spans.wants("get")):
            return drive("get", self.get, scope, key)
        router = ours.router
        values = router.hashes.get(scope) if type(scope) is str else None
        if values is None:
            values = router.name_hash(scope, ours.session.keyspace.values(self._names(scope, key)[1]))
        key_bytes = keyspace.encode_name("key", key, self.limits.name_bytes)
        began = time.monotonic()
        try:
            text = router.read(values, key_bytes)
        except (RedisError, OSError) as failure:

            async def read_again(session: Session, _: Attempt) -> Any:
                return await session.router.execute(values, "HGET", values, key_bytes)

            text = self._retries.go_on(Subject(scope, key), read_again, began, ours, failure, operation="get")
        if text is MISSED:
            return drive("get", self.get, scope, key)
        if _metrics.active is not None:
            _metrics.active.add_call("get", began, 0)
        if text is None or expiry.is_expired(text):
            return None
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return self._coder.decode(text, subject=Subject(scope, key))  # which raises

    def drop(self) -> None:
        """Close the connection of the threads. The next call opens another one."""
        self._retries.close()

    def abandon(self) -> None:
        """Give up the connection of the threads, in a forked child or at exit."""
        self._retries.abandon()


def drive(name: str, method: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a method of a DirectState in this thread and return its result. Raises as `loop_thread.run`. `name` is for errors."""
    loop_thread.refuse_inside_loop(name)
    coroutine = method(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    except Exception:
        raise
    except BaseException as error:
        loop_thread.note_interrupt(name, error)
        raise
    coroutine.close()
    raise RuntimeError(f"{name} awaits something else than replies")  # a defect of this package

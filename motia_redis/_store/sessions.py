"""Keep one session for each event loop: the connections of a manager, from the first use to its close or the end of the loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._store import keyspace
from motia_redis._store.feed import Feed
from motia_redis._store.keyspace import Keyspace
from motia_redis._store.namespaces import StoredLayout, open_namespace, restore_layout
from motia_redis._store.sweeping import Sweeper
from motia_redis._transport import connecting, endpoint, failures, health, urls
from motia_redis._transport.outages import Outage
from motia_redis.errors import LayoutMismatch, StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from motia_redis._store.durability import Durability
    from motia_redis._store.keyspace import Layout
    from motia_redis._store.namespaces import OpenedNamespace, ServerClock
    from motia_redis._store.settings import GivenSettings, Settings
    from motia_redis._transport.endpoint import Credentials
    from motia_redis._transport.router import Router


_log = logging.getLogger("motia_redis.state")

#: The warnings that this process has logged, by URL and check: a program may create many managers of one Redis.
_warned: set[tuple[str, str]] = set()

#: Seconds that one attempt at a call waits for its reply, without the time to wait for durability.
ATTEMPT_TIMEOUT = 3.0
_REPLY_TIMEOUT = 10.0  # seconds; must be longer than the blocking reads of this package


@dataclass(slots=True)
class Session:
    """Hold the connections of a manager in one event loop. An asyncio client works only in the loop that created it."""

    router: Router
    keyspace: Keyspace
    closer: AsyncGenerator[None]
    clock: ServerClock
    settings: Settings
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  #: what ends before the connections are closed
    feed: Feed | None = None  #: what the watches of the event loop read, once there was one
    is_over: bool = False  #: it was closed, or refused because of its layout; threads look at it
    losses: int = 0  #: connections that had ended when the layout was last checked; another number: check it again


@dataclass(slots=True)
class _Slot:
    """Hold the session of one event loop, and the lock for opening and closing it."""

    session: Session | None = None
    refused: Session | None = None  #: the session, once its layout is not the namespace's any more
    refusal: LayoutMismatch | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """Hold the sessions of one manager in all event loops, and their shared endpoint. Loops of several threads may use it."""

    def __init__(
        self,
        url: str | None,
        namespace: str | None,
        layout: Layout | None,
        given: GivenSettings,
        durability: Durability,
        *,
        credentials: Credentials | None,
        sweep: bool = False,
    ) -> None:
        self.given_url: str | None = url
        self.sweep: bool = sweep
        self.in_copy: bool = False  #: also open a namespace that a copy is made in
        self.credentials: Credentials | None = credentials
        self.given_namespace: str | None = None if namespace is None else keyspace.check_namespace(namespace)
        self.layout: Layout | None = layout
        self.given: GivenSettings = given
        self._durability = durability
        self._endpoint: endpoint.Endpoint | None = None
        self._creating = threading.Lock()
        # Loops that have a session or are opening one. Each access is one atomic dict operation, so threads need no lock.
        self._slots: dict[asyncio.AbstractEventLoop, _Slot] = {}

    def __str__(self) -> str:
        """Return URL and namespace without secrets. Never raises: a manager with an empty URL has a `repr`, too."""
        try:
            return f"{urls.redact(self.url)} namespace={self.namespace!r}"
        except StateError as error:
            return f"({error})"

    @property
    def url(self) -> str:
        """The URL that the sessions connect to."""
        return urls.choose(self.given_url, os.environ.get("MOTIA_REDIS_URL"))

    @property
    def namespace(self) -> str:
        """The prefix of all keys."""
        # An empty variable is an error, which `check_namespace` reports: "motia" would be other data than what was meant.
        return self.given_namespace or os.environ.get("MOTIA_REDIS_NAMESPACE", "motia")

    async def open_router(self, *, max_connections: int = 64, reply_timeout: float = _REPLY_TIMEOUT) -> Router:
        """Return a new router for the running loop. The caller must close it."""
        return await self._resolve_endpoint().open_router(max_connections=max_connections, reply_timeout=reply_timeout)

    @property
    def fails_over(self) -> bool:
        """Whether another server can become the primary for the same keys."""
        return self._resolve_endpoint().fails_over

    def _resolve_endpoint(self) -> endpoint.Endpoint:
        with self._creating:  # a thread lock is safe in a loop here: parsing a URL is fast
            if self._endpoint is None:
                self._endpoint = endpoint.Endpoint(self.url, self.credentials)
            return self._endpoint

    def current(self) -> Session | None:
        """Return the session of the running loop, or None."""
        return self.of(asyncio.get_running_loop())

    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """Return the event loops that have a session, or are opening one."""
        self._purge()
        return list(self._slots)

    def of(self, loop: asyncio.AbstractEventLoop) -> Session | None:
        """Return the session of an event loop, or None. Any thread may ask."""
        slot = self._slots.get(loop)
        return slot.session if slot is not None else None

    async def get(self) -> Session:
        """Return the session of the running loop. Open it on the first call."""
        if (session := self.current()) is not None:
            return session
        loop = asyncio.get_running_loop()
        self._purge()
        while True:
            slot = self._slots.setdefault(loop, _Slot())
            async with slot.lock:
                if self._slots.get(loop) is not slot:
                    continue  # another task closed the session, or failed to open it
                if slot.refusal is not None:
                    raise LayoutMismatch(str(slot.refusal))
                if slot.session is None:
                    try:
                        slot.session = await self._open(loop)
                    except BaseException:
                        self._slots.pop(loop, None)
                        raise
                return slot.session

    async def close(self) -> None:
        """Close the session of the running loop. Release the embedded server if no other loop has a session."""
        loop = asyncio.get_running_loop()
        if (slot := self._slots.get(loop)) is not None:
            async with slot.lock:
                session = slot.session or slot.refused
                if session is not None:
                    session.is_over = True
                slot.session = slot.refused = None
                if self._slots.get(loop) is slot:
                    del self._slots[loop]
                if session is not None:
                    await session.closer.aclose()
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.release, unless=self._in_use)

    async def check_layout(self, session: Session) -> None:
        """Look at the layout again, because Redis may have lost its data. Write it again if it is missing. Read the settings.

        If another process has written another layout since, all calls of this manager raise LayoutMismatch, in all event loops,
        until `close`. Errors of Redis are those of redis-py.
        """
        losses = session.router.losses
        try:
            own = StoredLayout(session.keyspace.layout, session.settings)
            stored = await restore_layout(session.router, session.keyspace.namespace, own, in_copy=self.in_copy)
        except LayoutMismatch as error:
            for slot in tuple(self._slots.values()):
                slot.refusal = error
                if slot.session is not None:
                    slot.session.is_over = True
                slot.refused, slot.session = slot.session or slot.refused, None
            raise
        session.losses = losses
        if stored != session.settings:
            session.settings = stored  # changed by `motia-redis settings`, or by a process that was first after a loss
            if (text := self.given.mismatch(stored)) is not None:
                _log.warning("namespace %r: this process uses the stored settings: %s", session.keyspace.namespace, text)

    @property
    def watchers(self) -> int:
        """Return the number of watches and mirrors that are open, in all event loops."""
        sessions = [slot.session for slot in list(self._slots.values())]
        return sum(session.feed.watchers for session in sessions if session is not None and session.feed is not None)

    def feed_of(self, session: Session) -> Feed:
        """Return what the watches of a session read. It is made for the first one."""
        if session.feed is None:
            session.feed = Feed(
                session.router,
                session.keyspace,
                new_outage=lambda effect: Outage(self.url, _log, effect),
                check_layout=lambda: self.check_layout(session),
                revive=self.revive,
            )
            session.closing.append(session.feed.aclose)
        return session.feed

    async def revive(self) -> None:
        """Start the embedded server again if it has ended. Raises StateUnavailable if the server cannot be started."""
        if self._endpoint is not None:
            await self._endpoint.revive()

    async def to_unavailable(self, subject: object, error: Exception) -> StateUnavailable:
        """Return the StateUnavailable for an error of Redis. Restart an embedded server that has ended, for the next call."""
        if failures.is_disconnected(error):
            try:
                await self.revive()
            except StateUnavailable as reason:
                return StateUnavailable(f"{subject}: {reason}")
        return failures.to_unavailable(subject, self.url, error)

    def _purge(self) -> None:
        """Remove loops that were closed without shutting down their asynchronous generators."""
        for loop in tuple(self._slots):
            if loop.is_closed():
                self._slots.pop(loop, None)

    def _in_use(self) -> bool:
        self._purge()
        return bool(self._slots)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Session:
        namespace = keyspace.check_namespace(self.namespace)
        router = await self.open_router(reply_timeout=ATTEMPT_TIMEOUT + self._durability.timeout)
        closing: list[Callable[[], Awaitable[None]]] = []
        closer = _close_with_loop(router, weakref.ref(self), loop, closing)
        await anext(closer)
        try:
            opened = await self._open_namespace(router, namespace)
        except BaseException:
            await closer.aclose()
            raise
        session = Session(
            router, Keyspace(namespace, opened.stored.layout), closer, opened.clock, opened.stored.settings, closing
        )
        if self.sweep:
            closing.append(partial(_cancel, loop.create_task(self._new_sweeper(session).run())))
        return session

    def _new_sweeper(self, session: Session) -> Sweeper:
        async def limits() -> bytes:
            return session.settings.topic_trimming(session.keyspace.layout.lanes)

        return Sweeper(
            session.router,
            session.keyspace,
            limits=limits,
            new_outage=lambda effect: Outage(self.url, _log, effect),
            reports_all=True,
            check_layout=lambda: self.check_layout(session),
            revive=self.revive,
        )

    async def _open_namespace(self, router: Router, namespace: str) -> OpenedNamespace:
        """Open the namespace, log settings that can lose state, and check that Redis supports the durability level."""
        subject = f"namespace {namespace!r}"
        try:
            # A server that accepts a connection and does not answer may not be Redis at all, so the first command fails fast.
            async with asyncio.timeout(connecting.CONNECT_TIMEOUT):
                opened = await open_namespace(router, namespace, self.layout, self.given, in_copy=self.in_copy)
            self._warn(opened.info, opened.config)
            await self._durability.probe(subject, router, keyspace.layout_key(namespace))
        except (RedisError, OSError) as error:
            raise await self.to_unavailable(subject, error) from error
        return opened

    def _warn(self, info: Any, config: Any) -> None:
        """Log the unsafe settings of this Redis, once a process. A user without permission for INFO gets no warnings."""
        if isinstance(info, Exception):
            return
        save = {} if isinstance(config, Exception) else {"save": (config.get(b"save") or b"").decode()}
        for finding in health.warnings(info, save):
            if (self.url, finding.check) not in _warned:
                _warned.add((self.url, finding.check))
                _log.warning("Redis at %s: %s; %s (motia-redis doctor)", urls.redact(self.url), finding.found, finding.remedy)


async def _close_with_loop(
    router: Router,
    sessions: weakref.ref[Sessions],
    loop: asyncio.AbstractEventLoop,
    closing: list[Callable[[], Awaitable[None]]],
) -> AsyncGenerator[None]:
    """Call `closing` and close the router when the event loop shuts down its asynchronous generators, as `asyncio.run` does.

    A program that never closes its manager therefore leaves no open connection and no session.
    """
    # A weak reference avoids a reference cycle, so a dropped manager is freed at once and not by the garbage collector.
    try:
        yield
    finally:
        owner = sessions()
        slot = owner._slots.get(loop) if owner is not None else None
        session = slot and (slot.session or slot.refused)
        if owner is not None and session and session.router is router:
            owner._slots.pop(loop, None)
            session.is_over = True
        for end in closing:
            await end()
        await router.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])

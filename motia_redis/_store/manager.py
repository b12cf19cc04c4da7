"""State shared by all processes: `(scope, key) -> JSON value`. Its base classes hold the calls, this module the rest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from motia_redis._store.durability import Durability
from motia_redis._store.expiry import ScopeTtls
from motia_redis._store.limits import Limits, check_seconds
from motia_redis._store.mutations import Mutations
from motia_redis._store.retries import Retries
from motia_redis._store.sessions import Sessions
from motia_redis._store.settings import GivenSettings
from motia_redis._store.typed_scopes import Scoping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from motia_redis._store import types
    from motia_redis._store.keyspace import Keyspace, Layout
    from motia_redis._store.limits import Retention
    from motia_redis._store.settings import Settings
    from motia_redis._transport.endpoint import Credentials
    from motia_redis._transport.router import Router


class StateManager(Scoping):
    """Read and change JSON state that many processes share in Redis.

    A manager connects on first use. Any number of tasks and event loops may use it. Each mutation is one script call in Redis:
    the change and its event are written together, or neither is. Mutations of one key take effect one after the other. A call
    that Redis does not answer is repeated until the deadline, and a repeated mutation is applied once. All errors are subclasses
    of `StateError`. Failures of Redis and of the network raise `StateUnavailable`.

    Arguments:
        url: the address of Redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service`,
            `redis+cluster://host:port,host:port` or `embedded://DIR` (an embedded server with its data in that directory).
            Default: `$MOTIA_REDIS_URL`, else `embedded://.motia`.
        namespace: the prefix of all keys. Namespaces share nothing. Default: `$MOTIA_REDIS_NAMESPACE`, else `motia`.
        layout: the numbers of partitions and lanes to require. Default: accept the layout that the namespace has.
        limits: the largest names, values and updates. Use the same limits in all processes of a namespace.
        retention: how many events are kept, and for how long. Default: what the namespace has stored. The first process that
            connects stores it, and another one raises SettingsMismatch. `motia-redis settings` changes it.
        deadline: seconds from the first to the last attempt at a call. 0: one attempt only. An attempt waits 3 s for its reply.
            Default: what the namespace has stored, 10 s at first. A longer one raises SettingsMismatch.
        durability: how safe a change must be before its call returns: `memory` (as Redis is configured), `replicated` (on
            `replicas` replicas) or `fsynced` (on the primary's disk; needs Redis 7.2 and `appendonly yes`). If the change is not
            as safe in time, the call raises NotDurable and the change stands.
        replicas: the number of replicas for `replicated`, at least 1.
        durability_timeout: seconds to wait for `replicated` or `fsynced`: more than 0, at most 60.
        idempotency_seconds: seconds for which the result of a call with an `idempotency_key` is kept.
        ttl: the time to live, in seconds, of values in these scopes, where a call names none: `{"sessions": 1800}`.
        credentials: an async function that returns user name (None: the default user) and password, in place of those in the
            URL. It is called before each connection is opened (but to sentinels): for passwords and tokens that change.
        sweep: send delayed messages and delete expired values at their time, in a task of each event loop that connects, until
            `close`. Workers do so anyway: it is for applications without one, in one or two of their processes.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        layout: Layout | None = None,
        limits: Limits | None = None,
        retention: Retention | None = None,
        deadline: float | None = None,
        durability: types.Durability = "memory",
        replicas: int = 1,
        durability_timeout: float = 1.0,
        idempotency_seconds: float = 86_400.0,
        ttl: Mapping[str, float] | None = None,
        credentials: Credentials | None = None,
        sweep: bool = False,
    ) -> None:
        self.limits: Limits = limits or Limits()
        if deadline is not None:
            check_seconds("deadline", deadline, least=0.0)
        self.durability: Durability = Durability(durability, replicas, durability_timeout)
        self._idempotency_seconds = check_seconds("idempotency_seconds", idempotency_seconds, least=0.001)
        given = GivenSettings(retention, deadline)
        self._sessions = Sessions(url, namespace, layout, given, self.durability, credentials=credentials, sweep=sweep)
        self._ttls = ScopeTtls(ttl or {})
        self._retries = Retries(self._sessions, deadline)
        self._mutations = Mutations(self._retries, self.limits, self.durability, idempotency_seconds)

    def __reduce__(self) -> tuple[partial[StateManager], tuple[()]]:
        """Make copies and pickles with the same settings and their own connections."""
        sessions = self._sessions
        constructor = partial(
            type(self),
            sessions.given_url,
            namespace=sessions.given_namespace,
            layout=sessions.layout,
            limits=self.limits,
            retention=sessions.given.retention,
            deadline=sessions.given.deadline,
            durability=self.durability.level,
            replicas=self.durability.replicas,
            durability_timeout=self.durability.timeout,
            idempotency_seconds=self._idempotency_seconds,
            ttl=self._ttls.defaults,
            credentials=sessions.credentials,
            sweep=sessions.sweep,
        )
        return constructor, ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._sessions}>"

    @property
    def url(self) -> str:
        """The URL that this manager connects to."""
        return self._sessions.url

    @property
    def namespace(self) -> str:
        """The prefix of all keys."""
        return self._sessions.namespace

    async def connect(self) -> Keyspace:
        """Connect in the running event loop and check the layout of the namespace. Other calls do this on first use.

        Returns the keyspace. Raises StateUnavailable if Redis cannot be reached, LayoutMismatch if the namespace was created with
        another layout or version, and SettingsMismatch if it has other settings than this manager was given. Cost: one round trip
        for each loop, and another one to create the namespace.
        """
        return (await self._sessions.get()).keyspace

    async def settings(self) -> Settings:
        """Return the settings that the namespace has stored, as of the last look at them: on connect, or by `check_layout`."""
        return (await self._sessions.get()).settings

    async def open_router(self, *, max_connections: int = 64) -> Router:
        """Return a new router for the running event loop. The caller must close it. It does not repeat commands."""
        return await self._sessions.open_router(max_connections=max_connections)

    async def check_layout(self) -> None:
        """Read the layout of the namespace again, and write it again if Redis has lost it together with its data.

        Calls of this manager do this after a lost connection, and when a change creates a scope or a topic. Only code with its
        own router needs this method. Cost: one round trip. Raises LayoutMismatch if another process has written another layout
        since: all later calls raise it, until `close`. Raises StateUnavailable.
        """
        await self._retries.check_layout(f"namespace {self.namespace!r}")

    async def revive(self) -> None:
        """Start the server of an `embedded://` URL again if it crashed. It restores its data from its append-only file.

        Calls of this manager restart a dead embedded server automatically. Only code with its own router needs this method. It
        does nothing for other URLs or if the server runs. Raises StateUnavailable if the server cannot be started.
        """
        await self._sessions.revive()

    async def close(self) -> None:
        """Close the connections of the running event loop. Closing twice is allowed, and the next call connects again.

        An embedded server is released when no other event loop uses this manager.
        """
        await self._sessions.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

"""`StateManager` for code without an event loop. Its base classes hold the calls, this module the rest."""

from __future__ import annotations

import copy
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING

from motia_redis._store import manager
from motia_redis._sync import loop_thread
from motia_redis._sync.changing import Changing
from motia_redis._sync.direct import DirectState
from motia_redis._sync.typed_scopes import Scoping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from motia_redis._store import types
    from motia_redis._store.durability import Durability
    from motia_redis._store.keyspace import Keyspace, Layout
    from motia_redis._store.limits import Limits, Retention
    from motia_redis._store.settings import Settings
    from motia_redis._transport.endpoint import Credentials


class StateManager(Changing, Scoping):
    """Read and change JSON state that many processes share in Redis, in code without an event loop.

    A manager connects on first use. Any number of threads may use it; they share its connections, which belong to one event loop
    in a thread of its own. A forked child connects anew. In a thread whose event loop runs, all calls raise EventLoopRunning: use
    `motia_redis.StateManager` there. Ctrl-C cancels a call that waits: its change may have been made, or not. Each mutation is
    one script call in Redis: the change and its event are written together, or neither is. Mutations of one key take effect one
    after the other. A call that Redis does not answer is repeated until the deadline, and a repeated mutation is applied once.
    All errors are subclasses of `StateError`. Failures of Redis and of the network raise `StateUnavailable`.

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
        sweep: send delayed messages and delete expired values at their time, in each process that connects, until
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
        self._state = manager.StateManager(
            url,
            namespace=namespace,
            layout=layout,
            limits=limits,
            retention=retention,
            deadline=deadline,
            durability=durability,
            replicas=replicas,
            durability_timeout=durability_timeout,
            idempotency_seconds=idempotency_seconds,
            ttl=ttl,
            credentials=credentials,
            sweep=sweep,
        )
        self._direct = DirectState(self._state)
        _managers.add(self)

    @classmethod
    def of(cls, state: manager.StateManager) -> StateManager:
        """Return the manager for threads that shares everything with an async one, but its connections."""
        with _making:  # two threads at once get the same one
            made: StateManager = vars(state).get("_for_threads") or object.__new__(cls)
            if vars(made).get("_state") is not state:  # a new one; or that of the manager of which this one is a copy
                made = object.__new__(cls)
                made._state, made._direct = state, DirectState(state)
                vars(state)["_for_threads"] = made
                _managers.add(made)
        return made

    def __reduce__(self) -> tuple[partial[StateManager], tuple[()]]:
        """Make copies and pickles with the same settings and their own connections."""
        constructor, _ = self._state.__reduce__()
        return partial(type(self), *constructor.args, **constructor.keywords), ()

    def __repr__(self) -> str:
        return f"<sync {repr(self._state)[1:]}"

    @property
    def limits(self) -> Limits:
        """The largest names, values and updates."""
        return self._state.limits

    @property
    def durability(self) -> Durability:
        """How safe a change must be before its call returns."""
        return self._state.durability

    @property
    def url(self) -> str:
        """The URL that this manager connects to."""
        return self._state.url

    @property
    def namespace(self) -> str:
        """The prefix of all keys."""
        return self._state.namespace

    def connect(self) -> Keyspace:
        """Connect and check the layout of the namespace. Other calls do this on first use.

        Returns the keyspace. Raises StateUnavailable if Redis cannot be reached, LayoutMismatch if the namespace was created with
        another layout or version, and SettingsMismatch if it has other settings than this manager was given. Cost: one round trip
        for each process, and another one to create the namespace.
        """
        return self._run(self._state.connect)

    def settings(self) -> Settings:
        """Return the settings that the namespace has stored, as of the last look at them: on connect, or by `check_layout`."""
        return self._run(self._state.settings)

    def check_layout(self) -> None:
        """Read the layout of the namespace again, and write it again if Redis has lost it together with its data.

        Calls of this manager do this after a lost connection, and when a change creates a scope or a topic. Only code with its
        own router needs this method. Cost: one round trip. Raises LayoutMismatch if another process has written another layout
        since: all later calls raise it, until `close`. Raises StateUnavailable.
        """
        self._run(self._state.check_layout)

    def revive(self) -> None:
        """Start the server of an `embedded://` URL again if it crashed. It restores its data from its append-only file.

        Calls of this manager restart a dead embedded server automatically. Only code with its own router needs this method. It
        does nothing for other URLs or if the server runs. Raises StateUnavailable if the server cannot be started.
        """
        self._run(self._state.revive)

    def close(self) -> None:
        """Close the connections of this process. Closing twice is allowed, and the next call connects again.

        An embedded server is released. At exit all connections are closed, also without this call.
        """
        loop_thread.refuse_inside_loop("close")
        self._direct.drop()
        self._run(self._state.close)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _renew(self) -> None:
        """Give up the connections of the parent, in a forked child: the next call opens others."""
        self._direct.abandon()
        _abandoned.append(self._state)
        self._state = copy.copy(self._state)
        self._direct = DirectState(self._state)


_making = threading.Lock()
_managers: weakref.WeakSet[StateManager] = weakref.WeakSet()
_abandoned: list[manager.StateManager] = []  # in a forked child: what the garbage collector must not find


def _renew_all() -> None:
    for each in tuple(_managers):
        each._renew()


def _abandon_all() -> None:
    for each in tuple(_managers):
        each._direct.abandon()


loop_thread.on_fork(_renew_all)
loop_thread.on_end(_abandon_all)

#: The global instance. It needs no set-up.
stateManager: StateManager = StateManager()  # noqa: N816  # Motia's name
#: The same instance under the name that PEP 8 asks for.
state_manager: StateManager = stateManager

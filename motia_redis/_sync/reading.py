"""Read state without an event loop: the reading methods of `motia_redis.sync.StateManager`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from motia_redis._sync import loop_thread
from motia_redis._sync.batches import in_batches
from motia_redis._sync.direct import drive

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator

    from motia_redis._store import manager
    from motia_redis._store.reading import Entry
    from motia_redis._sync.direct import DirectState

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Reading:
    """The reading methods of the sync `StateManager`, and what runs all of them."""

    _state: manager.StateManager
    _direct: DirectState  #: the same, for calls of one round trip

    @staticmethod
    def _call(method: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a method of `_direct`."""
        return drive(method.__name__, method, *args, **kwargs)

    @staticmethod
    def _run(method: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a method of `_state`."""
        return loop_thread.run(method.__name__, method, *args, **kwargs)

    def get(self, scope: str, key: str) -> Any | None:
        """Return the value of a key. Return None if the key has no value or has the value null; `entry` tells them apart.

        Cost: one round trip, O(bytes of the value). Raises InvalidName, CorruptValue, StateUnavailable.
        """
        return self._direct.read(scope, key)

    def entry(self, scope: str, key: str) -> Entry | None:
        """Return the value and the revision of a key, read in one atomic step. Return None if the key has no value.

        A value that another client wrote into the hash has the revision `0-0`. Cost and errors are those of `get`.
        """
        return self._call(self._direct.entry, scope, key)

    def get_many(self, scope: str, keys: Iterable[str], *, atomic: bool = True) -> dict[str, Any]:
        """Return a dict of those of `keys` that have a value, in the order given, and their values.

        All values are those of one moment, read by one command, which takes at most 1,000 different keys. Redis builds its reply
        as a whole, whatever its size: 64 values of 4 MiB block Redis for about 0.3 s. With `atomic=False` there may be any number
        of keys, and large values do not block Redis: they are read in pages, and each value is one of some moment of the call.

        Cost: one round trip, O(bytes of the values); with `atomic=False` one for each page of about 128 KiB, at most 500 keys.
        Raises InvalidName, TooManyKeys, CorruptValue, StateUnavailable.
        """
        if atomic:
            return self._call(self._direct.get_many, scope, keys)
        return self._run(self._state.get_many, scope, keys, atomic=False)

    def list(self, scope: str) -> builtins.list[Any]:
        """Return all values of a scope, in no particular order.

        The scope is read in pages, so that a large scope does not block Redis. The result is not a snapshot. A key that exists
        during the whole call is included once, with a value that it had during the call. Cost: one round trip for each page of
        about 128 KiB, at most 500 keys. Raises InvalidName, CorruptValue, StateUnavailable.
        """
        return self._run(self._state.list, scope)

    def items(self, scope: str) -> dict[str, Any]:
        """Return a dict of all keys of a scope and their values. Promises, cost and errors are those of `list`."""
        return self._run(self._state.items, scope)

    def keys(self, scope: str) -> builtins.list[str]:
        """Return all keys of a scope, each once, in no particular order.

        Promises and cost are those of `list`, but no values are transferred, and values whose time has run out expire first.
        Raises InvalidName, StateUnavailable.
        """
        return self._run(self._state.keys, scope)

    def scan(self, scope: str) -> Iterator[tuple[str, Any]]:
        """Yield `(key, value)` pairs of a scope, read in pages, for scopes that do not fit into memory.

        A key that exists during the whole scan is yielded at least once. It may be yielded again, with its value at that time, if
        the scope shrinks or Redis fails over. Each page is read while the one before is processed. Breaking out early stops
        further reads. Cost and errors are those of `list`.
        """
        return in_batches("scan", cast("AsyncGenerator[tuple[str, Any]]", self._state.scan(scope)))

    def count(self, scope: str) -> int:
        """Return the number of keys in a scope. Values whose time has run out expire first.

        Cost: one round trip, O(1); more if values expire. Raises InvalidName, StateUnavailable.
        """
        return self._run(self._state.count, scope)

    def list_groups(self, *, stream: str | None = None) -> builtins.list[str]:
        """Return the sorted names of all scopes that have a key, or of all groups of a stream that have an item.

        They are read in pages, and the result is not a snapshot. Values whose time has run out expire first.

        Cost: at least one round trip for each partition, O(scopes and groups of all streams), whatever the number of keys. Raises
        InvalidName, CorruptValue if a name is not UTF-8, and StateUnavailable.
        """
        return self._run(self._state.list_groups, stream=stream)

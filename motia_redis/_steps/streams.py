"""Streams: items in named groups, whose changes fire `stream` triggers and reach browsers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Generic, overload

from motia_redis._steps import ambient
from motia_redis._store import codec
from motia_redis._store.expiry import KEEP, UNSET, Ttl
from motia_redis._store.manager import StateManager
from motia_redis._store.mutations import ANY
from motia_redis._store.schemas import Schema
from motia_redis._store.stream_groups import StreamGroup, check_name
from motia_redis.errors import StateError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Coroutine, Sequence
    from types import FrameType

    # `Stream` alone means `Stream[Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import TypeVar

    from motia_redis._store import types
    from motia_redis._store.codec import Coder
    from motia_redis._sync.manager import StateManager as SyncStateManager

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


class _Items(Generic[T]):
    """What streams for code with and without an event loop have in common: names, type and calls of their manager."""

    def __init__(self, name: str, model: type[T] | None, state: Any) -> None:
        check_name("name of a stream", name)
        if state is not None and not hasattr(state, "list_groups"):
            raise StateError(f"stream {name!r:.80}: 'state' must be a StateManager, not {state!r:.80}")
        self._name = name
        self._model = model
        self._coder: Coder[Any] = codec if model is None else Schema.of(model)
        self._state = state

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Make copies and pickles with the same name, type and manager."""
        return _make, (type(self), self._name, self._model, self._state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}" + (">" if self._model is None else f" of {self._model.__name__}>")

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self._name

    @property
    def model(self) -> type[T] | None:
        """The type of the items; None: any JSON value."""
        return self._model

    @property
    def coder(self) -> Coder[T]:
        """What reads and writes the items."""
        return self._coder

    @overload
    def using(self, state: StateManager) -> Stream[T]: ...
    @overload
    def using(self, state: SyncStateManager) -> SyncStream[T]: ...
    def using(self, state: Any) -> Any:
        """Return the same stream, kept by another manager, such as `ctx.state`."""
        kind: Any = Stream if isinstance(state, StateManager) else SyncStream
        return kind(self._name, model=self._model, state=state)

    def group(self, group_id: str) -> StreamGroup:
        """Return the scope that holds the items of a group, for calls of `StateManager` and transactions.

        Raises InvalidName for a group that is empty or no text.
        """
        return StreamGroup(self._name, group_id)

    def _call(self, method: str, group_id: str, *arguments: Any, **options: Any) -> Any:
        """Call a method for the scope of a group, and return what it returns."""
        scope = self.group(group_id)

        def call(state: Any) -> Any:
            if self._model is not None:
                return getattr(state.scope(scope, self._model), method)(*arguments, **options)
            return getattr(state, method)(scope, *arguments, **options)

        return self._answer(method, call)

    def _answer(self, method: str, call: Callable[[Any], Any]) -> Any:
        """Return what `call` returns for the stream's manager. The global one answers in both ways, as its own calls do."""
        state = self._default() if self._state is None else self._state
        if not isinstance(state, ambient.GlobalStateManager):
            return call(state)
        name = f"{type(self).__name__}({self._name!r}).{method}"
        return ambient.answer(name, lambda: call(state.plain), lambda: call(state.for_threads), _caller())

    def _default(self) -> Any:
        """Return the manager of a stream that was given none."""
        raise NotImplementedError


class Stream(_Items[T]):
    """Read and change the items of a stream: JSON values by group and item, whose changes fire `stream` triggers.

    An item is a value in the scope of its group (`group`), so each call does what the call of `StateManager` does that it names,
    with its promises, cost and errors. Other calls take the scope itself: `await state.count(todo.group("inbox"))`.

    A stream sends nothing when it is made, so it can be made when a module is imported.

    Arguments:
        name: the name of the stream.
        model: the type of the items: a pydantic model, a dataclass or a TypedDict, as for `StateManager.scope`; an item of
            another type raises SchemaMismatch. None: any JSON value.
        state: the manager that keeps the items. None: the global `stateManager`.

    Raises InvalidName, and StateError for a model that cannot be used.
    """

    def __init__(self, name: str, *, model: type[T] | None = None, state: StateManager | None = None) -> None:
        super().__init__(name, model, state)

    def get(self, group_id: str, item_id: str) -> Coroutine[Any, Any, T | None]:
        """Return an item, or None if it is not there, as `StateManager.get` does."""
        found: Coroutine[Any, Any, T | None] = self._call("get", group_id, item_id)
        return found

    def get_group(self, group_id: str) -> Coroutine[Any, Any, builtins.list[T]]:
        """Return all items of a group, in no particular order, as `StateManager.list` does."""
        found: Coroutine[Any, Any, builtins.list[T]] = self._call("list", group_id)
        return found

    def list(self, group_id: str) -> Coroutine[Any, Any, builtins.list[T]]:
        """Return what `get_group` returns."""
        return self.get_group(group_id)

    def list_groups(self) -> Coroutine[Any, Any, builtins.list[str]]:
        """Return the sorted names of the groups that have an item. The result is not a snapshot.

        Cost: at least one round trip for each partition, O(scopes and groups of all streams), whatever the number of items.
        """
        found: Coroutine[Any, Any, builtins.list[str]]
        found = self._answer("list_groups", lambda state: state.list_groups(stream=self._name))
        return found

    def set(
        self,
        group_id: str,
        item_id: str,
        data: T,
        *,
        ttl: Ttl = UNSET,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Store an item and return it, as `StateManager.set` does: with a `create` or `update` event, in one atomic step."""
        options = {"ttl": ttl, "if_revision": if_revision, "idempotency_key": idempotency_key}
        stored: Coroutine[Any, Any, T] = self._call("set", group_id, item_id, data, **options)
        return stored

    def update(
        self,
        group_id: str,
        item_id: str,
        ops: Sequence[types.Operation],
        strict: bool = False,
        *,
        ttl: Ttl = KEEP,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Apply operations to an item inside Redis, all or none, and return the new item, as `StateManager.update` does."""
        options = {"ttl": ttl, "if_revision": if_revision, "idempotency_key": idempotency_key}
        new: Coroutine[Any, Any, T] = self._call("update", group_id, item_id, ops, strict, **options)
        return new

    def delete(
        self, group_id: str, item_id: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Coroutine[Any, Any, T | None]:
        """Remove an item and return it, or None if it is not there, as `StateManager.delete` does: with a `delete` event."""
        options = {"if_revision": if_revision, "idempotency_key": idempotency_key}
        last: Coroutine[Any, Any, T | None] = self._call("delete", group_id, item_id, **options)
        return last

    def _default(self) -> StateManager:
        return ambient.stateManager


class SyncStream(_Items[T]):
    """Read and change the items of a stream: JSON values by group and item, whose changes fire `stream` triggers.

    An item is a value in the scope of its group (`group`), so each call does what the call of `StateManager` does that it names,
    with its promises, cost and errors. Other calls take the scope itself: `state.count(todo.group("inbox"))`.

    A stream sends nothing when it is made, so it can be made when a module is imported.

    Arguments:
        name: the name of the stream.
        model: the type of the items: a pydantic model, a dataclass or a TypedDict, as for `StateManager.scope`; an item of
            another type raises SchemaMismatch. None: any JSON value.
        state: the manager that keeps the items. None: the global `stateManager`.

    Raises InvalidName, and StateError for a model that cannot be used.
    """

    def __init__(self, name: str, *, model: type[T] | None = None, state: SyncStateManager | None = None) -> None:
        super().__init__(name, model, state)

    def get(self, group_id: str, item_id: str) -> T | None:
        """Return an item, or None if it is not there, as `StateManager.get` does."""
        found: T | None = self._call("get", group_id, item_id)
        return found

    def get_group(self, group_id: str) -> builtins.list[T]:
        """Return all items of a group, in no particular order, as `StateManager.list` does."""
        found: builtins.list[T] = self._call("list", group_id)
        return found

    def list(self, group_id: str) -> builtins.list[T]:
        """Return what `get_group` returns."""
        return self.get_group(group_id)

    def list_groups(self) -> builtins.list[str]:
        """Return the sorted names of the groups that have an item. The result is not a snapshot.

        Cost: at least one round trip for each partition, O(scopes and groups of all streams), whatever the number of items.
        """
        found: builtins.list[str] = self._answer("list_groups", lambda state: state.list_groups(stream=self._name))
        return found

    def set(
        self,
        group_id: str,
        item_id: str,
        data: T,
        *,
        ttl: Ttl = UNSET,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> T:
        """Store an item and return it, as `StateManager.set` does: with a `create` or `update` event, in one atomic step."""
        options = {"ttl": ttl, "if_revision": if_revision, "idempotency_key": idempotency_key}
        stored: T = self._call("set", group_id, item_id, data, **options)
        return stored

    def update(
        self,
        group_id: str,
        item_id: str,
        ops: Sequence[types.Operation],
        strict: bool = False,
        *,
        ttl: Ttl = KEEP,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> T:
        """Apply operations to an item inside Redis, all or none, and return the new item, as `StateManager.update` does."""
        options = {"ttl": ttl, "if_revision": if_revision, "idempotency_key": idempotency_key}
        new: T = self._call("update", group_id, item_id, ops, strict, **options)
        return new

    def delete(
        self, group_id: str, item_id: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> T | None:
        """Remove an item and return it, or None if it is not there, as `StateManager.delete` does: with a `delete` event."""
        last: T | None = self._call("delete", group_id, item_id, if_revision=if_revision, idempotency_key=idempotency_key)
        return last

    def _default(self) -> SyncStateManager:
        from motia_redis._sync.manager import stateManager  # noqa: PLC0415 - most programs do not need it

        return stateManager


def _make(kind: Any, name: str, model: type[Any] | None, state: Any) -> Any:
    return kind(name, model=model, state=state)


def _caller() -> FrameType:
    """Return the frame of the code that has called a method of a stream."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame

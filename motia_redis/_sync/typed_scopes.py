"""Scopes whose values have a type, without an event loop: what `scope` of the sync `StateManager` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from motia_redis._store.expiry import KEEP, UNSET, Ttl
from motia_redis._store.mutations import ANY
from motia_redis._sync import loop_thread
from motia_redis._sync.batches import in_batches
from motia_redis._sync.direct import drive
from motia_redis._sync.following import Following
from motia_redis._sync.mirror import Mirror
from motia_redis._sync.modifying import Function
from motia_redis._sync.watch import Watch

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence

    from motia_redis._store import manager, typed_scopes, types
    from motia_redis._store.codec import Coder
    from motia_redis._store.reading import Entry

T = TypeVar("T")


class Scoping(Following):
    """The method of the sync `StateManager` that gives the values of a scope a type."""

    def scope(self, name: str, model: type[T]) -> TypedScope[T]:
        """Return a scope whose values are of one type: a pydantic model, a dataclass or a TypedDict.

        It has the calls of this manager without their argument `scope`: `users.get(key)`. Values are read and written by
        pydantic, which must be installed: `pip install 'motia-redis[typed]'`. What is not of the type raises SchemaMismatch.

        Nothing is sent, so it can be made when a module is imported. The same scope may be used with another type, and without
        one. Raises InvalidName, and StateError if pydantic is missing or the type cannot be used.
        """
        return TypedScope(self, name, model)


class TypedScope(Generic[T]):
    """Read, change and follow the values of one scope as objects of one type.

    Each call does what the call of the same name of `StateManager` does, at the same cost, and raises its errors. In addition it
    raises SchemaMismatch, which names the scope, the key and the field:

    - when a stored value is not of the type. Values are not converted: the text "5" is no number. What JSON has no type for, such
      as a date, is read from the form in which it is written.
    - when a value that is given is not of the type, or would be read back as another one. Then nothing is sent.

    Members of a stored value that the type does not know are left out by a read, if the type allows them, so `set` and `modify`
    do not store them again. `patch` and `update` leave them as they are.
    """

    def __init__(self, state: Scoping, name: str, model: type[T]) -> None:
        self._state = state
        self._made: tuple[manager.StateManager, typed_scopes.TypedScope[T], typed_scopes.TypedScope[T]] | None = None
        self._name, self._model = name, model
        self._scopes()  # raises for a name or type that cannot be used

    def __reduce__(self) -> tuple[Callable[..., TypedScope[T]], tuple[Scoping, str, type[T]]]:
        """Make copies and pickles as those of the manager."""
        return type(self), (self._state, self._name, self._model)

    def __repr__(self) -> str:
        return f"<sync {repr(self._of_loop)[1:]}"

    @property
    def name(self) -> str:
        """The name of the scope."""
        return self._name

    @property
    def model(self) -> type[T]:
        """The type of the values."""
        return self._model

    @property
    def coder(self) -> Coder[T]:
        """What reads and writes the values."""
        return self._of_loop.coder

    def using(self, state: Scoping) -> TypedScope[T]:
        """Return the same scope and type of another manager, such as `ctx.state`."""
        return type(self)(state, self._name, self._model)

    def _scopes(self) -> tuple[typed_scopes.TypedScope[T], typed_scopes.TypedScope[T]]:
        """Return the scopes for the loop and for calls of one round trip. A forked child makes others."""
        state = self._state._state
        if self._made is None or self._made[0] is not state:
            self._made = state, state.scope(self._name, self._model), self._state._direct.scope(self._name, self._model)
        return self._made[1:]

    @property
    def _of_loop(self) -> typed_scopes.TypedScope[T]:
        return self._scopes()[0]

    @property
    def _direct(self) -> typed_scopes.TypedScope[T]:
        return self._scopes()[1]

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> T | None:
        """Return the value of a key, or None if the key has no value. The value null raises SchemaMismatch.

        Cost and errors are those of `StateManager.get`, and SchemaMismatch.
        """
        return drive("get", self._direct.get, key)

    def entry(self, key: str) -> Entry[T] | None:
        """Return the value and the revision of a key, as `StateManager.entry` does. Raises SchemaMismatch, too."""
        return drive("entry", self._direct.entry, key)

    def get_many(self, keys: Iterable[str], *, atomic: bool = True) -> dict[str, T]:
        """Return those of `keys` that have a value, as `StateManager.get_many` does. Raises SchemaMismatch, too."""
        if atomic:
            return drive("get_many", self._direct.get_many, keys)
        return loop_thread.run("get_many", self._of_loop.get_many, keys, atomic=False)

    def list(self) -> builtins.list[T]:
        """Return all values, as `StateManager.list` does. Raises SchemaMismatch for the first value of another type."""
        return loop_thread.run("list", self._of_loop.list)

    def items(self) -> dict[str, T]:
        """Return all keys and values, as `StateManager.items` does. Raises SchemaMismatch for the first of another type."""
        return loop_thread.run("items", self._of_loop.items)

    def keys(self) -> builtins.list[str]:
        """Return all keys, as `StateManager.keys` does. Values of another type have theirs here, too."""
        return loop_thread.run("keys", self._of_loop.keys)

    def scan(self) -> Iterator[tuple[str, T]]:
        """Yield keys and values, as `StateManager.scan` does. Raises SchemaMismatch at the first value of another type."""
        return in_batches("scan", cast("AsyncGenerator[tuple[str, T]]", self._of_loop.scan()))

    def count(self) -> int:
        """Return the number of keys, as `StateManager.count` does."""
        return loop_thread.run("count", self._of_loop.count)

    # -- changing -----------------------------------------------------------------------------------------------------

    def set(
        self,
        key: str,
        value: T,
        *,
        ttl: Ttl = UNSET,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> T:
        """Store a value and return it, as `StateManager.set` does. Raises SchemaMismatch before anything is sent, too."""
        return drive("set", self._direct.set, key, value, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key)

    def set_many(self, values: Mapping[str, T], *, ttl: Ttl = UNSET, atomic: bool = True) -> None:
        """Store several values, as `StateManager.set_many` does. Raises SchemaMismatch before anything is sent, too."""
        loop_thread.run("set_many", self._of_loop.set_many, values, ttl=ttl, atomic=atomic)

    def update(
        self,
        key: str,
        ops: Sequence[types.Operation],
        strict: bool = False,
        *,
        ttl: Ttl = KEEP,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> T:
        """Apply operations to a value, as `StateManager.update` does, and return the new value.

        What the operations make of the value is not known before Redis has applied them. So if the new value is not of the type,
        SchemaMismatch is raised and the change stands. `patch` and `modify` check first.
        """
        return drive(
            "update", self._direct.update, key, ops, strict, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key
        )

    def patch(self, key: str, /, **fields: Any) -> T:
        """Set some fields of a value by operations, and return the new value. All other members keep their bytes.

        The names are those of the type's fields. Each field is checked by its type and its constraints. If the type has rules of
        its own (validators, `__post_init__` ...), the value is read first, and all of it is checked with the new fields; if
        the key has changed meanwhile, that is done again, up to ten
        times.

        Cost: one round trip, or two for each attempt where rules have to be checked; O(bytes of the value). Raises SchemaMismatch
        for an unknown field or a wrong value, before anything is sent, KeyMissing if the key has no value, and the errors of
        `update`. A stored value whose other members are not of the type raises SchemaMismatch, and the change stands, unless
        the type has rules.
        """
        return loop_thread.run("patch", self._of_loop.patch, key, **fields)

    def modify(self, key: str, function: Callable[[T | None], T], *, attempts: int = 10, ttl: Ttl = KEEP) -> T:
        """Store what `function` makes of a value, if nobody changed the value meanwhile, as `StateManager.modify` does.

        `function` gets the value, or None if the key has no value, and returns the new one. It runs in the calling thread. Raises
        SchemaMismatch for a stored value and for a new one of another type; then nothing is changed.
        """
        if not callable(function):
            return loop_thread.run("modify", self._of_loop.modify, key, function, attempts=attempts, ttl=ttl)  # which raises
        new: T = Function(function).run("modify", lambda asking: self._of_loop.modify(key, asking, attempts=attempts, ttl=ttl))
        return new

    def expire(self, key: str, ttl: float | None) -> bool:
        """Set the time to live of a value, as `StateManager.expire` does."""
        return drive("expire", self._direct.expire, key, ttl)

    def delete(self, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None) -> T | None:
        """Remove a key and return its last value, as `StateManager.delete` does.

        If the last value is not of the type, SchemaMismatch is raised and the key is removed all the same.
        """
        return drive("delete", self._direct.delete, key, if_revision=if_revision, idempotency_key=idempotency_key)

    def delete_many(self, keys: Iterable[str], *, atomic: bool = True) -> int:
        """Remove several keys, as `StateManager.delete_many` does."""
        return loop_thread.run("delete_many", self._of_loop.delete_many, keys, atomic=atomic)

    def clear(self) -> None:
        """Delete all keys, as `StateManager.clear` does."""
        loop_thread.run("clear", self._of_loop.clear)

    # -- following ----------------------------------------------------------------------------------------------------

    def watch(
        self,
        key: str | None = None,
        prefix: str | None = None,
        *,
        start: str = "now",
        on_gap: Literal["error", "resync"] = "error",
        on_overflow: Literal["error", "latest"] = "error",
        buffer_items: int = 10_000,
        buffer_bytes: int = 64 * 1024 * 1024,
    ) -> Watch[T]:
        """Return a watch of the changes, as `StateManager.watch` does. A `change.value` may raise SchemaMismatch."""
        return Watch(
            self._of_loop.watch(
                key,
                prefix,
                start=start,
                on_gap=on_gap,
                on_overflow=on_overflow,
                buffer_items=buffer_items,
                buffer_bytes=buffer_bytes,
            )
        )

    def mirror(self, prefix: str | None = None, *, max_age: float | None = None, max_bytes: int = 64 * 1024 * 1024) -> Mirror[T]:
        """Return a mapping that follows the scope, as `StateManager.mirror` does. Reading a value raises SchemaMismatch.

        A value is decoded by each access.
        """
        return Mirror(self._of_loop.mirror(prefix, max_age=max_age, max_bytes=max_bytes))

"""Scopes whose values have a type: what `StateManager.scope` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from motia_redis._store import keyspace
from motia_redis._store.changing import Changing
from motia_redis._store.expiry import KEEP, UNSET, Ttl
from motia_redis._store.following import Following
from motia_redis._store.keyspace import Subject
from motia_redis._store.mutations import ANY
from motia_redis._store.schemas import Schema
from motia_redis._store.typed_fields import pointer_token
from motia_redis.errors import KeyMissing, StateError

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterable, Sequence

    from motia_redis._store import types
    from motia_redis._store.codec import Coder
    from motia_redis._store.mirror import Mirror
    from motia_redis._store.reading import Entry
    from motia_redis._store.watch import Watch

T = TypeVar("T")

_PATCH_ATTEMPTS = 10


class Scoping(Changing, Following):
    """The method of `StateManager` that gives the values of a scope a type."""

    def scope(self, name: str, model: type[T]) -> TypedScope[T]:
        """Return a scope whose values are of one type: a pydantic model, a dataclass or a TypedDict.

        It has the calls of this manager without their argument `scope`: `await users.get(key)`. Values are read and written by
        pydantic, which must be installed: `pip install 'motia-redis[typed]'`. What is not of the type raises SchemaMismatch.

        Nothing is sent, so it can be made when a module is imported. The same scope may be used with another type, and without
        one. Raises InvalidName, and StateError if pydantic is missing or the type cannot be used.
        """
        keyspace.encode_name("scope", name, self.limits.name_bytes)
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
        self._untyped = state
        self._name = name
        self._schema: Schema[T] = Schema.of(model)
        self._typed = state._with_coder(self._schema)

    def __reduce__(self) -> tuple[Callable[..., TypedScope[T]], tuple[Scoping, str, type[T]]]:
        """Make copies and pickles as those of the manager."""
        return type(self), (self._untyped, self._name, self._schema.model)

    def __repr__(self) -> str:
        return f"<TypedScope {self._name!r} of {self._schema.name}>"

    @property
    def name(self) -> str:
        """The name of the scope."""
        return self._name

    @property
    def model(self) -> type[T]:
        """The type of the values."""
        return self._schema.model

    @property
    def coder(self) -> Coder[T]:
        """What reads and writes the values."""
        return self._schema

    def using(self, state: Scoping) -> TypedScope[T]:
        """Return the same scope and type of another manager, such as `ctx.state`."""
        return state.scope(self._name, self._schema.model)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> T | None:
        """Return the value of a key, or None if the key has no value. The value null raises SchemaMismatch.

        Cost and errors are those of `StateManager.get`, and SchemaMismatch.
        """
        value: T | None = await self._typed.get(self._name, key)
        return value

    async def entry(self, key: str) -> Entry[T] | None:
        """Return the value and the revision of a key, as `StateManager.entry` does. Raises SchemaMismatch, too."""
        return await self._typed.entry(self._name, key)

    async def get_many(self, keys: Iterable[str], *, atomic: bool = True) -> dict[str, T]:
        """Return those of `keys` that have a value, as `StateManager.get_many` does. Raises SchemaMismatch, too."""
        return await self._typed.get_many(self._name, keys, atomic=atomic)

    async def list(self) -> builtins.list[T]:
        """Return all values, as `StateManager.list` does. Raises SchemaMismatch for the first value of another type."""
        return await self._typed.list(self._name)

    async def items(self) -> dict[str, T]:
        """Return all keys and values, as `StateManager.items` does. Raises SchemaMismatch for the first of another type."""
        return await self._typed.items(self._name)

    async def keys(self) -> builtins.list[str]:
        """Return all keys, as `StateManager.keys` does. Values of another type have theirs here, too."""
        return await self._untyped.keys(self._name)

    def scan(self) -> AsyncIterator[tuple[str, T]]:
        """Yield keys and values, as `StateManager.scan` does. Raises SchemaMismatch at the first value of another type."""
        return self._typed.scan(self._name)

    async def count(self) -> int:
        """Return the number of keys, as `StateManager.count` does."""
        return await self._untyped.count(self._name)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def set(
        self,
        key: str,
        value: T,
        *,
        ttl: Ttl = UNSET,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> T:
        """Store a value and return it, as `StateManager.set` does. Raises SchemaMismatch before anything is sent, too."""
        stored: T = await self._typed.set(
            self._name, key, value, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key
        )
        return stored

    async def set_many(self, values: Mapping[str, T], *, ttl: Ttl = UNSET, atomic: bool = True) -> None:
        """Store several values, as `StateManager.set_many` does. Raises SchemaMismatch before anything is sent, too."""
        plain: Any = values
        if isinstance(values, Mapping):
            plain = {key: self._schema.dump(value, Subject(self._name, key)) for key, value in values.items()}
        await self._untyped.set_many(self._name, plain, ttl=ttl, atomic=atomic)

    async def update(
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
        new: T = await self._typed.update(
            self._name, key, ops, strict, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key
        )
        return new

    async def patch(self, key: str, /, **fields: Any) -> T:
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
        subject = Subject(self._name, key)
        if not fields:
            raise StateError(f"{subject}: patch takes at least one field, such as patch(key, name='Ann')")
        members = self._schema.dump_fields(fields, subject)
        new: T
        if not self._schema.has_rules:
            new = await self._typed.update(self._name, key, _operations(members), strict=True)
            return new
        prepare = partial(self._prepare_patch, subject, members)
        new = await self._typed._until_unchanged(self._name, key, b"patch", prepare, attempts=_PATCH_ATTEMPTS)
        return new

    async def modify(
        self, key: str, function: Callable[[T | None], T | Awaitable[T]], *, attempts: int = 10, ttl: Ttl = KEEP
    ) -> T:
        """Store what `function` makes of a value, if nobody changed the value meanwhile, as `StateManager.modify` does.

        `function` gets the value, or None if the key has no value, and returns the new one; it may be async. Raises
        SchemaMismatch for a stored value and for a new one of another type; then nothing is changed.
        """
        new: T = await self._typed.modify(self._name, key, function, attempts=attempts, ttl=ttl)
        return new

    async def expire(self, key: str, ttl: float | None) -> bool:
        """Set the time to live of a value, as `StateManager.expire` does."""
        return await self._untyped.expire(self._name, key, ttl)

    async def delete(self, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None) -> T | None:
        """Remove a key and return its last value, as `StateManager.delete` does.

        If the last value is not of the type, SchemaMismatch is raised and the key is removed all the same.
        """
        last: T | None = await self._typed.delete(self._name, key, if_revision=if_revision, idempotency_key=idempotency_key)
        return last

    async def delete_many(self, keys: Iterable[str], *, atomic: bool = True) -> int:
        """Remove several keys, as `StateManager.delete_many` does."""
        return await self._untyped.delete_many(self._name, keys, atomic=atomic)

    async def clear(self) -> None:
        """Delete all keys, as `StateManager.clear` does."""
        await self._untyped.clear(self._name)

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
        return self._typed.watch(
            self._name,
            key,
            prefix,
            start=start,
            on_gap=on_gap,
            on_overflow=on_overflow,
            buffer_items=buffer_items,
            buffer_bytes=buffer_bytes,
        )

    def mirror(self, prefix: str | None = None, *, max_age: float | None = None, max_bytes: int = 64 * 1024 * 1024) -> Mirror[T]:
        """Return a mapping that follows the scope, as `StateManager.mirror` does. Reading a value raises SchemaMismatch.

        A value is decoded by each access.
        """
        return self._typed.mirror(self._name, prefix, max_age=max_age, max_bytes=max_bytes)

    async def _prepare_patch(self, subject: Subject, members: Mapping[str, Any], effect: Any) -> Awaitable[Any]:
        """Check the value as it is now with new members, and return the change that stores them."""
        key = str(subject.key)
        entry = await self._untyped.entry(self._name, key)
        if entry is None:
            raise KeyMissing(f"{subject}: patch: the key has no value: use set() to create it")
        operations = _operations(self._schema.replace_members(entry.value, members, subject))
        return self._typed._update(self._name, key, operations, strict=True, ttl=KEEP, if_revision=entry.revision, effect=effect)


def _operations(members: Mapping[str, Any]) -> builtins.list[types.Operation]:
    return [{"op": "add", "path": f"/{pointer_token(name)}", "value": value} for name, value in members.items()]

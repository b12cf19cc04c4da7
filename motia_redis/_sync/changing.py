"""Change state without an event loop: the changing methods of `motia_redis.sync.StateManager`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis._store.expiry import KEEP, UNSET, Ttl
from motia_redis._store.mutations import ANY
from motia_redis._sync.modifying import Function
from motia_redis._sync.reading import Reading
from motia_redis._sync.transactions import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from motia_redis._store import types


class Changing(Reading):
    """The changing methods of the sync `StateManager`."""

    def set(
        self,
        scope: str,
        key: str,
        value: Any,
        *,
        ttl: Ttl = UNSET,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> Any:
        """Store a JSON value and return it. The value and its event (created or updated) are written in one atomic step.

        `ttl` is the time to live in seconds, up to ten years: then the value is deleted, with an event whose reason is `expired`.
        None: it never expires. KEEP: it expires when the value before it would have. Left out: the default of the scope
        (`StateManager(ttl=...)`), else never; KEEP where there is no value means the same.

        With `if_revision` the value is stored only if the key has that revision (None: only if the key has no value). With
        `idempotency_key` a repeated call changes nothing and returns the same result. Cost: one round trip, and one more for the
        first key of a scope; O(bytes of both values). Raises InvalidName, InvalidValue, InvalidTime, ValueTooLarge,
        RevisionConflict, IdempotencyKeyReused, StateUnavailable, NotDurable. Nothing is changed after an error, but see
        StateUnavailable and NotDurable.
        """
        return self._call(self._direct.set, scope, key, value, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key)

    def update(
        self,
        scope: str,
        key: str,
        ops: Sequence[types.Operation],
        strict: bool = False,
        *,
        ttl: Ttl = KEEP,
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
    ) -> Any:
        """Apply operations to a value inside Redis, all or none, and return the new value.

        Operations are JSON Patch (`{"op", "path" = JSON Pointer, "value"}`: add remove replace set move copy test increment
        decrement append merge) or Motia's (`{"type", "path" = field, "value" or "by"}`: set merge increment decrement append
        remove). By default a missing key starts as `{}`. `replace` creates a missing member, `remove` ignores it, and `increment`
        takes it as 0. A missing parent is an error. `strict` follows RFC 6902 exactly. Bytes that no operation touches never
        change. The new value and its event are written in one atomic step. An update that touches nothing of an existing value
        (only `test`, or `remove` of missing members) has no event and keeps the revision.

        `ttl` works as in `set`. By default the value expires when it would have, and the default of the scope holds for a value
        that the update creates. `if_revision` and `idempotency_key` work as in `set`. Cost: one round trip, O(bytes of the
        value). Raises the errors of `set`, InvalidOperation, InvalidPointer, UpdateFailed (names the failing operation) and
        CorruptValue.
        """
        return self._call(
            self._direct.update, scope, key, ops, strict, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key
        )

    def modify(self, scope: str, key: str, function: Callable[[Any], Any], *, attempts: int = 10, ttl: Ttl = KEEP) -> Any:
        """Store what `function` makes of a value, if nobody changed the value meanwhile, and return it.

        `function` gets a copy of the value, or None if the key has no value. It runs in the calling thread and returns the new
        value. If the key has changed since the read, `function` is called again after a pause, with the value that is there then.
        So it should have no other effects. If it raises or returns None, nothing is changed. A new value that is equal to the old
        one is stored too, with an event. `update` is cheaper where its operations suffice.

        `ttl` works as in `set`. By default the value expires when it would have. What another client writes into Redis gets no
        new revision, so it is overwritten. Cost: two round trips for each attempt, O(bytes of both values). Raises the errors of
        `set`, CorruptValue, InvalidValue if `function` returns None, and RevisionConflict after `attempts` attempts.
        """
        if not callable(function):
            return self._run(self._state.modify, scope, key, function, attempts=attempts, ttl=ttl)  # which raises
        return Function(function).run("modify", lambda asking: self._state.modify(scope, key, asking, attempts=attempts, ttl=ttl))

    def expire(self, scope: str, key: str, ttl: float | None) -> bool:
        """Set the time to live of a value, in seconds; None: it never expires. Return whether the key has a value.

        The value stays as it is. The change has a revision and an event of type `state:ttl`, written in one atomic step with it.
        State triggers ignore that event. A value that never expires and still shall not is left alone, without an event. Cost:
        one round trip, O(bytes of the value). Raises the errors of `set` for names, times and Redis.
        """
        return self._call(self._direct.expire, scope, key, ttl)

    def delete(self, scope: str, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None) -> Any | None:
        """Remove a key and return its last value, or None. The removal and its event are written in one atomic step.

        Deleting a missing key changes nothing and has no event. `if_revision` and `idempotency_key` work as in `set`. Cost: one
        round trip, O(bytes of the value). Raises the errors of `set` for names and revisions, and CorruptValue.
        """
        return self._call(self._direct.delete, scope, key, if_revision=if_revision, idempotency_key=idempotency_key)

    def clear(self, scope: str) -> None:
        """Delete all keys of a scope, with one event for each key.

        Keys are deleted in pages, so that a large scope does not block Redis. Each deletion is atomic, the whole call is
        not. Keys created during the call may stay. After an error, call `clear` again. Cost: two round trips for each page, or
        three if `durability` is not `memory`. Raises InvalidName, StateUnavailable, NotDurable.
        """
        self._run(self._state.clear, scope)

    def transaction(self, *, idempotency_key: str | None = None) -> Transaction:
        """Return a transaction: `with state.transaction() as tx`, and in the block `tx.check`, `set`, `update`, ...

        What the block calls on `tx` is applied as one step when the block ends, or nothing is: see `Transaction`. All scopes and
        topics must have the same tag. With `idempotency_key` a repeated transaction changes nothing and has the same results.
        Cost: one round trip; up to 100 checks, changes and messages, and 4 MiB of old and new values (`Limits`).
        """
        return Transaction(self._direct.transaction(idempotency_key=idempotency_key))

    def set_many(self, scope: str, values: Mapping[str, Any], *, ttl: Ttl = UNSET, atomic: bool = True) -> None:
        """Store the values of several keys of a scope, as one transaction: all or none.

        More than a transaction may have raises TransactionTooLarge; with `atomic=False` it is stored in several steps, each a
        transaction, one after the other, and an error leaves those before it. `ttl` works as in `set`. Cost: one round trip for
        each step, O(bytes of the old and the new values). Raises the errors of `set`.
        """
        self._run(self._state.set_many, scope, values, ttl=ttl, atomic=atomic)

    def delete_many(self, scope: str, keys: Iterable[str], *, atomic: bool = True) -> int:
        """Remove several keys of a scope, as one transaction, and return how many held a value. Keys without one are left alone.

        `atomic` works as in `set_many`. Cost and errors are those of `set_many`.
        """
        return self._run(self._state.delete_many, scope, keys, atomic=atomic)

    def enqueue(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        delay: float | None = None,
        at: float | datetime | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Append a message with JSON data to a topic, in one atomic step, and return its unique id.

        Messages with the same `key` are handled in order. Messages without a key go to the lanes of the topic in turn, so that
        a few of them spread over the workers.
        `idempotency_key` works as in `set`; the result of a delayed message is kept for as much longer as the message waits.

        With `delay` (seconds from the call) or `at` (Unix seconds, or a datetime with a time zone) the message waits in Redis
        until that time by the clock of the Redis server. It is not sent before, and usually within 1 s after it: a worker, or a
        process with `sweep=True`, appends it to the topic, once, where it takes its place behind what is there. A delay of 0 and
        a time that has passed mean at once. `cancel` removes a message that waits.

        Cost: one round trip, O(bytes of `data`); for a delayed message also O(log of the number that wait). Raises InvalidName,
        InvalidValue, InvalidTime, ValueTooLarge, IdempotencyKeyReused, TooManyDelayed, StateUnavailable, NotDurable.
        """
        return self._call(self._direct.enqueue, topic, data, key=key, delay=delay, at=at, idempotency_key=idempotency_key)

    def cancel(self, message_id: str) -> bool:
        """Remove a delayed message, in one atomic step. Return True if it waited, and False if it has been sent or cancelled.

        A message without a delay is sent at once. Cost: one round trip. Raises InvalidName for what is no id of a message,
        StateUnavailable, NotDurable.
        """
        return self._call(self._direct.cancel, message_id)

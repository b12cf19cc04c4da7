"""Change state: every change and its event are written in one atomic step, and every call is applied once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from motia_redis._store import codec, effects, keyspace, patch
from motia_redis._store.expiry import KEEP, UNSET, ScopeTtls, Ttl
from motia_redis._store.mutations import ANY
from motia_redis._store.reading import Reading
from motia_redis._store.times import due_time
from motia_redis._store.transactions import Transaction
from motia_redis._transport.backoff import Backoff
from motia_redis.errors import InvalidName, InvalidValue, RevisionConflict, StateError, TransactionTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from motia_redis._store import types
    from motia_redis._store.claims import Claim
    from motia_redis._store.mutations import Mutations

_MODIFY_PAUSES = (0.01, 1.0)  # seconds: first and longest, between the attempts of `modify`


_T = TypeVar("_T")


class Changing(Reading):
    """The changing methods of `StateManager`."""

    _mutations: Mutations
    _ttls: ScopeTtls

    async def set(
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
        return await self._set(scope, key, value, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key)

    async def _set(
        self,
        scope: str,
        key: str,
        value: Any,
        *,
        ttl: Ttl,
        if_revision: str | None,
        idempotency_key: str | None = None,
        effect: Claim | None = None,
    ) -> Any:
        subject, scope_bytes, key_bytes = self._names(scope, key)
        change = [b"set", self._coder.encode(value, subject=subject, max_bytes=self.limits.value_bytes) + codec.CANONICAL_MARK]
        reply = await self._mutations.apply(
            subject,
            scope_bytes,
            key_bytes,
            change,
            ttl=self._ttls.of_set(subject, scope, ttl),
            if_revision=if_revision,
            idempotency_key=idempotency_key,
            effect=effect,
        )
        if reply.text and effects.current() is not None:  # what an earlier attempt of the handler stored
            return self._coder.decode(reply.text, subject=subject)
        return value

    async def update(
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
        return await self._update(
            scope, key, ops, strict=strict, ttl=ttl, if_revision=if_revision, idempotency_key=idempotency_key
        )

    async def _update(
        self,
        scope: str,
        key: str,
        ops: Sequence[types.Operation],
        *,
        strict: bool,
        ttl: Ttl,
        if_revision: str | None,
        idempotency_key: str | None = None,
        effect: Claim | None = None,
    ) -> Any:
        subject, scope_bytes, key_bytes = self._names(scope, key)
        arguments = patch.translate(ops, strict=strict, limits=self.limits, subject=subject)
        change = [b"strict update" if strict else b"update", b"%d" % self.limits.value_bytes, *arguments]
        reply = await self._mutations.apply(
            subject,
            scope_bytes,
            key_bytes,
            change,
            ttl=self._ttls.of_update(subject, scope, ttl),
            if_revision=if_revision,
            idempotency_key=idempotency_key,
            operations=ops,
            effect=effect,
        )
        return self._coder.decode(reply.text or b"", subject=subject)

    async def modify(self, scope: str, key: str, function: Callable[[Any], Any], *, attempts: int = 10, ttl: Ttl = KEEP) -> Any:
        """Store what `function` makes of a value, if nobody changed the value meanwhile, and return it.

        `function` gets a copy of the value, or None if the key has no value. It returns the new value, and may be async. If the
        key has changed since the read, `function` is called again after a pause, with the value that is there then. So it should
        have no other effects. If it raises or returns None, nothing is changed. A new value that is equal to the old one is
        stored too, with an event. `update` is cheaper where its operations suffice.

        `ttl` works as in `set`. By default the value expires when it would have. What another client writes into Redis gets no
        new revision, so it is overwritten. Cost: two round trips for each attempt, O(bytes of both values). Raises the errors of
        `set`, CorruptValue, InvalidValue if `function` returns None, and RevisionConflict after `attempts` attempts.
        """
        subject, *_ = self._names(scope, key)
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise StateError(f"{subject}: attempts of modify must be a number from 1, not {attempts!r:.80}")
        if not callable(function):
            raise StateError(
                f"{subject}: modify takes a function, which gets the value and returns the new one: {function!r:.80}"
            )

        async def prepare(claim: Claim) -> Awaitable[Any]:
            entry = await self.entry(scope, key)
            value = function(entry.value if entry else None)
            if inspect.isawaitable(value):
                value = await value
            if value is None:
                raise InvalidValue(
                    f"{subject}: the function of modify returned None: return the new value, also after a change in place; "
                    "to delete the value, use delete(); to store null, use set()"
                )
            return self._set(scope, key, value, ttl=ttl, if_revision=entry.revision if entry else None, effect=claim)

        return await self._until_unchanged(scope, key, b"modify", prepare, attempts=attempts)

    async def _until_unchanged(
        self, scope: str, key: str, method: bytes, prepare: Callable[[Claim], Awaitable[Awaitable[Any]]], *, attempts: int
    ) -> Any:
        """Await what `prepare` returns, a change of the key, until it raises no RevisionConflict, and return its result.

        The call is one effect of a handler.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        claim = self._mutations.claims.effect(None, method, scope_bytes, key_bytes)
        known = await self._mutations.claims.read_effect(subject, claim, scope_bytes)
        if known is not None:
            return self._coder.decode(known.text or b"", subject=subject)
        backoff = Backoff(*_MODIFY_PAUSES, least=0.1)
        for attempt in range(1, attempts + 1):
            change = await prepare(claim)
            try:
                return await change
            except RevisionConflict as error:
                conflict = error
            if attempt < attempts:
                await backoff.sleep()
        raise RevisionConflict(
            f"{subject}: {method.decode()} gave up after attempts={attempts}: other calls changed the key each time; "
            "allow more attempts, or use update()",
            expected=conflict.expected,
            actual=conflict.actual,
        ) from conflict

    async def expire(self, scope: str, key: str, ttl: float | None) -> bool:
        """Set the time to live of a value, in seconds; None: it never expires. Return whether the key has a value.

        The value stays as it is. The change has a revision and an event of type `state:ttl`, written in one atomic step with it.
        State triggers ignore that event. A value that never expires and still shall not is left alone, without an event. Cost:
        one round trip, O(bytes of the value). Raises the errors of `set` for names, times and Redis.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        reply = await self._mutations.apply(subject, scope_bytes, key_bytes, [b"expire"], ttl=self._ttls.of_expire(subject, ttl))
        return reply.revision is not None

    async def delete(
        self, scope: str, key: str, *, if_revision: str | None = ANY, idempotency_key: str | None = None
    ) -> Any | None:
        """Remove a key and return its last value, or None. The removal and its event are written in one atomic step.

        Deleting a missing key changes nothing and has no event. `if_revision` and `idempotency_key` work as in `set`. Cost: one
        round trip, O(bytes of the value). Raises the errors of `set` for names and revisions, and CorruptValue.
        """
        subject, scope_bytes, key_bytes = self._names(scope, key)
        reply = await self._mutations.apply(
            subject, scope_bytes, key_bytes, [b"delete"], if_revision=if_revision, idempotency_key=idempotency_key
        )
        return None if reply.text is None else self._coder.decode(reply.text, subject=subject)

    async def clear(self, scope: str) -> None:
        """Delete all keys of a scope, with one event for each key.

        Keys are deleted in pages, so that a large scope does not block Redis. Each deletion is atomic, the whole call is
        not. Keys created during the call may stay. After an error, call `clear` again. Cost: two round trips for each page, or
        three if `durability` is not `memory`. Raises InvalidName, StateUnavailable, NotDurable.
        """
        values, scan = await self._scan(scope)
        subject, encoded = f"scope {scope!r:.200}", scope.encode()
        claim = self._mutations.claims.effect(None, b"clear", encoded)
        if await self._mutations.claims.read_effect(subject, claim, encoded) is not None:
            return
        async for page in scan.fields(values):
            await self._mutations.delete(subject, encoded, page)
        await self._mutations.claims.write_effect(subject, claim, encoded)

    def transaction(self, *, idempotency_key: str | None = None) -> Transaction:
        """Return a transaction: `async with state.transaction() as tx`, and in the block `tx.check`, `set`, `update`, ...

        What the block calls on `tx` is applied as one step when the block ends, or nothing is: see `Transaction`. All scopes and
        topics must have the same tag. With `idempotency_key` a repeated transaction changes nothing and has the same results.
        Cost: one round trip; up to 100 checks, changes and messages, and 4 MiB of old and new values (`Limits`).
        """
        return Transaction(self._mutations.transact, self.limits, self._ttls, idempotency_key)

    async def set_many(self, scope: str, values: Mapping[str, Any], *, ttl: Ttl = UNSET, atomic: bool = True) -> None:
        """Store the values of several keys of a scope, as one transaction: all or none.

        More than a transaction may have raises TransactionTooLarge; with `atomic=False` it is stored in several steps, each a
        transaction, one after the other, and an error leaves those before it. `ttl` works as in `set`. Cost: one round trip for
        each step, O(bytes of the old and the new values). Raises the errors of `set`.
        """
        if not isinstance(values, Mapping):
            raise InvalidValue(f"scope {scope!r:.200}: set_many takes a dict of keys and values, not {type(values).__name__}")
        await self._in_steps(list(values.items()), lambda tx, item: tx.set(scope, *item, ttl=ttl), atomic=atomic)

    async def delete_many(self, scope: str, keys: Iterable[str], *, atomic: bool = True) -> int:
        """Remove several keys of a scope, as one transaction, and return how many held a value. Keys without one are left alone.

        `atomic` works as in `set_many`. Cost and errors are those of `set_many`.
        """
        if isinstance(keys, str | bytes):
            raise InvalidName(f"scope {scope!r:.200}: delete_many takes several keys, not one text: [{keys!r:.80}]")
        steps = await self._in_steps(list(dict.fromkeys(keys)), lambda tx, key: tx.delete(scope, key), atomic=atomic)
        return sum(revision is not None for tx in steps for revision in tx.revisions.values())

    async def _in_steps(self, items: Sequence[_T], add: Callable[[Transaction, _T], None], *, atomic: bool) -> list[Transaction]:
        """Apply a change for each item in one transaction, or in as many as it takes; return them."""
        steps: list[Transaction] = []
        pending = [items] if atomic else [*_chunks(items, self.limits.transaction_changes)][::-1]
        while pending:
            some = pending.pop()
            try:
                async with self.transaction() as tx:
                    for item in some:
                        add(tx, item)
            except TransactionTooLarge:
                if atomic or len(some) == 1:
                    raise
                pending += [some[len(some) // 2 :], some[: len(some) // 2]]
            else:
                steps.append(tx)
        return steps

    async def enqueue(
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
        topic_bytes = keyspace.encode_name("topic", topic, self.limits.name_bytes)
        key_bytes = b"" if key is None else keyspace.encode_name("key", key, self.limits.name_bytes)
        subject = keyspace.Sending(f"topic {topic!r}", (topic,))
        due = due_time(subject, delay, at)
        text = codec.encode(data, subject=subject, max_bytes=self.limits.value_bytes)
        return await self._mutations.append(subject, topic_bytes, key_bytes, text, due=due, idempotency_key=idempotency_key)

    async def cancel(self, message_id: str) -> bool:
        """Remove a delayed message, in one atomic step. Return True if it waited, and False if it has been sent or cancelled.

        A message without a delay is sent at once. Cost: one round trip. Raises InvalidName for what is no id of a message,
        StateUnavailable, NotDurable.
        """
        return await self._mutations.cancel(message_id)


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[first : first + size] for first in range(0, len(items), size))

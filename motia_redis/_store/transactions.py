"""Transactions: checks, changes and messages over scopes and topics of one tag, applied as one step in Redis."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._ids import random_id
from motia_redis._store import codec, keyspace, patch
from motia_redis._store.expiry import KEEP, UNSET
from motia_redis._store.keyspace import Subject
from motia_redis._store.transaction_items import Item
from motia_redis.errors import DifferentTags, TransactionMisused, TransactionTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from motia_redis._scripts import storage as scripts
    from motia_redis._store import types
    from motia_redis._store.expiry import ScopeTtls, Ttl
    from motia_redis._store.limits import Limits

    Transact = Callable[[Sequence[Item], int, str | None], Awaitable[scripts.Transacted]]  # Mutations.transact

_open: ContextVar[tuple[object, Transaction] | None] = ContextVar("motia_redis_transaction", default=None)
_ANY_SIZE = 2**50  # bytes


class Transaction:
    """Collect checks, changes and messages, and apply all of them as one step when its block ends, or none.

    All scopes and topics must have the same tag: what stands between the first `{` and the next `}` of the name, else the whole
    name. If the block raises, nothing is sent. The methods send nothing and return nothing; they raise the errors of their
    arguments at once. After the block `revisions`, `values` and `message_ids` hold the results.

    The block's end raises TransactionFailed, which names the check or change that failed, TransactionTooLarge, and the errors of
    Redis that `set` raises; nothing is changed then, but see StateUnavailable and NotDurable.
    """

    def __init__(self, transact: Transact, limits: Limits, ttls: ScopeTtls, idempotency_key: str | None) -> None:
        self._transact, self._limits, self._ttls = transact, limits, ttls
        self._idempotency_key = idempotency_key
        self._items: list[Item] = []
        self._bytes = 0  # of new values
        self._tag: tuple[bytes, str] | None = None  # of the first scope, and that scope
        self._state = "new"  # "open" in the block, "ended" behind it
        self._results: _Results | None = None
        self._block = "async with"  # how its block begins, for errors

    @property
    def revisions(self) -> dict[tuple[str, str], str | None]:
        """The revision of each changed key, by scope and key; None if the key held no value and still holds none."""
        return self._applied().revisions

    @property
    def values(self) -> dict[tuple[str, str], Any]:
        """The value of each key that was set or updated and not deleted after that, by scope and key."""
        return self._applied().values

    @property
    def message_ids(self) -> list[str]:
        """The ids of the messages, in the order of the calls of `enqueue`."""
        return self._applied().message_ids

    def check(self, scope: str, key: str, revision: str | None) -> None:
        """Require that the key has this revision before the transaction; None: that it holds no value."""
        expected = keyspace.encode_revision(revision, Subject(scope, key), "revision")
        self._add("check", scope, key, b"check", [expected])

    def set(self, scope: str, key: str, value: Any, *, ttl: Ttl = UNSET) -> None:
        """Store a value, as `StateManager.set` does."""
        subject = Subject(scope, key)
        text = codec.encode(value, subject=subject, max_bytes=self._limits.value_bytes) + codec.CANONICAL_MARK
        self._add("set", scope, key, b"set", [text], ttl=self._ttls.of_set(subject, scope, ttl), value=value)

    def update(self, scope: str, key: str, ops: Sequence[types.Operation], strict: bool = False, *, ttl: Ttl = KEEP) -> None:
        """Apply operations to a value, as `StateManager.update` does. It sees the changes before it in the transaction."""
        subject = Subject(scope, key)
        arguments = patch.translate(ops, strict=strict, limits=self._limits, subject=subject)
        kind = b"strict update" if strict else b"update"
        parameters = [b"%d" % self._limits.value_bytes, *arguments]
        ttl_bytes = self._ttls.of_update(subject, scope, ttl)
        self._add("update", scope, key, kind, parameters, ttl=ttl_bytes, operations=ops)

    def delete(self, scope: str, key: str) -> None:
        """Remove a key. A key without a value is left alone."""
        self._add("delete", scope, key, b"drop", [])

    def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> None:
        """Append a message with JSON data to a topic, as `StateManager.enqueue` does without a delay."""
        text = codec.encode(data, subject=f"topic {topic!r:.200}", max_bytes=self._limits.value_bytes)
        self._add("enqueue", topic, key, b"message", [text, random_id(16).encode()])

    def _add(self, method: str, scope: str, key: str | None, kind: bytes, parameters: Sequence[bytes], **more: Any) -> None:
        if self._state != "open":
            raise TransactionMisused(
                f"transaction: {method} outside of its block: call it inside of `{self._block} state.transaction() as tx`"
            )
        is_message, most = kind == b"message", self._limits.name_bytes
        scope_bytes = keyspace.encode_name("topic" if is_message else "scope", scope, most)
        key_bytes = b"" if is_message and key is None else keyspace.encode_name("key", key, most)
        self._check_tag(scope, scope_bytes)
        size, most_bytes = self._bytes + sum(map(len, parameters)), self._limits.transaction_bytes
        if len(self._items) >= self._limits.transaction_changes:
            raise TransactionTooLarge(
                f"transaction: more than {self._limits.transaction_changes} checks, changes and messages, the limit "
                "`transaction_changes`: split what need not happen together"
            )
        if size > most_bytes and self._items:
            raise TransactionTooLarge(
                f"transaction: {size} bytes of values, the limit `transaction_bytes` is {most_bytes}: split it"
            )
        self._bytes = size
        subject = f"topic {scope!r:.200}" if is_message else Subject(scope, key)
        self._items.append(Item(method, subject, scope, key, scope_bytes, key_bytes, kind, parameters, **more))

    def _check_tag(self, scope: str, scope_bytes: bytes) -> None:
        tag = keyspace.tag(scope_bytes)
        if self._tag is None:
            self._tag = tag, scope
        elif self._tag[0] != tag:
            first = self._tag[1]
            raise DifferentTags(
                f"transaction: {first!r:.200} and {scope!r:.200} have different tags: what changes together needs one tag, "
                f"in braces, such as {'{acme}/' + first!r:.200} and {'{acme}/' + scope!r:.200}"
            )

    def _applied(self) -> _Results:
        if self._results is None:
            raise TransactionMisused("transaction: it has no results: they are there behind its block, if that did not raise")
        return self._results

    async def __aenter__(self) -> Self:
        self._begin(asyncio.current_task(), block="async with")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        if error is None:
            await self._apply()

    def _begin(self, owner: object, *, block: str) -> None:
        """Enter the block. `owner` is the task or thread that does so; `block` is how it is written."""
        opened = _open.get()
        if self._state != "new":
            raise TransactionMisused("transaction: it was used before: call state.transaction() for each one")
        if opened is not None and opened[0] is owner and opened[1]._state == "open":
            raise TransactionMisused("transaction: it is inside of the block of another one: transactions do not nest")
        self._state, self._block = "open", block
        _open.set((owner, self))

    def _end(self) -> None:
        """Leave the block."""
        self._state = "ended"
        _open.set(None)

    async def _apply(self) -> None:
        """Send what was collected."""
        if not self._items:
            self._results = _Results({}, {}, [])
            return
        # One change alone may be as large as a call of its own.
        most_bytes = self._limits.transaction_bytes if len(self._items) > 1 else _ANY_SIZE
        reply = await self._transact(self._items, most_bytes, self._idempotency_key)
        self._results = _read(self._items, reply)


@dataclass(frozen=True, slots=True)
class _Results:
    """What a transaction has made."""

    revisions: dict[tuple[str, str], str | None]
    values: dict[tuple[str, str], Any]
    message_ids: list[str]


def _read(items: Sequence[Item], reply: scripts.Transacted) -> _Results:
    results, texts = _Results({}, {}, []), iter(reply.texts)
    for item, word in zip(items, reply.words, strict=True):
        if item.method == "check":
            continue
        if item.key is None or item.method == "enqueue":
            results.message_ids.append(word.decode())
            continue
        place = item.scope, item.key
        results.revisions[place] = None if word == b"-" else word.decode()
        if item.method == "set" and not reply.has_sets:
            results.values[place] = item.value
        elif item.method in ("set", "update"):
            results.values[place] = codec.decode(next(texts), subject=item.subject)
        else:
            results.values.pop(place, None)
    return results

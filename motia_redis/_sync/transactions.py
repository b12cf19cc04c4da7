"""Transactions in a plain `with`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from motia_redis._store.expiry import KEEP, UNSET
from motia_redis._sync import loop_thread
from motia_redis._sync.direct import drive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from motia_redis._store import types
    from motia_redis._store.expiry import Ttl
    from motia_redis._store.transactions import Transaction as AsyncTransaction


class Transaction:
    """Collect checks, changes and messages, and apply all of them as one step when its block ends, or none.

    All scopes and topics must have the same tag: what stands between the first `{` and the next `}` of the name, else the whole
    name. If the block raises, nothing is sent. The methods send nothing and return nothing; they raise the errors of their
    arguments at once. After the block `revisions`, `values` and `message_ids` hold the results.

    The block's end raises TransactionFailed, which names the check or change that failed, TransactionTooLarge, and the errors of
    Redis that `set` raises; nothing is changed then, but see StateUnavailable and NotDurable.
    """

    def __init__(self, transaction: AsyncTransaction) -> None:
        self._transaction = transaction

    @property
    def revisions(self) -> dict[tuple[str, str], str | None]:
        """The revision of each changed key, by scope and key; None if the key held no value and still holds none."""
        return self._transaction.revisions

    @property
    def values(self) -> dict[tuple[str, str], Any]:
        """The value of each key that was set or updated and not deleted after that, by scope and key."""
        return self._transaction.values

    @property
    def message_ids(self) -> list[str]:
        """The ids of the messages, in the order of the calls of `enqueue`."""
        return self._transaction.message_ids

    def check(self, scope: str, key: str, revision: str | None) -> None:
        """Require that the key has this revision before the transaction; None: that it holds no value."""
        self._transaction.check(scope, key, revision)

    def set(self, scope: str, key: str, value: Any, *, ttl: Ttl = UNSET) -> None:
        """Store a value, as `StateManager.set` does."""
        self._transaction.set(scope, key, value, ttl=ttl)

    def update(self, scope: str, key: str, ops: Sequence[types.Operation], strict: bool = False, *, ttl: Ttl = KEEP) -> None:
        """Apply operations to a value, as `StateManager.update` does. It sees the changes before it in the transaction."""
        self._transaction.update(scope, key, ops, strict, ttl=ttl)

    def delete(self, scope: str, key: str) -> None:
        """Remove a key. A key without a value is left alone."""
        self._transaction.delete(scope, key)

    def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> None:
        """Append a message with JSON data to a topic, as `StateManager.enqueue` does without a delay."""
        self._transaction.enqueue(topic, data, key=key)

    def __enter__(self) -> Self:
        loop_thread.refuse_inside_loop("transaction")
        self._transaction._begin(threading.current_thread(), block="with")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._transaction._end()
        if error is None:
            drive("transaction", self._transaction._apply)

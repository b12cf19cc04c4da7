"""The checks, changes and messages of a transaction, as transact.lua takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._store import keyspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._store.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Item:
    """Hold one check, change or message of a transaction. A message has its topic in place of the scope."""

    method: str  #: of `Transaction`, for errors
    subject: object
    scope: str
    key: str | None
    scope_bytes: bytes
    key_bytes: bytes
    kind: bytes
    parameters: Sequence[bytes]
    ttl: bytes = b""
    value: Any = None  #: of a set
    operations: object = None  #: of an update, for errors

    def fingerprint(self) -> tuple[bytes, ...]:
        """Return what tells this item from others. The id of a message is another one in each call."""
        parameters = self.parameters[:1] if self.kind == b"message" else self.parameters
        return self.kind, self.scope_bytes, self.key_bytes, self.ttl, b"%d" % len(parameters), *parameters

    @property
    def is_keyless(self) -> bool:
        """Return whether this is a message without a key."""
        return self.kind == b"message" and not self.key_bytes

    def encode(self, names: Keyspace, numbers: dict[bytes, int], turn: int) -> tuple[bytes, ...]:
        """Return the item as transact.lua takes it. Its Redis keys get numbers in `numbers`. `turn`: of a keyless message."""
        if self.kind == b"message":
            *_, request = self.parameters
            lane = turn % names.layout.lanes if self.is_keyless else names.lane(self.key_bytes)
            stream = names.topic(self.scope_bytes, lane)
            places = (0, 0, _number(numbers, stream))
            message_id = keyspace.message_id(self.scope_bytes, request)
            parameters: tuple[bytes, ...] = (self.scope_bytes, self.key_bytes, self.parameters[0], message_id)
        else:
            values, revisions, _, events = names.state_keys(self.scope_bytes, self.key_bytes)
            places = (_number(numbers, values), _number(numbers, revisions), _number(numbers, events))
            parameters = (self.key_bytes, *self.parameters)
        numbers_of_keys = (b"%d" % place for place in places)
        return self.kind, *numbers_of_keys, b"%d" % len(parameters), self.ttl, *parameters


def _number(numbers: dict[bytes, int], name: bytes) -> int:
    return numbers.setdefault(name, len(numbers))

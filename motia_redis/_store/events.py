"""Change events as they stand in a stream: what they say besides scope, key and type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Why a key was deleted: by a call, or because its time to live had passed.
DeleteReason: TypeAlias = Literal["deleted", "expired"]

CREATED, DELETED = b"state:created", b"state:deleted"


@dataclass(frozen=True, slots=True)
class TransactionInfo:
    """Say which transaction made a change."""

    id: str
    size: int  #: the number of its events: one for each key that it changed and each message
    index: int  #: of this event among them, from 0

    @classmethod
    def decode(cls, text: bytes) -> TransactionInfo:
        """Return what the field of an event says. Raises ValueError for the field of another client."""
        name, size, index, _ = text.decode().split(":")
        return cls(name, int(size), int(index))


def texts(fields: Mapping[bytes, bytes]) -> tuple[bytes | None, bytes | None]:
    """Return the old and the new text of a change event; None = no value.

    An event has the whole new text, but only the differing bytes of the old text. The old text shares its other bytes with both
    ends of the new text. A field that would be empty is left out. Raises KeyError or ValueError for fields of another client.
    """
    event_type, new = fields[b"type"], fields.get(b"new", b"")
    old: bytes | None = None
    if event_type != CREATED:
        old, kept = fields.get(b"old", b""), fields.get(b"kept")
        if kept is not None:
            prefix, suffix = map(int, kept.split(b":"))
            old = new[:prefix] + old + new[len(new) - suffix :]
    return old, None if event_type == DELETED else new


def delete_reason(fields: Mapping[bytes, bytes]) -> DeleteReason:
    """Return why the key of a deletion was deleted."""
    return "expired" if fields.get(b"reason") == b"expired" else "deleted"

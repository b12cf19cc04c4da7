"""Decode stream entries to the input of triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._steps.inputs import StateTriggerInput, TransactionInfo
from motia_redis._store import codec
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    Fields = Mapping[bytes, bytes]


class _Event(NamedTuple):
    """Name an event in error messages. The text is built only when an error needs it."""

    id: str
    scope: str
    key: str

    def __str__(self) -> str:
        return f"event {self.id} of scope {self.scope!r} key {self.key!r}"


def decode_change(entry_id: str, fields: Fields) -> StateTriggerInput:
    """Return the change that an event describes.

    An event has the whole new text, but only the differing bytes of the old text. The old text shares its other bytes with both
    ends of the new text. A field that would be empty is left out. Raises CorruptValue if another client wrote the entry, or if a
    text is not JSON.
    """
    try:
        return _decode_change(entry_id, fields)
    except (KeyError, ValueError):
        raise foreign_entry(entry_id) from None


def foreign_entry(entry_id: str) -> CorruptValue:
    """Return the error for an entry that has not the fields of an event or message."""
    return CorruptValue(f"entry {entry_id} is no event and no message: another client wrote it into the stream")


def _decode_change(entry_id: str, fields: Fields) -> StateTriggerInput:
    scope, key, new = fields[b"scope"].decode(), fields[b"key"].decode(), fields.get(b"new", b"")
    event_type = fields[b"type"].decode()
    subject = _Event(entry_id, scope, key)
    old_value = new_value = None
    if event_type != "state:created":
        old, kept = fields.get(b"old", b""), fields.get(b"kept")
        if kept is not None:
            prefix, suffix = map(int, kept.split(b":"))
            old = new[:prefix] + old + new[len(new) - suffix :]
        old_value = codec.decode(old, subject=subject)
    if event_type != "state:deleted":
        new_value = codec.decode(new, subject=subject)
    return StateTriggerInput(
        group_id=scope,
        item_id=key,
        old_value=old_value,
        new_value=new_value,
        event_type=event_type,  # type: ignore[arg-type]  # triggers get no other type, see Wants.match
        revision=entry_id,
        transaction=_decode_transaction(fields[b"transaction"]) if b"transaction" in fields else None,
        reason=None if event_type != "state:deleted" else "expired" if fields.get(b"reason") == b"expired" else "deleted",
    )


def _decode_transaction(text: bytes) -> TransactionInfo:
    name, size, index = text.decode().split(":")
    return TransactionInfo(name, int(size), int(index))


def decode_message(entry_id: str, fields: Fields) -> Any:
    """Return the data of a topic's message. Raises CorruptValue for an entry that is none, and if the data is not JSON."""
    try:
        data, topic, _ = fields[b"data"], fields[b"topic"].decode(), fields[b"request"].decode()
    except (KeyError, ValueError):
        raise foreign_entry(entry_id) from None
    return codec.decode(data, subject=f"message {entry_id} of topic {topic!r}")

"""Decode stream entries to the input of triggers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from motia_redis._steps.inputs import OLD_TEXT, CronTriggerInput, StateTriggerInput
from motia_redis._steps.models import made_of
from motia_redis._store import codec, events
from motia_redis._store.events import TransactionInfo
from motia_redis._store.stream_groups import StreamGroup, scope_name
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from motia_redis._store.codec import Coder

    Fields = Mapping[bytes, bytes]


class _Event(tuple[str, str, str]):
    """Name an event by its id, scope and key in error messages. The text is built only when an error needs it."""

    __slots__ = ()

    def __str__(self) -> str:
        entry_id, scope, key = self
        return f"event {entry_id} of scope {scope!r} key {key!r}"


def facts(fields: Fields) -> dict[str, str]:
    """Return what names an entry's event for people: scope, stream, topic or schedule, and what is in that."""
    found = {name: fields.get(name.encode(), b"").decode(errors="replace") for name in ("scope", "topic", "key", "schedule")}
    found = {name: text for name, text in found.items() if text}
    scope = scope_name(found.get("scope", ""))
    if isinstance(scope, StreamGroup):
        return {"stream": scope.stream, "group": scope.group, "item": found.get("key", "")}
    return found


def decode_change(entry_id: str, fields: Fields, coder: Coder[Any] = codec) -> StateTriggerInput:
    """Return the change that an event describes.

    Raises CorruptValue if another client wrote the entry, or if the new text is not JSON, and SchemaMismatch if a value is not of
    the type of the typed scope whose `coder` is given. Without one, the old value is decoded when it is read, and raises then.
    """
    try:
        scope, key, event_type = scope_name(fields[b"scope"].decode()), fields[b"key"].decode(), fields[b"type"].decode()
        old, new = events.texts(fields)
        timestamp = int(entry_id.partition("-")[0])
        transaction = TransactionInfo.decode(fields[b"transaction"]) if b"transaction" in fields else None
    except (KeyError, ValueError):
        raise foreign_entry(entry_id) from None
    subject = _Event((entry_id, scope, key))
    made: dict[str, Any] = {
        "group_id": scope,
        "item_id": key,
        "new_value": None if new is None else coder.decode(new, subject=subject),
        "event_type": event_type,  # triggers get no other type, see Wants.match
        "revision": entry_id,
        "timestamp": timestamp,
        "reason": events.delete_reason(fields) if event_type == "state:deleted" else None,
        "transaction": transaction,
        "type": "state",
    }
    if old is None:
        made["old_value"] = None
    elif coder is codec:
        made[OLD_TEXT] = old, subject  # decoded when it is read
    else:
        made["old_value"] = coder.decode(old, subject=subject)
    return made_of(StateTriggerInput, made)


def foreign_entry(entry_id: str) -> CorruptValue:
    """Return the error for an entry that has not the fields of an event or message."""
    return CorruptValue(f"entry {entry_id} is no event and no message: another client wrote it into the stream")


def decode_message(entry_id: str, fields: Fields, coder: Any = codec) -> Any:
    """Return the data of a topic's message. Raises CorruptValue for an entry that is none, and what the coder raises."""
    try:
        data, topic, _ = fields[b"data"], fields[b"topic"].decode(), fields[b"request"].decode()
    except (KeyError, ValueError):
        raise foreign_entry(entry_id) from None
    return coder.decode(data, subject=f"message {entry_id} of topic {topic!r}")


def decode_time(entry_id: str, fields: Fields) -> CronTriggerInput:
    """Return the time of a cron trigger. Raises CorruptValue for an entry that is none."""
    from motia_redis._steps.cron_times import zone_of  # noqa: PLC0415 - only steps with a cron trigger need cronsim

    try:
        zone_name, _, expression = fields[b"schedule"].decode().partition(" ")
        zone = zone_of(zone_name)
        scheduled, fired = (_local(int(fields[name]), zone) for name in (b"due", b"fired"))
    except (KeyError, ValueError, OverflowError, OSError):
        raise foreign_entry(entry_id) from None
    return CronTriggerInput(scheduled_at=scheduled, fired_at=fired, expression=expression, timezone=zone_name)


def _local(milliseconds: int, zone: tzinfo) -> datetime:
    """Return a time with the offset that a zone has then.

    With the zone itself, differences of two times would be wrong where summer time begins and ends, and a time that the clock
    shows twice would be equal to none of another zone.
    """
    moment = datetime.fromtimestamp(milliseconds / 1000, zone)
    offset = moment.utcoffset()
    return moment if offset is None else moment.astimezone(timezone(offset))

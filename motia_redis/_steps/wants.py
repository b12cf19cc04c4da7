"""What a version of a step wants by its declared filters: published by its workers, so that other versions can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from motia_redis._store.keyspace import RESERVED
from motia_redis._store.stream_groups import StreamGroup, scope_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.definitions import Step
    from motia_redis._store.keyspace import Keyspace


#: A stream, a group of it (None = all) and an item (None = all).
Items: TypeAlias = "tuple[str, str | None, str | None]"

_RESERVED = RESERVED.decode()
CRON = b"cron"  #: the type of an entry that is a time of a cron trigger
TTL_CHANGED = b"state:ttl"  #: the type of an event that state triggers do not get: only the time to live of a value has changed


def is_silent(fields: Mapping[bytes, bytes]) -> bool:
    """Return whether an event fires no triggers: one of a copy, or of an import without `fire`."""
    return fields.get(b"reason") in (b"import", b"copy") and b"fire" not in fields


@dataclass(frozen=True, slots=True)
class Wants:
    """The scopes, keys, topics, schedules and streams of a step's triggers. Conditions are not part of it."""

    states: tuple[tuple[str | None, str | None], ...]  #: scope and key, each None = all
    topics: tuple[str, ...]
    schedules: tuple[tuple[str, str], ...] = ()  #: the step, and the name of the schedule
    items: tuple[Items, ...] = ()  #: stream, group and item, each of the latter None = all

    @classmethod
    def of(cls, step: Step) -> Wants:
        """Return what a step wants."""
        states = {(trigger.scope, trigger.key) for trigger in step.state_triggers}
        topics = {trigger.topic for trigger in step.queue_triggers}
        schedules = {(step.name, trigger.schedule) for trigger in step.cron_triggers}
        items = {(trigger.stream_name, trigger.group_id, trigger.item_id) for trigger in step.stream_triggers}
        return cls(
            tuple(sorted(states, key=repr)), tuple(sorted(topics)), tuple(sorted(schedules)), tuple(sorted(items, key=repr))
        )

    @classmethod
    def decode(cls, value: Any) -> Wants | None:
        """Return the content of a worker's description; None for anything else."""
        match value:
            case {"states": [*states], "topics": [*topics]} if all(isinstance(topic, str) for topic in topics):
                pairs = []
                for state in states:
                    match state:
                        case [str() | None as scope, str() | None as key]:
                            pairs.append((scope, key))
                        case _:
                            return None
                schedules = _decode_schedules(value.get("schedules", []))
                items = _decode_items(value.get("items", []))
                return None if schedules is None or items is None else cls(tuple(pairs), tuple(topics), schedules, items)
        return None

    def encode(self) -> dict[str, Any]:
        """Return it as part of a worker's description."""
        encoded: dict[str, Any] = {"states": self.states, "topics": self.topics}
        if self.schedules:
            encoded["schedules"] = self.schedules
        if self.items:
            encoded["items"] = self.items
        return encoded

    def streams(self, keyspace: Keyspace) -> list[bytes]:
        """Return the streams that hold what is wanted."""
        streams = [stream for scope, key in self.states for stream in keyspace.event_streams(scope, key)]
        streams += [stream for each in self.items for stream in _streams_of_items(keyspace, each)]
        streams += [stream for topic in self.topics for stream in keyspace.topic_streams(topic)]
        streams += [keyspace.cron(step) for step, _ in self.schedules]
        return list(dict.fromkeys(streams))

    def within(self, keyspace: Keyspace, stream: bytes) -> Wants:
        """Return the part of it that one stream can hold."""
        return Wants(
            tuple(state for state in self.states if stream in keyspace.event_streams(*state)),
            tuple(topic for topic in self.topics if stream in keyspace.topic_streams(topic)),
            tuple(each for each in self.schedules if stream == keyspace.cron(each[0])),
            tuple(each for each in self.items if stream in _streams_of_items(keyspace, each)),
        )

    def match(self, fields: Mapping[bytes, bytes]) -> bool:
        """Return whether an entry is wanted."""
        if fields.get(b"type") == TTL_CHANGED or is_silent(fields):
            return False
        if fields.get(b"type") == b"topic":
            return fields.get(b"topic", b"").decode(errors="replace") in self.topics
        if fields.get(b"type") == CRON:
            return fields.get(b"schedule", b"").decode(errors="replace") in (schedule for _, schedule in self.schedules)
        scope, key = (fields.get(name, b"").decode(errors="replace") for name in (b"scope", b"key"))
        if scope.startswith(_RESERVED):
            place = scope_name(scope)
            return isinstance(place, StreamGroup) and any(
                name == place.stream and group in (None, place.group) and item in (None, key) for name, group, item in self.items
            )
        return any(wanted in (None, scope) and item in (None, key) for wanted, item in self.states)


def _streams_of_items(keyspace: Keyspace, items: Items) -> list[bytes]:
    """Return the streams with the events of these items."""
    stream, group, item = items
    return keyspace.event_streams(None if group is None else StreamGroup(stream, group), item)


def _decode_items(value: Any) -> tuple[Items, ...] | None:
    """Return the streams, groups and items of a worker's description; None for anything else."""
    found: list[Items] = []
    for each in value if isinstance(value, list) else [None]:
        match each:
            case [str() as stream, str() | None as group, str() | None as item] if stream and group != "":
                found.append((stream, group, item))
            case _:
                return None
    return tuple(found)


def _decode_schedules(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the schedules of a worker's description; None for anything else."""
    found = []
    for each in value if isinstance(value, list) else [None]:
        match each:
            case [str() as step, str() as schedule]:
                found.append((step, schedule))
            case _:
                return None
    return tuple(found)

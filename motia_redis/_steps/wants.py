"""What a version of a step wants by its declared filters: published by its workers, so that other versions can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.definitions import Step
    from motia_redis._store.keyspace import Keyspace


CRON = b"cron"  #: the type of an entry that is a time of a cron trigger
TTL_CHANGED = b"state:ttl"  #: the type of an event that state triggers do not get: only the time to live of a value has changed


@dataclass(frozen=True, slots=True)
class Wants:
    """The scopes, keys, topics and schedules of a step's triggers. Conditions are not part of it."""

    states: tuple[tuple[str | None, str | None], ...]  #: scope and key, each None = all
    topics: tuple[str, ...]
    schedules: tuple[tuple[str, str], ...] = ()  #: the step, and the name of the schedule

    @classmethod
    def of(cls, step: Step) -> Wants:
        """Return what a step wants."""
        states = {(trigger.scope, trigger.key) for trigger in step.state_triggers}
        topics = {trigger.topic for trigger in step.queue_triggers}
        schedules = {(step.name, trigger.schedule) for trigger in step.cron_triggers}
        return cls(tuple(sorted(states, key=repr)), tuple(sorted(topics)), tuple(sorted(schedules)))

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
                return None if schedules is None else cls(tuple(pairs), tuple(topics), schedules)
        return None

    def encode(self) -> dict[str, Any]:
        """Return it as part of a worker's description."""
        encoded: dict[str, Any] = {"states": self.states, "topics": self.topics}
        return {**encoded, "schedules": self.schedules} if self.schedules else encoded

    def streams(self, keyspace: Keyspace) -> list[bytes]:
        """Return the streams that hold what is wanted."""
        streams = [stream for scope, key in self.states for stream in keyspace.event_streams(scope, key)]
        streams += [stream for topic in self.topics for stream in keyspace.topic_streams(topic)]
        streams += [keyspace.cron(step) for step, _ in self.schedules]
        return list(dict.fromkeys(streams))

    def within(self, keyspace: Keyspace, stream: bytes) -> Wants:
        """Return the part of it that one stream can hold."""
        return Wants(
            tuple(state for state in self.states if stream in keyspace.event_streams(*state)),
            tuple(topic for topic in self.topics if stream in keyspace.topic_streams(topic)),
            tuple(each for each in self.schedules if stream == keyspace.cron(each[0])),
        )

    def match(self, fields: Mapping[bytes, bytes]) -> bool:
        """Return whether an entry is wanted."""
        if fields.get(b"type") == TTL_CHANGED:
            return False
        if fields.get(b"type") == b"topic":
            return fields.get(b"topic", b"").decode(errors="replace") in self.topics
        if fields.get(b"type") == CRON:
            return fields.get(b"schedule", b"").decode(errors="replace") in (schedule for _, schedule in self.schedules)
        scope, key = (fields.get(name, b"").decode(errors="replace") for name in (b"scope", b"key"))
        return any(wanted in (None, scope) and item in (None, key) for wanted, item in self.states)


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

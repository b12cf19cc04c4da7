"""What a version of a step wants by its declared filters: published by its workers, so that other versions can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.definitions import Step
    from motia_redis._store.keyspace import Keyspace


TTL_CHANGED = b"state:ttl"  #: the type of an event that state triggers do not get: only the time to live of a value has changed


@dataclass(frozen=True, slots=True)
class Wants:
    """The scopes, keys and topics of a step's triggers. Conditions are not part of it."""

    states: tuple[tuple[str | None, str | None], ...]  #: scope and key, each None = all
    topics: tuple[str, ...]

    @classmethod
    def of(cls, step: Step) -> Wants:
        """Return what a step wants."""
        states = {(trigger.scope, trigger.key) for trigger in step.state_triggers}
        topics = {trigger.topic for trigger in step.queue_triggers}
        return cls(tuple(sorted(states, key=repr)), tuple(sorted(topics)))

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
                return cls(tuple(pairs), tuple(topics))
        return None

    def encode(self) -> dict[str, Any]:
        """Return it as part of a worker's description."""
        return {"states": self.states, "topics": self.topics}

    def streams(self, keyspace: Keyspace) -> list[bytes]:
        """Return the streams that hold what is wanted."""
        streams = [stream for scope, key in self.states for stream in keyspace.event_streams(scope, key)]
        streams += [stream for topic in self.topics for stream in keyspace.topic_streams(topic)]
        return list(dict.fromkeys(streams))

    def within(self, keyspace: Keyspace, stream: bytes) -> Wants:
        """Return the part of it that one stream can hold."""
        return Wants(
            tuple(state for state in self.states if stream in keyspace.event_streams(*state)),
            tuple(topic for topic in self.topics if stream in keyspace.topic_streams(topic)),
        )

    def match(self, fields: Mapping[bytes, bytes]) -> bool:
        """Return whether an entry is wanted."""
        if fields.get(b"type") == TTL_CHANGED:
            return False
        if fields.get(b"type") == b"topic":
            return fields.get(b"topic", b"").decode(errors="replace") in self.topics
        scope, key = (fields.get(name, b"").decode(errors="replace") for name in (b"scope", b"key"))
        return any(wanted in (None, scope) and item in (None, key) for wanted, item in self.states)

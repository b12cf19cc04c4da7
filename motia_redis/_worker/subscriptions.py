"""The streams that a step consumes, and how much of them this process may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._worker.matching import Matcher

if TYPE_CHECKING:
    from motia_redis._steps.definitions import Step
    from motia_redis._store.keyspace import Keyspace

_ENTRIES = 2048  # entries of one step that are read and not yet acknowledged
_REFILL = _ENTRIES // 2  # at most so many are left before more are read: large reads cost less
_BYTES = 16 * 1024 * 1024  # bytes of those entries
_PARKED = 20_000  # entries of one step that wait behind a key in backoff, without their fields


class Load:
    """How many entries and bytes of one step this process holds."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self.parked = 0

    @property
    def is_full(self) -> bool:
        """Return whether no more entries may be read now."""
        return self.entries > _REFILL or self.bytes >= _BYTES or self.parked >= _PARKED

    @property
    def room(self) -> int:
        """Return how many more entries may be read now."""
        if self.is_full:
            return 0
        by_entries = _ENTRIES - self.entries
        mean = self.bytes // self.entries if self.entries else 0
        return max(1, min(by_entries, (_BYTES - self.bytes) // mean if mean else by_entries))

    def add(self, size: int) -> None:
        """Count an entry with its fields."""
        self.entries += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        """Stop counting such an entry."""
        self.entries -= 1
        self.bytes -= size


class Subscription:
    """The share of one step in the streams. Its consumer group has the step's name."""

    def __init__(self, step: Step, keyspace: Keyspace) -> None:
        self.step = step
        self.load = Load()
        self.group = step.name
        self.matcher = Matcher(step)
        streams = [s for trigger in step.state_triggers for s in keyspace.event_streams(trigger.scope, trigger.key)]
        streams += [s for trigger in step.queue_triggers for s in keyspace.topic_streams(trigger.topic)]
        self.streams = list(dict.fromkeys(streams))

"""The job of a contender's process, and the events that all contenders send. Uses only the standard library."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

VALUE_BYTES = 1024
KEYS = 500
CONDITION_ONE_IN = 100
#: The number of an event that only checks whether the worker is ready.
PING = -1

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """The number of events to send or handle, the URL of Redis, and the options of the contender."""

    url: str
    events: int
    options: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        """Return the job as a command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the job from the text of `dump`."""
        return cls(**json.loads(text))


def value(number: int, sent: int = 0) -> Value:
    """Return one event's value: JSON of `VALUE_BYTES` bytes. `sent` is the monotonic time in nanoseconds, or 0."""
    made: Value = {"n": number, "sent": sent, "kind": number % CONDITION_ONE_IN, "text": ""}
    made["text"] = "x" * (VALUE_BYTES - len(encode(made)))
    return made


def encode(made: Value) -> bytes:
    """Return the JSON text of a value."""
    return json.dumps(made, separators=(",", ":")).encode()


def key(number: int) -> str:
    """Return the key whose change is event `number`."""
    return f"key-{number % KEYS}"

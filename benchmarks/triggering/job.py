"""What a contender's process is told to do, and the events that all of them send. Needs the standard library alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

VALUE_BYTES = 1024
KEYS = 500
CONDITION_ONE_IN = 100
#: The number of an event that only asks whether the worker is there.
PING = -1

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """How many events to send or to handle, at which Redis, in which of the contender's modes."""

    url: str
    events: int
    options: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        """Return the job as an argument for a process."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Return what `dump` gave."""
        return cls(**json.loads(text))


def value(number: int, sent: int = 0) -> Value:
    """Return one event's value: JSON of `VALUE_BYTES` bytes. `sent` is the monotonic time in nanoseconds, where that matters."""
    made: Value = {"n": number, "sent": sent, "kind": number % CONDITION_ONE_IN, "text": ""}
    made["text"] = "x" * (VALUE_BYTES - len(encode(made)))
    return made


def encode(made: Value) -> bytes:
    """Return the JSON text of a value."""
    return json.dumps(made, separators=(",", ":")).encode()


def key(number: int) -> str:
    """Return the key whose change is event `number`."""
    return f"key-{number % KEYS}"

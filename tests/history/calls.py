"""The record of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

ANY = "any"  #: as `Call.expected`: the call required no revision
SCOPES = {"": "history", "other:": "{history}/other"}  #: the scope of a key by how its name in a call begins; they have one tag


def place_of(name: str) -> tuple[str, str]:
    """Return the scope and the key with this name in calls."""
    start, colon, key = name.rpartition(":")
    return SCOPES[start + colon], key


def name_of(scope: str, key: str) -> str:
    """Return how calls name a key."""
    (start,) = (start for start, known in SCOPES.items() if known == scope)
    return start + key


class Value(NamedTuple):
    """A value of the workload. Its token is unique, so it identifies the change that wrote the value."""

    token: str
    count: int  #: the counter

    def __str__(self) -> str:
        return f"{self.token}={self.count}"


def value_of(document: Any) -> Value | None:
    """Return the value that a stored document holds; None for no document."""
    return None if document is None else Value(document["token"], document["n"])


@dataclass(slots=True)
class Call:
    """One call. Times are nanoseconds of the monotonic clock, which all processes of a machine share."""

    key: str
    #: get, entry, set, update, delete, modify: the conditional set of a read-modify-write, which adds 1; or check: that of a
    #: transaction, alone
    kind: str
    start: int
    end: int = 0
    outcome: str = "ok"  #: "ok"; "rejected": not applied; "unknown": a change that may have been applied, or may still be
    token: str = ""  #: the token of the value that the change writes; the name of a delete
    seen: Value | None = None  #: the value that was read or deleted; None: there was no value
    revision: str | None = None  #: the revision that was read, or that a rejected call found; None: there was no value
    expected: str | None = ANY  #: the revision that the change or check required; None: the key must have no value
    count: int | None = None  #: the counter that a set or modify writes, or that an update returned
    together: str = ""  #: the transaction that made the change or check: the same text for all of one
    made: str | None = None  #: the revision that the transaction returned for the change; None: it deleted no value
    ttl: float | None = None  #: the time to live that a set or update gave, in seconds; None: it named none


def from_json(recorded: dict[str, Any]) -> Call:
    """Return a call that was written as JSON."""
    seen = recorded.pop("seen")
    return Call(**recorded, seen=seen and Value(*seen))

"""Limits for the arguments of a call and for the length of streams. They bound the cost of a script call and Redis's memory."""

from __future__ import annotations

from dataclasses import dataclass

from motia_redis.errors import StateError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limit names, values and updates. Sizes are bytes of UTF-8 or JSON text. Use the same in all processes of a namespace."""

    name_bytes: int = 4096  #: a scope, key, topic or path segment
    value_bytes: int = 4 * 1024 * 1024  #: a value, given or resulting from an update
    operations: int = 1000  #: operations in one update
    pointer_depth: int = 128  #: segments of one path


@dataclass(frozen=True, slots=True)
class Retention:
    """Limit the entries that a stream keeps besides those that a step has not handled.

    About one in 64 writes trims its stream, and the first write of a process after 0.1 s. Redis removes whole nodes of a stream,
    so a stream may keep more entries than `entries`.
    """

    entries: int = 100  #: a stream with at most so many entries is not trimmed
    seconds: float = 0.0  #: younger entries are kept; entries that a repeated call may need are always kept
    most_entries: int = 1_000_000  #: the hard cap: over it, entries that no step has handled are removed too, logged and counted

    def __post_init__(self) -> None:
        if not 0 <= self.entries <= self.most_entries or not 0 <= self.seconds < 10**10:
            raise StateError(f"retention entries must be from 0 to most_entries, and seconds from 0 to below 10**10: {self}")


def check_seconds(name: str, seconds: object, *, least: float) -> float:
    """Return `seconds` if it is a number from `least` to ten years. Raises StateError otherwise."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= 10 * 366 * 86_400:
        raise StateError(f"{name} must be a number of seconds from {least:g} to ten years, not {seconds!r:.80}")
    return seconds

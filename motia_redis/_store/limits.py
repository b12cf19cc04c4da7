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
    transaction_changes: int = 100  #: checks, changes and messages of one transaction
    transaction_bytes: int = 4 * 1024 * 1024  #: old and new values of one transaction together


@dataclass(frozen=True, slots=True)
class Retention:
    """Limit the entries that streams keep. It is stored in Redis: all processes of a namespace use the same.

    About one in 64 writes trims its stream, and the first write of a process after 0.1 s. Redis removes whole nodes of a stream,
    so a stream may keep more entries than `entries`.
    """

    entries: int = 100  #: a stream with at most so many entries is not trimmed, unless it has more than `bytes`
    seconds: float = 0.0  #: younger entries are kept; entries that a repeated call may need are always kept
    most_entries: int = 1_000_000  #: the hard cap: over it, entries that no step has handled are removed too, logged and counted
    #: a stream with more bytes, by an estimate, loses its oldest entries, but none that a step has not handled, or that a
    #: repeated call may need
    bytes: int = 16 * 1024 * 1024
    topic_entries: int = 100_000  #: messages that a topic keeps that no step consumes yet; 0: no more than other streams
    topic_seconds: float = 86_400.0  #: how long it keeps them
    topic_bytes: int = 256 * 1024 * 1024  #: how many bytes of them, by an estimate
    dead_letters: int = 10_000  #: dead letters of one step in one partition; the oldest ones are dropped and counted
    dead_letter_seconds: float = 30 * 86_400.0  #: older dead letters are dropped and counted, when another one is added

    def __post_init__(self) -> None:
        if not 0 <= self.entries <= self.most_entries:
            raise StateError(f"retention entries must be from 0 to most_entries: {self}")
        if min(self.bytes, self.topic_entries, self.topic_bytes) < 0 or self.dead_letters < 1:
            raise StateError(f"retention bytes and topic limits must be 0 or more, and dead_letters 1 or more: {self}")
        if not all(0 <= seconds < 10**10 for seconds in (self.seconds, self.topic_seconds, self.dead_letter_seconds)):
            raise StateError(f"retention seconds must be from 0 to below 10**10: {self}")


def check_seconds(name: str, seconds: object, *, least: float) -> float:
    """Return `seconds` if it is a number from `least` to ten years. Raises StateError otherwise."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= 10 * 366 * 86_400:
        raise StateError(f"{name} must be a number of seconds from {least:g} to ten years, not {seconds!r:.80}")
    return seconds

"""The limits on what a call may hold, and on what streams keep; they bound what one script call, and Redis, has to bear."""

from __future__ import annotations

from dataclasses import dataclass

from motia_redis.errors import StateError


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes of UTF-8 or JSON text. Every process of a namespace should use the same."""

    name_bytes: int = 4096  #: a scope, key, topic or path segment
    value_bytes: int = 4 * 1024 * 1024  #: a value, given or resulting from an update
    operations: int = 1000  #: operations in one update
    pointer_depth: int = 128  #: segments of one path


@dataclass(frozen=True, slots=True)
class Retention:
    """What a lane keeps of its events, and a topic of its messages, beyond those that a subscriber has not handled yet.

    A lane is looked at by one of its changes in 64, or the first of a process in 0.1 s, and whole nodes of the stream go, so
    somewhat more stays.
    """

    entries: int = 100  #: a lane that holds no more is not trimmed
    seconds: float = 0.0  #: younger entries stay, whoever needs them; those that a repeated call may look for stay anyway
    most_entries: int = 1_000_000  #: beyond that, entries go that a subscriber has not handled: logged, counted, in `status`

    def __post_init__(self) -> None:
        if not 0 <= self.entries <= self.most_entries or not 0 <= self.seconds < 10**10:
            raise StateError(f"entries go from 0 to most_entries, seconds from 0: {self}")

    def encode(self, at_least: float) -> bytes:
        """Return the limits as lib/retention.lua takes them; entries younger than `at_least` seconds stay."""
        return b"%d:%d:%d" % (self.entries, self.most_entries, max(self.seconds, at_least) * 1000)


def check_seconds(name: str, seconds: object, *, least: float) -> float:
    """Return `seconds` when it is a number from `least` to ten years; raise StateError otherwise."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= 10 * 366 * 86_400:
        raise StateError(f"{name} is a number of seconds from {least:g} on, not {seconds!r:.80}")
    return seconds

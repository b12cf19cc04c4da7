"""What a watch shows, and how it starts and fails."""

from __future__ import annotations

from typing import Literal, NamedTuple

from motia_redis._store import keyspace
from motia_redis.errors import WatchMisused

_GAPS = ("error", "resync")
_OVERFLOWS = ("error", "latest")


class Selection(NamedTuple):
    """What a watch shows. None: all."""

    scope: str | None
    key: str | None
    prefix: str | None

    def __str__(self) -> str:
        if self.scope is None:
            return "watch of all scopes"
        part = "" if self.key is None else f" key {self.key!r:.200}"
        return f"watch of scope {self.scope!r:.200}{part}" + ("" if self.prefix is None else f" prefix {self.prefix!r:.200}")

    def check(self, max_bytes: int) -> Selection:
        """Return the selection if its names are names of at most `max_bytes` bytes, and fit together."""
        if self.scope is None and (self.key is not None or self.prefix is not None):
            raise WatchMisused("watch: key and prefix need a scope: without one all keys of all scopes are shown")
        if self.key is not None and self.prefix is not None:
            raise WatchMisused(f"{self}: give a key or a prefix, not both")
        for kind, name in (("scope", self.scope), ("key", self.key), ("prefix", self.prefix or None)):
            if name is not None:
                keyspace.encode_name(kind, name, max_bytes)
        return self


class WatchOptions(NamedTuple):
    """The options of a watch; `StateManager.watch` describes them."""

    start: str
    on_gap: Literal["error", "resync"]
    on_overflow: Literal["error", "latest"]
    buffer_items: int
    buffer_bytes: int

    def check(self) -> WatchOptions:
        """Return the options if each is one of its choices. `start` is checked when it is decoded."""
        if self.on_gap not in _GAPS:
            raise WatchMisused(f"watch: on_gap must be one of {', '.join(_GAPS)}, not {self.on_gap!r:.80}")
        if self.on_overflow not in _OVERFLOWS:
            raise WatchMisused(f"watch: on_overflow must be one of {', '.join(_OVERFLOWS)}, not {self.on_overflow!r:.80}")
        check_count("buffer_items", self.buffer_items)
        check_count("buffer_bytes", self.buffer_bytes)
        return self


def check_count(name: str, number: object) -> None:
    """Raise WatchMisused if `number` is not a whole number of 1 or more."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise WatchMisused(f"{name} must be a whole number of 1 or more, not {number!r:.80}")

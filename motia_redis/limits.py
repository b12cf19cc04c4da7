"""The limits on what a call may hold; they bound what one script call costs Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes of UTF-8 or JSON text. Every process of a namespace should use the same."""

    name_bytes: int = 4096  #: a scope, key, topic or path segment
    value_bytes: int = 4 * 1024 * 1024  #: a value, given or resulting from an update
    operations: int = 1000  #: operations in one update
    pointer_depth: int = 128  #: segments of one path

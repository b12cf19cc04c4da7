"""Judge by one's own clock whether others are alive: by what they write, not by what time they write.

The clock of a Redis server may jump. A worker writes a new value with each heartbeat; an observer that sees the same value for as
long as the lease takes knows that the worker has stopped, whatever the server's clock says.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable


class Observed:
    """Remember since when each name has had its value."""

    def __init__(self) -> None:
        self._since: dict[Hashable, tuple[object, float]] = {}

    def unchanged_for(self, name: Hashable, value: object) -> float:
        """Note the value of a name, and return for how many seconds it has been seen."""
        known = self._since.get(name)
        now = time.monotonic()
        if known is None or known[0] != value:
            self._since[name] = (value, now)
            return 0.0
        return now - known[1]

    def restart(self) -> None:
        """Count the time of all values from now on: nobody could write a new one for some time."""
        now = time.monotonic()
        self._since = {name: (value, now) for name, (value, _) in self._since.items()}

    def keep(self, names: Iterable[Hashable]) -> None:
        """Forget all other names."""
        kept = set(names)
        self._since = {name: known for name, known in self._since.items() if name in kept}

"""The time of a test: that by which things fall due in the namespace, and that of the pauses between attempts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router


class MovedClock:
    """Tell the time of a test. Only `move` moves pauses on; things that fall due follow the server's clock as well."""

    def __init__(self, moment: datetime | None) -> None:
        self._pauses = int(time.time() * 1000)
        self.ahead = 0 if moment is None else int(moment.timestamp() * 1000) - self._pauses
        """Milliseconds by which the namespace's clock is ahead of the server's."""

    def now(self) -> int:
        """Return the time of the pauses between attempts, in Unix milliseconds."""
        return self._pauses

    async def apply(self, router: Router, keyspace: Keyspace) -> None:
        """Set the namespace's clock; see lib/clock.lua. Cost: one round trip."""
        keys = [keyspace.trimmed(keyspace.due(partition)) for partition in range(keyspace.layout.partitions)]
        await router.gather([(key, ("HSET", key, "clock", str(self.ahead))) for key in keys])

    async def move(self, milliseconds: int, router: Router, keyspace: Keyspace) -> None:
        """Let so much time pass."""
        self._pauses += milliseconds
        self.ahead += milliseconds
        await self.apply(router, keyspace)

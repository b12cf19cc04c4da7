"""Read the events after a cursor, page by page, in the order in which a watch shows them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from motia_redis._store.cursors import has_reached
from motia_redis._store.feed import find_loss, look_at_lanes
from motia_redis._store.lanes import PartitionLog, ReadSize
from motia_redis.errors import HistoryForked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.cursors import Mark, Positions
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.lanes import Batch, Event
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session

_PAGE_ENTRIES = 100  # largest number of entries of one lane in a read


class History:
    """Read lanes of some partitions from given positions on. `joins` is that of `PartitionLog`, `mark` that of a cursor."""

    def __init__(
        self,
        retries: Retries,
        subject: object,
        keyspace: Keyspace,
        places: Mapping[int, Positions],
        *,
        joins: bool,
        mark: Mark | None,
    ) -> None:
        self.at_end = False  #: whether the last read found all that was there
        self._retries = retries
        self._subject = subject
        self._size = ReadSize(_PAGE_ENTRIES)
        self._logs = {
            partition: PartitionLog(
                {lane: keyspace.events(partition, lane) for lane in positions},
                positions,
                joins=joins,
                first=mark.transaction if mark is not None and mark.partition == partition else None,
                is_history=True,
            )
            for partition, positions in places.items()
        }

    def positions(self) -> dict[int, Positions]:
        """Return how far the events have been returned."""
        return {partition: dict(log.done) for partition, log in self._logs.items()}

    def has_reached(self, targets: Mapping[int, Positions]) -> bool:
        """Return whether all events up to these positions have been returned."""
        return all(
            not log.has_part and all(has_reached(position, targets[partition][lane]) for lane, position in log.done.items())
            for partition, log in self._logs.items()
        )

    async def read(self) -> dict[int, tuple[Batch, list[Event]]]:
        """Return the next events. Raises HistoryGone or HistoryForked if some before them are missing, and StateUnavailable."""
        replies = await self._retries.run(self._subject, self._read, operation="watch")
        self.at_end = not self._size.record([entries for reply in replies for entries in reply.values()])
        taken = {partition: log.take(reply) for (partition, log), reply in zip(self._logs.items(), replies, strict=True)}
        if self.at_end and (missing := [log.first for log in self._logs.values() if log.first is not None]):
            raise HistoryForked(
                f"transaction {missing[0].decode(errors='replace')}, of which this cursor has seen a part, is not there: "
                "the server has lost writes: start with 'snapshot', or give on_gap='resync'"
            )
        return {partition: found for partition, found in taken.items() if found is not None}

    async def _read(self, session: Session, _: Attempt) -> list[Mapping[bytes, Any]]:
        commands = []
        for log in self._logs.values():
            streams = list(log.streams.values())
            commands.append((streams[0], ("XREAD", "COUNT", self._size.count, "STREAMS", *streams, *log.places())))
        replies: list[Mapping[bytes, Any]] = await session.router.gather(commands)
        # What was there when the lanes are looked at, after the read, was also there when they were read.
        looks = await asyncio.gather(
            *(look_at_lanes(session.router, session.keyspace, number, log.read) for number, log in self._logs.items())
        )
        for (number, log), (_time, lanes) in zip(self._logs.items(), looks, strict=True):
            if (loss := find_loss(session.keyspace, number, log.read, lanes)) is not None:
                raise loss
        return replies

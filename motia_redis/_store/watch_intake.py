"""Take events from the feed for one watch, and leave out those that the watch has shown by another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._store.cursors import order
from motia_redis._store.watch_buffer import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._store.cursors import Positions
    from motia_redis._store.lanes import Batch, Event
    from motia_redis.errors import HistoryForked, HistoryGone


class Intake:
    """Hold back what the feed delivers until it is known after which positions the watch goes on.

    Arguments:
        scope, key: what the feed delivers; None: all.
        most: how many events may be held back; `latest`: if they are more, only the last of each key.
        append: takes an event, its partition and its place.
        overflow: learns that too many are held back.
        lose, fail: see `feed.Subscriber`.
    """

    def __init__(
        self,
        scope: bytes | None,
        key: bytes | None,
        *,
        most: int,
        latest: bool,
        append: Callable[[Event, int, Place], None],
        overflow: Callable[[], None],
        lose: Callable[[HistoryGone | HistoryForked], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.scope = scope
        self.key = key
        self.lose = lose
        self.fail = fail
        self._most = most
        self._latest = latest
        self._append = append
        self._overflow = overflow
        self._held: list[tuple[int, Batch, int, Event]] | None = []
        self._floors: dict[tuple[int, int], tuple[int, int]] = {}  # ids up to which events of (partition, lane) were shown
        self.base: dict[int, Positions] = {}  #: where the watch goes on

    def hold(self) -> None:
        """Hold back what is delivered from now on, and forget what was held back."""
        self._held = []

    def release(self, positions: dict[int, Positions]) -> None:
        """Pass on what is delivered after these positions, also what was held back."""
        self.base = positions
        self._floors = {
            (partition, lane): order(position.id) for partition, lanes in positions.items() for lane, position in lanes.items()
        }
        held, self._held = self._held or [], None
        for arguments in held:
            self.push(*arguments)

    def push(self, partition: int, batch: Batch, index: int, event: Event) -> None:
        """Take an event of the scope and key from the feed."""
        if self._held is not None:
            self._held.append((partition, batch, index, event))
            if len(self._held) > self._most:
                self._thin_out()
            return
        if self._floors:
            floor = self._floors.get((partition, event.lane))
            if floor is not None:
                if order(event.id) <= floor:
                    return
                del self._floors[partition, event.lane]
        self._append(event, partition, Place(self.base[partition], batch, index))

    def _thin_out(self) -> None:
        if self._latest and self._held is not None:
            self._held = list({(each[3].scope, each[3].key): each for each in self._held}.values())
            if len(self._held) <= self._most * 3 // 4:
                return
        self._overflow()

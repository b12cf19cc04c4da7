"""Take events from the feed for one watch, and leave out those that the watch has shown by another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._store.cursors import order
from motia_redis._store.lanes import size_of
from motia_redis._store.watch_buffer import latest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from motia_redis._store.cursors import Positions
    from motia_redis._store.lanes import Item
    from motia_redis.errors import HistoryForked, HistoryGone


class Intake:
    """Hold back what the feed delivers until it is known after which positions the watch goes on.

    Arguments:
        scope, key: what the feed delivers; None: all.
        most: how many events may be held back; `thins_out`: if they are more, only the last of each key.
        take: takes items, and the bytes of their values.
        overflow: learns that too many are held back.
        lose, fail: see `feed.Subscriber`.
    """

    def __init__(
        self,
        scope: bytes | None,
        key: bytes | None,
        *,
        most: int,
        thins_out: bool,
        take: Callable[[Sequence[Item], int], None],
        overflow: Callable[[], None],
        lose: Callable[[HistoryGone | HistoryForked], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.scope = scope
        self.key = key
        self.lose = lose
        self.fail = fail
        self.base: dict[int, Positions] = {}  #: after which positions the watch goes on
        self._most = most
        self._thins_out = thins_out
        self._take = take
        self._overflow = overflow
        self._held: list[Item] | None = []
        self._floors: dict[tuple[int, int], tuple[int, int]] = {}  # ids up to which events of (partition, lane) were shown

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
        self.push(held, size_of(held))

    def push(self, items: Sequence[Item], size: int) -> None:
        """Take events of the scope and key from the feed, and the bytes of their values."""
        if self._held is not None:
            self._held.extend(items)
            if len(self._held) > self._most:
                self._thin_out()
        elif self._floors:
            new = [item for item in items if self._is_new(item)]
            self._take(new, size_of(new))
        else:
            self._take(items, size)

    def _is_new(self, item: Item) -> bool:
        event = item.event
        if event is None:
            return True
        floor = self._floors.get((item.partition, event.lane))
        if floor is not None:
            if order(event.id) <= floor:
                return False
            del self._floors[item.partition, event.lane]
        return True

    def _thin_out(self) -> None:
        if self._thins_out and self._held is not None:
            self._held = latest(self._held)
            if len(self._held) <= self._most * 3 // 4:
                return
        self._overflow()

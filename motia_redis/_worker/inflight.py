"""Count the entries that this process holds: read, and not yet acknowledged or left to the lane's next holder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from motia_redis._worker.entries import PreparedCall, StreamEntry
    from motia_redis._worker.leases import Lane


@dataclass(eq=False, slots=True)
class Delivery:
    """One entry on its way through this worker. `entry` is None while the entry is parked."""

    lane: Lane
    id: str
    entry: StreamEntry | None
    size: int
    attempts: int  #: made so far, in any process
    suspect: bool  #: its last holder died; the entry may be the cause
    trace_id: str = ""  #: the same for all attempts made here
    call: PreparedCall | None = None  #: for the first attempt, if the entry was matched when it was read


class Inflight:
    """The deliveries of this process.

    `on_room` is called when more can be read, `on_lane_drained` when a revoked lane has no delivery left.
    """

    def __init__(self, *, on_room: Callable[[], None], on_lane_drained: Callable[[], None]) -> None:
        self._on_room = on_room
        self._on_lane_drained = on_lane_drained

    def add(self, delivery: Delivery) -> None:
        """Count a delivery until `remove`."""
        delivery.lane.held.add(delivery.id)
        delivery.lane.subscription.load.add(delivery.size)

    def park(self, delivery: Delivery) -> None:
        """Drop the fields of an entry that has to wait for long, so that other entries can be read."""
        if delivery.entry is not None:
            delivery.entry = delivery.call = None
            load = delivery.lane.subscription.load
            load.remove(delivery.size)
            load.parked += 1
            self._on_room()

    def unpark(self, delivery: Delivery, entry: StreamEntry) -> None:
        """Give a parked delivery its entry back."""
        load = delivery.lane.subscription.load
        load.parked -= 1
        load.add(delivery.size)
        delivery.entry = entry
        self._on_room()

    def remove(self, lane: Lane, deliveries: Iterable[Delivery]) -> None:
        """Stop counting deliveries of one lane: they are acknowledged, or left to the lane's next holder."""
        load = lane.subscription.load
        was_full = load.is_full
        for delivery in deliveries:
            if delivery.entry is None:
                load.parked -= 1
            else:
                load.remove(delivery.size)
            lane.held.discard(delivery.id)
        if not lane.held and lane.revoked.is_set():
            self._on_lane_drained()
        if was_full and not load.is_full:
            self._on_room()

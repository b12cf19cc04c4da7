"""What a worker's heartbeat tells: how many handlers ran, those that run for long, and the watches of its manager.

A key that hangs is found by what it holds up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from motia_redis._worker.lanes import Delivery, Lane
    from motia_redis._worker.subscriptions import Subscription

_SLOW = 5.0  # seconds after which a handler is named
_MOST = 10  # handlers that one heartbeat names
_MOST_TEXT = 200  # characters of a name


class HandlerReport:
    """Tell what the handlers of some subscriptions do, in some lanes. `watchers` counts open watches."""

    def __init__(self, subscriptions: Sequence[Subscription], lanes: Iterable[Lane], watchers: Callable[[], int]) -> None:
        self._watchers = watchers
        self._subscriptions = subscriptions
        self._slow = _SlowHandlers(lanes)

    def make(self) -> dict[str, Any]:
        """Return what a heartbeat tells. Call it for each one."""
        counts = {each.group: [each.handled, each.failed] for each in self._subscriptions if each.handled or each.failed}
        found = {"counts": counts, "slow": self._slow.look(), "watches": self._watchers()}
        return {name: told for name, told in found.items() if told}


class _SlowHandlers:
    """Look at the handlers that run in some lanes. How long one has run is known as precisely as there are looks."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = lanes
        self._since: dict[tuple[Delivery, int], float] = {}

    def look(self) -> list[dict[str, Any]]:
        """Return a description of each handler that has run for 5 s, the oldest first: at most ten. Call it regularly."""
        now = time.monotonic()
        running = [(delivery, delivery.attempts) for lane in self._lanes for delivery in lane.running.values()]
        self._since = {attempt: self._since.get(attempt, now) for attempt in running}
        slow = [(since, attempt) for attempt, since in self._since.items() if now - since >= _SLOW]
        slow.sort(key=lambda each: each[0])
        return [_describe(delivery, attempts, now - since) for since, (delivery, attempts) in slow[:_MOST]]


def _describe(delivery: Delivery, attempts: int, seconds: float) -> dict[str, Any]:
    facts = {} if delivery.entry is None else delivery.entry.facts
    event = {name: text[:_MOST_TEXT] for name, text in facts.items()}
    return {"step": delivery.lane.subscription.group, "event": event, "attempt": attempts, "seconds": round(seconds, 1)}

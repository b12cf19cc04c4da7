"""Decide what becomes of an entry that was read: nothing, if it is finished or unwanted, else a place in the queue of its key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from motia_redis._worker.entries import PreparedCall, StreamEntry, is_retry_for
from motia_redis._worker.lanes import Delivery
from motia_redis._worker.matching import Candidate, MatchResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._store.manager import StateManager
    from motia_redis._worker.dispatcher import Dispatcher
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger("motia_redis.worker")

_DECODED = 6  # approximate memory of an entry with decoded values, as a multiple of the size of its text


class Intake:
    """Hand entries to the dispatcher. `on_progress` is called with a lane that may have progress to record."""

    def __init__(self, dispatcher: Dispatcher, state: StateManager, *, on_progress: Callable[[Lane], None]) -> None:
        self.on_progress = on_progress
        self._dispatcher = dispatcher
        self._state = state

    def submit(self, lane: Lane, entry_id: str, fields: Any, size: int, *, listed: bool) -> None:
        """Match an entry, and count it as finished, leave it to another version of the step, or queue it for its handler."""
        known = lane.known(entry_id)
        if known is None:
            lane.pass_by(entry_id)
            return
        if lane.running and (running := lane.running.get(entry_id)) is not None:
            # Its handler has gone on while this worker did not hold the lane.
            running.tenure, running.handed = lane.tenure, False
            lane.add(entry_id, running)
            return
        if not fields:
            _log.error("step %s: %s was trimmed before it was handled", lane.subscription.group, entry_id)
            lane.pass_by(entry_id)
            return
        subscription = lane.subscription
        suspect = lane.is_suspect(entry_id, listed=listed)
        match: Any = subscription.matcher.select(fields)
        if match is MatchResult.FILTERED and any(wants.match(fields) for wants in lane.others):
            lane.add(entry_id, None)
            lane.left[entry_id] = None
            return
        entry = None
        if type(match) is list:
            entry = StreamEntry(lane.stream, entry_id, fields, lane.identity)
            match = subscription.matcher.match_when_read(match, entry, self._state)
        is_unwanted = match is MatchResult.FILTERED or match is MatchResult.UNWANTED
        if is_unwanted and not is_retry_for(subscription.group, fields):
            lane.pass_by(entry_id)  # it needs no queue, and does not wait for its key
            return
        entry = entry or StreamEntry(lane.stream, entry_id, fields, lane.identity)
        delivery = Delivery(lane, entry_id, entry, size, *known, suspect, is_unwanted, lane.tenure)
        if isinstance(match, Candidate):
            delivery.trigger = match
        elif isinstance(match, PreparedCall) and not delivery.attempts and not delivery.owner:
            delivery.call, delivery.trace = match, match.trace
            delivery.size *= _DECODED
        self._dispatcher.submit(delivery)

"""Record in Redis what is finished, lane by lane, in batches: one script for the lanes of a partition at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff
from motia_redis._worker.partition_tasks import PartitionTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from motia_redis._store.effects import EventEffects
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger("motia_redis.worker")

_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away


class ProgressReporter:
    """Record the progress of this process's lanes, and release the lanes that are to be released.

    `on_released` is called with a lane that was released, `on_lost` with one that another worker has taken or that has no group,
    `on_recorded` with the leases' key of a partition and the streams whose progress was recorded, `free_effects` with the effects
    of entries that are finished by the word of Redis.
    """

    def __init__(
        self,
        router: Router,
        *,
        worker: str,
        on_released: Callable[[Lane], None],
        on_lost: Callable[[Lane], None],
        on_recorded: Callable[[bytes, Iterable[bytes]], None],
        free_effects: Callable[[Iterable[EventEffects]], None],
    ) -> None:
        self._router = router
        self._worker = worker
        self._on_released = on_released
        self._on_lost = on_lost
        self._on_recorded = on_recorded
        self._free_effects = free_effects
        self._changed: dict[bytes, dict[Lane, None]] = {}  # by partition
        self._tasks = PartitionTasks(self._run)

    def changed(self, lane: Lane) -> None:
        """Record the lane's progress soon, if there is any."""
        if not lane.has_progress:
            return
        leases = lane.keys.leases
        lanes = self._changed.get(leases)
        if lanes is None:
            self._changed[leases] = {lane: None}
            self._tasks.start(leases)
        else:
            lanes[lane] = None

    async def aclose(self) -> None:
        """Record nothing more."""
        await self._tasks.aclose()

    async def _run(self, leases: bytes) -> None:
        """Record until nothing has changed in a partition."""
        backoff = Backoff(*_PAUSES)
        while lanes := self._changed.pop(leases, None):
            try:
                await self._record(list(lanes))
                self._on_recorded(leases, [lane.stream for lane in lanes])
                backoff.reset()
            except (RedisError, OSError) as error:
                if backoff.is_first:
                    outages.report(_log, "recording progress", error)
                self._changed[leases] = lanes | self._changed.get(leases, {})
                await backoff.sleep()

    async def _record(self, lanes: list[Lane]) -> None:
        steps = [(lane, lane.begin_progress(self._worker)) for lane in lanes if lane.has_progress]
        if not steps:
            return
        outcomes = None
        try:
            outcomes = await delivery.progress(self._router, [progress for _, progress in steps], worker=self._worker)
        finally:
            for lane, progress in steps:
                lane.end_progress(progress, done=outcomes is not None)
        for (lane, progress), outcome in zip(steps, outcomes, strict=True):
            recorded = lane.take_recorded_effects()
            if recorded and outcome == "ok":  # else the next holder handles the entries again
                self._free_effects(recorded)
            if lane.tenure != progress.tenure:
                continue  # it has ended meanwhile
            if outcome != "ok":
                self._on_lost(lane)
            elif progress.release:
                self._on_released(lane)
            else:
                self.changed(lane)  # what came meanwhile

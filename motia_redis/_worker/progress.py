"""Record in Redis what is finished, lane by lane, in batches: one script for the lanes of a partition at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery, storage
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger(__name__)

_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away
_TRIM_INTERVAL = 1.0  # seconds between two trims of a lane by the worker that holds it


class ProgressReporter:
    """Record the progress of this process's lanes, and release the lanes that are to be released.

    `on_released` is called with a lane that was released, `on_lost` with one that another worker has taken or that has no group.
    """

    def __init__(
        self,
        router: Router,
        keyspace: Keyspace,
        *,
        worker: str,
        state: StateManager,
        topic_streams: Container[bytes],
        on_released: Callable[[Lane], None],
        on_lost: Callable[[Lane], None],
    ) -> None:
        self._router = router
        self._keyspace = keyspace
        self._worker = worker
        self._state = state
        self._topic_streams = topic_streams
        self._on_released = on_released
        self._on_lost = on_lost
        self._changed: dict[bytes, dict[Lane, None]] = {}  # by partition
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._trimmed: dict[bytes, float] = {}

    def changed(self, lane: Lane) -> None:
        """Record the lane's progress soon, if there is any."""
        if not lane.has_progress:
            return
        leases = lane.keys.leases
        lanes = self._changed.get(leases)
        if lanes is None:
            self._changed[leases] = {lane: None}
            if leases not in self._tasks:
                self._tasks[leases] = asyncio.create_task(self._run(leases))
        else:
            lanes[lane] = None

    async def aclose(self) -> None:
        """Record nothing more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, leases: bytes) -> None:
        """Record until nothing has changed in a partition."""
        backoff = Backoff(*_PAUSES)
        try:
            while lanes := self._changed.pop(leases, None):
                try:
                    await self._record(list(lanes))
                    await self._trim(list(lanes))
                    backoff.reset()
                except (RedisError, OSError, StateError) as error:
                    if backoff.is_first:
                        outages.report(_log, "recording progress", error)
                    self._changed[leases] = lanes | self._changed.get(leases, {})
                    await backoff.sleep()
        finally:
            del self._tasks[leases]

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
            if lane.tenure != progress.tenure:
                continue  # it has ended meanwhile
            if outcome != "ok":
                self._on_lost(lane)
            elif progress.release:
                self._on_released(lane)
            else:
                self.changed(lane)  # what came meanwhile

    async def _trim(self, lanes: list[Lane]) -> None:
        """Trim the streams of lanes that were not trimmed lately: without writes to them nobody else would."""
        now = time.monotonic()
        for stream in {lane.stream for lane in lanes if now - self._trimmed.get(lane.stream, 0.0) >= _TRIM_INTERVAL}:
            self._trimmed[stream] = now
            settings = await self._state.settings()
            is_topic = stream in self._topic_streams
            limits = settings.topic_trimming(self._keyspace.layout.lanes) if is_topic else settings.trimming
            await storage.trim_stream(self._router, stream=stream, trimmed=self._keyspace.trimmed(stream), limits=limits)

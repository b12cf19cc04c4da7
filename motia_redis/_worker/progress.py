"""Record in Redis what is finished, lane by lane, in batches: one script for the lanes of a partition at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery, storage
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger(__name__)

_RECONNECT = (0.1, 1.0)  # seconds: first and longest pause while Redis is away
_TRIM_INTERVAL = 1.0  # seconds between two trims of a stream by the worker that holds its lane


@dataclass(slots=True)
class _Trim:
    """A stream to be trimmed."""

    due: float  #: not earlier
    changed: float  #: when progress was last recorded
    waits: int = 0  #: how often nothing was left to remove but entries that were too young


class ProgressReporter:
    """Record the progress of this process's lanes, and release the lanes that are to be released.

    `on_released` and `on_lost` are called with a lane whose tenure has ended; `on_missing` when its group is gone.
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
        self._to_trim: dict[bytes, dict[bytes, _Trim]] = {}  # by partition and stream
        self._trims: dict[bytes, asyncio.Task[None]] = {}

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
        tasks = [*self._tasks.values(), *self._trims.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, leases: bytes) -> None:
        """Record until nothing has changed in a partition."""
        pause = _RECONNECT[0]
        try:
            while lanes := self._changed.pop(leases, None):
                try:
                    await self._record(list(lanes))
                    self._note_trim(leases, lanes)
                    pause = _RECONNECT[0]
                except (RedisError, OSError, StateError) as error:
                    if pause == _RECONNECT[0]:
                        _log.warning("recording progress: trying again: %s", error)
                    self._changed[leases] = lanes | self._changed.get(leases, {})
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _RECONNECT[1])
        finally:
            del self._tasks[leases]

    async def _record(self, lanes: list[Lane]) -> None:
        steps = [(lane, lane.begin_progress(self._worker)) for lane in lanes if lane.has_progress]
        if not steps:
            return
        outcomes = None
        try:
            outcomes = await delivery.record_progress(self._router, [progress for _, progress in steps], worker=self._worker)
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

    # -- trimming -----------------------------------------------------------------------------------------------------

    def _note_trim(self, leases: bytes, lanes: Iterable[Lane]) -> None:
        """Have the streams of lanes trimmed whose progress was recorded."""
        streams = self._to_trim.setdefault(leases, {})
        now = time.monotonic()
        for lane in lanes:
            trim = streams.setdefault(lane.stream, _Trim(now, now))
            trim.changed = now
            if trim.waits:
                trim.waits, trim.due = 0, now
        if leases not in self._trims:
            self._trims[leases] = asyncio.create_task(self._trim(leases))

    async def _trim(self, leases: bytes) -> None:
        """Trim the streams of a partition as long as there is something to remove: without writes to them nobody else would."""
        streams = self._to_trim[leases]
        try:
            while streams:
                now = time.monotonic()
                for stream, trim in list(streams.items()):
                    if trim.due <= now:
                        await self._trim_stream(stream, trim, streams)
                await asyncio.sleep(_TRIM_INTERVAL)
        finally:
            del self._to_trim[leases], self._trims[leases]

    async def _trim_stream(self, stream: bytes, trim: _Trim, streams: dict[bytes, _Trim]) -> None:
        changed = trim.changed
        try:
            settings = await self._state.settings()
            is_topic = stream in self._topic_streams
            limits = settings.topic_trimming(self._keyspace.layout.lanes) if is_topic else settings.trimming
            trimmed = self._keyspace.trimmed(stream)
            removed = await storage.trim_stream(self._router, stream=stream, trimmed=trimmed, limits=limits)
        except (RedisError, OSError, StateError):
            return  # again after the interval
        if removed or trim.changed > changed:
            return
        if trim.waits < len(settings.trimming_ages):  # what is too young now is old enough then
            trim.due = trim.changed + settings.trimming_ages[trim.waits] + _TRIM_INTERVAL
            trim.waits += 1
        else:
            del streams[stream]

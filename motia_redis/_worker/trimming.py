"""Trim the streams of this worker's lanes: without writes to them nobody else would."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import storage
from motia_redis._worker.partition_tasks import PartitionTasks
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_INTERVAL = 1.0  # seconds between two trims of a stream


@dataclass(slots=True)
class _Trim:
    """A stream to be trimmed."""

    due: float  #: not earlier
    changed: float  #: when progress was last recorded
    waits: int = 0  #: how often nothing was left to remove but entries that were too young


class StreamTrimmer:
    """Trim streams after progress, as long as there is something to remove. One task for each partition that needs it."""

    def __init__(self, router: Router, keyspace: Keyspace, state: StateManager, *, topic_streams: Container[bytes]) -> None:
        self._router = router
        self._keyspace = keyspace
        self._state = state
        self._topic_streams = topic_streams
        self._waiting: dict[bytes, dict[bytes, _Trim]] = {}  # by partition and stream
        self._tasks = PartitionTasks(self._run)

    def note(self, leases: bytes, streams: Iterable[bytes]) -> None:
        """Have streams of a partition trimmed: their groups have come further."""
        waiting = self._waiting.setdefault(leases, {})
        now = time.monotonic()
        for stream in streams:
            trim = waiting.setdefault(stream, _Trim(now, now))
            trim.changed = now
            if trim.waits:
                trim.waits, trim.due = 0, now
        self._tasks.start(leases)

    async def aclose(self) -> None:
        """Trim nothing more."""
        await self._tasks.aclose()

    async def _run(self, leases: bytes) -> None:
        """Trim the streams of a partition until nothing is left to remove."""
        waiting = self._waiting[leases]
        try:
            while waiting:
                now = time.monotonic()
                for stream, trim in list(waiting.items()):
                    if trim.due <= now and await self._trim(stream, trim):
                        del waiting[stream]
                await asyncio.sleep(_INTERVAL)
        finally:
            del self._waiting[leases]

    async def _trim(self, stream: bytes, trim: _Trim) -> bool:
        """Trim a stream. Return whether nothing is left to remove, also later."""
        changed = trim.changed
        try:
            settings = await self._state.settings()
            is_topic = stream in self._topic_streams
            limits = settings.topic_trimming(self._keyspace.layout.lanes) if is_topic else settings.trimming
            trimmed = self._keyspace.trimmed(stream)
            removed = await storage.trim_stream(self._router, stream=stream, trimmed=trimmed, limits=limits)
        except (RedisError, OSError, StateError):
            return False  # again after the interval
        if removed or trim.changed > changed:
            return False
        if trim.waits == len(settings.trimming_ages):
            return True
        # What is too young now is old enough then.
        trim.due = trim.changed + settings.trimming_ages[trim.waits] + _INTERVAL
        trim.waits += 1
        return False

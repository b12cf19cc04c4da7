"""Gather the numbers of this process, and of the namespace, for all who show them as metrics: see `families`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from motia_redis._admin.status import read_status
from motia_redis._admin.stream_sizes import read_stream_bytes
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motia_redis._admin.status import Status
    from motia_redis._metrics import Metrics
    from motia_redis._store.manager import StateManager

_log = logging.getLogger("motia_redis")

_FRESH = 5.0  # seconds for which what was read from Redis is used again
_WAIT = 2.0  # seconds to wait for Redis; the numbers of this process are told then


class ObservedWorker(Protocol):
    """What is told of a worker."""

    @property
    def silence(self) -> float:
        """Return the seconds since the last heartbeat that Redis answered."""
        ...

    def held_lanes(self) -> Sequence[str]:
        """Return the step of each lane that the worker holds."""
        ...


class Facts:
    """Hold what was read from Redis at one moment."""

    def __init__(self, status: Status, sizes: Mapping[str, int] | None, seconds: float) -> None:
        self.status = status
        self.sizes = sizes  #: bytes of the streams by what they hold; None: not permitted
        self.seconds = seconds


class Numbers:
    """The numbers of one process. With a worker, they include those of the whole namespace, which Redis is asked for."""

    def __init__(self, metrics: Metrics, state: StateManager | None = None, worker: ObservedWorker | None = None) -> None:
        self.metrics = metrics
        self.namespace = "" if state is None else state.namespace
        self.has_worker = worker is not None
        self.facts: Facts | None = None  #: None: Redis did not answer
        self.watchers = 0
        self.lanes: Mapping[str, int] = {}  #: that the worker holds, by step
        self.silence = 0.0
        self._state = state
        self._worker = worker
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._has_failed = False

    async def observe(self) -> None:
        """Note what only the event loop may look at, and read what only Redis knows, unless it is fresh.

        A Redis that is away holds up nobody.
        """
        if self._worker is not None and self._state is not None:
            await self._read(self._state)
            self.lanes = Counter(self._worker.held_lanes())
            self.silence = self._worker.silence
        self.watchers = self.metrics.watchers

    async def aclose(self) -> None:
        """End what still reads."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self, state: StateManager) -> None:
        if self._reading is None and time.monotonic() - self._read_at >= _FRESH:
            self._reading = asyncio.create_task(self._read_facts(state))
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_WAIT)
        if self._reading is not None:
            self.facts = None  # old numbers would hide that Redis is away

    async def _read_facts(self, state: StateManager) -> None:
        began = time.monotonic()
        try:
            status, sizes = await asyncio.gather(read_status(state), read_stream_bytes(state))
            self.facts = Facts(status, sizes, time.monotonic() - began)
            self._has_failed = False
        except StateError as error:
            self.facts = None
            if not self._has_failed:
                _log.warning("metrics: the numbers of the namespace cannot be read: %s", error)
            self._has_failed = True
        finally:
            self._read_at = time.monotonic()
            self._reading = None

"""The streams that a step consumes, and how much of them this process may hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from motia_redis import _metrics, _tracing
from motia_redis._steps import invocation
from motia_redis._steps.invocation import is_async
from motia_redis._steps.retrying import with_config
from motia_redis._steps.wants import Wants
from motia_redis._worker.matching import Matcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._steps.definitions import Step
    from motia_redis._steps.retrying import RetryPolicy
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._worker.gates import Gate

_ENTRIES = 2048  # entries of one step that are read and not finished
_REFILL = _ENTRIES // 2  # at most so many are left before more are read: large reads cost less
_BYTES = 16 * 1024 * 1024  # bytes of those entries
_PARKED = 20_000  # entries of one step that wait behind a key in backoff, without their fields


def _nothing() -> None:
    """Do nothing."""


class Load:
    """How many entries and bytes of one step this process holds."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self.parked = 0
        self._is_awaited = False  # somebody waits for room
        self.on_room: Callable[[], None] = _nothing  #: called when more may be read

    @property
    def is_full(self) -> bool:
        """Return whether no more entries may be read now."""
        return self.entries > _REFILL or self.bytes >= _BYTES or self.parked >= _PARKED

    @property
    def room(self) -> int:
        """Return how many more entries may be read now. If there is no room, `on_room` is called when there is."""
        if self.is_full:
            self._is_awaited = True
            return 0
        return _ENTRIES - self.entries

    @property
    def room_bytes(self) -> int:
        """Return how many more bytes may be read now."""
        return max(0, _BYTES - self.bytes)

    def add(self, size: int) -> None:
        """Count an entry with its fields."""
        self.entries += 1
        self.bytes += size

    def hold(self, entries: int, size: int) -> None:
        """Count entries that have arrived, until `release`."""
        self.entries += entries
        self.bytes += size

    def release(self, entries: int, size: int) -> None:
        """Stop counting entries that had arrived. Those that this process keeps were added."""
        self.entries -= entries
        self.bytes -= size
        if self._is_awaited:
            self._tell_room()

    def park(self, size: int) -> None:
        """Count an entry without its fields from now on."""
        self.parked += 1
        self.remove(size)

    def unpark(self, size: int) -> None:
        """Count a parked entry with its fields again."""
        self.add(size)
        self.remove_parked()

    def remove(self, size: int) -> None:
        """Stop counting an entry with its fields."""
        self.entries -= 1
        self.bytes -= size
        if self._is_awaited:
            self._tell_room()

    def remove_parked(self) -> None:
        """Stop counting a parked entry."""
        self.parked -= 1
        if self._is_awaited:
            self._tell_room()

    def _tell_room(self) -> None:
        if not self.is_full:
            self._is_awaited = False
            self.on_room()


class Subscription:
    """The share of one step in the streams. Its consumer groups have the step's name."""

    def __init__(self, step: Step, keyspace: Keyspace) -> None:
        self.step = step
        self.load = Load()
        self.handled = 0  #: attempts that succeeded since the worker's start
        self.failed = 0  #: attempts that failed
        self.is_paused = False  #: nothing is read, and no handler begins
        self.gate: Gate[Any] | None = None  #: what handlers have to pass; None: nothing
        self.group = step.name
        self.matcher = Matcher(step)
        self.wants = Wants.of(step)
        self._counts = None if _metrics.active is None else _metrics.active.of_step(step.name)
        #: calls a handler, as `invocation.call`
        self.invoke: Callable[..., Awaitable[Any]] = invocation.call if self._counts is None else _counting(self._counts)
        if _tracing.spans is not None:
            self.invoke = _tracing.spans.handling(step.name, self.invoke)
        self.streams = self.wants.streams(keyspace)
        self._retries = step.retries
        self._retries_of = {
            stream: with_config(step.retries, trigger.config, can_time_out=is_async(step.handler))
            for trigger in step.queue_triggers
            if trigger.config
            for stream in keyspace.topic_streams(trigger.topic)
        }

    def retries(self, stream: bytes) -> RetryPolicy:
        """Return how attempts are made at the entries of a stream."""
        return self._retries_of.get(stream, self._retries)

    def count(self, outcome: Literal["failed", "dead_letter"]) -> None:
        """Count a failed attempt."""
        self.failed += 1
        if self._counts is not None:
            if outcome == "failed":
                self._counts.failed += 1
            else:
                self._counts.dead_letters += 1


def _counting(counts: _metrics.StepCounts) -> Callable[..., Awaitable[Any]]:
    """Return `invocation.call`, which also counts and measures."""
    observe = counts.durations.observe

    async def call(handler: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        counts.running += 1
        try:
            result = await invocation.call(handler, *arguments)
        finally:
            counts.running -= 1
            observe(time.monotonic() - began)
        counts.handled += 1
        return result

    return call

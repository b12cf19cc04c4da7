"""Let the handlers of steps with `effects_once` find what earlier attempts did, and free these records at the end of an entry."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._store import effects
from motia_redis._store.entry_ids import order
from motia_redis._transport.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from motia_redis._store.effects import EventEffects
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.entries import StreamEntry
    from motia_redis._worker.lanes import Delivery

_log = logging.getLogger("motia_redis.worker")

_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away
_PATIENCE = 2.0  # seconds for which a worker that stops tries to free records
_TRIES = 100  # to free one batch
_BATCH = 500  # records that are freed at once
_MARGIN = 5000  # milliseconds by which clocks may differ
_SPARE = 86_400.0  # seconds for which records stay beyond the age of dead letters


class EffectRecords:
    """Begin the records of entries, and free them. What is not freed expires some time after the oldest dead letter would."""

    def __init__(self, state: StateManager, router: Router, keyspace: Keyspace, *, keeps_all: bool) -> None:
        self._state = state
        self._router = router
        self._keyspace = keyspace
        self._keeps_all = keeps_all
        self._ended: list[EventEffects] = []
        self._task: asyncio.Task[None] | None = None

    async def begin(self, delivery: Delivery, entry: StreamEntry) -> None:
        """Give the entry its effects, for all attempts that are made here."""
        if delivery.effects is not None:
            return
        lane, retention = delivery.lane, (await self._state.settings()).retention
        is_new = order(entry.id)[0] > lane.taken_at + _MARGIN and b"only" not in entry.fields
        delivery.effects = effects.EventEffects(
            effects.record_name(entry.event_id),
            place=(self._state.url, self._state.namespace),
            lifetime=int((2 * retention.dead_letter_seconds + _SPARE) * 1000),
            is_first=is_new and delivery.attempts <= 1,
        )

    def free(self, events: Iterable[EventEffects]) -> None:
        """Delete the records of entries soon. Redis must have confirmed their end: an entry may run again before."""
        if self._keeps_all:
            return
        self._ended += [event for event in events if event.has_records]
        if self._ended and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Free what is left, unless Redis is away."""
        if self._task is not None and not (await asyncio.wait([self._task], timeout=_PATIENCE))[0]:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        backoff, tries = Backoff(*_PAUSES), 0
        while self._ended:
            some, self._ended = self._ended[:_BATCH], self._ended[_BATCH:]
            try:
                await effects.free(self._router, self._keyspace, [(event.name, event.partitions) for event in some])
                backoff, tries = Backoff(*_PAUSES), 0
            except (RedisError, OSError) as error:
                tries += 1
                if tries < _TRIES:
                    self._ended = some + self._ended
                    await backoff.sleep()
                else:
                    _log.warning("records of the effects of %d events stay until they expire: %s", len(some), error)
                    tries = 0
        self._task = None


async def made_once(event: EventEffects, handler: Awaitable[Any]) -> None:
    """Await a handler that makes its changes as effects of an event."""
    running = effects.Effects(event)
    effects.enter(running)
    try:
        await handler
        running.is_over = True  # after an error, what still runs may be ahead of the next attempt
    finally:
        effects.enter(None)

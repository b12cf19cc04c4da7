"""Run handlers: the entries of a key one after the other, with attempts, backoff and dead letters.

A few tasks, as many as handlers may run at once, take the keys that are ready in turn. A handler that waits for nothing needs no
task of its own, and a busy key delays no other key.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._ids import generator
from motia_redis._scripts import delivery as scripts
from motia_redis._steps import invocation
from motia_redis._steps.logs import enter_step
from motia_redis._tracing import enter_trace
from motia_redis._worker.entries import PreparedCall, StreamEntry
from motia_redis._worker.inflight import Delivery
from motia_redis._worker.matching import MatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.acknowledger import Acknowledger
    from motia_redis._worker.inflight import Inflight
    from motia_redis._worker.leases import Lane, Leases

_log = logging.getLogger(__name__)

_DECODED = 6  # approximate memory of an entry with decoded values, as a multiple of the size of its text
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away
_TURN = 32  # entries that one task handles before other tasks of the loop run, even if no handler waits
_ERROR_TEXT = 4000  # characters of an error that a dead letter keeps


class WorkerDied(Exception):
    """Every attempt at an entry ended with the end of the process that made it."""


class _Outcome(Enum):
    """What happens to an entry after one turn."""

    DONE = "acknowledge it"
    LEFT = "leave it to the lane's next holder; or it is a dead letter already"
    LATER = "try it again; its key becomes ready by itself"


class Dispatcher:
    """Queue entries by key, run the handlers and decide what follows from the outcome.

    Arguments:
        state: what handlers get as `ctx.state`.
        router: connections for what the dispatcher itself sends.
        concurrency: how many handlers run at once.
        executor: threads for sync handlers.
    """

    def __init__(
        self,
        state: StateManager,
        router: Router,
        keyspace: Keyspace,
        *,
        leases: Leases,
        inflight: Inflight,
        acknowledger: Acknowledger,
        concurrency: int,
        executor: Executor,
    ) -> None:
        self._state = state
        self._router = router
        self._keyspace = keyspace
        self._leases = leases
        self._inflight = inflight
        self._acknowledger = acknowledger
        self._executor = executor
        self._queues: dict[Any, deque[Delivery]] = {}
        self._ready: deque[Any] = deque()  # keys whose first entry can be handled now
        self._idle_slots = concurrency  # how many more tasks may handle entries; below 0, that many have to end
        self._is_task_starting = False  # a task was created and has not begun
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference to a task
        self._blocked: set[Any] = set()  # keys in backoff
        self._is_suspect_running = False
        self._waiting_suspects: deque[Any] = deque()  # keys that wait for the running suspect

    # -- queueing -----------------------------------------------------------------------------------------------------

    def submit(self, lane: Lane, entry: StreamEntry, *, attempts: int, suspect: bool) -> None:
        """Queue an entry behind the others of its key. Acknowledge an entry that no trigger wants.

        A new entry is matched here if its conditions allow that: an unwanted entry then needs no queue and no task, and does not
        wait for its key.
        """
        matcher = lane.subscription.matcher
        size = sum(map(len, entry.fields.values()))
        delivery = Delivery(lane, entry.id, entry, size, attempts, suspect)
        if matcher.has_filters and not attempts and not suspect:
            match = matcher.match_when_read(entry, self._state)
            if match is MatchResult.UNWANTED:
                self._inflight.add(delivery)
                self._acknowledger.add(lane, delivery)
                return
            if isinstance(match, PreparedCall):
                delivery.call, delivery.trace_id = match, match.ctx.trace_id
                delivery.size *= _DECODED
        self._inflight.add(delivery)
        key = (lane, *entry.order_key)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque([delivery])
            self._make_ready(key)
        else:
            queue.append(delivery)
            if key in self._blocked:
                self._inflight.park(delivery)

    def acknowledge_trimmed(self, lane: Lane, entry_id: str) -> None:
        """Acknowledge an entry that is pending but no longer in the stream: nobody can handle it."""
        delivery = Delivery(lane, entry_id, StreamEntry(lane.stream, entry_id, {}), 0, 0, suspect=False)
        _report_trimmed(delivery)
        self._inflight.add(delivery)
        self._acknowledger.add(lane, delivery)

    # -- handling -----------------------------------------------------------------------------------------------------

    def _make_ready(self, key: Any) -> None:
        """Let a task handle the first entry of a key."""
        self._ready.append(key)
        self._spawn_task()

    def _spawn_task(self) -> None:
        """Start one more task, unless one is starting or there are enough."""
        if self._idle_slots > 0 and not self._is_task_starting:
            self._idle_slots -= 1
            self._is_task_starting = True
            self._start_background(self._run())

    def _start_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Handle what is ready: one entry of each key in turn."""
        self._is_task_starting = False
        turns = 0
        try:
            while self._ready and self._idle_slots >= 0:
                key = self._ready.popleft()
                if self._ready:
                    self._spawn_task()
                queue = self._queues[key]
                if await self._deliver(queue[0], key):
                    queue.popleft()
                    if queue:
                        self._ready.append(key)
                    else:
                        del self._queues[key]
                turns += 1
                if turns % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._idle_slots += 1

    async def _deliver(self, delivery: Delivery, key: Any) -> bool:
        """Handle the first entry of a key if this worker still holds the lane. Return whether the next entry may follow."""
        lane = delivery.lane
        outcome = _Outcome.LEFT
        try:
            if not lane.revoked.is_set() and self._leases.valid():
                entry = delivery.entry or await self._read_parked(delivery)
                if entry is not None:
                    outcome = await self._try(delivery, entry, key)
                elif not lane.revoked.is_set():
                    _report_trimmed(delivery)
                    outcome = _Outcome.DONE
        except Exception:  # noqa: BLE001  # a defect of this package: the entry stays pending, and its lane goes on
            _log.exception("step %s: entry %s", lane.subscription.group, delivery.id)
        if outcome is _Outcome.DONE:
            self._acknowledger.add(lane, delivery)
        elif outcome is _Outcome.LEFT:
            self._inflight.remove(lane, [delivery])
        return outcome is not _Outcome.LATER

    async def _read_parked(self, delivery: Delivery) -> StreamEntry | None:
        """Read a parked entry again. Return None when it is no longer in the stream, or the lane is revoked meanwhile."""
        lane = delivery.lane

        async def read() -> Any:
            return await self._router.execute(lane.stream, "XRANGE", lane.stream, delivery.id, delivery.id)

        reply = await self._until_done(lane, read)
        if not reply:
            return None
        entry = StreamEntry(lane.stream, delivery.id, reply[0][1])
        self._inflight.unpark(delivery, entry)
        return entry

    async def _try(self, delivery: Delivery, entry: StreamEntry, key: Any) -> _Outcome:
        """Run the handler if an attempt is left, then schedule a retry or write a dead letter if it failed."""
        step = delivery.lane.subscription.step
        delivery.trace_id = delivery.trace_id or entry.trace_id
        enter_trace(delivery.trace_id)
        enter_step(step.name)
        error: BaseException | None
        if delivery.attempts >= step.max_attempts:
            error = WorkerDied(f"the process ended during each of {delivery.attempts} attempts")
        elif not delivery.suspect:
            error = await self._attempt(delivery, entry)
        elif delivery.attempts and self._is_suspect_running:
            self._waiting_suspects.append(key)
            return _Outcome.LATER
        else:
            error = await self._attempt_suspect(delivery, entry)
        if error is None:
            return _Outcome.DONE
        if delivery.attempts < step.max_attempts:
            self._back_off(key, delivery, error)
            return _Outcome.LATER
        await self._dead_letter(delivery, error)
        return _Outcome.LEFT

    async def _attempt_suspect(self, delivery: Delivery, entry: StreamEntry) -> BaseException | None:
        """Run the handler for an entry that may have ended a process. Record the attempt before it begins."""
        alone = bool(delivery.attempts)  # the first time, no other entry can be confused with the cause
        if alone:
            self._is_suspect_running = True
        try:
            await self._record(delivery)
            error = await self._attempt(delivery, entry)
        finally:
            if alone:
                self._is_suspect_running = False
                while self._waiting_suspects:  # all of them: the next one may be left without a run, and then wakes nobody
                    self._make_ready(self._waiting_suspects.popleft())
        delivery.suspect = False  # the handler ran, and the process lives
        return error

    async def _attempt(self, delivery: Delivery, entry: StreamEntry) -> BaseException | None:
        """Run the handler once and count the attempt. Return what the handler raised."""
        timeout = delivery.lane.subscription.step.timeout
        task: Any = asyncio.current_task()
        error: BaseException
        delivery.attempts += 1
        try:
            if timeout is None:
                await self._handle(delivery, entry)
            else:
                async with asyncio.timeout(timeout):
                    await self._handle(delivery, entry)
        except asyncio.CancelledError as cancelled:
            if task.cancelling():
                raise
            error = cancelled  # raised by the handler itself
        except Exception as raised:  # noqa: BLE001  # a handler may raise anything; only its own key must wait
            error = raised
        else:
            return None
        finally:
            while task.cancelling():  # a handler ignored its cancellation: the next handler must not get it
                task.uncancel()
        if not delivery.suspect:
            await self._record(delivery)
        return error

    async def _handle(self, delivery: Delivery, entry: StreamEntry) -> None:
        """Call the handler if a trigger matches. Raise what user code raises."""
        subscription = delivery.lane.subscription
        call, delivery.call = delivery.call, None
        call = call or await subscription.matcher.match(entry, self._state, delivery.trace_id, delivery.attempts)
        if call is not None:
            await invocation.call(subscription.step.handler, call.input, call.ctx, self._executor)

    async def _record(self, delivery: Delivery) -> None:
        """Count an attempt in Redis, so that the lane's next holder continues the count."""
        lane = delivery.lane
        key = self._keyspace.attempts(lane.stream, lane.subscription.group)
        with suppress(RedisError, OSError):  # then the count starts again after a crash: one attempt more, none less
            await self._router.execute(key, "HINCRBY", key, lane.attempts_field(delivery.id), 1)

    def _back_off(self, key: Any, delivery: Delivery, error: BaseException) -> None:
        """Let a key wait before its next attempt. Park what is queued behind it, so that other entries can be read."""
        lane, step = delivery.lane, delivery.lane.subscription.step
        pause = step.pause(delivery.attempts) * generator.uniform(0.8, 1.2)
        _log.warning(
            "step %s: attempt %d of %d at %s failed, next in %.1f s: %r",
            step.name, delivery.attempts, step.max_attempts, delivery.id, pause, error, exc_info=error,
        )  # fmt: skip
        self._blocked.add(key)
        for waiting in list(self._queues[key])[1:]:
            self._inflight.park(waiting)
        self._start_background(self._resume(key, lane, pause))

    async def _resume(self, key: Any, lane: Lane, pause: float) -> None:
        """Make a key ready after its pause, or at once when its lane is revoked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await lane.revoked.wait()
        self._blocked.discard(key)
        self._make_ready(key)

    async def _dead_letter(self, delivery: Delivery, error: BaseException) -> None:
        """Move an entry to the step's dead letters and acknowledge it, in one atomic step."""
        lane, step = delivery.lane, delivery.lane.subscription.group
        _log.error("step %s: giving up on %s after %d attempts: %r", step, delivery.id, delivery.attempts, error, exc_info=error)
        text = str(error)[:_ERROR_TEXT].encode(errors="replace")

        async def move() -> bool:
            return await scripts.dead_letter(
                self._router,
                leases=self._keyspace.leases(lane.stream),
                stream=lane.stream,
                recorded=self._keyspace.attempts(lane.stream, step),
                dead=self._keyspace.dead(lane.stream, step),
                worker=self._leases.worker,
                lane=lane.name,
                group=step,
                entry_id=delivery.id,
                error_type=type(error).__name__,
                error_text=text,
                attempts=delivery.attempts,
            )

        await self._until_done(lane, move)

    async def _until_done(self, lane: Lane, send: Callable[[], Any]) -> Any:
        """Repeat a call that may run twice until Redis has answered. Return None when the lane is revoked before.

        Another task may handle entries meanwhile: what Redis refuses for this entry must not stop the others.
        """
        pause = _RECONNECT[0]
        self._idle_slots += 1
        self._spawn_task()
        try:
            while True:
                try:
                    return await send()
                except (RedisError, OSError) as error:
                    _log.warning("step %s: trying again in %.1f s: %s", lane.subscription.group, pause, error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await lane.revoked.wait()
                            return None
                    pause = min(pause * 2, _RECONNECT[1])
        finally:
            self._idle_slots -= 1


def _report_trimmed(delivery: Delivery) -> None:
    _log.error("step %s: %s was trimmed before it was handled", delivery.lane.subscription.group, delivery.id)

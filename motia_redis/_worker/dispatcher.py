"""Handling what was read: each key's entries one after the other, attempts, retries, dead letters.

Few tasks, as many as handlers may run at once, take turns with the keys that are ready: so a handler that waits for nothing costs
no task of its own, and a busy key holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._ids import generator
from motia_redis._scripts import delivery as scripts
from motia_redis._steps.logs import enter_step
from motia_redis._tracing import enter_trace
from motia_redis._worker.subscriptions import Glance, PreparedCall, StreamEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from concurrent.futures import Executor

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.acknowledger import Acknowledger
    from motia_redis._worker.leases import Lane, Leases

_log = logging.getLogger(__name__)

_DECODED = 6  # times the size of its text that an entry takes, roughly, while it waits with its values decoded
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away
_TURN = 32  # entries that one task handles before others have the event loop, handlers that wait for nothing included
_ERROR_TEXT = 4000  # characters of an error that a dead letter keeps


class WorkerDied(Exception):
    """Every attempt at an entry ended with the end of the process that made it."""


@dataclass(eq=False, slots=True)
class Delivery:
    """One entry on its way through this worker. `entry` is None while it is parked."""

    lane: Lane
    id: str
    entry: StreamEntry | None
    size: int
    attempts: int  #: made so far, in any process
    suspect: bool  #: its last holder died; it may be the cause
    trace_id: str = ""  #: the same for all attempts made here
    call: PreparedCall | None = None  #: for the first attempt, if it was matched when it was read


class _Outcome(Enum):
    """What becomes of an entry behind one turn."""

    DONE = "to be acknowledged"
    LEFT = "left to the lane's next holder, or moved to the dead letters already"
    LATER = "to be tried again; its key comes back by itself"


class Dispatcher:
    """The entries in this process. `on_room` is called when there is room to read more."""

    def __init__(
        self,
        state: StateManager,
        router: Router,
        keyspace: Keyspace,
        *,
        concurrency: int,
        executor: Executor,
        on_room: Callable[[], None],
    ) -> None:
        self.leases: Leases  # set by the worker, which ties these together
        self.acknowledger: Acknowledger
        self._state = state
        self._router = router
        self._keyspace = keyspace
        self._executor = executor
        self._on_room = on_room
        self._queues: dict[Any, deque[Delivery]] = {}
        self._ready: deque[Any] = deque()  # keys whose first entry can be handled now
        self._idle_slots = concurrency  # how many more tasks may handle entries; below 0, so many have to end
        self._is_task_starting = False  # a task was made that has not begun
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._blocked: set[Any] = set()  # keys in back-off
        self._is_suspect_running = False
        self._suspects: deque[Any] = deque()  # keys that wait for it

    # -- taking in ----------------------------------------------------------------------------------------------------

    def submit(self, lane: Lane, entry: StreamEntry, *, attempts: int, suspect: bool) -> None:
        """Queue an entry behind those of its key; one that no trigger wants is only acknowledged.

        What was not tried before is matched at once where its conditions allow that, so that what is filtered out costs no queue
        and no task, whatever its key waits for.
        """
        subscription = lane.subscription
        size = sum(map(len, entry.fields.values()))
        delivery = Delivery(lane, entry.id, entry, size, attempts, suspect)
        if subscription.has_filters and not attempts and not suspect:
            glance = subscription.glance(entry, self._state)
            if glance is Glance.UNWANTED:
                self._hold(delivery)
                self.acknowledger.add(lane, delivery)
                return
            if isinstance(glance, PreparedCall):
                delivery.call, delivery.trace_id = glance, glance.ctx.trace_id
                delivery.size *= _DECODED
        self._hold(delivery)
        key = (lane, *entry.order_key)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque([delivery])
            self._make_ready(key)
        else:
            queue.append(delivery)
            if key in self._blocked:
                self._park(delivery)

    def acknowledge_trimmed(self, lane: Lane, entry_id: str) -> None:
        """Acknowledge an entry that is pending and not in the stream any more: nobody can handle it."""
        delivery = Delivery(lane, entry_id, StreamEntry(lane.stream, entry_id, {}), 0, 0, suspect=False)
        _report_trimmed(delivery)
        self._hold(delivery)
        self.acknowledger.add(lane, delivery)

    def _hold(self, delivery: Delivery) -> None:
        """Count an entry until it is dropped."""
        delivery.lane.held.add(delivery.id)
        delivery.lane.subscription.load.add(delivery.size)

    def _park(self, delivery: Delivery) -> None:
        """Keep only the id of an entry that has to wait for long, so that others can be read."""
        if delivery.entry is not None:
            delivery.entry = delivery.call = None
            load = delivery.lane.subscription.load
            load.remove(delivery.size)
            load.parked += 1
            self._on_room()

    async def _unpark(self, delivery: Delivery) -> StreamEntry | None:
        """Read a parked entry again; None when it is not in the stream any more."""
        lane = delivery.lane

        async def read() -> Any:
            return await self._router.execute(lane.stream, "XRANGE", lane.stream, delivery.id, delivery.id)

        reply = await self._until_done(lane, read)
        if not reply:
            return None
        load = lane.subscription.load
        load.parked -= 1
        load.add(delivery.size)
        self._on_room()
        delivery.entry = StreamEntry(lane.stream, delivery.id, reply[0][1])
        return delivery.entry

    def drop(self, lane: Lane, dispatcher: Iterable[Delivery]) -> None:
        """Forget entries of one lane: they are acknowledged, or left to the lane's next holder."""
        load = lane.subscription.load
        was_full = load.is_full
        for delivery in dispatcher:
            if delivery.entry is None:
                load.parked -= 1
            else:
                load.remove(delivery.size)
            lane.held.discard(delivery.id)
        if not lane.held and lane.revoked.is_set():
            self.leases.lane_drained()
        if was_full and not load.is_full:
            self._on_room()

    # -- handling -----------------------------------------------------------------------------------------------------

    def _make_ready(self, key: Any) -> None:
        """Have the first entry of a key handled: by a task that has time, or one that comes."""
        self._ready.append(key)
        self._spawn_task()

    def _spawn_task(self) -> None:
        """Let one more task come, unless one does or there are enough; it takes over when handlers wait for something."""
        if self._idle_slots > 0 and not self._is_task_starting:
            self._idle_slots -= 1
            self._is_task_starting = True
            self._start_background(self._run())

    def _start_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Handle what is ready: an entry of each key in turn."""
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
        """See to the first entry of a key, if this worker still may; return whether the next one may follow."""
        lane = delivery.lane
        outcome = _Outcome.LEFT
        try:
            if not lane.revoked.is_set() and self.leases.valid():
                entry = delivery.entry or await self._unpark(delivery)
                if entry is not None:
                    outcome = await self._try(delivery, entry, key)
                elif not lane.revoked.is_set():
                    _report_trimmed(delivery)
                    outcome = _Outcome.DONE
        except Exception:  # noqa: BLE001  # a defect of ours: the entry stays pending, and its lane goes on
            _log.exception("step %s: entry %s", lane.subscription.group, delivery.id)
        if outcome is _Outcome.DONE:
            self.acknowledger.add(lane, delivery)
        elif outcome is _Outcome.LEFT:
            self.drop(lane, [delivery])
        return outcome is not _Outcome.LATER

    async def _try(self, delivery: Delivery, entry: StreamEntry, key: Any) -> _Outcome:
        """Run the handler if an attempt is left, and see to what follows from that."""
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
            self._suspects.append(key)
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
        """Run the handler for an entry that may be what ended a process, and count it before."""
        alone = bool(delivery.attempts)  # not for the first time: then nothing else is to be suspected with it
        if alone:
            self._is_suspect_running = True
        try:
            await self._record(delivery)
            error = await self._attempt(delivery, entry)
        finally:
            if alone:
                self._is_suspect_running = False
                while self._suspects:  # all: the next one may have nothing to run, and would wake nobody
                    self._make_ready(self._suspects.popleft())
        delivery.suspect = False  # it ran, and the process lives
        return error

    async def _attempt(self, delivery: Delivery, entry: StreamEntry) -> BaseException | None:
        """Run the handler once and count it; return what it raised."""
        subscription = delivery.lane.subscription
        timeout = subscription.step.timeout
        task: Any = asyncio.current_task()
        error: BaseException
        delivery.attempts += 1
        call, delivery.call = delivery.call, None
        run = subscription.handle(entry, call, delivery.trace_id, delivery.attempts, state=self._state, executor=self._executor)
        try:
            if timeout is None:
                await run
            else:
                async with asyncio.timeout(timeout):
                    await run
        except asyncio.CancelledError as cancelled:
            if task.cancelling():
                raise
            error = cancelled  # the handler's own doing
        except Exception as raised:  # noqa: BLE001  # a handler may raise anything; only its own key must wait
            error = raised
        else:
            return None
        finally:
            while task.cancelling():  # of a handler that took no notice; the next one would be blamed
                task.uncancel()
        if not delivery.suspect:
            await self._record(delivery)
        return error

    async def _record(self, delivery: Delivery) -> None:
        """Count an attempt in Redis, so that the next holder of the lane goes on from there."""
        lane = delivery.lane
        key = self._keyspace.attempts(lane.stream, lane.subscription.group)
        with suppress(RedisError, OSError):  # then the count starts again after a crash: an attempt more, none less
            await self._router.execute(key, "HINCRBY", key, lane.attempts_field(delivery.id), 1)

    def _back_off(self, key: Any, delivery: Delivery, error: BaseException) -> None:
        """Let a key wait; what is queued behind it must not keep others from being read."""
        lane, step = delivery.lane, delivery.lane.subscription.step
        pause = step.pause(delivery.attempts) * generator.uniform(0.8, 1.2)
        _log.warning(
            "step %s: attempt %d of %d at %s failed, next in %.1f s: %r",
            step.name, delivery.attempts, step.max_attempts, delivery.id, pause, error, exc_info=error,
        )  # fmt: skip
        self._blocked.add(key)
        for waiting in list(self._queues[key])[1:]:
            self._park(waiting)
        self._start_background(self._resume(key, lane, pause))

    async def _resume(self, key: Any, lane: Lane, pause: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await lane.revoked.wait()
        self._blocked.discard(key)
        self._make_ready(key)

    async def _dead_letter(self, delivery: Delivery, error: BaseException) -> None:
        """Move an entry to the step's dead letters and acknowledge it, in one step."""
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
                worker=self.leases.worker,
                lane=lane.name,
                group=step,
                entry_id=delivery.id,
                error_type=type(error).__name__,
                error_text=text,
                attempts=delivery.attempts,
            )

        await self._until_done(lane, move)

    async def _until_done(self, lane: Lane, send: Callable[[], Any]) -> Any:
        """Repeat a call that may be made twice until Redis has answered; None when the lane closes before.

        Meanwhile another task may handle entries: what Redis refuses for this one must not stop the others.
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

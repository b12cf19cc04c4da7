"""Schedule handlers: the entries of a key one after the other, different keys in parallel.

A few tasks, as many as handlers may run at once, take the keys that are ready in turn. A handler that waits for nothing needs no
task of its own, and a busy key delays no other key.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from motia_redis._worker.attempts import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._worker.attempts import Attempts
    from motia_redis._worker.gates import Gate
    from motia_redis._worker.lanes import Delivery, Lane

    OrderKey = tuple[bytes, bytes]

_log = logging.getLogger("motia_redis.worker")

_DOUBT = 0.2  # seconds after which a key looks again whether the lease was renewed
_DEFECT = 5.0  # seconds before an entry is tried again that met a defect of this package
_TURN = 32  # entries that one task handles before other tasks of the loop run, even if no handler waits


class KeyQueue:
    """The entries of one key of a lane, in order. The first one runs, or is next."""

    __slots__ = ("deliveries", "is_waiting", "lane", "order_key", "timer")

    def __init__(self, lane: Lane, order_key: OrderKey) -> None:
        self.lane = lane
        self.order_key = order_key
        self.deliveries: deque[Delivery] = deque()  #: empty when the queue is no longer in use
        self.is_waiting = False  #: the first one waits for a time, or to be woken
        self.timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Queue entries by key and run them through `attempts`. `on_progress` is called with a lane that has progress to record."""

    def __init__(self, attempts: Attempts, *, concurrency: int, on_progress: Callable[[Lane], None]) -> None:
        self._attempts = attempts
        attempts.on_waiting = self._background
        self._on_progress = on_progress
        self._queues: dict[Lane, dict[OrderKey, KeyQueue]] = {}
        self._ready: deque[KeyQueue] = deque()  # those whose first entry can be handled now
        self._waiting: set[KeyQueue] = set()
        self._idle_slots = concurrency  # how many more tasks may handle entries; below 0, that many have to end
        self._is_task_starting = False  # a task was created and has not begun
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference to a task
        self._drained = asyncio.Event()
        self._running = 0
        self._closed = False

    # -- queueing -----------------------------------------------------------------------------------------------------

    def submit(self, delivery: Delivery) -> None:
        """Queue an entry behind the others of its key."""
        lane, entry = delivery.lane, delivery.entry
        assert entry is not None, "an entry is parked only behind others"  # noqa: S101  # for the type checker
        lane.add(delivery.id, delivery)
        lane.subscription.load.add(delivery.size)
        queues = self._queues.get(lane)
        if queues is None:
            queues = self._queues[lane] = {}
        order_key = entry.order_key
        queue = queues.get(order_key)
        if queue is None:
            queue = queues[order_key] = KeyQueue(lane, order_key)
            queue.deliveries.append(delivery)
            self.make_ready(queue)
        else:
            queue.deliveries.append(delivery)
            if queue.is_waiting:
                delivery.park()

    def drop(self, lane: Lane) -> None:
        """Forget what is queued for a lane that is given away, or lost. What runs goes on."""
        for queue in list(self._queues.get(lane, {}).values()):
            running = queue.deliveries[0] if queue.deliveries[0].id in lane.running else None
            for delivery in queue.deliveries:
                if delivery is not running:
                    delivery.uncount()
            queue.deliveries.clear()
            if running is None:
                self._stop_waiting(queue)
                self._remove(queue)
            else:
                queue.deliveries.append(running)
        if lane.subscription.gate is not None:
            lane.subscription.gate.forget_dropped()

    async def drain(self) -> None:
        """Wait until no handler runs any more. The caller has dropped all lanes before."""
        while self._running:
            self._drained.clear()
            await self._drained.wait()

    def look_at_clock(self) -> None:
        """Wake the keys that wait for a time: their pauses may be over, or they go on waiting."""
        for queue in [queue for queue in self._waiting if queue.timer is not None]:
            self._wake(queue)

    def close(self) -> None:
        """Begin nothing more. What still runs is cancelled or ends by itself."""
        self._closed = True
        for queue in self._waiting:
            if queue.timer is not None:
                queue.timer.cancel()

    async def cancel(self, seconds: float) -> None:
        """Begin nothing more, cancel what still runs, and wait for its end: so many seconds at most."""
        self.close()
        running = list(self._tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=seconds)

    # -- handling -----------------------------------------------------------------------------------------------------

    def make_ready(self, queue: KeyQueue) -> None:
        """Let a task handle the first entry of a key."""
        self._ready.append(queue)
        self._spawn_task()

    def _spawn_task(self) -> None:
        """Start one more task, unless one is starting or there are enough."""
        if self._idle_slots > 0 and not self._is_task_starting and not self._closed:
            self._idle_slots -= 1
            self._is_task_starting = True
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Handle what is ready: one entry of each key in turn."""
        self._is_task_starting = False
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # a coroutine runs in one
        references = sys.getrefcount(task)
        turns = 0
        try:
            while self._ready and self._idle_slots >= 0 and not self._closed:
                queue = self._ready.popleft()
                if self._ready:
                    self._spawn_task()
                gate = queue.lane.subscription.gate
                if not queue.deliveries:  # it was dropped
                    if gate is not None:
                        gate.abandon(queue)
                    continue
                if gate is None or queue.deliveries[0].error is not None:  # an attempt was made: its outcome has to be recorded
                    await self._deliver(queue, task)
                elif gate.enters(queue):
                    await self._deliver_within(gate, queue, task)
                # Whoever keeps a reference to this task may cancel it later, and would hit the handler of another key.
                if sys.getrefcount(task) > references:
                    return
                turns += 1
                if turns % _TURN == 0:
                    await asyncio.sleep(0)
        except GeneratorExit:
            pass  # what a handler awaited has raised it into this task
        finally:
            self._idle_slots += 1
            if self._ready:
                self._spawn_task()

    async def _deliver(self, queue: KeyQueue, task: asyncio.Task[Any]) -> None:
        """Handle the first entry of a key, and go on with the key as the outcome says."""
        delivery, lane = queue.deliveries[0], queue.lane
        if not delivery.is_current or not lane.lease.is_valid():
            # A tenure that ended drops its queues; while the lease is in doubt the key waits for the next renewal.
            self._wait(queue, _DOUBT)
            return
        if delivery.owner:
            self._wait(queue, None)
            self._attempts.follow(delivery, lambda: self._wake(queue), lambda: self._end(delivery, queue, Outcome.FINISHED))
            return
        self._running += 1
        lane.running[delivery.id] = delivery
        outcome = Outcome.LEFT
        try:
            outcome = await self._attempts.make(delivery, task)
        except GeneratorExit:
            outcome = Outcome.UNDECIDED
            raise
        except Exception:  # noqa: BLE001  # a defect of this package: the entry stays unfinished, and its lane goes on
            _log.exception("step %s: entry %s", lane.subscription.group, delivery.id)
        finally:
            del lane.running[delivery.id]
            self._running -= 1
            self._end(delivery, queue, outcome)
            if not self._running:
                self._drained.set()

    async def _deliver_within(self, gate: Gate[KeyQueue], queue: KeyQueue, task: asyncio.Task[Any]) -> None:
        """Handle the first entry of a key that has passed the gate of its step."""
        delivery = queue.deliveries[0]
        attempts = delivery.attempts
        try:
            await self._deliver(queue, task)
        finally:
            gate.leave(attempted=delivery.attempts > attempts)

    def _end(self, delivery: Delivery, queue: KeyQueue, outcome: Outcome) -> None:
        """Go on with a key after its first entry."""
        deliveries = queue.deliveries
        if not deliveries or deliveries[0] is not delivery:
            return
        if delivery.is_current:
            if outcome is not Outcome.FINISHED:
                self._postpone(delivery, queue, outcome)
                return
            if delivery.lane.finish(delivery.id):
                self._on_progress(delivery.lane)
        deliveries.popleft()
        delivery.uncount()
        if queue.is_waiting:
            self._stop_waiting(queue)
        if deliveries:
            self.make_ready(queue)
        else:
            self._remove(queue)

    def _postpone(self, delivery: Delivery, queue: KeyQueue, outcome: Outcome) -> None:
        """Let a key wait for another attempt at its first entry."""
        if outcome is Outcome.LATER:
            for waiting in islice(queue.deliveries, 1, None):
                waiting.park()
            self._wait(queue, self._attempts.pause(delivery))
        elif outcome is Outcome.UNDECIDED:
            self.make_ready(queue)
        elif outcome is Outcome.SUSPECT:
            self._wait(queue, None)
            self._attempts.when_alone(lambda: self._wake(queue))
        else:
            self._wait(queue, _DEFECT)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, queue: KeyQueue, seconds: float | None) -> None:
        """Let a key wait for some seconds, or until it is woken."""
        queue.is_waiting = True
        self._waiting.add(queue)
        if seconds is not None:
            queue.timer = asyncio.get_running_loop().call_later(seconds, self._wake, queue)

    def _stop_waiting(self, queue: KeyQueue) -> None:
        self._waiting.discard(queue)
        queue.is_waiting = False
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None

    def _wake(self, queue: KeyQueue) -> None:
        """Make a key ready that waits."""
        if queue.is_waiting:
            self._stop_waiting(queue)
            self.make_ready(queue)

    def _remove(self, queue: KeyQueue) -> None:
        del self._queues[queue.lane][queue.order_key]

    def _background(self, waiting: bool) -> None:
        """Let another task handle entries while this one waits for Redis: what Redis rejects must not stop the others."""
        self._idle_slots += 1 if waiting else -1
        if waiting:
            self._spawn_task()

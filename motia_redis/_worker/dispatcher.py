"""Schedule handlers: the entries of a key one after the other, different keys in parallel.

A few tasks, as many as handlers may run at once, take the keys that are ready in turn. A handler that waits for nothing needs no
task of its own, and a busy key delays no other key.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from motia_redis._worker.attempts import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._worker.attempts import Attempts
    from motia_redis._worker.lanes import Delivery, Lane

_log = logging.getLogger("motia_redis.worker")

_DOUBT = 0.2  # seconds after which a key looks again whether the lease was renewed
_DEFECT = 5.0  # seconds before an entry is tried again that met a defect of this package
_TURN = 32  # entries that one task handles before other tasks of the loop run, even if no handler waits

#: A lane and what its entries share that run in order.
Key = tuple[Any, ...]


class Dispatcher:
    """Queue entries by key and run them through `attempts`. `on_progress` is called with a lane that has progress to record."""

    def __init__(self, attempts: Attempts, *, concurrency: int, on_progress: Callable[[Lane], None]) -> None:
        self._attempts = attempts
        self._on_progress = on_progress
        self._queues: dict[Key, deque[Delivery]] = {}
        self._by_lane: dict[Lane, set[Key]] = {}
        self._ready: deque[Key] = deque()  # keys whose first entry can be handled now
        self._waiting: dict[Key, asyncio.TimerHandle | None] = {}  # keys that wait: for a time, or to be woken
        self._idle_slots = concurrency  # how many more tasks may handle entries; below 0, that many have to end
        self._is_task_starting = False  # a task was created and has not begun
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference to a task
        self._drained = asyncio.Event()
        self._running = 0
        self._closed = False

    # -- queueing -----------------------------------------------------------------------------------------------------

    def submit(self, delivery: Delivery) -> None:
        """Queue an entry behind the others of its key."""
        lane = delivery.lane
        lane.add(delivery.id, delivery)
        delivery.count()
        assert delivery.entry is not None, "an entry is parked only behind others"  # noqa: S101  # for the type checker
        key = (lane, *delivery.entry.order_key)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque([delivery])
            self._by_lane.setdefault(lane, set()).add(key)
            self._make_ready(key)
        else:
            queue.append(delivery)
            if key in self._waiting:
                delivery.park()

    def drop(self, lane: Lane) -> None:
        """Forget what is queued for a lane that is given away, or lost. What runs goes on."""
        for key in list(self._by_lane.get(lane, ())):
            queue = self._queues[key]
            running = queue[0] if queue and queue[0].id in lane.running else None
            for delivery in queue:
                if delivery is not running:
                    delivery.uncount()
            if running is None:
                self._stop_waiting(key)
                self._remove(key)
            else:
                queue.clear()
                queue.append(running)

    def wake(self, key: Key) -> None:
        """Make a key ready that waits."""
        if key in self._waiting:
            self._stop_waiting(key)
            self._make_ready(key)

    async def drain(self) -> None:
        """Wait until no handler runs any more. The caller has dropped all lanes before."""
        while self._running:
            self._drained.clear()
            await self._drained.wait()

    def close(self) -> None:
        """Begin nothing more. What still runs is cancelled or ends by itself."""
        self._closed = True
        for timer in self._waiting.values():
            if timer is not None:
                timer.cancel()

    # -- handling -----------------------------------------------------------------------------------------------------

    def _make_ready(self, key: Key) -> None:
        """Let a task handle the first entry of a key."""
        self._ready.append(key)
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
        task = asyncio.current_task()
        references = sys.getrefcount(task)
        turns = 0
        try:
            while self._ready and self._idle_slots >= 0 and not self._closed:
                key = self._ready.popleft()
                if self._ready:
                    self._spawn_task()
                queue = self._queues.get(key)
                if not queue or key in self._waiting or queue[0].id in queue[0].lane.running:
                    continue  # it was dropped; or it was dropped and came back, and so is here twice
                await self._deliver(queue[0], key)
                # Whoever keeps a reference to this task may cancel it later, and would hit the handler of another key.
                if sys.getrefcount(task) > references:
                    return
                turns += 1
                if turns % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._idle_slots += 1
            if self._ready:
                self._spawn_task()

    async def _deliver(self, delivery: Delivery, key: Key) -> None:
        """Handle the first entry of a key, and go on with the key as the outcome says."""
        lane = delivery.lane
        if not delivery.is_current or not lane.lease.is_valid():
            # A tenure that ended drops its queues; while the lease is in doubt the key waits for the next renewal.
            self._wait(key, _DOUBT)
            return
        if delivery.owner:
            self._wait(key, None)
            self._attempts.follow(delivery, lambda: self.wake(key), lambda: self._end(delivery, key, Outcome.FINISHED))
            return
        self._running += 1
        lane.running[delivery.id] = delivery
        outcome = Outcome.LEFT
        try:
            outcome = await self._attempts.make(delivery, self._background)
        except Exception:  # noqa: BLE001  # a defect of this package: the entry stays unfinished, and its lane goes on
            _log.exception("step %s: entry %s", lane.subscription.group, delivery.id)
        finally:
            del lane.running[delivery.id]
            self._running -= 1
            self._end(delivery, key, outcome)
            if not self._running:
                self._drained.set()

    def _end(self, delivery: Delivery, key: Key, outcome: Outcome) -> None:
        """Go on with a key after its first entry."""
        queue = self._queues.get(key)
        if not queue or queue[0] is not delivery:
            return
        if delivery.is_current:
            if outcome is not Outcome.FINISHED:
                self._postpone(delivery, key, outcome)
                return
            if delivery.lane.finish(delivery.id):
                self._on_progress(delivery.lane)
        queue.popleft()
        delivery.uncount()
        if self._waiting:
            self._stop_waiting(key)
        if queue:
            self._make_ready(key)
        else:
            self._remove(key)

    def _postpone(self, delivery: Delivery, key: Key, outcome: Outcome) -> None:
        """Let a key wait for another attempt at its first entry."""
        if outcome is Outcome.LATER:
            for waiting in list(self._queues[key])[1:]:
                waiting.park()
            self._wait(key, self._attempts.pause(delivery))
        elif outcome is Outcome.SUSPECT:
            self._wait(key, None)
            self._attempts.when_alone(lambda: self.wake(key))
        else:
            self._wait(key, _DEFECT)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, key: Key, seconds: float | None) -> None:
        """Let a key wait for some seconds, or until it is woken."""
        loop = asyncio.get_running_loop()
        self._waiting[key] = None if seconds is None else loop.call_later(seconds, self.wake, key)

    def _stop_waiting(self, key: Key) -> None:
        timer = self._waiting.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _remove(self, key: Key) -> None:
        del self._queues[key]
        self._by_lane[key[0]].discard(key)

    def _background(self, waiting: bool) -> None:
        """Let another task handle entries while this one waits for Redis: what Redis rejects must not stop the others."""
        self._idle_slots += 1 if waiting else -1
        if waiting:
            self._spawn_task()

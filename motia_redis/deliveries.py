"""Handling what was read: each key's entries one after the other, attempts, retries, dead letters, acknowledgements."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis import scripts
from motia_redis.logs import running_step
from motia_redis.subscriptions import StreamEntry
from motia_redis.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from motia_redis.keyspace import Keyspace
    from motia_redis.leases import Lane, Leases
    from motia_redis.manager import StateManager
    from motia_redis.nodes import Nodes
    from motia_redis.subscriptions import Subscription

_log = logging.getLogger(__name__)

_ENTRIES = 512  # of one step, read and not yet acknowledged
_BYTES = 16 * 1024 * 1024  # of the same
_PARKED = 20_000  # entries of one step that wait behind a key in back-off, without their data
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away
_ACKNOWLEDGED_AT_ONCE = 1000
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


class _Load:
    """How much of one step is in this process."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self.parked = 0

    def add(self, size: int) -> None:
        """Count an entry that is here with its data."""
        self.entries += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        """Count such an entry no more."""
        self.entries -= 1
        self.bytes -= size


class Deliveries:
    """The entries in this process. `on_room` is called when there is room to read more."""

    def __init__(
        self,
        state: StateManager,
        nodes: Nodes,
        keyspace: Keyspace,
        *,
        concurrency: int,
        executor: Executor,
        on_room: Callable[[], None],
    ) -> None:
        self.leases: Leases  # set by the worker, which ties the two together
        self._state = state
        self._nodes = nodes
        self._keyspace = keyspace
        self._running = asyncio.Semaphore(concurrency)
        self._executor = executor
        self._on_room = on_room
        self._queues: dict[Any, deque[Delivery]] = {}
        self._blocked: set[Any] = set()
        self._loads: dict[str, _Load] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._done: dict[Lane, list[Delivery]] = {}
        self._acknowledge_now = asyncio.Event()
        self._suspects = asyncio.Lock()

    # -- taking in ----------------------------------------------------------------------------------------------------

    def room(self, subscription: Subscription) -> int:
        """Return how many more entries of a step may be read now."""
        load = self._load(subscription)
        if load.bytes >= _BYTES or load.parked >= _PARKED:
            return 0
        by_entries = _ENTRIES - load.entries
        mean = load.bytes // load.entries if load.entries else 0
        return max(0, min(by_entries, (_BYTES - load.bytes) // mean if mean else by_entries))

    def submit(self, lane: Lane, entry: StreamEntry, *, attempts: int, suspect: bool) -> None:
        """Queue an entry behind those of its key."""
        size = sum(map(len, entry.fields.values()))
        delivery = Delivery(lane, entry.id, entry, size, attempts, suspect)
        key = (lane, entry.order_key)
        lane.held.add(entry.id)
        self._load(lane.subscription).add(size)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque([delivery])
            task = asyncio.create_task(self._work_off(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(delivery)
            if key in self._blocked:
                self._park(delivery)

    def acknowledge_trimmed(self, lane: Lane, entry_id: str) -> None:
        """Acknowledge an entry that is pending and not in the stream any more: nobody can handle it."""
        _report_trimmed(lane, entry_id)
        lane.held.add(entry_id)
        self._load(lane.subscription).add(0)
        entry = StreamEntry(lane.stream, entry_id, {})
        self._settle(Delivery(lane, entry_id, entry, 0, 0, suspect=False))

    def _settle(self, delivery: Delivery) -> None:
        """Have an entry acknowledged with the next round trip."""
        self._done.setdefault(delivery.lane, []).append(delivery)
        self._acknowledge_now.set()

    def _load(self, subscription: Subscription) -> _Load:
        return self._loads.setdefault(subscription.group, _Load())

    def _park(self, delivery: Delivery) -> None:
        """Keep only the id of an entry that has to wait for long, so that others can be read."""
        if delivery.entry is not None:
            delivery.entry = None
            load = self._load(delivery.lane.subscription)
            load.remove(delivery.size)
            load.parked += 1
            self._on_room()

    async def _unpark(self, delivery: Delivery) -> StreamEntry | None:
        """Read a parked entry again; None when it is not in the stream any more."""
        lane = delivery.lane

        async def read() -> Any:
            return await self._nodes.run(lane.stream, "XRANGE", lane.stream, delivery.id, delivery.id)

        reply = await self._until_done(lane, read)
        if not reply:
            return None
        load = self._load(lane.subscription)
        load.parked -= 1
        load.add(delivery.size)
        delivery.entry = StreamEntry(lane.stream, delivery.id, reply[0][1])
        return delivery.entry

    def _drop(self, delivery: Delivery) -> None:
        """Forget an entry: it is acknowledged, or left to the next holder of its lane."""
        load = self._load(delivery.lane.subscription)
        if delivery.entry is None:
            load.parked -= 1
        else:
            load.remove(delivery.size)
        delivery.lane.held.discard(delivery.id)
        if not delivery.lane.held and delivery.lane.closing.is_set():
            self.leases.drained()
        self._on_room()

    # -- handling -----------------------------------------------------------------------------------------------------

    async def _work_off(self, key: Any) -> None:
        """Handle the entries of one key, one after the other."""
        queue = self._queues[key]
        while queue:
            delivery = queue[0]
            settled = False
            try:
                entry = delivery.entry
                if entry is None and not delivery.lane.closing.is_set():
                    entry = await self._unpark(delivery)
                    if entry is None and not delivery.lane.closing.is_set():
                        _report_trimmed(delivery.lane, delivery.id)
                        settled = True
                if entry is not None:
                    settled = await self._deliver(delivery, entry, key)
            except Exception:  # noqa: BLE001  # a defect of ours: the entry stays pending, and its lane goes on
                _log.exception("step %s: entry %s", delivery.lane.subscription.group, delivery.id)
            queue.popleft()
            if settled:
                self._settle(delivery)
            else:
                self._drop(delivery)
        del self._queues[key]
        self._blocked.discard(key)

    async def _deliver(self, delivery: Delivery, entry: StreamEntry, key: Any) -> bool:
        """Try an entry until it is to be acknowledged (True) or left to the lane's next holder (False)."""
        lane, step, trace_id = delivery.lane, delivery.lane.subscription.step, entry.trace_id
        error: BaseException = WorkerDied(f"the process ended during each of {delivery.attempts} attempts")
        with trace(trace_id), running_step(step.name):
            while delivery.attempts < step.max_attempts:
                if lane.closing.is_set() or not self.leases.valid():
                    return False
                outcome = await self._attempt(delivery, entry, trace_id)
                if outcome is None:
                    return True
                error = outcome
                if delivery.attempts >= step.max_attempts:
                    break
                pause = step.pause(delivery.attempts) * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, no secret
                _log.warning(
                    "step %s: attempt %d of %d at %s failed, next in %.1f s: %r",
                    step.name, delivery.attempts, step.max_attempts, entry.id, pause, error, exc_info=error,
                )  # fmt: skip
                await self._back_off(key, lane, pause)
            return await self._bury(delivery, error)

    async def _attempt(self, delivery: Delivery, entry: StreamEntry, trace_id: str) -> BaseException | None:
        """Run the handler once and count it; return what it raised."""
        subscription = delivery.lane.subscription
        suspect = delivery.suspect
        error: BaseException | None = None
        async with AsyncExitStack() as turn:
            if suspect and delivery.attempts:
                # It was running when a process died, and not for the first time: alone, so that nothing else is suspected.
                await turn.enter_async_context(self._suspects)
            await turn.enter_async_context(self._running)
            if suspect:
                await self._record(delivery)
            delivery.attempts += 1
            try:
                async with asyncio.timeout(subscription.step.timeout):
                    await subscription.handle(entry, self._state, trace_id, delivery.attempts, self._executor)
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                error = cancelled  # the handler's own doing
            except Exception as raised:  # noqa: BLE001  # a handler may raise anything; only its own key must wait
                error = raised
        if error is not None and not suspect:
            await self._record(delivery)
        delivery.suspect = False  # it ran, and the process lives
        return error

    async def _record(self, delivery: Delivery) -> None:
        """Count an attempt in Redis, so that the next holder of the lane goes on from there."""
        lane = delivery.lane
        key = self._keyspace.attempts(lane.stream, lane.subscription.group)
        with suppress(RedisError, OSError):  # then the count starts again after a crash: an attempt more, none less
            await self._nodes.run(key, "HINCRBY", key, attempts_field(lane, delivery.id), 1)

    async def _back_off(self, key: Any, lane: Lane, pause: float) -> None:
        """Let a key wait; what is queued behind it must not keep others from being read."""
        self._blocked.add(key)
        for delivery in list(self._queues[key])[1:]:
            self._park(delivery)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await lane.closing.wait()
        self._blocked.discard(key)

    async def _bury(self, delivery: Delivery, error: BaseException) -> bool:
        """Move an entry to the step's dead letters and acknowledge it, in one step."""
        lane, step = delivery.lane, delivery.lane.subscription.group
        _log.error("step %s: giving up on %s after %d attempts: %r", step, delivery.id, delivery.attempts, error, exc_info=error)
        keys = [
            self._keyspace.leases(lane.stream),
            lane.stream,
            self._keyspace.attempts(lane.stream, step),
            self._keyspace.dead(lane.stream, step),
        ]
        text = str(error)[:_ERROR_TEXT].encode(errors="replace")
        story: list[bytes | str] = [type(error).__name__, text, str(delivery.attempts)]

        async def move() -> Any:
            return await scripts.load("dead_letter")(
                self._nodes, keys, [self.leases.worker, lane.name, step, delivery.id, *story]
            )

        await self._until_done(lane, move)
        return False  # nothing is left to acknowledge

    # -- acknowledging ------------------------------------------------------------------------------------------------

    async def run_acknowledging(self) -> None:
        """Acknowledge what is done, until cancelled; what gets done during one round trip goes with the next."""
        pause = _RECONNECT[0]
        while True:
            await self._acknowledge_now.wait()
            self._acknowledge_now.clear()
            done, self._done = self._done, {}
            try:
                await self._send_acknowledgements(done)
                pause = _RECONNECT[0]
            except (RedisError, OSError) as error:
                _log.warning("acknowledging: trying again in %.1f s: %s", pause, error)
                for lane, deliveries in done.items():
                    self._done[lane] = deliveries + self._done.get(lane, [])
                self._acknowledge_now.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT[1])

    async def _send_acknowledgements(self, done: Mapping[Lane, list[Delivery]]) -> None:
        calls: Any = []
        for lane, deliveries in done.items():
            group = lane.subscription.group
            keys = [self._keyspace.leases(lane.stream), lane.stream, self._keyspace.attempts(lane.stream, group)]
            ids = [delivery.id for delivery in deliveries]
            for at in range(0, len(ids), _ACKNOWLEDGED_AT_ONCE):
                calls.append((keys, [self.leases.worker, lane.name, group, *ids[at : at + _ACKNOWLEDGED_AT_ONCE]]))
        accepted = await scripts.load("acknowledge").many(self._nodes, calls)
        for deliveries in done.values():
            for delivery in deliveries:
                self._drop(delivery)
        if not all(accepted) and self.leases.worker:
            _log.warning("worker %s: an acknowledgement was refused: the lane has another holder", self.leases.worker)
            self.leases.lose()

    async def _until_done(self, lane: Lane, send: Callable[[], Any]) -> Any:
        """Repeat a call that may be made twice until Redis has answered; None when the lane closes before."""
        pause = _RECONNECT[0]
        while True:
            try:
                return await send()
            except (RedisError, OSError) as error:
                _log.warning("step %s: trying again in %.1f s: %s", lane.subscription.group, pause, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await lane.closing.wait()
                        return None
                pause = min(pause * 2, _RECONNECT[1])


def _report_trimmed(lane: Lane, entry_id: str) -> None:
    _log.error("step %s: %s was trimmed before it was handled", lane.subscription.group, entry_id)


def attempts_field(lane: Lane, entry_id: str) -> bytes:
    """Return the field of an entry in the hash of its step's recorded attempts."""
    return lane.name + b" " + entry_id.encode()

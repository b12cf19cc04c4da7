"""Consuming one step's streams: read, keep each key's order, try, retry, give up, acknowledge."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from motia_redis import scripts
from motia_redis.errors import StateError
from motia_redis.logs import running_step
from motia_redis.subscriptions import StreamEntry
from motia_redis.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from redis.asyncio import Redis

    from motia_redis.keyspace import Keyspace
    from motia_redis.manager import StateManager
    from motia_redis.subscriptions import Subscription

_log = logging.getLogger(__name__)

#: All processes read under one name, so no dead consumers pile up.
CONSUMER = "worker"
_BLOCK = 500  # milliseconds a read waits: what a stop waits at most, since a read that is cut off could lose entries
_BATCH = 100  # entries of one read, over all lanes
_PREFETCH = 256  # entries read and not yet acknowledged, after which reading waits
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away
_ERROR_TEXT = 4000  # characters of an error that a dead letter keeps


class Consumer:
    """Consumes for one step until stopped; entries of one key run one after the other, others at once.

    An attempt that raises is repeated after the step's pause, up to its `max_attempts`; then the entry becomes a dead letter.
    """

    def __init__(
        self,
        subscription: Subscription,
        state: StateManager,
        client: Redis,
        keyspace: Keyspace,
        *,
        running: asyncio.Semaphore,
        executor: Executor,
        create_groups: Callable[[], Awaitable[None]],
    ) -> None:
        self._subscription = subscription
        self._state = state
        self._client = client
        self._keyspace = keyspace
        self._running = running
        self._executor = executor
        self._create_groups = create_groups
        self._queues: dict[tuple[bytes, bytes, bytes], deque[StreamEntry]] = {}
        self._in_flight = 0
        self._room = asyncio.Event()
        self._done: list[StreamEntry] = []
        self._acknowledge_now = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Read no more; `run` ends when what was read is handled and acknowledged."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            acknowledger = tasks.create_task(self._acknowledge())
            await self._read(tasks)
            while self._in_flight:
                self._room.clear()
                await self._room.wait()
            acknowledger.cancel()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        positions: dict[Any, Any] = dict.fromkeys(self._subscription.streams, ">")
        pause = _RECONNECT[0]
        while not self._stopping.is_set():
            if self._in_flight >= _PREFETCH:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                reply: Any = await self._client.xreadgroup(
                    self._subscription.group, CONSUMER, positions, count=_BATCH, block=_BLOCK
                )
            except (RedisError, OSError) as error:
                await self._recover(error, pause)
                pause = min(pause * 2, _RECONNECT[1])
                continue
            pause = _RECONNECT[0]
            for stream, entries in reply:
                for entry_id, fields in entries:
                    self._accept(StreamEntry(stream, entry_id.decode(), fields), tasks)

    async def _recover(self, error: Exception, pause: float) -> None:
        """Wait, after an error of Redis; put back the groups if they are what is missing."""
        step = self._subscription.step.name
        try:
            if isinstance(error, ResponseError) and "NOGROUP" in str(error):
                await self._create_groups()
                return
        except StateError as again:
            error = again
        _log.warning("step %s: Redis is away, trying again in %.1f s: %s", step, pause, error)
        await asyncio.sleep(pause)

    def _accept(self, entry: StreamEntry, tasks: asyncio.TaskGroup) -> None:
        """Queue an entry behind those of its key, or start with it."""
        self._in_flight += 1
        queue = self._queues.get(entry.order_key)
        if queue is None:
            self._queues[entry.order_key] = queue = deque()
            tasks.create_task(self._work_off(queue))
        queue.append(entry)

    async def _work_off(self, queue: deque[StreamEntry]) -> None:
        """Handle the entries of one key, one after the other."""
        order_key = queue[0].order_key
        while queue:
            entry = queue[0]
            if await self._deliver(entry):
                self._done.append(entry)
                self._acknowledge_now.set()
            else:
                self._forget()
            queue.popleft()
        del self._queues[order_key]

    # -- attempts -----------------------------------------------------------------------------------------------------

    async def _deliver(self, entry: StreamEntry) -> bool:
        """Try an entry until it is handled (True) or moved to the dead letters (False)."""
        step, trace_id = self._subscription.step, entry.trace_id
        attempt = 0
        with trace(trace_id), running_step(step.name):
            while True:
                attempt += 1
                error = await self._attempt(entry, trace_id, attempt)
                if error is None:
                    return True
                if attempt >= step.max_attempts:
                    await self._bury(entry, error, attempt)
                    return False
                pause = step.pause(attempt)
                _log.warning(
                    "step %s: attempt %d of %d at %s failed, next in %.1f s: %r",
                    step.name, attempt, step.max_attempts, entry.id, pause, error, exc_info=error,
                )  # fmt: skip
                await asyncio.sleep(pause)

    async def _attempt(self, entry: StreamEntry, trace_id: str, attempt: int) -> BaseException | None:
        """Run the handler once; return what it raised."""
        try:
            async with self._running, asyncio.timeout(self._subscription.step.timeout):
                await self._subscription.handle(entry, self._state, trace_id, attempt, self._executor)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return error  # the handler's own doing
        except Exception as error:  # noqa: BLE001  # a handler may raise anything; only its own key must wait
            return error
        return None

    async def _bury(self, entry: StreamEntry, error: BaseException, attempts: int) -> None:
        """Move an entry to the step's dead letters and acknowledge it, in one step."""
        step = self._subscription.step.name
        _log.error("step %s: giving up on %s after %d attempts: %r", step, entry.id, attempts, error, exc_info=error)
        keys = [entry.stream, self._keyspace.dead(entry.stream, step)]
        now = b"%d" % (time.time() * 1000)
        text = str(error)[:_ERROR_TEXT].encode(errors="replace")
        arguments: list[bytes | str] = [self._subscription.group, entry.id, step, type(error).__name__, text, str(attempts), now]
        await self._until_done(lambda: scripts.load("dead_letter")(self._client, keys, arguments))

    # -- acknowledging ------------------------------------------------------------------------------------------------

    async def _acknowledge(self) -> None:
        """Acknowledge what is done; what gets done during one round trip goes with the next."""
        while True:
            await self._acknowledge_now.wait()
            self._acknowledge_now.clear()
            done, self._done = self._done, []
            by_stream: dict[bytes, list[str]] = {}
            for entry in done:
                by_stream.setdefault(entry.stream, []).append(entry.id)
            await self._until_done(lambda by_stream=by_stream: self._send_acknowledgements(by_stream))  # type: ignore[misc]
            for _ in done:
                self._forget()

    async def _send_acknowledgements(self, by_stream: dict[bytes, list[str]]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream, ids in by_stream.items():
                pipeline.xack(stream, self._subscription.group, *ids)
            await pipeline.execute()

    def _forget(self) -> None:
        """Make room for another entry."""
        self._in_flight -= 1
        self._room.set()

    async def _until_done(self, send: Callable[[], Awaitable[Any]]) -> None:
        """Repeat something that may be done twice until Redis has answered."""
        pause = _RECONNECT[0]
        while True:
            try:
                await send()
            except (RedisError, OSError) as error:
                _log.warning("step %s: Redis is away, trying again in %.1f s: %s", self._subscription.step.name, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT[1])
            else:
                return

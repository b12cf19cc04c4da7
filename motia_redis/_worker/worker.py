"""A worker: leases, reading and handling for the steps of an application in one process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._transport import failures
from motia_redis._worker.acknowledger import Acknowledger
from motia_redis._worker.dispatcher import Dispatcher
from motia_redis._worker.inflight import Inflight
from motia_redis._worker.leases import Leases, lane_name
from motia_redis._worker.reader import Reader
from motia_redis._worker.subscriptions import Subscription

if TYPE_CHECKING:
    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager


class Worker:
    """Fire the state and queue triggers of an application, beside any number of other workers.

    Every subscribed step gets every event at least once, the events of one key one after the other in the order of the changes,
    through crashes of workers and of Redis. Workers share the lanes of each step evenly. A worker that stops releases its lanes;
    the lanes of one that dies are taken over when its leases expire. A handler that raises is called again after a pause, and its
    key waits meanwhile. After the last attempt the entry becomes a dead letter.

    Arguments:
        application: the steps.
        state: what handlers read and write. The worker has connections of its own to the same Redis.
        concurrency: how many handlers run at once, over all steps.
        lease: seconds that leases are valid without a heartbeat: the time until others take over the lanes of a worker that died.
            A process that stands still for longer loses its lanes, also when an async handler blocks the event loop.
        heartbeat: seconds between two heartbeats; a third of `lease` or less. Default: a sixth of it.
    """

    def __init__(
        self,
        application: Application,
        state: StateManager,
        *,
        concurrency: int = 64,
        lease: float = 3.0,
        heartbeat: float | None = None,
    ) -> None:
        self._application = application
        self._state = state
        self._concurrency = concurrency
        self._lease = lease
        self._heartbeat = lease / 6 if heartbeat is None else heartbeat
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Stop reading. `run` returns when the running handlers have ended. Call this in the event loop of `run`."""
        self._stopping.set()

    async def prepare(self) -> None:
        """Create the missing consumer groups, each at the end of its stream.

        The steps get all events from now on. Idempotent, and safe in any number of processes at once. Raises StateUnavailable.
        """
        try:
            await self._create_groups("$")
        except (RedisError, OSError) as error:
            raise failures.to_unavailable("creating the consumer groups", self._state.url, error) from error

    async def _create_groups(self, start: str) -> None:
        keyspace = await self._state.connect()
        commands: list[Any] = []
        for step in self._application.worker_steps:
            subscription = Subscription(step, keyspace)
            for stream in subscription.streams:
                commands.append((stream, ("XGROUP CREATE", stream, subscription.group, start, "MKSTREAM")))
                # `status` knows a step by its lanes, also before the first worker runs.
                lane = b"lane " + lane_name(subscription.group, stream)
                commands.append((stream, ("HSETNX", keyspace.leases(stream), lane, b"")))
        router = await self._state.open_router()
        try:
            for reply in await router.gather(commands, return_exceptions=True):
                if isinstance(reply, Exception) and getattr(reply, "code", "") != "BUSYGROUP":
                    raise reply
        finally:
            await router.aclose()

    async def run(self) -> None:
        """Handle events until `stop`, then let the running handlers end. Raises StateUnavailable at the start."""
        await self.prepare()
        keyspace = await self._state.connect()
        router = await self._state.open_router()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="motia-redis-handler")
        look_again = asyncio.Event()
        leases = Leases(
            [Subscription(step, keyspace) for step in self._application.worker_steps],
            router,
            keyspace,
            ttl=self._lease,
            heartbeat=self._heartbeat,
            on_change=look_again.set,
            revive=self._state.revive,
        )
        inflight = Inflight(on_room=look_again.set, on_lane_drained=leases.lane_drained)
        acknowledger = Acknowledger(leases, inflight, router, keyspace)
        dispatcher = Dispatcher(
            self._state,
            router,
            keyspace,
            leases=leases,
            inflight=inflight,
            acknowledger=acknowledger,
            concurrency=self._concurrency,
            executor=executor,
        )
        # After a flush of Redis the groups start at the beginning: an entry may be handled twice, but none is missed.
        reader = Reader(leases, dispatcher, router, keyspace, changed=look_again, restore_groups=lambda: self._create_groups("0"))
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(reader.run()), tasks.create_task(acknowledger.run())]
                keeping = tasks.create_task(leases.run())
                await self._stopping.wait()
                leases.stop()
                await keeping
                for task in background:
                    task.cancel()
        finally:
            # A handler that hangs in its thread must not delay the end of the process here.
            executor.shutdown(wait=False, cancel_futures=True)
            await router.aclose()

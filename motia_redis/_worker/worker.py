"""A worker: leases, reading and handling for an application's steps in one process."""

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
    """Fires the state and queue triggers of an application, beside any number of other workers.

    Every subscribed step gets every event at least once, the events of one key one after the other in the order of the changes,
    through crashes of workers and of Redis. Workers share the lanes (streams) of each step evenly; a worker that leaves hands its
    lanes over, those of one that dies move on when its leases run out. A handler that raises is tried again, and its key waits
    meanwhile; in the end its entry is kept as a dead letter.

    Arguments:
        application: the steps.
        state: where they read and write; the worker uses connections of its own to the same Redis.
        concurrency: how many handlers run at once, over all steps.
        lease: seconds that leases hold without a heartbeat: how long the lanes of a worker that died stay untouched. A process
            that is held up for longer (an async handler that blocks the event loop, too) loses its lanes.
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
        """Read no more entries; `run` ends when what runs is done. To be called in the loop of `run`."""
        self._stopping.set()

    async def prepare(self) -> None:
        """Create the consumer groups that are not there yet, each at the end of its stream.

        Events from now on reach the steps. Idempotent, and harmless in any number of processes at once. Raises StateUnavailable.
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
                # `status` knows a step by its lanes, also one that no worker has run yet.
                lane = b"lane " + lane_name(subscription.group, stream)
                commands.append((stream, ("HSETNX", keyspace.leases(stream), lane, b"")))
        router = await self._state.open_router()
        try:
            for reply in await router.gather(commands, return_exceptions=True):
                if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
                    raise reply
        finally:
            await router.aclose()

    async def run(self) -> None:
        """Consume until `stop`, then finish what is running. Raises StateUnavailable when Redis is away at the start."""
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
        # Whoever lost its groups (a flushed Redis) reads what there is: rather twice than not at all.
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
            # A handler that hangs in its thread must not hold up the end of the process by this call.
            executor.shutdown(wait=False, cancel_futures=True)
            await router.aclose()

"""A worker: the consumers of an application's steps in one process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from redis.exceptions import RedisError, ResponseError

from motia_redis import connections
from motia_redis.consumer import Consumer
from motia_redis.subscriptions import Subscription

if TYPE_CHECKING:
    from motia_redis.application import Application
    from motia_redis.manager import StateManager


class Worker:
    """Fires the state and queue triggers of an application, beside any number of other workers.

    Every subscribed step gets every event at least once while workers run; a handler that raises is retried and its entry
    finally kept as a dead letter.

    Arguments:
        application: the steps.
        state: where they read and write; the worker uses connections of its own to the same Redis.
        concurrency: how many handlers run at once, over all steps.
    """

    def __init__(self, application: Application, state: StateManager, *, concurrency: int = 64) -> None:
        self._application = application
        self._state = state
        self._concurrency = concurrency
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Read no more entries; `run` ends when what was read is handled. To be called in the loop of `run`."""
        self._stopping.set()

    async def prepare(self) -> None:
        """Create the consumer groups that are not there yet, each at the end of its stream.

        Events from now on reach the steps. Idempotent, and harmless in any number of processes at once. Raises StateUnavailable.
        """
        keyspace = await self._state.connect()
        client = await self._state.client()
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for step in self._application.worker_steps:
                    subscription = Subscription(step, keyspace)
                    for stream in subscription.streams:
                        pipeline.xgroup_create(stream, subscription.group, id="$", mkstream=True)
                for reply in await pipeline.execute(raise_on_error=False):
                    if isinstance(reply, ResponseError) and str(reply).startswith("BUSYGROUP"):
                        continue
                    if isinstance(reply, Exception):
                        raise reply
        except (RedisError, OSError) as error:
            raise connections.unavailable("creating the consumer groups", self._state.url, error) from error
        finally:
            await client.aclose()

    async def run(self) -> None:
        """Consume until `stop`, then finish what is running. Raises StateUnavailable when Redis is away at the start."""
        await self.prepare()
        keyspace = await self._state.connect()
        # A step's blocking read holds a connection; acknowledging must never wait for one.
        client = await self._state.client(max_connections=2 * len(self._application.worker_steps) + 8)
        running = asyncio.Semaphore(self._concurrency)
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="motia-redis-handler")
        consumers = [
            Consumer(
                Subscription(step, keyspace),
                self._state,
                client,
                keyspace,
                running=running,
                executor=executor,
                create_groups=self.prepare,
            )
            for step in self._application.worker_steps
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                for consumer in consumers:
                    tasks.create_task(consumer.run())
                await self._stopping.wait()
                for consumer in consumers:
                    consumer.stop()
        finally:
            # A handler that hangs in its thread must not hold up the end of the process by this call.
            executor.shutdown(wait=False, cancel_futures=True)
            await client.aclose()

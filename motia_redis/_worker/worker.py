"""A worker: leases, reading and handling for the steps of an application in one process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._ids import random_id
from motia_redis._scripts import delivery
from motia_redis._store.sweeping import Share, Sweeper
from motia_redis._transport import failures, refusals
from motia_redis._transport.backoff import Backoff
from motia_redis._transport.failures import ErrorReply
from motia_redis._transport.outages import Outage
from motia_redis._worker.attempts import Attempts
from motia_redis._worker.control import StepControl
from motia_redis._worker.dispatcher import Dispatcher
from motia_redis._worker.effects import EffectRecords
from motia_redis._worker.embedding import LAST_WAIT, EmbeddedTask
from motia_redis._worker.groups import create_groups
from motia_redis._worker.handed import HandedEntries
from motia_redis._worker.hooks import PRODUCTION, Hooks
from motia_redis._worker.intake import Intake
from motia_redis._worker.lanes import new_lanes, topic_streams
from motia_redis._worker.leases import PartitionLeases
from motia_redis._worker.membership import Membership, announce_regularly
from motia_redis._worker.progress import ProgressReporter
from motia_redis._worker.rates import new_tokens
from motia_redis._worker.reader import Reader
from motia_redis._worker.reporting import HandlerReport
from motia_redis._worker.scheduling import Scheduler
from motia_redis._worker.subscriptions import Subscription
from motia_redis._worker.trimming import StreamTrimmer
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from motia_redis._scripts.delivery import Start
    from motia_redis._steps.application import Application
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.lanes import Lane

_log = logging.getLogger("motia_redis.worker")

_PREPARING = 10.0  # seconds for which the consumer groups are tried to be created, if Redis says that it passes
_RELEASE_LOOK = 0.5  # seconds between two looks whether Redis is so long away that lanes cannot be released
_SHARED_HEARTBEAT = 0.5  # seconds: the longest time between two heartbeats while versions of a step take turns


class Worker:
    """Fire the state, queue, cron and stream triggers of an application, beside any number of other workers.

    Every subscribed step gets every event at least once, the events of one key one after the other in the order of the changes,
    through crashes of workers and of Redis. Workers share the lanes of each step evenly among those that want them. A worker that
    stops releases its lanes at once; handlers that still run end here, and only their keys wait. The lanes of a worker that dies
    are taken over when its leases expire. A handler that raises is called again after a pause, and its key waits meanwhile. After
    the last attempt the entry becomes a dead letter.

    `async with Worker(application, state):` runs a worker inside of another program, such as an ASGI application. The block
    begins when the consumer groups are there. The worker runs in tasks of the same event loop until the block ends, and
    configures neither signals nor logging. Entering raises StateUnavailable if Redis cannot be reached.

    Arguments:
        application: the steps.
        state: what handlers read and write. The worker has connections of its own to the same Redis.
        concurrency: how many handlers run at once, over all steps.
        lease: seconds that leases are valid without a heartbeat: the time until others take over the lanes of a worker that died.
            Of two workers with different leases the longer one counts.
            A process that stands still for longer, also because an async handler blocks the event loop, keeps the lanes that
            nobody took.
        heartbeat: seconds between two heartbeats; a third of `lease` or less. Default: a sixth of it.
        grace: the most seconds that the end of an `async with` block waits for running handlers. Then async handlers are
            cancelled, and other workers handle their entries again. A `def` handler keeps the process alive until it returns.
    """

    _hooks: Hooks = PRODUCTION

    def __init__(
        self,
        application: Application,
        state: StateManager,
        *,
        concurrency: int = 64,
        lease: float = 3.0,
        heartbeat: float | None = None,
        grace: float = 25.0,
    ) -> None:
        self._application = application
        self._state = state
        self._concurrency = concurrency
        self._lease = lease
        self._heartbeat = lease / 6 if heartbeat is None else heartbeat
        self._grace = grace
        self._stopping = asyncio.Event()
        self._run: _Run | None = None
        self._task: EmbeddedTask | None = None  # of the `async with` block

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise StateError("a Worker can be entered only once: create another one for another `async with` block")
        await self.prepare()
        self._task = EmbeddedTask(self.run())
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        assert self._task is not None  # noqa: S101 - for mypy
        self.stop()
        failure = await self._task.end(self._grace, self.running)
        if failure is not None and error is None:
            raise failure

    def stop(self) -> None:
        """Give the lanes away. `run` returns when the running handlers have ended. Call this in the event loop of `run`."""
        self._stopping.set()

    @property
    def is_outage_reported(self) -> bool:
        """Return whether Redis is away as a whole, and the worker has logged that."""
        return self._run is not None and self._run.outage is not None and self._run.outage.is_reported

    @property
    def silence(self) -> float:
        """Return the seconds since the last heartbeat that Redis answered; infinity while `run` does not run."""
        return math.inf if self._run is None else self._run.membership.silence

    def held_lanes(self) -> list[str]:
        """Return the step of each lane that this worker holds."""
        lanes = () if self._run is None else self._run.lanes.values()
        return [lane.keys.group for lane in lanes if lane.tenure and lane.lease.is_valid()]

    def running(self) -> list[str]:
        """Describe the handlers that run: their step and event. What is not begun is not named."""
        lanes = () if self._run is None else self._run.lanes.values()
        return [str(delivery) for lane in lanes for delivery in list(lane.running.values())]

    async def prepare(self) -> int:
        """Create the missing consumer groups and return their number.

        A new group of a state trigger starts with the changes from now on. The first group of a topic starts with the oldest
        message that is kept, a later one with the oldest message that another group has not finished. A new cron trigger fires
        from now on. Live workers that run other versions of the steps hear of this one before the call returns, so that they
        leave it what only it wants. Idempotent, and safe in any number of processes at once. Raises StateUnavailable.
        """
        keyspace = await self._state.connect()
        router = await self._state.open_router()
        backoff, deadline = Backoff(0.1, 1.0), time.monotonic() + _PREPARING
        try:
            while True:
                try:
                    return await create_groups(router, keyspace, self._application.worker_steps, lease=self._lease)
                except ErrorReply as error:  # such as TRYAGAIN while a slot migrates
                    if time.monotonic() > deadline or not refusals.is_transient(error.code, fails_over=router.is_cluster):
                        raise
                await backoff.sleep()
        except (RedisError, OSError) as error:
            raise failures.to_unavailable("creating the consumer groups", self._state.url, error) from error
        finally:
            await router.aclose()

    async def run(self) -> None:
        """Handle events until `stop`, then let the running handlers end. Raises StateUnavailable at the start."""
        await self.prepare()
        keyspace = await self._state.connect()
        router = await self._state.open_router()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="motia-redis-handler")
        try:
            self._run = _Run(
                self._application,
                self._state,
                router,
                keyspace,
                executor=executor,
                concurrency=self._concurrency,
                ttl=self._lease,
                heartbeat=self._heartbeat,
                hooks=self._hooks,
            )
            await self._run.until(self._stopping)
        finally:
            self._run = None
            # A handler that hangs in its thread must not delay the end of the process here.
            executor.shutdown(wait=False, cancel_futures=True)
            await router.aclose()


class _Run:
    """The parts of one run of a worker, connected.

    An entry goes from the reader, which matches it, to the dispatcher, which schedules it, to the attempts, and its end to the
    progress of its lane.
    """

    def __init__(
        self,
        application: Application,
        state: StateManager,
        router: Router,
        keyspace: Keyspace,
        *,
        executor: ThreadPoolExecutor,
        concurrency: int,
        ttl: float,
        heartbeat: float,
        hooks: Hooks,
    ) -> None:
        self._heartbeat = heartbeat
        self._has_clock = hooks.now is None  # else a test says when time passes, and lets happen what falls due
        self._worker = worker = random_id(16)
        self._state = state
        self._router = router
        self._lanes_of_topics = keyspace.layout.lanes
        tenures = count(1)
        subscriptions = [Subscription(step, keyspace) for step in application.worker_steps]
        by_partition = new_lanes(subscriptions, keyspace)
        self.lanes = {name: lane for _, lanes in by_partition for name, lane in lanes.items()}
        self._released = asyncio.Event()  # some lane is not held any more
        self.membership = Membership(
            worker,
            router,
            keyspace,
            lanes=self.lanes,
            steps={subscription.group: subscription.wants for subscription in subscriptions},
            lease=ttl,
            on_change=self._assignment_changed,
            on_paused=lambda paused: self._control.follow(paused),  # noqa: PLW0108 - it is made below
            report=HandlerReport(subscriptions, self.lanes.values(), lambda: state._sessions.watchers).make,
        )
        self._trimmer = StreamTrimmer(router, keyspace, state, topic_streams=topic_streams(subscriptions, keyspace))
        self._effects = EffectRecords(state, router, keyspace, keeps_all=hooks.keeps_effects)
        self._reporter = ProgressReporter(
            router,
            worker=worker,
            on_released=self._ended,
            on_lost=partial(self._ended, is_lost=True),
            on_recorded=self._trimmer.note,
            free_effects=self._effects.free,
        )
        self._handed = HandedEntries(router, worker=worker, lease_of=self.membership.lease_of)
        self._attempts = Attempts(
            state,
            router,
            keyspace,
            worker=worker,
            executor=executor,
            handed=self._handed,
            effects=self._effects,
            server_time=hooks.now or self.membership.server_time,
            jitter=hooks.jitter,
            on_settled=self._reporter.changed,
        )
        self.dispatcher = Dispatcher(self._attempts, concurrency=concurrency, on_progress=self._reporter.changed)
        self._reader = Reader(Intake(self.dispatcher, state, on_progress=self._reporter.changed), router)
        self._control = StepControl(
            subscriptions,
            make_ready=self.dispatcher.make_ready,
            new_tokens=lambda subscription: new_tokens(router, keyspace, subscription.step) if self._has_clock else None,
            on_resumed=self._reader.mark_step_ready,
        )
        self._sweeper = Sweeper(
            router,
            keyspace,
            limits=self._topic_limits,
            share=self._share,
            new_outage=lambda effect: _outage(state, effect),
            reports_all=False,
            check_layout=state.check_layout,
            revive=state.revive,
        )
        self._scheduler = Scheduler(
            router,
            keyspace,
            application.worker_steps,
            workers=self.membership.count_running,
            paused=lambda: self.membership.paused,
            new_outage=lambda effect: _outage(state, effect),
            check_layout=state.check_layout,
        )
        # In a Cluster a part of the partitions can be away.
        self.outage = None if router.is_cluster else _outage(state, "no event is handled")
        self._partitions = [
            PartitionLeases(
                lease,
                lanes,
                self.membership,
                router,
                worker=worker,
                ttl=ttl,
                heartbeat=self._heartbeat,
                on_taken=self._reader.mark_ready,
                on_lost=self._ended,
                on_valid=self._reader.look_again,
                release=self._release,
                report=self._reporter.changed,
                revive=state.revive,
                restore=self._restore,
                new_tenure=lambda: str(next(tenures)),
                outage=self.outage or _outage(state, f"no event of {lease.leases.decode()} is handled"),
            )
            for lease, lanes in by_partition
        ]

    async def until(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set and the running handlers have ended."""
        try:
            async with asyncio.TaskGroup() as tasks:
                background = self._reader.start(self.lanes.values(), tasks)
                background += [tasks.create_task(partition.run()) for partition in self._partitions]
                if self._has_clock:
                    background += [tasks.create_task(self._sweeper.run()), tasks.create_task(self._scheduler.run())]
                announcing = tasks.create_task(announce_regularly(self.membership, self._pause, stopping))
                try:
                    await stopping.wait()
                    await self._stop(announcing)
                except asyncio.CancelledError:
                    self._attempts.closed = True
                    await self.dispatcher.cancel(LAST_WAIT)
                    raise
                finally:
                    self._attempts.closed = True
                    self.dispatcher.close()
                    for task in background:
                        task.cancel()
        finally:
            await self._handed.aclose()
            await self._control.aclose()
            await self._reporter.aclose()
            await self._trimmer.aclose()
            await self._effects.aclose()

    async def _stop(self, announcing: asyncio.Task[None]) -> None:
        """Give all lanes away at once; end when the handlers that still run have ended."""
        for partition in self._partitions:
            partition.stop()
        await announcing
        with suppress(RedisError, OSError):  # then others notice when the lease has run out
            await self.membership.leave()
        while any(partition.has_lanes for partition in self._partitions):
            self._released.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_RELEASE_LOOK):
                    await self._released.wait()
        await self.dispatcher.drain()
        await asyncio.gather(*(partition.leave() for partition in self._partitions))

    async def _topic_limits(self) -> bytes:
        return (await self._state.settings()).topic_trimming(self._lanes_of_topics)

    def _share(self) -> Share:
        workers, own = self.membership.live_workers()
        return Share(workers.index(own), len(workers))

    def _pause(self) -> float:
        return min(self._heartbeat, _SHARED_HEARTBEAT) if self.membership.is_shared else self._heartbeat

    def _assignment_changed(self) -> None:
        for partition in self._partitions:
            partition.wake()
        for lane in self.lanes.values():
            if lane.tenure and lane.left:
                lane.look_again()
                self._reader.mark_ready(lane)

    def _release(self, lane: Lane) -> None:
        lane.releasing = True
        self.dispatcher.drop(lane)
        self._reporter.changed(lane)

    def _ended(self, lane: Lane, *, is_lost: bool = False) -> None:
        """Go on without a lane that was released, that another worker has taken, or whose group is gone."""
        lane.end()
        self.dispatcher.drop(lane)
        self._released.set()
        for partition in self._partitions:
            partition.ended(lane, is_lost=is_lost)
        self._reader.look_again()

    async def _restore(self, lanes: Iterable[Lane]) -> None:
        """Create groups that are gone; they start at the beginning: an entry may be handled twice, but none is missed."""
        start: Start = "begin"
        await self._state.check_layout()
        await delivery.create_group(self._router, [(lane.keys, start) for lane in lanes])


def _outage(state: StateManager, effect: str) -> Outage:
    return Outage(state.url, _log, effect)

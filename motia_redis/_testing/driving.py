"""Run a worker until an application is quiet, and while time passes in a test."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from motia_redis._scripts import timing
from motia_redis._scripts.delivery import paused_step
from motia_redis._store.sweeping import due_keys, settle
from motia_redis._testing.lanes import forget_handled, handled_now, lanes_of, read_lanes, release_lanes
from motia_redis._worker.hooks import Hooks
from motia_redis._worker.scheduling import schedule_now
from motia_redis._worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from motia_redis._steps.application import Application
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._testing.clock import MovedClock
    from motia_redis._testing.lanes import Handled, StepLane
    from motia_redis._transport.router import Router

_LOOKS = (0.001, 0.01)  # seconds between two looks whether all is handled: first, longest
_LEASE = 60.0  # seconds: a test may stand still, in a debugger for example


class DrivenWorker(Worker):
    """A worker whose pauses follow the time of a test, and which keeps what `effects_once` has recorded."""

    def __init__(self, application: Application, state: StateManager, clock: MovedClock) -> None:
        super().__init__(application, state, lease=_LEASE, heartbeat=_LEASE / 6)
        self._hooks = Hooks(now=clock.now, jitter=0.0, keeps_effects=True)

    def look_at_clock(self) -> None:
        """Let the entries look at the clock again that wait for their next attempt."""
        if self._run is not None:
            self._run.dispatcher.look_at_clock()


class Driver:
    """Run a worker for an application inside of `driving`."""

    def __init__(
        self,
        application: Application,
        state: StateManager,
        router: Router,
        keyspace: Keyspace,
        clock: MovedClock,
        *,
        within: float | None,
    ) -> None:
        self.lanes = lanes_of(application, keyspace)
        self.is_crash_wanted = False  #: what is handled next is handled as if its worker had crashed afterwards
        self._application = application
        self._state = state
        self._router = router
        self._keyspace = keyspace
        self._clock = clock
        self._within = within
        self._partitions = range(keyspace.layout.partitions)
        self.paused: frozenset[str] = frozenset()  #: steps of which nothing is handled
        self._worker: DrivenWorker | None = None
        self._running: asyncio.Task[None] | None = None
        self._due: int | None = None  # when the first entry may be tried again

    def start(self) -> None:
        """Start a worker."""
        if self.lanes:
            self._worker = DrivenWorker(self._application, self._state, self._clock)
            self._running = asyncio.create_task(self._worker.run())

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop the worker: when its handlers have ended, or at once."""
        if self._worker is None or self._running is None:
            return
        worker, running = self._worker, self._running
        self._worker = self._running = None
        if at_once:
            running.cancel()  # it cancels its handlers
            await asyncio.wait([running])
            await release_lanes(self._router, self._keyspace, self.lanes)
        else:
            worker.stop()
            await running
        # Others than this one are over, too. Their rows would stay for ten minutes, and each `settle` would read them all.
        fields = await self._router.execute(self._keyspace.workers, "HKEYS", self._keyspace.workers)
        if over := [field for field in fields if paused_step(field) is None]:
            await self._router.execute(self._keyspace.workers, "HDEL", self._keyspace.workers, *over)

    # -- until quiet --------------------------------------------------------------------------------------------------

    async def until_quiet(self) -> None:
        """Wait until everything is handled that can be now. Raises TimeoutError, which names what is left."""
        before = await handled_now(self._router, self.lanes) if self.is_crash_wanted else None
        await self._until_quiet()
        if before is not None and await handled_now(self._router, self.lanes) != before:
            self.is_crash_wanted = False
            await self.stop()
            await forget_handled(self._router, before)
            self.start()
            await self._until_quiet()

    async def handle_again(self, since: Mapping[StepLane, Handled]) -> None:
        """Let everything be handled once more that was handled since an earlier moment, but for dead letters."""
        await self.stop()
        await forget_handled(self._router, since)
        self.start()
        await self._until_quiet()

    async def _until_quiet(self) -> None:
        deadline = None if self._within is None else time.monotonic() + self._within
        pause = _LOOKS[0]
        while True:
            left = await self._look()
            if not left and not await self._fire():
                return
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(self._timed_out(left))
            if self._running is not None and self._running.done():
                await self._running  # it has failed
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LOOKS[1])

    async def _look(self) -> dict[str, int]:
        """Return how many entries each step can handle now, if any."""
        left: dict[str, int] = {}
        lanes = [lane for lane in self.lanes if lane.step not in self.paused]
        works = [(view.lane.step, view.work(self._clock.now())) for view in await read_lanes(self._router, lanes)]
        for step, work in works:
            if work.ready:
                left[step] = left.get(step, 0) + work.ready
        self._due = min((work.due for _, work in works if work.due is not None), default=None)
        return left

    async def _fire(self) -> bool:
        """Let what is due happen. Return whether something did.

        The worker does not do so. So if no handler runs, and nothing happened here, nothing is due.
        """
        limits = (await self._state.settings()).topic_trimming(self._keyspace.layout.lanes)
        cron_steps = [step for step in self._application.worker_steps if step.cron_triggers and step.name not in self.paused]
        if cron_steps:
            await schedule_now(self._router, self._keyspace, cron_steps)
        return await settle(self._router, self._keyspace, self._partitions, limits)

    def _timed_out(self, left: Mapping[str, int]) -> str:
        handlers = self._worker.running() if self._worker is not None else []
        running = f"running: {'; '.join(handlers)}" if handlers else "no handler runs"
        entries = ", ".join(f"{step} {count}" for step, count in sorted(left.items()))
        waiting = f"not handled, by step: {entries}" if entries else "things fall due all the time"
        return (
            f"the application was not quiet after {self._within:g} s: {running}; {waiting}. A handler that waits for"
            " something, or steps that trigger each other without end, keep it busy; `within=` allows more seconds"
        )

    # -- time ---------------------------------------------------------------------------------------------------------

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, from one thing that falls due to the next, and handle each. The application must be quiet."""
        left = round(seconds * 1000)
        while left > 0:
            step = min(left, await self._next_due(left))
            left -= step
            await self._clock.move(step, self._router, self._keyspace)
            if self._worker is not None:
                self._worker.look_at_clock()
            await self.until_quiet()

    async def _next_due(self, most: int) -> int:
        """Return in how many milliseconds something falls due: 1 to `most`."""
        looks = await timing.fire_due_many(self._router, [due_keys(self._keyspace, number) for number in self._partitions])
        waits = [look.wait * 1000 for look in looks if look.wait is not None]
        if self._due is not None:
            waits.append(self._due - self._clock.now())
        return max(1, round(min([most, *waits])))


@asynccontextmanager
async def driving(
    application: Application, state: StateManager, clock: MovedClock, *, within: float | None, is_crash_wanted: bool = False
) -> AsyncIterator[Driver]:
    """Run a worker inside of the block, and stop it behind it. `within`: seconds for each wait until all is quiet."""
    keyspace = await state.connect()
    router = await state.open_router()
    try:
        driver = Driver(application, state, router, keyspace, clock, within=within)
        driver.is_crash_wanted = is_crash_wanted
        fields = await router.execute(keyspace.workers, "HKEYS", keyspace.workers)
        driver.paused = frozenset(step for field in fields if (step := paused_step(field)) is not None)
        driver.start()
        try:
            yield driver
        except BaseException:
            await driver.stop(at_once=True)
            raise
        await driver.stop()
    finally:
        await router.aclose()

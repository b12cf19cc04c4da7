"""Make attempts at an entry: run the handler, and decide what follows from the outcome: the end, a retry, or a dead letter."""

from __future__ import annotations

import asyncio
import logging
import shlex
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError

from motia_redis._ids import generator
from motia_redis._scripts import delivery as scripts
from motia_redis._steps import faults
from motia_redis._steps.logs import enter_step
from motia_redis._store.keyspace import partition_of
from motia_redis._tracing import enter_trace
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff
from motia_redis._worker.chains import Chains
from motia_redis._worker.effects import made_once
from motia_redis._worker.entries import Known, StreamEntry, is_retry_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Executor

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.effects import EffectRecords
    from motia_redis._worker.entries import PreparedCall
    from motia_redis._worker.handed import HandedEntries
    from motia_redis._worker.lanes import Delivery, Lane

_log = logging.getLogger("motia_redis.worker")

_T = TypeVar("_T")

_NOT_WANTED = "the dead letter was retried, and no trigger of the step wants its event any more"
_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away


def _nothing(_: bool) -> None:
    """Do nothing."""


class WorkerDied(Exception):
    """Every attempt at an entry ended with the end of the process that made it."""


class NotWanted(Exception):
    """No trigger of the step wants the event of a retried dead letter any more."""


class Outcome(Enum):
    """What happens to an entry after one turn."""

    FINISHED = "it was handled, is a dead letter, or is not for this worker any more"
    LATER = "try it again after a pause"
    UNDECIDED = "an attempt has failed, and has ended its task too: decide in another task what follows"
    SUSPECT = "try it again when the running suspect has ended"
    LEFT = "a defect of this package: try it again later"


class Attempts:
    """Make attempts. `on_settled` is called with a lane whose progress may have waited for an entry to be settled."""

    def __init__(
        self,
        state: StateManager,
        router: Router,
        keyspace: Keyspace,
        *,
        worker: str,
        executor: Executor,
        handed: HandedEntries,
        effects: EffectRecords,
        server_time: Callable[[], int],
        jitter: float,
        on_settled: Callable[[Lane], None],
    ) -> None:
        self.closed = False  #: the worker was cancelled: a cancellation is not an outcome of a handler
        self._state = state
        self._router = router
        self._keyspace = keyspace
        self._worker = worker
        self._executor = executor
        self.follow = handed.follow
        self._effects = effects
        self._server_time = server_time
        self._jitter = jitter
        self._on_settled = on_settled
        self.on_waiting: Callable[[bool], None] = _nothing  #: told while a task waits for Redis: another may handle entries
        self._chains = Chains()
        self._is_suspect_running = False
        self._waiting_suspects: list[Callable[[], None]] = []

    def pause(self, delivery: Delivery) -> float:
        """Return how many seconds an entry has to wait before its next attempt."""
        longest = delivery.lane.retries.pause(max(1, delivery.attempts)) * (1 + self._jitter)
        return max(0.0, min((delivery.due - self._server_time()) / 1000, longest))

    def when_alone(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the running suspect has ended."""
        if self._is_suspect_running:
            self._waiting_suspects.append(wake)
        else:
            wake()

    async def make(self, delivery: Delivery, task: asyncio.Task[Any]) -> Outcome:
        """Make one attempt at an entry in the running task, or decide without one."""
        if delivery.due and self.pause(delivery) > 0:
            return Outcome.LATER
        entry = delivery.entry or await self._read_parked(delivery)
        if entry is None:
            return await self._conclude(delivery, None) if delivery.handed else Outcome.FINISHED
        step = delivery.lane.subscription.step
        if not delivery.trace:
            delivery.trace = entry.trace
        enter_trace(delivery.trace)
        enter_step(step.name)
        if entry.is_traced:
            self._chains.note(step.name, delivery.trace_id)
        error: BaseException | None
        if delivery.error is not None:
            error = delivery.error
        elif delivery.unwanted or delivery.attempts >= delivery.lane.retries.max_attempts:
            error = self._refusal(delivery)
        elif not delivery.suspect:
            error = await self._attempt(delivery, entry, task)
        elif delivery.attempts and self._is_suspect_running and not delivery.handed:
            return Outcome.SUSPECT
        else:
            error = await self._attempt_suspect(delivery, entry, task)
        if error is None and not delivery.handed:
            return Outcome.FINISHED
        return await self._conclude(delivery, error)

    def _refusal(self, delivery: Delivery) -> BaseException:
        """Return why no attempt may be made at all."""
        if delivery.unwanted:
            return NotWanted(_NOT_WANTED)
        return WorkerDied(f"the process ended during each of {delivery.attempts} attempts")

    async def _conclude(self, delivery: Delivery, error: BaseException | None) -> Outcome:
        """Decide what follows from an attempt that failed, or whose lane was given away meanwhile."""
        delivery.error = None
        if error is None:
            if await self._settle(delivery, None) and delivery.effects is not None:
                self._effects.free([delivery.effects])
            return Outcome.FINISHED
        if isinstance(error, NotWanted) or delivery.attempts >= delivery.lane.retries.max_attempts:
            return await self._dead_letter(delivery, error)
        return await self._fail(delivery, error)

    async def _read_parked(self, delivery: Delivery) -> StreamEntry | None:
        """Read a parked entry again. Return None when it is no longer in the stream, or not for this worker any more."""
        lane = delivery.lane

        async def read() -> Any:
            return await self._router.execute(lane.stream, "XRANGE", lane.stream, delivery.id, delivery.id)

        reply = await self._until_done(delivery, read)
        if not delivery.is_ours:
            return None
        if not reply:
            if reply is not None:
                _log.error("step %s: %s was trimmed before it was handled", lane.subscription.group, delivery.id)
            return None
        entry = StreamEntry(lane.stream, delivery.id, reply[0][1], lane.identity)
        delivery.unpark(entry)
        return entry

    # -- the handler --------------------------------------------------------------------------------------------------

    async def _attempt_suspect(self, delivery: Delivery, entry: StreamEntry, task: asyncio.Task[Any]) -> BaseException | None:
        """Run the handler for an entry that may have ended a process. Record the attempt before it begins."""
        alone = bool(delivery.attempts)  # the first time, no other entry can be confused with the cause
        if alone:
            self._is_suspect_running = True
        try:
            await self._settle(delivery, Known(delivery.attempts + 1), goes_on=True)
            if not delivery.is_ours:
                return None  # another worker has taken the lane meanwhile
            error = await self._attempt(delivery, entry, task)
        finally:
            if alone:
                self._is_suspect_running = False
                wakes, self._waiting_suspects = self._waiting_suspects, []
                for wake in wakes:
                    wake()
        return error

    async def _attempt(self, delivery: Delivery, entry: StreamEntry, task: asyncio.Task[Any]) -> BaseException | None:
        """Run the handler once and count the attempt. Return what the handler raised, whatever it is; the delivery has it, too.

        A future whose exception is a GeneratorExit raises it into the task that awaits it. Python then closes what the task runs,
        from the inside out: this coroutine can return nothing.
        """
        timeout = delivery.lane.retries.timeout
        delivery.attempts += 1
        try:
            if timeout is None:
                await self._handle(delivery, entry)
            else:
                await self._handle_within(timeout, delivery, entry)
        except BaseException as raised:  # a handler may raise anything; only its own key must wait
            if isinstance(raised, asyncio.CancelledError):
                await asyncio.sleep(0)  # was the whole program cancelled? then the worker is told in the same turn of the loop
                if self.closed:
                    raise
            delivery.error = raised
            return raised
        finally:
            delivery.suspect = False  # the handler ran, and the process lives
            while task.cancelling() and not self.closed:  # the handler's cancellation: the next handler must not get it
                task.uncancel()
        return None

    async def _handle_within(self, seconds: float, delivery: Delivery, entry: StreamEntry) -> None:
        """Call the handler like `_handle`, for so many seconds at most."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._handle(delivery, entry)
        except TimeoutError as error:
            cancelled = error.__cause__ or error.__context__  # the latter before Python 3.11.5
            if not limit.expired() or not isinstance(cancelled, asyncio.CancelledError):
                raise  # the handler's own
            raise TimeoutError(f"the handler took longer than the step's timeout of {seconds:g} s") from cancelled

    async def _handle(self, delivery: Delivery, entry: StreamEntry) -> None:
        """Call the handler if a trigger matches. Raise what user code raises."""
        subscription = delivery.lane.subscription
        matcher = subscription.matcher
        if subscription.step.effects_once:
            await self._effects.begin(delivery, entry)
        call: PreparedCall | None
        if delivery.trigger is not None:
            call = matcher.prepare(delivery.trigger, entry, self._state, delivery.trace, delivery.attempts)
        else:
            call, delivery.call = delivery.call, None
            call = call or await matcher.match(entry, self._state, delivery.trace, delivery.attempts)
        if call is not None:
            running = subscription.invoke(subscription.step.handler, call.input, call.ctx, self._executor, delivery.report_block)
            await (running if delivery.effects is None else made_once(delivery.effects, running))
            subscription.handled += 1
        elif is_retry_for(subscription.group, entry.fields):
            raise NotWanted(_NOT_WANTED)

    # -- what follows -------------------------------------------------------------------------------------------------

    async def _fail(self, delivery: Delivery, error: BaseException) -> Outcome:
        """Record a failed attempt; the next one follows after a pause, wherever the lane is then."""
        step, retries = delivery.lane.subscription.step, delivery.lane.retries
        delivery.lane.subscription.count("failed")
        pause = retries.pause(delivery.attempts) * generator.uniform(1 - self._jitter, 1 + self._jitter)
        fault = faults.describe(error)
        text = (
            f"step {step.name}: attempt {delivery.attempts} of {retries.max_attempts} failed, next in {pause:.1f} s: {fault.line}"
        )
        _report(logging.WARNING, text, delivery, error, fault)
        delivery.due = self._server_time() + int(pause * 1000)
        await self._settle(delivery, Known(delivery.attempts, delivery.due))
        return Outcome.LATER if delivery.is_current else Outcome.FINISHED

    async def _dead_letter(self, delivery: Delivery, error: BaseException) -> Outcome:
        """Move an entry to the step's dead letters, in one atomic step."""
        lane, step = delivery.lane, delivery.lane.subscription.group
        fault = faults.describe(error)
        limits = (await self._state.settings()).dead_letter_limits

        async def move() -> str | None:
            return await scripts.dead_letter(
                self._router,
                lane.keys,
                dead=self._keyspace.dead(lane.stream, step),
                trimmed=self._keyspace.trimmed(lane.stream),
                limits=limits,
                worker=self._worker,
                tenure=delivery.tenure,
                entry_id=delivery.id,
                error_type=fault.type,
                error_text=fault.text,
                traceback=fault.traceback,
                trace_id=delivery.trace_id,
                attempts=delivery.attempts,
            )

        added = await self._with_right(delivery, move)
        delivery.effects = None  # they stay as long as the dead letter
        if added is not None:
            lane.note_recorded(delivery.id)
            lane.subscription.count("dead_letter")
            text = f"step {step}: gave up after {delivery.attempts} attempts: {fault.line}"
            place = f"--namespace {self._state.namespace} --step {shlex.quote(step)} {partition_of(lane.stream)}/{added}"
            # The last field, so that the line ends with it.
            _report(logging.ERROR, text, delivery, error, fault, **({"show": f"motia-redis dead show {place}"} if added else {}))
        return Outcome.FINISHED

    async def _settle(self, delivery: Delivery, known: Known | None, *, goes_on: bool = False) -> bool:
        """Record what is known of an entry; None = it is finished. `goes_on`: this worker is about to run it.

        Return whether it was recorded.
        """

        async def settle() -> bool | None:
            owner = self._worker if goes_on and delivery.handed else ""
            return await scripts.settle_entry(
                self._router,
                delivery.lane.keys,
                worker=self._worker,
                tenure=delivery.tenure,
                entry_id=delivery.id,
                value="" if known is None else known._replace(owner=owner).encode(),
            )

        is_recorded = await self._with_right(delivery, settle) is not None
        if is_recorded and delivery.is_current and known is not None:
            delivery.lane.note_recorded(delivery.id)
        return is_recorded

    async def _with_right(self, delivery: Delivery, send: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """Send what only the holder of the lane, or the worker that runs the entry, may do. Return None if it was not accepted.

        It is never on its way together with a progress of the lane, which could write older knowledge of the entry behind it.
        """
        lane = delivery.lane
        backoff = Backoff(*_PAUSES)
        with self._waiting():
            while True:
                lane.settling += 1
                try:
                    await lane.reported.wait()
                    if not (delivery.handed and delivery.is_current):
                        return await send()
                except (RedisError, OSError) as error:
                    if not delivery.is_ours:
                        return None
                    if backoff.is_first:
                        outages.report(_log, f"step {lane.subscription.group}", error)
                finally:
                    lane.settling -= 1
                    self._on_settled(lane)
                # Redis is away; or the release of the lane, which names this entry as still running, has to come first.
                await backoff.sleep()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Tell that this task waits for Redis."""
        self.on_waiting(True)  # a callback with one argument
        try:
            yield
        finally:
            self.on_waiting(False)

    async def _until_done(self, delivery: Delivery, send: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat a read until Redis has answered. Return None when the entry is for others meanwhile."""
        backoff = Backoff(*_PAUSES)
        with self._waiting():
            while True:
                try:
                    return await send()
                except (RedisError, OSError) as error:
                    if backoff.is_first:
                        outages.report(_log, f"step {delivery.lane.subscription.group}", error)
                    await backoff.sleep()
                    if not delivery.is_ours:
                        return None


def _report(level: int, text: str, delivery: Delivery, error: BaseException, fault: faults.Fault, **more: object) -> None:
    """Log a failed attempt with the facts of its event; the traceback once for attempts that fail in the same way."""
    fields: dict[str, object] = dict(delivery.entry.facts if delivery.entry is not None else {})
    fields = {**fields, "attempt": delivery.attempts, "entry": delivery.id, **more}
    extra = {"step": delivery.lane.subscription.group, "trace_id": delivery.trace_id, "fields": fields}
    is_new, delivery.last_fault = delivery.last_fault != fault.line, fault.line
    try:
        _log.log(level, text, exc_info=error if is_new else None, extra=extra)
    except BaseException:  # noqa: BLE001  # a formatter of the program that calls methods of the error
        with suppress(BaseException):  # a filter of the program that raises must not undo the attempt
            _log.log(level, text, extra=extra)

"""Say when cron triggers fire next. Workers do so without a leader: see lua/schedule.lua. Sweepers then let the times happen."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import timing
from motia_redis._scripts.timing import NextTime, ScheduleKeys
from motia_redis._store.keyspace import partition_of
from motia_redis._store.sweeping import is_refusal
from motia_redis._worker.observing import Observed
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from motia_redis._scripts.timing import How, Schedule, Schedules
    from motia_redis._steps.cron_times import Times
    from motia_redis._steps.definitions import Step
    from motia_redis._steps.triggers import CronTrigger, Missed
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.outages import Outage
    from motia_redis._transport.router import Router

_log = logging.getLogger("motia_redis.worker")

_LOOK = 1.0  # seconds between two looks at the schedules, by all workers together
_LONGEST = 10.0  # seconds between two looks of one worker, about
_OTHERS = 30  # one of so many looks is also at the steps without a cron trigger, which may have had one
_KEPT = 60.0  # seconds for which a schedule stays that no worker wants, while workers run its step
_GAP = 30.0  # seconds without a look after which they count anew: those who want the schedule may have been cut off, too
_RECONNECT = 0.2  # seconds before trying again while Redis is away
_ROUNDS = 5  # calls of one look: each may learn that another worker was faster
_GRACE = 60_000  # milliseconds by which a time may be late that was not missed; as in lib/schedules.lua


def next_time(times: Times, after: int, now: int, missed: Missed) -> tuple[int | None, How]:
    """Return the time that follows `after` (Unix milliseconds), and what becomes of it.

    Of several that have come, it is the latest: it stands for all of them. If it was missed, too, `missed` decides.
    """
    first = times.after(after)
    if first is None or first > now:
        return first, "time"
    last = times.last(first, now)
    if now - last <= _GRACE:
        return last, "time"
    return last, "late" if missed == "once" else "skip"


class _Trigger:
    """A cron trigger, and what to say about its schedule next."""

    def __init__(self, trigger: CronTrigger, step: str) -> None:
        from motia_redis._steps.cron_times import Times, zone_of  # noqa: PLC0415 - only a cron trigger needs cronsim

        self._trigger = trigger
        self.ask()
        self._step = step
        self._times = Times(trigger.expression, zone_of(trigger.timezone))

    def ask(self) -> None:
        """Only ask how far the schedule has come: what was to be said may be out of date."""
        self.said = NextTime(self._trigger.schedule, None, None, "time")

    def note(self, schedule: Schedule, now: int) -> bool:
        """Note how far the schedule had come at the time `now`. Return whether there is more to say."""
        if schedule.next is not None:
            return False
        time, how = next_time(self._times, schedule.after, now, self._trigger.missed)
        if time is not None and how != "time":
            self._log_missed(schedule.after, time, now)
        self.said = NextTime(self._trigger.schedule, schedule.after, time, how)
        return time is not None

    def _log_missed(self, after: int, time: int, now: int) -> None:
        outcome = "the latest fires now" if self._trigger.missed == "once" else "none of them fires"
        text = "step %s: %s missed its times after %s, of which the latest was %d s ago: %s"
        since = datetime.fromtimestamp(after / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        _log.warning(text, self._step, self._trigger, since, (now - time) // 1000, outcome)


class _Step:
    """A step with its cron triggers; there may be none."""

    def __init__(self, step: Step, keyspace: Keyspace) -> None:
        stream = keyspace.cron(step.name)
        due = keyspace.due(partition_of(stream))
        self.name = step.name
        self.unwanted: Mapping[str, int] = {}  #: schedules that the step has in Redis, and this version does not want
        self._keys = ScheduleKeys(due, keyspace.trimmed(due), keyspace.schedules(stream, step.name))
        self._triggers = [_Trigger(trigger, step.name) for trigger in step.cron_triggers]
        self._observed = Observed()

    @property
    def is_busy(self) -> bool:
        """Return whether the step needs to be looked at regularly."""
        return bool(self._triggers or self.unwanted)

    def ask(self) -> None:
        """Begin a look by asking how far all schedules have come."""
        for trigger in self._triggers:
            trigger.ask()

    def call(self) -> timing.ScheduleCall:
        """Return what to say about the schedules, those that have not been wanted for long included."""
        said = [trigger.said for trigger in self._triggers]
        for name, since in self.unwanted.items():
            if self._observed.unchanged_for(name, b"%d" % since) > _KEPT:
                said.append(NextTime(name, since, None, "forget"))
        return self._keys, self.name, said

    def note(self, reply: Schedules) -> bool:
        """Note how far the schedules have come. Return whether there is more to say about one."""
        self.unwanted = reply.unwanted
        self._observed.keep(reply.unwanted)
        asked = zip(self._triggers, reply.asked, strict=False)  # behind them are those to forget
        more = [trigger.note(schedule, reply.now) for trigger, schedule in asked]
        return any(more)

    def restart(self) -> None:
        """Count anew for how long schedules are not wanted."""
        self._observed.restart()


class Scheduler:
    """Keep the cron triggers of an application scheduled, until `run` is cancelled.

    Arguments:
        steps: the steps that a worker consumes for.
        workers: returns how many live workers run one of these steps.
        paused: returns the steps that are paused. Their schedules stay as they are: times are missed meanwhile.
        new_outage: returns where failures are reported; its argument says what they mean.
        check_layout: looks whether Redis still has the layout, after a failure.
    """

    def __init__(
        self,
        router: Router,
        keyspace: Keyspace,
        steps: Iterable[Step],
        *,
        workers: Callable[[Collection[str]], int],
        paused: Callable[[], Collection[str]],
        new_outage: Callable[[str], Outage],
        check_layout: Callable[[], Awaitable[None]],
    ) -> None:
        self._router = router
        self._steps = [_Step(step, keyspace) for step in steps]
        self._workers = workers
        self._paused = paused
        self._new_outage = new_outage
        self._check_layout = check_layout

    async def run(self) -> None:
        """Look at the schedules regularly."""
        outage = self._new_outage("cron triggers are not scheduled")
        has_failed, looks, last = False, 0, time.monotonic()
        while True:
            try:
                if has_failed:
                    await self._check_layout()
                paused, was_away = self._paused(), time.monotonic() - last > _GAP
                for step in self._steps:
                    if was_away or step.name in paused:
                        step.restart()
                running = [step for step in self._steps if step.name not in paused]
                busy = [step for step in running if step.is_busy]
                await look(self._router, busy if busy and looks % _OTHERS else running)
                has_failed, looks, last = False, looks + 1, time.monotonic()
                outage.answered()
                pause = self._pause()
            except (RedisError, OSError, StateError) as error:
                has_failed, pause = True, _RECONNECT
                if is_refusal(error):  # that Redis is away is reported elsewhere
                    outage.failed(error, refused=True)
            await asyncio.sleep(pause)

    def _pause(self) -> float:
        """Return the seconds until the next look: all workers together look as often as one."""
        busy = [step.name for step in self._steps if step.is_busy]
        workers = self._workers(busy or [step.name for step in self._steps])
        pause = min(_LOOK * max(1, workers), _LONGEST) * random.uniform(0.5, 1.5)  # noqa: S311
        return pause if busy else pause * _OTHERS


async def schedule_now(router: Router, keyspace: Keyspace, steps: Iterable[Step]) -> None:
    """Say when the cron triggers of these steps fire next. A new one has no past from here on. Raises errors of Redis."""
    await look(router, [_Step(step, keyspace) for step in steps if step.cron_triggers])


async def look(router: Router, steps: Sequence[_Step]) -> None:
    """Learn how far the schedules of these steps have come, and say which times are next. Raises errors of Redis."""
    pending = steps
    for step in steps:
        step.ask()
    for _ in range(_ROUNDS):
        if not pending:
            return
        replies = await timing.schedule(router, [step.call() for step in pending])
        pending = [step for step, reply in zip(pending, replies, strict=True) if step.note(reply)]

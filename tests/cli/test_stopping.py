"""The end of a process, without a process: what is cancelled, and what is said."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from motia_redis._cli.stopping import Stop
from tests.support.waiting import DEADLINE, within_deadline

if TYPE_CHECKING:
    import pytest


async def test_tasks_that_end_in_time_are_waited_for_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    job = asyncio.create_task(asyncio.sleep(0))
    await Stop(1000, print).wait_for([job])
    assert job.done()
    assert not job.cancelled()
    assert caplog.messages == []


async def test_tasks_that_do_not_end_are_named_and_cancelled_before_the_grace_time_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stop, began = Stop(2, print), time.monotonic()
    stop.running = lambda: ["request GET /a", "the worker's running handlers"]
    ended, hangs = (asyncio.create_task(asyncio.sleep(seconds)) for seconds in (0, 60))
    await stop.wait_for([ended, hangs])
    assert 1.5 <= time.monotonic() - began < DEADLINE
    assert hangs.cancelled()
    assert not ended.cancelled()
    assert caplog.messages == [
        "stopping: waiting up to 2 s for request GET /a, the worker's running handlers",
        "the grace time of 2 s is over: ending without request GET /a, the worker's running handlers",
    ]


async def test_ten_of_many_that_run_are_named(caplog: pytest.LogCaptureFixture) -> None:
    stop = Stop(1, print)
    stop.running = lambda: [f"handler {number}" for number in range(64)]
    await stop.wait_for([asyncio.create_task(asyncio.sleep(60))])
    assert caplog.messages[-1].endswith("handler 8, handler 9, 54 more")


async def test_task_that_ignores_its_cancellation_is_left() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    job = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await within_deadline(Stop(1, print).wait_for([job]))
    released.set()
    await job


async def test_grace_time_begins_once() -> None:
    stop = Stop(1000, print)
    stop.begin()
    assert stop._began is not None
    stop._began -= 1000
    await within_deadline(stop.wait_for([asyncio.create_task(asyncio.sleep(60))]))

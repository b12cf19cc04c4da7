"""Celery with Redis as its broker: the `solo` pool, faster for tasks that do nothing than `prefork` or `threads`.

Settings from its optimizing guide: results ignored, events and remote control off, no gossip or mingle, increased prefetching.
Tasks are acknowledged early, which is the default.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

_PREFETCH = 100


def _task(job: Job, handle: Callable[[Value], None]) -> tuple[Celery, Any]:
    app = Celery("bench", broker=job.url.replace("unix://", "redis+socket://"))
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=_PREFETCH,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=False,
    )
    return app, app.task(name="handle")(handle)


def work(job: Job, meter: Meter) -> None:
    """Run the worker in this process."""
    logging.getLogger("celery").setLevel(logging.ERROR)

    def handle(value: Value) -> None:
        meter.handle(value)

    app, _ = _task(job, handle)
    options = ["--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["worker", *options])


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Yield a function that calls `delay`."""

    def handle(value: Value) -> None: ...

    _, task = _task(job, handle)

    async def send(value: Value) -> None:
        task.delay(value)

    yield send

"""The task of a worker in an `async with` block: its failure is logged at once, and its end waits for handlers, not for ever."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

_log = logging.getLogger("motia_redis.worker")

LAST_WAIT = 1.0  # seconds that cancelled handlers get when the grace time is over


class EmbeddedTask:
    """Run a worker in a task of the running event loop."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work, name="motia-redis-worker")
        self._task.add_done_callback(_report_failure)

    async def end(self, grace: float, running: Callable[[], list[str]]) -> BaseException | None:
        """Wait for the end of the task, which was told to stop: `grace` seconds at most. Return what it has raised.

        Then log what is `running`, and cancel the task. If this call is cancelled, so is the task.
        """
        try:
            await asyncio.wait([self._task], timeout=grace)
            if not self._task.done():
                names = ", ".join(running()) or "the worker, which gives its lanes away"
                _log.warning("the grace time of %g s is over: ending without %s", grace, names)
        finally:
            self._task.cancel()
        await asyncio.wait([self._task], timeout=2 * LAST_WAIT)
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None


def _report_failure(task: asyncio.Task[None]) -> None:
    """Log at once that a worker has ended by an error: the block that it runs in may go on for long."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the worker has ended by an error, and handles no more events", exc_info=error)

"""One background task for each partition that has something to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class PartitionTasks:
    """Tasks by the leases' key of their partition. Each runs `work` once, and ends when that returns."""

    def __init__(self, work: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    def start(self, leases: bytes) -> None:
        """Start the task of a partition, unless it runs."""
        if leases not in self._tasks:
            self._tasks[leases] = asyncio.create_task(self._run(leases))

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, leases: bytes) -> None:
        try:
            await self._work(leases)
        finally:
            del self._tasks[leases]

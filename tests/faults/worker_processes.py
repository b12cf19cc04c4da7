"""Worker processes that tests kill, pause and add, and the changes that they handle."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis.errors import StateError
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    import redis

    from motia_redis import StateManager

APPLICATION = Path(__file__).parent / "recorder_step.py"
#: True in `make chaos`, which runs each fault test for longer than `make test` does.
FULL = os.environ.get("MOTIA_CHAOS") == "full"
BURST = 20  # changes that Load writes at once


class WorkerProcesses:
    """Worker processes of an application on one namespace. Leaving `with` kills all of them."""

    def __init__(
        self,
        directory: Path,
        url: str,
        namespace: str,
        *,
        application: Path = APPLICATION,
        options: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._application = application
        self._options = options
        self._directory = directory
        self._environment = os.environ | {"MOTIA_REDIS_URL": url, "MOTIA_REDIS_NAMESPACE": namespace} | environment
        self._log = directory / "workers.log"

    @property
    def output(self) -> str:
        """Return what all workers printed."""
        return self._log.read_text()

    def start(self, count: int = 1) -> None:
        """Start `count` workers."""
        for _ in range(count):
            with self._log.open("ab") as log:
                command = [sys.executable, "-m", "motia_redis", "worker", str(self._application), "--log-level", "warning"]
                command += self._options
                self.processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory, env=self._environment)
                )

    async def ready(self, count: int) -> None:
        """Wait until `count` workers in all have printed that they are ready."""

        async def printed() -> bool:
            return self.output.count("worker ready") >= count

        await until(printed, f"{count} workers are ready", deadline=60)

    def replace(self, index: int) -> None:
        """Kill a worker with SIGKILL and start another one."""
        self.processes[index].kill()
        self.processes.pop(index).wait()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


class Load:
    """Changes of many keys. The changes of each key are numbered from 1."""

    def __init__(self, state: StateManager, raw: redis.Redis, namespace: str, *, keys: int, scope: str = "load") -> None:
        self.sent: dict[str, int] = defaultdict(int)
        self._state = state
        self._raw = raw
        self._namespace = namespace
        self._keys = keys
        self._scope = scope

    async def send(self, events: int, *, per_second: float) -> None:
        """Write `events` changes at about this rate: 20 keys at once, the changes of each key in order."""
        began = time.monotonic()
        for first in range(0, events, BURST):
            await self._send_burst(first)
            await asyncio.sleep(max(0.0, began + (first + BURST) / per_second - time.monotonic()))

    async def pace(self, events: int = 400) -> float:
        """Write changes as quickly as they are accepted, and wait until they are handled. Return the seconds for each."""
        began = time.monotonic()
        await self.send(events, per_second=1e9)
        await self.handled(deadline=60)
        return (time.monotonic() - began) / events

    async def send_until(self, stop: asyncio.Event, *, per_second: float) -> None:
        """Write changes as `send` does, until `stop` is set."""
        began = time.monotonic()
        first = 0
        while not stop.is_set():
            await self._send_burst(first)
            first += BURST
            await asyncio.sleep(max(0.0, began + first / per_second - time.monotonic()))

    async def _send_burst(self, first: int) -> None:
        await asyncio.gather(*(self._change(f"key{number % self._keys}") for number in range(first, first + BURST)))

    async def _change(self, key: str) -> None:
        self.sent[key] += 1
        while True:
            try:
                await self._state.set(self._scope, key, {"n": self.sent[key]})
            except StateError:
                await asyncio.sleep(0.05)  # a change that was applied without an answer gets a second event of the same number
            else:
                return

    def lines(self, log: str) -> list[list[str]]:
        """Return the lines that the handlers recorded, in order."""
        found: Any = self._raw.lrange(f"log:{self._namespace}:{log}", 0, -1)
        return [line.decode().split() for line in found]

    async def recorded(self, more: int) -> None:
        """Wait until the handlers have recorded so many changes more: the load is there, and workers take it."""
        enough: int | None = None

        async def is_enough() -> bool:
            nonlocal enough
            try:
                count: Any = self._raw.llen(f"log:{self._namespace}:record")
            except RedisError:
                return False
            enough = count + more if enough is None else enough
            return bool(count >= enough)

        await until(is_enough, f"{more} more changes are recorded", deadline=60)

    async def handled(self, log: str = "record", *, deadline: float) -> float:
        """Wait until the handlers have recorded every change; return the seconds that this took."""
        began = time.monotonic()
        wanted = {(key, str(n)) for key, last in self.sent.items() for n in range(1, last + 1)}

        async def complete() -> bool:
            try:
                return wanted <= {(line[0], line[1]) for line in self.lines(log)}
            except RedisError:
                return False

        await until(complete, f"all {len(wanted)} events are recorded", deadline=deadline)
        return time.monotonic() - began

    def check_order(self, log: str = "record") -> int:
        """Assert that the events of each key ran in order; return the number of duplicates.

        Events that run again after a crash run in order too: the first of them was recorded before, and the numbers rise by one
        from there.
        """
        by_key: dict[str, list[int]] = defaultdict(list)
        for line in self.lines(log):
            by_key[line[0]].append(int(line[1]))
        duplicates = 0
        for key, numbers in by_key.items():
            firsts = list(dict.fromkeys(numbers))
            assert firsts == sorted(firsts), f"{key} was handled out of order: {numbers}"
            for before, after in pairwise(numbers):
                assert after <= before + 1, f"events of {key} were skipped: {numbers}"
            duplicates += len(numbers) - len(firsts)
        return duplicates

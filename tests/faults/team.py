"""A team of worker processes to be killed, paused and scaled, and the load they work on."""

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
    from typing import Self

    import redis

    from motia_redis import StateManager

APPLICATION = Path(__file__).parent / "recorder_step.py"
#: The long runs of `make chaos`; in `make test` each experiment has a short form.
FULL = os.environ.get("MOTIA_CHAOS") == "full"


class Team:
    """Worker processes on one namespace; all ended behind `with`."""

    def __init__(self, directory: Path, url: str, namespace: str, **environment: str) -> None:
        self.workers: list[subprocess.Popen[bytes]] = []
        self._directory = directory
        self._environment = os.environ | {"MOTIA_REDIS_URL": url, "MOTIA_REDIS_NAMESPACE": namespace} | environment
        self._log = directory / "workers.log"

    @property
    def output(self) -> str:
        """What all workers printed."""
        return self._log.read_text()

    def start(self, count: int = 1) -> None:
        """Add workers."""
        for _ in range(count):
            with self._log.open("ab") as log:
                command = [sys.executable, "-m", "motia_redis", "worker", str(APPLICATION), "--log-level", "warning"]
                self.workers.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory, env=self._environment))

    async def ready(self, count: int) -> None:
        """Wait until that many workers in all have said that they are ready."""

        async def said() -> bool:
            return self.output.count("worker ready") >= count

        await until(said, f"{count} workers are ready")

    def replace(self, index: int) -> None:
        """Kill a worker as a crash would, and start another in its place."""
        self.workers[index].kill()
        self.workers.pop(index).wait()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


class Load:
    """Numbered changes of many keys: each key counts up from 1."""

    def __init__(self, state: StateManager, raw: redis.Redis, namespace: str, *, keys: int, scope: str = "load") -> None:
        self.sent: dict[str, int] = defaultdict(int)
        self._state = state
        self._raw = raw
        self._namespace = namespace
        self._keys = keys
        self._scope = scope

    async def send(self, events: int, *, per_second: float) -> None:
        """Write changes at about this rate, several keys at once, each key in order; again when Redis was away."""
        began = time.monotonic()
        burst = 20
        for first in range(0, events, burst):
            await asyncio.gather(*(self._change(f"key{number % self._keys}") for number in range(first, first + burst)))
            await asyncio.sleep(max(0.0, began + (first + burst) / per_second - time.monotonic()))

    async def _change(self, key: str) -> None:
        self.sent[key] += 1
        while True:
            try:
                await self._state.set(self._scope, key, {"n": self.sent[key]})
            except StateError:
                await asyncio.sleep(0.05)  # what was applied and not answered is a second event of the same number
            else:
                return

    def lines(self, log: str) -> list[list[str]]:
        """Return what the handlers recorded, in order."""
        found: Any = self._raw.lrange(f"log:{self._namespace}:{log}", 0, -1)
        return [line.decode().split() for line in found]

    async def handled(self, log: str = "record", *, deadline: float) -> float:
        """Wait until everything sent was recorded; return the seconds it took."""
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
        """Assert that each key's events ran in order; return the number of duplicates.

        What runs again after a crash runs in order too: a step back lands on an event that was recorded before, and the run goes
        on from there one by one.
        """
        by_key: dict[str, list[int]] = defaultdict(list)
        for line in self.lines(log):
            by_key[line[0]].append(int(line[1]))
        duplicates = 0
        for key, numbers in by_key.items():
            firsts = list(dict.fromkeys(numbers))
            assert firsts == sorted(firsts), f"{key} was handled out of order: {numbers}"
            for before, after in pairwise(numbers):
                assert after <= before + 1, f"{key} left out events: {numbers}"
            duplicates += len(numbers) - len(firsts)
        return duplicates

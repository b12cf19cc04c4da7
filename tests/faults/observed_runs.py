"""Workers inside a test whose handlers note when they run, and the changes that they handle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from motia_redis import FlowContext, StateManager, Worker, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._worker.membership import assign
from tests.support.waiting import until, until_holds
from tests.support.workers import pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from motia_redis._steps.inputs import StateTriggerInput


class Runs:
    """A handler of some seconds that notes when it ran for each event. The events of a key are numbered from 0."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.go: asyncio.Event | None = None  #: if there is one, handlers wait for it
        self.waits_at: dict[str, asyncio.Event] = {}  #: handlers of these keys wait
        self.by_key: dict[str, list[tuple[str, int]]] = defaultdict(list)  #: worker and number of each run
        self.begins: dict[str, list[float]] = defaultdict(list)  #: times at which each worker began a run
        self.overlaps = 0
        self._running: dict[str, int] = defaultdict(int)

    def application(self, worker: str, **config: Any) -> Application:
        async def handle(input: StateTriggerInput, _: FlowContext) -> None:
            await self._run(worker, input.group_id + "/" + input.item_id, input.new_value)

        return Application((step({"name": "Step", "triggers": [state_trigger()], **config}).handle(handle),))

    async def _run(self, worker: str, key: str, number: int) -> None:
        self.by_key[key].append((worker, number))
        self.begins[worker].append(time.monotonic())
        self._running[key] += 1
        self.overlaps += self._running[key] > 1
        try:
            go = self.waits_at.get(key, self.go)
            await (go.wait() if go else asyncio.sleep(self.seconds))
        finally:
            self._running[key] -= 1

    @property
    def count(self) -> int:
        return sum(map(len, self.by_key.values()))

    def numbers(self, key: str) -> list[int]:
        return [number for _, number in self.by_key[key]]

    def has_all(self, keys: int, events: int) -> bool:
        """Return whether each of the writer's keys has so many different events."""
        return all(len(set(self.numbers(f"scope{number}/key"))) == events for number in range(keys))

    def check_order(self) -> None:
        """Assert that no event ran for the first time after a newer one of its key."""
        for key in self.by_key:
            firsts = list(dict.fromkeys(self.numbers(key)))
            assert firsts == sorted(firsts), f"{key} was handled out of order: {self.by_key[key]}"


@contextlib.asynccontextmanager
async def running(raw: redis.Redis, *workers: Worker) -> AsyncIterator[None]:
    """Run workers inside the block, which begins when they share the lanes."""
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        try:
            await until_holds(lambda: is_shared(raw, len(workers)), "the workers share the lanes")
            yield
        finally:
            for worker in workers:
                worker.stop()


def holders_of(raw: redis.Redis) -> dict[bytes, bytes]:
    """Return the worker and the tenure of each lane."""
    fields = {name: value for key in raw.scan_iter("{*}:leases") for name, value in raw.hgetall(key).items()}
    return {name: value for name, value in fields.items() if not name.startswith(b"worker ")}


def lanes_of(raw: redis.Redis) -> dict[bytes, int]:
    """Return how many lanes each worker holds; b"" for those that nobody holds."""
    found: dict[bytes, int] = defaultdict(int)
    for key in raw.scan_iter("{*}:leases"):
        for name, worker in raw.hgetall(key).items():
            if name.startswith(b"lane "):
                found[worker] += 1
    return found


def is_shared(raw: redis.Redis, workers: int) -> bool:
    """Return whether so many workers, which all want the same lanes, share them as they are assigned: none is to move."""
    holders: dict[bytes, str] = {}
    for key in raw.scan_iter("{*}:leases"):
        fields = raw.hgetall(key)
        holders |= {name[5:]: worker.decode() for name, worker in fields.items() if name.startswith(b"lane ")}
    team = sorted(set(holders.values()))
    by_step: dict[bytes, list[bytes]] = defaultdict(list)
    for name in holders:
        by_step[name.partition(b"\n")[0]].append(name)
    assigned = {name: owner for names in by_step.values() for name, owner in assign(names, team).items()}
    return len(team) == workers and "" not in team and holders == assigned


async def drained(raw: redis.Redis, namespace: str, deadline: float = 20.0) -> None:
    async def is_drained() -> bool:
        return await pending(raw, namespace) == 0

    await until(is_drained, "everything is handled and recorded", deadline=deadline)


class Writer:
    """Writes the next change of each key: its number."""

    def __init__(self, state: StateManager, keys: int) -> None:
        self.events = 0  #: of each key
        self._state = state
        self._keys = keys

    async def write(self, events: int) -> None:
        """Write so many changes of each key, those of one key in order."""
        for _ in range(events):
            await asyncio.gather(*(self._state.set(f"scope{key}", "key", self.events) for key in range(self._keys)))
            self.events += 1

"""Watches that record what they see under faults, and the check of it against the events of the lanes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import HistoryForked, HistoryGone, StateError, StateUnavailable
from motia_redis.types import Change, Synced
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from motia_redis import StateManager

SCOPES = ("{watched}/one", "{watched}/two")
KEYS = [f"key {number}" for number in range(12)]
# One key of each lane: what comes before its change in the lane has been shown when it has.
ENDS = list({Keyspace("motia", Layout()).lane(b"end %d" % number): f"end {number}" for number in range(200)}.values())


class Violation(AssertionError):
    """What a watch has shown is not what the lanes hold."""


class Shown(NamedTuple):
    """One item that a watch has shown."""

    scope: str
    key: str
    revision: str
    type: str
    transaction: str | None


class Recorder:
    """One watch, which is closed now and then and goes on after its last cursor. After a gap it starts with a snapshot."""

    def __init__(
        self, name: str, state: StateManager, rnd: random.Random, scope: str | None, *, start: str, restarts: float
    ) -> None:
        self.name = name
        self.shown: list[Shown] = []  #: since the last start that was not a cursor
        self.counts: Counter[str] = Counter()
        self.is_synced = start != "snapshot"
        self._state = state
        self._rnd = rnd
        self._scope = scope
        self._start = start
        self._restarts = restarts

    async def run(self) -> None:
        """Record until the changes of the keys `ENDS` of each scope have come."""
        scopes = SCOPES if self._scope is None else [self._scope]
        ends = {(scope, key) for scope in scopes for key in ENDS}
        while True:
            try:
                async with self._state.watch(self._scope, start=self._start, buffer_items=50_000) as watch:
                    async for item in watch:
                        self._start = item.cursor
                        if isinstance(item, Change):
                            mark = item.transaction
                            self.counts["changes"] += 1
                            self.shown.append(Shown(item.scope, item.key, item.revision, item.type, mark and mark.id))
                            ends.discard((item.scope, item.key))
                            if not ends:
                                return
                        elif isinstance(item, Synced):
                            self.is_synced = True
                        if self._rnd.random() < self._restarts:
                            self.counts["restarts"] += 1
                            if not self.is_synced:
                                self._reset()
                            break
            except StateUnavailable:
                self.counts["unavailable"] += 1
                await asyncio.sleep(0.1)
                if not self.is_synced:
                    self._reset()
            except (HistoryGone, HistoryForked) as error:
                self.counts[type(error).__name__] += 1
                self._start = "snapshot"
                self._reset()

    def _reset(self) -> None:
        """Forget what was shown: a new snapshot follows."""
        self.shown.clear()
        self.is_synced = False


def read_lanes(names: Keyspace, nodes: Iterable[redis.Redis]) -> dict[tuple[str, str], list[str]]:
    """Return the revisions of the changes of each scope and key."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    streams = dict.fromkeys(stream for scope in SCOPES for stream in names.event_streams(scope))
    for node in nodes:
        for stream in streams:
            try:
                entries: Any = node.xrange(stream)
            except redis.ResponseError:  # another node of the Cluster has it
                continue
            for entry_id, fields in entries:
                found[fields[b"scope"].decode(), fields[b"key"].decode()].append(entry_id.decode())
    return found


def check(recorder: Recorder, lanes: dict[tuple[str, str], list[str]], stored: set[tuple[str, str]], scope: str | None) -> int:
    """Raise Violation unless, for each key, the watch has shown all changes from some one on, each once and in order.

    Where the key has a value, it has shown that. The changes of a transaction stand together. Return the number of changes.
    """
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for shown in recorder.shown:
        keys[shown.scope, shown.key].append(shown.revision)
    for place, revisions in keys.items():
        expected = lanes[place]
        if revisions != expected[-len(revisions) :]:
            raise Violation(f"{recorder.name}: {place} has shown {revisions[-8:]}, the lanes hold {expected[-8:]}")
    for place in stored:
        if scope in (None, place[0]) and not keys[place]:
            raise Violation(f"{recorder.name}: {place} has a value and was not shown")
    last: str | None = None
    ended: set[str] = set()
    for shown in recorder.shown:
        name = None if shown.type == "state:snapshot" else shown.transaction
        if last is not None and name != last:
            ended.add(last)
        if name in ended:
            raise Violation(f"{recorder.name}: another change stands between those of transaction {name}")
        last = name
    return len(recorder.shown)


class Writers:
    """Change keys of both scopes in several tasks: single changes, deletions and transactions. What fails is left as it is."""

    def __init__(self, state: StateManager, rnd: random.Random, tasks: int = 6) -> None:
        self.changes = 0
        self._state = state
        self._rnd = rnd
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()) for _ in range(tasks)]

    async def _write(self) -> None:
        rnd = self._rnd
        while not self._stop.is_set():
            scope, key = rnd.choice(SCOPES), rnd.choice(KEYS)
            try:
                kind = rnd.random()
                if kind < 0.15:
                    await self._state.delete(scope, key)
                elif kind < 0.4:
                    async with self._state.transaction() as tx:
                        for other in rnd.sample(KEYS, 4):
                            tx.set(rnd.choice(SCOPES), other, [key])
                else:
                    await self._state.update(scope, key, [{"op": "merge", "path": "", "value": {key: rnd.random()}}])
            except StateError:
                await asyncio.sleep(0.01)
            else:
                self.changes += 1

    async def until_more(self, count: int) -> None:
        """Wait until so many changes more have been made."""
        least = self.changes + count
        await until_holds(lambda: self.changes >= least, f"{count} changes more were made", deadline=90)

    async def end(self) -> None:
        """Stop, and write the last change of each scope."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        for scope in SCOPES:
            for key in ENDS:
                await self._set_in_the_end(scope, key)

    async def _set_in_the_end(self, scope: str, key: str) -> None:
        is_set = False
        while not is_set:
            try:
                await self._state.set(scope, key, 1)
                is_set = True
            except StateError:
                await asyncio.sleep(0.1)


async def stored_places(state: StateManager) -> set[tuple[str, str]]:
    """Return the scopes and keys that have a value."""
    return {(scope, key) for scope in SCOPES for key in await state.keys(scope)}

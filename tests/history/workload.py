"""A process that reads and changes a few keys at random and records each call: `python -m tests.history.workload`.

Many changes require a revision: the newest one, or one that the task knows to be old. So a build that does not check revisions is
detected without a race of two tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import orjson

from motia_redis import StateManager
from motia_redis._store.limits import Retention
from motia_redis.errors import RevisionConflict, StateUnavailable, TransactionFailed
from tests.history.calls import ANY, Call, place_of, value_of

TTLS = {"set": [None, None, None, 0.005, 0.03, 0.2], "update": [None] * 9 + [0.03]}  # seconds
READS = ("get", "entry")
OTHERS = ["other:key0", "other:key1"]  #: keys of the second scope
KINDS = [*READS, "set", "set", "update", "update", "update", "modify", "modify", "delete", "delete", "together", "together"]


async def _make(state: StateManager, call: Call) -> None:
    """Make the call, and record what it returns."""
    condition: dict[str, Any] = {} if call.expected == ANY else {"if_revision": call.expected}
    if call.ttl is not None:
        condition["ttl"] = call.ttl
    scope, key = place_of(call.key)
    match call.kind:
        case "get":
            call.seen = value_of(await state.get(scope, key))
        case "entry":
            entry = await state.entry(scope, key)
            call.seen, call.revision = (value_of(entry.value), entry.revision) if entry else (None, None)
        case "set" | "modify":
            await state.set(scope, key, {"n": call.count, "token": call.token}, **condition)
        case "update":
            value = await state.update(scope, key, _operations(call), **condition)
            assert value["token"] == call.token, "update returned another value than it wrote"
            call.count = value["n"]
        case "delete":
            call.seen = value_of(await state.delete(scope, key, **condition))


def _operations(call: Call) -> Any:
    return [{"op": "increment", "path": "/n", "value": 1}, {"op": "replace", "path": "/token", "value": call.token}]


class _Task:
    """Makes random calls one after the other and records them in `calls`."""

    def __init__(self, state: StateManager, name: str, keys: int, choose: random.Random, calls: list[Call]) -> None:
        self._state = state
        self._name = name
        self._keys = [f"key{number}" for number in range(keys)] + OTHERS
        self._choose = choose
        self._calls = calls
        self._number = 0
        self._old: dict[str, str] = {}  # of each key, a revision that it has no more

    async def step(self) -> None:
        """Make one random call; before a change that requires a revision, also read it."""
        key, kind = self._choose.choice(self._keys), self._choose.choice(KINDS)
        if kind == "together":
            await self._change_together()
            return
        if kind in READS:
            await self._call(Call(key, kind, 0))
            return
        call = Call(key, kind, 0, count=self._choose.randrange(100) if kind == "set" else None)
        call.ttl = self._choose.choice(TTLS.get(kind, [None]))
        if kind == "modify" or self._choose.random() < 0.4:
            read = Call(key, "entry", 0)
            if not await self._call(read):
                return
            call.expected = read.revision
            if kind == "modify":
                call.count = (read.seen.count if read.seen else 0) + 1
        elif self._choose.random() < 0.2:
            call.expected = self._old.get(key, ANY)
        if await self._call(call) and call.outcome == "ok" and call.expected not in (ANY, None):
            self._old[key] = call.expected  # the change gave the key another revision, or the key has no value

    async def _change_together(self) -> None:
        """Change and check two or three keys, of both scopes, in one transaction, which may require revisions of them."""
        keys = self._choose.sample(self._keys, self._choose.choice([2, 2, 3]))
        calls = [Call(key, self._choose.choice(["set", "update", "delete", "check"]), 0) for key in keys]
        for call in calls:
            call.count = self._choose.randrange(100) if call.kind == "set" else None
            is_check_of_old = call.kind == "check" and call.key in self._old and self._choose.random() < 0.2
            if not is_check_of_old and (call.kind == "check" or self._choose.random() < 0.3):
                read = Call(call.key, "entry", 0)
                if not await self._call(read):
                    return
                call.expected = read.revision
            elif is_check_of_old or self._choose.random() < 0.15:
                call.expected = self._old.get(call.key, ANY)
            self._number += 1
            call.token = f"{self._name}.{self._number}"
            call.together = calls[0].token
        for call in calls:
            call.start = time.monotonic_ns()
        calls = await self._transact(calls)
        for call in calls:
            call.end = time.monotonic_ns()
        self._calls += calls

    async def _transact(self, calls: list[Call]) -> list[Call]:
        """Make the changes in one transaction, and record what it returns. Return the calls of which something is known."""
        try:
            async with self._state.transaction() as tx:
                for call in calls:
                    scope, key = place_of(call.key)
                    match call.kind:
                        case "set":
                            tx.set(scope, key, {"n": call.count, "token": call.token})
                        case "update":
                            tx.update(scope, key, _operations(call))
                        case "delete":
                            tx.delete(scope, key)
                    if call.expected != ANY:
                        tx.check(scope, key, call.expected)
        except TransactionFailed as error:
            (failed,) = (call for call in calls if place_of(call.key) == (error.scope, error.key))
            failed.outcome, failed.revision = "rejected", cast("RevisionConflict", error.__cause__).actual
            return [failed]
        except StateUnavailable as error:
            for call in calls:
                call.outcome = "unknown"
            return calls if error.maybe_applied else []
        for call in calls:
            if call.kind != "check":
                call.made = tx.revisions[place_of(call.key)]
            if call.kind in ("set", "update"):
                call.count = tx.values[place_of(call.key)]["n"]
        return calls

    async def update_before_and_after_the_time(self) -> None:
        """Update keys of this task before and after the time of their values, so that no defect escapes by luck."""
        for key, ttl in ((f"lasts {self._name}", 60.0), (f"ends {self._name}", 0.02)):
            if await self._call(Call(key, "set", 0, count=7, ttl=ttl)):
                await asyncio.sleep(0.1)
                await self._call(Call(key, "update", 0))

    async def _call(self, call: Call) -> bool:
        """Make and record a call. Return false if it had no effect, because Redis was not there."""
        self._number += 1
        call.token = f"{self._name}.{self._number}"
        call.start = time.monotonic_ns()
        try:
            await _make(self._state, call)
        except RevisionConflict as error:
            call.outcome, call.revision = "rejected", error.actual
        except StateUnavailable as error:
            if call.kind in READS or not error.maybe_applied:
                return False
            call.outcome = "unknown"
        call.end = time.monotonic_ns()
        self._calls.append(call)
        return True


async def connect(state: StateManager) -> None:
    """Connect; retry while Redis is down."""
    while True:
        try:
            await state.connect()
        except StateUnavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def main() -> None:
    """Run the tasks of one process and write the recorded calls to a file."""
    parser = argparse.ArgumentParser(description="Call the state API at random and write all calls to a file.")
    for name in ("url", "namespace", "name", "out", "stop"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("keys", "tasks", "seed", "changes", "sweep"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    stop = Path(given.stop)
    calls: list[Call] = []
    retention = Retention(entries=1_000_000)  # the checker reads all events
    state = StateManager(given.url, namespace=given.namespace, retention=retention, deadline=5, sweep=bool(given.sweep))
    try:
        await connect(state)

        async def work(number: int) -> None:
            task = _Task(state, f"{given.name}.{number}", given.keys, random.Random(given.seed * 100 + number), calls)
            await task.update_before_and_after_the_time()
            while not stop.exists() or sum(call.kind not in (*READS, "check") for call in calls) < given.changes:
                await task.step()

        tasks = (work(number) for number in range(given.tasks))
        await asyncio.gather(*tasks)
    finally:
        await state.close()
    Path(given.out).write_bytes(orjson.dumps([asdict(call) for call in calls], default=tuple))


if __name__ == "__main__":
    asyncio.run(main())

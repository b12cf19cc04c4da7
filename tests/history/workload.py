"""A process that reads and changes a few keys at random and records each call: `python -m tests.history.workload`.

Each value has a unique token. So the value that a read returns identifies the change that wrote it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from motia_redis import StateManager
from motia_redis._store.limits import Retention
from motia_redis.errors import RevisionConflict, StateUnavailable

SCOPE = "history"
KINDS = ["get", "entry", "set", "set", "update", "update", "update", "delete"]


@dataclass(slots=True)
class Call:
    """One call. Times are nanoseconds of the monotonic clock, which all processes of a machine share."""

    key: str
    kind: str  #: get, entry, set, update or delete
    start: int
    end: int = 0
    outcome: str = "ok"  #: "ok"; "rejected": not applied; "unknown": a change that may have been applied, or may still be
    token: str = ""  #: the token of the value that the change writes
    seen: str | None = None  #: the token of the value that was read or deleted; None: there was no value
    revision: str | None = None  #: the revision that was read, or that a rejected call found; None: there was no value


async def _make(state: StateManager, call: Call, condition: dict[str, Any]) -> None:
    match call.kind:
        case "get":
            value = await state.get(SCOPE, call.key)
            call.seen = value and value["token"]
        case "entry":
            entry = await state.entry(SCOPE, call.key)
            call.seen, call.revision = (entry.value["token"], entry.revision) if entry else (None, None)
        case "set":
            await state.set(SCOPE, call.key, {"n": 0, "token": call.token}, **condition)
        case "update":
            change = [{"op": "increment", "path": "/n", "value": 1}, {"op": "replace", "path": "/token", "value": call.token}]
            value = await state.update(SCOPE, call.key, change, **condition)
            assert value["token"] == call.token, "update returned another value than it wrote"
        case "delete":
            value = await state.delete(SCOPE, call.key, **condition)
            call.seen = value and value["token"]


async def _work(
    state: StateManager, name: str, keys: int, until: float, least: int, choose: random.Random, calls: list[Call]
) -> None:
    """Make random calls until the time `until`, and on until `calls` holds `least` of them."""
    number = 0
    while time.monotonic() < until or len(calls) < least:
        number += 1
        key = f"key{choose.randrange(keys)}"
        condition: dict[str, Any] = {}
        kind = choose.choice(KINDS)
        if kind not in ("get", "entry") and choose.random() < 0.3:
            try:
                entry = await state.entry(SCOPE, key)
            except StateUnavailable:
                continue
            condition = {"if_revision": entry and entry.revision}
        call = Call(key, kind, time.monotonic_ns(), token=f"{name}.{number}")
        try:
            await _make(state, call, condition)
        except RevisionConflict as error:
            call.outcome, call.revision = "rejected", error.actual
        except StateUnavailable as error:
            if kind in ("get", "entry") or not error.maybe_applied:
                continue
            call.outcome = "unknown"
        call.end = time.monotonic_ns()
        calls.append(call)


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
    for name in ("url", "namespace", "name", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("keys", "tasks", "seed", "calls"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    calls: list[Call] = []
    retention = Retention(entries=1_000_000)  # the checker reads all events
    state = StateManager(given.url, namespace=given.namespace, retention=retention, deadline=5)
    try:
        await connect(state)
        until = time.monotonic() + given.seconds
        tasks = (
            _work(state, f"{given.name}.{task}", given.keys, until, given.calls, random.Random(given.seed * 100 + task), calls)
            for task in range(given.tasks)
        )
        await asyncio.gather(*tasks)
    finally:
        await state.close()
    Path(given.out).write_bytes(orjson.dumps([asdict(call) for call in calls]))


if __name__ == "__main__":
    asyncio.run(main())

"""A process that changes state under network faults and records the outcomes: `python -m tests.faults.writer`."""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio

from motia_redis import StateManager
from motia_redis._store.limits import Retention
from motia_redis.errors import RevisionConflict, StateUnavailable
from tests.history.workload import connect

KEYS = 8


async def _call(state: StateManager, kind: str, key: str, token: str) -> None:
    if kind == "increment":
        await state.update("increment", key, [{"op": "increment", "path": "/n", "value": 1}])
    elif kind == "append":
        await state.update("append", key, [{"op": "append", "path": "/list", "value": token}])
    else:
        entry = await state.entry("replace", key)
        value = {"n": entry.value["n"] + 1 if entry else 1, "token": token}
        await state.set("replace", key, value, if_revision=entry and entry.revision)


async def _work(state: StateManager, name: str, calls: int, choose: random.Random, log: list[Any]) -> None:
    for number in range(calls):
        kind, key, token = choose.choice(["increment", "append", "replace"]), f"key{choose.randrange(KEYS)}", f"{name}.{number}"
        outcome = "applied"
        try:
            await _call(state, kind, key, token)
        except RevisionConflict:
            outcome = "rejected"
        except StateUnavailable as error:
            outcome = "unknown" if error.maybe_applied else "rejected"
        log.append([kind, key, token, outcome])


async def main() -> None:
    """Run the tasks of one process and write the recorded outcomes to a file."""
    parser = argparse.ArgumentParser(description="Change state and write the outcome of each call to a file.")
    for name in ("url", "namespace", "name", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("calls", "tasks", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    log: list[Any] = []
    retention = Retention(entries=1_000_000)  # the test counts the events afterwards
    state = StateManager(given.url, namespace=given.namespace, retention=retention)
    try:
        await connect(state)
        await asyncio.gather(
            *(
                _work(state, f"{given.name}.{task}", given.calls // given.tasks, random.Random(given.seed * 1000 + task), log)
                for task in range(given.tasks)
            )
        )
    finally:
        await state.close()
    Path(given.out).write_bytes(orjson.dumps(log))


async def plain_increments(port: int, calls: int, tasks: int) -> int:
    """Increment a counter with redis-py in its default settings; return the number of acknowledged calls."""
    acknowledged = 0
    async with redis.asyncio.Redis(port=port, socket_timeout=3) as client:

        async def work() -> None:
            nonlocal acknowledged
            for _ in range(calls // tasks):
                try:
                    await client.incr("plain")
                except redis.RedisError:
                    continue
                acknowledged += 1

        await asyncio.gather(*(work() for _ in range(tasks)))
    return acknowledged


if __name__ == "__main__":
    asyncio.run(main())

"""Run the workload in several processes, and check the recorded calls against the content of Redis."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._steps.events import decode_change
from motia_redis._store import codec
from motia_redis._store.keyspace import Keyspace, Layout
from tests.history.check import Event, check
from tests.history.workload import SCOPE, Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

ROOT = Path(__file__).parent.parent.parent


async def record(
    url: str,
    directory: Path,
    *,
    seconds: float,
    calls: int,
    build: Path = ROOT,
    processes: int = 3,
    during: Callable[[], Awaitable[None]] | None = None,
) -> list[Call]:
    """Run the workload with the `motia_redis` package in `build`; return all calls.

    Each process runs for `seconds`, and on until it has made `calls` calls. `during` runs at the same time.
    """
    running, logs = [], []
    for number in range(processes):
        log = directory / f"process{number}.json"
        given: dict[str, Any] = {"url": url, "namespace": "motia", "name": number, "out": log, "seed": number}
        given |= {"keys": 4, "tasks": 4, "seconds": seconds, "calls": calls}
        options = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.history.workload", *options]
        running.append(await asyncio.create_subprocess_exec(*command, cwd=build, env=environment))
        logs.append(log)
    try:
        if during is not None:
            await during()
        async with asyncio.timeout(seconds + 120):
            assert [await process.wait() for process in running] == [0] * processes
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [Call(**call) for log in logs for call in orjson.loads(log.read_bytes())]


def check_history(calls: list[Call], raw: redis.Redis) -> str:
    """Raise Violation unless the calls, the events and the stored values are linearizable; return a summary."""
    names = Keyspace("motia", Layout())
    values, revisions = names.values(SCOPE.encode()), names.revisions(SCOPE.encode())
    events: dict[str, list[Event]] = {}
    for stream in names.event_streams(SCOPE):
        entries: Any = raw.xrange(stream)
        for entry_id, fields in entries:
            change = decode_change(entry_id.decode(), fields)
            old, new = change.old_value, change.new_value
            step = new["n"] - old["n"] if old and new else None
            event = Event(change.revision, fields[b"request"].decode(), old and old["token"], new and new["token"], step)
            events.setdefault(change.item_id, []).append(event)
    texts: Any = raw.hgetall(values)
    stored_revisions: Any = raw.hgetall(revisions)
    stored: dict[str, tuple[str | None, str | None]] = {
        key.decode(): (codec.decode(text, subject="")["token"], stored_revisions[key].decode()) for key, text in texts.items()
    }
    count = check(calls, events, stored)
    unknown = sum(call.outcome == "unknown" for call in calls)
    return f"{count} calls ({unknown} unknown), {sum(map(len, events.values()))} events: linearizable"

"""Run the workload in several processes, and check the recorded calls against the content of Redis."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._steps.events import decode_change
from motia_redis._store import codec, expiry
from motia_redis._store.keyspace import Keyspace, Layout
from tests.history.calls import SCOPES, Value, from_json, name_of, value_of
from tests.history.check import Event, Part, check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from tests.history.calls import Call

ROOT = Path(__file__).parent.parent.parent


async def record(
    url: str,
    directory: Path,
    *,
    changes: int,
    build: Path = ROOT,
    processes: int = 3,
    sweep: bool = True,
    during: Callable[[], Awaitable[None]] | None = None,
) -> list[Call]:
    """Run the workload with the `motia_redis` package in `build`; return all calls.

    Each process makes at least `changes` changes, and goes on until `during` has ended. With `sweep`, the processes look for
    values that have expired.
    """
    running, logs = [], []
    stop = directory / "stop"
    stop.unlink(missing_ok=True)
    for number in range(processes):
        log = directory / f"process{number}.json"
        given: dict[str, Any] = {"url": url, "namespace": "motia", "name": number, "out": log, "seed": number}
        given |= {"keys": 4, "tasks": 4, "stop": stop, "changes": changes, "sweep": int(sweep)}
        options = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.history.workload", *options]
        running.append(await asyncio.create_subprocess_exec(*command, cwd=build, env=environment))
        logs.append(log)
    try:
        if during is not None:
            await during()
        stop.touch()
        async with asyncio.timeout(120):
            assert [await process.wait() for process in running] == [0] * processes
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [from_json(call) for log in logs for call in orjson.loads(log.read_bytes())]


def check_history(calls: list[Call], raw: redis.Redis) -> str:
    """Raise Violation unless the calls, the events and the stored values are linearizable; return a summary."""
    names = Keyspace("motia", Layout())
    events: dict[str, list[Event]] = {}
    for stream in sorted({stream for scope in SCOPES.values() for stream in names.event_streams(scope)}):
        entries: Any = raw.xrange(stream)
        for entry_id, fields in entries:
            change = decode_change(entry_id.decode(), fields)
            request, expires = fields.get(b"request"), expiry.expires_at(fields.get(b"new", b""))
            info = change.transaction
            event = Event(
                change.revision,
                request and request.decode(),
                value_of(change.old_value),
                value_of(change.new_value),
                expires=expires and round(expires * 1000),
                is_expiry=change.reason == "expired",
                part=info and Part(info.id, info.size, info.index),
            )
            events.setdefault(name_of(change.group_id, change.item_id), []).append(event)
    stored: dict[str, tuple[Value | None, str | None]] = {}
    for scope in SCOPES.values():
        texts: Any = raw.hgetall(names.values(scope.encode()))
        revisions: Any = raw.hgetall(names.revisions(scope.encode()))
        for key, text in texts.items():
            stored[name_of(scope, key.decode())] = value_of(codec.decode(text, subject="")), revisions[key].decode()
    count = check(calls, events, stored, clock=time.time_ns() - time.monotonic_ns())
    expiries = sum(event.is_expiry for found in events.values() for event in found)
    unknown = sum(call.outcome == "unknown" for call in calls)
    return f"{count} calls ({unknown} unknown), {sum(map(len, events.values()))} events ({expiries} expiries): linearizable"

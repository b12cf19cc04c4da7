"""A call is applied once (G4) when the network drops, truncates, delays and holds back requests and replies."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import redis

from motia_redis import StateManager
from tests.faults.proxy import FAULTS, FaultProxy
from tests.faults.worker_processes import FULL
from tests.faults.writer import plain_increments
from tests.support.clusters import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

import pytest

DELAY = 3.5  # seconds; longer than the timeout of an attempt
TASKS = 8  # of a process; they share its connection, so a fault meets the calls of several
PROCESSES = 10 if FULL else 2  # two in five faults hold up all tasks of one process for the timeout of an attempt


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    try:
        server.start()
        yield server.port
    finally:
        server.end()


async def _write(url: str, directory: Path, *, calls: int) -> list[Any]:
    """Run the tasks of all processes; return the outcomes that they recorded."""
    processes, logs = [], []
    for number in range(PROCESSES):
        log = directory / f"log{number}"
        settings = {
            "url": url,
            "namespace": "motia",
            "name": number,
            "out": log,
            "calls": calls // PROCESSES,
            "tasks": TASKS,
            "seed": number,
        }
        options = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-m", "tests.faults.writer", *options]
        processes.append(await asyncio.create_subprocess_exec(*command))
        logs.append(log)
    try:
        assert [await process.wait() for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [call for log in logs for call in orjson.loads(log.read_bytes())]


async def test_every_call_is_applied_once_under_network_faults(port: int, tmp_path: Path) -> None:
    calls = 10_400 if FULL else 640
    async with FaultProxy(port, rate=0.05, seed=calls, delay=DELAY) as proxy:
        recorded = await _write(f"redis://127.0.0.1:{proxy.port}", tmp_path, calls=calls)
        await proxy.drain()
        faults = proxy.injected.copy()
    assert set(faults) == set(FAULTS), "not every kind of fault was injected"
    outcomes = Counter(outcome for *_, outcome in recorded)
    assert len(recorded) == calls
    async with StateManager(f"redis://127.0.0.1:{port}") as state:
        await _check(state, recorded)
    with redis.Redis(port=port) as raw:
        events: list[Any] = [e for stream in raw.scan_iter("{motia:*}:events:*") for _, e in raw.xrange(stream)]
    requests = Counter(event[b"request"] for event in events)
    assert max(requests.values()) == 1, "a request has more than one event"
    assert outcomes["applied"] <= len(events) <= outcomes["applied"] + outcomes["unknown"]
    print(f"{calls} calls, faults {dict(faults)}: {dict(outcomes)}, {len(events)} events, no duplicate and no loss")


async def _check(state: StateManager, recorded: list[Any]) -> None:
    """Compare the state with the outcomes that the writers recorded."""
    for key in {key for _, key, _, _ in recorded}:
        by_outcome: dict[tuple[str, str], list[str]] = {}
        for kind, of, token, outcome in recorded:
            if of == key:
                by_outcome.setdefault((kind, outcome), []).append(token)

        def tokens(kind: str, outcome: str, by_outcome: dict[tuple[str, str], list[str]] = by_outcome) -> list[str]:
            return by_outcome.get((kind, outcome), [])

        increments = (await state.get("increment", key))["n"]
        applied, unknown = len(tokens("increment", "applied")), len(tokens("increment", "unknown"))
        assert applied <= increments <= applied + unknown, f"{key}: {increments} increments, {applied} acknowledged"
        appended = (await state.get("append", key))["list"]
        assert len(appended) == len(set(appended)), "an item was appended twice"
        assert set(tokens("append", "applied")) <= set(appended), "an acknowledged item is missing"
        sent = set(tokens("append", "applied") + tokens("append", "unknown"))
        assert set(appended) <= sent, "an item was appended by no call"
        replaced = (await state.get("replace", key))["n"]
        applied, unknown = len(tokens("replace", "applied")), len(tokens("replace", "unknown"))
        assert applied <= replaced <= applied + unknown, "a conditional set did not count exactly once"


async def test_plain_redis_py_applies_increments_twice_under_the_same_faults(port: int) -> None:
    """Control experiment: redis-py with its own retries, behind the same proxy."""
    calls = 4_800 if FULL else 640
    async with FaultProxy(port, rate=0.05, seed=7, delay=DELAY) as proxy:
        acknowledged = await plain_increments(proxy.port, calls, 32)
    with redis.Redis(port=port) as raw:
        stored = int(raw.get("plain") or 0)  # type: ignore[arg-type]
    print(f"redis-py with default settings: {acknowledged} of {calls} increments acknowledged, {stored} applied")
    assert stored > acknowledged

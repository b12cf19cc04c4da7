"""Histories of random calls under faults are linearizable (G3, G4). The checker detects builds with a defect."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.worker_processes import FULL
from tests.history.check import Event, Violation, check
from tests.history.run import ROOT, check_history, record
from tests.history.workload import Call
from tests.support.clusters import Process, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 40.0 if FULL else 3.0
DELAY = 3.5  # seconds; longer than the timeout of an attempt


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    try:
        server.start()
        yield server
    finally:
        server.end()


async def test_calls_are_linearizable_under_network_faults_and_redis_kills(server: Process, tmp_path: Path) -> None:
    async with FaultProxy(server.port, rate=0.005, seed=1, delay=DELAY) as proxy:

        async def kill_redis() -> None:
            for _ in range(8 if FULL else 1):
                await asyncio.sleep(SECONDS / 10)
                before = proxy.changes

                async def is_loaded(before: int = before) -> bool:
                    return proxy.changes > before + 50

                await until(is_loaded, "the processes change state", deadline=60)
                server.kill()
                await asyncio.to_thread(server.start)

        url = f"redis://127.0.0.1:{proxy.port}"
        # At least one fault comes in 400 changes, and three of four calls are changes.
        calls = await record(url, tmp_path, seconds=SECONDS, calls=200, during=kill_redis)
        await proxy.drain()
    assert proxy.injected
    assert len(calls) >= 600
    print(check_history(calls, server.client), dict(proxy.injected))


def copy_with_defect(directory: Path, file: str, *replacements: tuple[str, str]) -> Path:
    """Copy this package into `directory` and replace text in one of its files; return `directory`."""
    for name in ("motia_redis", "lua"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / file
    text = path.read_text()
    for old, new in replacements:
        assert old in text, f"{file} no longer contains {old!r}: adapt this test"
        text = text.replace(old, new)
    path.write_text(text)
    return directory


async def find_violation(url: str, server: Process, directory: Path, build: Path) -> str:
    """Run the workload with the code in `build` until its history violates linearizability; return the violation."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        server.client.flushall()
        calls = await record(url, directory, seconds=1, calls=20, build=build)
        try:
            check_history(calls, server.client)
        except Violation as violation:
            return str(violation)
    pytest.fail("no history of the defective build has a violation")


async def test_build_that_retries_without_the_request_id_is_detected(server: Process, tmp_path: Path) -> None:
    build = copy_with_defect(
        tmp_path / "build", "motia_redis/_store/mutations.py", ("request=request, expected", "request=_request_id(), expected")
    )
    # Redis runs the change and the reply is lost: so the client repeats a change that was applied.
    async with FaultProxy(server.port, rate=0.2, seed=2, delay=DELAY, faults=("after",)) as proxy:
        violation = await find_violation(f"redis://127.0.0.1:{proxy.port}", server, tmp_path, build)
        assert proxy.injected
    print(f"retries without the request id: {violation}")
    assert re.search("is applied twice|was rejected, and has an event|belongs to no call", violation)


async def test_build_that_appends_events_outside_of_the_script_is_detected(server: Process, tmp_path: Path) -> None:
    build = copy_with_defect(tmp_path / "build", "lua/mutate.lua", ('"XADD", events, "*"', '"XADD", events .. ":outside", "*"'))
    append_after_the_script = """
            outside = mutation.keys[3] + b":outside"
            for entry_id, fields in await session.router.execute(outside, "XRANGE", outside, "-", "+"):
                if entry_id == reply.revision:
                    parts = [part for pair in fields.items() for part in pair]
                    await session.router.execute(mutation.keys[3], "XADD", mutation.keys[3], "*", *parts)
            return reply
"""
    mutations = build / "motia_redis" / "_store" / "mutations.py"
    text = mutations.read_text()
    end_of_attempt = "                session.clock.update(reply.revision)\n            return reply\n"
    assert text.count(end_of_attempt) == 1
    mutations.write_text(
        text.replace(end_of_attempt, end_of_attempt.replace("            return reply\n", append_after_the_script.lstrip("\n")))
    )
    violation = await find_violation(f"redis://127.0.0.1:{server.port}", server, tmp_path, build)
    print(f"events outside of the script: {violation}")


# -- the checker --------------------------------------------------------------------------------------------------------------


def history(*calls: Call) -> list[Call]:
    return list(calls)


CREATED, UPDATED = Event("1-0", "r1", None, "a"), Event("2-0", "r2", "a", "b", 1)
SET = Call("k", "set", 10, 20, token="a")
UPDATE = Call("k", "update", 30, 40, token="b")


def read(start: int, end: int, seen: str | None) -> Call:
    return Call("k", "get", start, end, seen=seen)


@pytest.mark.parametrize(
    "calls",
    [
        history(SET, UPDATE),
        history(SET, UPDATE, read(5, 15, None), read(5, 15, "a"), read(25, 35, "a"), read(31, 32, "b"), read(50, 60, "b")),
        history(SET, Call("k", "update", 30, 31, "unknown", "b"), read(90, 99, "b")),
        history(SET, UPDATE, Call("k", "set", 33, 34, "rejected", "c", revision="1-0"), Call("k", "set", 1, 2, "unknown", "d")),
        history(SET, UPDATE, Call("k", "delete", 1, 2), Call("k", "entry", 50, 60, seen="b", revision="2-0")),
    ],
)
def test_linearizable_history_is_accepted(calls: list[Call]) -> None:
    assert check(calls, {"k": [CREATED, UPDATED]}, {"k": ("b", "2-0")}) == len(calls)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (history(SET), "belongs to no call"),
        (history(SET, UPDATE, read(50, 60, "a")), "must be between 2 and 2"),
        (history(SET, UPDATE, read(5, 8, "a")), "must be between 0 and 0"),
        (history(SET, UPDATE, read(31, 33, "b"), read(34, 36, "a")), "must be between 2"),
        (history(SET, UPDATE, read(50, 60, "x")), "a value that no change wrote"),
        (history(SET, UPDATE, read(50, 60, None)), "must be between 2"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, token="c")), "c was acknowledged, and has no event"),
        (history(SET, UPDATE, Call("k", "delete", 50, 60, seen="b")), "delete of b was acknowledged, and has no event"),
        (history(SET, Call("k", "update", 1, 5, token="b")), "began after the end of a later one"),
        (history(SET, Call("k", "update", 30, 40, "rejected", "b", revision="1-0")), "was rejected, and has an event"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, "rejected", "c", revision="1-0")), "must be between 2"),
        (history(SET, UPDATE, Call("k", "entry", 31, 32, seen="a", revision="2-0")), "the revision of another value"),
    ],
)
def test_history_that_is_not_linearizable_is_rejected(calls: list[Call], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check(calls, {"k": [CREATED, UPDATED]}, {"k": ("b", "2-0")})


@pytest.mark.parametrize(
    ("events", "stored", "message"),
    [
        ([CREATED, Event("2-0", "r2", "x", "b", 1)], ("b", "2-0"), "has the old value x"),
        ([CREATED, Event("1-0", "r2", "a", "b", 1)], ("b", "1-0"), "revision 1-0 follows 1-0"),
        ([CREATED, UPDATED], ("a", "2-0"), "a is stored"),
        ([CREATED, UPDATED], ("b", "1-0"), "revision 1-0 is stored"),
        ([CREATED, UPDATED, Event("3-0", "r3", "b", "b", 1)], ("b", "3-0"), "applied twice"),
        ([CREATED, Event("2-0", "r2", "a", "b", 2)], ("b", "2-0"), "b incremented the counter by 2"),
        ([CREATED, Event("2-0", "r1", "a", "b", 1)], ("b", "2-0"), "more than one event"),
    ],
)
def test_events_that_contradict_the_calls_are_rejected(events: list[Event], stored: tuple[str, str], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check([SET, UPDATE], {"k": events}, {"k": stored})

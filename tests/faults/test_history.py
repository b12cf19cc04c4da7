"""A check like Jepsen's: random calls of several processes under faults fit one order of changes; broken builds do not."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.team import FULL
from tests.history.check import Event, Violation, check
from tests.history.run import ROOT, judge, record
from tests.history.workload import Call
from tests.support.clusters import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 40.0 if FULL else 3.0
DELAY = 3.5  # seconds; longer than an attempt waits


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    try:
        server.start()
        yield server
    finally:
        server.end()


async def test_calls_through_a_bad_network_and_kills_of_redis_are_linearizable(server: Process, tmp_path: Path) -> None:
    async def kill() -> None:
        for _ in range(8 if FULL else 1):
            await asyncio.sleep(SECONDS / 10)
            server.kill()
            await asyncio.to_thread(server.start)

    async with FaultProxy(server.port, rate=0.005, seed=1, delay=DELAY) as proxy:
        calls = await record(f"redis://127.0.0.1:{proxy.port}", tmp_path, seconds=SECONDS, during=kill)
        faults = dict(proxy.injected)
    await asyncio.sleep(DELAY if proxy.injected["stall"] else 0)  # what is under way arrives
    print(judge(calls, server.client), faults)
    assert len(calls) > 100


def broken_build(directory: Path, file: str, *replacements: tuple[str, str]) -> Path:
    """Return a copy of this package with a fault built in."""
    for name in ("motia_redis", "lua"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / file
    text = path.read_text()
    for old, new in replacements:
        assert text.count(old) >= 1, f"{file} has changed: {old}"
        text = text.replace(old, new)
    path.write_text(text)
    return directory


async def test_a_build_that_repeats_calls_without_their_request_is_caught(server: Process, tmp_path: Path) -> None:
    build = broken_build(
        tmp_path / "build", "motia_redis/_store/mutations.py", ("request=request, expected", "request=_request_id(), expected")
    )
    async with FaultProxy(server.port, rate=0.2, seed=2, delay=DELAY) as proxy:
        calls = await record(f"redis://127.0.0.1:{proxy.port}", tmp_path, seconds=3, build=build)
    with pytest.raises(Violation) as caught:
        judge(calls, server.client)
    print(f"repeated without request id: {caught.value}")


async def test_a_build_that_appends_events_outside_of_the_script_is_caught(server: Process, tmp_path: Path) -> None:
    build = broken_build(tmp_path / "build", "lua/mutate.lua", ('"XADD", events, "*"', '"XADD", events .. ":outside", "*"'))
    changes = build / "motia_redis" / "_store" / "mutations.py"
    late = """
            for entry_id, fields in await session.router.execute(keys[3], "XRANGE", keys[3] + b":outside", "-", "+"):
                if reply and entry_id == reply[0]:
                    parts = [part for pair in fields.items() for part in pair]
                    await session.router.execute(keys[3], "XADD", keys[3], "*", *parts)
            return reply
"""
    text = changes.read_text()
    assert text.count("            return reply\n") == 1
    changes.write_text(text.replace("            return reply\n", late.lstrip("\n")))
    calls = await record(f"redis://127.0.0.1:{server.port}", tmp_path, seconds=2, build=build)
    with pytest.raises(Violation) as caught:
        judge(calls, server.client)
    print(f"event outside of the script: {caught.value}")


# -- the judge ----------------------------------------------------------------------------------------------------------------


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
        history(SET, UPDATE, Call("k", "set", 33, 34, "refused", "c", revision="1-0"), Call("k", "set", 1, 2, "unknown", "d")),
        history(SET, UPDATE, Call("k", "delete", 1, 2), Call("k", "entry", 50, 60, seen="b", revision="2-0")),
    ],
)
def test_what_fits_is_accepted(calls: list[Call]) -> None:
    assert check(calls, {"k": [CREATED, UPDATED]}, {"k": ("b", "2-0")}) == len(calls)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        (history(SET), "nobody's change"),
        (history(SET, UPDATE, read(50, 60, "a")), "must stand from 2 to 2"),
        (history(SET, UPDATE, read(5, 8, "a")), "must stand from 0 to 0"),
        (history(SET, UPDATE, read(31, 33, "b"), read(34, 36, "a")), "must stand from 2"),
        (history(SET, UPDATE, read(50, 60, "x")), "a value that never was"),
        (history(SET, UPDATE, read(50, 60, None)), "must stand from 2"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, token="c")), "c was acknowledged, and has no event"),
        (history(SET, UPDATE, Call("k", "delete", 50, 60, seen="b")), "delete of b was acknowledged, and has no event"),
        (history(SET, Call("k", "update", 1, 5, token="b")), "began when a later one was over"),
        (history(SET, Call("k", "update", 30, 40, "refused", "b", revision="1-0")), "was refused, and has an event"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, "refused", "c", revision="1-0")), "must stand from 2"),
        (history(SET, UPDATE, Call("k", "entry", 31, 32, seen="a", revision="2-0")), "the revision of another value"),
    ],
)
def test_what_does_not_fit_is_told(calls: list[Call], says: str) -> None:
    with pytest.raises(Violation, match=says):
        check(calls, {"k": [CREATED, UPDATED]}, {"k": ("b", "2-0")})


@pytest.mark.parametrize(
    ("events", "stored", "says"),
    [
        ([CREATED, Event("2-0", "r2", "x", "b", 1)], ("b", "2-0"), "says the old value was x"),
        ([CREATED, Event("1-0", "r2", "a", "b", 1)], ("b", "1-0"), "revision 1-0 follows 1-0"),
        ([CREATED, UPDATED], ("a", "2-0"), "a is stored"),
        ([CREATED, UPDATED], ("b", "1-0"), "revision 1-0 is stored"),
        ([CREATED, UPDATED, Event("3-0", "r3", "b", "b", 1)], ("b", "3-0"), "applied twice"),
        ([CREATED, Event("2-0", "r2", "a", "b", 2)], ("b", "2-0"), "b counted 2"),
        ([CREATED, Event("2-0", "r1", "a", "b", 1)], ("b", "2-0"), "two events"),
    ],
)
def test_events_that_do_not_fit_are_told(events: list[Event], stored: tuple[str, str], says: str) -> None:
    with pytest.raises(Violation, match=says):
        check([SET, UPDATE], {"k": events}, {"k": stored})

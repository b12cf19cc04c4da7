"""Histories of random calls under faults are linearizable (G3, G4). The checker detects builds with a defect."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.worker_processes import FULL
from tests.history.calls import Call, Value
from tests.history.check import Event, Violation, check
from tests.history.run import ROOT, check_history, record
from tests.support.clusters import Process, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

KILLS = 8 if FULL else 1
CHANGES = 4000 if FULL else 200  # of each process; more at most as many as the faults need
ROUNDS = 20  # runs of a defective build; each of them should have a violation
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
            for _ in range(KILLS):
                before = proxy.changes

                async def is_loaded(before: int = before) -> bool:
                    return proxy.changes > before + CHANGES / 2

                await until(is_loaded, "the processes change state", deadline=120)
                server.kill()
                await asyncio.to_thread(server.start)

        url = f"redis://127.0.0.1:{proxy.port}"
        # At least one fault comes in 400 changes.
        calls = await record(url, tmp_path, changes=CHANGES, during=kill_redis)
        await proxy.drain()
    assert proxy.injected
    assert len(calls) >= 3 * CHANGES
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


async def find_violation(
    url: str, server: Process, directory: Path, build: Path, *, during: Callable[[], Awaitable[None]] | None = None
) -> str:
    """Run the workload with the code in `build` until its history violates linearizability; return the violation."""
    for _ in range(ROUNDS):
        server.client.flushall()
        calls = await record(url, directory, changes=100, build=build, during=during)
        try:
            check_history(calls, server.client)
        except Violation as violation:
            return str(violation)
    pytest.fail(f"no history of {ROUNDS} runs of the defective build has a violation")


async def test_build_that_retries_without_the_request_id_is_detected(server: Process, tmp_path: Path) -> None:
    build = copy_with_defect(
        tmp_path / "build",
        "motia_redis/_store/mutations.py",
        ("request=request,\n                expected", "request=_request_id(),\n                expected"),
    )
    # Redis runs the change and the reply is lost: so the client repeats a change that was applied.
    async with FaultProxy(server.port, rate=0.2, seed=2, delay=DELAY, faults=("after",)) as proxy:

        async def lose_replies() -> None:
            lost = proxy.injected["after"]

            async def are_lost() -> bool:
                return proxy.injected["after"] >= lost + 20

            # Many of them are replies of changes that were not rejected: each of these changes is applied twice.
            await until(are_lost, "20 replies are lost", deadline=120)

        violation = await find_violation(f"redis://127.0.0.1:{proxy.port}", server, tmp_path, build, during=lose_replies)
    print(f"retries without the request id: {violation}")
    assert re.search("is applied twice|was rejected, and has an event|belongs to no call|two deletes returned", violation)


@pytest.mark.parametrize(
    ("replacements", "message"),
    [
        pytest.param(
            [('if expected ~= "" then', 'if expected ~= "" and string.byte(request, -1) % 2 == 0 then')],
            "required the revision .*, and changed the value of|found no value, and required the revision",
            id="ignores if_revision in half of the requests",
        ),
        pytest.param(
            [('(old or "{}" .. MARK, ending or 2,', "(old or '{\"n\":6}' .. MARK, ending or 7,")],
            "incremented the counter from 0 to 7",
            id="begins a counter at 7",
        ),
        pytest.param(
            [
                (
                    '  local is_strict = kind == "strict update"\n',
                    """
  if kind == "delete" or kind == "drop" then
    local gone = revisions .. ":gone"
    if not old then
      return "answer", { "0-1", server.call("HGET", gone, key) or nil }
    end
    server.call("HSET", gone, key, old)
  end
  local is_strict = kind == "strict update"
""",
                ),
            ],
            "two deletes returned",
            id="returns a deleted value again",
        ),
    ],
)
async def test_build_with_a_defect_in_the_script_is_detected(
    server: Process, tmp_path: Path, replacements: list[tuple[str, str]], message: str
) -> None:
    build = copy_with_defect(tmp_path / "build", "lua/lib/plan.lua", *replacements)
    violation = await find_violation(f"redis://127.0.0.1:{server.port}", server, tmp_path, build)
    print(violation)
    assert re.search(message, violation)


async def test_build_that_appends_events_outside_of_the_script_is_detected(server: Process, tmp_path: Path) -> None:
    build = copy_with_defect(
        tmp_path / "build", "lua/lib/write.lua", ('"XADD", events, "*"', '"XADD", events .. ":outside", "*"')
    )
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


A, B = Value("a", 0), Value("b", 1)
CREATED, UPDATED = Event("1-0", "r1", None, A), Event("2-0", "r2", A, B)
DELETED, CREATED_AGAIN = Event("3-0", "r3", B, None), Event("4-0", "r4", None, Value("c", 1))
SET = Call("k", "set", 10, 20, token="a", count=0)
UPDATE = Call("k", "update", 30, 40, token="b", count=1)
DELETE = Call("k", "delete", 50, 60, seen=B)
HALFWAY = {"k": (B, "2-0")}


def read(start: int, end: int, seen: Value | None) -> Call:
    return Call("k", "get", start, end, seen=seen)


def change(
    kind: str, token: str = "b", *, expected: str | None = "1-0", count: int | None = 1, revision: str | None = None
) -> Call:
    """Return a change at the time of UPDATE that requires a revision; rejected if it found another one."""
    outcome = "ok" if revision is None else "rejected"
    return Call("k", kind, 30, 40, outcome, token, revision=revision, expected=expected, count=count)


@pytest.mark.parametrize(
    "calls",
    [
        history(SET, UPDATE),
        history(SET, UPDATE, read(5, 15, None), read(5, 15, A), read(25, 35, A), read(31, 32, B), read(50, 60, B)),
        history(SET, Call("k", "update", 30, 31, "unknown", "b"), read(90, 99, B)),
        history(SET, UPDATE, change("set", "c", expected="0-9", revision="1-0"), Call("k", "set", 1, 2, "unknown", "d")),
        history(SET, UPDATE, Call("k", "delete", 1, 2), Call("k", "entry", 50, 60, seen=B, revision="2-0")),
        history(SET, UPDATE, Call("k", "delete", 1, 2, expected=None), change("delete", expected=None, revision="2-0")),
        history(SET, change("update")),
        history(SET, change("modify")),
        history(SET, change("set")),
    ],
)
def test_linearizable_history_is_accepted(calls: list[Call]) -> None:
    assert check(calls, {"k": [CREATED, UPDATED]}, HALFWAY) == len(calls)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (history(SET), "belongs to no call"),
        (history(SET, UPDATE, read(50, 60, A)), "must be between 2 and 2"),
        (history(SET, UPDATE, read(5, 8, A)), "must be between 0 and 0"),
        (history(SET, UPDATE, read(31, 33, B), read(34, 36, A)), "must be between 2"),
        (history(SET, UPDATE, read(50, 60, Value("x", 1))), "a value that no change wrote"),
        (history(SET, UPDATE, read(50, 60, Value("b", 2))), "a value that no change wrote"),
        (history(SET, UPDATE, read(50, 60, None)), "must be between 2"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, token="c")), "set c was acknowledged, and has no event"),
        (history(SET, UPDATE, DELETE), "delete of b=1 was acknowledged, and has no event"),
        (history(SET, Call("k", "update", 1, 5, token="b")), "began after the end of a later one"),
        (history(SET, change("update", expected="0-9", revision="1-0")), "was rejected, and has an event"),
        (history(SET, UPDATE, Call("k", "entry", 31, 32, seen=A, revision="2-0")), "the revision of another value"),
        # -- compare-and-set
        (history(SET, change("set", expected="0-9")), "required the revision 0-9, and changed the value of 1-0"),
        (history(SET, change("update", expected=None)), "required the revision None, and changed the value of 1-0"),
        (history(SET, UPDATE, change("set", "c", revision="1-0")), "found the revision that it required"),
        (history(SET, UPDATE, change("set", "c", expected="any", revision="1-0")), "was rejected, and required no revision"),
        (
            history(SET, UPDATE, Call("k", "set", 50, 60, "rejected", "c", expected="2-0", revision="1-0")),
            "must be between 2",
        ),
        (history(SET, UPDATE, Call("k", "delete", 1, 5, expected="1-0")), "found no value, and required the revision 1-0"),
        # -- read-modify-write
        (history(SET, change("modify", count=2)), "says the counter 2, its event 1"),
        (history(SET, Call("k", "update", 30, 40, token="b", count=2)), "says the counter 2, its event 1"),
    ],
)
def test_history_that_is_not_linearizable_is_rejected(calls: list[Call], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check(calls, {"k": [CREATED, UPDATED]}, HALFWAY)


@pytest.mark.parametrize(
    ("events", "stored", "message"),
    [
        ([CREATED, Event("2-0", "r2", Value("x", 0), B)], (B, "2-0"), "has the old value x"),
        ([CREATED, Event("1-0", "r2", A, B)], (B, "1-0"), "revision 1-0 follows 1-0"),
        ([CREATED, UPDATED], (A, "2-0"), "a=0 is stored"),
        ([CREATED, UPDATED], (B, "1-0"), "revision 1-0 is stored"),
        ([CREATED, UPDATED, Event("3-0", "r3", B, B)], (B, "3-0"), "applied twice"),
        ([CREATED, Event("2-0", "r1", A, B)], (B, "2-0"), "more than one event"),
        # -- counters
        ([CREATED, Event("2-0", "r2", A, Value("b", 2))], (Value("b", 2), "2-0"), "says the counter 1, its event 2"),
        ([Event("1-0", "r1", None, Value("a", 7))], (Value("a", 7), "1-0"), "says the counter 0, its event 7"),
    ],
)
def test_events_that_contradict_the_calls_are_rejected(events: list[Event], stored: tuple[Value, str], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check([SET, UPDATE], {"k": events}, {"k": stored})


@pytest.mark.parametrize("kind", ["update", "modify"])
@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_counter_that_begins_at_7_is_rejected(kind: str, outcome: str) -> None:
    """The call itself says nothing about the counter: its reply was lost, or the event agrees with a wrong reply."""
    first = Call(
        "k", kind, 10, 20, outcome, "a", expected=None if kind == "modify" else "any", count=7 if outcome == "ok" else None
    )
    seven = Value("a", 7)
    with pytest.raises(Violation, match="incremented the counter from 0 to 7"):
        check([first], {"k": [Event("1-0", "r1", None, seven)]}, {"k": (seven, "1-0")})


def test_counter_that_skips_a_value_is_rejected() -> None:
    three = Value("b", 3)
    update = Call("k", "update", 30, 40, token="b", count=3)
    with pytest.raises(Violation, match="incremented the counter from 0 to 3"):
        check([SET, update], {"k": [CREATED, Event("2-0", "r2", A, three)]}, {"k": (three, "2-0")})


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (history(DELETE), None),
        (history(DELETE, Call("k", "delete", 55, 65)), None),
        (history(Call("k", "delete", 50, 60, "unknown")), None),
        (history(Call("k", "delete", 50, 60, "unknown", expected="2-0")), None),
        (history(Call("k", "delete", 50, 60, seen=B, expected="2-0"), Call("k", "delete", 51, 61, "unknown")), None),
        (history(DELETE, Call("k", "delete", 51, 61, seen=B)), "two deletes returned b=1"),
        (history(Call("k", "delete", 50, 60, seen=A)), "the delete of a=0 was acknowledged, and has no event"),
        (history(), "belongs to no call"),
        (history(Call("k", "delete", 50, 60, seen=B, expected="1-0")), "required the revision 1-0, and changed the value of 2-0"),
        (history(Call("k", "delete", 50, 60, "unknown", expected="1-0")), "belongs to no call"),
        (history(Call("k", "delete", 75, 80, "unknown")), "belongs to no call"),
        (history(Call("k", "delete", 50, 60, "rejected", expected="1-0", revision="2-0")), "belongs to no call"),
    ],
)
def test_value_has_one_delete_that_may_have_removed_it(calls: list[Call], message: str | None) -> None:
    calls += [SET, UPDATE, Call("k", "update", 65, 70, token="c", count=1)]
    events = {"k": [CREATED, UPDATED, DELETED, CREATED_AGAIN]}
    stored = {"k": (CREATED_AGAIN.new, "4-0")}
    if message is None:
        assert check(calls, events, stored) == len(calls)
    else:
        with pytest.raises(Violation, match=message):
            check(calls, events, stored)

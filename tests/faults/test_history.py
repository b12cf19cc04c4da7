"""Histories of random calls under faults are linearizable (G3, G4). The checker detects builds with a defect."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.worker_processes import FULL
from tests.history.check import Violation
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
    """Run the workload with the code in `build` until its history violates linearizability; return the violation.

    Nothing sweeps: so changes meet values that have expired.
    """
    for _ in range(ROUNDS):
        server.client.flushall()
        calls = await record(url, directory, changes=100, build=build, sweep=False, during=during)
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
    ("file", "old", "new", "message"),
    [
        pytest.param(
            "lua/lib/plan.lua",
            'if expected ~= "" then',
            'if expected ~= "" and string.byte(request, -1) % 2 == 0 then',
            "required the revision .*, and changed the value of|found no value, and required the revision",
            id="ignores if_revision in half of the requests",
        ),
        pytest.param(
            "lua/lib/plan.lua",
            '(old or "{}" .. MARK, ending or 2,',
            "(old or '{\"n\":6}' .. MARK, ending or 7,",
            "incremented the counter from 0 to 7",
            id="begins a counter at 7",
        ),
        pytest.param(
            "lua/lib/plan.lua",
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
            "two deletes returned|the delete of .* was acknowledged, and has no event",
            id="returns a deleted value again",
        ),
        pytest.param(
            "lua/mutate.lua",
            "local reply = erase(redis, KEYS,",
            'local reply = erase(redis, by_request and KEYS or { values, revisions, KEYS[3], events .. ":lost" },',
            "has the old value None, the value was",
            id="writes no event of an expiry",
        ),
        pytest.param(
            "lua/lib/expiry.lua",
            "local expired = old_time and old_time <= now_is and old",
            'local expired = old_time and old_time <= now_is and kind ~= "update" and old',
            "which expired at|shows a value .* after its time",
            id="lets an update build on an expired value",
        ),
        pytest.param(
            "lua/lib/expiry.lua",
            "return old and old_time or nil",
            "return nil",
            "gave no time to live; its value expires at None, not",
            id="lets an update lose the time",
        ),
        pytest.param(
            "lua/transact.lua",
            'return actual ~= expected and "CONFLICT " .. actual or nil',
            "return nil",
            "required the revision|had another revision|check at .* must be between",
            id="ignores the checks of transactions",
        ),
        pytest.param(
            "lua/transact.lua",
            "return check(place, ARGV[first])",
            "return place.is_listed and check(place, ARGV[first]) or nil",
            "had another revision|check at .* must be between|found no value, and required the revision",
            id="ignores checks of keys that a transaction does not change",
        ),
        pytest.param(
            "lua/transact.lua",
            "index, item.revision = index + 1, item.appended",
            "item.revision = item.appended",
            "have the numbers and sizes",
            id="gives all events of a transaction the number 0",
        ),
        pytest.param(
            "lua/transact.lua",
            "for _, group in ipairs(group_list) do",
            "for _, group in ipairs({ group_list[1] }) do",
            "has the old value|is stored|had another revision|found no value, and required the revision",
            id="forgets the values of the second scope",
        ),
        pytest.param(
            "lua/transact.lua",
            "item.revision or (item.text and",
            "(item.text and item.revision) or (item.text and",
            "belongs to no call|delete .* (must be between|found no value)|have events of the requests",
            id="returns no revision of a delete in a transaction",
        ),
        pytest.param(
            "lua/transact.lua",
            'place.event = old and "state:updated" or "state:created"',
            'place.event = place ~= sequence[2] and (old and "state:updated" or "state:created")',
            "have events of the requests|was acknowledged, and has no event|delete .* (must be between|found no value)",
            id="leaves out the second event of a transaction",
        ),
        pytest.param(
            "motia_redis/_store/transactions.py",
            "reply = await self._transact(self._items, most_bytes, self._idempotency_key)",
            "reply = await self._transact(self._items[:1], most_bytes, None); more = self._items[1:]; "
            "rest = await self._transact(more, most_bytes, None) if more else None; reply = reply if rest is None else "
            "reply._replace(words=[*reply.words, *rest.words], texts=[*reply.texts, *rest.texts])",
            "have events of the requests|belongs to no call|when the key had another revision",
            id="applies a transaction in two scripts",
        ),
    ],
)
async def test_build_with_a_defect_in_the_script_is_detected(
    server: Process, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    build = copy_with_defect(tmp_path / "build", file, (old, new))
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

"""Scripts that run as functions: when the library is loaded, kept and deleted, and when the scripts run instead."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._scripts import functions, loader, storage
from motia_redis._scripts.functions import Library
from motia_redis.errors import RevisionConflict, StateError, StateUnavailable, UpdateFailed
from tests.support.clusters import Cluster, Process, free_port
from tests.support.servers import RedisServer, has_functions, packaged
from tests.support.waiting import until_holds, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not has_functions(), reason="the server has no functions")

LIBRARY = loader.library()
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]
TODAY = datetime.now(UTC).date()


@pytest.fixture(autouse=True)
def _functions_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(functions.VARIABLE, raising=False)
    monkeypatch.setattr(functions, "today", lambda: TODAY)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Process]:
    """Give a server that only this test uses, on a port."""
    server = Process(tmp_path / "server", free_port(), "--save", "", "--repl-diskless-sync-delay", "0")
    try:
        server.start()
        yield server
    finally:
        server.end()


def url_of(server: Process, user: str = "") -> str:
    return f"redis://{user}127.0.0.1:{server.port}"


def calls(server: Process) -> dict[str, int]:
    """Return how often each command that has to do with scripts was called since CONFIG RESETSTAT."""
    stats: Any = server.client.info("commandstats")
    names = ("fcall", "evalsha", "eval", "script|load", "function|load", "function|list", "function|delete")
    return {name: found["calls"] for name in names if (found := stats.get(f"cmdstat_{name}"))}


def libraries(server: Process) -> dict[str, date]:
    """Return the libraries at a server, and the days on which they were in use."""
    found: Any = server.client.function_list()
    return {library[1].decode(): date.fromisoformat(library[5][0][3].decode()[-10:]) for library in found}


def load(server: Process, library: Library = LIBRARY, days_ago: int = 0) -> None:
    server.client.function_load(library.text(TODAY - timedelta(days=days_ago)), replace=True)


def other_version(digit: str) -> Library:
    """Return the library of another version of this package."""
    name = f"motia_{digit * 16}"
    return Library(name, LIBRARY.body + f"-- version {digit}\n")


async def read(state: StateManager) -> Any:
    """Read a value by a script."""
    entry = await state.entry("users", "ann")
    assert entry is not None
    return entry.value


async def use(state: StateManager) -> None:
    """Make calls that change and read state, and calls that are refused."""
    before = await state.get("users", "ann")
    n = before["n"] if before else 0
    await state.set("users", "ann", {"n": n + 1})
    assert await state.update("users", "ann", INCREMENT) == {"n": n + 2}
    assert await state.update("users", "ann", INCREMENT, idempotency_key=f"{n}") == {"n": n + 3}
    with pytest.raises(UpdateFailed, match="is different") as failed:
        await state.update("users", "ann", [{"op": "test", "path": "/n", "value": -1}])
    assert "user_function" not in str(failed.value)
    with pytest.raises(RevisionConflict):
        await state.set("users", "ann", 1, if_revision=None)
    assert await read(state) == {"n": n + 3}
    assert await state.items("users") == {"ann": {"n": n + 3}}


# -- the text -----------------------------------------------------------------------------------------------------------------


def test_library_has_a_function_for_each_entry_point_with_the_flags_of_its_header(own: Process) -> None:
    load(own)
    ((_, name, _, engine, _, found),) = own.client.function_list()
    assert (name, engine) == (LIBRARY.name.encode(), b"LUA")
    flags = {function[1].decode().removeprefix(f"{LIBRARY.name}_"): {flag.decode() for flag in function[5]} for function in found}
    assert flags.keys() == {path.stem for path in loader.directory().glob("*.lua")}
    refused = {"mutate", "transact", "enqueue", "delay_message", "import_values"}
    assert {name for name, given in flags.items() if not given} == refused, "a full server must refuse these"
    assert {name for name, given in flags.items() if given == {"no-writes"}} == {
        "count_entries", "get_entry", "group_entries", "inspect_lane", "lane_positions", "scan_entries", "scan_items",
        "scan_keys",
    }  # fmt: skip


def test_name_of_the_library_is_a_hash_of_its_text() -> None:
    assert re.fullmatch("motia_[0-9a-f]{16}", LIBRARY.name)
    assert LIBRARY.text(TODAY).startswith(f"#!lua name={LIBRARY.name}\n")
    assert "--" not in re.sub(r'"[^"]*"', "", LIBRARY.body.partition("\n")[0])
    assert loader.load("mutate").function == f"{LIBRARY.name}_mutate"


# -- loading ------------------------------------------------------------------------------------------------------------------


async def test_first_calls_share_a_load_and_later_processes_not_at_all(own: Process) -> None:
    async with StateManager(url_of(own)) as state:
        await state.connect()
        own.client.execute_command("FUNCTION", "FLUSH")
        own.client.config_resetstat()
        await asyncio.gather(*(state.update("counters", str(number), INCREMENT) for number in range(64)))
        found = calls(own)
        # A call that is sent behind the load is not refused.
        assert 64 < found["fcall"] <= 128
        assert "evalsha" not in found
        assert found["function|load"] <= 3, "calls that are refused together share one load"
    async with StateManager(url_of(own)) as state:
        own.client.config_resetstat()
        await use(state)
    found = calls(own)
    assert found.keys() == {"fcall"}
    assert libraries(own) == {LIBRARY.name: TODAY}


async def test_flushed_functions_are_loaded_again_and_a_call_runs_once(own: Process) -> None:
    async with StateManager(url_of(own)) as state:
        for number in range(5):
            assert await state.update("users", "ann", INCREMENT) == {"n": number + 1}
            own.client.execute_command("FUNCTION", "FLUSH")
        await state.enqueue("mail", 1)
        own.client.execute_command("FUNCTION", "FLUSH")
        assert await state.items("users") == {"ann": {"n": 5}}
        own.client.execute_command("FUNCTION", "FLUSH")
        router = await state.open_router()
        key = (await state.connect()).state_keys(b"users", b"ann")
        await storage.trim_stream_many(router, [(key.events, b"motia:trimmed", b"100:1:1:1:1")] * 3)
        await router.aclose()
        own.client.flushall()
        own.client.config_resetstat()
        await use(state)
    assert "function|load" not in calls(own), "FLUSHALL keeps functions"


async def test_library_survives_a_restart(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    with server, redis.Redis.from_url(server.url) as client:
        async with StateManager(server.url) as state:
            await use(state)
            server.kill()
            server.start()
            client.config_resetstat()
            await use(state)
        assert not [name for name in client.info("commandstats") if "function|load" in name or "eval" in name]  # type: ignore[union-attr]


async def test_replica_has_the_library_and_answers_reads(own: Process, tmp_path: Path) -> None:
    replica = Process(tmp_path / "replica", free_port(), "--save", "", "--replicaof", "127.0.0.1", str(own.port))
    try:
        replica.start()
        async with StateManager(url_of(own)) as state:
            await use(state)
        own.client.set("last", 1)
        wait_until(lambda: replica.client.get("last") == b"1", "the replica has everything")
        replica.client.config_resetstat()
        async with StateManager(url_of(replica)) as state:
            assert await read(state) == {"n": 3}
            assert calls(replica) == {"fcall": 1}
            with pytest.raises(StateUnavailable, match="read-only replica"):
                await state.set("users", "ann", 1)
            replica.client.replicaof("NO", "ONE")
            replica.client.config_resetstat()
            await use(state)
        assert calls(replica).keys() == {"fcall"}, "nothing had to be loaded after the fail-over"
    finally:
        replica.end()


async def test_replica_without_the_library_answers_reads_by_scripts(own: Process, tmp_path: Path) -> None:
    replica = Process(tmp_path / "replica", free_port(), "--save", "", "--replicaof", "127.0.0.1", str(own.port))
    try:
        replica.start()
        async with StateManager(url_of(own)) as state:
            await state.set("users", "ann", 1)
            own.client.execute_command("FUNCTION", "FLUSH")
            own.client.set("last", 1)
            wait_until(lambda: replica.client.get("last") == b"1", "the replica has everything")
        async with StateManager(url_of(replica)) as state:
            assert await read(state) == 1
    finally:
        replica.end()


async def test_each_primary_of_a_cluster_gets_the_library_also_while_a_slot_migrates(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with StateManager(cluster.url) as state:
            names = await state.connect()
            scopes = [f"scope{number}" for number in range(40)]
            await asyncio.gather(*(state.set(scope, "ann", {"n": 0}) for scope in scopes))
            assert [libraries(node) for node in cluster.processes] == [{LIBRARY.name: TODAY}] * 3
            slot = redis.crc.key_slot(names.values(b"scope0"))
            source = cluster.owner(slot)
            target = (source + 1) % 3
            cluster.processes[target].client.execute_command("FUNCTION", "FLUSH")
            others = [scope for scope in scopes if cluster.owner(redis.crc.key_slot(names.values(scope.encode()))) == source]
            moving = asyncio.to_thread(cluster.migrate, slot, target)
            updates = [asyncio.gather(*(state.update(scope, "ann", INCREMENT) for scope in others)) for _ in range(5)]
            await asyncio.gather(moving, *updates)
            assert [await state.get(scope, "ann") for scope in others] == [{"n": 5}] * len(others)
            assert await state.update("scope0", "ann", INCREMENT) == {"n": 6}
            assert libraries(cluster.processes[target]) == {LIBRARY.name: TODAY}


# -- scripts instead -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denied", ["fcall", "function|load"])
async def test_user_without_the_permission_runs_scripts_after_one_attempt(
    own: Process, denied: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "motia_redis.state")
    own.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", f"-{denied}")
    async with StateManager(url_of(own, "ann:secret@")) as state:
        await use(state)
        await use(state)
    found = calls(own)
    assert len(own.client.acl_log()) == 1, "one attempt was denied"
    assert "function|list" not in found
    assert found["evalsha"] > 10
    (record,) = [record for record in caplog.records if record.levelno == logging.DEBUG and record.name == "motia_redis.state"]
    assert "calls run as scripts" in record.message
    assert denied in record.message


async def test_user_without_the_permission_to_load_uses_a_library_that_is_there(own: Process) -> None:
    load(own)
    own.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", "-function")
    async with StateManager(url_of(own, "ann:secret@")) as state:
        await use(state)
    assert calls(own).keys() == {"function|load", "fcall"}, "the load of this test"


async def test_full_server_cannot_load_the_library_and_gets_it_later(own: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_PAUSE", 0.05)
    async with StateManager(url_of(own)) as state:
        await state.set("users", "ann", {"n": 1})
        own.client.execute_command("FUNCTION", "FLUSH")
        own.client.config_set("maxmemory", 1)
        with pytest.raises(StateUnavailable, match=r"is full \(maxmemory\): nothing was changed"):
            await state.set("users", "bob", 1)
        assert await state.delete("users", "ann") == {"n": 1}
        assert libraries(own) == {}
        monkeypatch.setattr(functions, "_PAUSE", 60.0)
        await until_holds(lambda: state._sessions.current().router.functions.usable, "the pause is over")  # type: ignore[union-attr]
        own.client.config_resetstat()
        for _ in range(5):
            await state.delete("users", "ann")
        stats: Any = own.client.info("commandstats")
        assert stats["cmdstat_function|load"]["rejected_calls"] == 1, "one attempt, then a pause"
        state._sessions.current().router.functions.usable = True  # type: ignore[union-attr]
        own.client.config_set("maxmemory", 0)
        while not libraries(own):
            await state.set("users", "bob", 1)
            await asyncio.sleep(0)
        own.client.config_resetstat()
        await state.set("users", "ann", 1)
    assert calls(own) == {"fcall": 1}


async def test_full_server_refuses_functions_that_store_and_their_scripts_decide(own: Process) -> None:
    """A repeated call is answered, a deletion works: see tests/store/test_full.py. Nothing is decided for later calls."""
    async with StateManager(url_of(own)) as state:
        assert await state.set("users", "ann", 1, idempotency_key="a") == 1
        own.client.config_set("maxmemory", 1)
        assert await state.set("users", "ann", 1, idempotency_key="a") == 1
        with pytest.raises(StateUnavailable, match=r"is full \(maxmemory\): nothing was changed"):
            await state.set("users", "ann", 2)
        own.client.config_set("maxmemory", 0)
        own.client.config_resetstat()
        await state.set("users", "ann", 2)
    assert calls(own) == {"fcall": 1}


async def test_older_server_is_not_asked_for_functions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "motia_redis.state")
    with RedisServer(tmp_path, program=packaged("redis-6.2")) as server:
        async with StateManager(server.url) as state:
            await use(state)
    (record,) = [record for record in caplog.records if "calls run as scripts" in record.message]
    assert record.message.endswith("server version 6.2 has no functions"), "not: unknown command"


async def test_variable_forbids_functions(own: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(functions.VARIABLE, "never")
    async with StateManager(url_of(own)) as state:
        await use(state)
    assert calls(own).keys() == {"evalsha", "script|load"}
    monkeypatch.setenv(functions.VARIABLE, "no")
    with pytest.raises(StateError, match=r"MOTIA_REDIS_FUNCTIONS='no': must be \"auto\" or \"never\""):
        await StateManager(url_of(own), namespace="other").connect()


# -- libraries of other versions -------------------------------------------------------------------------------------------------


async def test_loading_deletes_only_own_libraries_that_nobody_has_used_for_a_week(own: Process) -> None:
    for digit, days in (("1", 8), ("2", 7), ("3", 0)):
        load(own, other_version(digit), days)
    foreign = "#!lua name={0}\nredis.register_function{{function_name = '{0}_f', callback = function() end, description = '{1}'}}"
    old = "theirs, in use on 2020-01-01"
    for name, about in (("motia_x", old), ("motia_" + "4" * 16, "theirs"), ("other", old)):
        own.client.function_load(foreign.format(name, about))
    async with StateManager(url_of(own)) as state:
        await use(state)
        await until_holds(lambda: calls(own).get("function|delete", 0) == 1, "the old library is deleted")
    left = {library[1].decode() for library in own.client.function_list()}
    assert left == {LIBRARY.name, "motia_" + "2" * 16, "motia_" + "3" * 16, "motia_x", "motia_" + "4" * 16, "other"}


async def test_process_renews_its_library_once_a_day_so_that_others_keep_it(
    own: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(own, days_ago=6)
    load(own, other_version("1"), days_ago=8)
    monkeypatch.setattr(functions, "_RENEWED_AFTER", 0.0)
    async with StateManager(url_of(own)) as state:
        await use(state)
        await until_holds(lambda: libraries(own) == {LIBRARY.name: TODAY}, "it is renewed, and the old one is deleted")
        own.client.config_resetstat()
        monkeypatch.setattr(functions, "_RENEWED_EVERY", 0.0)
        router = state._sessions.current().router  # type: ignore[union-attr]
        await router.functions._renew()
        await until_holds(lambda: calls(own).get("function|list", 0) > 2, "it looks again and again")
        assert "function|load" not in calls(own), "it was renewed today"
        monkeypatch.setattr(functions, "today", lambda: TODAY + timedelta(days=1))
        await until_holds(lambda: libraries(own) == {LIBRARY.name: TODAY + timedelta(days=1)}, "it is renewed a day later")


async def test_two_versions_work_side_by_side(own: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    other, script = other_version("5"), loader.load("mutate")
    async with StateManager(url_of(own)) as state:
        await use(state)
        load(own, other)
        newer = loader.Script(script.source, "mutate")
        newer.__dict__["function"] = f"{other.name}_mutate"
        router = await state.open_router()
        names = await state.connect()
        keys = names.state_keys(b"users", b"ann")
        for number in range(4, 8):
            record = names.request(keys.events, b"%d" % number)
            told = (keys.values, keys.revisions, keys.scopes, keys.events, record)
            called = newer if number % 2 else script
            await called(router, told, (b"ann", b"set", b'{"n":%d}\t\r\t' % number))
        await router.aclose()
        assert await state.get("users", "ann") == {"n": 7}
    assert libraries(own) == {LIBRARY.name: TODAY, other.name: TODAY}


# -- what the doctor says --------------------------------------------------------------------------------------------------------


async def test_doctor_says_which_way_calls_take_and_changes_nothing(own: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    own.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", "-function|load")

    async def said(user: str = "") -> str:
        router = await StateManager(url_of(own, user)).open_router()
        try:
            return await functions.explain(router, (await router.primaries())[0], LIBRARY)
        finally:
            await router.aclose()

    assert await said() == f"run as functions of the library {LIBRARY.name}, which the next call loads"
    assert re.match("run as scripts: .*function.load.*docs/operating.md", await said("ann:secret@"))
    own.client.config_set("maxmemory", 1)
    assert re.match("run as scripts: .*maxmemory", await said())
    own.client.config_set("maxmemory", 0)
    assert libraries(own) == {}
    load(own)
    assert await said() == f"run as functions of the library {LIBRARY.name}"
    assert await said("ann:secret@") == f"run as functions of the library {LIBRARY.name}"
    monkeypatch.setenv(functions.VARIABLE, "never")
    assert await said() == "run as scripts: MOTIA_REDIS_FUNCTIONS=never"

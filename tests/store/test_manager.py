"""StateManager: the promises of each method, on a real Redis."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from motia_redis import Entry, StateManager
from motia_redis._steps.events import decode_change
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import CorruptValue, LayoutMismatch, RevisionConflict, StateError, StateUnavailable
from tests.support.scripts import CALLS, count_calls

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.support.servers import RedisServer

AWKWARD = ["a:b", "{a}", "}{", "a\nb", "a\x00b", "👩‍🚀", "x" * 1024, " ", "state:users", "__proto__", "ключ", "a/b~c"]


def events(raw: redis.Redis, namespace: str, scope: str, key: str) -> list[Any]:
    """Return the changes of one key, oldest first, from its stream."""
    keyspace = Keyspace(namespace, Layout())
    stream = keyspace.state_keys(scope.encode(), key.encode()).events
    found: Any = raw.xrange(stream)
    changes = [decode_change(entry_id.decode(), fields) for entry_id, fields in found]
    return [change for change in changes if (change.group_id, change.item_id) == (scope, key)]


async def test_get_of_a_missing_key_returns_none(state: StateManager) -> None:
    assert await state.get("users", "nobody") is None
    assert await state.entry("users", "nobody") is None


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**64 - 1, -(2**63), 0.1, 1e300, "", "text", [], {}, {"a": [], "b": {}, "": [[], {}, None]}, '{["\\]}'],
)
async def test_set_returns_and_stores_the_value(state: StateManager, value: Any) -> None:
    assert await state.set("scope", "key", value) == value
    kept = await state.get("scope", "key")
    assert orjson.dumps(kept) == orjson.dumps(value)


async def test_stored_text_is_plain_json(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    value = {"quote": 'a "b" \\', "brackets": "{[]}", "n": 1, "list": []}
    await state.set("users", "ann", value)
    text: Any = raw.hget(Keyspace(namespace, Layout()).values(b"users"), "ann")
    assert orjson.loads(text) == value


async def test_null_is_stored_as_a_value(state: StateManager) -> None:
    await state.set("scope", "key", None)
    entry = await state.entry("scope", "key")
    assert entry is not None
    assert entry.value is None


async def test_delete_returns_the_value_only_once(state: StateManager) -> None:
    await state.set("users", "ann", {"n": 1})
    assert await state.delete("users", "ann") == {"n": 1}
    assert await state.delete("users", "ann") is None
    assert await state.get("users", "ann") is None


async def test_list_returns_every_value_of_the_scope_once(state: StateManager) -> None:
    for number in range(2500):
        await state.set("many", str(number), number)
    await state.set("other", "x", "not this one")
    assert sorted(await state.list("many")) == list(range(2500))
    assert await state.list("nothing") == []


async def test_list_groups_returns_the_scopes_that_have_a_key(state: StateManager) -> None:
    assert await state.list_groups() == []
    for scope in ("users", "orders", "sessions"):
        await state.set(scope, "1", {})
    await state.update("counters", "visits", [{"op": "increment", "path": "/n", "value": 1}])
    await state.delete("orders", "1")
    await state.clear("sessions")
    assert await state.list_groups() == ["counters", "users"]


async def test_clear_deletes_every_key_with_one_event_each(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    for number in range(450):
        await state.set("temp", str(number), {"n": number})
    await state.set("kept", "1", 1)
    await state.clear("temp")
    assert await state.list("temp") == []
    assert await state.list("kept") == [1]
    last = [events(raw, namespace, "temp", str(number))[-1] for number in range(440, 450)]
    assert [(e.event_type, e.old_value) for e in last] == [("state:deleted", {"n": n}) for n in range(440, 450)]
    await state.clear("temp")


async def test_scopes_and_keys_with_special_characters_do_not_collide(state: StateManager) -> None:
    for scope in AWKWARD:
        for key in AWKWARD:
            await state.set(scope, key, [scope, key])
    for scope in AWKWARD:
        for key in AWKWARD:
            assert await state.get(scope, key) == [scope, key]
        assert len(await state.list(scope)) == len(AWKWARD)
    assert await state.list_groups() == sorted(AWKWARD)


async def test_namespaces_share_nothing(server: RedisServer, namespace: str) -> None:
    async with (
        StateManager(server.url, namespace=f"{namespace}-a") as a,
        StateManager(server.url, namespace=f"{namespace}-b") as b,
    ):
        await a.set("users", "ann", 1)
        assert await b.get("users", "ann") is None
        assert await b.list_groups() == []


# -- events, revisions ----------------------------------------------------------------------------------------------------


async def test_every_change_has_one_event_with_old_and_new_value(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set("users", "ann", {"n": 1, "tags": []})
    await state.update(
        "users", "ann", [{"op": "increment", "path": "/n", "value": 1}, {"op": "add", "path": "/tags/-", "value": "x"}]
    )
    await state.set("users", "ann", "other")
    await state.delete("users", "ann")
    await state.delete("users", "ann")
    found = [(e.event_type, e.old_value, e.new_value) for e in events(raw, namespace, "users", "ann")]
    assert found == [
        ("state:created", None, {"n": 1, "tags": []}),
        ("state:updated", {"n": 1, "tags": []}, {"n": 2, "tags": ["x"]}),
        ("state:updated", {"n": 2, "tags": ["x"]}, "other"),
        ("state:deleted", "other", None),
    ]


async def test_the_revision_is_the_id_of_the_event(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set("users", "ann", 1)
    await state.update("users", "ann", [{"op": "replace", "path": "", "value": 2}])
    entry = await state.entry("users", "ann")
    assert entry == Entry(2, events(raw, namespace, "users", "ann")[-1].revision)


async def test_value_and_event_are_written_by_one_command(state: StateManager, raw: redis.Redis) -> None:
    """G3: nothing can happen between a change and its event. The test counts the commands that Redis ran outside of scripts."""
    await state.set("users", "warm", 1)

    raw.config_resetstat()
    await state.set("users", "ann", {"n": 1})
    await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])
    await state.delete("users", "ann")
    stats: Any = raw.info("commandstats")
    assert count_calls(raw) == 3
    assert stats["cmdstat_xadd"]["calls"] == 3
    # A client that sent XADD or HSET by itself would show as more commands than those of the scripts.
    with raw.monitor() as monitor:
        await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])
        raw.echo("end")
        seen = []
        while (command := monitor.next_command())["command"] != "ECHO end":
            seen.append(command)
    outside = [command["command"].split()[0] for command in seen if command["client_type"] != "lua"]
    (called,) = [name for name in outside if name not in ("HELLO", "CLIENT")]
    assert called in CALLS
    assert {c["command"].split()[0] for c in seen if c["client_type"] == "lua"} >= {"XADD", "HSET"}


async def test_revisions_only_grow_over_delete_and_create(state: StateManager) -> None:
    revisions = []
    for _ in range(20):
        await state.set("users", "ann", 1)
        revisions.append(await revision(state))
        await state.set("users", "ann", 2)
        revisions.append(await revision(state))
        await state.delete("users", "ann")
    as_numbers = [tuple(map(int, revision.split("-"))) for revision in revisions]
    assert as_numbers == sorted(set(as_numbers))


async def revision(state: StateManager) -> str:
    entry = await state.entry("users", "ann")
    assert entry is not None
    return entry.revision


async def test_if_revision_accepts_only_one_of_two_concurrent_writes(state: StateManager) -> None:
    await state.set("users", "ann", 1)
    first = await revision(state)
    await state.set("users", "ann", 2, if_revision=first)
    with pytest.raises(RevisionConflict) as conflict:
        await state.set("users", "ann", 3, if_revision=first)
    assert conflict.value.expected == first
    assert conflict.value.actual == await revision(state)
    with pytest.raises(RevisionConflict):
        await state.update("users", "ann", [{"op": "replace", "path": "", "value": 3}], if_revision=first)
    with pytest.raises(RevisionConflict):
        await state.delete("users", "ann", if_revision=first)
    assert await state.get("users", "ann") == 2


async def test_if_revision_none_requires_a_missing_key(state: StateManager) -> None:
    await state.set("users", "ann", 1, if_revision=None)
    with pytest.raises(RevisionConflict, match="scope 'users' key 'ann'"):
        await state.set("users", "ann", 2, if_revision=None)
    with pytest.raises(RevisionConflict, match="holds no value"):
        await state.set("users", "bob", 2, if_revision="1-0")
    assert await state.get("users", "ann") == 1
    with pytest.raises(StateError, match="if_revision must be"):
        await state.set("users", "ann", 2, if_revision="latest")


async def test_concurrent_increments_are_all_counted(state: StateManager) -> None:
    ops = [{"op": "increment", "path": "/n", "value": 1}]
    await asyncio.gather(*(state.update("counters", "visits", ops) for _ in range(500)))
    assert await state.get("counters", "visits") == {"n": 500}


async def test_values_of_other_clients_are_read_with_revision_0_0(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    raw.hset(Keyspace(namespace, Layout()).values(b"users"), "ann", ' { "a" : [ 1 , "\\u00e9" ] }\n')
    assert await state.entry("users", "ann") == Entry({"a": [1, "é"]}, "0-0")
    await state.set("users", "ann", 1, if_revision="0-0")
    raw.hset(Keyspace(namespace, Layout()).values(b"users"), "bob", "{broken")
    with pytest.raises(CorruptValue, match="scope 'users' key 'bob'"):
        await state.get("users", "bob")
    with pytest.raises(CorruptValue, match="scope 'users' key 'bob'"):
        await state.list("users")


@pytest.mark.usefixtures("every_change_looks")
async def test_events_without_subscriber_are_trimmed(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, deadline=0) as state:
        for number in range(2000):
            await state.set("users", "ann", number)
    stream = Keyspace(namespace, Layout()).state_keys(b"users", b"ann").events
    assert 100 <= raw.xlen(stream) <= 200, "the history, and what shares a node with it"


# -- connecting -----------------------------------------------------------------------------------------------------------


async def test_layout_is_fixed_when_the_namespace_is_created(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, layout=Layout(4, 2)) as first:
        await first.set("users", "ann", 1)
    async with StateManager(server.url, namespace=namespace) as adopting:
        assert (await adopting.connect()).layout == Layout(4, 2)
        assert await adopting.get("users", "ann") == 1
    with pytest.raises(LayoutMismatch, match="created with"):
        await StateManager(server.url, namespace=namespace, layout=Layout(16, 8)).connect()


async def test_flushed_scripts_are_loaded_again(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", {"n": 1})
    raw.script_flush()
    assert await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}]) == {"n": 2}
    raw.script_flush()
    await state.clear("users")
    assert await state.list("users") == []


async def test_error_for_unreachable_redis_omits_the_password() -> None:
    manager = StateManager("redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(StateUnavailable, match=r"cannot reach Redis at redis://127\.0\.0\.1:1/0") as error:
        await manager.get("users", "ann")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis+cluster://a:port", "redis+sentinel://a:1", "redis://localhost:port"]
)
async def test_invalid_redis_url_is_rejected(url: str) -> None:
    with pytest.raises(StateError, match="is not the URL"):
        await StateManager(url).connect()


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a b", "x" * 65])
def test_namespace_that_breaks_the_hash_tag_is_rejected(namespace: str) -> None:
    with pytest.raises(StateError, match="namespace"):
        StateManager(namespace=namespace)


async def test_closed_manager_reconnects_on_the_next_call(state: StateManager) -> None:
    await state.set("users", "ann", 1)
    await state.close()
    await state.close()
    assert await state.get("users", "ann") == 1


def test_global_instance_works_in_successive_event_loops(server: RedisServer, tmp_path: Path) -> None:
    program = """
import asyncio
from motia_redis import stateManager, state_manager
assert stateManager is state_manager
async def visit():
    return await stateManager.update("counters", "visits", [{"op": "increment", "path": "/n", "value": 1}])
print(asyncio.run(visit()))
print(asyncio.run(visit()))
"""
    assert run(program, tmp_path, MOTIA_REDIS_URL=server.url, MOTIA_REDIS_NAMESPACE="loops") == "{'n': 1}\n{'n': 2}\n"


def test_global_instance_works_without_set_up(tmp_path: Path) -> None:
    program = """
import asyncio
from motia_redis import stateManager
async def main():
    await stateManager.set("users", "ann", {"n": []})
    print(await stateManager.get("users", "ann"))
asyncio.run(main())
"""
    assert run(program, tmp_path) == "{'n': []}\n"
    assert (tmp_path / ".motia").is_dir()


def run(program: str, directory: Path, **environment: str) -> str:
    """Run a program in a new process with warnings as errors. Return its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOTIA_") or name == "MOTIA_REDIS_SERVER"}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=directory,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # On a busy machine the development mode tells what was slow, too.
    expected = ("Executing <", "Redis at ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(expected)] == []
    return done.stdout

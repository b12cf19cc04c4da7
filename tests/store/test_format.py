"""What is stored in Redis has the form that docs/format.md describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis._steps.events import decode_change
from motia_redis._store.mutations import Mutations
from motia_redis._tracing import trace
from tests.support.scripts import CALLS

if TYPE_CHECKING:
    from motia_redis import StateManager
    from tests.support.servers import RedisServer

ALWAYS = ["type", "scope", "key", "request"]
TRACE = "0123456789abcdef0123456789abcdef"


async def entries(state: StateManager, raw: redis.Redis) -> list[tuple[str, dict[bytes, bytes]]]:
    """Return the events of the key, oldest first."""
    found: Any = raw.xrange((await state.connect()).state_keys(b"users", b"ann").events)
    return [(entry_id.decode(), fields) for entry_id, fields in found]


@pytest.mark.parametrize("traced", [False, True])
async def test_an_event_has_no_field_that_would_be_empty(state: StateManager, raw: redis.Redis, traced: bool) -> None:
    async def change() -> None:
        await state.set("users", "ann", {"n": 1, "list": []})
        await state.set("users", "ann", {"n": 2, "list": []})
        await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])
        await state.update("users", "ann", [{"op": "add", "path": "/list/-", "value": 1}])
        await state.delete("users", "ann")
        await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])

    if traced:
        with trace(TRACE):
            await change()
    else:
        await change()
    events = await entries(state, raw)
    always = [*ALWAYS, "trace"] if traced else ALWAYS
    assert [[name.decode() for name in fields] for _, fields in events] == [
        [*always, "new"],
        [*always, "new", "old"],
        [*always, "new", "kept", "old"],
        [*always, "new", "kept"],
        [*always, "old"],
        [*always, "new"],
    ]
    assert all(value for _, fields in events for value in fields.values())
    changes = [decode_change(*event) for event in events]
    assert [(change.old_value, change.new_value) for change in changes] == [
        (None, {"n": 1, "list": []}),
        ({"n": 1, "list": []}, {"n": 2, "list": []}),
        ({"n": 2, "list": []}, {"n": 3, "list": []}),
        ({"n": 3, "list": []}, {"n": 3, "list": [1]}),
        ({"n": 3, "list": [1]}, None),
        (None, {"n": 1}),
    ]


async def test_an_update_that_keeps_nothing_of_the_old_text_has_the_whole_of_it(state: StateManager, raw: redis.Redis) -> None:
    keys = await state.connect()
    raw.hset(keys.values(b"users"), "ann", '{"n":1}')  # by another client: no mark at the end that would be kept
    await state.update("users", "ann", [{"op": "replace", "path": "", "value": [2]}])
    ((entry_id, fields),) = await entries(state, raw)
    assert [name.decode() for name in fields] == [*ALWAYS, "new", "old"]
    assert decode_change(entry_id, fields).old_value == {"n": 1}


@pytest.mark.parametrize("key", [None, "ann"])
@pytest.mark.parametrize("traced", [False, True])
async def test_a_message_has_no_field_that_would_be_empty(
    state: StateManager, raw: redis.Redis, key: str | None, traced: bool
) -> None:
    keyspace = await state.connect()
    if traced:
        with trace(TRACE):
            await state.enqueue("mail", {"to": "ann"}, key=key)
    else:
        await state.enqueue("mail", {"to": "ann"}, key=key)
    found: list[Any] = [entry for stream in keyspace.topic_streams("mail") for entry in raw.xrange(stream)]
    expected = ["type", "topic", "data", "request", *(["key"] if key else []), *(["trace"] if traced else [])]
    assert [[name.decode() for name in fields] for _, fields in found] == [expected]


async def test_a_trace_id_that_cannot_be_sent_is_left_out(state: StateManager, raw: redis.Redis) -> None:
    """An event of another client may have any text as its trace id, and its handler writes under that id."""
    with trace("several\nlines"):
        await state.set("users", "ann", 1)
    with trace("strange \t text"):
        await state.set("users", "ann", 2)
    assert [fields.get(b"trace") for _, fields in await entries(state, raw)] == [None, b"strange \t text"]
    assert await state.get("users", "ann") == 2


async def test_a_set_is_a_call_of_ten_arguments(
    state: StateManager, server: RedisServer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hash, number of keys, five keys, key, kind, text; a call that trims names two keys more. A trace id is none of its own."""
    await state.connect()
    trims = iter([True, False, False])
    monkeypatch.setattr(Mutations, "_trims_now", lambda _: next(trims))
    with redis.Redis.from_url(server.url) as client, client.monitor() as monitor:
        for number in range(2):
            await state.set("users", "ann", number)
        with trace(TRACE):
            await state.set("users", "ann", "traced")
        raw.echo("end")
        calls: list[int] = []
        while "end" not in (command := monitor.next_command())["command"]:
            if command["client_type"] != "lua" and command["command"].startswith(CALLS):
                calls.append(len(command["command"].split()) - 1)
    assert calls[-3:] == [12, 10, 10]  # before them may stand calls that a server without the script refused

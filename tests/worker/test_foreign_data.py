"""Entries and fields that no worker writes stop neither a worker nor a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._store.keyspace import Keyspace, Layout
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis

BROKEN = b"\xff\xfe"
CHANGE = {"type": "state:created", "scope": "users", "key": "ann", "new": "2\t\r\t"}
ENTRIES: dict[str, dict[str, Any]] = {
    "trace": CHANGE | {"trace": BROKEN},
    "revision": CHANGE | {"revision": BROKEN},
    "step of a retry": CHANGE | {"only": BROKEN},
    "key": CHANGE | {"key": BROKEN},
    "bytes of the old value": CHANGE | {"type": "state:updated", "kept": "x:y"},
    "value": CHANGE | {"new": "{"},
    "type": CHANGE | {"type": "nonsense"},
    "all": {"foo": "bar"},
}


@pytest.mark.parametrize("fields", ENTRIES.values(), ids=ENTRIES.keys())
async def test_foreign_entry_is_handled_or_a_dead_letter_and_its_key_goes_on(
    state: StateManager, raw: redis.Redis, namespace: str, fields: dict[str, Any]
) -> None:
    recorder = Recorder()
    stream = Keyspace(namespace, Layout()).state_keys(b"users", b"ann").events
    async with working(state, record(recorder, state_trigger(), max_attempts=2, backoff=0.01)):
        raw.xadd(stream, fields)
        await state.set("users", "ann", 3)
        await until_holds(lambda: 3 in [change.new_value for change in recorder.inputs], "the next change is handled")

        async def ended() -> bool:
            return await pending(raw, namespace) == 0

        await until(ended, "everything is finished")
    assert len(recorder.inputs) + await DeadLetters(state).count() <= 2


async def test_fields_that_no_worker_writes_are_removed_from_the_hash_of_entries(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    recorder = Recorder()
    steps = record(recorder, state_trigger())
    async with working(state, steps):
        await state.set("users", "ann", 1)
        await recorder.wait(1)
    stream = Keyspace(namespace, Layout()).state_keys(b"users", b"ann").events
    tag, _, suffix = stream.partition(b"}:")
    entries = tag + b"}:entries:Record:" + suffix
    raw.hset(entries, mapping={"junk": "x", "position": "garbage", "1-1-1": "1:0:", "-5": "", "\u00b2-1": "", BROKEN: BROKEN})
    await state.set("users", "ann", 2)
    async with working(state, steps):
        await recorder.wait(2)
        await until_holds(lambda: not raw.exists(entries), "the fields are removed")
    assert [change.new_value for change in recorder.inputs] == [1, 2]

"""Streams: items in groups, whose scopes nobody else can have, with all that a scope promises."""

from __future__ import annotations

import asyncio
import copy
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Stream, sync
from motia_redis.errors import InvalidName, InvalidValue, RevisionConflict, SchemaMismatch, StateError, TestFailed
from motia_redis.types import Change, StreamGroup, Synced
from tests.support.waiting import until

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

# Names that a careless encoding takes for others.
ODD_NAMES = [
    "a/b",
    "a%2Fb",
    "a%252Fb",
    "a",
    "%",
    "/",
    "//",
    "b/",
    "@motia/x",
    "{t}",
    "a*",
    "a?",
    "[a-z]",
    "back\\slash",
    "é ✓",
    "\n",
]


@pytest.fixture
def todo(state: StateManager) -> Stream[Any]:
    return Stream("todo", state=state)


async def test_items_are_read_and_changed_by_group_and_item(todo: Stream[Any]) -> None:
    assert await todo.get("inbox", "1") is None
    assert await todo.set("inbox", "1", {"text": "milk"}) == {"text": "milk"}
    await todo.set("done", "1", {"text": "tea"})
    ops: Any = [{"op": "add", "path": "/done", "value": True}]
    assert await todo.update("inbox", "1", ops) == {"text": "milk", "done": True}
    assert await todo.update("inbox", "2", [{"type": "set", "path": "text", "value": "rice"}]) == {"text": "rice"}
    assert await todo.get("inbox", "1") == {"text": "milk", "done": True}
    both = [{"text": "milk", "done": True}, {"text": "rice"}]
    assert sorted(await todo.get_group("inbox"), key=lambda item: item["text"]) == both
    assert sorted(await todo.list("inbox"), key=lambda item: item["text"]) == both
    assert await todo.list("nothing") == []
    assert await todo.delete("inbox", "1") == {"text": "milk", "done": True}
    assert await todo.delete("inbox", "1") is None
    assert await todo.get("done", "1") == {"text": "tea"}


async def test_list_groups_names_the_groups_of_one_stream_and_no_scope(state: StateManager, todo: Stream[Any]) -> None:
    for group in ("inbox", "done", "a/b"):
        await todo.set(group, "1", 1)
    await Stream("todo2", state=state).set("other", "1", 1)
    await Stream("tod", state=state).set("o/other", "1", 1)
    await state.set("todo", "1", 1)
    assert await todo.list_groups() == ["a/b", "done", "inbox"]
    assert await state.list_groups() == ["todo"]
    assert await state.list_groups(stream="todo2") == ["other"]
    await todo.delete("inbox", "1")
    assert await todo.list_groups() == ["a/b", "done"]
    assert await Stream("nobody", state=state).list_groups() == []


async def test_names_of_any_text_never_meet(state: StateManager) -> None:
    values = {(name, group): f"{name} {group}" for name in ODD_NAMES for group in ODD_NAMES}
    for (name, group), value in values.items():
        await Stream(name, state=state).set(group, "item", value)
    for (name, group), value in values.items():
        assert await Stream(name, state=state).list(group) == [value]
    for name in ODD_NAMES:
        assert await Stream(name, state=state).list_groups() == sorted(ODD_NAMES)
    assert len({str(StreamGroup(*place)) for place in values}) == len(values)


async def test_groups_are_found_among_many(state: StateManager, todo: Stream[Any]) -> None:
    groups = [f"group {number}" for number in range(700)]
    await asyncio.gather(*(todo.set(group, "1", 1) for group in groups), *(state.set(group, "1", 1) for group in groups))
    assert await todo.list_groups() == sorted(groups)
    assert await state.list_groups() == sorted(groups)


@pytest.mark.parametrize("call", ["get", "set", "update", "delete", "list", "count", "clear", "expire", "entry"])
async def test_plain_text_of_a_groups_scope_is_no_scope(state: StateManager, todo: Stream[Any], call: str) -> None:
    await todo.set("inbox", "1", 1)
    arguments: dict[str, tuple[Any, ...]] = {
        "get": ("1",), "set": ("1", 2), "update": ("1", []), "delete": ("1",), "expire": ("1", 1), "entry": ("1",),
    }  # fmt: skip
    with pytest.raises(InvalidName, match="reserved for the library"):
        await getattr(state, call)(str(todo.group("inbox")) + "", *arguments.get(call, ()))
    assert await todo.get("inbox", "1") == 1


async def test_scope_of_a_group_is_no_name_of_a_key_or_topic(state: StateManager, todo: Stream[Any]) -> None:
    with pytest.raises(InvalidName, match="the key begins with '@motia/'"):
        await state.set("scope", todo.group("inbox"), 1)
    with pytest.raises(InvalidName, match="the topic begins with '@motia/'"):
        await state.enqueue(todo.group("inbox"), 1)


async def test_other_calls_take_the_scope_of_a_group(state: StateManager, todo: Stream[Any]) -> None:
    inbox = todo.group("inbox")
    async with state.transaction() as tx:
        tx.set(inbox, "1", {"n": 1})
        tx.set(inbox, "2", {"n": 2})
    assert await state.count(inbox) == 2
    assert sorted(await state.keys(inbox)) == ["1", "2"]
    entry = await state.entry(inbox, "1")
    assert entry is not None
    assert entry.revision == tx.revisions[inbox, "1"]
    assert await state.modify(inbox, "1", lambda item: {"n": item["n"] + 10}) == {"n": 11}
    async with state.mirror(inbox) as mirror:
        assert mirror["2"] == {"n": 2}
    await state.clear(inbox)
    assert await todo.list_groups() == []


async def test_groups_with_one_tag_change_together(state: StateManager, todo: Stream[Any]) -> None:
    async with state.transaction() as tx:
        tx.set(todo.group("{ann}/inbox"), "1", 1)
        tx.set("{ann}/counters", "n", 1)
    assert await todo.get("{ann}/inbox", "1") == 1


async def test_change_and_event_are_one_and_a_repeated_call_is_applied_once(state: StateManager, todo: Stream[Any]) -> None:
    async with state.watch(todo.group("inbox")) as watch:
        for _ in range(2):
            assert await todo.set("inbox", "1", {"n": 0}, idempotency_key="first") == {"n": 0}
            increment: Any = [{"op": "increment", "path": "/n", "value": 1}]
            assert await todo.update("inbox", "1", increment, idempotency_key="second") == {"n": 1}
        for _ in range(2):
            assert await todo.delete("inbox", "1", idempotency_key="third") == {"n": 1}
        changes = [await anext(watch) for _ in range(3)]
    found = [(change.type, change.value) for change in changes if isinstance(change, Change)]
    assert found == [("state:created", {"n": 0}), ("state:updated", {"n": 1}), ("state:deleted", None)]
    assert changes[0].scope == todo.group("inbox")  # type: ignore[union-attr]
    assert isinstance(changes[0].scope, StreamGroup)  # type: ignore[union-attr]


async def test_failing_operation_changes_nothing(todo: Stream[Any]) -> None:
    await todo.set("inbox", "1", {"n": 0})
    ops: Any = [{"op": "increment", "path": "/n", "value": 1}, {"op": "test", "path": "/n", "value": 5}]
    with pytest.raises(TestFailed, match="scope 'inbox' of stream 'todo' key '1': operation 1"):
        await todo.update("inbox", "1", ops)
    assert await todo.get("inbox", "1") == {"n": 0}
    with pytest.raises(RevisionConflict):
        await todo.set("inbox", "1", 1, if_revision=None)
    with pytest.raises(RevisionConflict):
        await todo.delete("inbox", "1", if_revision="1-1")


async def test_item_expires_with_its_event_and_its_group(state: StateManager, todo: Stream[Any]) -> None:
    async with state.watch(todo.group("inbox")) as watch:
        await todo.set("inbox", "1", 1, ttl=0.05)
        await anext(watch)

        async def is_gone() -> bool:
            return await todo.list_groups() == []

        await until(is_gone, "the group to end with its last item")
        gone = await anext(watch)
    assert isinstance(gone, Change)
    assert (gone.type, gone.reason, gone.old_value) == ("state:deleted", "expired", 1)
    assert await todo.get("inbox", "1") is None


async def test_watch_of_all_scopes_shows_no_items(state: StateManager, todo: Stream[Any]) -> None:
    await todo.set("inbox", "1", 1)
    async with state.watch(None, start="snapshot") as watch:
        assert isinstance(await anext(watch), Synced)
        await todo.set("inbox", "1", 2)
        await state.set("scope", "key", 3)
        change = await anext(watch)
    assert isinstance(change, Change)
    assert (change.scope, change.value) == ("scope", 3)


async def test_watch_of_a_group_starts_from_a_snapshot_and_from_a_cursor(state: StateManager, todo: Stream[Any]) -> None:
    await todo.set("inbox", "1", 1)
    async with state.watch(todo.group("inbox"), start="snapshot") as watch:
        shown, synced = await anext(watch), await anext(watch)
    assert isinstance(shown, Change)
    assert (shown.type, shown.value) == ("state:snapshot", 1)
    await todo.set("inbox", "1", 2)
    async with state.watch(todo.group("inbox"), start=synced.cursor) as watch:
        change = await anext(watch)
    assert isinstance(change, Change)
    assert change.value == 2


@dataclass
class Todo:
    text: str
    done: bool = False


async def test_typed_stream_reads_and_writes_its_model(state: StateManager) -> None:
    todo = Stream("todo", model=Todo, state=state)
    assert await todo.set("inbox", "1", Todo("milk")) == Todo("milk")
    assert await todo.get("inbox", "1") == Todo("milk")
    assert await todo.update("inbox", "1", [{"op": "replace", "path": "/done", "value": True}]) == Todo("milk", True)
    assert await todo.list("inbox") == [Todo("milk", True)]
    wrong: Any = {"text": 5}
    with pytest.raises(SchemaMismatch, match="scope 'inbox' of stream 'todo' key '2'"):
        await todo.set("inbox", "2", wrong)
    assert await todo.delete("inbox", "1") == Todo("milk", True)
    await Stream("todo", state=state).set("inbox", "3", wrong)
    with pytest.raises(SchemaMismatch, match="scope 'inbox' of stream 'todo' key '3'"):
        await todo.list("inbox")


def test_stream_of_a_program_without_an_event_loop(server: RedisServer, namespace: str) -> None:
    with sync.StateManager(server.url, namespace=namespace) as state:
        todo: sync.Stream[Any] = sync.Stream("todo", state=state)
        assert todo.set("inbox", "1", {"n": 1}) == {"n": 1}
        assert todo.update("inbox", "1", [{"op": "increment", "path": "/n", "value": 1}]) == {"n": 2}
        assert todo.get("inbox", "1") == {"n": 2}
        assert todo.list("inbox") == todo.get_group("inbox") == [{"n": 2}]
        assert todo.list_groups() == state.list_groups(stream="todo") == ["inbox"]
        with state.transaction() as tx:
            tx.delete(todo.group("inbox"), "1")
        assert todo.delete("inbox", "1") is None
        typed = sync.Stream("todo", model=Todo, state=state)
        assert typed.set("inbox", "1", Todo("milk")) == Todo("milk")
        assert typed.get("inbox", "1") == Todo("milk")
        with pytest.raises(SchemaMismatch):
            typed.set("inbox", "1", {"text": "milk"})  # type: ignore[arg-type]
        assert Stream("todo").using(state).get("inbox", "1") == {"text": "milk", "done": False}


@pytest.mark.parametrize("name", ["", None, 5, b"todo", "lone \ud800"], ids=repr)
async def test_bad_name_is_rejected_with_what_is_wrong(state: StateManager, todo: Stream[Any], name: Any) -> None:
    with pytest.raises(InvalidName, match="name of a stream"):
        Stream(name)
    with pytest.raises(InvalidName, match="the group of stream 'todo'"):
        await todo.get(name, "1")
    with pytest.raises(InvalidName, match="the key"):
        await todo.get("inbox", name)
    with pytest.raises(StateError, match="stream 'todo': 'state' must be a StateManager"):
        Stream("todo", state="redis://")  # type: ignore[arg-type]
    if name is not None:
        with pytest.raises(InvalidName, match="name of a stream"):
            await state.list_groups(stream=name)


async def test_long_names_and_bad_values_are_rejected(todo: Stream[Any]) -> None:
    with pytest.raises(InvalidName, match="the scope has 4113 bytes"):
        await todo.get("x" * 4094, "1")
    with pytest.raises(InvalidValue, match="scope 'inbox' of stream 'todo' key '1'"):
        await todo.set("inbox", "1", float("nan"))


async def test_stream_and_scope_are_copied_and_pickled(state: StateManager, todo: Stream[Any]) -> None:
    inbox = StreamGroup("a/b", "c")
    for twin in (copy.copy(inbox), copy.deepcopy(inbox), pickle.loads(pickle.dumps(inbox))):
        assert (twin, twin.stream, twin.group, type(twin)) == (inbox, "a/b", "c", StreamGroup)
    again = pickle.loads(pickle.dumps(Stream("todo", model=Todo)))
    assert (again.name, again.model) == ("todo", Todo)
    assert repr(again) == "<Stream 'todo' of Todo>"
    assert repr(todo) == "<Stream 'todo'>"


async def test_scope_in_redis_is_readable(todo: Stream[Any], raw: redis.Redis, namespace: str, state: StateManager) -> None:
    await todo.set("inbox", "1", {"a": 1})
    partition = (await state.connect()).partition(b"@motia/stream/todo/inbox")
    stored: Any = raw.hget(f"{{{namespace}:{partition}}}:state:@motia/stream/todo/inbox", "1")
    assert stored.rstrip() == b'{"a":1}'

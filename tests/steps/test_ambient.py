"""The global `stateManager` and `enqueue`: awaitables where an event loop runs, results where none does."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Stream, enqueue, state_manager, stateManager
from motia_redis._steps import invocation
from motia_redis._steps.ambient import Pending
from motia_redis._steps.logs import running_step
from motia_redis._sync import loop_thread
from motia_redis.errors import StateError, StepError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import RedisServer


@pytest.fixture(autouse=True)
def global_manager(server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the global manager use the tests' server."""
    for name in ("plain", "_for_threads"):
        vars(stateManager).pop(name, None)
    monkeypatch.setattr(stateManager, "__dict__", vars(StateManager(server.url, namespace=namespace)))
    yield
    loop_thread.end()


async def test_calls_are_awaited_where_an_event_loop_runs() -> None:
    assert await stateManager.set("s", "k", 1) == 1
    assert await asyncio.create_task(stateManager.get("s", "k")) == 1
    assert await asyncio.gather(stateManager.get("s", "k"), stateManager.count("s")) == [1, 1]
    assert await asyncio.wait_for(stateManager.delete("s", "k"), 5) == 1
    assert "-" in await enqueue({"topic": "t", "data": 1})
    async with stateManager.transaction() as tx:
        tx.set("s", "k", 2)
    assert await state_manager.items("s") == {"k": 2}
    await stateManager.close()


def test_calls_answer_the_result_where_none_runs() -> None:
    manager: Any = stateManager
    assert manager.set("s", "k", 1) == 1
    assert manager.get("s", "k") == 1
    assert "-" in enqueue({"topic": "t", "data": 1})
    with manager.transaction() as tx:
        tx.set("s", "k", 2)
    assert dict(manager.scan("s")) == manager.items("s") == {"k": 2}
    with manager.watch("s", start="snapshot") as watch:
        assert next(watch).value == 2


async def test_calls_answer_the_result_in_the_thread_of_a_plain_handler() -> None:
    def handler(value: Any) -> Any:
        manager: Any = stateManager
        return manager.set("s", "k", value)

    assert await invocation.call(handler, 7, None) == 7
    assert await stateManager.get("s", "k") == 7
    await stateManager.close()


async def test_a_dropped_call_is_logged_with_step_and_line(caplog: pytest.LogCaptureFixture) -> None:
    with running_step("Careless"):
        stateManager.set("s", "k", 1)  # type: ignore[unused-coroutine]
        enqueue({"topic": "t", "data": 1})  # type: ignore[unused-coroutine]
    gc.collect()
    first, second = caplog.records
    assert (first.levelno, first.step) == (logging.ERROR, "Careless")  # type: ignore[attr-defined]
    assert first.getMessage().startswith(f"stateManager.set was not awaited at {__file__}:")
    assert "write `await stateManager.set(...)`" in first.getMessage()
    assert second.getMessage().startswith("enqueue was not awaited at ")


async def test_a_call_that_was_awaited_or_closed_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    await stateManager.set("s", "k", 1)
    call = stateManager.get("s", "k")
    assert isinstance(call, Pending)
    call.close()
    with pytest.raises(StateError):
        await stateManager.get("", "k")
    task = asyncio.create_task(stateManager.get("s", "k"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del call, task
    gc.collect()
    await stateManager.close()
    assert [record for record in caplog.records if "awaited" in record.getMessage()] == []


async def test_a_plain_condition_cannot_use_it() -> None:
    def condition(change: Any) -> bool:
        return bool(stateManager.get("s", "k"))

    async def written_well(change: Any) -> bool:
        return await stateManager.get("s", "k") is None

    with pytest.raises(StateError, match=r"stateManager.get in a condition that is a plain function: write `async def`"):
        invocation.call_here(condition, 1, None)
    assert await invocation.call_here(written_well, 1, None)
    assert await stateManager.get("s", "k") is None  # and afterwards it can be used again
    await stateManager.close()


async def test_a_typed_scope_can_be_made_where_no_loop_runs() -> None:
    from pydantic import BaseModel

    class User(BaseModel):
        name: str

    users = await asyncio.to_thread(stateManager.scope, "users", User)
    assert await users.set("ann", User(name="Ann")) == User(name="Ann")
    await stateManager.close()


async def test_calls_of_a_typed_scope_answer_in_both_ways(caplog: pytest.LogCaptureFixture) -> None:
    from pydantic import BaseModel

    class User(BaseModel):
        name: str

    users: Any = await asyncio.to_thread(stateManager.scope, "users", User)
    ann = User(name="Ann")

    def handler(name: str) -> Any:
        users.set("ann", User(name=name))
        users.patch("ann", name=f"{name}!")
        return users.get("ann"), users.list(), users.modify("ann", lambda user: user)

    changed = User(name="Ann!")
    assert await invocation.call(handler, "Ann", None) == (changed, [changed], changed)
    assert await users.get("ann") == changed
    assert await users.set("ann", ann) == ann
    assert [key async for key, _ in users.scan()] == ["ann"]
    async with users.watch(start="snapshot") as watch:
        assert (await anext(watch)).value == ann
    users.delete("ann")
    gc.collect()
    assert "scope.delete was not awaited at" in caplog.text
    await stateManager.close()


def test_asyncio_run_needs_a_coroutine_function() -> None:
    with pytest.raises((TypeError, ValueError), match="a coroutine was expected"):
        asyncio.run(stateManager.set("s", "k", 1))


async def test_wrong_messages_are_errors_at_once() -> None:
    with pytest.raises(StepError, match="enqueue takes a dict"):
        enqueue({"topic": "t"})


@dataclass
class Todo:
    text: str


@pytest.mark.parametrize("model", [None, Todo], ids=["any", "typed"])
async def test_stream_is_awaited_where_an_event_loop_runs_and_answers_where_none_does(model: Any) -> None:
    todo, item = Stream("todo", model=model), Todo("milk") if model else 1

    def handler(group: str) -> Any:
        plain: Any = todo
        plain.set(group, "1", item)
        return plain.get(group, "1"), plain.list(group), plain.list_groups()

    assert await todo.set("a", "1", item) == item
    assert await todo.set("a", "1", item) == item  # also when the manager is known
    assert await todo.list_groups() == ["a"]
    assert await invocation.call(handler, "b", None) == (item, [item], ["a", "b"])
    assert await todo.get("b", "1") == item
    assert await Stream("todo", state=stateManager).list("b") == [{"text": "milk"} if model else 1]
    await stateManager.close()


async def test_dropped_call_of_a_stream_is_logged_with_its_name_and_line(caplog: pytest.LogCaptureFixture) -> None:
    Stream("todo").list("a")  # type: ignore[unused-coroutine]
    Stream("todo").list_groups()  # type: ignore[unused-coroutine]
    gc.collect()
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"Stream('todo').list was not awaited at {__file__}:")
    assert second.startswith(f"Stream('todo').list_groups was not awaited at {__file__}:")


async def test_typed_scope_keeps_its_type_when_the_manager_has_been_used() -> None:
    await stateManager.set("todo", "1", {"text": "milk"})
    assert await stateManager.scope("todo", Todo).get("1") == Todo("milk")
    await stateManager.close()

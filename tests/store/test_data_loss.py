"""Redis loses its data while processes live: one layout for all of them afterwards, or a clear error."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store.keyspace import Layout
from motia_redis._transport.failures import ConnectionLost
from motia_redis._transport.router import Router
from motia_redis.errors import LayoutMismatch, StateUnavailable
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    import redis

OWN = Layout(partitions=4, lanes=2)
CALLS: dict[str, Callable[[StateManager], Awaitable[Any]]] = {
    "set": lambda state: state.set("users", "ann", {"n": 1}),
    "update": lambda state: state.update("users", "ann", [{"op": "add", "path": "/n", "value": 2}]),
    "enqueue": lambda state: state.enqueue("mail", 2, key="ann"),
    "delayed": lambda state: state.enqueue("later", 2, key="ann", delay=1000),
}
creating = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
async def own(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    """Give a manager with a layout of its own that has made all kinds of calls."""
    async with StateManager(server.url, namespace=namespace, layout=OWN, deadline=1) as state:
        for call in CALLS.values():
            await call(state)
        yield state


@pytest.fixture
def lose(raw: redis.Redis, namespace: str) -> Callable[[], None]:
    """Give a function that removes everything in the namespace."""

    def lose() -> None:
        raw.delete(*raw.scan_iter(f"{namespace}:*"), *raw.scan_iter(f"{{{namespace}:*"))

    return lose


@creating
async def test_layout_is_written_again_by_the_first_change_after_a_loss(
    own: StateManager, server: RedisServer, namespace: str, lose: Callable[[], None], call: Callable[[StateManager], Any]
) -> None:
    lose()
    await call(own)
    async with StateManager(server.url, namespace=namespace) as other:
        assert (await other.connect()).layout == OWN


@creating
async def test_change_is_refused_after_another_process_has_written_its_layout(
    own: StateManager, server: RedisServer, namespace: str, lose: Callable[[], None], call: Callable[[StateManager], Any]
) -> None:
    lose()
    async with StateManager(server.url, namespace=namespace) as other:
        await other.set("users", "ann", 3)
        for attempt in (call, *CALLS.values(), lambda state: state.get("users", "ann"), call):
            with pytest.raises(LayoutMismatch, match=r"partitions=16.*works with Layout\(partitions=4, lanes=2\).*lost its data"):
                await attempt(own)
        assert await other.get("users", "ann") == 3
    await own.close()
    with pytest.raises(LayoutMismatch, match="use the stored layout"):
        await own.get("users", "ann")


async def test_refusal_holds_in_all_event_loops(
    own: StateManager, server: RedisServer, namespace: str, lose: Callable[[], None]
) -> None:
    lost, seen = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def visit() -> None:
        await own.get("users", "ann")
        loop.call_soon_threadsafe(seen.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(lost.wait(), loop))
        with pytest.raises(LayoutMismatch, match="lost its data"):
            await own.get("users", "ann")
        await own.close()

    with ThreadPoolExecutor(1) as pool:
        running = loop.run_in_executor(pool, asyncio.run, visit())
        await seen.wait()
        lose()
        async with StateManager(server.url, namespace=namespace) as other:
            await other.connect()
        with pytest.raises(LayoutMismatch):
            await own.check_layout()
        lost.set()
        await running


async def test_only_a_change_that_creates_a_scope_or_a_stream_looks_at_the_layout(own: StateManager, raw: redis.Redis) -> None:
    def looks() -> int:
        stats: Any = raw.info("commandstats")
        return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"])

    raw.config_resetstat()
    for call in CALLS.values():
        await call(own)
    await own.set("users", "bob", 1)
    await own.delete("users", "bob")
    assert looks() == 0
    await own.set("carts", "one", 1)
    assert looks() == 1
    await own.enqueue("other", 1, key="a")
    assert looks() == 2


@pytest.fixture
def emptied(tmp_path: Path) -> Iterator[tuple[RedisServer, Callable[[], None]]]:
    """Give a server that keeps nothing on disk, and a function that ends it and starts it again."""
    server = RedisServer(tmp_path)

    def restart() -> None:
        server.kill()
        server.start()

    with server:
        yield server, restart


async def test_lost_connection_makes_the_next_call_look_at_the_layout(
    emptied: tuple[RedisServer, Callable[[], None]],
) -> None:
    server, restart = emptied
    async with StateManager(server.url, layout=OWN) as state, StateManager(server.url) as reader:
        await state.set("users", "ann", 1)
        assert await reader.get("users", "ann") == 1
        restart()
        assert await reader.get("users", "ann") is None
        async with StateManager(server.url) as late:
            assert (await late.connect()).layout == OWN, "the reader has written it again"
        restart()
        async with StateManager(server.url) as early:
            await early.set("users", "ann", 2)
            with pytest.raises(LayoutMismatch, match="lost its data"):
                await reader.get("users", "ann")


async def test_change_whose_look_gets_no_answer_may_have_been_applied(own: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Router.execute

    async def broken(router: Router, key: Any, *command: Any) -> Any:
        if command[0] == "HGETALL":
            raise ConnectionLost("no answer")
        return await execute(router, key, *command)

    monkeypatch.setattr(Router, "execute", broken)
    with pytest.raises(StateUnavailable) as caught:
        await own.set("carts", "one", 1)
    assert caught.value.maybe_applied
    assert await own.get("carts", "one") == 1

"""Server-sent events of a scope: what a browser gets, and that it misses nothing when it loses its connection."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import urllib.parse
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson
import pytest
from playwright.async_api import async_playwright
from starlette.responses import HTMLResponse
from starlette.routing import Route

from motia_redis import Application, StateManager, Stream, create_web_app
from motia_redis._store import feed as feeds
from motia_redis.errors import StateError
from motia_redis.types import StreamGroup
from tests.faults.proxy import CutProxy
from tests.support.asgi import serving_app
from tests.support.clusters import Process, free_port
from tests.support.waiting import until_holds
from tests.support.watching import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import redis
    from starlette.requests import Request

CHROMIUM = shutil.which("chromium")


class Sent(NamedTuple):
    """One event as it was sent."""

    event: str
    data: Any
    id: str


@contextlib.asynccontextmanager
async def serving(state: StateManager, *routes: Route, **options: Any) -> AsyncIterator[str]:
    """Serve the scopes of a manager, and other routes; yield the URL."""
    app = create_web_app(Application(()), state, watch="/state", **options)
    app.router.routes[:0] = routes
    async with serving_app(app) as url:
        yield url


@contextlib.asynccontextmanager
async def following(url: str, **headers: str) -> AsyncIterator[AsyncIterator[Sent]]:
    """Follow a URL; yield the events."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client, client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parse(response)


async def parse(response: httpx.Response) -> AsyncIterator[Sent]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line and "event" in fields:
            yield Sent(fields["event"], orjson.loads(fields["data"]), fields.get("id", ""))
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            fields = {}


async def take(events: AsyncIterator[Sent], count: int) -> list[Sent]:
    """Return the next events that are no bookmarks: those come whenever nothing else did for a while."""
    found: list[Sent] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            event = await anext(events)
            if event.event != "bookmark":
                found.append(event)
    return found


async def test_client_gets_a_snapshot_and_then_changes(state: StateManager) -> None:
    await state.set("carts", "ann", {"text": 'line\nbreak "quoted" [1]'})
    async with serving(state) as url, following(f"{url}/state/carts?start=snapshot") as events:
        shown, synced = await take(events, 2)
        await state.delete("carts", "ann")
        await state.set("carts", "bob", 7, ttl=1000)
        async with state.transaction() as tx:
            tx.set("carts", "cy", 1)
        gone, timed, together = await take(events, 3)
    assert (shown.event, shown.data["type"], shown.data["value"]) == (
        "change", "state:snapshot", {"text": 'line\nbreak "quoted" [1]'},
    )  # fmt: skip
    assert (synced.event, synced.data) == ("synced", {})
    assert (gone.data["type"], gone.data["value"], gone.data["reason"], gone.data["key"]) == (
        "state:deleted",
        None,
        "deleted",
        "ann",
    )
    assert timed.data["expires_at"] > timed.data["timestamp"] / 1000
    assert together.data["transaction"]["size"] == 1
    assert all(event.id for event in (shown, synced, gone, timed))


async def test_client_that_comes_back_gets_what_it_has_missed(state: StateManager) -> None:
    async with serving(state) as url:
        async with following(f"{url}/state/carts") as events:
            await state.set("carts", "a", 1)
            (first,) = await take(events, 1)
        for number in range(2, 6):
            await state.set("carts", "a", number)
        async with following(f"{url}/state/carts?start=snapshot", **{"last-event-id": first.id}) as events:
            assert [event.data["value"] for event in await take(events, 4)] == [2, 3, 4, 5]


async def test_query_chooses_keys(state: StateManager) -> None:
    async with (
        serving(state) as url,
        following(f"{url}/state/a%2Fb?key=x") as of_key,
        following(f"{url}/state/a%2Fb?prefix=x") as of_prefix,
    ):
        for key in ("y", "xx", "x"):
            await state.set("a/b", key, key)
        assert [event.data["key"] for event in await take(of_key, 1)] == ["x"]
        assert sorted(event.data["key"] for event in await take(of_prefix, 2)) == ["x", "xx"]


async def test_text_that_is_no_json_is_an_error_in_its_place(state: StateManager, raw: redis.Redis) -> None:
    raw.hset((await state.connect()).values(b"s"), "broken", "{")
    async with serving(state) as url, following(f"{url}/state/s?start=snapshot") as events:
        (broken,) = await take(events, 1)
    assert "value" not in broken.data
    assert "not JSON" in broken.data["error"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_hook_decides_who_may_follow_a_scope(state: StateManager, is_async: bool) -> None:
    def allow(request: Request, scope: str) -> bool:
        return request.headers.get("authorization") == f"for {scope}"

    async def allow_async(request: Request, scope: str) -> bool:
        return allow(request, scope)

    async with serving(state, allow=allow_async if is_async else allow) as url, httpx.AsyncClient() as client:
        response = await client.get(f"{url}/state/carts")
        assert (response.status_code, response.json()) == (403, {"error": "scope 'carts' is not for this client"})
        async with following(f"{url}/state/carts", authorization="for carts"):
            pass


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/state/", "scope must not be empty"),
        ("/state/s?start=x", "'now', 'snapshot' or the cursor"),
        ("/state/s?key=a&prefix=b", "a key or a prefix"),
        ("/state/%40motia/x", "reserved"),
        ("/state/@motia/stream/todo", "reserved"),
        ("/state/@motia/stream/todo/", "reserved"),
        ("/state/@motia/stream//inbox", "reserved"),
        ("/state/@motia/stream/a%25b/inbox", "reserved"),
    ],
)
async def test_request_that_cannot_be_says_why(state: StateManager, path: str, text: str) -> None:
    async with serving(state) as url, httpx.AsyncClient() as client:
        response = await client.get(url + path)
        assert response.status_code == 400
        assert text in response.json()["error"]


async def test_client_follows_a_group_of_a_stream(state: StateManager) -> None:
    todo = Stream("to/do", state=state)
    await todo.set("a/b", "1", {"text": "milk"})
    path = urllib.parse.quote(todo.group("a/b"), safe="@")
    async with serving(state) as url, following(f"{url}/state/{path}?start=snapshot") as events:
        shown, synced = await take(events, 2)
        await state.set("a/b", "1", "another scope")
        await Stream("to", state=state).set("do/a/b", "1", "another stream")
        await todo.set("a/b", "2", 2)
        await todo.delete("a/b", "1")
        changes = await take(events, 2)
        async with following(f"{url}/state/{path}?key=2", **{"last-event-id": synced.id}) as later:
            assert [event.data["value"] for event in await take(later, 1)] == [2]
    assert {name: shown.data[name] for name in ("type", "stream", "group", "key", "value")} == {
        "type": "state:snapshot", "stream": "to/do", "group": "a/b", "key": "1", "value": {"text": "milk"},
    }  # fmt: skip
    assert "scope" not in shown.data
    assert [(event.data["key"], event.data["type"]) for event in changes] == [("2", "state:created"), ("1", "state:deleted")]


async def test_allow_is_asked_for_a_group_of_a_stream(state: StateManager) -> None:
    asked: list[Any] = []

    def allow(request: Request, scope: str) -> bool:
        asked.append((type(scope), scope))
        return isinstance(scope, StreamGroup) and (scope.stream, scope.group) == ("todo", "ann")

    async with serving(state, allow=allow) as url, httpx.AsyncClient() as client:
        for path in ("/state/@motia/stream/todo/bob", "/state/@motia/stream/other/ann", "/state/todo/ann"):
            assert (await client.get(url + path)).status_code == 403
        refusal = (await client.get(f"{url}/state/%40motia%2Fstream%2Ftodo%2Fbob")).json()["error"]
        async with following(f"{url}/state/@motia/stream/todo/ann"):
            pass
    assert refusal == "scope 'bob' of stream 'todo' is not for this client"
    assert asked[0] == (StreamGroup, "@motia/stream/todo/bob")
    assert asked[2] == (str, "todo/ann")


async def test_path_is_served_only_where_it_was_asked_for(state: StateManager) -> None:
    transport = httpx.ASGITransport(create_web_app(Application(()), state))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/state/s")).status_code == 404
    with pytest.raises(StateError, match="begins with '/'"):
        create_web_app(Application(()), state, watch="state")
    async with serving(state) as url, httpx.AsyncClient() as client:
        assert (await client.post(f"{url}/state/s")).status_code == 404


async def test_client_forgets_what_it_has_after_a_gap(
    state: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "CHECK_INTERVAL", 0.2)
    async with serving(state) as url, following(f"{url}/state/s") as events:
        await state.set("s", "lost", 1)
        await take(events, 1)
        for name in raw.scan_iter(f"*{state.namespace}*"):
            raw.delete(name)
        await state.set("s", "new", 2)
        found = await take(events, 1)
        while found[-1].event != "synced":
            found += await take(events, 1)
    names = [event.event for event in found]
    assert "reset" in names
    assert [event.data["key"] for event in found[names.index("reset") + 1 : -1]] == ["new"]


async def test_client_goes_on_while_redis_is_away(tmp_path: Path) -> None:
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes")
    try:
        server.start()
        async with (
            StateManager(f"redis://127.0.0.1:{server.port}", deadline=0.5) as state,
            serving(state) as url,
            following(f"{url}/state/s") as events,
        ):
            await state.set("s", "a", 1)
            await take(events, 1)
            server.kill()
            async with following(f"{url}/state/s?start=snapshot") as later:
                await asyncio.to_thread(server.start)
                await state.set("s", "a", 2)
                assert [event.data["value"] for event in await take(events, 1)] == [2]
                assert (await take(later, 1))[0].data["key"] == "a"
    finally:
        server.end()


async def test_hundred_clients_share_one_reader_and_leave_nothing_behind(state: StateManager, raw: redis.Redis) -> None:
    await state.connect()
    before = len(raw.client_list())
    async with serving(state) as url, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(following(f"{url}/state/s")) for _ in range(100)]
        feed = state._sessions.current().feed  # type: ignore[union-attr]
        assert feed is not None
        await until_holds(lambda: len(feed._partitions) == 1, "a client has begun")
        partition = next(iter(feed._partitions.values()))
        await until_holds(lambda: len(partition.subscribers()) == 100, "all clients have begun")
        for number in range(10):
            await state.set("s", "a", number)
        for events in clients:
            assert [event.data["value"] for event in await take(events, 10)] == list(range(10))
        assert len(raw.client_list()) <= before + 2
    await until_holds(lambda: not feed._partitions, "all watches have ended")


PAGE = """<!doctype html><meta charset="utf-8"><title>test</title><script>
const seen = [], marks = [];
const source = new EventSource("/state/s?start=snapshot");
source.addEventListener("change", e => { const c = JSON.parse(e.data); seen.push([c.key, c.value]); });
source.addEventListener("synced", () => marks.push("synced"));
source.addEventListener("error", () => marks.push("error"));
</script>"""


@pytest.mark.alone
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
async def test_browser_that_loses_its_connection_misses_nothing(state: StateManager) -> None:
    await state.set("s", "first", 0)
    async with (
        serving(state, Route("/", lambda _: HTMLResponse(PAGE))) as url,
        CutProxy(int(url.rpartition(":")[2])) as proxy,
        async_playwright() as driver,
    ):
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{proxy.port}/")
        await page.wait_for_function("marks.includes('synced')")
        for number in range(60):
            await state.set("s", "n", number)
            if number % 20 == 10:
                proxy.cut()
        await page.wait_for_function("seen.length && seen[seen.length - 1][1] === 59", timeout=60_000)
        seen, marks = await page.evaluate("[seen, marks]")
        await browser.close()
    assert seen == [["first", 0], *(["n", number] for number in range(60))]
    assert "error" in marks

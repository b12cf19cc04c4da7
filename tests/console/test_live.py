"""Changes as they happen: what a browser sees, what it misses (nothing, or it is told), and what a slow one costs the others."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.parse
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from playwright.async_api import expect
from starlette.applications import Starlette
from starlette.routing import Mount

from motia_redis import StateManager
from motia_redis._store.watch import Watch
from motia_redis.console import create_console_app
from tests.console.conftest import check_access
from tests.faults.proxy import CutProxy
from tests.support.asgi import serving_app
from tests.support.servers import RedisServer
from tests.support.waiting import until, until_holds, within_deadline
from tests.support.watching import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import pytest
    import redis
    from playwright.async_api import Page

    Serve = Callable[..., AbstractAsyncContextManager[str]]

ROW = re.compile(r'data-key="([^"]*)" data-revision="([^"]*)"')
#: Notes all rows that the page ever had, also those that it has dropped since.
RECORD = """() => {
  window.seen = [];
  new MutationObserver((all) => {
    for (const change of all)
      for (const row of [...change.addedNodes].filter((node) => node.dataset?.key).reverse())
        window.seen.push([row.dataset.key, row.dataset.revision]);
  }).observe(document.getElementById("changes"), { childList: true });
}"""


class Sent(NamedTuple):
    """One event as it was sent."""

    event: str
    data: str
    id: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Return the keys and revisions of the changes."""
        return ROW.findall(self.data)


@contextlib.asynccontextmanager
async def following(url: str, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[Sent]]:
    """Follow the changes as a browser does, and yield its events; the first change that counts is made after this."""
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("GET", f"{url}/live/events{query}", headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        events = parse(response)
        yield events
        await events.aclose()  # type: ignore[attr-defined]


async def parse(response: httpx.Response) -> AsyncIterator[Sent]:
    fields: dict[str, list[str]] = defaultdict(list)
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name].append(value)
        else:
            if "data" in fields:
                yield Sent(fields["event"][0], "\n".join(fields["data"]), "".join(fields["id"]))
            fields.clear()


async def until_event(events: AsyncIterator[Sent], name: str, data: str = "") -> Sent:
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if event.event == name and data in event.data:
                return event
    raise AssertionError(f"the events have ended before {name}")


async def take_rows(events: AsyncIterator[Sent], count: int) -> list[tuple[str, str]]:
    """Return the keys and revisions of the next changes."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            found += (await anext(events)).rows
    return found


async def open_live(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until it follows."""
    await page.goto(f"{url}/live{query}")
    await expect(page.locator("#told")).to_have_text("Following.", timeout=PATIENCE * 1000)
    await page.evaluate(RECORD)


async def until_seen(page: Page, count: int) -> list[tuple[str, str]]:
    """Return all rows that the page has had, once they are so many."""

    async def are_there() -> bool:  # `wait_for_function` would need what the page forbids
        return bool(await page.evaluate("window.seen.length") >= count)

    await until(are_there, f"{count} rows", deadline=PATIENCE)
    return [(key, revision) for key, revision in await page.evaluate("window.seen")]


async def write(state: StateManager, prefix: str, count: int, keys: int = 25) -> list[tuple[str, str]]:
    """Change keys in turn; return keys and revisions."""
    made = []
    for number in range(count):
        key = f"{prefix}{number % keys}"
        made.append((key, await revision_of(state, "s", key, {"n": number})))
    return made


async def revision_of(state: StateManager, scope: str, key: str, value: Any) -> str:
    """Set a value and return its revision. Nobody else may write the key."""
    await state.set(scope, key, value)
    entry = await state.entry(scope, key)
    assert entry is not None
    return entry.revision


def by_key(rows: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, revision in rows:
        found[key].append(revision)
    return found


def watches(state: StateManager) -> int:
    """Return how many watches the process has."""
    session = state._sessions.current()
    return 0 if session is None or session.feed is None else session.feed.watchers


async def test_page_shows_every_change_of_every_key_in_its_order(
    state: StateManager, second: StateManager, url: str, page: Page
) -> None:
    await open_live(page, url)
    made = await asyncio.gather(write(state, "a", 1500), write(second, "b", 1500))
    seen = await until_seen(page, 3000)
    assert by_key(seen) == by_key(made[0] + made[1])
    assert len(seen) == 3000
    assert await page.locator("#changes > *").count() == 500
    await expect(page.locator("#count")).to_have_text("3,000")
    await expect(page.locator("#changes > *").first).to_have_attribute("data-revision", seen[-1][1])  # the newest first


async def test_a_change_says_what_has_happened(state: StateManager, url: str, page: Page) -> None:
    await open_live(page, url)
    await check_access(page)
    await state.set("carts", "<ann>", {"items": 1, "note": "x" * 500})
    row = page.locator(".change").first
    await expect(row).to_contain_text("created carts / <ann>")
    assert len(await row.inner_text()) < 500
    await state.update("carts", "<ann>", [{"op": "increment", "path": "/items", "value": 1}])
    await expect(row.locator(".removed")).to_have_text('-   "items": 1,')
    await expect(row.locator(".added")).to_have_text('+   "items": 2,')
    await state.expire("carts", "<ann>", 3600)
    await expect(row.locator(".kind")).to_have_text("time to live")
    await expect(row.locator(".added")).to_contain_text("expires at")
    await state.delete("carts", "<ann>")
    await expect(row).to_contain_text("deleted")
    await expect(row.locator(".preview")).to_contain_text('was {"items":2,')
    await state.set("carts", "big", "y" * 100_000)
    await expect(row).to_contain_text("a value of 100.0 kB")
    await state.set("carts", "short", 1, ttl=0.2)
    await expect(row).to_contain_text("expires 0 s later")

    async def has_expired() -> bool:
        return await state.count("carts") == 1  # nothing else makes values expire here

    await until(has_expired, "the value has expired")
    await expect(row.locator(".kind")).to_have_text("expired", timeout=10_000)
    await check_access(page)
    await row.get_by_role("link", name="short").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("short")


async def test_query_chooses_changes(state: StateManager, url: str) -> None:
    cases = {
        "": ["eu/a", "eu/a", "eu/a", "us/a", "eu/a", "o"],
        "?scope=s": ["eu/a", "eu/a", "eu/a", "us/a", "eu/a"],
        "?scope=s&key=us/a": ["us/a"],
        "?scope=s&prefix=eu/": ["eu/a"] * 4,
        "?prefix=o": ["o"],
        "?key=us/a": ["us/a"],
        "?type=created": ["eu/a", "us/a", "o"],
        "?type=created&type=ttl&scope=s": ["eu/a", "eu/a", "us/a"],
        "?type=deleted,updated": ["eu/a", "eu/a"],
    }
    async with contextlib.AsyncExitStack() as stack:
        streams = {query: await stack.enter_async_context(following(url, query)) for query in cases}
        for events in streams.values():
            await until_event(events, "standing", "live")
        await state.set("s", "eu/a", 1)
        await state.set("s", "eu/a", 2)
        await state.expire("s", "eu/a", 60)
        await state.set("s", "us/a", 1)
        await state.delete("s", "eu/a")
        await state.set("other", "o", 1)
        for query, keys in cases.items():
            assert sorted(key for key, _ in await take_rows(streams[query], len(keys))) == sorted(keys), query


async def test_form_of_the_page_chooses_and_wrong_choices_are_told(state: StateManager, url: str, page: Page) -> None:
    await page.goto(f"{url}/live")
    await page.get_by_label("Scope").fill("s")
    await page.get_by_label("updated").check()
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Live: s")
    await expect(page.get_by_label("updated")).to_be_checked()
    await expect(page.locator("#told")).to_have_text("Following.", timeout=PATIENCE * 1000)
    await page.evaluate(RECORD)
    await state.set("s", "k", 1)
    await state.set("other", "k", 1)
    updated = await revision_of(state, "s", "k", 2)
    assert await until_seen(page, 1) == [("k", updated)]
    answer = await page.goto(f"{url}/live?scope=s&key=a&prefix=b")
    assert answer is not None
    assert answer.status == 400
    await expect(page.locator("main")).to_contain_text("give a key or a prefix, not both")


async def test_paused_page_goes_on_without_a_gap(state: StateManager, url: str, page: Page) -> None:
    await open_live(page, url)
    made: list[tuple[str, str]] = []
    for _ in range(3):  # the first pause comes before any change
        await page.get_by_role("button", name="Pause").press("Enter")
        await expect(page.locator("#told")).to_contain_text("Paused.")
        await until_holds(lambda: watches(state) == 0, "a paused page costs nothing")
        made += await write(state, "k", 40)
        assert len(await page.evaluate("window.seen")) == len(made) - 40
        await page.get_by_role("button", name="Resume").press("Enter")
        assert by_key(await until_seen(page, len(made))) == by_key(made)
    await expect(page.locator(".gap")).to_have_count(0)


async def test_page_that_was_paused_for_too_long_shows_the_gap(
    state: StateManager, raw: redis.Redis, url: str, page: Page
) -> None:
    await open_live(page, url)
    first = await write(state, "k", 1)
    await until_seen(page, 1)
    await page.get_by_role("button", name="Pause").click()
    await write(state, "k", 30, keys=1)
    stream = (await state.connect()).event_streams("s", "k0")[0]
    await trim(state, raw, stream)
    await page.get_by_role("button", name="Resume").click()
    gap = page.locator(".gap")
    await expect(gap).to_contain_text("are no longer kept, and are not shown: at most 30.")
    await expect(gap).to_contain_text(re.compile(r"after 20\d\d-"))
    last = await revision_of(state, "s", "k0", "later")
    assert await until_seen(page, 2) == [*first, ("k0", last)]
    await check_access(page)


async def trim(state: StateManager, raw: redis.Redis, stream: bytes) -> None:
    """Trim a lane, and count that as the package does."""
    names = await state.connect()
    length = raw.xlen(stream)
    raw.xtrim(stream, maxlen=0, approximate=False)
    raw.hincrby(names.trimmed(stream), b"removed " + stream, length)


async def test_cut_connection_loses_nothing(state: StateManager, url: str, page: Page) -> None:
    async with CutProxy(int(url.rpartition(":")[2])) as proxy:
        await open_live(page, f"http://127.0.0.1:{proxy.port}")
        made = []
        for _ in range(3):
            made += await write(state, "k", 50)
            proxy.cut()
            made += await write(state, "k", 50)
            await expect(page.locator("#told")).to_have_text("Following.", timeout=PATIENCE * 1000)
        seen = await until_seen(page, len(made))
    assert by_key(seen) == by_key(made)
    await until_holds(lambda: watches(state) == 0, "nothing follows any more")


async def test_page_tells_that_redis_is_away_and_goes_on(tmp_path: Path, page: Page) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url, namespace="away") as state, serving_app(create_console_app(state)) as url:
            await open_live(page, url)
            made = await write(state, "k", 3)
            await until_seen(page, 3)
            await asyncio.to_thread(server.kill)
            await expect(page.locator("#told")).to_contain_text("Redis does not answer.", timeout=20_000)
            await asyncio.to_thread(server.start)
            await expect(page.locator("#told")).to_have_text("Following.", timeout=20_000)
            made += await write(state, "k", 3)
            assert by_key(await until_seen(page, 6)) == by_key(made)
            await asyncio.to_thread(server.kill)
            await page.reload()  # a page that is opened while Redis is away says so, too
            await expect(page.locator("#told")).to_contain_text("Redis does not answer.", timeout=20_000)
            await asyncio.to_thread(server.start)
            await expect(page.locator("#told")).to_have_text("Following.", timeout=20_000)
            await page.evaluate(RECORD)
            made = await write(state, "k", 3)
            assert by_key(await until_seen(page, 3)) == by_key(made)


async def test_server_that_has_lost_changes_is_told(tmp_path: Path, page: Page) -> None:
    with RedisServer(tmp_path) as server:  # it keeps nothing on disk
        async with StateManager(server.url, namespace="lost") as state, serving_app(create_console_app(state)) as url:
            await open_live(page, url)
            await write(state, "k", 3)
            await until_seen(page, 3)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await expect(page.locator(".gap")).to_contain_text("the server has lost changes", timeout=30_000)
            await expect(page.locator("#told")).to_have_text("Following.", timeout=20_000)
            last = await write(state, "k", 1)
            assert (await until_seen(page, 4))[3:] == last


async def test_slow_browser_is_bounded_delays_nobody_and_misses_nothing(
    state: StateManager, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: dict[Watch, int] = {}
    take = Watch._take

    def record(self: Watch, items: Any, size: int) -> None:
        take(self, items, size)
        waiting[self] = max(waiting.get(self, 0), self._buffer._bytes)

    monkeypatch.setattr(Watch, "_take", record)
    host, port = urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(f"GET /live/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    await until_holds(lambda: watches(state) == 1, "the slow browser has begun")
    async with following(url) as fast:
        await until_event(fast, "standing", "live")
        made = []
        for number in range(4000):
            made.append(("k", await revision_of(state, "s", "k", f"{number} " + "x" * 3500)))
            if number % 100 == 99:
                assert await within_deadline(take_rows(fast, 100)) == made[-100:]
        assert watches(state) == 1, "the watch of the slow browser has ended"
        assert max(waiting.values()) < 5_000_000
        text = b""
        async with asyncio.timeout(60):
            while made[-1][1].encode() not in text[-20_000:]:
                text += await reader.read(1 << 16)
        assert text.count(b"event: standing\r\ndata: behind") or text.count(b"data: behind")
        assert ROW.findall(text.decode(errors="replace")) == made
    writer.close()
    await until_holds(lambda: watches(state) == 0, "nothing follows any more")


async def test_what_is_masked_never_leaves_the_process(state: StateManager, serving: Serve) -> None:
    async with serving(redact=["users/*/password", "cards/*"]) as url, following(url) as events:
        await until_event(events, "standing", "live")
        await state.set("users", "ann", {"name": "Ann", "password": "secret-one"})
        await state.set("users", "ann", {"name": "Bob", "password": "secret-two"})
        await state.set("users", "ann", {"name": "Bob", "password": "secret-three"})
        await state.delete("users", "ann")
        await state.set("cards", "1", "secret-four")
        await state.set("cards", "1", "secret-five")
        text = ""
        async with asyncio.timeout(PATIENCE):
            while text.count("<article") < 6:
                text += (await anext(events)).data
    assert "secret" not in text
    assert "Ann" in text
    assert "Only what is masked has changed." in text
    assert text.count("▒▒▒▒") >= 3


async def test_browsers_share_one_read_and_leave_nothing_behind(state: StateManager, raw: redis.Redis, serving: Serve) -> None:
    await state.connect()
    before = len(asyncio.all_tasks())
    connections = len(raw.client_list())
    async with serving() as url:
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(following(url)) for _ in range(20)]
            for events in streams:
                await until_event(events, "standing", "live")
            assert watches(state) == 20
            blocked = [client for client in raw.client_list() if client["cmd"] == "xread"]
            assert len(blocked) == 1
            assert len(raw.client_list()) <= connections + 2
            made = await write(state, "k", 5)
            for events in streams:
                assert by_key(await take_rows(events, 5)) == by_key(made)
        await until_holds(lambda: watches(state) == 0, "all watches have ended")
        feed = state._sessions.current().feed  # type: ignore[union-attr]
        assert feed is not None
        assert not feed._readers, "nobody follows, so nothing is read"
    await until_holds(lambda: len(asyncio.all_tasks()) <= before + 1, "no task is left")  # one of the package that serves


async def test_stream_ends_when_the_server_stops(state: StateManager, serving: Serve) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving() as url:
            events = await stack.enter_async_context(following(url))
            await until_event(events, "standing", "live")
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(httpx.RemoteProtocolError, StopAsyncIteration):
                while True:
                    await anext(events)
    await until_holds(lambda: watches(state) == 0, "the watch has ended")


async def test_page_works_below_a_path_and_with_a_token(state: StateManager, page: Page) -> None:
    token = "a token of some length"
    console = create_console_app(state, token=token)
    async with serving_app(Starlette(routes=[Mount("/ops/größe", console)])) as url:
        base = f"{url}/ops/größe"
        await page.goto(f"{base}/live")
        await page.locator("input[type=password], input[name=token]").fill(token)
        await page.get_by_role("button", name="Log in").click()
        await open_live(page, base, "?scope=s")
        made = await write(state, "k", 1)
        assert await until_seen(page, 1) == made
        href = await page.locator(".change a").last.get_attribute("href")
        assert href == "/ops/gr%C3%B6%C3%9Fe/value?scope=s&key=k0"
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{base}/live/events")).status_code == 303


async def test_cursor_that_was_made_up_is_refused(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for start in ("nonsense", "now", "snapshot"):
            answer = await client.get(f"{url}/live/events", params={"start": start})
            assert answer.status_code == 400, start

"""The first page, in a real browser: what workers do, and what it shows while Redis is away."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from motia_redis import StateManager, queue, step
from motia_redis.console import create_console_app
from tests.console.conftest import check_access
from tests.support.asgi import serving_app
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.servers import RedisServer
from tests.support.workers import working

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis
    from playwright.async_api import Page


async def test_empty_namespace_says_so(url: str, page: Page) -> None:
    await page.goto(url)
    await expect(page.locator("#now")).to_contain_text("No worker has ever run a step here.")
    await expect(page.locator("#doctor .findings, #doctor .done")).to_have_count(2)  # of the namespace, and of the server
    await check_access(page)
    for path in ("/scopes", "/keys?scope=s", "/value?scope=s&key=k"):
        await page.goto(url + path)
        await check_access(page)


async def test_steps_workers_and_what_waits_are_shown_and_renewed(state: StateManager, url: str, page: Page) -> None:
    release = asyncio.Event()

    async def hold(input: Any) -> None:
        await release.wait()

    ship = step({"name": "Ship", "triggers": [queue("orders")], "max_attempts": 1}).handle(hold)
    await state.enqueue("nobody", {"n": 1})
    async with working(state, ship):
        for number in range(5):
            await state.enqueue("orders", number)
        await page.goto(url)
        row = page.get_by_role("row", name="Ship")
        await expect(row.locator("td").nth(4)).to_have_text("5", timeout=10_000)
        await expect(page.locator("#now")).to_contain_text("Topic nobody: 1 message, and no step consumes it.")
        await expect(page.get_by_role("table").nth(1)).to_contain_text("Ship: ")
        await check_access(page)
        release.set()
        await expect(row.locator("td").nth(0)).to_have_text(re.compile(r"[1-9]|0\.[1-9]"), timeout=10_000)  # handled per second
        await expect(row.locator("td").nth(4)).to_have_text("0", timeout=10_000)  # without loading the page again


async def test_dead_letters_are_counted_as_status_counts_them(state: StateManager, url: str, page: Page) -> None:
    from motia_redis.admin import DeadLetters, read_status

    handler = FailingHandler()
    async with working(state, failing_step(handler, "Fails", queue("t"))):
        for number in range(3):
            await state.enqueue("t", number)
        await wait_for_dead_letters(DeadLetters(state), 3)
    (found,) = (await read_status(state)).steps
    assert found.dead_letters == 3
    await page.goto(url)
    link = page.get_by_role("row", name="Fails").get_by_role("link")
    await expect(link).to_have_text("3")
    assert await link.get_attribute("href") == "/dead?step=Fails"


async def test_page_says_that_redis_is_away_and_goes_on_by_itself(tmp_path: Path, page: Page) -> None:
    with RedisServer(tmp_path) as server:
        async with StateManager(server.url, namespace="away") as manager:
            await manager.set("s", "k", 1)
            async with serving_app(create_console_app(manager)) as url:
                await page.goto(url)
                await expect(page.locator("#now")).to_contain_text("No worker")
                await asyncio.to_thread(server.kill)
                await expect(page.locator(".offline")).to_contain_text("Redis does not answer", timeout=20_000)
                await expect(page.locator("#now")).to_contain_text("No worker")  # what was seen stays
                began = time.monotonic()
                answer = await page.goto(f"{url}/scopes")
                assert answer is not None
                assert answer.status == 503
                assert time.monotonic() - began < 10
                await expect(page.get_by_role("heading", level=1)).to_have_text("Redis does not answer")
                await page.goto(f"{url}/login")
                await asyncio.to_thread(server.start)
                await page.goto(url)
                await expect(page.locator("#now")).to_contain_text("No worker", timeout=20_000)


@pytest.mark.alone
async def test_scope_of_a_million_keys_opens_at_once(state: StateManager, raw: redis.Redis, url: str, page: Page) -> None:
    values = (await state.connect()).values(b"huge")
    await state.set("huge", "first", 0)
    for start in range(0, 1_000_000, 10_000):
        raw.hset(values, mapping={f"key-{number}": f'{{"n":{number}}}' for number in range(start, start + 10_000)})
    seen = commands_on(raw, values)
    for path in ("/scopes", "/keys?scope=huge", "/keys?scope=huge&prefix=key-12345", "/value?scope=huge&key=key-777777", "/"):
        answer = await page.goto(url + path)
        assert answer is not None
        assert answer.status == 200
        timing = await page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
        paint = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
        size = timing["encodedBodySize"]
        print(f"{path}: answered in {timing['responseEnd']:.0f} ms, first paint {paint:.0f} ms, {size} bytes")
        assert size <= 150_000
    commands = await asyncio.to_thread(seen)
    assert "HLEN" in commands
    assert not commands & {"HGETALL", "HVALS", "HKEYS"}


def commands_on(raw: redis.Redis, key: bytes) -> Callable[[], set[str]]:
    """Note the commands that name a key from now on; the function that is returned ends that, and returns them."""
    monitor = raw.monitor()
    monitor.__enter__()
    found: set[str] = set()

    def read() -> set[str]:
        raw.echo(b"the end")
        for entry in monitor.listen():
            command = entry["command"]
            if "the end" in command:
                break
            if key.decode() in command:
                found.add(command.partition(" ")[0])
        monitor.__exit__(None, None, None)
        return found

    return read

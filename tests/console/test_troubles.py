"""Find planted troubles with the console alone: its first page names each of them, with its place."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from motia_redis import StateManager
from motia_redis.console import create_console_app
from tests.support.asgi import serving_app
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer
from tests.support.troubles import TROUBLES, plant

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from playwright.async_api import Page


def site(name: str, server: RedisServer, folder: Path) -> AbstractContextManager[RedisServer | Cluster]:
    """Return the server that a trouble needs."""
    if TROUBLES[name] == "cluster":
        return Cluster(folder)
    return RedisServer(folder, "--appendonly", "yes") if TROUBLES[name] == "own server" else nullcontext(server)


@pytest.mark.parametrize("name", [name for name in TROUBLES if name != "healthy"])
async def test_first_page_names_the_trouble_with_its_place(
    name: str, server: RedisServer, namespace: str, tmp_path: Path, page: Page
) -> None:
    with site(name, server, tmp_path) as its_server:
        async with (
            plant(name, its_server.url, namespace) as trouble,
            StateManager(its_server.url, namespace=namespace) as state,
            serving_app(create_console_app(state)) as url,
        ):
            began = time.monotonic()
            await page.goto(url)
            for word in trouble.expected:  # without loading the page again: it renews itself
                await expect(page.locator("main")).to_contain_text(word, timeout=45_000)
            print(f"{name}: shown after {time.monotonic() - began:.1f} s")


async def test_healthy_namespace_shows_nothing_bad(namespace: str, tmp_path: Path, page: Page) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes") as server:
        async with (
            plant("healthy", server.url, namespace),
            StateManager(server.url, namespace=namespace) as state,
            serving_app(create_console_app(state)) as url,
        ):
            await page.goto(url)
            await expect(page.locator("#doctor .done").first).to_be_visible(timeout=20_000)
            assert await page.locator(".problem, .bad").all_inner_texts() == []
            found = await page.locator("#doctor .findings li").all_inner_texts()
            assert [text for text in found if "speed" not in text] == []  # a busy machine is slow

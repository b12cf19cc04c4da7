"""Fixtures of the console's tests: a real server, a real browser."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright

from motia_redis.console import create_console_app
from tests.support.asgi import serving_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from playwright.async_api import Browser, Page

    from motia_redis import StateManager

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def serving(state: StateManager) -> Callable[..., contextlib.AbstractAsyncContextManager[str]]:
    """Serve the console of `state`: `async with serving(allow_changes=True) as url`."""

    def serve(**options: Any) -> contextlib.AbstractAsyncContextManager[str]:
        return serving_app(create_console_app(state, **options))

    return serve


@pytest.fixture
async def url(serving: Callable[..., contextlib.AbstractAsyncContextManager[str]]) -> AsyncIterator[str]:
    """Serve a console that may change everything."""
    async with serving(allow_changes=True) as address:
        yield address


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that fails the test if it reports an error: also what the content security policy has refused."""
    page = await browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    # An answer of 4xx or 5xx is what many tests are about.
    assert [error for error in errors if "Failed to load resource" not in error] == []


async def check_access(page: Page) -> None:
    """Fail if axe finds something that keeps people from using the page, in light or dark, wide or narrow."""
    for scheme in ("light", "dark"):
        for width in (1200, 360):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            await page.set_viewport_size({"width": width, "height": 800})
            found = await Axe().run(page)
            assert found.violations_count == 0, f"{scheme} {width}: {found.generate_report()}"
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, (
                f"{scheme} {width}: wider than the window"
            )

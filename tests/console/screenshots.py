"""Take the pictures of docs/console.md: `python -m tests.console.screenshots`. It needs chromium."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from motia_redis import FlowContext, StateManager, Worker, cron, queue, state, step
from motia_redis._steps.application import Application
from motia_redis.console import create_console_app
from tests.console.conftest import CHROMIUM
from tests.support.asgi import serving_app
from tests.support.servers import RedisServer

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_PAGES = {
    "overview": "/",
    "value": "/value?scope=orders&key=order-7",
    "live": "/live?scope=orders",
    "letters": "/dead",
}


@step({"name": "ShipOrder", "triggers": [state(scope="orders")]})
async def ship(input: Any, ctx: FlowContext) -> None:
    await asyncio.sleep(random.uniform(0.01, 0.05))


@step({"name": "SendMail", "triggers": [queue("mail")], "max_attempts": 2, "backoff": 0.01})
async def mail(input: Any) -> None:
    if "@" not in input["to"]:
        raise ValueError(f"no address: {input['to']!r}")


@step({"name": "Report", "triggers": [cron("0 8 * * MON-FRI", timezone="Europe/Berlin")]})
async def report(input: Any) -> None:
    """Do nothing: it is about its schedule."""


async def write(manager: StateManager) -> None:
    """Let orders and mails come in until cancelled."""
    for number in range(1_000_000):
        key = f"order-{number % 40}"
        await manager.set(
            "orders", key, {"status": "new", "total": 19.5 + number % 7, "lines": [{"sku": "tea", "n": 1 + number % 3}]}
        )
        await manager.update("orders", key, [{"op": "replace", "path": "/status", "value": "paid"}])
        await manager.enqueue("mail", {"to": "ann@example.com" if number % 12 else "ann", "password": "hunter-22"})
        await manager.set("sessions", f"s{number % 9}", {"user": number % 9, "token": "secret-12"}, ttl=900)
        await asyncio.sleep(0.02)


async def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    application = Application((ship, mail, report))
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder), "--appendonly", "yes") as server:
        async with (
            StateManager(server.url, namespace="shop") as manager,
            Worker(application, manager),
            serving_app(create_console_app(manager, allow_changes=True)) as url,
            async_playwright() as driver,
        ):
            writing = asyncio.create_task(write(manager))
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page(viewport={"width": 1100, "height": 700})
            await page.goto(url)
            await page.wait_for_timeout(25_000)  # the lines of the last minutes
            for name, path in _PAGES.items():
                await page.goto(url + path)
                await page.wait_for_timeout(3000)
                await page.screenshot(path=IMAGES / f"console-{name}.png")
            await browser.close()
            writing.cancel()


if __name__ == "__main__":
    asyncio.run(main())

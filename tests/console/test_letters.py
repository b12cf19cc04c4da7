"""The pages of dead letters, in a real browser: groups, one letter, and moving many."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import httpx
from playwright.async_api import expect

from motia_redis import StateManager, cron, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import forget_step
from motia_redis._admin.status import read_status
from tests.console.conftest import check_access
from tests.support.dead_letters import failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import working

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import pytest
    from playwright.async_api import Browser, Page


async def fail(input: Any, ctx: Any) -> None:
    value = input if isinstance(input, dict) else input.new_value
    if value["n"] % 3 == 0:
        raise KeyError(f"order {value['n']}")
    raise ValueError(f"no room for {value['n']}, password {value['password']!r}")


async def die(state: StateManager, count: int = 12) -> None:
    """Let letters of Sick die, and a fourth as many of Mail."""
    steps = failing_step(fail, "Sick", state_trigger(scope="users")), failing_step(fail, "Mail", queue("mail"))
    before = await DeadLetters(state).count()
    async with working(state, *steps):
        for number in range(count):
            await state.set(
                "users", f"u/{number:04}", {"n": number, "password": f"hunter's {number}\nx", "deep": {"list": [1.50]}}
            )
        for number in range(count // 4):
            await state.enqueue("mail", {"n": number, "password": "letmein-please"})
        await wait_for_dead_letters(DeadLetters(state), before + count + count // 4)


async def test_groups_open_to_letters_and_these_to_one_with_its_value(state: StateManager, url: str, page: Page) -> None:
    await page.goto(f"{url}/dead")
    await expect(page.locator("main")).to_contain_text("There are no dead letters.")
    await check_access(page)
    await die(state)
    await page.goto(f"{url}/dead")
    rows = [re.split(r"\s*\t\s*", row)[:3] for row in await page.locator("tbody tr").all_inner_texts()]
    assert rows == [
        ["Sick", 'ValueError: no room for #, password "▒▒▒▒"', "8"],
        ["Sick", "KeyError: 'order #'", "4"],
        ["Mail", "ValueError: no room for #, password '▒▒▒▒'", "2"],
        ["Mail", "KeyError: 'order #'", "1"],
    ]
    counts = {step.name: step.dead_letters for step in (await read_status(state)).steps}
    assert counts == {"Sick": 12, "Mail": 3}
    await check_access(page)
    await page.get_by_role("link", name="ValueError").first.click()
    await expect(page.locator("tbody tr")).to_have_count(8)
    await check_access(page)
    await page.locator("tbody a").first.click()
    await expect(page.locator(".tree").first).to_contain_text("0 1.5")
    await check_access(page)
    await page.get_by_role("link", name="u/").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("u/")


async def test_secrets_of_the_input_are_masked_in_error_and_traceback(
    state: StateManager, serving: Callable[..., AbstractAsyncContextManager[str]]
) -> None:
    await die(state, 8)
    letters = await DeadLetters(state).list()
    assert any("hunter" in letter.traceback for letter in letters)
    async with serving() as url, httpx.AsyncClient(base_url=url) as client:
        texts = [(await client.get("/dead")).text, (await client.get("/dead/letters")).text]
        for letter in letters:
            answer = await client.get("/dead/letter", params={"step": letter.step, "id": letter.id})
            assert answer.status_code == 200
            assert letter.trace_id in answer.text
            texts.append(answer.text)
        for text in texts:
            assert "hunter" not in text
            assert "letmein" not in text
            assert len(text.encode()) < 150_000
    async with serving(redact=[]) as url, httpx.AsyncClient(base_url=url) as client:
        assert "hunter" in (await client.get("/dead/letters")).text


async def test_letters_are_found_page_by_page_and_by_conditions(state: StateManager, url: str, page: Page) -> None:
    await die(state, 68)
    await page.goto(f"{url}/dead/letters")
    found: list[str] = []
    while True:
        found += await page.locator("tbody td:first-child").all_inner_texts()
        more = page.get_by_role("link", name=re.compile("Older letters"))
        if not await more.count():
            break
        await more.click()
    assert len(found) == 85
    await page.goto(f"{url}/dead/letters")
    await page.get_by_label("Key begins with").fill("u/000")
    await page.get_by_label("Error").fill("KeyError")
    await page.get_by_label("Died at or after").fill("2026-01-01T00:00:00")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(4)


async def test_one_letter_is_retried_and_another_dropped(state: StateManager, url: str, page: Page) -> None:
    await die(state, 4)
    mail, *_ = await DeadLetters(state).list("Mail")
    sick, *_ = await DeadLetters(state).list("Sick")
    await page.goto(f"{url}/dead/letter?step=Sick&id={sick.id}")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("status")).to_contain_text("Retried.")
    assert await DeadLetters(state).count("Sick") == 3
    await page.goto(f"{url}/dead/letter?step=Mail&id={mail.id}")
    page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.get_by_role("button", name="Drop").click()
    await expect(page.get_by_role("status")).to_contain_text("Dropped.")
    assert await DeadLetters(state).count("Mail") == 0
    await page.goto(f"{url}/dead/letter?step=Mail&id={mail.id}")
    await expect(page.get_by_role("alert")).to_contain_text("There is no such dead letter any more.")


async def test_dry_run_then_move_counts_what_moved_and_why_others_stayed(
    state: StateManager, url: str, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "motia_redis.console")
    await die(state)
    await forget_step(state, "Mail", force=True)
    await page.goto(f"{url}/dead/letters")
    await page.get_by_role("button", name="Count first").click()
    await expect(page.get_by_role("status")).to_contain_text("Dry run: 15 letters would be retried. Nothing was changed.")
    await check_access(page)
    assert await DeadLetters(state).count() == 15
    async with working(state, failing_step(fail, "Sick", state_trigger(scope="users"))):
        await state.set("users", "later", {"n": 0})
        await wait_for_dead_letters(DeadLetters(state), 16)  # one that appears after the dry run
    (gone, *_) = await DeadLetters(state).list("Sick", limit=1)
    await DeadLetters(state).drop("Sick", gone.id)
    await page.get_by_role("button", name="Retry 15 letters").click()
    await expect(page.get_by_role("status")).to_contain_text("of 15 letters retried.")
    moved = int((await page.get_by_role("status").inner_text()).split()[0])
    assert moved == 11
    await expect(page.locator("#move")).to_contain_text("3: the step has no consumer group there")
    assert await DeadLetters(state).count() == 16 - 1 - moved
    await check_access(page)
    lines = [record.getMessage() for record in caplog.records if record.name == "motia_redis.console"]
    assert any("retry of dead letters by local from 127.0.0.1: started" in line for line in lines)
    assert any("done" in line and "moved=11" in line and "'no group': 3" in line for line in lines)


async def test_move_goes_on_without_its_page_and_can_be_stopped(state: StateManager, url: str, page: Page) -> None:
    await die(state, 40)
    await page.goto(f"{url}/dead/letters?step=Sick")
    await page.get_by_label("Action").select_option("drop")
    await page.get_by_label("Letters a second").fill("4")
    await page.get_by_role("button", name="Count first").click()
    page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.get_by_role("button", name="Drop 40 letters").click()
    await expect(page.get_by_role("progressbar")).to_be_visible()
    await check_access(page)
    address = page.url
    await page.goto(f"{url}/dead")
    await page.get_by_role("link", name="step Sick").click()
    assert page.url == address
    first = int(await page.get_by_role("progressbar").get_attribute("value") or "")
    await expect(page.get_by_role("progressbar")).not_to_have_attribute("value", str(first), timeout=5000)  # without a reload
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("status")).to_contain_text("Stopped.")
    moved = int((await page.get_by_role("status").inner_text()).split()[1])
    assert 0 < moved < 40
    assert await DeadLetters(state).count("Sick") == 40 - moved


async def test_two_people_who_move_the_same_letters_move_each_once(
    state: StateManager, url: str, page: Page, browser: Browser
) -> None:
    await die(state, 40)
    pages = [page, await browser.new_page()]
    for each in pages:
        await each.goto(f"{url}/dead/letters?step=Sick")
        await each.get_by_label("Letters a second").fill("40")
        await each.get_by_role("button", name="Count first").click()
        await expect(each.get_by_role("status")).to_contain_text("40 letters would be retried")
    await asyncio.gather(*(each.get_by_role("button", name="Retry 40 letters").click() for each in pages))
    moved = []
    for each in pages:
        await expect(each.get_by_role("status")).to_contain_text("letters retried.", timeout=10_000)
        moved.append(int((await each.get_by_role("status").inner_text()).split()[0]))
        expected = f"{40 - moved[-1]}: somebody else has retried or dropped it"
        await expect(each.locator("#move")).to_contain_text(expected if moved[-1] < 40 else "40 of 40")
    assert sum(moved) == 40
    assert await DeadLetters(state).count("Sick") == 0


async def test_console_that_only_reads_refuses_each_change(
    state: StateManager, serving: Callable[..., AbstractAsyncContextManager[str]]
) -> None:
    await die(state, 4)
    (letter, *_) = await DeadLetters(state).list()
    async with serving() as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("letter/retry", "letter/drop", "try", "move/start", "move/stop"):
            answer = await client.post(f"/dead/{path}", data={"step": letter.step, "id": letter.id})
            assert (answer.status_code, "only reads" in answer.text) == (403, True)
        assert "<button>Retry" not in (await client.get(f"/dead/letter?step={letter.step}&id={letter.id}")).text
        assert (await client.get("/dead/move?id=unknown")).status_code == 404
        assert (await client.get("/dead/letters?after=nonsense")).status_code == 400
    assert await DeadLetters(state).count() == 5


async def test_letter_of_a_schedule_shows_its_time(state: StateManager, url: str, page: Page) -> None:
    async def tick(input: Any) -> None:
        raise RuntimeError("no <b>time</b>")

    async with working(state, step({"name": "Tick", "triggers": [cron("* * * * * *")], "max_attempts": 1}).handle(tick)):

        async def has_died() -> bool:
            return await DeadLetters(state).count() > 0

        await until(has_died, "a time has become a dead letter")
    found = await DeadLetters(state).list(limit=1)
    await page.goto(f"{url}/dead/letter?step=Tick&id={found[0].id}")
    await expect(page.locator(".tree")).to_contain_text("scheduled_at")
    await expect(page.locator("pre").first).to_contain_text("no <b>time</b>")

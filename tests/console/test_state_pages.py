"""The pages of scopes, keys and values, in a real browser."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.async_api import expect

from motia_redis._store import browsing
from tests.console.conftest import check_access
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import redis
    from playwright.async_api import Page

    from motia_redis import StateManager


async def test_a_value_is_found_from_the_first_page_with_the_keyboard(state: StateManager, url: str, page: Page) -> None:
    await state.set("orders", "o/1", {"status": "paid", "lines": [{"sku": "x", "price": 1.50}]})
    await page.goto(url)
    for name in ("State", "orders", "o/1"):
        link = page.get_by_role("link", name=name, exact=True)
        await link.focus()
        await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("o/1")
    await expect(page.locator(".tree")).to_contain_text('status "paid"')
    await check_access(page)


async def test_names_that_look_like_code_are_text(state: StateManager, url: str, page: Page) -> None:
    scope, key = "<b>&'\"?#/é", "<script>alert(1)</script>\x1b[31m"
    await state.set(scope, key, "<img src=x onerror=alert(1)>")
    await page.goto(f"{url}/scopes")
    await page.get_by_role("link", name=scope).click()
    await page.get_by_role("link", name="<script>").click()
    await expect(page.locator(".tree")).to_contain_text("<img src=x onerror=alert(1)>")
    assert await page.locator("main script, main img").count() == 0


async def test_a_value_is_stored_with_all_its_digits(state: StateManager, raw: redis.Redis, url: str, page: Page) -> None:
    await state.set("s", "k", {"n": 1})
    await page.goto(f"{url}/value?scope=s&key=k")
    text = '{"n":12345678901234567890.123,"m":1e2,"e":[]}'
    await page.get_by_label("JSON").fill(text)
    await page.get_by_role("button", name="Store").click()
    await expect(page.get_by_role("status")).to_have_text("Stored.")
    await expect(page.locator(".tree")).to_contain_text("12345678901234567890.123")
    (stored,) = raw.hvals((await state.connect()).values(b"s"))
    assert stored.decode().strip() == text


async def test_two_people_who_edit_one_value_both_see_what_the_other_did(state: StateManager, url: str, page: Page) -> None:
    await state.set("s", "k", {"name": "first", "kept": 1})
    await page.goto(f"{url}/value?scope=s&key=k")
    await state.set("s", "k", {"name": "theirs", "kept": 1})
    await page.get_by_label("JSON").fill('{"name": "mine", "kept": 1}')
    await page.get_by_role("button", name="Store").click()
    await expect(page.get_by_role("alert")).to_contain_text("Somebody else has changed this value")
    conflict = page.locator(".diff").first
    await expect(conflict.locator(".removed")).to_contain_text("theirs")
    await expect(conflict.locator(".added")).to_contain_text("mine")
    assert await state.get("s", "k") == {"name": "theirs", "kept": 1}
    await check_access(page)
    await page.get_by_role("button", name="Store").click()  # now on top of what is shown
    await expect(page.get_by_role("status")).to_have_text("Stored.")
    assert await state.get("s", "k") == {"name": "mine", "kept": 1}


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', '{"a": 1, "a": 2}', ""])
async def test_what_is_not_json_is_not_stored_and_stays_in_the_form(state: StateManager, url: str, page: Page, text: str) -> None:
    await state.set("s", "k", 1)
    await page.goto(f"{url}/value?scope=s&key=k")
    await page.get_by_label("JSON").fill(text)
    await page.get_by_role("button", name="Store").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was stored")
    await expect(page.get_by_label("JSON")).to_have_value(text)
    assert await state.get("s", "k") == 1


async def test_operations_time_to_live_and_delete(state: StateManager, url: str, page: Page) -> None:
    await state.set("s", "k", {"n": 1})
    await page.goto(f"{url}/value?scope=s&key=k")
    await page.get_by_text("Operations", exact=True).click()
    await page.get_by_label("List of operations").fill('[{"op": "increment", "path": "/n", "value": 2}]')
    await page.get_by_role("button", name="Update").click()
    await expect(page.get_by_role("status")).to_have_text("Updated.")
    assert await state.get("s", "k") == {"n": 3}
    await page.get_by_label("Time to live").fill("5m")
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("status")).to_have_text("The time to live was changed.")
    entry = await state.entry("s", "k")
    assert entry is not None
    assert entry.expires_at is not None
    page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.dismiss()))
    await page.get_by_role("button", name="Delete").click()
    assert await state.get("s", "k") == {"n": 3}
    page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.get_by_role("button", name="Delete").click()
    await page.wait_for_url("**/keys?**")
    assert await state.entry("s", "k") is None


async def test_a_new_key_is_created_and_not_on_top_of_another(state: StateManager, url: str, page: Page) -> None:
    await state.set("s", "old", 1)
    await page.goto(f"{url}/keys?scope=s")
    await page.get_by_label("New key").fill("new")
    await page.get_by_role("button", name="Create…").click()
    await state.set("s", "new", "theirs")
    await page.get_by_label("JSON").fill('"mine"')
    await page.get_by_role("button", name="Store").click()
    await expect(page.get_by_role("alert")).to_contain_text("Somebody else")
    assert await state.get("s", "new") == "theirs"


async def test_recent_changes_show_what_changed_and_why(state: StateManager, url: str, page: Page) -> None:
    await state.set("s", "k", {"a": 1, "b": 2})
    await state.update("s", "k", [{"op": "replace", "path": "/a", "value": 7}])
    await state.set("s", "k", {"a": 8}, ttl=0.2)

    async def has_expired() -> bool:
        return await state.count("s") == 0

    await until(has_expired, "the value has expired")
    await page.goto(f"{url}/value?scope=s&key=k")
    heads = await page.locator("article h3").all_inner_texts()
    assert [re.sub(r"^\S+ | 2\S.*$", "", head) for head in heads] == [
        "state:deleted (expired)",
        "state:updated",
        "state:updated",
        "state:created",
    ]
    change = page.locator("article").nth(2)
    await expect(change.locator(".removed")).to_contain_text('"a": 1')
    await expect(change.locator(".added")).to_contain_text('"a": 7')


async def test_value_that_is_no_json_is_shown_as_its_error(state: StateManager, raw: redis.Redis, url: str, page: Page) -> None:
    await state.set("s", "k", 1)
    raw.hset((await state.connect()).values(b"s"), "bad", b"{no json")
    await page.goto(f"{url}/keys?scope=s")
    await page.get_by_role("link", name="bad").click()
    await expect(page.locator(".problem")).to_contain_text("bad")


async def test_pages_of_a_large_scope_show_each_key_once(state: StateManager, url: str) -> None:
    await state.set_many("s", {f"key-{number}": number for number in range(900)}, atomic=False)
    await state.set_many("s", {f"other-{number}": number for number in range(600)}, atomic=False)
    for prefix, expected in (("", 1500), ("key-", 900), ("nothing", 0)):
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await browsing.read_keys(state, "s", prefix, cursor)
            found += [row.key for row in page.rows]
            assert len(page.rows) <= 100
            cursor = page.cursor
        assert len(set(found)) == len(found) == expected
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/keys", params={"scope": "s", "prefix": "key-"})
    assert len(answer.content) < 150_000


async def test_scopes_are_listed_with_their_keys_and_memory(state: StateManager, url: str, page: Page) -> None:
    for number in range(250):
        await state.set(f"scope-{number:03}", "k", "x" * number)
    await state.set("{tag}/a", "k", 1)
    seen: list[str] = []
    await page.goto(f"{url}/scopes")
    while True:
        seen += await page.locator("tbody td:first-child").all_inner_texts()
        more = page.get_by_role("link", name="More scopes")
        if not await more.count():
            break
        await more.click()
    assert sorted(seen) == sorted([f"scope-{number:03}" for number in range(250)] + ["{tag}/a"])
    await page.goto(f"{url}/scopes?prefix=scope-24")
    assert await page.locator("tbody tr").count() == 10
    await check_access(page)


async def test_masked_members_never_leave_the_process(
    state: StateManager, serving: Callable[..., AbstractAsyncContextManager[str]]
) -> None:
    value = {"user": "ann", "password": "hunter-22", "nested": [{"apiKey": "k-123456", "n": 1}]}
    await state.set("users", "ann", value)
    await state.set("vault", "whole", "top-secret-text")
    await state.update("users", "ann", [{"op": "replace", "path": "/password", "value": "hunter-33"}])
    async with serving(allow_changes=True) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/keys?scope=users", "/value?scope=users&key=ann", "/value.json?scope=users&key=ann"):
            text = (await client.get(path)).text
            assert "hunter" not in text
            assert "k-123456" not in text
        assert "top-secret-text" in (await client.get("/value?scope=vault&key=whole")).text
    async with serving(redact=["vault/*"]) as url, httpx.AsyncClient(base_url=url) as client:
        assert "top-secret-text" not in (await client.get("/value?scope=vault&key=whole")).text
        assert "hunter-33" in (await client.get("/value?scope=users&key=ann")).text

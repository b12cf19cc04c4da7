"""Who may see the console, and who may change something: over real connections."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.async_api import expect
from starlette.applications import Starlette
from starlette.routing import Mount

from motia_redis.console import create_console_app
from motia_redis.errors import StateError
from tests.console.conftest import check_access
from tests.support.asgi import serving_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from playwright.async_api import Page
    from starlette.requests import Request

    from motia_redis import StateManager

    Serve = Callable[..., AbstractAsyncContextManager[str]]

TOKEN = "a token of some length"
PAGES = (
    "/",
    "/scopes",
    "/keys?scope=s",
    "/value?scope=s&key=k",
    "/value.json?scope=s&key=k",
    "/overview/now",
    "/overview/doctor",
    "/live",
)
CHANGES = ("/value/set", "/value/update", "/value/ttl", "/value/delete")


async def form_of(client: httpx.AsyncClient) -> str:
    """Return the token of the forms that a browser gets, whose cookie the client keeps."""
    page = (await client.get("/value?scope=s&key=k")).text
    return page.partition('name="form_token" value="')[2].partition('"')[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "console.example.com"},  # a page of another site whose name leads here
        {"host": "127.0.0.1", "x-forwarded-for": "203.0.113.7"},  # a proxy on this machine
        {"host": "localhost", "forwarded": "for=203.0.113.7"},
    ],
)
async def test_without_a_token_only_this_machine_is_answered(serving: Serve, headers: dict[str, str]) -> None:
    async with serving() as url, httpx.AsyncClient(base_url=url) as client:
        for path in PAGES:
            assert (await client.get(path)).status_code != 403, path
            answer = await client.get(path, headers=headers)
            assert (answer.status_code, "loopback" in answer.text) == (403, True), path
            assert "redis.sock" not in answer.text


async def test_client_of_another_machine_is_refused(state: StateManager) -> None:
    transport = httpx.ASGITransport(create_console_app(state), client=("203.0.113.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/")).status_code == 403


async def test_console_that_only_reads_changes_nothing(state: StateManager, serving: Serve) -> None:
    await state.set("s", "k", 1)
    async with serving() as url, httpx.AsyncClient(base_url=url) as client:
        page = (await client.get("/value?scope=s&key=k")).text
        assert "<textarea" not in page
        assert 'method="post"' not in page
        for path in CHANGES:
            answer = await client.post(path, data={"scope": "s", "key": "k", "text": "2", "operations": "[]"})
            assert (answer.status_code, "--allow-changes" in answer.text) == (403, True)
    assert await state.get("s", "k") == 1


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"origin": "http://evil.example"}, {}),
        ({"sec-fetch-site": "cross-site"}, {}),
        ({"sec-fetch-site": "same-site"}, {}),
        ({}, {"form_token": "0" * 64}),
        ({}, {"form_token": ""}),
        ({"cookie": "motia_console_form=made-up"}, {}),
    ],
)
async def test_form_of_another_site_changes_nothing(
    state: StateManager, url: str, headers: dict[str, str], fields: dict[str, str]
) -> None:
    await state.set("s", "k", 1)
    revision = (await state.entry("s", "k")).revision  # type: ignore[union-attr]
    async with httpx.AsyncClient(base_url=url) as client:
        form = {"scope": "s", "key": "k", "text": "2", "revision": revision, "form_token": await form_of(client)}
        if "cookie" in headers:
            client.cookies.clear()
        answer = await client.post("/value/set", data=form | fields, headers=headers)
        assert (answer.status_code, "Nothing was changed" in answer.text) == (403, True)
        assert await state.get("s", "k") == 1
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/value/set", data=form | {"form_token": await form_of(client)}, headers={"origin": url})
        assert answer.status_code == 303
    assert await state.get("s", "k") == 2


async def test_person_comes_in_by_the_token_and_stays(serving: Serve, page: Page) -> None:
    async with serving(token=TOKEN) as url:
        await page.goto(f"{url}/scopes")
        await page.get_by_label("Token").fill("a wrong one, but long")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_have_text("This is not the token.")
        await check_access(page)
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        await page.goto(f"{url}/scopes")
        await expect(page.get_by_role("heading", level=1)).to_have_text("State")
        for cookie in await page.context.cookies():
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            assert TOKEN not in cookie["value"]


async def test_without_the_token_nothing_is_shown(state: StateManager, serving: Serve) -> None:
    await state.set("scope-of-mine", "k", 1)
    async with serving(token=TOKEN) as url, httpx.AsyncClient(base_url=url) as client:
        for path in PAGES:
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
            wrong = await client.get(path, headers={"authorization": "Bearer wrong"})
            assert wrong.status_code == 303
            assert (await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})).status_code in (200, 404), path
        assert (await client.post("/value/set")).status_code == 403
        away = await client.get("/login", headers={"host": "console.example.com"})
        assert away.status_code == 200  # with a token the console is for other machines, too
        assert "redis.sock" not in away.text
        assert state.namespace not in away.text


async def test_application_decides_in_place_of_the_token(
    state: StateManager, serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def allow(request: Request) -> str | bool:
        return request.headers.get("x-user", False)

    await state.set("s", "k", 1)
    async with (
        serving(allow=allow, allow_changes=True) as url,
        httpx.AsyncClient(base_url=url, headers={"x-user": "ann"}) as client,
    ):
        assert (await client.get("/", headers={"x-user": ""})).status_code == 403
        assert (await client.get("/", headers={"host": "console.example.com"})).status_code == 200
        with caplog.at_level(logging.INFO, "motia_redis.console"):
            form = {"scope": "s", "key": "k", "operations": '[{"op":"increment","path":"","value":1}]'}
            answer = await client.post("/value/update", data=form | {"form_token": await form_of(client), "revision": ""})
            assert answer.status_code == 409
            revision = (await state.entry("s", "k")).revision  # type: ignore[union-attr]
            answer = await client.post("/value/update", data=form | {"form_token": await form_of(client), "revision": revision})
            assert answer.status_code == 303
    lines = [record.getMessage() for record in caplog.records if record.name == "motia_redis.console"]
    assert [line.partition(" scope=")[0] for line in lines] == [
        "update by ann from 127.0.0.1: conflict",
        "update by ann from 127.0.0.1: done",
    ]
    assert all("scope='s' key='k'" in line for line in lines)


async def test_every_answer_forbids_code_and_frames_of_others(serving: Serve) -> None:
    async with serving() as url, httpx.AsyncClient(base_url=url) as client:
        for path in (*PAGES, "/nothing", "/static/console.css"):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy, path
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("mount", ["/console", "/admin/größe/console"])
async def test_console_works_below_any_path(state: StateManager, page: Page, mount: str) -> None:
    await state.set("s", "k", {"n": 1})
    app = Starlette(routes=[Mount(mount, create_console_app(state, allow_changes=True))])
    async with serving_app(app) as url:
        await page.goto(f"{url}{mount}/")
        await page.get_by_role("link", name="State").click()
        await page.get_by_role("link", name="s", exact=True).click()
        await page.get_by_role("link", name="k", exact=True).click()
        await page.get_by_label("JSON").fill("2")
        await page.get_by_role("button", name="Store").click()
        await expect(page.get_by_role("status")).to_have_text("Stored.")
    assert await state.get("s", "k") == 2


async def test_console_works_behind_a_proxy_that_takes_its_path_away(state: StateManager) -> None:
    await state.set("s", "k", 1)
    async with serving_app(create_console_app(state), root_path="/proxy") as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/scopes")
        assert 'href="/proxy/keys?scope=s"' in answer.text
        assert 'href="/proxy/static/console.css"' in answer.text
        assert (await client.get("/static/console.css")).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "short"}, "at least 16 characters, not 5"),
        ({"token": TOKEN, "allow": lambda _: True}, "not both"),
    ],
)
def test_wrong_settings_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        create_console_app(None, **options)  # type: ignore[arg-type]

"""HTTP steps below a path of another ASGI application."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from motia_redis._steps.application import Application
from motia_redis._web.app import create_web_app
from tests.support.endpoints import UNUSED_STATE, echo, route


def mounted(path: str, root_path: str = "") -> httpx.AsyncClient:
    steps = create_web_app(Application((route("GET", "/orders/:id", echo), route("GET", "/", echo))), UNUSED_STATE)
    app = Starlette(routes=[Mount(path, steps)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, root_path=root_path), base_url="http://test")


@pytest.mark.parametrize(
    ("mount", "path", "parameters"),
    [
        ("/steps", "/steps/orders/7", {"id": "7"}),
        ("/steps", "/steps/orders/a%2Fb", {"id": "a/b"}),
        ("/steps", "/steps/orders/7/", {"id": "7"}),
        ("/steps", "/steps/", {}),
        ("/v1/steps", "/v1/steps/orders/7", {"id": "7"}),
        ("/steps/{tenant}", "/steps/a%20b/orders/7", {"id": "7"}),
        ("/größe", "/gr%C3%B6%C3%9Fe/orders/7", {"id": "7"}),
        ("/orders", "/orders/orders/7", {"id": "7"}),
        ("", "/orders/7", {"id": "7"}),
    ],
)
async def test_routes_begin_behind_the_path_of_the_mount(mount: str, path: str, parameters: dict[str, str]) -> None:
    async with mounted(mount) as client:
        response = await client.get(path)
    assert (response.status_code, response.json()) == (200, parameters)


async def test_root_path_of_a_server_that_leaves_it_out_of_the_path_takes_nothing_away() -> None:
    steps = create_web_app(Application((route("GET", "/orders/:id", echo),)), UNUSED_STATE)
    for root_path in ("/proxy", "/ord", "/proxy/orders"):
        transport = httpx.ASGITransport(steps, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/orders/7")).json() == {"id": "7"}


async def test_path_outside_of_the_routes_is_a_404_of_the_steps() -> None:
    async with mounted("/steps") as client:
        response = await client.get("/steps/nowhere")
    assert (response.status_code, response.json()) == (404, {"error": "not found"})

"""`request` sends HTTP requests to the steps in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import ApiRequest, ApiResponse, http, step
from motia_redis.errors import StateError
from motia_redis.testing import application

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


@step({"name": "Echo", "triggers": [http("POST", "/echo/:name"), http("GET", "/echo/:name")]})
async def echo(request: ApiRequest, ctx: Any) -> ApiResponse:
    return ApiResponse(
        status=201,
        body={
            "method": request.method, "name": request.path_params["name"], "query": request.query_params, "body": request.body,
            "raw": request.raw_body.decode(), "type": request.headers.get("content-type"), "x": request.headers.get("x-one"),
        },
        headers={"x-answer": "yes", "set-cookie": ["a=1", "b=2"]},
    )  # fmt: skip


@step({"name": "Kinds", "triggers": [http("GET", "/kind/:kind")]})
def kinds(request: ApiRequest) -> ApiResponse:
    bodies: dict[str, Any] = {"text": "plain", "bytes": b"\x00\xff", "nothing": None}
    return ApiResponse(body=bodies[request.path_params["kind"]])


@step({"name": "Fails", "triggers": [http("GET", "/fails")]})
def fails(request: ApiRequest) -> None:
    raise ValueError


async def test_handler_gets_the_request_as_in_production(server: RedisServer) -> None:
    async with application(echo, url=server.url) as app:
        response = await app.request(
            "post", "/echo/a%2Fb?first=1", json={"n": 1}, query={"list": ["x", "y"], "z": "ä&"}, headers={"X-One": "1"}
        )
        assert response.status == 201
        assert response.body == {
            "method": "POST", "name": "a/b", "query": {"first": "1", "list": ["x", "y"], "z": "ä&"}, "body": {"n": 1},
            "raw": '{"n":1}', "type": "application/json", "x": "1",
        }  # fmt: skip
        assert response.headers["x-answer"] == "yes"
        assert response.headers["set-cookie"] == ["a=1", "b=2"]
        assert len(response.headers["x-trace-id"]) == 32
        form = await app.request("POST", "/echo/f", body="a=1&b=2", headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert form.body["body"] == {"a": "1", "b": "2"}
        assert (await app.request("POST", "/echo/n", json=None)).body["raw"] == "null"
        assert (await app.request("GET", "/echo/g")).body["body"] is None


@pytest.mark.parametrize(("kind", "body"), [("text", "plain"), ("bytes", b"\x00\xff"), ("nothing", None)])
async def test_body_of_a_response_is_as_its_type_says(server: RedisServer, kind: str, body: Any) -> None:
    async with application(kinds, url=server.url) as app:
        assert (await app.request("GET", f"/kind/{kind}")).body == body


async def test_errors_are_responses(server: RedisServer) -> None:
    async with application(fails, url=server.url) as app:
        assert (await app.request("GET", "/fails")).status == 500
        assert (await app.request("GET", "/nowhere")).status == 404
        assert (await app.request("DELETE", "/fails")).status == 405
        with pytest.raises(StateError, match=r"json=\.\.\. or body=\.\.\., not both"):
            await app.request("POST", "/fails", json=1, body="1")

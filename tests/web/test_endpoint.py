"""HTTP endpoint: routes, bodies, results and errors, through the ASGI interface and without Redis."""

from __future__ import annotations

import logging
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from motia_redis._steps.inputs import ApiRequest, ApiResponse
from tests.support.endpoints import client, echo, route

if TYPE_CHECKING:
    import httpx


async def answer(result: Any, *, method: str = "GET") -> httpx.Response:
    """Return the response to a request whose handler returns `result`."""

    async def handler(request: ApiRequest) -> Any:
        return result

    async with client(route("GET", "/", handler)) as http_client:
        return await http_client.request(method, "/")


@pytest.mark.parametrize(
    ("path", "url", "path_params"),
    [
        ("/users/:id/login", "/users/u1/login", {"id": "u1"}),
        ("/users/:id/login", "/users/u1/login/", {"id": "u1"}),
        ("/users/:id", "/users/a%20b%C3%A9", {"id": "a bé"}),
        ("/users/:id", "/users/a%2Fb", {"id": "a/b"}),
        ("/users/:id", "/users/%3Aid", {"id": ":id"}),
        ("/users/:id", "/users/100%25", {"id": "100%"}),
        ("/users/:id", "/users/a%0Ab%0D%0A", {"id": "a\nb\r\n"}),
        ("/users/:id", "/users/%00%E2%80%A8%1B", {"id": "\0\u2028\x1b"}),
        ("/:a/:b_2", "/x/y", {"a": "x", "b_2": "y"}),
        ("/{literal}/{x:int}/:id", "/%7Bliteral%7D/%7Bx:int%7D/1", {"id": "1"}),
        ("/a b/v1:batch", "/a%20b/v1:batch", {}),
        ("/", "/", {}),
    ],
)
async def test_route_matches_with_decoded_parameters(path: str, url: str, path_params: dict[str, str]) -> None:
    async with client(route("GET", path, echo)) as http_client:
        response = await http_client.get(url)
    assert response.status_code == 200
    assert response.json() == path_params


@pytest.mark.parametrize("url", ["/", "/users", "/users/", "/users/a/b", "/Users/a", "/users//", "/x/a", "/users/a/b/", "/%0A"])
async def test_unknown_path_returns_404_as_json(url: str) -> None:
    async with client(route("GET", "/users/:id", echo)) as http_client:
        response = await http_client.get(url)
    assert response.status_code == 404
    assert response.json() == {"error": "not found"}
    assert response.headers["x-trace-id"]


async def test_path_that_is_not_utf8_returns_400() -> None:
    async with client(route("GET", "/users/:id", echo)) as http_client:
        assert (await http_client.get("/users/%FF")).status_code == 400


async def test_wrong_method_returns_405_with_the_allowed_methods() -> None:
    async with client(route("GET", "/a/:id", echo), route("PUT", "/:x/b", echo), route("POST", "/c", echo)) as c:
        response = await c.delete("/a/b")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, PUT"
    assert response.json() == {"error": "method not allowed"}


async def test_literal_segment_takes_precedence_over_a_parameter_in_any_order() -> None:
    literal = route("GET", "/users/me", lambda request: {"body": "me"})
    parameter = route("GET", "/users/:id", lambda request: {"body": "id"})
    for steps in ((literal, parameter), (parameter, literal)):
        async with client(*steps, route("DELETE", "/users/:key", lambda request: {"body": "deleted"})) as http_client:
            assert (await http_client.get("/users/me")).text == "me"
            assert (await http_client.get("/users/you")).text == "id"
            assert (await http_client.delete("/users/me")).text == "deleted"


async def test_head_returns_the_response_of_get_without_body() -> None:
    get, head = await answer({"body": {"a": 1}}), await answer({"body": {"a": 1}}, method="HEAD")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"] == "7"


@pytest.mark.parametrize(
    ("result", "status", "content", "content_type"),
    [
        (ApiResponse(status=201, body={"a": [1, None]}), 201, b'{"a":[1,null]}', "application/json"),
        ({"status": 202, "body": [True, 1.5]}, 202, b"[true,1.5]", "application/json"),
        ({"body": 3}, 200, b"3", "application/json"),
        (
            {"body": {"{": [2**64 - 1, -(2**63), Decimal("1.10")]}},
            200,
            b'{"{":[18446744073709551615,-9223372036854775808,"1.10"]}',
            "application/json",
        ),
        ({"status": HTTPStatus.ACCEPTED, "body": "é", "headers": {"x-n": 2**70}}, 202, "é".encode(), "text/plain; charset=utf-8"),
        (ApiResponse(), 200, b"null", "application/json"),
        (ApiResponse(body="é"), 200, "é".encode(), "text/plain; charset=utf-8"),
        (ApiResponse(body=b"\xff"), 200, b"\xff", "application/octet-stream"),
        (ApiResponse(body=b"x", headers={"Content-Type": "image/png"}), 200, b"x", "image/png"),
        (ApiResponse(body="<p>", headers={"content-type": "text/html"}), 200, b"<p>", "text/html"),
        ({"status": 204}, 204, b"", None),
        (None, 204, b"", None),
    ],
)
async def test_result_is_converted_to_a_response(result: Any, status: int, content: bytes, content_type: str | None) -> None:
    response = await answer(result)
    assert response.status_code == status
    assert response.content == content
    assert response.headers.get("content-type") == content_type


async def test_headers_are_sent_and_a_list_repeats_its_header() -> None:
    headers = {"X-A": "1", "set-cookie": ["a=1", "b=2"], "content-length": "999", "X-Trace-Id": "forged"}
    response = await answer(ApiResponse(body="ok", headers=headers))
    assert response.headers["x-a"] == "1"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_list("content-length") == ["2"]
    assert "forged" not in response.headers["x-trace-id"]


@pytest.mark.parametrize(
    ("result", "part"),
    [
        ({"name": "Alice"}, "not a dict of ['name']"),
        ({"status": 200, "bdy": 1}, "not a dict of ['bdy', 'status']"),
        ({"headers": {}}, "not a dict of ['headers']"),
        ({}, "not a dict of []"),
        ("text", "not str"),
        ([1], "not list"),
        ({"status": "200"}, "not '200'"),
        ({"status": True}, "not True"),
        ({"status": 99}, "not 99"),
        ({"status": 101}, "not 101"),
        ({"status": 600}, "not 600"),
        ({"body": object()}, "the body of the response: object is not a JSON value"),
        ({"body": 2**70}, "the body of the response: an integer of more than 64 bits"),
        (
            {"body": {"a": [1, {"b/c": -(2**63) - 1}]}},
            "the body of the response: at '/a/1/b~1c': an integer of more than 64 bits",
        ),
        ({"body": {"a": [1, float("nan")]}}, "at '/a/1': nan is not a JSON number"),
        ({"body": [float("-inf")]}, "at '/0': -inf is not a JSON number"),
        ({"body": {"a": orjson.Fragment(b"{")}}, "at '/a': raw text in an orjson.Fragment is no value"),
        ({"body": {"a": b"x"}}, "at '/a': bytes is not a JSON value"),
        ({"body": {1: "a"}}, "member name 1 is not a string"),
        ({"body": {"a": ["\ud800"]}}, "at '/a/0': text with a lone surrogate"),
        ({"body": "\ud800"}, "the body of the response: text with a lone surrogate"),
        ({"body": 1, "headers": {"x": "a\r\nset-cookie: b"}}, "the header 'x' cannot hold"),
        ({"body": 1, "headers": {"x": ["a", "\x1b[2J"]}}, "the header 'x' cannot hold"),
        ({"body": 1, "headers": {"x y": "a"}}, "'x y' cannot be the name of a header"),
        ({"body": 1, "headers": {"x": "\u20ac"}}, "the header 'x' cannot hold '€'"),
        ({"body": 1, "headers": {"x": None}}, "the header 'x' cannot hold None"),
        ({"body": 1, "headers": None}, "the headers of a response must be a dict, not NoneType"),
    ],
)
async def test_invalid_result_returns_500_and_the_log_names_the_part(
    result: Any, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = await answer(result)
    assert response.status_code == 500
    assert response.json()["error"] == "internal server error"
    (message,) = caplog.messages
    assert message.startswith("GET /: no response from what the handler returned: ")
    assert part in message
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


ORIGIN = {"origin": "https://app.example.com"}
PREFLIGHT = ORIGIN | {"access-control-request-method": "PUT", "access-control-request-headers": "content-type,traceparent"}


async def test_response_has_no_cors_headers_unless_origins_are_given() -> None:
    async with client(route("GET", "/", echo)) as http_client:
        assert "access-control-allow-origin" not in (await http_client.get("/", headers=ORIGIN)).headers
        assert (await http_client.options("/", headers=PREFLIGHT)).status_code == 405


async def test_pages_of_given_origins_may_send_requests_and_read_responses_and_errors() -> None:
    async with client(route("PUT", "/", echo), cors_origins=["https://app.example.com"]) as http_client:
        preflight = await http_client.options("/", headers=PREFLIGHT)
        answered = await http_client.put("/", headers=ORIGIN)
        unknown = await http_client.get("/unknown", headers=ORIGIN)
        foreign = await http_client.put("/", headers={"origin": "https://evil.example.com"})
    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    for response, status in ((answered, 200), (unknown, 404)):
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        assert response.headers["access-control-expose-headers"] == "x-trace-id"
    assert "access-control-allow-origin" not in foreign.headers


def test_origins_as_one_text_are_rejected() -> None:
    with pytest.raises(TypeError, match="a list of origins"):
        client(cors_origins="https://app.example.com")

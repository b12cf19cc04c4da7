"""HTTP endpoint: what a handler receives, and which requests are refused before one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._steps.application import Application
from motia_redis._web.app import create_web_app
from tests.support.endpoints import UNUSED_STATE, client, echo, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from motia_redis._steps.inputs import ApiRequest


async def received(method: str = "POST", path: str = "/", **request: Any) -> ApiRequest:
    """Return the request that a handler receives."""
    seen: list[ApiRequest] = []

    async def handler(request: ApiRequest) -> dict[str, Any]:
        seen.append(request)
        return {"status": 200}

    async with client(route(method, "/", handler)) as http_client:
        response = await http_client.request(method, path, **request)
    assert response.status_code == 200, response.text
    return seen[0]


async def refused(**request: Any) -> httpx.Response:
    """Return the response to a POST that must not reach its handler."""

    async def handler(request: ApiRequest) -> None:
        raise AssertionError("the handler was called")

    async with client(route("POST", "/", handler)) as http_client:
        response = await http_client.post("/", **request)
    assert response.headers["x-trace-id"]
    return response


async def test_handler_receives_all_parts_of_the_request() -> None:
    request = await received(
        path="/?a=1&b=2&b=3&c=",
        json={"name": "Alice"},
        headers=[("X-One", "1"), ("X-Two", "a"), ("x-two", "b"), ("Cookie", "a=1"), ("Cookie", "b=2")],
    )
    assert (request.method, request.path, request.path_params) == ("POST", "/", {})
    assert request.query_params == {"a": "1", "b": ["2", "3"], "c": ""}
    assert request.body == {"name": "Alice"}
    assert request.headers["x-one"] == "1"
    assert request.headers["x-two"] == "a, b"
    assert request.headers["cookie"] == "a=1; b=2"


@pytest.mark.parametrize(
    ("content_type", "content", "body"),
    [
        (None, b"", None),
        ("application/json", b"", None),
        (None, b"[1]", [1]),
        ("application/merge-patch+json; charset=utf-8", b'{"a": null}', {"a": None}),
        ("text/plain", "é".encode(), "é"),
        ("TEXT/csv; charset=ISO-8859-1", b"\xe9", "é"),
        ("application/octet-stream", b"\xff\x00", b"\xff\x00"),
        ("image/png", b"\xff\x00", b"\xff\x00"),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&b=%C3%A9&c=", {"a": "1", "b": ["x y", "é"], "c": ""}),
        ("application/x-www-form-urlencoded; charset=UTF-8", b'{"a": 1}', {'{"a": 1}': ""}),
        ("application/json", b'[12345678901234567890, "\\ud83d\\ude00"]', [12345678901234567890, "\U0001f600"]),
        ("application/json", b"[9007199254740993, 0.1, 18446744073709551617]", [9007199254740993, 0.1, 2**64 + 1]),
    ],
)
async def test_body_is_decoded_by_its_content_type(content_type: str | None, content: bytes, body: Any) -> None:
    headers = {"content-type": content_type} if content_type else {}
    got = (await received(content=content, headers=headers)).body
    assert got == body
    assert type(got) is type(body)


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b"{"),
        ("application/json", b"NaN"),
        ("application/json", b"[NaN, 1234567890123456789012]"),
        ("application/json", b'"\xff"'),
        ("application/json", b"[" * 200_000),
        ("application/json", b"[1234567890123456789012," + b"[" * 200_000),
        ("application/json", b"9" * 5000),
        ("application/json", b"1e999"),
        ("application/json", b"[12345678901234567890, 1e999]"),
        ("application/json", b"[12345678901234567890, -1e999]"),
        ("application/json", b'"\\ud800"'),
        ("application/json", b'[12345678901234567890, "\\ud800"]'),
        ("application/json", b'{"\\uDFFF": 12345678901234567890}'),
        ("application/x-www-form-urlencoded", b"a=%FF"),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("text/plain", b"\xff"),
        ("text/plain; charset=idna", b"a"),
        ("text/plain; charset=nonsense", b"a"),
    ],
)
async def test_malformed_body_returns_400_as_json(content_type: str, content: bytes) -> None:
    response = await refused(content=content, headers={"content-type": content_type})
    assert response.status_code == 400
    assert "body" in response.json()["error"]


@pytest.mark.parametrize("content", [b"", b"[1,  2]", b'{"n": 12345678901234567890}'])
async def test_raw_body_has_the_bytes_that_were_sent(content: bytes) -> None:
    assert (await received(content=content)).raw_body == content


async def test_multipart_returns_415_with_what_is_accepted() -> None:
    response = await refused(files={"file": b"content"})
    assert response.status_code == 415
    for accepted in ("application/json", "application/x-www-form-urlencoded", "text/*", "application/octet-stream"):
        assert accepted in response.json()["error"]
        assert accepted in response.headers["accept"]


async def test_body_of_the_limit_is_accepted_and_one_more_byte_returns_413() -> None:
    async def length(request: ApiRequest) -> dict[str, Any]:
        return {"body": len(request.body)}

    async with client(route("POST", "/", length), max_body_bytes=10) as http_client:
        taken = await http_client.post("/", content=b"a" * 10, headers={"content-type": "text/plain"})
        too_large = await http_client.post("/", content=b"a" * 11, headers={"content-type": "text/plain"})
    assert (taken.status_code, taken.json()) == (200, 10)
    assert too_large.status_code == 413
    assert too_large.json() == {"error": "body over 10 bytes"}
    assert too_large.headers["x-trace-id"]


async def test_declared_length_over_the_limit_returns_413_before_reading() -> None:
    statuses: list[int] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    app = create_web_app(Application((route("POST", "/", echo),)), UNUSED_STATE, max_body_bytes=10)
    headers = [(b"content-length", b"9" * 5000)]
    await app({"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}, receive, send)
    assert statuses == [413]


async def test_body_without_length_is_not_read_past_the_limit() -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 1000:
            given += 1
            yield b"a" * 4

    async with client(route("POST", "/", echo), max_body_bytes=10) as http_client:
        response = await http_client.post("/", content=endless())
    assert response.status_code == 413
    assert given <= 4

"""HTTP endpoint: routes, bodies, results and errors, through the ASGI interface and without Redis."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from motia_redis._steps.application import Application
from motia_redis._steps.definitions import Step, step
from motia_redis._steps.inputs import ApiRequest, ApiResponse
from motia_redis._steps.logs import JsonFormatter, TextFormatter, logger
from motia_redis._steps.triggers import http
from motia_redis._tracing import current_trace_id
from motia_redis._transport.failures import ErrorReply
from motia_redis._web import endpoint
from motia_redis._web.access import RequestLog
from motia_redis._web.app import build_web_app, create_web_app
from motia_redis.errors import OutcomeUnknown, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FAKE_STATE: Any = SimpleNamespace(url="redis://user:secret@h:1/0")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def route(method: str, path: str, handler: Any, name: str | None = None) -> Step:
    label = name or "".join(c if c.isalnum() else "-" for c in f"{method}{path}")
    return step({"name": label, "triggers": [http(method, path)]}).handle(handler)


def client(*steps: Step, **options: Any) -> httpx.AsyncClient:
    app = create_web_app(Application(steps), FAKE_STATE, **options)
    # Errors that leave the application are reported to the test, not turned into a 500 by the transport.
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def answer(result: Any, *, method: str = "GET") -> httpx.Response:
    """Return the response to a request whose handler returns `result`."""

    async def handler(request: ApiRequest) -> Any:
        return result

    async with client(route("GET", "/", handler)) as http_client:
        return await http_client.request(method, "/")


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


# -- routes -----------------------------------------------------------------------------------------------------------


def echo(request: ApiRequest) -> dict[str, Any]:
    return {"body": request.path_params}


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


# -- requests ---------------------------------------------------------------------------------------------------------


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

    app = create_web_app(Application((route("POST", "/", echo),)), FAKE_STATE, max_body_bytes=10)
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


# -- results ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret"), StopIteration("secret")])
@pytest.mark.parametrize("is_async", [True, False])
async def test_handler_that_raises_returns_500_with_only_the_trace_id(
    error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(request: ApiRequest) -> None:
        raise error

    async def fails_async(request: ApiRequest) -> None:
        raise error

    async with client(route("GET", "/", fails_async if is_async else fails, "Failing")) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 500
    assert response.json() == {"error": "internal server error", "trace_id": response.headers["x-trace-id"]}
    (record,) = caplog.records
    assert record.exc_info
    assert (record.step, record.trace_id) == ("Failing", response.headers["x-trace-id"])  # type: ignore[attr-defined]


class Panic(BaseException):
    pass


@pytest.mark.parametrize("error", [Panic("secret"), GeneratorExit(), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("is_async", [True, False])
async def test_handler_that_raises_no_exception_returns_500_with_the_trace_id(error: BaseException, is_async: bool) -> None:
    def fails(request: ApiRequest) -> None:
        raise error

    async def fails_async(request: ApiRequest) -> None:
        raise error

    async with client(route("GET", "/", fails_async if is_async else fails)) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 500
    assert response.json() == {"error": "internal server error", "trace_id": response.headers["x-trace-id"]}


async def test_handler_that_cancels_its_task_returns_500() -> None:
    async def cancels(request: ApiRequest) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        await asyncio.sleep(0)

    async with client(route("GET", "/", cancels)) as http_client:
        assert (await http_client.get("/")).status_code == 500
    test: Any = asyncio.current_task()
    assert not test.cancelling()


async def test_cancelled_request_cancels_its_handler() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(request: ApiRequest) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with client(route("GET", "/", waits)) as http_client:
        task = asyncio.create_task(http_client.get("/"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


async def test_request_that_the_end_of_the_process_cancels_is_answered_with_503_and_the_trace_id() -> None:
    began = asyncio.Event()
    sent: list[Any] = []

    async def waits(request: ApiRequest) -> None:
        began.set()
        await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_web_app(Application((route("GET", "/", waits),)), FAKE_STATE)
    headers = [(b"traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers}
    task = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    start, body = sent
    assert start["status"] == 503
    assert dict(start["headers"])[b"x-trace-id"].decode() == TRACE_ID
    assert b"the server is stopping" in body["body"]


AWAY = StateUnavailable("scope 'a': cannot reach Redis at redis://h:1")


@pytest.mark.parametrize(
    "error", [AWAY, OutcomeUnknown("unknown"), ExceptionGroup("two", [AWAY, AWAY])], ids=lambda e: type(e).__name__
)
async def test_unavailable_redis_returns_503_with_retry_after(error: Exception) -> None:
    async def fails(request: ApiRequest) -> None:
        raise error

    async with client(route("GET", "/", fails)) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json() == {"error": "the state is unavailable", "trace_id": response.headers["x-trace-id"]}


async def test_other_error_beside_an_unavailable_redis_returns_500() -> None:
    async def fails(request: ApiRequest) -> None:
        raise ExceptionGroup("two", [AWAY, ValueError()])

    async with client(route("GET", "/", fails)) as http_client:
        assert (await http_client.get("/")).status_code == 500


async def test_outage_is_logged_when_it_begins_and_ends_not_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    is_away = True

    async def handler(request: ApiRequest) -> None:
        if is_away:
            raise AWAY

    async with client(route("GET", "/", handler, "Asks"), route("GET", "/other", lambda request: None)) as http_client:
        for path in ["/"] * 20 + ["/other"]:
            await http_client.get(path)
        (message,) = caplog.messages
        assert message.startswith(
            "Redis at redis://h:1/0 is away, and requests are answered with 503: StateUnavailable: scope 'a'"
        )
        is_away = False
        for _ in range(3):
            await http_client.get("/")
    assert [message.split(" after")[0] for message in caplog.messages[1:]] == ["Redis at redis://h:1/0 is back"]


async def test_outage_that_the_worker_of_the_process_has_logged_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    refused = StateUnavailable("scope 'a': Redis is full (maxmemory)")
    refused.__cause__ = ErrorReply("OOM command not allowed")
    errors = [AWAY, refused]

    async def handler(request: ApiRequest) -> None:
        raise errors.pop(0)

    app = build_web_app(
        Application((route("GET", "/", handler),)),
        FAKE_STATE,
        max_body_bytes=1,
        cors_origins=(),
        is_outage_reported=lambda: True,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http_client:
        assert [(await http_client.get("/")).status_code for _ in range(2)] == [503, 503]
    (message,) = caplog.messages
    assert message.startswith("Redis at redis://h:1/0 refuses calls, and requests are answered with 503: ")


async def test_defect_of_the_endpoint_returns_500_with_the_trace_id(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint, "read_api_request", lambda *_: 1 / 0)
    async with client(route("GET", "/", echo)) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 500
    assert response.json()["trace_id"] == response.headers["x-trace-id"]
    assert "a defect of motia-redis" in caplog.text


# -- browsers ---------------------------------------------------------------------------------------------------------

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


# -- log of requests --------------------------------------------------------------------------------------------------


async def test_each_request_is_logged_with_status_duration_client_and_trace_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia_redis.http")
    app = RequestLog(create_web_app(Application((route("GET", "/a/:id", echo),)), FAKE_STATE), writes=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http_client:
        response = await http_client.get("/a/b%0Ac?token=secret")
        await http_client.get("/unknown")
    first, second = caplog.records
    assert (first.getMessage(), second.getMessage()) == ("GET /a/b\nc 200", "GET /unknown 404")
    assert first.trace_id == response.headers["x-trace-id"]  # type: ignore[attr-defined]
    assert first.fields.keys() == {"ms", "client"}  # type: ignore[attr-defined]
    assert TextFormatter().format(first).isprintable()
    assert "secret" not in JsonFormatter().format(first)


async def test_running_requests_are_known_until_they_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia_redis.http")
    began = asyncio.Event()

    async def waits(request: ApiRequest) -> None:
        began.set()
        await asyncio.Event().wait()

    app = RequestLog(create_web_app(Application((route("POST", "/wait", waits),)), FAKE_STATE), writes=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http_client:
        task = asyncio.create_task(http_client.post("/wait"))
        await began.wait()
        (running,) = app.running()
        assert running.startswith("POST /wait (for ")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert app.running() == []
    assert caplog.messages == ["POST /wait 503"]


async def test_log_of_requests_can_be_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia_redis.http")
    app = RequestLog(create_web_app(Application((route("GET", "/", echo),)), FAKE_STATE), writes=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http_client:
        await http_client.get("/")
    assert caplog.records == []


# -- context and trace ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_handler_runs_with_its_context_inside_the_trace(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia_redis.step")
    seen: list[Any] = []

    def handler(request: ApiRequest, ctx: Any) -> None:
        seen.extend([ctx, current_trace_id()])
        ctx.logger.info("from ctx")
        logger.info("from global")

    async def handler_async(request: ApiRequest, ctx: Any) -> None:
        handler(request, ctx)

    async with client(route("GET", "/a/:id", handler_async if is_async else handler, "S")) as http_client:
        response = await http_client.get("/a/1")
    ctx, trace_id = seen
    assert ctx.state is FAKE_STATE
    assert (ctx.step_name, ctx.trigger.type, ctx.trigger.method, ctx.trigger.path) == ("S", "http", "GET", "/a/:id")
    assert ctx.trace_id == trace_id == response.headers["x-trace-id"]
    assert [(r.step, r.trace_id) for r in caplog.records] == [("S", trace_id)] * 2  # type: ignore[attr-defined]
    assert current_trace_id() is None


async def test_concurrent_requests_have_separate_traces() -> None:
    both = asyncio.Barrier(2)

    async def handler(request: ApiRequest, ctx: Any) -> dict[str, Any]:
        await both.wait()
        return {"body": [ctx.trace_id, current_trace_id()]}

    async with client(route("GET", "/", handler)) as http_client:
        one, two = await asyncio.gather(http_client.get("/"), http_client.get("/"))
    assert one.json() == [one.headers["x-trace-id"]] * 2
    assert two.json() == [two.headers["x-trace-id"]] * 2
    assert one.json() != two.json()


@pytest.mark.parametrize(
    ("traceparent", "taken"),
    [
        (f"00-{TRACE_ID}-b7ad6b7169203331-01", True),
        (f"01-{TRACE_ID}-b7ad6b7169203331-01-more", True),
        (f"00-{TRACE_ID}-b7ad6b7169203331-01-more", False),
        (f"ff-{TRACE_ID}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID}-0000000000000000-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID.upper()}-b7ad6b7169203331-01", False),
        (TRACE_ID, False),
        ("", False),
    ],
)
async def test_trace_id_is_taken_from_a_valid_traceparent_or_new(traceparent: str, taken: bool) -> None:
    async with client() as http_client:
        trace_id = (await http_client.get("/", headers={"traceparent": traceparent})).headers["x-trace-id"]
    assert (trace_id == TRACE_ID) is taken
    assert len(trace_id) == 32
    assert set(trace_id) <= set("0123456789abcdef")
    assert set(trace_id) != {"0"}

"""HTTP endpoint: a handler that raises or is cancelled, and Redis that is away, give a response with the trace id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from motia_redis._steps.application import Application
from motia_redis._transport.failures import ErrorReply
from motia_redis._web import endpoint
from motia_redis._web.app import build_web_app, create_web_app
from motia_redis.errors import OutcomeUnknown, StateUnavailable
from tests.support.endpoints import TRACE_ID, UNUSED_STATE, client, echo, route

if TYPE_CHECKING:
    from motia_redis._steps.inputs import ApiRequest


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

    app = create_web_app(Application((route("GET", "/", waits),)), UNUSED_STATE)
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
        UNUSED_STATE,
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

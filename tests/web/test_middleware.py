"""HTTP endpoint: middleware and conditions of a route."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._steps.context import SyncFlowContext
from motia_redis._steps.inputs import ApiRequest, ApiResponse
from motia_redis.errors import StateUnavailable
from tests.support.endpoints import client, route

if TYPE_CHECKING:
    from motia_redis._steps.context import FlowContext

Next = Callable[[], Awaitable[ApiResponse]]


def marking(name: str, seen: list[str]) -> Any:
    async def mark(request: ApiRequest, ctx: FlowContext, next: Next) -> ApiResponse:
        seen.append(f"{name} in")
        response = await next()
        seen.append(f"{name} out")
        return replace(response, headers={**response.headers, f"x-{name}": "1"})

    return mark


@pytest.mark.parametrize("result", [ApiResponse(201, "made"), {"status": 201, "body": "made"}])
async def test_first_middleware_is_outermost_and_each_may_change_the_response(result: Any) -> None:
    seen: list[str] = []

    def handler(request: ApiRequest, ctx: FlowContext) -> Any:
        seen.append(f"handler of {ctx.step_name}")
        return result

    middleware = [marking("a", seen), marking("b", seen)]
    async with client(route("POST", "/", handler, "Make", middleware=middleware)) as http_client:
        response = await http_client.post("/")
    assert seen == ["a in", "b in", "handler of Make", "b out", "a out"]
    assert (response.status_code, response.text) == (201, "made")
    assert (response.headers["x-a"], response.headers["x-b"]) == ("1", "1")


async def test_handler_that_returns_none_gives_a_middleware_the_status_204() -> None:
    async def look(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
        return {"body": (await next()).status}

    async with client(route("GET", "/", lambda request: None, middleware=[look])) as http_client:
        assert (await http_client.get("/")).json() == 204


async def test_middleware_that_answers_itself_stops_the_request() -> None:
    def unreachable(*args: Any) -> None:
        raise AssertionError

    async def refuse(request: ApiRequest, ctx: FlowContext, next: Next) -> dict[str, Any]:
        return {"status": 401, "body": {"error": request.headers["authorization"]}}

    options = {"middleware": [refuse, lambda *args: unreachable()], "body_schema": {"type": "object"}}
    async with client(route("POST", "/", unreachable, **options)) as http_client:
        response = await http_client.post("/", headers={"authorization": "none"})  # 401 comes before the 400 of the schema
    assert (response.status_code, response.json()) == (401, {"error": "none"})


async def test_sync_middleware_runs_in_a_thread_and_passes_on_what_next_returns() -> None:
    threads = []

    def outer(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
        threads.append(threading.current_thread())
        assert isinstance(ctx, SyncFlowContext)
        return next() if request.query_params else {"status": 403}

    def handler(request: ApiRequest) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"body": "ok"}

    async with client(route("GET", "/", handler, middleware=[outer, outer])) as http_client:
        assert (await http_client.get("/")).status_code == 403
        assert (await http_client.get("/?in=1")).text == "ok"
    assert len(threads) == 4
    assert threading.main_thread() not in threads


async def test_middleware_catches_what_the_handler_raises_and_sees_the_answer_to_a_wrong_body() -> None:
    async def catch(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
        try:
            response = await next()
        except LookupError as error:
            return {"status": 404, "body": str(error)}
        return replace(response, headers={"x-seen": str(response.status)})

    def handler(request: ApiRequest) -> None:
        raise LookupError("no such user")

    async with client(route("POST", "/", handler, middleware=[catch], body_schema={"type": "object"})) as http_client:
        missing = await http_client.post("/", json={})
        wrong = await http_client.post("/", json=1)
    assert (missing.status_code, missing.text) == (404, "no such user")
    assert (wrong.status_code, wrong.headers["x-seen"]) == (400, "400")


@pytest.mark.parametrize("schema", [dict[str, int], {"additionalProperties": {"type": "integer"}}], ids=["type", "JSON Schema"])
async def test_what_a_middleware_changes_in_the_body_is_checked(schema: Any) -> None:
    async def repair(request: ApiRequest, ctx: FlowContext, next: Next) -> ApiResponse:
        request.body["n"] = int(request.body["n"])
        return await next()

    async with client(route("POST", "/", lambda r: {"body": r.body}, middleware=[repair], body_schema=schema)) as http_client:
        assert (await http_client.post("/", json={"n": "1"})).json() == {"n": 1}


class Panic(BaseException):
    pass


ERRORS = [ValueError("secret"), SystemExit("secret"), StopIteration(1), Panic(), GeneratorExit(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["condition", "async condition", "middleware", "sync middleware", "handler", "sync handler"])
async def test_error_anywhere_returns_500_with_only_the_trace_id(
    error: BaseException, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Any:
        raise error

    async def fails_async(*args: Any) -> Any:
        raise error

    function = fails if place.startswith("sync") or place == "condition" else fails_async
    passes: Any = marking("a", [])
    options: dict[str, Any] = {"middleware": [passes]}
    if place.endswith("condition"):
        options["condition"] = lambda request, ctx: function()
        if function is fails_async:
            options["condition"] = function
    elif place.endswith("middleware"):
        options["middleware"] = [passes, function, passes]
    handler = function if place.endswith("handler") else lambda request: None
    async with client(route("GET", "/", handler, "Failing", **options)) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 500
    assert response.json() == {"error": "internal server error", "trace_id": response.headers["x-trace-id"]}
    (record,) = caplog.records
    assert record.step == "Failing"  # type: ignore[attr-defined]


async def twice(request: ApiRequest, ctx: FlowContext, next: Next) -> ApiResponse:
    await next()
    return await next()


async def forgets(request: ApiRequest, ctx: FlowContext, next: Next) -> dict[str, Any]:
    next()
    return {"status": 200}


async def returns_it(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
    return next()


async def forgets_and_raises(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
    next()
    raise ValueError("its own error")


async def stringifies(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
    await next()
    return "text"


@pytest.mark.parametrize(
    ("middleware", "says"),
    [
        (twice, "the middleware twice called next() twice"),
        (forgets, "the middleware forgets called next() without `await`"),
        (returns_it, "the middleware returns_it called next() without `await`"),
        (forgets_and_raises, "its own error"),
        (stringifies, "no response from what the handler or a middleware returned"),
    ],
)
async def test_middleware_that_misuses_next_or_its_result_returns_500_and_the_log_says_why(
    middleware: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def handler(request: ApiRequest) -> None:
        calls.append(1)

    async with client(route("GET", "/", handler, middleware=[middleware])) as http_client:
        assert (await http_client.get("/")).status_code == 500
    assert says in caplog.text
    assert len(calls) <= 1


async def test_middleware_may_limit_the_time_of_the_handler() -> None:
    async def limit(request: ApiRequest, ctx: FlowContext, next: Next) -> Any:
        try:
            return await asyncio.wait_for(next(), 0.01)
        except TimeoutError:
            return {"status": 504}

    async def handler(request: ApiRequest) -> None:
        await asyncio.Event().wait()

    async with client(route("GET", "/", handler, middleware=[limit])) as http_client:
        assert (await http_client.get("/")).status_code == 504


async def test_context_variable_that_a_middleware_sets_is_seen_by_the_handler_of_the_same_request_only() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    async def login(request: ApiRequest, ctx: FlowContext, next: Next) -> ApiResponse:
        if request.query_params:
            user.set("ann")
        return await next()

    async def handler(request: ApiRequest) -> dict[str, Any]:
        return {"body": user.get()}

    async with client(route("GET", "/", handler, middleware=[login])) as http_client:
        assert (await http_client.get("/?in=1")).text == "ann"
        assert (await http_client.get("/")).text == "nobody"


async def test_cancelled_request_cancels_its_middleware_and_its_handler() -> None:
    began = asyncio.Event()
    ended: list[str] = []

    async def clean(request: ApiRequest, ctx: FlowContext, next: Next) -> ApiResponse:
        try:
            return await next()
        finally:
            ended.append("middleware")

    async def handler(request: ApiRequest) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("handler")

    async with client(route("GET", "/", handler, middleware=[clean])) as http_client:
        task = asyncio.create_task(http_client.get("/"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended == ["handler", "middleware"]


@pytest.mark.parametrize("place", ["middleware", "condition"])
async def test_unavailable_redis_in_a_middleware_or_condition_returns_503(place: str) -> None:
    async def fails(*args: Any) -> Any:
        raise StateUnavailable("cannot reach Redis")

    options: dict[str, Any] = {"middleware": [fails]} if place == "middleware" else {"condition": fails}
    async with client(route("GET", "/", lambda request: None, **options)) as http_client:
        response = await http_client.get("/")
    assert response.status_code == 503
    assert response.headers["retry-after"]


# -- conditions -------------------------------------------------------------------------------------------------------


async def is_staff(request: ApiRequest, ctx: FlowContext) -> bool:
    await asyncio.sleep(0)
    assert ctx.trigger.type == "http"
    return request.headers.get("x-role") == "staff"


@pytest.mark.parametrize("condition", [is_staff, lambda request: request.headers.get("x-role") == "staff"], ids=["async", "sync"])
async def test_condition_that_is_not_met_returns_422_before_anything_else_runs(condition: Any) -> None:
    seen: list[str] = []
    options = {"middleware": [marking("a", seen)], "body_schema": {"type": "object"}, "condition": condition}
    async with client(route("POST", "/", lambda request: {"body": "in"}, **options)) as http_client:
        refused = await http_client.post("/", json=1)
        assert seen == []
        answered = await http_client.post("/", json={}, headers={"x-role": "staff"})
    assert refused.status_code == 422
    assert refused.json() == {"error": "the condition of the route is not met", "skipped": True}
    assert refused.headers["x-trace-id"]
    assert answered.text == "in"

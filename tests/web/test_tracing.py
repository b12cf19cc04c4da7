"""HTTP endpoint: context, trace and log of requests."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import motia_redis.sync
from motia_redis import FlowContext, StateManager
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._steps.logs import JsonFormatter, TextFormatter, logger
from motia_redis._tracing import current_trace_id, trace
from motia_redis._web.access import RequestLog
from motia_redis._web.app import create_web_app
from tests.support.endpoints import TRACE_ID, UNUSED_STATE, client, echo, route
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from motia_redis._steps.inputs import ApiRequest

PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


async def test_each_request_is_logged_with_status_duration_client_and_trace_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia_redis.http")
    app = RequestLog(create_web_app(Application((route("GET", "/a/:id", echo),)), UNUSED_STATE), writes=True)
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

    app = RequestLog(create_web_app(Application((route("POST", "/wait", waits),)), UNUSED_STATE), writes=True)
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
    app = RequestLog(create_web_app(Application((route("GET", "/", echo),)), UNUSED_STATE), writes=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http_client:
        await http_client.get("/")
    assert caplog.records == []


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
    assert ctx.state is UNUSED_STATE if is_async else isinstance(ctx.state, motia_redis.sync.StateManager)
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


def connected(state: StateManager, handler: Any) -> httpx.AsyncClient:
    """Return a client of an application with one route, `POST /`."""
    app = create_web_app(Application((route("POST", "/", handler),)), state)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def _event_traces(state: StateManager, raw: redis.Redis, scope: str) -> list[bytes | None]:
    """Return the traces of the events of a scope, in their order."""
    found = []
    for name in raw.scan_iter(f"{{{state.namespace}:*}}:events:*"):
        found += [(entry_id, fields) for entry_id, fields in raw.xrange(name) if fields[b"scope"] == scope.encode()]
    return [fields.get(b"trace") for _, fields in sorted(found, key=lambda entry: entry[0])]


@pytest.mark.parametrize(
    ("headers", "carried"),
    [
        ([("traceparent", PARENT)], PARENT),
        ([("traceparent", PARENT), ("tracestate", "a=1,b=2")], f"{PARENT} a=1,b=2"),
        ([("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")], f"{PARENT} a=1,b=2"),
        ([("traceparent", PARENT), ("tracestate", "a=" + "x" * 511)], PARENT),  # longer than what has to be passed on
        ([("traceparent", PARENT), ("tracestate", "a=\t1")], PARENT),
        ([("traceparent", f"cc{PARENT[2:]}-more")], PARENT),  # of a version that is not known yet
    ],
)
async def test_events_carry_trace_parent_and_state_of_the_request(
    state: StateManager, raw: redis.Redis, headers: list[tuple[str, str]], carried: str
) -> None:
    async def write(request: ApiRequest, ctx: FlowContext) -> Any:
        await ctx.state.set("carried", "a", 1)
        return {"body": ctx.trace_id}

    async with connected(state, write) as http_client:
        response = await http_client.post("/", headers=headers)
    assert response.text == response.headers["x-trace-id"] == TRACE_ID
    assert await _event_traces(state, raw, "carried") == [carried.encode()]


async def test_events_without_a_valid_trace_parent_carry_a_trace_id_only(state: StateManager, raw: redis.Redis) -> None:
    async def write(request: ApiRequest, ctx: FlowContext) -> Any:
        await ctx.state.set("carried", "a", 1)
        return {"body": ctx.trace_id}

    async with connected(state, write) as http_client:
        response = await http_client.post("/", headers={"traceparent": "strange", "tracestate": "a=1"})
    assert await _event_traces(state, raw, "carried") == [response.content]


async def test_a_handler_hands_the_trace_that_fired_it_on_to_its_own_changes(state: StateManager, raw: redis.Redis) -> None:
    """Nobody has switched telemetry on: W3C Trace Context asks who does not trace to pass the headers on unchanged."""
    asked: list[str] = []

    class Follow(Recorder):
        async def __call__(self, input: Any, ctx: FlowContext) -> None:
            await ctx.state.set("second", "a", 1)
            await super().__call__(input, ctx)

    def condition(change: Any, ctx: FlowContext) -> bool:
        asked.append(ctx.trace_id)
        return True

    recorder = Follow()
    async with working(state, record(recorder, state_trigger(scope="first", condition=condition))):
        with trace(f"{PARENT} a=1"):
            await state.set("first", "a", 1)
        await recorder.wait(1)
    assert [*asked, recorder.contexts[0].trace_id] == [TRACE_ID, TRACE_ID]
    assert await _event_traces(state, raw, "second") == [f"{PARENT} a=1".encode()]

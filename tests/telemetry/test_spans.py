"""Spans: parents and links across streams, retries, HTTP, transactions, threads and expiries."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind

import motia_redis.sync
from motia_redis import FlowContext, StateManager, queue, step, telemetry
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._web.app import create_web_app
from tests.support.endpoints import TRACE_ID, route
from tests.support.waiting import until_holds
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from tests.support.servers import RedisServer


class Spans:
    """What was exported."""

    def __init__(self, sampler: Any = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBased(sampler), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    async def wait(self, name: str, count: int = 1) -> list[ReadableSpan]:
        await until_holds(lambda: len(self.named(name)) >= count, f"{count} spans {name}")
        return self.named(name)


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    telemetry.enable(metrics=False, tracer_provider=found.provider)
    yield found
    telemetry.disable()


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id and same_trace(child, parent)


def same_trace(*spans: ReadableSpan) -> bool:
    return len({span.context.trace_id for span in spans}) == 1


async def test_handler_is_linked_to_the_change_and_is_its_child(state: StateManager, spans: Spans) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="orders"))):
        await state.set("orders", "secret-key", "secret-value")
        await recorder.wait(1)
        (process,) = await spans.wait("process orders")
    (send,) = spans.named("send orders")
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert is_child(process, send)
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert recorder.contexts[0].trace_id == f"{process.context.trace_id:032x}"
    assert dict(process.attributes or {}) == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "Record",
        "messaging.message.id": recorder.inputs[0].revision,
        "motia_redis.attempt": 1,
    }
    assert (send.attributes or {})["messaging.message.id"] == recorder.inputs[0].revision
    assert "secret" not in send.to_json() + process.to_json()


async def test_handler_that_takes_no_context_has_a_span(state: StateManager, spans: Spans) -> None:
    seen: list[Any] = []

    async def handle(input: Any) -> None:
        seen.append(input)

    async with working(state, step({"name": "Bare", "triggers": [state_trigger(scope="orders")]}).handle(handle)):
        await state.set("orders", "o1", 1)
        (process,) = await spans.wait("process orders")
    assert len(seen) == 1
    assert (process.attributes or {})["messaging.destination.name"] == "orders"


async def test_all_attempts_are_children_of_the_message_and_failed_ones_say_the_class_only(
    state: StateManager, spans: Spans
) -> None:
    async def fail(data: Any, ctx: FlowContext) -> None:
        if ctx.trigger.attempt == 1:
            raise ValueError("secret")

    async with working(state, record(fail, queue("jobs"), backoff=0.01)):
        await state.enqueue("jobs", 1)
        attempts = await spans.wait("process jobs", 2)
    (send,) = spans.named("send jobs")
    assert all(is_child(attempt, send) for attempt in attempts)
    assert [(each.attributes or {})["motia_redis.attempt"] for each in attempts] == [1, 2]
    assert [(each.attributes or {}).get("error.type") for each in attempts] == ["ValueError", None]
    assert "secret" not in attempts[0].to_json()


async def test_changes_of_a_handler_in_a_thread_are_children_of_its_span(state: StateManager, spans: Spans) -> None:
    def write(change: Any, ctx: Any) -> None:
        ctx.state.set("second", "a", 1)

    async with working(state, record(write, state_trigger(scope="first"))):
        await state.set("first", "a", 1)
        (process,) = await spans.wait("process first")
    (send,) = spans.named("send second")
    assert is_child(send, process)


def test_sync_manager_makes_one_span_for_a_change(server: RedisServer, namespace: str, spans: Spans) -> None:
    with motia_redis.sync.StateManager(server.url, namespace=namespace) as manager:
        manager.set("users", "ann", 1)
        manager.set("users", "ann", 2)
    assert len(spans.named("send users")) == 2


async def test_transaction_is_one_span_that_all_its_events_are_linked_to(state: StateManager, spans: Spans) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="pair"))):
        async with state.transaction() as tx:
            tx.set("pair", "a", 1)
            tx.set("pair", "b", 2)
        handled = await spans.wait("process pair", 2)
    (send,) = spans.named("send pair")
    assert all(is_child(each, send) for each in handled)
    assert (send.attributes or {})["messaging.batch.message_count"] == 2


async def test_attempts_at_an_expiry_share_a_trace_that_begins_at_the_worker(state: StateManager, spans: Spans) -> None:
    recorder = Recorder()

    async def fail_once(change: Any, ctx: FlowContext) -> None:
        await recorder(change, ctx)
        if ctx.trigger.attempt == 1:
            raise ValueError

    trigger = state_trigger(scope="short", condition=lambda change: change.reason == "expired")
    async with working(state, record(fail_once, trigger, backoff=0.01)):
        await state.set("short", "a", 1, ttl=0.05)
        attempts = await spans.wait("process short", 2)
    (receive,) = spans.named("receive short")
    assert receive.parent is None
    assert all(is_child(attempt, receive) for attempt in attempts)
    assert {ctx.trace_id for ctx in recorder.contexts} == {f"{receive.context.trace_id:032x}"}


async def test_request_continues_the_trace_of_its_client(state: StateManager, spans: Spans) -> None:
    async def write(request: Any, ctx: FlowContext) -> Any:
        await ctx.state.set("carried", "a", 1)
        return {"body": ctx.trace_id}

    app = create_web_app(Application((route("POST", "/orders/:id", write),)), state)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "tracestate": "a=1"}
        response = await client.post("/orders/1", headers=headers)
        other = await client.post("/orders/2")
    first, second = spans.named("POST /orders/:id")
    assert first.parent is not None
    assert (f"{first.parent.span_id:016x}", f"{first.context.trace_id:032x}") == ("b7ad6b7169203331", TRACE_ID)
    assert response.text == TRACE_ID
    assert other.text == other.headers["x-trace-id"] == f"{second.context.trace_id:032x}"
    sends = spans.named("send carried")
    assert is_child(sends[0], first)
    assert is_child(sends[1], second)
    assert sends[0].context.trace_state.to_header() == "a=1"


async def test_trace_that_is_not_sampled_stays_so_in_handlers(state: StateManager) -> None:
    dropped, kept, recorder = Spans(ALWAYS_OFF), Spans(), Recorder()
    try:
        telemetry.enable(metrics=False, tracer_provider=dropped.provider)
        await state.set("first", "a", 1)
        telemetry.enable(metrics=False, tracer_provider=kept.provider)

        class Write(Recorder):
            async def __call__(self, input: Any, ctx: FlowContext) -> None:
                await ctx.state.set("second", "a", 1)
                await recorder(input, ctx)

        async with working(state, record(Write(), queue("other"), state_trigger(scope="first"))):
            with motia_redis._tracing.trace(f"00-{TRACE_ID}-b7ad6b7169203331-00"):
                await state.set("first", "a", 2)
            await recorder.wait(1)
    finally:
        telemetry.disable()
    assert recorder.contexts[0].trace_id == TRACE_ID
    assert kept.exporter.get_finished_spans() == ()


async def test_single_calls_have_spans_of_what_redis_runs_only_if_asked_for(state: StateManager) -> None:
    found = Spans()
    telemetry.enable(metrics=False, calls=True, tracer_provider=found.provider)
    try:
        await state.set("users", "ann", 1)
        await state.get("users", "ann")
    finally:
        telemetry.disable()
    (get,) = found.named("HGET")
    assert get.kind is SpanKind.CLIENT
    assert (get.attributes or {})["db.system.name"] == "redis"
    (call,) = [span for span in found.exporter.get_finished_spans() if span.name.endswith(" mutate")]
    assert (call.attributes or {})["db.stored_procedure.name"] == "mutate"
    assert is_child(call, found.named("send users")[0])


def test_package_imports_nothing_of_opentelemetry_while_telemetry_is_off() -> None:
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if name.startswith("opentelemetry") and module.startswith("redis"):
                raise ImportError(name)  # redis-py looks for it, and goes on without
            frame = frame.f_back
        return None
sys.meta_path.insert(0, Refuse())
import motia_redis, motia_redis.sync, motia_redis.admin, motia_redis.telemetry
import motia_redis._worker.worker, motia_redis._web.app, motia_redis._cli.main, motia_redis._cli.serving
assert not [name for name in sys.modules if name.startswith("opentelemetry")], sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

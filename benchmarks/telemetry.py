"""Measure what metrics and spans cost: calls of 64 tasks, and handled events. 1 % of the traces are sampled.

All modes have a turn in each round; `off again` is the same as `off`, and shows the noise of the machine.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import contextmanager
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.common import machine, program
from benchmarks.common.server import Server, find_server
from benchmarks.common.tables import figure, markdown
from motia_redis import StateManager, Worker, _metrics, _tracing, state, step, telemetry
from motia_redis._steps.application import Application

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

EXAMPLES = """examples:
  python -m benchmarks.telemetry
  python -m benchmarks.telemetry --quick --rounds 3
"""
ROUNDS = 15
MODES = ("off", "off again", "metrics", "handler spans", "call spans")
TASKS, COUNT, BATCH, SAMPLED = 64, 3_200, 100, 0.01


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = program.new_parser("telemetry", __doc__, EXAMPLES, rounds=ROUNDS, quick="5 rounds")
    options = program.read_options(parser, arguments)
    with Server(options.server or find_server()) as server:
        result = asyncio.run(measure(server, options.rounds))
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "telemetry", result, result["settings"]["redis"], options)


async def measure(server: Server, rounds: int) -> dict[str, Any]:
    """Return microseconds of each work in each mode, round by round."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(SAMPLED)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for place in range(len(MODES)):
            mode = MODES[(number + place) % len(MODES)]
            async with StateManager(server.url, namespace=f"n{number}m{place}") as manager:
                for work, microseconds in (await _turn(manager, mode, provider)).items():
                    found.setdefault(work, {}).setdefault(mode, []).append(microseconds)
    settings = {"redis": server.name, "rounds": rounds, "tasks": TASKS, "calls": COUNT, "sampled": SAMPLED}
    return {"machine": machine.describe(), "settings": settings, "figures": found}


async def _turn(manager: StateManager, mode: str, provider: TracerProvider) -> dict[str, float]:
    await manager.set("read", "key", 1)
    with _switched(mode, provider):
        found = {"get": await _calls(lambda _: manager.get("read", "key"))}
        found["set"] = await _calls(lambda number: manager.set("written", f"key{number}", 1))
    seen, done = 0, asyncio.Event()

    @step({"name": "Count", "triggers": [state(scope="work")]})
    async def count(_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == COUNT:
            done.set()

    with _switched(mode, provider):
        worker = Worker(Application((count,)), manager)
        await worker.prepare()
    for first in range(0, COUNT, BATCH):
        await asyncio.gather(*(_write(manager, number) for number in range(first, first + BATCH)))
    with _switched(mode, provider):
        began = time.perf_counter()
        running = asyncio.create_task(worker.run())
        await done.wait()
        found["handled event"] = (time.perf_counter() - began) / COUNT * 1e6
        worker.stop()
        await running
    return found


async def _calls(call: Callable[[int], Awaitable[Any]]) -> float:
    async def some() -> None:
        for number in range(COUNT // TASKS):
            await call(number)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(TASKS)))
    return (time.perf_counter() - began) / COUNT * 1e6


async def _write(manager: StateManager, number: int) -> None:
    """Write an event that carries a span, of which few are sampled."""
    flags = "01" if random.random() < SAMPLED else "00"
    with _tracing.trace(f"00-{random.getrandbits(127) + 1:032x}-{random.getrandbits(63) + 1:016x}-{flags}"):
        await manager.set("work", f"key{number}", 1)


@contextmanager
def _switched(mode: str, provider: TracerProvider) -> Iterator[None]:
    if mode == "metrics":
        _metrics.switch_on()
    elif mode.endswith("spans"):
        telemetry.enable(metrics=False, calls=mode == "call spans", tracer_provider=provider)
    try:
        yield
    finally:
        telemetry.disable()
        _metrics.switch_off()


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = []
    for work, modes in result["figures"].items():
        for mode, found in modes.items():
            low, _, high = quantiles(found, n=4) if len(found) > 1 else found * 3
            ratio = median(mine / off for mine, off in zip(found, modes["off"], strict=True))
            rows.append([work, mode, figure(median(found)), f"{figure(low)} to {figure(high)}", f"{ratio:.2f}"])
    head = ["work", "mode", "µs", "quartiles", "this / off"]
    return f"{machine.conditions(result)}\n{markdown(head, rows, text_columns=2)}"


if __name__ == "__main__":
    sys.exit(program.run(main))

"""`--telemetry`: spans and metrics of processes, exported by the SDK that the application has configured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from motia_redis import StateManager
from tests.support.applications import Command
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RedisServer

STEPS = """
from motia_redis import queue, state, step

@step({"name": "Ship", "triggers": [state(scope="orders")]})
async def ship(input, ctx):
    await ctx.state.set("shipped", input.item_id, 1)
    await ctx.enqueue({"topic": "mail", "data": {"to": "secret-address"}})

@step({"name": "Mail", "triggers": [queue("mail")]})
def mail(data): ...
"""
SDK = """
from pathlib import Path
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

def line(found):
    return found.to_json(indent=None) + "\\n"

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=open("spans.jsonl", "a", 1), formatter=line)))
trace.set_tracer_provider(provider)
exporter = ConsoleMetricExporter(out=open("metrics.jsonl", "a", 1), formatter=line)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=200)]))
"""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


async def test_worker_exports_linked_spans_and_its_numbers(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SDK + STEPS)
    target = ("--redis", server.url, "--namespace", namespace)
    with Command(tmp_path, "worker", "app.py", *target, "--telemetry") as worker:
        async with StateManager(server.url, namespace=namespace) as state:
            await state.set("orders", "secret-key", {"secret": "value"})
        wait_until(lambda: any(s["name"] == "process mail" for s in lines_of(tmp_path / "spans.jsonl")), "the last span")
        wait_until(lambda: "motia_redis.step_lanes_held" in _names(tmp_path), "numbers of the namespace")
        assert worker.stop() == 0
        assert "no SDK" not in worker.output
    spans = {span["name"]: span for span in lines_of(tmp_path / "spans.jsonl")}
    # The change came from a process without telemetry: its trace begins at the worker.
    assert {"receive orders", "process orders", "send shipped", "send mail", "process mail"} <= spans.keys()
    assert len({span["context"]["trace_id"] for span in spans.values()}) == 1
    assert spans["process mail"]["links"][0]["context"]["span_id"] == spans["send mail"]["context"]["span_id"]
    assert spans["send mail"]["parent_id"] == spans["process orders"]["context"]["span_id"]
    assert "secret" not in (tmp_path / "spans.jsonl").read_text()
    assert "secret" not in (tmp_path / "metrics.jsonl").read_text()


def _names(folder: Path) -> set[str]:
    return set(re.findall(r'"name": "(motia_redis\.[\w.]+)"', (folder / "metrics.jsonl").read_text()))


def test_without_an_sdk_the_command_says_that_nothing_is_exported(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(STEPS)
    with Command(tmp_path, "worker", "app.py", "--redis", server.url, "--namespace", namespace, "--telemetry") as worker:
        assert "--telemetry: no SDK of OpenTelemetry is configured, so nothing is exported" in worker.output


def test_without_the_package_the_command_names_the_extra(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('broken for a test')\n")
    (tmp_path / "app.py").write_text(STEPS)
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from motia_redis._cli.main import main; main()"
    arguments = ["worker", "app.py", "--redis", server.url, "--namespace", namespace, "--telemetry"]
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "pip install 'motia-redis[telemetry]'" in done.stderr.splitlines()[-1]

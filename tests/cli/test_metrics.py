"""Metrics: what a process counts, what it reads from Redis, and what Prometheus says about the text."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from motia_redis import StateManager
from motia_redis.admin import pause_step
from tests.support.applications import Command
from tests.support.http import ask, port_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.servers import RedisServer

APP = """
import time
from motia_redis import cron, http, queue, state, step, stateManager
from motia_redis.errors import RevisionConflict

@step({"name": "Work", "triggers": [state(scope="secret-orders")]})
async def work(input, ctx):
    await ctx.state.set("secret-done", input.item_id, 1)

@step({"name": "Fail", "triggers": [queue("bad")], "max_attempts": 2, "backoff": 0.05})
async def fail(data):
    raise ValueError("no")

@step({"name": "Slow", "triggers": [queue("slow")]})
def slow(data):
    time.sleep(data)

@step({"name": "Daily", "triggers": [cron("0 8 * * *"), cron("0 9 * * *")]})
async def daily(input):
    pass

@step({"name": "Conflict", "triggers": [queue("conflict")]})
async def conflict(data, ctx):
    await ctx.state.set("secret-scope", "key", 1)
    for _ in range(3):
        try:
            await ctx.state.set("secret-scope", "key", 2, if_revision="0-1")
        except RevisionConflict:
            pass
    async with ctx.state.transaction() as tx:
        tx.set("secret-scope", "a", 1)
        tx.set("secret-scope", "b", 2)
    await stateManager.delete("secret-scope", "a")
    async with ctx.state.mirror("secret-scope"):
        await ctx.state.set("secret-scope", "in", data)
        import asyncio
        while await ctx.state.get("secret-scope", "stop") is None:
            await asyncio.sleep(0.05)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


class Scrape:
    """What one scrape has told."""

    def __init__(self, process: Command) -> None:
        status, self.text = ask(f"http://127.0.0.1:{port_of(process, 'metrics')}/metrics", timeout=20)
        assert status == 200
        self.samples = [sample for family in text_string_to_metric_families(self.text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a metric with these labels, among others; None: there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == f"motia_redis_{name}" and labels.items() <= _plain(sample.labels).items()
        ]
        assert len(found) < 2, (name, labels)
        return found[0] if found else None


def _plain(labels: Mapping[str, str]) -> dict[str, str]:
    return dict(labels)


def wait_for(process: Command, name: str, value: float, **labels: str) -> Scrape:
    """Wait until a metric has a value. What is read from Redis may be 5 s old."""
    scrapes: list[Scrape] = []

    def holds() -> bool:
        scrapes.append(Scrape(process))
        return scrapes[-1].value(name, **labels) == value

    try:
        wait_until(holds, f"{name} is {value}")
    except AssertionError:
        raise AssertionError(f"{name} {labels} is not {value}:\n{scrapes[-1].text}") from None
    return scrapes[-1]


def start(directory: Path, server: RedisServer, namespace: str, name: str, *options: str) -> Command:
    port = [] if name == "worker" else ["--port", "0"]
    common = ["--redis", server.url, "--namespace", namespace, *port, "--metrics", "0", *options]
    return Command(directory, name, "app.py", *common)


async def test_every_number_is_right_after_planted_work(directory: Path, server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as state:
        with start(directory, server, namespace, "worker", "--concurrency", "8") as process:
            for number in range(20):
                await state.set("secret-orders", f"secret-key-{number}", number)
            for _ in range(3):
                await state.enqueue("bad", "secret-data")
            await state.enqueue("slow", 0.3)
            await state.enqueue("conflict", 1)
            await state.enqueue("unread", 1)
            await state.enqueue("slow", 0, delay=3600)
            await state.set("secret-scope", "short", 1, ttl=0.2)
            await state.set("secret-scope", "shorter", 1, ttl=0.1)
            # of this process
            wait_for(process, "events_total", 20, step="Work", outcome="handled")
            wait_for(process, "events_total", 3, step="Fail", outcome="dead_letter")
            wait_for(process, "events_total", 1, step="Slow", outcome="handled")
            wait_for(process, "expiries_total", 2)
            scrape = wait_for(process, "watchers", 1)
            assert scrape.value("events_total", step="Fail", outcome="failed") == 3
            assert scrape.value("events_total", step="Fail", outcome="handled") == 0
            assert scrape.value("handler_duration_seconds_count", step="Work") == 20
            assert scrape.value("handler_duration_seconds_count", step="Fail") == 6
            assert scrape.value("handler_duration_seconds_bucket", step="Slow", le="0.25") == 0
            assert scrape.value("handler_duration_seconds_bucket", step="Slow", le="+Inf") == 1
            assert 0.3 <= (scrape.value("handler_duration_seconds_sum", step="Slow") or 0) < 5
            assert scrape.value("handlers_running", step="Conflict") == 1
            assert scrape.value("handlers_running", step="Work") == 0
            assert scrape.value("conflicts_total") == 3
            assert scrape.value("changes_total", operation="set") == 22
            assert scrape.value("changes_total", operation="transaction") == 2
            assert scrape.value("changes_total", operation="delete") == 1, "the global manager's calls count, too"
            assert scrape.value("call_duration_seconds_count", operation="set") == 22
            assert scrape.value("call_duration_seconds_count", operation="transaction") == 1
            assert (scrape.value("call_duration_seconds_count", operation="get") or 0) > 0
            assert scrape.value("call_retries_total", operation="set") is None
            assert scrape.value("worker_lanes_held", step="Work") == 8
            assert 0 <= (scrape.value("worker_heartbeat_age_seconds") or 0) < 3
            assert scrape.value("build_info", redis_namespace=namespace) == 1
            # of the namespace
            scrape = wait_for(process, "step_dead_letters", 3, step="Fail")
            scrape = wait_for(process, "step_lanes_held", 8, step="Work")
            assert scrape.value("step_lanes", step="Work") == 8
            assert scrape.value("step_paused", step="Work", redis_namespace=namespace) == 0
            assert scrape.value("redis_up") == 1
            assert scrape.value("workers") == 1
            assert scrape.value("delayed_messages") == 1
            assert scrape.value("due_overdue_seconds") == 0
            assert scrape.value("unread_topic_messages") == 1
            assert scrape.value("step_schedules", step="Daily", redis_namespace=namespace) == 2
            assert scrape.value("step_schedules_due", step="Daily") == scrape.value("step_schedules_late", step="Daily") == 0
            for kind in ("events", "messages", "dead_letters"):
                assert (scrape.value("stream_bytes", stream=kind) or 0) > 100
            scrape = wait_for(process, "step_entries_behind", 0, step="Work")
            assert scrape.value("step_oldest_unhandled_age_seconds", step="Work") == 0
            assert scrape.value("step_entries_behind", step="Conflict") == 1
            assert (scrape.value("step_oldest_unhandled_age_seconds", step="Conflict") or 0) > 0
            await state.set("secret-scope", "stop", 1)
            wait_for(process, "events_total", 1, step="Conflict", outcome="handled")
            scrape = wait_for(process, "watchers", 0)
            assert "secret" not in scrape.text, "names of scopes and keys, and values, are no labels"
            assert process.stop() == 0


async def test_what_no_worker_handles_is_behind_and_gets_old(directory: Path, server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as state:
        with start(directory, server, namespace, "worker", "--concurrency", "1"):
            pass
        (directory / "other.py").write_text(
            'from motia_redis import queue, step\n@step({"name": "O", "triggers": [queue("o")]})\ndef o(data): pass\n'
        )
        for number in range(7):
            await state.set("secret-orders", f"{number}", number)
        options = ["--redis", server.url, "--namespace", namespace, "--metrics", "0"]
        with Command(directory, "worker", "other.py", *options) as process:
            scrape = wait_for(process, "step_lanes_held", 0, step="Work")
            scrape = wait_for(process, "step_entries_behind", 7, step="Work")
            assert (scrape.value("step_oldest_unhandled_age_seconds", step="Work") or 0) > 0
            assert scrape.value("worker_lanes_held", step="Work") is None
            await pause_step(state, "Work")
            scrape = wait_for(process, "step_paused", 1, step="Work")
            assert scrape.value("step_paused", step="Fail") == 0


async def test_serve_tells_its_own_numbers_only(directory: Path, server: RedisServer, namespace: str) -> None:
    with start(directory, server, namespace, "serve") as process:
        scrape = Scrape(process)
    assert scrape.value("build_info") == 1
    assert scrape.value("redis_up") is scrape.value("workers") is None


async def test_scrape_goes_on_without_redis_and_says_so(directory: Path, own_server: RedisServer, namespace: str) -> None:
    with start(directory, own_server, namespace, "worker") as process:
        wait_for(process, "redis_up", 1)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            scrape = wait_for(process, "redis_up", 0)
            assert scrape.value("workers") is None, "old numbers would look like new ones"
            assert (scrape.value("worker_heartbeat_age_seconds") or 0) > 0
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        wait_for(process, "redis_up", 1)


async def test_probes_and_metrics_can_share_a_port(directory: Path, server: RedisServer, namespace: str) -> None:
    with start(directory, server, namespace, "worker") as process:  # to find a free port
        free = str(port_of(process, "metrics"))
    with start(directory, server, namespace, "worker", "--metrics", free, "--health", free) as process:
        url = f"http://127.0.0.1:{port_of(process, 'probes and metrics')}"
        assert ask(f"{url}/livez")[0] == ask(f"{url}/metrics")[0] == 200


async def test_promtool_is_content(directory: Path, server: RedisServer, namespace: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it is in Debian's package prometheus")
    async with StateManager(server.url, namespace=namespace) as state:
        await state.set("secret-orders", "1", 1)
    with start(directory, server, namespace, "worker") as process:
        text = wait_for(process, "redis_up", 1).text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_docs_name_every_metric(directory: Path, server: RedisServer, namespace: str) -> None:
    with start(directory, server, namespace, "worker") as process:
        told = set(re.findall(r"^# TYPE motia_redis_(\w+) ", wait_for(process, "redis_up", 1).text, re.MULTILINE))
    text = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text()
    documented = set(re.findall(r"`motia_redis_(\w+)", text))
    assert told == documented


def test_process_without_metrics_imports_no_library_for_them(directory: Path, server: RedisServer, namespace: str) -> None:
    (directory / "look.py").write_text(
        "import sys\nfrom motia_redis import http, step\n\n"
        '@step({"name": "Look", "triggers": [http("GET", "/look")]})\n'
        "async def look(request):\n"
        '    return {"body": [name for name in sys.modules if name.startswith("prometheus")]}\n'
    )
    options = ["--redis", server.url, "--namespace", namespace, "--port", "0"]
    with Command(directory, "run", "look.py", *options) as process:
        assert ask(f"http://127.0.0.1:{process.port}/look") == (200, "[]")


def test_metrics_without_the_package_name_the_extra(directory: Path, server: RedisServer) -> None:
    (directory / "sitecustomize.py").write_text("import sys\nsys.modules['prometheus_client'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "motia_redis", "worker", "app.py", "--redis", server.url, "--metrics", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{directory}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "--metrics needs the package prometheus-client: pip install 'motia-redis[metrics]'"
    )

"""Probes: whether the loop turns, and whether the process can do its work."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_serving import command
from tests.support.applications import Command
from tests.support.http import ask, port_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import RedisServer

APP = """
import time
from motia_redis import http, queue, step

@step({"name": "Get", "triggers": [http("GET", "/hello")]})
async def get(request):
    return {"body": "hello"}

@step({"name": "Block", "triggers": [http("GET", "/block"), queue("block")]})
async def block(request):
    print("it blocks", flush=True)
    time.sleep(4)

@step({"name": "Send", "triggers": [http("GET", "/send")]})
async def send(request, ctx):
    await ctx.enqueue({"topic": "block", "data": 1})
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@contextlib.contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """Let a server answer nothing meanwhile."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def start(directory: Path, server: RedisServer, namespace: str, name: str, *options: str) -> Command:
    port = [] if name == "worker" else ["--port", "0"]
    return Command(directory, name, "app.py", "--redis", server.url, "--namespace", namespace, *port, *options)


def probes_of(process: Command, name: str) -> str:
    return f"http://127.0.0.1:{port_of(process, 'probes') if name == 'worker' else process.port}"


@pytest.mark.parametrize("name", ["run", "serve", "worker"])
def test_outage_of_redis_makes_a_process_unready_and_restarts_nobody(
    name: str, directory: Path, own_server: RedisServer, namespace: str
) -> None:
    with start(directory, own_server, namespace, name, *(["--health", "0"] if name == "worker" else [])) as process:
        url = probes_of(process, name)
        wait_until(lambda: ask(f"{url}/readyz") == (200, "ok\n"), "the process is ready")
        with paused(own_server):
            wait_until(lambda: ask(f"{url}/readyz")[0] == 503, "the process is not ready")
            for _ in range(3):
                began = time.monotonic()
                assert ask(f"{url}/readyz")[0] == 503
                assert ask(f"{url}/livez") == (200, "ok\n")
                assert time.monotonic() - began < 3
            assert ask(f"{url}/readyz")[1].startswith(("Redis", "no heartbeat for"))
        wait_until(lambda: ask(f"{url}/readyz")[0] == 200, "the process is ready again")


def test_worker_without_heartbeat_within_its_lease_says_so(directory: Path, own_server: RedisServer, namespace: str) -> None:
    with start(directory, own_server, namespace, "worker", "--health", "0", "--lease", "0.5") as process:
        url = probes_of(process, "worker")
        wait_until(lambda: ask(f"{url}/readyz")[0] == 200, "the worker is ready")
        with paused(own_server):
            wait_until(lambda: "; the lease is 0.5 s" in ask(f"{url}/readyz")[1], "the heartbeat is missing")


@pytest.mark.parametrize("path", ["/block", "/send"], ids=["of HTTP", "of the worker"])
def test_blocked_loop_answers_no_probe_and_leaves_the_file_old(
    path: str, directory: Path, server: RedisServer, namespace: str
) -> None:
    file = directory / "live"
    with start(directory, server, namespace, "run", "--health", "0", "--health-file", str(file)) as process:
        wait_until(lambda: time.time() - file.stat().st_mtime < 1.5, "the file is touched")

        def hang() -> None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{process.port}{path}", timeout=30).close()

        thread = threading.Thread(target=hang)
        thread.start()
        try:
            wait_until(lambda: "it blocks" in process.output, "the handler blocks")
            for port in (process.port, port_of(process, "probes")):
                with pytest.raises(OSError, match="timed out"):
                    ask(f"http://127.0.0.1:{port}/livez", timeout=0.7)
            assert time.time() - file.stat().st_mtime > 1.2
        finally:
            thread.join()
        wait_until(lambda: time.time() - file.stat().st_mtime < 1, "the file is touched again")
        assert process.stop() == 0
    assert not file.exists()


def test_file_is_touched_while_redis_is_away(directory: Path, own_server: RedisServer, namespace: str) -> None:
    file = directory / "live"
    with start(directory, own_server, namespace, "worker", "--health-file", str(file)), paused(own_server):
        seen = {file.stat().st_mtime}
        wait_until(lambda: (seen.add(file.stat().st_mtime) or len(seen)) > 2, "the file is touched twice")


def test_process_that_waits_for_redis_is_live_and_not_ready(directory: Path) -> None:
    with Command(
        directory, "worker", "app.py", "--redis", "redis://127.0.0.1:1", "--health", "0", ready="waiting up to"
    ) as process:
        url = probes_of(process, "worker")
        assert ask(f"{url}/livez")[0] == 200
        assert ask(f"{url}/readyz") == (503, "starting\n")
        assert process.stop() == 0


def test_process_that_ends_is_live_and_not_ready(directory: Path, server: RedisServer, namespace: str) -> None:
    (directory / "slow.py").write_text(
        "import time\nfrom motia_redis import http, step\n\n"
        '@step({"name": "Slow", "triggers": [http("GET", "/slow")]})\n'
        'def slow(request):\n    print("it runs", flush=True)\n    time.sleep(3)\n'
    )
    options = ["--redis", server.url, "--namespace", namespace, "--port", "0", "--health", "0"]
    with Command(directory, "serve", "slow.py", *options) as process:
        thread = threading.Thread(target=lambda: ask(f"http://127.0.0.1:{process.port}/slow", timeout=30))
        thread.start()
        wait_until(lambda: "it runs" in process.output, "the handler runs")
        process.process.terminate()
        url = f"http://127.0.0.1:{port_of(process, 'probes')}"
        wait_until(lambda: ask(f"{url}/readyz") == (503, "stopping\n"), "the process is not ready")
        assert ask(f"{url}/livez")[0] == 200
        thread.join()
        assert process.process.wait(20) == 0


def test_probes_are_not_logged_as_requests_and_other_requests_are_answered(
    directory: Path, server: RedisServer, namespace: str
) -> None:
    with start(directory, server, namespace, "serve") as process:
        url = f"http://127.0.0.1:{process.port}"
        assert ask(f"{url}/livez")[0] == ask(f"{url}/readyz")[0] == 200
        assert ask(f"{url}/hello") == (200, "hello")
        assert ask(f"{url}/metrics")[0] == 404
        request = urllib.request.Request(f"{url}/livez", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=5)
        assert "GET /livez" not in process.output
        assert "GET /hello 200" in process.output


def test_route_of_a_step_wins_only_if_its_path_is_that_of_a_probe(directory: Path, server: RedisServer, namespace: str) -> None:
    (directory / "own.py").write_text(
        "from motia_redis import http, step\n\n"
        '@step({"name": "Own", "triggers": [http("GET", "/livez"), http("GET", "/:any")]})\n'
        'def own(request):\n    return {"body": "own"}\n'
    )
    options = ["--redis", server.url, "--namespace", namespace, "--port", "0", "--health", "0"]
    with Command(directory, "serve", "own.py", *options) as process:
        url = f"http://127.0.0.1:{process.port}"
        assert ask(f"{url}/livez") == (200, "own")
        assert ask(f"{url}/readyz") == (200, "ok\n")
        assert ask(f"http://127.0.0.1:{port_of(process, 'probes')}/livez") == (200, "ok\n")
        assert "step Own has a route /livez: no probe is answered there" in process.output


def test_option_that_cannot_work_ends_the_command_with_one_line(directory: Path, server: RedisServer) -> None:
    wrong = command(directory, "worker", "app.py", "--health", "localhost")
    assert wrong.returncode == 2
    assert "'localhost' is not PORT or HOST:PORT" in wrong.stderr
    missing = command(directory, "worker", "app.py", "--redis", server.url, "--health-file", "missing/live")
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].startswith("motia-redis: error: cannot touch the --health-file missing/live: ")
    for option in ("--health", "--metrics"):
        unknown = command(directory, "worker", "app.py", "--redis", server.url, option, "203.0.113.1:9464")
        assert unknown.returncode == 2
        assert "choose another port for --health and --metrics" in unknown.stderr

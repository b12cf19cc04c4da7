"""Test `run`, `serve` and `worker` as processes: what they print, what they wait for, and how they end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.applications import Command
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import threading, time
from motia_redis import http, queue, state, step

@step({"name": "CreateUser", "triggers": [http("POST", "/users"), http("GET", "/users/:id")]})
async def create(request, ctx):
    return {"status": 201, "body": request.path_params}

changes = [state(lambda change: True, scope="users"), state(scope="a", key="b"), state()]
@step({"name": "Welcome", "triggers": [*changes, queue("mail")]})
async def welcome(input, ctx):
    pass

@step({"name": "Hang", "triggers": [http("GET", "/hang")]})
def hang(request):
    print("it hangs", flush=True)
    threading.Event().wait()

@step({"name": "Block", "triggers": [http("GET", "/block")]})
async def block(request):
    print("it hangs", flush=True)
    time.sleep(60)

@step({"name": "HangInWorker", "triggers": [queue("hang")]})
def hang_in_worker(data):
    print("it hangs", flush=True)
    threading.Event().wait()

@step({"name": "Send", "triggers": [http("GET", "/send")]})
async def send(request, ctx):
    await ctx.enqueue({"topic": "hang", "data": 1})
"""
HTTP_ONLY = """
from motia_redis import http, step

@step({"name": "Get", "triggers": [http("GET", "/")]})
def get(request):
    pass
"""
WORKER_ONLY = """
from motia_redis import queue, step

@step({"name": "Mail", "triggers": [queue("mail")]})
def mail(data):
    pass
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "http_only.py").write_text(HTTP_ONLY)
    (tmp_path / "worker_only.py").write_text(WORKER_ONLY)
    return tmp_path


def run(directory: Path, server: RedisServer, namespace: str, *options: str, name: str = "run", app: str = "app.py") -> Command:
    port = [] if name == "worker" else ["--port", "0"]
    return Command(directory, name, app, "--redis", server.url, "--namespace", namespace, *port, *options)


def hang(process: Command, path: str) -> None:
    """Send a request whose handler never ends, and wait until it runs."""

    def ask() -> None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{process.port}{path}", timeout=60).close()

    threading.Thread(target=ask, daemon=True).start()
    wait_until(lambda: "it hangs" in process.output, "the handler runs")


def seconds_to_end(process: Command, first: int, second: int | None = None) -> float:
    """Send a signal, and another one if given, and return how long the process then needs to end."""
    began = time.monotonic()
    process.process.send_signal(first)
    while second is not None and process.process.poll() is None:
        time.sleep(0.1)  # the second may be sent too early, before the first is handled: it is repeated
        process.process.send_signal(second)
    process.process.wait(30)
    return time.monotonic() - began


# -- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "serve", "worker"])
def test_start_names_version_redis_namespace_steps_triggers_and_routes(
    name: str, directory: Path, server: RedisServer, namespace: str
) -> None:
    with (
        run(directory, server, namespace, name=name) as text,
        run(directory, server, namespace, "--log-format", "json", name=name) as js,
    ):
        ready = '"message":"worker ready' if name == "worker" else '"message":"serving'
        wait_until(lambda: ready in js.output, "the line is logged, too")
        plain = text.output
        records = [json.loads(line) for line in js.output.splitlines() if line.startswith("{")]
    fields = [record["fields"] for record in records if "redis" in record["fields"]]
    assert fields == [{"redis": server.url, "namespace": namespace}]
    steps = {record["message"]: record["fields"]["triggers"] for record in records if "triggers" in record["fields"]}
    expected: dict[str, list[str]] = {}
    if name != "worker":
        expected["step CreateUser"] = ["POST /users", "GET /users/:id"]
    if name != "serve":
        expected["step Welcome"] = ["state users (condition)", "state a/b", "state of all scopes", "queue mail"]
    assert expected.items() <= steps.items()
    assert len(steps) == {"run": 6, "serve": 4, "worker": 2}[name]
    assert records[-1]["message"].startswith("worker ready (2" if name == "worker" else "serving http://127.0.0.1:")
    for part in ("motia-redis 0.", f"redis={server.url}", f"namespace={namespace}"):
        assert part in plain
    for triggers in expected.values():
        assert all(trigger in plain for trigger in triggers)


def test_start_waits_for_a_redis_that_is_not_there_yet(directory: Path, namespace: str) -> None:
    server = RedisServer(directory)

    def start() -> None:
        wait_until(lambda: any("waiting up to" in log.read_text() for log in directory.glob("worker-*.log")), "the worker waits")
        server.start()

    starting = threading.Thread(target=start)
    starting.start()
    try:
        with run(directory, server, namespace, name="worker") as process:
            lines = [line for line in process.output.splitlines() if "WARNING" in line and "Redis" in line]
            assert "waiting up to 30 s for Redis: " in lines[0]
            assert sum("waiting" in line for line in lines) == 1
            assert "Redis is available" in process.output
    finally:
        starting.join()
        server.kill()


def test_start_gives_up_when_the_wait_is_over(directory: Path) -> None:
    began = time.monotonic()
    done = command(directory, "worker", "app.py", "--redis", "redis://127.0.0.1:1", "--wait", "1")
    assert 1 <= time.monotonic() - began < 30
    assert done.returncode == 2
    assert "waiting up to 1 s for Redis" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("motia-redis: error: ")


def test_start_does_not_wait_for_a_redis_that_refuses_the_login(directory: Path, server: RedisServer) -> None:
    url = f"unix://:secret@{server.socket}"
    done = command(directory, "worker", "app.py", "--redis", url)
    assert done.returncode == 2
    assert "waiting" not in done.stderr
    assert "has no password" in done.stderr
    assert "secret" not in done.stderr


def test_signal_ends_a_process_that_waits_for_redis(directory: Path) -> None:
    with Command(directory, "worker", "app.py", "--redis", "redis://127.0.0.1:1", ready="waiting up to") as process:
        assert process.stop() == 0


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motia_redis", *arguments], capture_output=True, text=True, timeout=60, cwd=directory, check=False
    )


@pytest.mark.parametrize(
    ("name", "app", "warning"),
    [
        ("worker", "http_only.py", "this worker has nothing to do"),
        ("serve", "worker_only.py", "every request will be answered with 404"),
        ("run", "worker_only.py", "every request will be answered with 404"),
        ("run", "http_only.py", None),
        ("worker", "worker_only.py", None),
    ],
)
def test_process_without_anything_to_do_is_a_warning(
    name: str, app: str, warning: str | None, directory: Path, server: RedisServer, namespace: str
) -> None:
    with run(directory, server, namespace, name=name, app=app) as process:
        warnings = [line for line in process.output.splitlines() if "WARNING" in line and "no step has" in line]
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


@pytest.mark.parametrize("options", [[], ["--no-access-log"]])
def test_requests_are_logged_unless_turned_off(options: list[str], directory: Path, server: RedisServer, namespace: str) -> None:
    with run(directory, server, namespace, *options) as process:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{process.port}/unknown?token=secret", timeout=60)
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/users/ann", timeout=60) as response:
            trace_id = response.headers["x-trace-id"]
        assert process.stop() == 0
        lines = [line for line in process.output.splitlines() if "motia_redis.http" in line]
    if options:
        assert lines == []
    else:
        assert [line.split(" ms=")[0].split(maxsplit=5)[5] for line in lines] == ["GET /unknown 404", "GET /users/ann 201"]
        assert trace_id[:8] in lines[1]
        assert "secret" not in lines[0]


def test_cors_origin_is_allowed(directory: Path, server: RedisServer, namespace: str) -> None:
    with run(directory, server, namespace, "--cors-origin", "https://app.example.com") as process:
        request: Any = urllib.request.Request(
            f"http://127.0.0.1:{process.port}/users/ann", headers={"Origin": "https://app.example.com"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.headers["access-control-allow-origin"] == "https://app.example.com"


FAULTY = """
import asyncio, sys, threading, warnings
from motia_redis import http, step

FORGED = "x\\n2026-11-26T12:00:00.000Z INFO forged\\x1b[2J"

@step({"name": "ExitInTask", "triggers": [http("GET", "/exit/:kind")]})
async def exit_in_task(request):
    async def leave():
        raise SystemExit(3) if request.path_params["kind"] == "exit" else KeyboardInterrupt
    asyncio.create_task(leave())
    await asyncio.sleep(0.1)
    return {"body": "alive"}

class Unraisable:
    def __del__(self):
        raise ValueError(FORGED)

@step({"name": "Uncaught", "triggers": [http("GET", "/uncaught")]})
def uncaught(request):
    def fails():
        raise ValueError(FORGED)
    thread = threading.Thread(target=fails, name=FORGED)
    thread.start()
    thread.join()
    Unraisable()
    warnings.warn(FORGED)
"""


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
def test_task_of_a_handler_that_exits_does_not_end_the_process(
    kind: str, directory: Path, server: RedisServer, namespace: str
) -> None:
    (directory / "faulty.py").write_text(FAULTY)
    with run(directory, server, namespace, app="faulty.py") as process:
        for _ in range(2):
            with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/exit/{kind}", timeout=60) as response:
                assert response.read() == b"alive"
        assert process.output.count("which does not end the process") == 2
        assert process.stop() == 0


def test_what_python_prints_by_itself_is_logged_and_escaped(directory: Path, server: RedisServer, namespace: str) -> None:
    (directory / "faulty.py").write_text(FAULTY)
    with run(directory, server, namespace, app="faulty.py") as process:
        urllib.request.urlopen(f"http://127.0.0.1:{process.port}/uncaught", timeout=60).close()
        assert process.stop() == 0
        lines = process.output.splitlines()
    assert "\x1b" not in process.output
    assert not [line for line in lines if line.startswith("2026-11-26T12:00:00.000Z")]
    assert [line for line in lines if "ERROR" in line and "uncaught in thread x\\n2026" in line]
    assert [line for line in lines if "ERROR" in line and "Unraisable.__del__" in line]
    assert [line for line in lines if "WARNING" in line and "UserWarning: x\\n2026" in line]


# -- the end ----------------------------------------------------------------------------------------------------------


def test_process_without_work_ends_at_once(directory: Path, server: RedisServer, namespace: str) -> None:
    with run(directory, server, namespace) as process:
        assert seconds_to_end(process, signal.SIGTERM) < 10
        assert process.process.returncode == 0
        assert "grace" not in process.output


def test_unfinished_request_ends_with_the_grace_time_which_names_it(directory: Path, server: RedisServer, namespace: str) -> None:
    with (
        run(directory, server, namespace, "--grace", "2") as process,
        socket.create_connection(("127.0.0.1", process.port)) as connection,
    ):
        connection.sendall(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        assert 1 < seconds_to_end(process, signal.SIGTERM) < 10
        assert process.process.returncode == 0
        assert "stopping: waiting up to 2 s for request POST /users (for " in process.output
        assert "the grace time of 2 s is over: ending without request POST /users (for " in process.output
        assert "Traceback" not in process.output
        assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
        assert " POST /users 503 " in process.output


def test_response_that_nobody_reads_ends_with_the_grace_time_which_names_it(
    directory: Path, server: RedisServer, namespace: str
) -> None:
    (directory / "big.py").write_text(HTTP_ONLY.replace("pass", "return {'body': 'x' * 50_000_000}"))
    with (
        run(directory, server, namespace, "--grace", "2", name="serve", app="big.py") as process,
        socket.create_connection(("127.0.0.1", process.port)) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(10) == b"HTTP/1.1 2"
        assert 1 < seconds_to_end(process, signal.SIGTERM) < 10
        assert "ending without 1 connection whose client has not read its response" in process.output


@pytest.mark.parametrize(
    ("path", "named"),
    [("/hang", "request GET /hang (for "), ("/block", "request GET /block (for "), ("/send", "step HangInWorker (topic hang)")],
    ids=["thread", "blocked loop", "thread of the worker"],
)
def test_handler_that_never_ends_is_left_when_the_grace_time_is_over(
    path: str, named: str, directory: Path, server: RedisServer, namespace: str
) -> None:
    with run(directory, server, namespace, "--grace", "2", "--log-format", "json") as process:
        hang(process, path)
        assert 1 < seconds_to_end(process, signal.SIGTERM) < 10
        assert process.process.returncode == 0
        messages = [json.loads(line)["message"] for line in process.output.splitlines() if line.startswith("{")]
    assert any(named in message for message in messages if "grace time of 2 s is over" in message)


@pytest.mark.parametrize("path", ["/hang", "/block", "/send"])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_process_at_once(
    path: str, second: int, directory: Path, server: RedisServer, namespace: str
) -> None:
    with run(directory, server, namespace) as process:
        hang(process, path)
        assert seconds_to_end(process, signal.SIGINT, second) < 10
        assert process.process.returncode == 128 + second

"""`motia-redis console`: how it starts, whom it lets in, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from motia_redis import StateManager
from tests.support.applications import Command
from tests.support.commands import error_line, run_command
from tests.support.http import ask, port_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import RedisServer

TOKEN = "a token of some length"


@pytest.fixture
async def target(server: RedisServer, namespace: str) -> list[str]:
    """Options that name a namespace that exists."""
    async with StateManager(server.url, namespace=namespace) as state:
        await state.set("users", "ann", {"card": "4111-secret", "password": "hunter2-secret", "name": "Ann"})
    return ["--redis", server.url, "--namespace", namespace]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


def start(directory: Path, target: list[str], *options: str) -> Command:
    return Command(directory, "console", *target, "--port", "0", *options)


def url_of(process: Command) -> str:
    return f"http://127.0.0.1:{port_of(process, 'console')}"


def test_console_prints_its_address_and_serves_it(tmp_path: Path, target: list[str]) -> None:
    with start(tmp_path, target) as process:
        assert re.fullmatch(r"motia-redis: console at http://127\.0\.0\.1:\d+/\n", process.output)
        status, page = ask(f"{url_of(process)}/scopes")
        assert (status, "users" in page, "read-only" in page) == (200, True, True)
        assert process.stop() == 0


async def test_other_machines_need_a_token(server: RedisServer, namespace: str, target: list[str]) -> None:
    done = await run_command(server, namespace, "console", "--host", "0.0.0.0", "--port", "0")
    assert error_line(done) == (
        "--host 0.0.0.0 lets other machines in, so the console needs a token: give --token-file, or listen on 127.0.0.1"
    )


def test_token_of_a_file_lets_in(tmp_path: Path, target: list[str], token_file: Path) -> None:
    with start(tmp_path, target, "--host", "0.0.0.0", "--token-file", str(token_file), "--allow-changes") as process:
        port = re.search(r"console at http://0\.0\.0\.0:(\d+)/", process.output)
        assert port, process.output
        url = f"http://127.0.0.1:{port[1]}/scopes"
        assert "Log in" in ask(url)[1]  # it leads to the login
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            page = answer.read().decode()
        assert "users" in page
        assert "changes allowed" in page
        assert TOKEN not in process.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--token-file", "short"], "the console's token must have at least 16 characters, not 5"),
        (["--token-file", "binary"], "--token-file binary cannot be read"),
        (["--root-path", "ops"], "--root-path must begin with / and not end with it, not 'ops'"),
        (["--root-path", "/ops/"], "--root-path must begin with / and not end with it, not '/ops/'"),
    ],
)
async def test_option_that_cannot_be_is_refused(
    options: list[str], text: str, server: RedisServer, namespace: str, target: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "short").write_text("short")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    assert text in error_line(await run_command(server, namespace, "console", "--port", "0", *options))


async def test_namespace_that_does_not_exist_is_an_error(server: RedisServer, namespace: str) -> None:
    line = error_line(await run_command(server, f"{namespace}-mistyped", "console", "--port", "0"))
    assert f"{namespace}-mistyped" in line


def test_links_are_below_the_root_path(tmp_path: Path, target: list[str]) -> None:
    with start(tmp_path, target, "--root-path", "/ops/console") as process:
        assert re.search(r"http://127\.0\.0\.1:\d+/ops/console/\n", process.output)
        status, page = ask(f"{url_of(process)}/scopes")  # the proxy takes the path away
        assert (status, 'href="/ops/console/keys?scope=users"' in page) == (200, True)
        page = ask(f"{url_of(process)}/live")[1]
        assert 'data-events="/ops/console/live/events"' in page


def test_what_matches_redact_is_masked(tmp_path: Path, target: list[str]) -> None:
    with start(tmp_path, target, "--redact", "users/*/card") as process:
        page = ask(f"{url_of(process)}/value?scope=users&key=ann")[1]
        assert "Ann" in page
        assert "secret" not in page
    with start(tmp_path, target, "--no-default-redact", "--redact", "users/*/card") as process:
        page = ask(f"{url_of(process)}/value?scope=users&key=ann")[1]
        assert "hunter2-secret" in page
        assert "4111" not in page


def test_sigterm_ends_the_console_while_a_browser_follows(tmp_path: Path, target: list[str]) -> None:
    with start(tmp_path, target) as process:
        with urllib.request.urlopen(f"{url_of(process)}/live/events", timeout=10) as events:
            for line in until_live(events):
                assert line
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 5
        assert "Traceback" not in process.output
        assert "never retrieved" not in process.output


def until_live(events: Iterator[bytes]) -> Iterator[bytes]:
    for line in events:
        yield line
        if line.startswith(b"data: live"):
            return


@pytest.mark.parametrize("package", ["jinja2", "sse_starlette"])
def test_console_without_its_packages_names_the_extra(package: str, tmp_path: Path, target: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "motia_redis", "console", *target, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    assert "the console needs the packages jinja2 and sse-starlette: pip install 'motia-redis[console]'" in error_line(done)

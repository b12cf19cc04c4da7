"""Test the help of the command, and its one-line errors with exit code 2. Tests that need a Redis are elsewhere."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = str(ROOT / "examples" / "users.py")
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens on port 1


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motia_redis", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )


def error_line(*arguments: str, cwd: Path = ROOT) -> str:
    """Return the one line that a command fails with."""
    done = command(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("motia-redis: error: ")
    return line.removeprefix("motia-redis: error: ")


def test_help_lists_the_commands_with_an_example() -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("run", "serve", "worker", "Example:\n    motia-redis run examples/users.py", "--version"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("name", "options", "others"),
    [
        ("run", ["--host", "--port", "--max-body", "--concurrency"], []),
        ("serve", ["--host", "--port", "--max-body"], ["--concurrency"]),
        ("worker", ["--concurrency"], ["--host", "--port", "--max-body"]),
    ],
)
def test_command_has_help_with_an_example_and_only_its_options(name: str, options: list[str], others: list[str]) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert f"Example:\n    motia-redis {name} examples/users.py" in done.stdout
    for option in [*options, "--redis", "--namespace", "--log-level", "--log-format"]:
        assert option in done.stdout
    for option in others:
        assert option not in done.stdout
    for variable in ("MOTIA_REDIS_URL", "MOTIA_REDIS_NAMESPACE"):
        assert variable in done.stdout


def test_version_option_prints_the_version() -> None:
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("motia-redis ")


@pytest.mark.parametrize("arguments", [["run"], ["run", "x.py", "--prot", "1"], ["run", "x.py", "--port", "70000"]])
def test_invalid_command_line_ends_with_exit_code_2(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["run", "serve", "worker"])
def test_missing_application_file_is_reported_in_one_line(name: str) -> None:
    assert error_line(name, "nope.py") == "no such file or folder: nope.py"


def test_invalid_step_is_reported_in_one_line_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from motia_redis import step\n\nstep({'name': 'S', 'triggers': []})\n")
    assert error_line("run", "app.py", cwd=tmp_path).startswith("app.py:3: StepError: step 'S': 'triggers' must hold")


def test_failing_application_file_is_reported_in_one_line_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\n1 / 0\n")
    assert error_line("run", "app.py", cwd=tmp_path) == "app.py:2: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("name", ["run", "serve", "worker"])
def test_unreachable_redis_is_reported_in_one_line_with_its_address(name: str) -> None:
    port = [] if name == "worker" else ["--port", "0"]
    assert "127.0.0.1:1" in error_line(name, EXAMPLE, "--redis", NOWHERE, *port)


@pytest.mark.parametrize("url", ["nonsense", "http://localhost", "redis://localhost:port"])
def test_invalid_redis_url_is_reported_in_one_line(url: str) -> None:
    assert url in error_line("worker", EXAMPLE, "--redis", url)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_in_use_is_reported_in_one_line_with_the_address(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        port = str(taken.getsockname()[1])
        line = error_line("serve", EXAMPLE, "--redis", NOWHERE, "--host", host, "--port", port)
    assert line == f"cannot listen on {host}:{port}: Address already in use; choose another --host or --port"


def test_unknown_host_is_reported_in_one_line() -> None:
    line = error_line("serve", EXAMPLE, "--redis", NOWHERE, "--host", "no-such-host.invalid")
    assert line.startswith("cannot listen on no-such-host.invalid:3000: ")

"""Test the help of the command, and its one-line errors with exit code 2. Tests that need a Redis are elsewhere."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = str(ROOT / "examples" / "users.py")
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens on port 1
HTTP_OPTIONS = ["--host", "--port", "--max-body", "--no-access-log", "--cors-origin"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}


def command(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motia_redis", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=ENVIRONMENT | variables,
        check=False,
    )


def error_line(*arguments: str, cwd: Path = ROOT) -> str:
    """Return the error line that a command fails with. No other line may be of level WARNING."""
    done = command(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "WARNING" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("motia-redis: error: ")
    return line.removeprefix("motia-redis: error: ")


def test_help_lists_the_commands_with_an_example() -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("run", "serve", "worker", "Example:\n    motia-redis check examples/users.py", "--version"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("name", "options", "others"),
    [
        ("run", [*HTTP_OPTIONS, "--concurrency"], []),
        ("serve", HTTP_OPTIONS, ["--concurrency"]),
        ("worker", ["--concurrency"], HTTP_OPTIONS),
    ],
)
def test_command_has_help_with_an_example_and_only_its_options(name: str, options: list[str], others: list[str]) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert f"Example:\n    motia-redis {name} examples/users.py" in done.stdout
    for option in [*options, "--redis", "--namespace", "--log-level", "--log-format", "--wait", "--grace"]:
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
    (tmp_path / "app.py").write_text("from motia_redis import step\n\nstep({'name': 'S', 'triggers': [1]})\n")
    assert error_line("run", "app.py", cwd=tmp_path).startswith("app.py:3: StepError: step 'S': 1 is no trigger")


def test_failing_application_file_is_reported_in_one_line_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\n1 / 0\n")
    assert error_line("run", "app.py", cwd=tmp_path) == "app.py:2: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("ValueError('a\\n\\x1b[2Jb')", "ValueError: a \\x1b[2Jb"),
        ("type('Panic', (BaseException,), {})('gone')", "Panic: gone"),
        ("SystemExit(3)", "SystemExit: 3"),
        (
            "type('Textless', (Exception,), {'__str__': lambda self: 1 / 0})()",
            "Textless: <no text: __str__ raised ZeroDivisionError> args: ()",
        ),
    ],
)
def test_whatever_an_application_file_raises_is_reported_in_one_line(raised: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"raise {raised}\n")
    assert error_line("run", "app.py", cwd=tmp_path) == f"app.py:1: {shown}"


def test_error_cannot_send_commands_to_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in error_line("run", "no\x1b[2Jfile.py", cwd=tmp_path)


@pytest.mark.parametrize("name", ["run", "serve", "worker"])
def test_unreachable_redis_is_reported_in_one_line_with_its_address(name: str) -> None:
    port = [] if name == "worker" else ["--port", "0"]
    assert "127.0.0.1:1" in error_line(name, EXAMPLE, "--redis", NOWHERE, "--wait", "0", *port)


@pytest.mark.parametrize(
    ("url", "shown"),
    [("secret", "'...'"), ("http://localhost", "'http://localhost'"), ("redis://localhost:secret", "'redis://localhost:...'")],
)
@pytest.mark.parametrize("name", ["worker", "run", "status"])
def test_invalid_redis_url_is_reported_in_one_line_without_its_password(name: str, url: str, shown: str) -> None:
    arguments = {"status": [], "worker": [EXAMPLE], "run": [EXAMPLE, "--port", "0"]}[name]
    done = command(name, *arguments, "--redis", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"motia-redis: error: {shown} is not the URL of a Redis: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize("arguments", [["worker", EXAMPLE], ["run", EXAMPLE], ["status"], ["dead", "list"], ["doctor"]])
def test_empty_url_or_namespace_is_rejected_and_does_not_select_the_default(arguments: list[str], tmp_path: Path) -> None:
    tries = [
        command(*arguments, "--redis", "", cwd=tmp_path),
        command(*arguments, "--namespace", "", cwd=tmp_path),
        command(*arguments, cwd=tmp_path, MOTIA_REDIS_URL=""),
        command(*arguments, "--redis", NOWHERE, cwd=tmp_path, MOTIA_REDIS_NAMESPACE=""),
    ]
    for done, name in zip(tries, ["--redis", "--namespace", "MOTIA_REDIS_URL", "MOTIA_REDIS_NAMESPACE"], strict=True):
        assert (done.returncode, done.stdout) == (2, "")
        assert name in done.stderr
        assert "is empty" in done.stderr
    assert list(tmp_path.iterdir()) == [], "no embedded server was started"


@pytest.mark.parametrize("arguments", [["status"], ["dead", "list"], ["doctor"], ["steps", "forget", "S"]])
def test_administration_starts_no_embedded_server_in_a_folder_without_one(arguments: list[str], tmp_path: Path) -> None:
    line = error_line(*arguments, cwd=tmp_path)
    assert line.startswith(f"there is no embedded Redis in {tmp_path / '.motia'}: ")
    (tmp_path / "empty").mkdir()
    assert "there is no embedded Redis in " in error_line(*arguments, "--redis", f"embedded://{tmp_path / 'empty'}")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_administration_finds_the_data_of_an_embedded_server_that_has_ended(tmp_path: Path) -> None:
    write = "import asyncio, motia_redis; asyncio.run(motia_redis.StateManager().set('users', 'ann', 1))"
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, env=ENVIRONMENT, check=True)
    done = command("status", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "namespace 'motia' of embedded://.motia"


def test_two_steps_of_one_name_are_reported_with_both_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}_step.py").write_text(
            "from motia_redis import http, step\n\n"
            f"@step({{'name': 'Same', 'triggers': [http('GET', '/{name}')]}})\ndef handler(request):\n    pass\n"
        )
    line = error_line("run", ".", cwd=tmp_path)
    assert line == "two steps are named 'Same' (one_step.py:3 and two_step.py:3); give each step a name of its own"


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

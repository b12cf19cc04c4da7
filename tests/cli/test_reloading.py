"""`run --reload`: a new process after each change of a Python file, and one clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from motia_redis._cli.reloading import _folders
from tests.support.applications import Command
from tests.support.terminals import Terminal
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RedisServer

pytest.importorskip("watchfiles")

APP = """
from motia_redis import queue, step
import helper

@step({"name": "Mail", "triggers": [queue("mail")]})
def mail(data):
    pass

print("version", helper.VERSION, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "helper.py").write_text("VERSION = 1\n")
    return folder


def test_process_starts_again_after_a_change_and_survives_an_error_in_a_file(
    folder: Path, tmp_path: Path, server: RedisServer, namespace: str
) -> None:
    target = ["--redis", server.url, "--namespace", namespace]
    with Command(tmp_path, "worker", str(folder / "app.py"), "--reload", *target, ready="worker ready") as command:
        assert f"motia-redis: watching Python files in {folder}\n" in command.output
        assert "version 1\n" in command.output
        (folder / "notes.txt").write_text("no reason to start again")
        (folder / "helper.py").write_text("VERSION = 22\n")
        wait_until(lambda: "version 22\n" in command.output and command.output.count("worker ready") == 2, "the second process")
        assert command.output.count("starting again") == 1
        assert "motia-redis: changed: app/helper.py; starting again\n" in command.output
        (folder / "helper.py").write_text("VERSION = \n")
        wait_until(lambda: "the process has ended with exit code 2; waiting for a change" in command.output, "the error is told")
        assert "helper.py:1: SyntaxError: invalid syntax" in command.output
        (folder / "helper.py").write_text("VERSION = 4444\n")
        wait_until(lambda: command.output.count("worker ready") == 3, "the third process")
        assert "version 4444\n" in command.output
        children = _children(command.process.pid)
        assert len(children) == 1
        assert command.stop() == 0
        assert not [child for child in children if _is_alive(child)]
    assert "Traceback" not in command.output


def test_ctrl_c_ends_both_processes_once(folder: Path, server: RedisServer, namespace: str) -> None:
    command = ["run", "app.py", "--reload", "--port", "0", "--redis", server.url, "--namespace", namespace]
    with Terminal(*command, cwd=folder) as terminal:
        terminal.wait_for("motia-redis: serving ")
        terminal.press("\x03")
        assert terminal.wait() == 0, terminal.output
    assert "Traceback" not in terminal.output
    assert "second" not in terminal.output


def test_missing_package_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "watchfiles.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "motia_redis", "run", str(folder), "--reload"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == ("motia-redis: error: --reload needs the package watchfiles: pip install 'motia-redis[reload]'\n")


def test_folders_of_files_folders_and_modules_are_watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert [path.resolve() for path in _folders("app.py")] == [folder]
    assert _folders(str(folder)) == [folder]
    assert _folders("helper") == [folder]
    assert _folders("package.part") == [folder / "package"]
    assert _folders("nothing.of.it") == [folder]


def _children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return True

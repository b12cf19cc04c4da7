"""`make demo` prints correct numbers and leaves no process and no file behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"


def processes_in(folder: str) -> list[str]:
    """Return the command lines of the processes that name `folder` there or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            directory = str((process / "cwd").readlink())
        except OSError:
            continue  # the process has ended, or belongs to another user
        if folder in line or directory.startswith(folder):
            found.append(line)
    return found


@pytest.fixture
def folder() -> Iterator[str]:
    """Create a folder with a short path: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield folder


def test_demo_prints_correct_numbers_and_leaves_nothing_behind(folder: str) -> None:
    command = [sys.executable, str(DEMO), "--users", "3", "--logins", "60", "--clients", "4"]
    environment = os.environ | {"TMPDIR": folder}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("Done in")[1]
    assert "WRONG" not in table
    rows = {line.strip().rsplit(maxsplit=2)[0].strip(): line.split() for line in table.splitlines() if line.endswith("ok")}
    assert len(rows) == 6
    for label in ("logins sent", "login_count, sum over all users", "user.changed messages consumed"):
        assert rows[label][-2] == "60"
    assert table.count("by worker-") >= 2
    wait_until(lambda: not processes_in(folder), "the processes of the demo end", deadline=60)
    assert [path.name for path in Path(folder).glob("motia-demo-*")] == []

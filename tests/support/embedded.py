"""Start processes that use an embedded server, and inspect its processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis._transport import embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc")

PROMPTLY = 3.0  # seconds; the promise is about one second, the rest is for a busy machine
USER = """
import os, sys
from pathlib import Path
from motia_redis._transport.embedded import EmbeddedServer
server = EmbeddedServer.join(Path(sys.argv[1]))
print(server.url, flush=True)
sys.stdin.read()
"""
FORKING_USER = """
import os, sys
from pathlib import Path
from motia_redis._transport.embedded import EmbeddedServer
server = EmbeddedServer.join(Path(sys.argv[1]))
if os.fork():
    server.leave()
    print(server.url, flush=True)
sys.stdin.read()
"""


def eventually(holds: Callable[[], bool], *, within: float = PROMPTLY) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def status(pid: int) -> tuple[str, int]:
    """Return the state letter and the parent of a process."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def has_ended(pid: int) -> bool:
    """Return whether all threads of the process have ended. A dead process may keep its locks until its last thread ends."""
    try:
        return status(pid)[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_of(directory: Path) -> list[int]:
    """Return the other live processes that work in the directory or have one of its files open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            paths = [link.readlink() for link in (process / "cwd", *(process / "fd").iterdir())]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(path.is_relative_to(directory.resolve()) for path in paths):
            found.append(int(process.name))
    return found


@contextmanager
def client(url: str) -> Iterator[Any]:
    connection = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


def server_pid(url: str) -> int:
    with client(url) as connection:
        return int(connection.info("server")["process_id"])


@contextmanager
def user(directory: Path, program: str = USER) -> Iterator[subprocess.Popen[str]]:
    """Start a process that joins the server. It prints the URL of the server, and ends at the end of its input."""
    environment = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

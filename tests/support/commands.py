"""Running `motia-redis` commands that end by themselves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


async def run_command(server: RedisServer, namespace: str, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run a `motia-redis` command on a namespace and return its output and exit code."""
    target = ["--redis", server.url, "--namespace", namespace]
    command = [sys.executable, "-m", "motia_redis", *arguments, *target]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, input=input, check=False)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that failed with exit code 2 and one line."""
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("motia-redis: error: ")
    return line.removeprefix("motia-redis: error: ")

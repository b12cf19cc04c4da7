"""Completion in the shell: commands, options, scopes and keys, and silence if Redis cannot be asked."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis import StateManager
    from tests.support.servers import RedisServer


def complete(words: str, incomplete: str = "", **variables: str) -> list[str]:
    """Return what bash would offer."""
    line = f"motia-redis {words}".strip()
    asked = {"_MOTIA_REDIS_COMPLETE": "bash_complete", "COMP_WORDS": f"{line} {incomplete}", "COMP_CWORD": str(len(line.split()))}
    command = [sys.executable, "-c", "from motia_redis._cli.main import main; main(prog_name='motia-redis')"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables, **asked}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_completed() -> None:
    assert complete("", "s") == ["scheduled", "scopes", "serve", "set", "settings", "status", "steps"]
    assert "--if-revision" in complete("set", "--")


async def test_scopes_and_keys_are_completed(state: StateManager, server: RedisServer, namespace: str) -> None:
    await state.set_many("users", {"ann": 1, "anton": 2, "bob": 3, "an\n": 4})
    await state.set("orders", "1", 1)
    where = {"MOTIA_REDIS_URL": server.url, "MOTIA_REDIS_NAMESPACE": namespace}
    assert complete("get", **where) == ["orders", "users"]
    assert complete("get users", "an", **where) == ["ann", "anton"]
    options = ["--redis", server.url, "--namespace", namespace]
    assert complete(f"watch {' '.join(options)}", "u") == ["users"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nonsense", "embedded://nowhere"])
def test_nothing_is_completed_and_nothing_is_said_without_a_redis(url: str, tmp_path: Path) -> None:
    assert complete("get", MOTIA_REDIS_URL=url) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_each_shell_is_printed(shell: str) -> None:
    command = [sys.executable, "-c", "from motia_redis._cli.main import main; main(prog_name='motia-redis')"]
    environment = {**os.environ, "_MOTIA_REDIS_COMPLETE": f"{shell}_source"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    if shell == "bash" and "Shell completion is not supported for Bash versions older than 4.4" in done.stderr:
        pytest.skip("an old bash")
    assert done.returncode == 0
    assert f"_MOTIA_REDIS_COMPLETE={shell}_complete" in done.stdout

"""The command `copy`."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import error_line, run_command
from tests.support.copies import stored
from tests.support.terminals import Terminal
from tests.support.waiting import until, wait_until

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer


@pytest.fixture
async def filled(state: StateManager) -> StateManager:
    await state.set_many("users", {"ann": 1, "bob": 2})
    await state.enqueue("unread", 1)
    return state


async def test_copy_follows_says_how_to_switch_and_finishes(
    server: RedisServer, filled: StateManager, namespace: str, raw: redis.Redis
) -> None:
    copied = f"{namespace}-2"
    arguments = ["copy", "--redis", server.url, "--namespace", namespace, "--to-namespace", copied, "--to-layout", "64x4"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "motia_redis", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
    source, target = f"namespace '{namespace}' of {server.url}", f"namespace '{copied}' of {server.url}"
    assert first == f"{target} has what {source} has, and follows its changes. To switch:\n"
    steps = [(await asyncio.wait_for(process.stdout.readline(), 30)).decode() for _ in range(5)]
    assert [line.split(".")[0].strip() for line in steps] == ["1", "2", "3", "4", "5"]
    await filled.set("users", "cid", 3)

    async def is_followed() -> bool:
        return (b"users", b"cid") in stored(raw, copied)

    await until(is_followed, "the change is copied")
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 130
    assert errors.decode() == "interrupted; the same command goes on from here, with --finish to the end\n"
    done = await run_command(server, namespace, "copy", "--to-namespace", copied, "--finish")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:-2] for line in lines[1:6]] == [
        ["values", "3", "3"],
        ["messages", "1", "1"],
        ["delayed", "messages", "0", "0"],
        ["schedules", "0", "0"],
        ["dead", "letters", "0", "0"],
    ]
    assert lines[6] == f"{target} is finished: start its workers, and then writers"
    again = await run_command(server, namespace, "copy", "--to-namespace", copied, "--finish")
    assert (again.returncode, again.stdout) == (0, f"{target} is finished, and {source} has not changed since\n")
    await filled.set("users", "dan", 4)
    late = await run_command(server, namespace, "copy", "--to-namespace", copied, "--finish", "--json")
    assert late.returncode == 1
    assert json.loads(late.stdout) == {"finished": True, "problems": ["scope 'users' key 'dan': 1 changes"], "compared": []}


async def test_compare_names_a_planted_difference_with_exit_code_1(
    server: RedisServer, filled: StateManager, namespace: str, raw: redis.Redis
) -> None:
    copied = f"{namespace}-2"
    missing = await run_command(server, namespace, "copy", "--to-namespace", copied, "--compare")
    assert f"there is no namespace '{copied}' of {server.url}" in error_line(missing)
    done = await run_command(server, namespace, "copy", "--to-namespace", copied, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"namespace '{copied}' of {server.url} has what namespace '{namespace}' of {server.url} had;")
    equal = await run_command(server, namespace, "copy", "--to-namespace", copied, "--compare")
    assert (equal.returncode, equal.stdout.splitlines()[-1]) == (0, "the values are equal")
    (name,) = raw.scan_iter(f"{{{copied}:*}}:state:users")
    raw.hset(name, "ann", "7")
    other = await run_command(server, namespace, "copy", "--to-namespace", copied, "--compare")
    assert other.returncode == 1
    assert other.stderr.splitlines() == ["the values differ:", "  scope 'users' key 'ann': another value at the target"]
    finished = await run_command(server, namespace, "copy", "--to-namespace", copied, "--finish")
    assert finished.returncode == 1
    assert "is not finished:" in finished.stderr
    refused = await run_command(server, copied, "get", "users", "ann")
    assert "is not finished: finish it first, with `motia-redis copy --finish`" in error_line(refused)
    repaired = await run_command(server, namespace, "copy", "--to-namespace", copied, "--finish", "--again")
    assert repaired.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "The copy would be the source itself"),
        (["--to-namespace", "x", "--to-layout", "64"], "is not PARTITIONSxLANES, such as 64x4"),
        (["--to-namespace", "x", "--to-layout", "0x4"], "a layout must have 1 to 16384 partitions"),
        (["--to-namespace", "x", "--once", "--finish"], "Give one of --once, --finish and --compare"),
        (["--to-namespace", "{x}"], "namespace '{x}' is not valid"),
        (["--to", "ftp://x"], "'ftp://x' is not the URL of a Redis"),
    ],
)
async def test_wrong_options_are_errors(
    options: list[str], message: str, server: RedisServer, filled: StateManager, namespace: str
) -> None:
    done = await run_command(server, namespace, "copy", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


async def test_terminal_shows_how_far_behind_the_copy_is(server: RedisServer, filled: StateManager, namespace: str) -> None:
    arguments = ["copy", "--redis", server.url, "--namespace", namespace, "--to-namespace", f"{namespace}-2"]
    with Terminal(*arguments, columns=200) as shell:
        wait_until(lambda: "following, 0 events behind" in shell.output, "the copy follows")
        shell.process.send_signal(signal.SIGINT)
        wait_until(lambda: shell.process.poll() is not None, "the copy ends")
    assert "5. start workers" in shell.output
    with Terminal(*arguments, "--finish", columns=200) as shell:
        wait_until(lambda: shell.process.poll() is not None, "the copy ends")
    assert re.search(r"comparing .*100% .*values/s", shell.output)

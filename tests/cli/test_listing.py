"""The commands `list` and `scopes`: formats, limits, pages, and names that could send commands to a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from motia_redis.types import StreamGroup
from tests.support.commands import run_command
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer

ODD = 'a\x1b[2J\n"b'


@pytest.fixture
async def users(state: StateManager) -> None:
    await state.set_many("users", {"ann": {"n": 1}, "bob": "x\ty", ODD: None})


@pytest.mark.usefixtures("users")
async def test_list_prints_keys_and_values_in_each_format(server: RedisServer, namespace: str) -> None:
    async def listed(*arguments: str) -> str:
        done = await run_command(server, namespace, "list", "users", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        return done.stdout

    values = {"ann": {"n": 1}, "bob": "x\ty", ODD: None}
    assert {line["key"]: line["value"] for line in map(json.loads, (await listed()).splitlines())} == values
    assert json.loads(await listed("--output", "json")) == values
    assert sorted((await listed("--output", "text")).splitlines()) == [
        'a\\x1b[2J\\n"b\tnull',
        'ann\t{"n":1}',
        'bob\t"x\\ty"',
    ]
    assert (await listed("--output", "table")).splitlines() == [
        "KEY           VALUE",
        'a\\x1b[2J\\n"b  null',
        'ann           {"n":1}',
        'bob           "x\\ty"',
    ]
    assert sorted((await listed("--keys")).splitlines()) == ['a\\x1b[2J\\n"b', "ann", "bob"]
    assert set(json.loads(await listed("--keys", "--output", "json"))) == set(values)
    assert [json.loads(line) for line in (await listed("--keys", "--output", "jsonl", "--prefix", "b")).splitlines()] == [
        {"key": "bob"}
    ]
    assert len((await listed("--keys", "--limit", "2")).splitlines()) == 2
    for arguments, nothing in ((["--output", "json"], "{}\n"), (["--output", "json", "--keys"], "[]\n"), ([], "")):
        assert await listed("--prefix", "z", *arguments) == nothing


async def test_values_that_are_not_json_do_not_hide_the_others(
    state: StateManager, server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    await state.set("users", "ann", 1)
    raw.hset((await state.connect()).values(b"users").decode(), mapping={"bad": "{", b"\xff": "2"})
    done = await run_command(server, namespace, "list", "users")
    found = {line["key"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert found["ann"] == {"key": "ann", "value": 1}
    assert found["\udcff"]["value"] == 2
    assert "the stored text is not JSON" in found["bad"]["error"]
    done = await run_command(server, namespace, "list", "users", "--output", "json")
    assert json.loads(done.stdout) == {"ann": 1, "\udcff": 2}
    assert done.stderr.startswith("left out: scope 'users' key 'bad'")


async def test_scopes_are_printed_in_each_format(state: StateManager, server: RedisServer, namespace: str) -> None:
    for scope in ("users", "carts", ODD):
        await state.set_many(scope, {"a": 1, "b": 2})
    await state.set(StreamGroup("todo", "inbox"), "1", {"text": "a"})

    async def printed(*arguments: str) -> str:
        done = await run_command(server, namespace, "scopes", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert await printed() == 'a\\x1b[2J\\n"b\ncarts\nusers\n'
    assert json.loads(await printed("--output", "json")) == [ODD, "carts", "users"]
    assert json.loads(await printed("--output", "json", "--counts")) == {ODD: 2, "carts": 2, "users": 2}
    assert [json.loads(line) for line in (await printed("--output", "jsonl")).splitlines()][1:] == [
        {"scope": "carts"}, {"scope": "users"},
    ]  # fmt: skip
    assert (await printed("--counts")).splitlines()[2:] == ["carts            2", "users            2"]
    assert await printed("--stream", "todo") == "inbox\n"
    done = await run_command(server, namespace, "get", "@motia/stream/todo/inbox", "1")
    assert done.stdout == '{"text":"a"}\n'


async def test_terminal_gets_the_first_keys_as_a_table_that_fits(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    await state.set_many("many", {f"key{n:03}": "word " * 30 for n in range(150)}, atomic=False)
    with Terminal("list", "many", "--redis", server.url, "--namespace", namespace, columns=60) as terminal:
        assert terminal.wait() == 0
    lines = terminal.output.splitlines()
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "").rstrip()) for line in lines[:-1]) <= 60
    assert sum("key" in line for line in lines[:-1]) == 100
    assert lines[-1] == "these are 100 of more keys; use --limit to show more, or --limit 0 for all"
    with Terminal("list", "none", "--redis", server.url, "--namespace", namespace) as terminal:
        assert terminal.wait() == 0
    assert terminal.output == f"no keys in scope 'none' of namespace {namespace!r} of {server.url}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_many_keys_cost_no_memory(state: StateManager, server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    values = (await state.connect()).values(b"many").decode()
    few = (await state.connect()).values(b"few").decode()
    raw.hset(few, mapping={"a": "1"})
    for part in range(20):
        raw.hset(values, mapping={f"{part}-{n}-{'x' * 50}": '"value"' for n in range(10_000)})
    program = (  # VmHWM: the largest size of this process; `ru_maxrss` would count its parent, too
        "import sys; from pathlib import Path; from motia_redis._cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )

    def memory(*arguments: str) -> tuple[int, int]:
        target = ["--redis", server.url, "--namespace", namespace]
        command = [sys.executable, "-c", program, "list", *arguments, *target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.count("\n"), int(done.stderr)

    _, base = memory("few")
    for arguments in (["many"], ["many", "--keys"]):
        lines, peak = memory(*arguments)
        assert lines == 200_000
        assert peak < base + 8_000, "KiB: the keys alone have 12 MB"

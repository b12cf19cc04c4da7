"""The commands `get`, `set`, `update`, `delete` and `enqueue`: results, messages, exit codes, and what a terminal shows."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from motia_redis._admin.scheduled import Scheduled
from tests.support.commands import error_line, run_command
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis import StateManager
    from tests.support.servers import RedisServer

NUMBERS = '{"big":123456789012345678901234567890,"long":0.12345678901234567890123}'


def negative_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that ended with exit code 1."""
    assert (done.returncode, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("motia-redis: error: ")


async def test_values_are_stored_printed_updated_and_deleted(state: StateManager, server: RedisServer, namespace: str) -> None:
    done = await run_command(server, namespace, "set", "users", "ann", NUMBERS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = await run_command(server, namespace, "get", "users", "ann")
    assert (done.returncode, done.stdout, done.stderr) == (0, NUMBERS + "\n", "")
    done = await run_command(server, namespace, "update", "users", "ann", "--op", '{"type": "set", "path": "n", "value": 1}')
    assert done.stdout == NUMBERS[:-1] + ',"n":1}\n'
    operations = '[{"op": "test", "path": "/n", "value": 1}, {"op": "increment", "path": "/n", "value": 1}]'
    done = await run_command(server, namespace, "update", "users", "ann", "-", input=operations)
    assert done.stdout == NUMBERS[:-1] + ',"n":2}\n'
    done = await run_command(server, namespace, "delete", "users", "ann", "--output", "text")
    assert done.stdout.splitlines()[:2] == ["{", '  "big": 123456789012345678901234567890,']
    assert await state.get("users", "ann") is None


async def test_missing_value_is_exit_code_1_with_a_message(state: StateManager, server: RedisServer, namespace: str) -> None:
    text = f"key 'ann' of scope 'users' has no value in namespace {namespace!r} of {server.url}"
    for name in ("get", "delete"):
        assert negative_line(await run_command(server, namespace, name, "users", "ann")) == text
    await state.set("users", "ann", None)
    assert (await run_command(server, namespace, "get", "users", "ann")).stdout == "null\n"


async def test_conflicts_are_exit_code_1(state: StateManager, server: RedisServer, namespace: str) -> None:
    await state.set("users", "ann", {"n": 1})
    entry = await state.entry("users", "ann")
    assert entry is not None
    for arguments in (
        ["set", "users", "ann", "1", "--if-revision", "none"],
        ["set", "users", "ann", "1", "--if-revision", "1-0"],
        ["delete", "users", "ann", "--if-revision", "1-0"],
    ):
        assert f"its revision is {entry.revision}" in negative_line(await run_command(server, namespace, *arguments))
    failing = await run_command(server, namespace, "update", "users", "ann", '{"op": "test", "path": "/n", "value": 2}')
    assert "operation 0" in negative_line(failing)
    strict = await run_command(server, namespace, "update", "users", "bob", '{"op": "add", "path": "/n", "value": 2}', "--strict")
    assert "key 'bob'" in negative_line(strict)
    done = await run_command(server, namespace, "get", "users", "ann", "--output", "jsonl")
    facts = json.loads(done.stdout)
    assert facts == {"scope": "users", "key": "ann", "revision": entry.revision, "expires_at": None, "value": {"n": 1}}
    done = await run_command(server, namespace, "set", "users", "ann", "2", "--if-revision", facts["revision"])
    assert done.returncode == 0
    assert await state.get("users", "ann") == 2


async def test_time_to_live_is_set_kept_and_removed(state: StateManager, server: RedisServer, namespace: str) -> None:
    async def expires_at() -> float | None:
        entry = await state.entry("users", "ann")
        assert entry is not None
        return entry.expires_at

    await run_command(server, namespace, "set", "users", "ann", "{}", "--ttl", "2h")
    first = await expires_at()
    assert first is not None
    await run_command(server, namespace, "set", "users", "ann", "{}", "--ttl", "keep")
    await run_command(server, namespace, "update", "users", "ann", '{"op": "add", "path": "/n", "value": 1}')
    assert await expires_at() == first
    await run_command(server, namespace, "update", "users", "ann", '{"op": "add", "path": "/n", "value": 1}', "--ttl", "never")
    assert await expires_at() is None
    done = await run_command(server, namespace, "set", "users", "ann", "{}", "--ttl", "soon")
    assert done.returncode == 2
    assert "Invalid value for '--ttl': 'soon' is not a duration; write seconds" in done.stderr


async def test_text_and_standard_input_are_taken(state: StateManager, server: RedisServer, namespace: str) -> None:
    await run_command(server, namespace, "set", "notes", "a", "buy {milk}", "--text")
    await run_command(server, namespace, "set", "notes", "b", "-", input=' {"a":\n [1] } ')
    await run_command(server, namespace, "set", "notes", "c", "-", "--text", input="two\nlines\n")
    assert await state.items("notes") == {"a": "buy {milk}", "b": {"a": [1]}, "c": "two\nlines\n"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "s", "k", "hello"], "VALUE is not JSON: Expecting value: line 1 column 1 (char 0); for text give --text"),
        (["set", "s", "k", '{"a":1,"a":2}'], "VALUE is not JSON: two members are named 'a'"),
        (["set", "s", "", "1"], "the key must not be empty"),
        (["update", "s", "k", "3"], "the operations must be a list of dicts, not int"),
        (["update", "s", "k", "--op", "x"], "--op is not JSON: Expecting value"),
        (
            ["update", "s", "k", '{"op":"add","path":"","value":0.12345678901234567890123}'],
            "would be stored as 0.12345678901234568",
        ),
        (["update", "s", "k", '{"op":"add","path":"/a/b","value":1}'], "operation 0"),
        (["enqueue", "t", "{"], "DATA is not JSON"),
        (["get", "\x1b[2J", ""], "the key must not be empty"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line_with_exit_code_2(
    arguments: list[str], message: str, state: StateManager, server: RedisServer, namespace: str
) -> None:
    assert message in error_line(await run_command(server, namespace, *arguments))


async def test_namespace_that_does_not_exist_is_created_only_on_request(
    server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    line = error_line(await run_command(server, namespace, "set", "users", "ann", "1"))
    assert line.endswith("check --namespace and --redis, or create it with --create")
    assert (await run_command(server, namespace, "set", "users", "ann", "1", "--create")).returncode == 0
    assert (await run_command(server, namespace, "get", "users", "ann")).stdout == "1\n"
    command = [sys.executable, "-m", "motia_redis", "set", "users", "ann", "1", "--redis", f"embedded://{tmp_path}/data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "there is no embedded Redis in" in error_line(done)
    assert subprocess.run([*command, "--create"], timeout=60, check=False).returncode == 0


async def test_enqueue_prints_the_id_of_the_message(state: StateManager, server: RedisServer, namespace: str) -> None:
    await run_command(server, namespace, "enqueue", "mail", '{"to":"ann"}', "--idempotency-key", "one")
    done = await run_command(server, namespace, "enqueue", "mail", '{"to":"ann"}', "--key", "ann", "--delay", "5m")
    at = await run_command(server, namespace, "enqueue", "mail", "-", "--text", "--at", "2030-01-31T08:00:00+01:00", input="hi")
    first, second = await Scheduled(state).list("mail")
    assert (first.id, first.key, first.data) == (done.stdout.strip(), "ann", {"to": "ann"})
    assert (second.id, second.key, second.data) == (at.stdout.strip(), None, "hi")
    assert second.due.isoformat() == "2030-01-31T07:00:00+00:00"
    done = await run_command(server, namespace, "enqueue", "mail", "1", "--at", "2030-01-31")
    assert done.returncode == 2
    assert "'2030-01-31' is not a time; write Unix seconds" in done.stderr


def at_terminal(server: RedisServer, namespace: str, *arguments: str, **variables: str | None) -> str:
    with Terminal(*arguments, "--redis", server.url, "--namespace", namespace, **variables) as terminal:
        assert terminal.wait() == 0, terminal.output
        return terminal.output


async def test_terminal_shows_a_value_indented_in_colours_with_its_revision(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    await state.set("users", "ann", {"name": "\x1b[2J\u202eAnn", "none": None, "list": [1, {}, []]})
    entry = await state.entry("users", "ann")
    assert entry is not None
    shown = at_terminal(server, namespace, "get", "users", "ann")
    assert '  \x1b[34m"name"\x1b[0m: \x1b[32m"\\u001b[2J\\u202eAnn"\x1b[0m,\n' in shown
    plain = '{\n  "name": "\\u001b[2J\\u202eAnn",\n  "none": null,\n  "list": [\n    1,\n    {},\n    []\n  ]\n}\n'
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = at_terminal(server, namespace, "get", "users", "ann", **variables)
        assert shown == f"{plain}revision {entry.revision}\n"


async def test_terminal_is_told_what_was_stored_where(state: StateManager, server: RedisServer, namespace: str) -> None:
    shown = at_terminal(server, namespace, "set", "users", "a\x1b[2J", "1")
    assert shown == f"stored key 'a\\x1b[2J' of scope 'users' in namespace {namespace!r} of {server.url}\n"

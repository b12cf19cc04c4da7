"""The command `watch`: lines for people and programs, cursors, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support.commands import error_line, run_command
from tests.support.terminals import Terminal
from tests.support.waiting import DEADLINE, until_holds

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_changes_are_objects_with_cursors_from_which_a_watch_goes_on(
    state: StateManager, server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    await state.set("users", "ann", {"n": 1}, ttl=1000)
    raw.hset((await state.connect()).values(b"users").decode(), mapping={"bad": "{"})
    snapshot = lines(await run_command(server, namespace, "watch", "users", "--from", "snapshot", "--limit", "2"))
    ann, bad = sorted(snapshot, key=lambda line: str(line["key"]))
    entry = await state.entry("users", "ann")
    assert entry is not None
    assert ann.pop("cursor")
    assert ann == {
        "type": "state:snapshot",
        "scope": "users",
        "key": "ann",
        "revision": entry.revision,
        "timestamp": int(entry.revision.split("-")[0]),
        "expires_at": entry.expires_at,
        "value": {"n": 1},
    }
    assert "the stored text is not JSON" in bad["error"]

    async with state.watch("users") as watch:
        await state.set("users", "bob", 1)
        start = (await anext(watch)).cursor
    async with state.transaction() as tx:
        tx.delete("users", "bob")
    await state.set("users", "x\x1b[2J", 1)
    gone, odd = lines(await run_command(server, namespace, "watch", "users", "--from", start, "--limit", "2"))
    assert (gone["type"], gone["key"], gone["reason"], "value" in gone) == ("state:deleted", "bob", "deleted", False)
    assert gone["transaction"]
    assert (odd["type"], odd["key"], odd["value"]) == ("state:created", "x\x1b[2J", 1)
    done = await run_command(server, namespace, "watch", "users", "--from", odd["cursor"], "--limit", "1", "--from", start)
    assert lines(done) == [gone]
    done = await run_command(server, namespace, "watch", "--from", start, "--limit", "1")
    assert "the cursor is of a watch of another scope" in error_line(done)
    assert "cursor" in error_line(await run_command(server, namespace, "watch", "users", "--from", "nonsense"))


async def test_watch_with_a_cursor_file_goes_on_where_the_last_one_ended(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "users.cursor"
    arguments = ["watch", "users", "--cursor-file", str(file), "--from", "snapshot", "--output", "jsonl"]
    await state.set("users", "ann", 1)
    async with await started(server, namespace, *arguments) as process:
        assert json.loads(await line_of(process))["type"] == "state:snapshot"
        assert json.loads(await line_of(process))["type"] == "synced"
        await until_holds(file.exists, "the cursor is kept")
        await state.set("users", "ann", 2)
        assert json.loads(await line_of(process))["value"] == 2
    for number in (3, 4):
        await state.set("users", "ann", number)
    first = lines(await run_command(server, namespace, *arguments, "--limit", "1"))
    assert [line["value"] for line in first] in ([[3]], [[2]], [3], [2]), "the last line comes again after a kill between the two"
    cursor = file.read_text().strip()
    assert cursor == first[0]["cursor"]
    assert list(tmp_path.iterdir()) == [file]
    file.write_text("nonsense")
    assert "cursor" in error_line(await run_command(server, namespace, *arguments))
    done = await run_command(server, namespace, "watch", "users", "--cursor-file", str(tmp_path / "no" / "file"), "--limit", "1",
                             "--from", "snapshot", "--output", "text")  # fmt: skip
    assert done.returncode == 2
    assert "No such file or directory; the last cursor is " in done.stderr


async def test_changes_that_are_gone_are_an_error_or_a_new_snapshot(
    state: StateManager, server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    await state.set("users", "ann", 1)
    async with state.watch("users") as watch:
        await state.set("users", "ann", 2)
        start = (await anext(watch)).cursor
    await state.set("users", "ann", 3)
    for key in raw.scan_iter(f"{namespace}:*events*"):
        if raw.type(key) == b"stream":
            raw.xtrim(key, maxlen=0, approximate=False)
    done = await run_command(server, namespace, "watch", "users", "--from", start, "--limit", "1", "--resync")
    assert [(line["type"], line["value"]) for line in lines(done)] in ([("state:snapshot", 3)], [("state:updated", 3)])


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def __aenter__(self) -> asyncio.subprocess.Process:
        return self.process

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def started(server: RedisServer, namespace: str, *arguments: str) -> _Process:
    command = [sys.executable, "-m", "motia_redis", *arguments, "--redis", server.url, "--namespace", namespace]
    return _Process(await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE))


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), DEADLINE)).decode()


async def test_interrupt_ends_a_watch_with_exit_code_130_and_a_closed_pipe_without_a_traceback(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    await state.set("users", "ann", 1)
    async with await started(server, namespace, "watch", "--from", "snapshot") as process:
        assert json.loads(await line_of(process))["key"] == "ann"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 130
    target = f"--redis {server.url} --namespace {namespace}"
    command = f"{sys.executable} -m motia_redis watch users --from snapshot {target} | head -n 1"
    shell = await asyncio.create_subprocess_shell(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with state.watch("users"):
        reading = asyncio.create_task(shell.communicate())
        while not reading.done():
            await state.set("users", "ann", 2)
            await asyncio.wait([reading], timeout=0.1)
    output, errors = reading.result()
    assert output.count(b"\n") == 1
    assert errors == b""


async def test_terminal_shows_changes_as_text_until_ctrl_c(state: StateManager, server: RedisServer, namespace: str) -> None:
    await state.set("users", "ann", 1)
    with Terminal("watch", "users", "--from", "snapshot", "--redis", server.url, "--namespace", namespace) as terminal:
        await asyncio.to_thread(terminal.wait_for, "that was the snapshot; changes follow\n")
        await state.set("users", "a\x1b[2J", {"n": 1})
        await state.delete("users", "ann")
        await asyncio.to_thread(terminal.wait_for, "(deleted)\n")
        terminal.press("\x03")
        assert await asyncio.to_thread(terminal.wait) == 130
    head, first, _, created, deleted, *rest = terminal.output.splitlines()
    assert head == f"watching namespace {namespace!r} of {server.url}; Ctrl-C ends"
    assert first.endswith("Z \x1b[36msnapshot\x1b[0m users ann 1")
    assert created.endswith('Z \x1b[32mcreated \x1b[0m users a\\x1b[2J {"n":1}')
    assert deleted.endswith("Z \x1b[31mdeleted \x1b[0m users ann (deleted)")
    assert rest in ([], ["^C"])

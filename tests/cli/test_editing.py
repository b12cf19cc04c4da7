"""The command `edit`, with a program in place of the editor: what is stored, and that no text is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import run_command
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    from motia_redis import StateManager
    from tests.support.servers import RedisServer

NUMBERS = '{"big":123456789012345678901234567890,"long":0.12345678901234567890123}'


@pytest.fixture
async def users(state: StateManager) -> None:
    await state.set("users", "ann", {"name": "Ann", "n": 1}, ttl=1000)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `edit` keeps its files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("VISUAL", raising=False)
    return folder


def editor(tmp_path: Path, *rounds: str) -> str:
    """Return an editor whose rounds are Python expressions: what becomes of `text`."""
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, subprocess, sys\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(number + 1))\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text()\n"
        f"file.write_text(eval({list(rounds)!r}[number]))\n"
    )
    return f"{sys.executable} '{program}'"


def change_elsewhere(server: RedisServer, namespace: str, *arguments: str) -> str:
    """Return an expression that is true, and runs a command."""
    command = [sys.executable, "-m", "motia_redis", *arguments, "--redis", server.url, "--namespace", namespace]
    return f"subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL)"


async def edit(server: RedisServer, namespace: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "motia_redis", "edit", "users", "ann", "--redis", server.url, "--namespace", namespace]
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, input="", env=environment
    )


def kept(temporary: Path) -> str | None:
    """Return the text that was kept, if any; no other file may be left."""
    files = [path for path in temporary.rglob("*") if path.is_file()]
    assert len(files) <= 1
    return files[0].read_text() if files else None


@pytest.mark.usefixtures("users")
async def test_edited_value_is_stored_and_keeps_its_time_to_live(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    before = await state.entry("users", "ann")
    done = await edit(server, namespace, EDITOR=editor(tmp_path, "text.replace('Ann', 'Anna')"), VISUAL="")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"stored key 'ann' of scope 'users' in namespace {namespace!r} of {server.url}\n"
    after = await state.entry("users", "ann")
    assert before is not None
    assert after is not None
    assert (after.value, after.expires_at) == ({"name": "Anna", "n": 1}, before.expires_at)
    assert list(temporary.iterdir()) == []


async def test_numbers_that_python_would_change_stay_as_they_are(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    await run_command(server, namespace, "set", "users", "ann", NUMBERS)
    done = await edit(server, namespace, EDITOR=editor(tmp_path, "text.replace('{', '{\"new\": 1,')"))
    assert done.returncode == 0, done.stderr
    done = await run_command(server, namespace, "get", "users", "ann")
    assert done.stdout == NUMBERS.replace("{", '{"new":1,') + "\n"


@pytest.mark.usefixtures("users")
async def test_unchanged_text_is_not_stored(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    before = await state.entry("users", "ann")
    done = await edit(server, namespace, EDITOR=editor(tmp_path, "' '.join(text.split())"))
    assert (done.returncode, done.stderr) == (0, "no change: nothing was stored\n")
    assert await state.entry("users", "ann") == before
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("users")
async def test_text_that_is_not_stored_is_kept(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    """Where nobody can be asked, and whatever the reason."""
    before = await state.entry("users", "ann")
    done = await edit(server, namespace, EDITOR=editor(tmp_path, "'{oops'"))
    assert done.returncode == 2
    told, place, error = done.stderr.splitlines()
    assert told.startswith("the text is not JSON: Expecting property name")
    assert place == f"nothing was stored; your text is kept in {next(p for p in temporary.rglob('*.json'))}"
    assert error == "motia-redis: error: nothing was stored: the text cannot be stored"
    assert kept(temporary) == "{oops"
    assert await state.entry("users", "ann") == before
    file = next(temporary.rglob("*.json"))
    assert file.parent.stat().st_mode & 0o077 == 0, "only for this user"


@pytest.mark.usefixtures("users")
async def test_change_of_somebody_else_is_shown_and_not_overwritten(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    other = change_elsewhere(server, namespace, "update", "users", "ann", '{"op":"replace","path":"/n","value":2}')
    done = await edit(server, namespace, EDITOR=editor(tmp_path, f"{other} and text.replace('Ann', 'Anna')"))
    assert done.returncode == 1
    assert '-  "n": 1\n+  "n": 2\n' in done.stderr
    assert done.stderr.endswith("motia-redis: error: nothing was stored: the value has changed meanwhile\n")
    assert json.loads(kept(temporary) or "") == {"name": "Anna", "n": 1}
    assert await state.get("users", "ann") == {"name": "Ann", "n": 2}


@pytest.mark.usefixtures("users")
async def test_user_at_a_terminal_edits_again_after_a_mistake_and_after_a_conflict(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    other = change_elsewhere(server, namespace, "update", "users", "ann", '{"op":"replace","path":"/n","value":2}')
    rounds = ['\'{"name": "Anna", \'', f"{other} and text + '\"n\": 1}}'", "text.replace('1', '2')"]
    command = ["edit", "users", "ann", "--redis", server.url, "--namespace", namespace]
    with Terminal(*command, EDITOR=editor(tmp_path, *rounds)) as terminal:
        await asyncio.to_thread(terminal.wait_for, "Edit again? [Y/n]: ")
        assert "the text is not JSON: " in terminal.output
        terminal.press("\n")
        await asyncio.to_thread(terminal.wait_for, "somebody else has changed the value meanwhile")
        assert '\x1b[32m+  "n": 2\x1b[0m' in terminal.output
        terminal.press("y\n")
        assert await asyncio.to_thread(terminal.wait) == 0, terminal.output
    assert await state.get("users", "ann") == {"name": "Anna", "n": 2}
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("users")
async def test_value_that_was_deleted_meanwhile_can_be_stored_again(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path, temporary: Path
) -> None:
    other = change_elsewhere(server, namespace, "delete", "users", "ann")
    command = ["edit", "users", "ann", "--redis", server.url, "--namespace", namespace]
    with Terminal(*command, EDITOR=editor(tmp_path, f"{other} and '1'", "text"), NO_COLOR="1") as terminal:
        await asyncio.to_thread(terminal.wait_for, "Edit again? [Y/n]: ")
        assert "+++ no value" in terminal.output
        terminal.press("y\n")
        assert await asyncio.to_thread(terminal.wait) == 0, terminal.output
    assert await state.get("users", "ann") == 1


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"EDITOR": None}, r"no editor: set \$VISUAL or \$EDITOR, for example EDITOR=nano"),
        ({"EDITOR": "no-such-editor -w"}, r"there is no program 'no-such-editor', which \$EDITOR names"),
        ({"EDITOR": "true", "VISUAL": "'"}, r"\$VISUAL cannot be read: No closing quotation"),
        ({"EDITOR": "false"}, r"the editor 'false' ended with exit code 1"),
    ],
)
async def test_editor_that_cannot_be_used_is_named(
    variables: dict[str, str | None], message: str, server: RedisServer, namespace: str, temporary: Path
) -> None:
    done = await edit(server, namespace, **variables)
    assert done.returncode == 2
    assert re.fullmatch(f"motia-redis: error: {message}\n", done.stderr)
    assert list(temporary.iterdir()) == []


async def test_key_without_a_value_is_exit_code_1(state: StateManager, server: RedisServer, namespace: str) -> None:
    done = await edit(server, namespace, EDITOR="true")
    assert done.returncode == 1
    assert "has no value" in done.stderr
    assert "create it with motia-redis set" in done.stderr

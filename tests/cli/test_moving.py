"""The commands `export` and `import`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.commands import error_line, run_command

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis import StateManager
    from tests.support.servers import RedisServer


async def test_export_and_import_move_values(server: RedisServer, state: StateManager, namespace: str, tmp_path: Path) -> None:
    await state.set_many("users", {"ann": {"name": "Ann"}, "bob": {"name": "Böb"}})
    await state.set("carts", "1", [1.0])
    done = await run_command(server, namespace, "export")
    assert (done.returncode, done.stderr) == (0, f"exported 3 values of namespace '{namespace}' of {server.url}\n")
    target, file = f"{namespace}-2", tmp_path / "all.jsonl"
    file.write_text(done.stdout)
    missing = await run_command(server, target, "import", str(file), "--if-absent")
    assert "or create it with --create" in error_line(missing)
    moved = await run_command(server, target, "import", "--if-absent", "--create", input=done.stdout)
    assert (moved.returncode, moved.stderr) == (0, "")
    assert moved.stdout.startswith(f"imported 3 values into namespace '{target}'")
    again = await run_command(server, target, "import", str(file), "--overwrite", "--json")
    assert json.loads(again.stdout) | {"cursor": None} == {
        "dry_run": False,
        "created": 0,
        "overwritten": 0,
        "same": 3,
        "kept": 0,
        "expired": 0,
        "refused": 0,
        "problem": None,
        "cursor": None,
    }
    some = await run_command(server, target, "export", "users")
    assert len(some.stdout.splitlines()) == 4


async def test_refused_lines_are_named_and_the_exit_code_is_1(server: RedisServer, state: StateManager, namespace: str) -> None:
    await state.set("s", "k", 1)
    lines = (await run_command(server, namespace, "export")).stdout.splitlines(keepends=True)
    done = await run_command(server, namespace, "import", "--if-absent", input="".join([lines[0], "nonsense\x1b\n", lines[1]]))
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("line 2: the line is not JSON as an export writes it")
    assert second == "the file is not complete: the file has no last line: it was cut"


async def test_wrong_files_and_options_are_errors(server: RedisServer, state: StateManager, namespace: str) -> None:
    done = await run_command(server, namespace, "import", "--if-absent", input="hello\n")
    assert error_line(done).startswith("line 1 is not the first line of an export")
    for options in ([], ["--if-absent", "--overwrite"]):
        done = await run_command(server, namespace, "import", *options, input="")
        assert done.returncode == 2
        assert "Give" in done.stderr

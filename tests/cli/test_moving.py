"""The commands `export` and `import`."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from typing import TYPE_CHECKING

from motia_redis._admin import value_lines
from tests.support.commands import error_line, run_command
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

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


async def test_interrupted_import_says_from_which_line_to_go_on(
    server: RedisServer, state: StateManager, namespace: str, raw: redis.Redis, tmp_path: Path
) -> None:
    count, file = 100_000, tmp_path / "all.jsonl"
    lines = [value_lines.first_line("n", None)]
    lines += [b'{"scope":"s","key":"%d","value":%d}\n' % (number, number) for number in range(count)]
    file.write_bytes(b"".join([*lines, value_lines.last_line(count, "")]))
    arguments = ["import", str(file), "--if-absent", "--redis", server.url, "--namespace", namespace]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "motia_redis", *arguments, stderr=asyncio.subprocess.PIPE
    )

    async def has_begun() -> bool:
        return await state.count("s") > 3000

    await until(has_begun, "values are imported")
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 130
    found = re.fullmatch(r"the lines up to (\d+) are imported; go on with --from-line (\d+)\n", errors.decode())
    assert found
    assert int(found[2]) == int(found[1]) + 1 < count
    done = await run_command(server, namespace, "import", str(file), "--if-absent", "--from-line", found[2], "--json")
    facts = json.loads(done.stdout)
    assert (facts["kept"], facts["problem"]) == (0, None)
    assert facts["created"] + facts["same"] == count + 2 - int(found[2])
    assert await state.count("s") == count

"""The fenced blocks of the README and the docs, and a process that runs the Python blocks of one page.

- `python` with `@step(`, `= step(`, `multi_trigger_step(` or `config = {` is a step file. Its name is that of a first line
  `# name.py`. It is saved in the page's folder and loaded as an application.
- `python` with `await` outside of functions is typed into `python -m asyncio`: such blocks of one page share their names and
  their event loop.
- Any other `python` is a program of its own.

All Python blocks of a page run in one process, in their order, in one namespace of the tests' server.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^ *(`{3,}|~{3,})(.*)$")
_EXPECTED = re.compile(r"print\(.*#\s+(.*)$", re.MULTILINE)
_STEP = re.compile(r"^@step\(|^\w+ = step\(|^    multi_trigger_step\(|^config = \{", re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its kind, its text, and the page and line where the text begins."""

    kind: str
    code: str
    page: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_step_file(self) -> bool:
        return self.kind == "python" and _STEP.search(self.code) is not None

    @property
    def file_name(self) -> str:
        """The name of a step file."""
        named = _FILE_NAME.match(self.code)
        return named[1] if named else f"line_{self.line}_step.py"

    @property
    def expected(self) -> list[str]:
        """What the comments behind `print(...)` say."""
        return [] if self.is_step_file else _EXPECTED.findall(self.code)


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return blocks_in(page.read_text(), str(page.relative_to(ROOT)))


def blocks_in(text: str, name: str) -> list[Block]:
    """Return the fenced blocks of a text. Raises ValueError for a fence without an end."""
    found: list[Block] = []
    opening, kind, lines, start = "", "", [""], 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if not opening and fence:
            opening, kind, lines, start = fence[1], fence[2].strip(), [], number + 1
        elif fence and fence[1].startswith(opening) and not fence[2].strip():
            found.append(Block(kind, "".join(f"{text}\n" for text in lines), name, start))
            opening = ""
        elif opening:
            lines.append(line)
    if opening:
        raise ValueError(f"{name}:{start}: the fence has no end")
    return found


def run_page(blocks: list[Block], directory: Path, environment: dict[str, str]) -> list[list[str]]:
    """Run the Python blocks of one page in a process of its own, and return the lines that each of them printed."""
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", __name__],
        input=json.dumps([[b.place, b.file_name if b.is_step_file else None, b.line, b.code] for b in blocks]),
        cwd=directory,
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    printed: list[list[str]] = json.loads(done.stdout)
    return printed


def _main() -> None:
    shared: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    with asyncio.Runner() as runner:
        for place, file_name, line, code in json.load(sys.stdin):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                _run_block(runner, shared, place, file_name, "\n" * (line - 1) + code)
            printed.append(output.getvalue().splitlines())
        runner.run(_close(shared))
    print(json.dumps(printed))


def _run_block(runner: asyncio.Runner, shared: dict[str, Any], place: str, file_name: str | None, code: str) -> None:
    from motia_redis import load_application

    if file_name is not None:
        Path(file_name).write_text(code.lstrip())
        assert load_application([file_name]).steps, f"{place}: no steps"
        return
    body = compile(code, place.rpartition(":")[0], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if body.co_flags & 0x80:  # CO_COROUTINE: there is an `await` outside of functions
        runner.run(eval(body, shared))
    else:
        exec(body, {"__name__": "__main__"})


async def _close(shared: dict[str, Any]) -> None:
    from motia_redis import StateManager, stateManager

    for manager in {id(value): value for value in (stateManager, *shared.values()) if isinstance(value, StateManager)}.values():
        await manager.close()


if __name__ == "__main__":
    _main()

"""What is built is what works: the wheel, installed in a clean environment, carries its Lua and changes state."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

# An installed package must not be hidden by a source tree.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import asyncio, sys
import motia_redis
from motia_redis import StateManager
from importlib.metadata import entry_points
from motia_redis._scripts import loader
assert "pytest_motia_redis" in [entry.value for entry in entry_points(group="pytest11")]
async def main():
    assert "site-packages" in motia_redis.__file__, motia_redis.__file__
    assert loader.directory().parent.name == "motia_redis", loader.directory()
    async with StateManager(sys.argv[1], namespace="wheel") as state:
        await state.set("users", "ann", {"tags": []})
        print(await state.update("users", "ann", [{"op": "add", "path": "/tags/-", "value": 9007199254740993}]))
        await state.clear("users")
asyncio.run(main())
from motia_redis import sync
with sync.StateManager(sys.argv[1], namespace="wheel") as state:
    assert state.count("users") == 0
"""


def test_the_wheel_works_in_a_clean_environment(server: RedisServer, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"motia_redis/{path.relative_to(ROOT)}" for path in (ROOT / "lua").rglob("*.lua")} <= packed
    assert {"motia_redis/py.typed", "pytest_motia_redis.py"} <= packed
    assert not [name for name in packed if name.startswith(("tests", "examples", "lua"))]

    home = tmp_path / "clean"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [str(python), "-c", PROGRAM, server.url],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "{'tags': [9007199254740993]}\n", done.stderr
    version = subprocess.run(
        [str(home / "bin" / "motia-redis"), "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert version.stdout.startswith("motia-redis 0.")

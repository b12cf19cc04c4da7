"""Rooms: modules import in one direction, and stay of a size one can read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "motia_redis"
EXPORTED_FUNCTIONS = {"state", "step", "http", "api", "queue", "cron", "stream", "enqueue", "logger"}


def test_imports_keep_to_the_contracts_of_pyproject() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_has_the_name_of_an_exported_function() -> None:
    assert not EXPORTED_FUNCTIONS & {path.stem for path in PACKAGE.rglob("*.py")}


def test_modules_stay_small() -> None:
    long = {path.name: lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert long == {}

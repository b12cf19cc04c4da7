"""The documentation site: builds without warnings, and loads nothing from a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.snippets import ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES_WITH_PATHS = [CONTRIBUTING, ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """With the options of `make docs`."""
    (recipe,) = re.findall(r"^\t\$\(BIN\)/python -m sphinx (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    options = recipe.replace("build/doctrees", str(tmp_path / "doctrees")).replace("build/docs", str(tmp_path / "site")).split()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "sphinx", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert (tmp_path / "site" / "updates.html") in pages
    elsewhere = r"""=["']?(?:https?:)?//"""
    loaded = re.compile(rf'<(?:script|img|iframe)[^>]*src{elsewhere}|<link[^>]*rel="stylesheet"[^>]*href{elsewhere}')
    assert [page.name for page in pages if loaded.search(page.read_text())] == []
    styles = (tmp_path / "site" / "_static").rglob("*.css")
    assert [style.name for style in styles if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text())] == []


@pytest.mark.parametrize("page", PAGES_WITH_PATHS, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for path, test in re.findall(r"`((?:motia_redis|lua|tests|benchmarks|docs|examples|deploy)/[\w./-]+?)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_the_table_of_rooms_lists_all_modules() -> None:
    rows = re.findall(r"^\| `(_\w+)` \|[^|]*\|([^|]*)\|$", CONTRIBUTING.read_text(), re.MULTILINE)
    listed = {room: set(re.findall(r"`(\w+)`", modules)) for room, modules in rows}
    rooms = [
        folder for folder in (ROOT / "motia_redis").iterdir() if folder.name.startswith("_") and (folder / "__init__.py").exists()
    ]
    assert listed == {room.name: {path.stem for path in room.glob("*.py")} - {"__init__"} for room in rooms}

"""The documentation site: builds without warnings, and loads nothing from a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path


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

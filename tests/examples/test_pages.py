"""docs/frameworks.md shows what the examples contain."""

from __future__ import annotations

import re

from tests.support.programs import EXAMPLES
from tests.support.snippets import ROOT

PAGE = (ROOT / "docs" / "frameworks.md").read_text()


def test_code_of_the_page_is_code_of_the_example_that_it_names() -> None:
    """A block of code is of the file that was named last. `...` stands for what is left out."""
    checked, name = 0, ""
    for text, block in re.findall(r"(.*?)```(?:text|console)\n(.*?)```", PAGE, re.DOTALL):
        name = ([name, *re.findall(r"`examples/([\w/]+\.(?:py|ipynb))`", text)])[-1]
        if block.startswith(("$ ", "INFO ")):
            continue
        file = (EXAMPLES / name).read_text()
        file += file.replace('\\"', '"')  # as a cell of a notebook is written
        parts = [part.strip() for line in block.splitlines() for part in line.split("...")]
        assert [part for part in parts if part not in file] == [], name
        checked += 1
    assert checked == 8


def test_every_example_is_named_on_the_page() -> None:
    projects = {path.parent.name for path in EXAMPLES.glob("*/*") if path.is_file()} - {"__pycache__"}
    assert [name for name in sorted(projects) if f"examples/{name}/" not in PAGE] == []

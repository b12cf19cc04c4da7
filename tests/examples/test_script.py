"""examples/script: a plain script with the sync manager."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.programs import EXAMPLES, environment

if TYPE_CHECKING:
    from motia_redis import StateManager


async def test_a_second_import_changes_nothing(variables: dict[str, str], state: StateManager) -> None:
    command = [sys.executable, "-W", "error", "import_products.py", "products.csv"]
    for changed in (3, 0):
        done = subprocess.run(
            command,
            cwd=EXAMPLES / "script",
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == f"{changed} of 3 products changed, 3 are stored\n"
        assert "INFO import_products: read 3 products\n" in done.stderr
        assert "Traceback" not in done.stderr
    assert await state.get("products", "pot") == {"name": "Tea pot", "price": 29.9}

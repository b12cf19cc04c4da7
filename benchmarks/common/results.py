"""Result files: JSON, one per benchmark, in `benchmarks/results/`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "results"
README = FOLDER / "README.md"


def write(name: str, result: dict[str, Any], path: Path | None = None) -> Path:
    """Write a result with name and date to `path` (default: a file in `results/`); return the path."""
    if path is None:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.json"
    dated = {"benchmark": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), **result}
    path.write_text(json.dumps(dated, indent=1) + "\n")
    return path

"""The benchmarks run: a benchmark that broke with the code it measures is found here, not when its figures are wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from motia_redis.embedded import find_server

ROOT = Path(__file__).parent.parent


def test_the_update_benchmark_runs_and_prints_ratios() -> None:
    before = {path: path.read_bytes() for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    command = [sys.executable, "-m", "benchmarks.update", "--quick", "--rounds", "1", "--sizes", "200", "--no-plot"]
    command += ["--server", str(find_server())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "| nested |" in done.stdout
    assert {path: path.read_bytes() for path in before} == before, "a quick run rewrites nothing"
    assert all(json.loads(content) for content in before.values())

"""The comparison of two builds runs, takes its limit from the measured noise, and removes its temporary files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.comparing import report
from benchmarks.comparing.turns import AGAIN, BASE, HEAD, Case, Turn, case, limit, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent.parent
COMMAND = [sys.executable, "-m", "benchmarks.compare"]
TINY = ["--pairs", "2", "--seconds", "0.01", "--events", "200", "--tasks", "1", "4"]
WORKLOADS = [("get", 1), ("get", 4), ("set", 1), ("set", 4), ("update", 1), ("update", 4), ("drain", None)]
RUN_SECONDS = 60

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        subprocess.run(["git", "rev-parse", "--verify", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode != 0,
        reason="needs a git checkout",
    ),
]


def worktrees() -> str:
    return subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for the temporary files of programs; its path is short, since the path of a socket has to be."""
    with tempfile.TemporaryDirectory(prefix="cmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_comparison_with_a_revision_reports_all_workloads_and_removes_the_worktree(temporary: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [*COMMAND, "--base", "HEAD", *TINY, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Machine: cpu ")
    assert "| get | 1 | " in done.stdout
    assert "| drain | - | " in done.stdout
    result = json.loads(file.read_text())
    assert [(found["work"], found["tasks"]) for found in result["cases"]] == WORKLOADS
    for found in result["cases"]:
        assert all(len(found["rounds"]["time"][name]) == 2 for name in (BASE, HEAD, AGAIN))
        assert all(found[part][name]["median"] > 0 for part in ("time", "client", "server") for name in (BASE, HEAD, AGAIN))
    assert str(temporary) not in worktrees()
    assert not list(temporary.iterdir())


def test_interrupted_comparison_removes_its_worktree(temporary: Path) -> None:
    command = [*COMMAND, "--base", "HEAD", "--pairs", "1000", "--only", "calls"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line.startswith("get, 1 task") for line in process.stderr), "it ended before it measured"
        assert str(temporary) in worktrees()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(RUN_SECONDS) == 130
        finally:
            process.kill()  # otherwise the end of the block would wait for ever
    assert str(temporary) not in worktrees()
    assert not list(temporary.iterdir())


def test_unknown_revision_gives_one_line_and_exit_code_1() -> None:
    command = [*COMMAND, "--base", "no-such-revision"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no-such-revision is not a revision that git knows: ")
    assert done.stderr.count("\n") == 1


def measured(*heads: float) -> Case:
    """Return a case whose base takes 100 µs and whose second base differs from that by up to 4 %."""
    times = {BASE: [100.0] * len(heads), HEAD: heads, AGAIN: [96.0, 100.0, 104.0]}
    return case("get", 1, 1, {name: [Turn(each, 10, 5) for each in row] for name, row in times.items()})


def test_limit_is_the_larger_quartile_distance_of_the_a_a_plus_two_percent() -> None:
    found = measured(100, 100, 100)
    assert found["A/A"] == {"median": 1.0, "low": 0.981, "high": 1.021}
    assert spread(found) == pytest.approx(0.021)
    assert limit(found) == pytest.approx(1.041)


@pytest.mark.parametrize(("head", "verdict"), [(104, "not slower"), (105, "**slower**"), (97, "not slower"), (95, "faster")])
def test_build_is_slower_only_above_the_limit(head: float, verdict: str) -> None:
    assert report.verdict(measured(90, head, 120)) == verdict

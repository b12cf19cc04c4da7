"""The two builds: this checkout, and a git revision in a worktree of its own that lives as long as the comparison."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common.children import Child
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.rivals import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHILD = Path(__file__).parent / "child.py"


class NoBuild(BenchmarkFailed):
    """A revision that cannot be checked out, or a process that runs another build than it was told to; says why in one line."""


@dataclass(frozen=True, slots=True)
class Build:
    """A folder with the package and its scripts, and what git calls its state."""

    root: Path
    description: str

    def child(self, name: str, url: str) -> Child:
        """Start a process of this build, with keys of its own, named after it."""
        # -P: without it, the folder of the program would come first in the path, and its modules could hide others.
        command = [sys.executable, "-P", str(_CHILD), url, f"compare-{name.replace(' ', '-')}"]
        return Child(name, command, {"PYTHONPATH": str(self.root)})

    def check(self, package: str) -> None:
        """Raise NoBuild when a process imported the package from elsewhere."""
        if not Path(package).resolve().is_relative_to(self.root.resolve()):
            raise NoBuild(f"{package} was imported in place of the package in {self.root}")


def head() -> Build:
    """Return this checkout, with its changes that are not committed."""
    changed = " with uncommitted changes" if _git("status", "--porcelain", "--", "motia_redis", "lua") else ""
    return Build(PROJECT, _describe("HEAD") + changed)


@contextmanager
def base(revision: str) -> Iterator[Build]:
    """Check a revision out into a temporary folder, which is removed at the end. Raises NoBuild."""
    try:
        commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except NoBuild as error:
        raise NoBuild(f"{revision} is not a revision that git knows: {error}") from None
    with tempfile.TemporaryDirectory(prefix="motia-compare-") as folder:
        root = Path(folder) / "base"
        try:
            _git("worktree", "add", "--detach", str(root), commit)
            yield Build(root, _describe(commit))
        finally:
            # Forced twice: git locks a worktree while it makes it, and an interruption may have left that lock.
            subprocess.run(
                ["git", "worktree", "remove", "--force", "--force", str(root)], cwd=PROJECT, capture_output=True, check=False
            )


def _describe(commit: str) -> str:
    return _git("log", "-1", "--format=%h (%s)", commit)


def _git(*arguments: str) -> str:
    """Return what git prints. Raises NoBuild with its last line when it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoBuild(f"git cannot be run: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoBuild(f"git {arguments[0]}: {lines[-1]}")
    return done.stdout.strip()

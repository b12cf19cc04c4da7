"""The two builds: this checkout, and a git revision in a temporary worktree."""

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
    """A revision cannot be checked out, or a process imported the wrong build. The message is one line."""


@dataclass(frozen=True, slots=True)
class Build:
    """A folder with the package and its scripts, and a description of its revision."""

    root: Path
    description: str

    def child(self, name: str, url: str) -> Child:
        """Start a process of this build with a namespace of its own."""
        # -P keeps the folder of the program out of the module path, where its modules could hide others.
        command = [sys.executable, "-P", str(_CHILD), url, f"compare-{name.replace(' ', '-')}"]
        return Child(name, command, {"PYTHONPATH": str(self.root)})

    def check(self, package: str) -> None:
        """Raise NoBuild if a process imported the package from another folder."""
        if not Path(package).resolve().is_relative_to(self.root.resolve()):
            raise NoBuild(f"{package} was imported instead of the package in {self.root}")


def head() -> Build:
    """Return this checkout with its uncommitted changes."""
    changed = " with uncommitted changes" if _git("status", "--porcelain", "--", "motia_redis", "lua") else ""
    return Build(PROJECT, _describe("HEAD") + changed)


@contextmanager
def base(revision: str) -> Iterator[Build]:
    """Check a revision out into a temporary folder that is removed at the end. Raises NoBuild."""
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
            # --force twice: it also removes a worktree that git locked, as an interrupted `git worktree add` leaves it.
            subprocess.run(
                ["git", "worktree", "remove", "--force", "--force", str(root)], cwd=PROJECT, capture_output=True, check=False
            )


def _describe(commit: str) -> str:
    return _git("log", "-1", "--format=%h (%s)", commit)


def _git(*arguments: str) -> str:
    """Return what git prints. Raises NoBuild with the last line of its errors if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoBuild(f"git cannot be run: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoBuild(f"git {arguments[0]}: {lines[-1]}")
    return done.stdout.strip()

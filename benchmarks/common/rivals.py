"""Installing rivals: those of the extra `bench` beside us, others into an environment each, where requirements contradict ours.

Such environments lie in `.venv-rivals/<name>` beside the project and stay there. `benchmarks` is importable in them, but not
`motia_redis`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common.results import FOLDER as BENCHMARKS

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = BENCHMARKS.parent
FOLDER = PROJECT / ".venv-rivals"
_INSTALL_SECONDS = 300
_MARKER = "requirements.txt"  # written at the end, so an interrupted installation does not count
_VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


class NotInstalled(Exception):
    """A rival that is not there; says why in one line."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a rival needs: `requirements` as pip takes them, the first being the rival itself."""

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter. Raises NotInstalled when it is not there, or was made for other requirements."""
        marker = self.folder / _MARKER
        if not marker.exists() or tuple(marker.read_text().split()) != self.requirements:
            raise NotInstalled(f"not installed: {' '.join(self.requirements)}")
        return self.folder / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether it is there."""
        try:
            return bool(self.python)
        except NotInstalled:
            return False

    def install(self) -> None:
        """Make the environment anew. Raises NotInstalled when that fails."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        _pip_install(self.folder / "bin" / "python", *self.requirements)
        (self.folder / _MARKER).write_text("\n".join(self.requirements) + "\n")

    def versions(self) -> dict[str, str]:
        """Return what is installed for each requirement. Raises NotInstalled."""
        names = [requirement.partition("[")[0] for requirement in self.requirements]
        return dict(zip(names, _run([str(self.python), "-c", _VERSIONS, *names]).split(), strict=True))


def install_extra() -> dict[str, str]:
    """Install the requirements of the extra `bench` beside us, each by itself where not all can be; return why which cannot."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"]["bench"]
    if _try_to_install(requirements) is None:
        return {}
    reasons = {requirement: _try_to_install([requirement]) for requirement in requirements}
    return {requirement: reason for requirement, reason in reasons.items() if reason}


def _try_to_install(requirements: Sequence[str]) -> str | None:
    """Return why requirements cannot be installed beside us, or None when they are."""
    try:
        _pip_install(Path(sys.executable), *requirements)
    except NotInstalled as reason:
        return str(reason)
    return None


def _pip_install(python: Path, *requirements: str) -> None:
    """Install into the environment of an interpreter. Raises NotInstalled."""
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def _run(command: list[str]) -> str:
    """Run a command and return its output. Raises NotInstalled with its last word when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"cannot be installed: no end after {_INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise NotInstalled(f"cannot be installed: {lines[-1]}")
    return done.stdout

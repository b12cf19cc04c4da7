"""Installation of rivals.

Rivals of the extra `bench` go into the current environment. The others have requirements that conflict, so each has its own
environment in `.venv-rivals/<name>`, which is kept. `benchmarks` can be imported there, `motia_redis` cannot.
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
_MARKER = "requirements.txt"  # written last: an interrupted installation does not count
_VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


class NotInstalled(Exception):
    """A rival is not installed. The message is one line with the reason."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of a rival. The first of the `requirements`, in pip's syntax, is the rival itself."""

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of the environment. It may not exist."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """The interpreter. Raises NotInstalled if the environment is missing or has other requirements."""
        marker = self.folder / _MARKER
        if not marker.exists() or tuple(marker.read_text().split()) != self.requirements:
            raise NotInstalled(f"not installed: {' '.join(self.requirements)}")
        return self.folder / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether the environment is installed with these requirements."""
        try:
            return bool(self.python)
        except NotInstalled:
            return False

    def install(self) -> None:
        """Create the environment again. Raises NotInstalled if that fails."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        _pip_install(self.folder / "bin" / "python", *self.requirements)
        (self.folder / _MARKER).write_text("\n".join(self.requirements) + "\n")

    def versions(self) -> dict[str, str]:
        """Return the installed version of each requirement. Raises NotInstalled."""
        names = [requirement.partition("[")[0] for requirement in self.requirements]
        return dict(zip(names, _run([str(self.python), "-c", _VERSIONS, *names]).split(), strict=True))


def install_extra() -> dict[str, str]:
    """Install the extra `bench` into the current environment; return the reason for each requirement that cannot be installed.

    If the installation of all requirements together fails, install each of them separately.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"]["bench"]
    if _try_to_install(requirements) is None:
        return {}
    reasons = {requirement: _try_to_install([requirement]) for requirement in requirements}
    return {requirement: reason for requirement, reason in reasons.items() if reason}


def _try_to_install(requirements: Sequence[str]) -> str | None:
    """Install requirements into the current environment; return None, or the reason why that failed."""
    try:
        _pip_install(Path(sys.executable), *requirements)
    except NotInstalled as reason:
        return str(reason)
    return None


def _pip_install(python: Path, *requirements: str) -> None:
    """Install into the environment of an interpreter. Raises NotInstalled."""
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def _run(command: list[str]) -> str:
    """Run a command and return its output. Raises NotInstalled with the last line of output if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"cannot be installed: timeout after {_INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise NotInstalled(f"cannot be installed: {lines[-1]}")
    return done.stdout

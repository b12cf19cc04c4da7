"""Run the server programs of other frameworks, as a user starts them, and check that nothing of them is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.snippets import ROOT
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from typing import Self

EXAMPLES = ROOT / "examples"


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a program: it finds this checkout, writes no byte code, and its output is not buffered."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    return os.environ | settings | variables


class Program:
    """Run `python -m MODULE ARGUMENTS` in a folder within `with`, in a session of its own. Wait on entry until it is ready.

    Leaving the block without `stop` kills all its processes.
    """

    def __init__(self, folder: Path, log: Path, *arguments: str, ready: str, variables: dict[str, str]) -> None:
        self._folder = folder
        self._log = log
        self._command = [sys.executable, "-m", *arguments]
        self._ready = ready
        self._variables = variables

    @property
    def output(self) -> str:
        """Return the output of all its processes so far, of both streams."""
        return self._log.read_text()

    def lines(self, pattern: str) -> list[str]:
        """Return the lines of the output in which a pattern is found."""
        return [line for line in self.output.splitlines() if re.search(pattern, line)]

    @property
    def url(self) -> str:
        """Return the first address that the output names."""
        return re.findall(r"http://127\.0\.0\.1:\d+", self.output)[0]

    def processes(self) -> set[int]:
        """Return the live processes of its session."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # the process has ended
            if int(session) == self.popen.pid and state not in "ZX":
                found.add(int(stat.parent.name))
        return found

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self._ready in self.output or self.popen.poll() is not None, f"{self._command} is ready")
        assert self.popen.poll() is None, self.output
        return self

    def stop(self) -> int:
        """Send SIGTERM to the first process, as a service manager does. Return its exit code once all processes have ended."""
        self.popen.send_signal(signal.SIGTERM)
        code = self.popen.wait(DEADLINE)
        wait_until(lambda: not self.processes(), f"the processes that {self._command} has started end")
        return code

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.popen.wait()

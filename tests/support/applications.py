"""Run `motia-redis` processes and read their output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Command:
    """Run one `motia-redis` process within `with`. Wait on entry until it is ready."""

    def __init__(self, directory: Path, *arguments: str, ready: str = "motia-redis: ") -> None:
        self.arguments = arguments
        self._ready = ready
        self._log = directory / f"{arguments[0]}-{os.urandom(4).hex()}.log"
        self._directory = directory

    @property
    def output(self) -> str:
        """Return the output of the process so far, of both streams."""
        return self._log.read_text()

    @property
    def port(self) -> int:
        """Return the port that the ready line names."""
        return int(self.output.split("serving http://127.0.0.1:")[1].split()[0])

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "motia_redis", *self.arguments], stdout=log, stderr=log, cwd=self._directory
            )
        wait_until(lambda: self._ready in self.output or self.process.poll() is not None, f"{self.arguments} is ready")
        assert self.process.poll() is None, self.output
        return self

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

"""Run a program at a terminal: a pseudo-terminal that is its standard streams and its controlling terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING

from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self


class Terminal:
    """Run `motia-redis` with these arguments within `with`."""

    def __init__(self, *arguments: str, cwd: Path | None = None, columns: int = 80, **variables: str | None) -> None:
        self._command: Sequence[str] = [sys.executable, "-m", "motia_redis", *arguments]
        self._cwd = cwd
        self._columns = columns
        environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": None, "COLUMNS": None, **variables}
        self._environment = {name: value for name, value in environment.items() if value is not None}
        self._output = b""

    @property
    def output(self) -> str:
        """Return what the terminal has got so far."""
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
        self.process = subprocess.Popen(
            self._command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=self._cwd,
            env=self._environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - it takes no lock
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the last process has closed the other end
                return
            if not part:
                return
            self._output += part

    def press(self, keys: str) -> None:
        """Type something; `\\x03` is Ctrl-C."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the terminal has got a text."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, f"{text!r} in {self.output!r}")
        self._reader.join(0 if self.process.poll() is None else DEADLINE)
        assert text in self.output, self.output

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(DEADLINE)
        os.close(self._master)

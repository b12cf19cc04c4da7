"""The worker processes, which handle events and update values on request. `child.py` is their program."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from benchmarks.common.results import FOLDER
from benchmarks.growing.probes import WrongOutcome

if TYPE_CHECKING:
    from types import TracebackType

_TIMEOUT_SECONDS = 5  # for a process to end after its input is closed


class Workers:
    """A number of worker processes that end with the `with` block."""

    def __init__(self, url: str, size: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        command = [sys.executable, "-m", "benchmarks.growing.child", url]
        try:
            for number in range(size):
                # A separate session: Ctrl-C reaches only the parent, and the children end with their input.
                process = subprocess.Popen(
                    [*command, str(number)],
                    cwd=FOLDER.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def ask(self, number: int, **request: Any) -> list[dict[str, Any]]:
        """Send a request to the first `number` processes; return their replies. Raises WrongOutcome if a process ended."""
        chosen = self._processes[:number]
        with suppress(BrokenPipeError):  # the missing reply is reported below
            for process in chosen:
                assert process.stdin is not None
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
        replies = []
        for process in chosen:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise WrongOutcome(f"worker process {process.pid} ended; its errors are printed above")
            replies.append(json.loads(line))
        return replies

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            with suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

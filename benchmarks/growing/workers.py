"""Processes that handle and write, started once and told what to do: see member.py."""

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

_TIMEOUT_SECONDS = 5  # seconds for a process to end by itself


class Workers:
    """So many processes, ended with the `with`."""

    def __init__(self, url: str, size: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        command = [sys.executable, "-m", "benchmarks.growing.child", url]
        try:
            for number in range(size):
                # A session of its own: Ctrl-C is for the parent, with which their input ends.
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

    def tell(self, number: int, **order: Any) -> list[dict[str, Any]]:
        """Give the first `number` processes an order at once; return their answers. Raises WrongOutcome when one ended."""
        chosen = self._processes[:number]
        with suppress(BrokenPipeError):  # its answer will be missing
            for process in chosen:
                assert process.stdin is not None
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
        answers = []
        for process in chosen:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise WrongOutcome(f"process {process.pid} of the workers ended; what it said stands above")
            answers.append(json.loads(line))
        return answers

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

"""The processes of contenders, seen from the benchmark."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.rivals import PROJECT
from benchmarks.triggering.meter import PREFIX

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.triggering.contenders import Contender
    from benchmarks.triggering.job import Job

Message = dict[str, Any]


class ContenderFailed(BenchmarkFailed):
    """A contender did not start, ended early or did not finish. The message is one line."""


class Process:
    """One process of a contender, killed at the end of the `with` block. `expect` reads its messages."""

    def __init__(self, contender: Contender, role: str, job: Job) -> None:
        self._name = f"{contender.name} ({role})"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._messages: queue.Queue[Message | None] = queue.Queue()
        command = [str(contender.python), "-m", "benchmarks.triggering.child", role, contender.adapter, job.dump()]
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, **contender.variables, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def expect(self, kind: str, seconds: float) -> Message:
        """Wait for a message of that kind. Raises ContenderFailed if the process ends or on timeout."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ContenderFailed(f"{self._name}: no {kind} within {seconds:.0f} s{self._last_error()}") from None
            if message is None:
                raise ContenderFailed(f"{self._name} ended{self._last_error()}")
            if message["kind"] == kind:
                return message

    def tell(self, command: str) -> None:
        """Send a command to the process."""
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Kill it: Redis is flushed anyway, and some contenders stop slowly.
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout
        try:
            for line in self._process.stdout:
                if line.startswith(PREFIX):
                    self._messages.put(json.loads(line.removeprefix(PREFIX)))
        except ValueError:  # closed by __exit__
            return
        self._messages.put(None)

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = [line.strip(" |+-") for line in self._errors.read().decode(errors="replace").splitlines()]
        return next((f": {line}" for line in reversed(lines) if line), "")

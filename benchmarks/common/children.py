"""Child processes and the protocol with them: each request and each reply is one line of JSON.

A reply is `{"ok": ...}` or `{"error": "..."}`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from typing import TYPE_CHECKING, Any, Self

from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.results import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_REPLY_SECONDS = 60


class ChildFailed(BenchmarkFailed):
    """A child process did not start or did not carry out a request. The message names the contender; `why` is the reason."""

    def __init__(self, contender: str, why: str) -> None:
        super().__init__(f"{contender}: {why}")
        self.why = why


class Child:
    """One contender in its own process. Call `wait` once for its start. It ends with the `with` block or with its parent.

    The process runs in the project's folder, with the parent's environment and `variables`.
    """

    def __init__(self, contender: str, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        self.contender = contender
        # A separate session: Ctrl-C reaches only the parent, which then stops its children.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=FOLDER.parent,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )

    def wait(self) -> Any:
        """Return the next reply. Raises ChildFailed."""
        replies = self._process.stdout
        assert replies is not None
        if not select.select([replies], [], [], _REPLY_SECONDS)[0]:
            raise ChildFailed(self.contender, f"no reply within {_REPLY_SECONDS} s")
        line = replies.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in reply:
            raise ChildFailed(self.contender, reply["error"])
        return reply["ok"]

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a request without waiting for its reply."""
        requests = self._process.stdin
        assert requests is not None
        try:
            requests.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            requests.flush()
        except BrokenPipeError:
            raise ChildFailed(self.contender, "its process ended") from None

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a request and return its reply. Raises ChildFailed."""
        self.tell(do, **arguments)
        return self.wait()

    def stop(self) -> None:
        """Stop the process by closing its input. Kill it if it does not end within 5 s."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

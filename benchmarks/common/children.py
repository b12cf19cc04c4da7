"""The parent's side of children that answer each order, a line of JSON, with a line: `{"ok": ...}` or `{"error": "..."}`."""

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

_ANSWER_SECONDS = 60


class ChildFailed(BenchmarkFailed):
    """A child that did not start, or did not do what it was told; says who and `why`."""

    def __init__(self, contender: str, why: str) -> None:
        super().__init__(f"{contender}: {why}")
        self.why = why


class Child:
    """One contender in a process of its own. `wait` for its start; it ends with the `with`, and with its parent.

    The process runs in the project's folder, with our environment and `variables`.
    """

    def __init__(self, contender: str, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        self.contender = contender
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its children in order.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=FOLDER.parent,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )

    def wait(self) -> Any:
        """Return the next answer. Raises ChildFailed."""
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], _ANSWER_SECONDS)[0]:
            raise ChildFailed(self.contender, f"no answer within {_ANSWER_SECONDS} s")
        line = answers.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise ChildFailed(self.contender, answer["error"])
        return answer["ok"]

    def tell(self, do: str, **arguments: Any) -> None:
        """Give an order; `wait` for its answer."""
        orders = self._process.stdin
        assert orders is not None
        try:
            orders.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            orders.flush()
        except BrokenPipeError:
            raise ChildFailed(self.contender, "its process ended") from None

    def ask(self, do: str, **arguments: Any) -> Any:
        """Give an order and return its answer. Raises ChildFailed."""
        self.tell(do, **arguments)
        return self.wait()

    def stop(self) -> None:
        """End the process, by the end of its input, else by force."""
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

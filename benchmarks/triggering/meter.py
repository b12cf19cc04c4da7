"""Counts and times events in a worker process, in the same way for all contenders. Uses only the standard library."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.triggering.job import PING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.triggering.job import Value

#: The prefix of messages to the benchmark on standard output.
PREFIX = "@meter "


class Meter:
    """Counts the events that the handler gets, and sends a report after the last one.

    The overhead is less than a microsecond per event. The clock is CLOCK_MONOTONIC, which all processes of a machine share.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._seen: set[int] = set()
        self._handled = 0
        self._first = 0
        self._last = 0
        self._cpu = 0.0
        self._latencies: list[int] = []
        self._ready = False

    def handle(self, value: Value) -> None:
        """Count an event by its value."""
        self.count(value["n"], value["sent"])

    def count(self, number: int, sent: int = 0) -> None:
        """Count the event `number`. Record its latency if `sent` is set."""
        now = time.monotonic_ns()
        if number == PING:
            if not self._ready:
                self._ready = True
                emit("ready")
            return
        if not self._handled:
            self._first = now
            self._cpu = time.process_time()
        self._handled += 1
        self._last = now
        self._seen.add(number)
        if sent:
            self._latencies.append(now - sent)
        if len(self._seen) == self._expected:
            self.report()

    def report(self) -> None:
        """Send the current counts to the benchmark."""
        emit(
            "report",
            events=len(self._seen),
            handled=self._handled,
            first=self._first,
            last=self._last,
            cpu=time.process_time() - self._cpu,
            latencies=self._latencies,
        )


def emit(kind: str, **facts: Any) -> None:
    """Send a message to the benchmark."""
    print(PREFIX + json.dumps({"kind": kind, **facts}), flush=True)


def listen(commands: dict[str, Callable[[], object]]) -> None:
    """Call the function that each line of standard input names, in a thread."""

    def run() -> None:
        for line in sys.stdin:
            commands[line.strip()]()

    threading.Thread(target=run, daemon=True).start()

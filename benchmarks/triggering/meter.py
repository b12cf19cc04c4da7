"""Counting and timing inside of a worker's process, alike for all contenders. Needs the standard library alone."""

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

#: Begins the lines of standard output that are for the benchmark.
PREFIX = "@meter "


class Meter:
    """Takes every event that the contender's handler gets, and reports when all of them were there.

    Costs a fraction of a microsecond per event. The clock is CLOCK_MONOTONIC, which all processes of a machine share.
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
        """Take an event's value."""
        self.count(value["n"], value["sent"])

    def count(self, number: int, sent: int = 0) -> None:
        """Take the event `number`, sent at `sent` if its latency matters."""
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
        """Tell the benchmark what was counted so far."""
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


def listen(orders: dict[str, Callable[[], object]]) -> None:
    """Carry out the benchmark's orders, in a thread: the lines of standard input name them."""

    def obey() -> None:
        for line in sys.stdin:
            orders[line.strip()]()

    threading.Thread(target=obey, daemon=True).start()

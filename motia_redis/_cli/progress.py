"""Show how far a command has come."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

import click


class Progress:
    """Show a bar with the rate and the time left on standard error, if that is a terminal."""

    def __init__(self, label: str, unit: str) -> None:
        self._label, self._unit = label, unit
        self._bar: Any = None
        self._stack = ExitStack()
        self._began = time.monotonic()
        self._done = 0
        self.is_shown: bool = sys.stderr is not None and sys.stderr.isatty()

    def show(self, done: int, total: int, items: int) -> None:
        """Show that `done` of `total` are done, and the rate of `items`."""
        if not self.is_shown:
            return
        if self._bar is None:
            bar = click.progressbar(
                length=max(total, 1), label=self._label, show_eta=True, file=sys.stderr, item_show_func=self._rate
            )
            self._bar = self._stack.enter_context(bar)
        self._bar.length = max(total, 1)
        self._bar.update(done - self._done, items)
        self._done = done

    def close(self) -> None:
        """End the line of the bar."""
        self._stack.close()

    def _rate(self, items: int | None) -> str | None:
        return None if items is None else f"{items / max(time.monotonic() - self._began, 0.001):,.0f} {self._unit}/s"

"""Which process a watch or mirror belongs to: the one that has opened it, and no forked child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._sync import loop_thread
from motia_redis.errors import WatchMisused

if TYPE_CHECKING:
    from motia_redis._sync.loop_thread import LoopThread


class Owner:
    """Tell whether what a process has opened is used in that process. `subject` is what it is, for errors."""

    def __init__(self, subject: object) -> None:
        self._subject = subject
        self._thread: LoopThread | None = None

    def enter(self) -> None:
        """Note that it was opened in this process."""
        self._thread = loop_thread.current()

    @property
    def is_here(self) -> bool:
        """Return whether it was opened in this process."""
        return self._thread is not None and self._thread is loop_thread.running()

    def check(self) -> None:
        """Raise WatchMisused if it was not opened in this process."""
        if self._thread is None:
            raise WatchMisused(f"{self._subject!r}: use it inside of 'with'")
        if self._thread is not loop_thread.running():
            raise WatchMisused(
                f"{self._subject!r}: it was opened in another process, of which this one is a fork, or the process ends: "
                "open another one in this process"
            )

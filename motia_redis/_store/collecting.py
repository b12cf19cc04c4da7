"""Keep Python's garbage collector from traversing a growing result again and again.

The collector looks at all objects of a process whenever their number has grown by a quarter. While a scope of a million values is
listed, it traverses the values read so far about twenty times, which takes longer than to read and decode them. Decoded JSON has
no reference cycles, so none of that finds anything.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER = 2**31 - 1  # collections of the young generation between two that traverse older objects

_lock = threading.Lock()
_growing = 0  # results that are being read, in all threads
_before = (0, 0, 0)  # the thresholds to go back to


@contextmanager
def young_only() -> Iterator[None]:
    """Let the collector look at new objects only: cycles that others drop early are still freed, older ones after the end.

    The setting is that of the process. It is set while at least one such block runs, in any thread, and restored by the last one,
    unless somebody else has changed it meanwhile.
    """
    global _growing, _before  # noqa: PLW0603 - the setting itself is global
    with _lock:
        _growing += 1
        if _growing == 1:
            _before = gc.get_threshold()
            gc.set_threshold(_before[0], _NEVER, _before[2])
    try:
        yield
    finally:
        with _lock:
            _growing -= 1
            if not _growing and gc.get_threshold() == (_before[0], _NEVER, _before[2]):
                gc.set_threshold(*_before)

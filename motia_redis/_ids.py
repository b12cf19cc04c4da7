"""Random ids and jitter, independent of seeds that the program sets and different in each forked process."""

from __future__ import annotations

import os
import random
from typing import Final

generator: Final = random.Random()  # noqa: S311  # ids and jitter: unique, not secret
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=generator.seed)


def random_id(digits: int) -> str:
    """Return a random id of `digits` hex digits, an even number."""
    return generator.randbytes(digits // 2).hex()

"""The rate of a step: how many attempts at events begin in a time, over all workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RATE = re.compile(r"([1-9][0-9]{0,8})/([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

#: How a rate is written, for error messages.
RATE_WORDING = "text such as '10/s', '600/m', '1000/h' or '5000/d'"


@dataclass(frozen=True, slots=True)
class Rate:
    """Hold how many attempts may begin in how many seconds."""

    count: int
    seconds: int

    @property
    def per_second(self) -> float:
        """Return how many attempts may begin in a second."""
        return self.count / self.seconds


def parse_rate(text: object) -> Rate | None:
    """Return the rate that a text describes, or None if it describes none."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    return None if found is None else Rate(int(found[1]), _UNITS[found[2]])

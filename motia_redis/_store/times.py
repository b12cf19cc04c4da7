"""Check the times that callers give."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, TypeGuard

from motia_redis.errors import InvalidTime

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TEN_YEARS = 10 * 366 * 86_400  # seconds


@dataclass(frozen=True, slots=True)
class DueTime:
    """When a message is due: milliseconds after the call, or Unix milliseconds."""

    milliseconds: int
    is_relative: bool

    def encode(self, elapsed: int) -> bytes:
        """Return the time as the script takes it, for an attempt so many milliseconds after the start of the call."""
        return b"+%d" % max(0, self.milliseconds - elapsed) if self.is_relative else b"%d" % self.milliseconds

    @property
    def given(self) -> bytes:
        """The time as it was given: the same for the same arguments."""
        return self.encode(0)

    def ahead(self) -> int:
        """Return in how many milliseconds the time comes, by the clock of this process."""
        return self.milliseconds if self.is_relative else max(0, self.milliseconds - int(time.time() * 1000))


def due_time(subject: object, delay: Any, at: Any) -> DueTime | None:
    """Return the time that `delay` or `at` names; None = at once. Raises InvalidTime, which names the `subject`."""
    if delay is not None and at is not None:
        raise InvalidTime(f"{subject}: give either delay or at, not both")
    if delay is not None:
        if not _is_number(delay) or not 0 <= delay <= _TEN_YEARS:
            raise InvalidTime(f"{subject}: delay must be a number of seconds from 0 to ten years, not {delay!r:.80}")
        return DueTime(ceil(delay * 1000), is_relative=True) if delay else None
    if at is None:
        return None
    if isinstance(at, datetime) and at.utcoffset() is None:
        raise InvalidTime(f"{subject}: at must be a datetime with a time zone, such as datetime.now(UTC), not {at!r}")
    moment: Any = at.timestamp() if isinstance(at, datetime) else at
    now = int(time.time())
    if not _is_number(moment) or not now - _TEN_YEARS <= moment <= now + _TEN_YEARS:
        raise InvalidTime(
            f"{subject}: at must be Unix seconds or a datetime with a time zone, at most ten years from now, not {at!r:.80}"
        )
    return DueTime(ceil(moment * 1000), is_relative=False)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration that a person wrote, such as 90, 1.5, 30s or 7d. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r:.80} is not a duration; write seconds, or a number with a unit: 90, 1.5, 30s, 5m, 2h, 7d")
    return float(found[1]) * _UNITS[found[2]]


def check_ttl(subject: object, ttl: object) -> float:
    """Return a time to live in seconds. Raises InvalidTime, which names the `subject`, if it is none."""
    if not _is_number(ttl) or not 0 < ttl <= _TEN_YEARS:
        raise InvalidTime(
            f"{subject}: ttl must be a number of seconds above 0 and at most ten years, None (never) or KEEP, not {ttl!r:.80}"
        )
    return ttl


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)

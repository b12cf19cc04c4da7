"""The goals of issue 3, and verdicts on measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.common import goals

Case = dict[str, Any]

WORST_MS = 50.0
APPEND_TIMES_FLOOR = 1.5
#: The shapes of the goals. `repeated` is an additional, harder shape.
NAMED_SHAPES = ("nested", "flat", "records", "text")


@dataclass(frozen=True, slots=True)
class Verdict(goals.Verdict):
    """A measured ratio ours / rival and its upper limit."""

    reachable: bool = True  #: False if even the lean floor, which changes nothing, exceeds the limit


def limit(rival: str, shape: str, size: int) -> float | None:
    """Return the upper limit of ours / `rival` for a shape and nominal size, or None if there is no goal."""
    if rival == "cjson" and size >= 1000:
        return 1 / 6 if shape == "nested" else 1 / 3
    if rival == "rejson" and 1000 <= size <= 100_000:
        return 0.8
    if rival == "floor" and size >= 10_000:
        return 2.5
    return None


def judge(case: Case, rival: str) -> Verdict | None:
    """Return the verdict on one case against one rival, or None if there is no goal or no figure."""
    most = limit(rival, case["shape"], case["size"])
    if most is None or rival not in case["ratios"]:
        return None
    allowed = case["times"][rival]["median"] * most
    return Verdict(case["ratios"][rival]["median"], most, reachable=case["times"]["lean floor"]["median"] <= allowed)

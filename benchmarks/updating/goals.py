"""The goals of issue 3, and whether a measurement meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.common import goals

Case = dict[str, Any]

WORST_MS = 50.0
APPEND_TIMES_FLOOR = 1.5
#: The shapes that the goals speak of; `repeated` is ours, and harder.
NAMED_SHAPES = ("nested", "flat", "records", "text")


@dataclass(frozen=True, slots=True)
class Verdict(goals.Verdict):
    """A measured ratio, ours / rival, against the most it may be."""

    reachable: bool = True  #: False: even the lean floor, which changes nothing, takes longer than the goal allows


def limit(rival: str, shape: str, size: int) -> float | None:
    """Return the most that ours / `rival` may be for documents of a shape and nominal size, or None where no goal is set."""
    if rival == "cjson" and size >= 1000:
        return 1 / 6 if shape == "nested" else 1 / 3
    if rival == "rejson" and 1000 <= size <= 100_000:
        return 0.8
    if rival == "floor" and size >= 10_000:
        return 2.5
    return None


def judge(case: Case, rival: str) -> Verdict | None:
    """Return the verdict on one case against one rival, or None where there is no goal or no figure."""
    most = limit(rival, case["shape"], case["size"])
    if most is None or rival not in case["ratios"]:
        return None
    allowed = case["times"][rival]["median"] * most
    return Verdict(case["ratios"][rival]["median"], most, reachable=case["times"]["lean floor"]["median"] <= allowed)

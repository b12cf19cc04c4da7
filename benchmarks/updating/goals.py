"""The goals of issue 15, and verdicts on measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.common import goals

Case = dict[str, Any]

WORST_MS = 50.0
APPEND_TIMES_FLOOR = 2.0
#: The shapes of the goals. `repeated` is an additional, harder shape.
NAMED_SHAPES = ("nested", "flat", "records", "text")
#: The most of ours / lean floor for small documents: with functions, and as a script, which Redis makes anew in each call.
LEAN_FLOOR, LEAN_FLOOR_OF_SCRIPT = 1.6, 1.9


@dataclass(frozen=True, slots=True)
class Verdict(goals.Verdict):
    """A measured ratio ours / rival and its upper limit."""

    reachable: bool = True  #: False if even the lean floor, which changes nothing, exceeds the limit


def limit(rival: str, size: int, version: str) -> float | None:
    """Return the upper limit of ours / `rival` for a nominal size on a server's version, or None if there is no goal."""
    is_small = size <= 1000
    if rival in ("cjson", "rejson") and is_small:
        return 1.0
    if rival == "lean floor" and is_small:
        return LEAN_FLOOR if int(version.partition(".")[0]) >= 7 else LEAN_FLOOR_OF_SCRIPT
    if size == 10_000:
        return {"cjson": 1 / 3, "floor": 2.5}.get(rival)
    return None


def judge(case: Case, rival: str, version: str) -> Verdict | None:
    """Return the verdict on one case against one rival, or None if there is no goal or no figure."""
    most = limit(rival, case["size"], version)
    if most is None or rival not in case["ratios"]:
        return None
    allowed = case["times"][rival]["median"] * most
    return Verdict(case["ratios"][rival]["median"], most, reachable=case["times"]["lean floor"]["median"] <= allowed)

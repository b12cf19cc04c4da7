"""Run batches of random cases and count the results."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motia_redis.errors import StateError
from tests.fuzzing.cases import draw_case
from tests.fuzzing.comparison import find_mismatch, is_too_long
from tests.fuzzing.failures import Failure, shrink
from tests.fuzzing.runner import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzzing.runner import Runner


@dataclass(slots=True)
class Tally:
    """The counts of a run."""

    cases: int = 0
    accepted: int = 0
    too_long: int = 0  # rejected because a non-canonical text is too long for an update in place
    failures: list[Failure] = field(default_factory=list)


async def fuzz(
    runner: Runner,
    seed: int,
    *,
    goes_on: Callable[[Tally], bool],
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> Tally:
    """Run batches of random cases while `goes_on` returns true; return the counts.

    Failing cases are shrunk before `on_failure` gets them. The same seed gives the same cases.
    """
    rnd = random.Random(seed)
    tally = Tally()
    while goes_on(tally):
        drawn = [draw_case(rnd) for _ in range(BATCH)]
        for (case, model), seen in zip(drawn, await runner.run([case for case, _ in drawn]), strict=True):
            tally.cases += 1
            tally.accepted += seen.raised is None
            tally.too_long += isinstance(seen.raised, StateError) and is_too_long(case, seen.raised)
            if found := find_mismatch(case, model, seen):
                failure = await shrink(runner, Failure(case, found))
                tally.failures.append(failure)
                on_failure(failure)
    return tally

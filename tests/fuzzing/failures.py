"""Run failing cases again, shrink them, and save them for a replay."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from motia_redis._store.expiry import KEEP
from tests.fuzzing.cases import Case, expect
from tests.fuzzing.comparison import find_mismatch
from tests.fuzzing.documents import encode_canonical
from tests.fuzzing.times import split, with_time
from tests.fuzzing.values import load, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fuzzing.runner import Runner


@dataclass(slots=True)
class Failure:
    """A case whose result differs from the model, and the difference."""

    case: Case
    found: str

    def expected(self) -> str:
        """Return the result of the model as text."""
        model = expect(self.case)
        return f"rejected: {model.refusal}" if model.refusal else json.dumps(model.value)

    def save(self, directory: Path) -> Path:
        """Write the case into a file in `directory`; return its path."""
        directory.mkdir(parents=True, exist_ok=True)
        saved = self.case.to_json() | {"expected": self.expected(), "found": self.found}
        text = json.dumps(saved, indent=2)
        path = directory / f"case-{sha1(text.encode()).hexdigest()[:12]}.json"
        path.write_text(text + "\n")
        return path


async def try_case(runner: Runner, case: Case) -> Failure | None:
    """Run a case; return the failure, if there is one."""
    [seen] = await runner.run([case])
    found = find_mismatch(case, expect(case), seen)
    return Failure(case, found) if found else None


def _smaller_values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in value:
            yield {other: item for other, item in value.items() if other != name}
        for name, item in value.items():
            for smaller in _smaller_values(item):
                yield {**value, name: smaller}
    elif isinstance(value, list):
        for size in {len(value) // 2, 1}:
            for start in range(0, len(value), size or 1):
                yield value[:start] + value[start + (size or 1) :]
        for index, item in enumerate(value):
            for smaller in _smaller_values(item):
                yield [*value[:index], smaller, *value[index + 1 :]]
    elif isinstance(value, str) and len(value) > 1:
        yield value[: len(value) // 2]
        yield value[len(value) // 2 :]


def _smaller_cases(case: Case) -> Iterator[Case]:
    case = replace(case, by_set=False)
    if case.ttl is not KEEP:
        yield replace(case, ttl=KEEP)
    if case.time is not None:
        yield replace(case, text=with_time(case.text or b"", None))
    for index in range(len(case.operations) - 1, -1, -1):
        yield replace(case, operations=case.operations[:index] + case.operations[index + 1 :])
    if case.text is not None and case.is_canonical:
        for value in _smaller_values(plain(load(case.text))):
            yield replace(case, text=with_time(encode_canonical(value), case.time))
    elif case.text is not None:
        json = split(case.text)[0]
        size = len(json) // 2
        while size:
            for start in range(0, len(json), size):
                yield replace(case, text=with_time(json[:start] + json[start + size :], case.time))
            size //= 2
    for index, operation in enumerate(case.operations):
        if isinstance(operation, dict) and "value" in operation:
            for value in _smaller_values(operation["value"]):
                smaller = [*case.operations[:index], {**operation, "value": value}, *case.operations[index + 1 :]]
                yield replace(case, operations=smaller)


async def shrink(runner: Runner, failure: Failure, *, tries: int = 600) -> Failure:
    """Make a failing case smaller while it fails in the same way: with the same first words of the mismatch."""

    def way(found: str) -> str:
        return re.split("[^a-z ]", found, maxsplit=1)[0]

    again = True
    while again:
        again = False
        for case in _smaller_cases(failure.case):
            tries -= 1
            if tries < 0:
                return failure
            if case.text is not None and case.is_canonical != failure.case.is_canonical:
                continue  # a non-canonical text must not get the mark of canonical JSON by chance
            smaller = await try_case(runner, case)
            if smaller and way(smaller.found) == way(failure.found):
                failure, again = smaller, True
                break
    return failure

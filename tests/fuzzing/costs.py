"""Search for the most expensive update (G8): `python -m tests.fuzzing.costs --help`.

A candidate is a document and an update of it, described by a few parameters. The search draws candidates, and changes the most
expensive ones of each operation and size. It runs on all servers of the environment, and prints the worst time of each operation.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import redis

from motia_redis import StateManager
from motia_redis._store import codec
from motia_redis._store.keyspace import Layout
from motia_redis._store.limits import Retention
from motia_redis.errors import StateError
from tests.support.servers import RedisServer, all_servers

if TYPE_CHECKING:
    from typing import Self

LONGEST = 50.0  # milliseconds that an update may take in Redis
CONFIRMATIONS = 10  # later attempts at a candidate that seems to take too long
ATTEMPTS = 4  # at a candidate that seems to take longer than those before: a busy machine delays only some of them

Operation = dict[str, Any]

_SIZES = (100, 1_000, 8_000, 60_000, 127_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
_ATOMS = (
    "1", "1.0", "12345678901234567", '""', '"a"', "[]", "{}", "null", '{"a":1}', '{"n":1}', "[1]", '"\\u0022"', '"é"', '":"',
    '[[],"x"]', f'"{"a" * 64}"', '{"b":{"a":[]}}', "-0.0",
)  # fmt: skip
_UNITS = ("a", "n", ":", "\\u007b", "\\u0022", "\\u005c", "é", "𝄞", "\\n", "xxxxxxxxxn", ",")
_FOREIGN_UNITS = ("a", "\\\\", '\\"', "[", "{", "\\u0061", "\\ud834\\udd1e", "\\n", "é", "𝄞", "/")
_NAMES = ("n", "a", "aaaaaaaa", "a" * 60, "a" * 4000, ":", '"', "é", ",", "")
_TARGETS = ("small", "large", "last", "first", "missing", "missing inside", "end", "deep", "root")
_OPERATIONS = ("test", "add", "replace", "remove", "move", "copy", "increment", "append", "merge")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document with a large and a small member, and an update of it."""

    operation: str
    size: int
    shape: str  #: of the large member: array, object, text, chain
    atoms: tuple[str, ...]  #: the items of the large member
    unit: str  #: what its text repeats
    name: str  #: of the small member
    large_first: bool
    form: str  #: "canonical", or how another program wrote it: "compact", "spaced"
    target: str  #: one of _TARGETS
    value: str  #: same, spelled, reordered, small, long
    repeat: int
    both_ends: bool = False  #: also change both ends of the text, so that the event carries all of it
    second: str = ""  #: another operation, which takes turns with the first one
    second_target: str = "small"
    strict: bool = False

    @classmethod
    def draw(cls, rnd: random.Random, operation: str, size: int) -> Self:
        """Draw a candidate."""
        form = rnd.choice(("canonical", "canonical", "compact", "spaced")) if size <= 127_000 else "canonical"
        return cls(
            operation=operation,
            size=size,
            shape=rnd.choice(("array", "array", "object", "object", "text", "chain")),
            atoms=tuple(rnd.choices(_ATOMS, k=rnd.choice((1, 1, 2, 3, 16, 17)))),
            unit=rnd.choice(_UNITS if form == "canonical" else _FOREIGN_UNITS),
            name=rnd.choice(_NAMES),
            large_first=rnd.random() < 0.6,
            form=form,
            target=rnd.choice(_TARGETS),
            value=rnd.choice(("same", "spelled", "reordered", "small", "long")),
            repeat=rnd.choice((1, 1, 2, 3, 5, 10, 30, 100, 300, 1000)),
            both_ends=rnd.random() < 0.2,
            second=rnd.choice(_OPERATIONS) if rnd.random() < 0.3 else "",
            second_target=rnd.choice(_TARGETS),
            strict=rnd.random() < 0.2,
        )

    def mutate(self, rnd: random.Random) -> Self:
        """Return this candidate with one or two other fields."""
        other = self.draw(rnd, self.operation, self.size)
        names = rnd.sample(
            [field.name for field in fields(self) if field.name not in ("operation", "size")], rnd.choice((1, 1, 2))
        )
        changed = replace(self, **{name: getattr(other, name) for name in names})
        if changed.form == "canonical" and changed.unit not in _UNITS:
            changed = replace(changed, unit="a")
        if changed.size > 127_000 and changed.form != "canonical":
            changed = replace(changed, form="canonical")
        return changed

    def large(self) -> str:
        """Return the text of the large member."""
        size = max(self.size - 40 - len(self.name), 2)
        if self.shape == "text":
            return '"' + self.unit * (size // len(self.unit.encode())) + '"'
        if self.shape == "chain":
            levels = min(240, size // 8)
            inner = "[" + self._fill(size - 6 * levels, "") + "]"
            return '{"a":' * levels + inner + "}" * levels
        if self.shape == "array":
            return "[" + self._fill(size, "") + "]"
        return "{" + self._fill(size, '"%x":') + "}"

    def _fill(self, size: int, prefix: str) -> str:
        """Join as many items with commas as have about `size` bytes."""
        longest = len(prefix % (size // 8)) if prefix else 0
        mean = sum(len(atom.encode()) + 1 for atom in self.atoms) / len(self.atoms) + longest
        items = islice(cycle(self.atoms), max(int(size / mean), 0))
        return ",".join([prefix % number + item for number, item in enumerate(items)] if prefix else items)

    def text(self) -> bytes:
        """Return the stored text."""
        members = [f'"p":{self.large()}', f"{codec.encode_name(self.name).decode()}:1"]
        if self.name == "p":
            members.pop()
        text = "{" + ",".join(members if self.large_first else members[::-1]) + "}"
        if self.form == "spaced":
            text = text.replace(",", " , \n").replace(":", " : ")
        return text.encode() + (codec.CANONICAL_MARK if self.form == "canonical" else b"")

    def operations(self, document: Any) -> list[Operation]:
        """Return the update. `document` is the decoded text."""
        operation = self._operation(document, self.operation, self.target)
        turns = [operation]
        if self.operation == "move":
            turns.append({"op": "move", "from": "/q", "path": operation["from"]})
        if self.second:
            turns.append(self._operation(document, self.second, self.second_target))
        update = turns * (self.repeat // len(turns) or 1)
        if not self.both_ends:
            return update
        return [*update[:998], {"op": "add", "path": self._small(), "value": 2}, {"op": "add", "path": "/zz", "value": 1}]

    def _operation(self, document: Any, name: str, target: str) -> Operation:
        """Return the operation `name` on the target."""
        path, found = self._find(document, target)
        operation: Operation = {"op": name, "path": path}
        if name in ("move", "copy"):
            operation |= {"from": path, "path": "/q"}
            if target == "deep":
                operation["path"] = "/p" + "/a" * 120
        elif name == "increment":
            operation["value"] = 1
        elif name == "merge":
            operation["value"] = {f"{number:x}": 1 for number in range(20_000 if self.value == "long" else 20)}
        elif name != "remove":
            operation["value"] = self._value(found)
        return operation

    def _find(self, document: Any, target: str) -> tuple[str, Any]:
        """Return the path of a target, and the value there."""
        large = document["p"]
        size = len(large)
        steps = 0
        deepest = large
        while steps < 120 and isinstance(deepest, dict) and "a" in deepest:
            deepest, steps = deepest["a"], steps + 1
        is_array = isinstance(large, list)
        last = f"/p/{size - 1 if is_array else format(size - 1, 'x')}"
        places: dict[str, tuple[str, Any]] = {
            "small": (self._small(), 1),
            "large": ("/p", large),
            "last": (last, 1),
            "first": ("/p/0", 1),
            "missing": ("/missing", 1),
            "missing inside": (f"/p/{9 * size}" if is_array else "/p" + self._small(), 1),
            "end": ("/p/-", 1),
            "deep": ("/p" + "/a" * steps, deepest),
            "root": ("", document),
        }
        return places[target]

    def _small(self) -> str:
        """Return the path of the small member."""
        return "/" + self.name.replace("~", "~0").replace("/", "~1")

    def _value(self, found: Any) -> Any:
        """Return the value of the operation, for a target with the value `found`."""
        if self.value == "small":
            return 1
        if self.value == "long":
            return "x" * min(self.size, 4_000)
        if self.value == "reordered" and isinstance(found, dict):
            return dict(reversed(found.items()))
        if self.value == "spelled" and isinstance(found, list) and found:
            return [*found[:-1], 1.0]
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """The time that a candidate took in Redis, in milliseconds, and how the call ended."""

    time: float
    ended: str
    candidate: Candidate

    def __str__(self) -> str:
        shown = {field.name: getattr(self.candidate, field.name) for field in fields(self.candidate)}
        return f"{self.time:5.1f} ms {self.ended}: " + ", ".join(f"{name}={value!r:.60}" for name, value in shown.items())


class Meter:
    """Measures updates on one server. An asynchronous context manager."""

    def __init__(self, server: RedisServer) -> None:
        self._state = StateManager(
            server.url, namespace="costs", layout=Layout(1, 1), retention=Retention(entries=10, seconds=0), deadline=0
        )
        self._raw = redis.Redis.from_url(server.url)
        self.measured = 0  # candidates
        self._schedule = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat")

    async def __aenter__(self) -> Self:
        self._names = (await self._state.connect()).state_keys(b"s", b"k")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._state.close()
        self._raw.close()

    async def measure(self, candidate: Candidate, known: float = LONGEST) -> Measured:
        """Return the time of a candidate. It is measured again while it seems to take longer than `known`."""
        text = candidate.text()
        try:
            operations = candidate.operations(orjson.loads(text))
        except (KeyError, IndexError, ValueError):
            return Measured(0.0, "not JSON", candidate)
        self.measured += 1
        most, sent = self._state.limits.value_bytes * 2, 0
        for number, operation in enumerate(operations):
            sent += len(orjson.dumps(operation)) if number < 3 else sent // number
            if sent > most:
                operations = operations[: number or 1]
                break
        shortest, ended = float("inf"), ""
        for _ in range(ATTEMPTS):
            self._raw.delete(self._names.events)
            self._raw.hset(self._names.values, "k", text)
            self._raw.hset(self._names.revisions, "k", "1-1")
            self._raw.config_resetstat()
            before = self._processor_time()
            try:
                await self._state.update("s", "k", operations, strict=candidate.strict)
                ended = "applied"
            except StateError as error:
                ended = type(error).__name__
            # The first one includes the time in which the server waited for a core, the second one that of receiving the call.
            shortest = min(shortest, self._script_time(), self._processor_time() - before)
            if shortest <= known:
                break
        return Measured(shortest, ended, candidate)

    def _processor_time(self) -> float:
        """Return the processor time of the server's main thread, in milliseconds."""
        try:
            return int(self._schedule.read_text().split()[0]) / 1e6
        except OSError:
            return float("inf")  # the system does not tell

    def _script_time(self) -> float:
        """Return the time that the server spent in scripts since the last reset, in milliseconds."""
        stats: Any = self._raw.info("commandstats")
        return sum(stats[name]["usec"] for name in ("cmdstat_fcall", "cmdstat_evalsha", "cmdstat_eval") if name in stats) / 1000


async def search(server: RedisServer, seconds: float, seed: int) -> tuple[int, list[Measured]]:
    """Search for some time. Return how many candidates were measured, and the worst of each operation in falling order."""
    rnd = random.Random(seed)
    best: dict[tuple[str, int], Measured] = {}
    end = time.monotonic() + seconds
    async with Meter(server) as meter:
        while time.monotonic() < end:
            place = rnd.choice(_OPERATIONS), rnd.choice(_SIZES)
            known = best.get(place)
            candidate = known.candidate.mutate(rnd) if known and rnd.random() < 0.6 else Candidate.draw(rnd, *place)
            measured = await meter.measure(candidate, known.time if known else 0.0)
            if known is None or measured.time > known.time:
                best[place] = measured
            gc.collect()  # an error of a call refers to the call's arguments in a cycle
        for place, found in best.items():
            best[place] = await confirm(meter, found)
    worst: dict[str, Measured] = {}
    for (operation, _), measured in best.items():
        if operation not in worst or measured.time > worst[operation].time:
            worst[operation] = measured
    return meter.measured, sorted(worst.values(), key=lambda measured: -measured.time)


async def confirm(meter: Meter, found: Measured) -> Measured:
    """Measure what seems to take too long again, later: a machine that was busy for a while has delayed all attempts at it."""
    for _ in range(CONFIRMATIONS):
        if found.time <= LONGEST:
            break
        await asyncio.sleep(1)
        found = min(found, await meter.measure(found.candidate, LONGEST), key=lambda measured: measured.time)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the search on each server."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzing.costs",
        description="Search for the updates that block Redis for the longest time, on each server of this environment. "
        f"The exit code is 1 if one takes more than {LONGEST:g} ms.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="time of the search on each server (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same first candidates (default: %(default)s)"
    )
    parser.add_argument("--server", help="search only on servers whose name contains this")
    options = parser.parse_args(arguments)
    gc.freeze()
    gc.disable()  # it would look at each document of a million objects many times; `search` calls it after each of them
    longest = 0.0
    for name, program in all_servers().items():
        if options.server and options.server not in name:
            continue
        with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory), program=program) as server:
            number, found = asyncio.run(search(server, options.seconds, options.seed))
        print(f"{name}: the most expensive ones of {number} updates in {options.seconds:g} s")
        for measured in found:
            print(f"  {measured}", flush=True)
        longest = max(longest, found[0].time)
    print(f"the longest time in Redis was {longest:.1f} ms; the limit is {LONGEST:g} ms")
    return 1 if longest > LONGEST else 0


if __name__ == "__main__":
    sys.exit(main())

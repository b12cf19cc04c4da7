r"""Worst-case documents: each stresses one part of the update engine with about 1 MB of text.

Canonical documents are as `set` stores them, so that any user of this library can store them. Non-canonical documents were
written by another client into the hash. Falsely marked documents have the mark of canonical JSON, but are not canonical.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from benchmarks.common.server import microseconds_per_call
from benchmarks.updating.contenders import KEY, Ours
from motia_redis._store import codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.common.server import Server

MEGABYTE = 1_000_000
INCREMENT = {"op": "increment", "value": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """The text of a document in the hash, and the operation on it."""

    name: str
    text: bytes
    operation: dict[str, Any] = field(default_factory=lambda: {**INCREMENT, "path": "/n"})
    repeat: int = 1  #: how often one call contains the operation; the goal is for once


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times of repeated calls, and their outcome: `applied`, or the start of the error message."""

    milliseconds: list[float]
    ended: str


def run(server: Server, case: Case, calls: int) -> Outcome:
    """Call the mutation script on a fresh copy of the document several times, each timed by the server."""
    ours = Ours(server)
    ours.prepare(b"{}", case.operation)
    values = ours.call()[0][0]
    spent, ended = [], "applied"
    for _ in range(calls):
        ours.client.hset(values, KEY, case.text)
        keys, arguments = ours.call()
        if case.repeat > 1:
            head, operation = arguments[:3], arguments[3:]
            arguments = [*head, *(list(operation) * case.repeat)]
        ours.client.config_resetstat()
        try:
            ours.client.execute_command(*ours.command, len(keys), *keys, *arguments)
        except ResponseError as error:
            if not re.match("[A-Z]+ ", str(error)):  # a mistake of the script, or of this benchmark
                raise
            ended = str(error)[:60]
        spent.append(microseconds_per_call(ours.client, ours.command[0]) / 1000)
    ours.client.flushall()
    return Outcome(spent, ended)


def cases() -> Iterator[Case]:
    """Yield all worst-case documents."""
    yield from _deep()
    yield from _same_name()
    yield from _strings()
    yield from _wide_objects()
    yield from _wide_arrays()
    yield from _mixed_sizes()
    yield from _non_canonical()
    yield from _many_operations()


def _canonical(text: str) -> bytes:
    return text.encode() + codec.CANONICAL_MARK


def _encoded(value: Any) -> bytes:
    """Return a value's text as `set` stores it."""
    return codec.encode(value, subject="worst", max_bytes=2 * MEGABYTE) + codec.CANONICAL_MARK


def _fill(items: Iterable[str], size: int = MEGABYTE) -> str:
    """Join items with commas until they are `size` bytes."""
    taken, written = [], 0
    for item in items:
        taken.append(item)
        written += len(item) + 1
        if written >= size:
            break
    return ",".join(taken)


def _deep() -> Iterator[Case]:
    levels = 100_000
    objects = '{"a":' * levels + "1" + "}" * levels
    arrays = "[" * levels + "]" * levels
    padding = f'"pad":"{"x" * (MEGABYTE - 6 * levels)}",'
    for name, deep in (("objects", objects), ("arrays", arrays)):
        text = f'{{{padding}"a":{deep},"n":1}}'
        yield Case(f"100,000 levels of {name}, non-canonical", text.encode())
        yield Case(f"100,000 levels of {name}, falsely marked", _canonical(text))
    yield Case("100,000 unclosed brackets, falsely marked", _canonical(f'{{{padding}"a":{"[" * levels},"n":1}}'))
    pad = "x" * (MEGABYTE // 250)
    chain = f'{{"p":"{pad}","a":' * 250 + "1" + "}" * 250
    yield Case("250 levels, member behind them", _canonical(f'{{"a":{chain},"n":1}}'))
    yield Case("250 levels, member 127 deep", _canonical(chain), {**INCREMENT, "path": "/a" * 126 + "/b"})
    decoys = _fill((f'{{"a":{index % 10}}}' for index in range(MEGABYTE)), MEGABYTE // 127)
    level = f'{{"d":[{decoys}],"a":'
    yield Case(
        "127 levels, each with 1,000 decoys of the name",
        _canonical(level * 127 + '{"n":1}' + "}" * 127),
        {**INCREMENT, "path": "/a" * 127 + "/n"},
    )


def _same_name() -> Iterator[Case]:
    increment = {**INCREMENT, "path": "/a"}
    same = '{"a":1234567890}'
    array = f'{{"list":[{_fill(cycle([same]))}],"a":5}}'
    yield Case("same name 60,000 times, array of objects", _canonical(array), increment)
    yield Case("same name 60,000 times, array of objects, non-canonical", array.encode(), increment)
    members = _fill(f'"x{index}":{{"a":1}}' for index in range(MEGABYTE))
    yield Case("same name 60,000 times, in each member of the root", _canonical(f'{{{members},"a":5}}'), increment)
    yield Case("same name 60,000 times, in each member, none at the root", _canonical(f"{{{members}}}"), increment)
    mixed = _fill(f'"x{index}":{value}' for index, value in enumerate(cycle(['{"a":1}', "1", '""', "[]"])) if index < MEGABYTE)
    yield Case("same name, every 4th member of the root, kinds mixed", _canonical(f'{{{mixed},"a":5}}'), increment)
    chain = '{"a":' * 100 + "1" + "}" * 100
    nested = _fill(f'"x{index}":{chain}' for index in range(MEGABYTE))
    yield Case("same name 160,000 times, in chains of 100", _canonical(f'{{{nested},"a":5}}'), increment)
    arrays = _fill(f'"x{index}":[{{"a":1}},{{"b":2}}]' for index in range(MEGABYTE))
    yield Case("same name 40,000 times, in arrays in members", _canonical(f'{{{arrays},"a":5}}'), increment)
    missing = {**INCREMENT, "path": "/r/a"}
    yield Case("same name 60,000 times, one object in", _canonical(f'{{"r":{{{members},"a":5}},"z":0}}'), missing)


def _strings() -> Iterator[Case]:
    for name, members in (("before", "sn"), ("behind", "ns")):
        canonical = {member: '"\\' * (MEGABYTE // 12) if member == "s" else 1 for member in members}
        yield Case(f"text of 167,000 quotes and backslashes, member {name}", _encoded(canonical))
        other = {member: '"\\' * (MEGABYTE // 4) if member == "s" else 1 for member in members}
        yield Case(f"text of 500,000 quotes and backslashes, member {name}, non-canonical", json.dumps(other).encode())
    text = f'"n\\u0022:{"x" * 10}'
    names = _fill(f'"{text[1:8]}{index}":1' for index in range(MEGABYTE))
    yield Case("names of escaped quotes", _canonical(f'{{{names},"n":1}}'))
    append = {"op": "append", "path": "/s", "value": "x"}
    yield Case("append to a text of quotes and backslashes", _encoded({"s": '"\\' * (MEGABYTE // 12)}), append)
    yield Case("a number of 1,000,000 digits, non-canonical", b'{"n":' + b"1" * MEGABYTE + b"}")
    yield Case("a number of 1,000,000 digits, falsely marked", _canonical('{"n":' + "1" * MEGABYTE + "}"))


def _wide_objects() -> Iterator[Case]:
    kinds = ["1", '""', "{}", "[]", "null", "-1.5e3"]
    mixed = _fill(f'"{index:x}":{value}' for index, value in enumerate(islice(cycle(kinds), MEGABYTE)))
    same = _fill(f'"{index:x}":1' for index in range(MEGABYTE))
    for name, members in (("mixed kinds", mixed), ("one kind", same)):
        yield Case(f"110,000 members of {name}, last", _canonical(f'{{{members},"n":1}}'))
        yield Case(f"110,000 members of {name}, missing", _canonical(f"{{{members}}}"))
        odd = {**INCREMENT, "path": "/:"}
        yield Case(f'110,000 members of {name}, last, named ":"', _canonical(f'{{{members},":":1}}'), odd)
        yield Case(f'110,000 members of {name}, missing, named ":"', _canonical(f"{{{members}}}"), odd)
        yield Case(f"110,000 members of {name}, non-canonical", f'{{{members},"n":1}}'.encode())
        remove = {"op": "remove", "path": "/n"}
        yield Case(f"110,000 members of {name}, remove the last", _canonical(f'{{{members},"n":1}}'), remove)
    colons = _fill(f'"{index:x}":":"' for index in range(MEGABYTE))
    yield Case('members with the value ":", last, named ":"', _canonical(f'{{{colons},":":1}}'), odd)
    decoys = _fill(f'"{index:x}":{{":":1}}' for index in range(MEGABYTE))
    yield Case('60,000 decoys named ":", last, named ":"', _canonical(f'{{{decoys},":":1}}'), odd)


def _wide_arrays() -> Iterator[Case]:
    def at(index: int) -> dict[str, Any]:
        return {"op": "replace", "path": f"/{index}", "value": 7}

    kinds = ["1", '""', "[]", "{}"]
    yield Case("array of 500,000 digits, the last", _canonical("[" + _fill(cycle("1")) + "]"), at(499_999))
    yield Case("array of 500,000 digits, out of range", _canonical("[" + _fill(cycle("1")) + "]"), at(9_999_999))
    mixed = "[" + _fill(islice(cycle(kinds), 300_000), 9 * MEGABYTE) + "]"
    yield Case("array of 300,000 elements of mixed kinds, the last", _canonical(mixed), at(299_999))
    yield Case("array of 300,000 elements of mixed kinds, out of range", _canonical(mixed), at(9_999_999))
    empty = "[" + _fill(cycle(["[]"])) + "]"
    yield Case("array of 333,000 empty arrays, the last", _canonical(empty), at(333_000))
    strings = "[" + _fill(cycle(['""'])) + "]"
    yield Case("array of 333,000 empty texts, the last", _canonical(strings), at(333_000))
    runs = "[" + _fill(cycle(["1"] * 15 + ['""'])) + "]"
    yield Case("array, runs of 15 of one kind", _canonical(runs), at(480_000))
    yield Case("array of 500,000 digits, non-canonical", ("[" + _fill(cycle("1")) + "]").encode(), at(400_000))


def _mixed_sizes() -> Iterator[Case]:
    large = "[" + _fill(cycle("1"), 2000) + "]"
    for small in (1, 4, 14):
        group = ["[]"] * small + [large] + ["1"]
        items = _fill(cycle(group))
        index = items.count("[]") + items.count(large) + items.count("]," + "1") - 1
        operation = {"op": "replace", "path": f"/{index}", "value": 7}
        yield Case(f"{small} empty arrays, one of 2 KB, a digit, and so on", _canonical(f"[{items}]"), operation)
    group = ["[]"] * 8 + ["[" + _fill(cycle("1"), 8000) + "]"] * 7 + ["1"]
    items = _fill(cycle(group))
    operation = {"op": "replace", "path": f"/{items.count('[') + items.count('],1') - 2}", "value": 7}
    yield Case("8 empty arrays, 7 of 8 KB, a digit, and so on", _canonical(f"[{items}]"), operation)
    deepest = "[" * 120 + "1" + "]" * 120
    group = ["[]"] * 13 + [deepest, deepest, "1"]
    yield Case("empty arrays and deep ones in turn", _canonical(f"[{_fill(cycle(group))}]"), {**operation, "path": "/30000"})
    objects = (f'"{index:x}":{{}}' if index % 16 < 14 else f'"{index:x}":{{":":{large}}}' for index in range(MEGABYTE))
    odd = {**INCREMENT, "path": "/:"}
    yield Case('empty objects and large ones with a decoy ":"', _canonical(f'{{{_fill(objects)},":":1}}'), odd)


def _non_canonical() -> Iterator[Case]:
    """Yield non-canonical documents of 1 MB, and of 250 KB, which the engine must not reject for their size."""
    letter, pair = r"\u0041", r"\ud83d\ude42"
    for size in (MEGABYTE, MEGABYTE // 4):
        suffix = f"non-canonical, {size // 1000} KB"
        for name, piece in (("accents", "é"), ("emoji", "🙂"), (letter, letter), (pair, pair), ("quotes", '\\"')):
            text = piece * (size // len(piece.encode()))
            yield Case(f"text of {name}, {suffix}", f'{{"s":"{text}","n":1}}'.encode())
        yield Case(f"one name of {letter}, {suffix}", f'{{"{letter * (size // 6)}":1,"n":1}}'.encode())
        yield Case(f"blanks, {suffix}", b'{"n":' + b" " * size + b"1}")
        names = _fill((f'"{letter}{index}":1' for index in range(MEGABYTE)), size)
        yield Case(f"names with {letter}, {suffix}", f'{{{names},"n":1}}'.encode())
        ones = _fill(cycle(['"a":1']), size)
        yield Case(f"broken, last brace missing, {suffix}", f"{{{ones}".encode())
    for tokens in (19_000, 140_000):
        operation = {"op": "replace", "path": f"/{tokens // 2 - 500}", "value": 7}
        digits = "[" + _fill(cycle("1"), tokens) + "]"
        yield Case(f"array of {tokens // 2:,} digits, read twice, non-canonical", digits.encode(), operation)
        blanks = _fill((f'"{index:x}" : {{ }}' for index in range(tokens // 3)), 2 * MEGABYTE)
        yield Case(f"{tokens // 3:,} members with blanks, non-canonical", f'{{ {blanks} , "n" : 1 }}'.encode())


def _many_operations() -> Iterator[Case]:
    document = _canonical('{"s":"' + "x" * MEGABYTE + '","n":1}')
    test = {"op": "test", "path": "/n", "value": 1}
    yield Case("1,000 tests of one member behind 1 MB of text", document, test, 1000)
    yield Case("60 increments behind 1 MB of text", document, {**INCREMENT, "path": "/n"}, 60)
    members = _fill(f'"x{index}":{{"a":1}}' for index in range(MEGABYTE))
    test = {"op": "test", "path": "/a", "value": 5}
    yield Case("20 tests, same name 60,000 times", _canonical(f'{{{members},"a":5}}'), test, 20)

"""The parts in lua/lib that touch no Redis, run by a plain lua5.1: one process per test, many cases in it."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from typing import Any

import pytest

from motia_redis._scripts import loader
from motia_redis._store import codec, expiry
from tests.fuzzing import documents, noncanonical, operations
from tests.fuzzing.noncanonical import encode_noncanonical
from tests.fuzzing.values import equal, fits, is_json, load, same

LUA = shutil.which("lua5.1")
pytestmark = pytest.mark.skipif(LUA is None, reason="lua5.1 is not installed: apt-get install lua5.1")

# Reads lines of hexadecimal arguments, answers each with a line: "=" and hexadecimal results, or "!" and an error.
PRELUDE = """
local function unhex(text) return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)) end
local function hex(value) return (tostring(value):gsub(".", function(char) return ("%02x"):format(char:byte()) end)) end
local function fail(code, detail) error({ code = code, detail = detail }, 0) end
local function document(text, noncanonical)
  local parser = noncanonical and require("lib.noncanonical").parser or require("lib.canonical")
  local function spend(of, cost) of.cost = of.cost + cost end
  local function check() end
  return { text = text, cost = 0, quick = 1e9, seed = 1, parser = parser, fail = fail, spend = spend, check = check }
end
local function run(call)
  for line in io.lines() do
    local arguments = {}
    for argument in line:gmatch("[^,]+") do arguments[#arguments + 1] = unhex(argument:sub(2)) end
    local results = { pcall(call, unpack(arguments)) }
    local failure = results[2]
    local parts = {}
    for index = 2, table.maxn(results) do parts[index - 1] = hex(results[index]) end
    if not results[1] then parts = { hex(type(failure) == "table" and failure.code or failure) } end
    print((results[1] and "=" or "!") .. table.concat(parts, ","))
  end
end
"""


class LuaError(Exception):
    """What a call in Lua raised."""


def lua(body: str, calls: list[tuple[bytes | str | int, ...]]) -> list[Any]:
    """Run `body` (which hands a function to `run`) and return the results of each call: strings, or a LuaError."""
    lines = []
    for call in calls:
        arguments = [argument if isinstance(argument, bytes) else str(argument).encode() for argument in call]
        lines.append(",".join("x" + argument.hex() for argument in arguments))
    done = subprocess.run(
        [str(LUA), "-e", f"package.path = {str(loader.directory() / '?.lua')!r}\n{PRELUDE}\n{body}"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = []
    for line in done.stdout.splitlines():
        parts = [bytes.fromhex(part) for part in line[1:].split(",")]
        answers.append(LuaError(parts[0]) if line[0] == "!" else parts)
    assert len(answers) == len(calls)
    return answers


def _numbers(seed: int, count: int) -> list[str]:
    rnd = random.Random(seed)
    numbers = [str(rnd.choice((1, -1)) * rnd.randrange(10 ** rnd.randrange(1, 21))) for _ in range(count // 2)]
    numbers += [repr(documents.draw_number(rnd)) for _ in range(count // 3)]
    numbers += [rnd.choice(noncanonical.SPELLINGS) for _ in range(count - len(numbers))]
    rnd.shuffle(numbers)
    return numbers


def test_numbers_add_as_in_python() -> None:
    pairs = list(zip(_numbers(1, 6000), _numbers(2, 6000), strict=True))
    answers = lua('local number = require("lib.number")\nrun(function(a, b) return number.add(a, b) end)', pairs)
    for (a, b), [found, *why] in zip(pairs, answers, strict=True):
        left, right = load(a.encode()), load(b.encode())
        if isinstance(left, int) and isinstance(right, int):
            # The amount was checked by the client; so it matters only for the first number, and the sum, that they fit.
            expected = int(left) + int(right) if fits(left) and fits(left + right) else None
            assert found == (b"nil" if expected is None else b"%d" % expected), (a, b)
            continue
        total = float(left) + float(b)  # an amount of -0 is that of a decrement by 0
        if not math.isfinite(total):
            assert (found, why) == (b"nil", [b"float"]), (a, b)
        else:
            assert same(total, float(found)), (a, b, found)
            assert isinstance(json.loads(found), float), f"{a} + {b} must stay a float: {found!r}"


def test_numbers_are_equal_when_their_values_are() -> None:
    rnd = random.Random(3)
    numbers = _numbers(4, 3000)
    pairs = []
    for a in numbers:
        value = load(a.encode())
        b = rnd.choice((rnd.choice(numbers), repr(float(value)), f"{float(value):.25e}", str(int(float(value))), a))
        pairs.append((a, b))
    answers = lua('local number = require("lib.number")\nrun(function(a, b) return number.equal(a, b) end)', pairs)
    outcomes = set()
    for (a, b), [found] in zip(pairs, answers, strict=True):
        expected = equal(load(a.encode()), load(b.encode()))
        outcomes.add(expected)
        assert found == str(expected).lower().encode(), (a, b)
    assert outcomes == {True, False}


def test_canonical_spells_any_string_as_the_codec_does() -> None:
    rnd = random.Random(5)
    texts = (
        ["".join(rnd.choices(documents.ATOMS, k=rnd.randrange(6))) for _ in range(3000)]
        + list(map(chr, range(0x180)))
        + documents.NAMES
    )
    texts += [f"\\u{code:04x}" for code in (0x41, 0x22, 0x5C, 0x7B, 0xD83D)] + ["\\\\u0041", '\\\\"', "\\\\\\"]
    tokens: list[tuple[bytes]] = [(encode_noncanonical(rnd, text).encode(),) for text in texts]
    answers = lua(
        'run(function(token) return require("lib.noncanonical").canonicalize(token, document(token)) end)',
        tokens,
    )  # type: ignore[arg-type]
    for text, (token,), [found] in zip(texts, tokens, answers, strict=True):
        assert found == codec.encode_name(text), (text, token)


def test_texts_are_equal_whatever_their_spelling() -> None:
    rnd = random.Random(6)
    calls: list[Any] = []
    for _ in range(1500):
        value = documents.draw_value(rnd)
        other = operations.draw_tested(rnd, value) if rnd.random() < 0.7 else documents.draw_value(rnd)
        if is_json(other):
            given = codec.encode(other, subject="", max_bytes=1 << 30)
            calls.append((codec.encode(value, subject="", max_bytes=1 << 30), given, "canonical"))
            calls.append((encode_noncanonical(rnd, value).encode(), given, "other"))
    body = """
run(function(text, value, form)
  return require("lib.equal").equal(document(text, form == "other"), string.find(text, "[^ \\t\\r\\n]"), value)
end)
"""
    outcomes = set()
    for (a, b, _), [found] in zip(calls, lua(body, calls), strict=True):
        expected = equal(load(a), load(b))
        outcomes.add(expected)
        assert found == str(expected).lower().encode(), (a, b)
    assert outcomes == {True, False}


NAVIGATE = """
local canonical, scan_items = require("lib.canonical"), require("lib.scan_items")
run(function(text, open, name, close)
  local searched = document(text)
  searched.quick = %s
  local start, value = %s.find_member(searched, tonumber(open), name, tonumber(close))
  return start, value
end)
"""

CRAFTED = [
    {"a": 1, "aa": {"a": 2}, "": 3},
    {"x": {"a": 1}, "y": [{"a": 2}, {"a": {"a": 3}}], "a": 4},
    {"x": '","a":1', "y": '"a":', "a": 1},
    {",": 1, '",': 2, ":": 3, "}": 4, "]": 5, "\t": 6, '"': 7},
    {"s": ",", "t": ":", ",": ":,", "u": ["a", ",", ":"], ":": ","},
    {"s": "x", ":": 1, ",": 2},
    {"s": ["x", ":"], ":,": "x", ",": 2, ":": 1},
    {"b": {}, "c": [], "a": {}},
    {"": {"": {"": 1}}},
    {f"m{number}": {"id": number, "m3": "m4"} for number in range(60)},
    {f"m{number}": number if number % 17 else "x" * 70 for number in range(80)},
    {"ba": 1, "cba": 2, "dcba": 3, "a": 4, **{f"{number}a": 0 for number in range(20)}},
]


@pytest.mark.parametrize(("part", "quick"), [("canonical", 1 << 30), ("canonical", 0), ("scan_items", 0)])
def test_a_member_is_found_where_it_is_and_nowhere_else(part: str, quick: int) -> None:
    rnd = random.Random(7)
    objects = CRAFTED + [value for value in (documents.draw_value(rnd) for _ in range(300)) if isinstance(value, dict)]
    calls: list[Any] = []
    expected = []
    for value in objects:
        outer, inner = (
            codec.encode([0, value, {"a": 1, "b": 2}], subject="", max_bytes=1 << 30) + codec.CANONICAL_MARK,
            codec.encode(value, subject="", max_bytes=1 << 30),
        )
        for name in {*list(value)[:40], "a", "b", ",", "nowhere", "\t"}:
            position = None
            if name in value:
                names = list(value)
                head = codec.encode({other: value[other] for other in names[: names.index(name)]}, subject="", max_bytes=1 << 30)
                position = 4 + len(head) - 1 + (len(head) > 2)  # behind `[0,{...,`, from 1
            for close in ("", str(3 + len(inner))):
                calls.append((outer, 4, codec.encode_name(name), close))
                expected.append(position)
    for call, position, found in zip(calls, expected, lua(NAVIGATE % (quick, part), calls), strict=True):
        if position is None:
            assert found[0] in (b"nil", b""), call
        else:
            assert found == [b"%d" % position, b"%d" % (position + len(call[2]) + 1)], call
    assert any(position is None for position in expected)


def test_text_is_found_however_frequent_its_first_byte_is() -> None:
    rnd = random.Random(10)
    calls: list[Any] = []
    for _ in range(2000):
        text = "".join(rnd.choice(("a", "b", "ab", "x" * 50, "a" * 300, "c" * 2000)) for _ in range(rnd.randrange(1, 40)))
        at = rnd.randrange(len(text))
        needle = text[at : at + rnd.choice((1, 2, 3, 60, 400))] if rnd.random() < 0.8 else "ba" * 3
        calls.append((text, needle, rnd.randrange(1, len(text) + 1)))
    body = 'run(function(text, needle, from) return require("lib.search").find_text(document(text), needle, tonumber(from)) end)'
    for (text, needle, start), found in zip(calls, lua(body, calls), strict=True):
        position = text.find(needle, start - 1) + 1
        assert found == [b"%d" % position if position else b""], (text, needle, start)


def test_an_element_is_found_by_its_index_across_all_seams() -> None:
    rnd = random.Random(8)
    arrays: list[list[Any]] = [[], [0], [[]], [{}], list(range(100)), ["x" * 63] * 50, [{}] * 70, [[1, 2]] * 15 + ["a"] * 17]
    arrays += [documents.draw_items(rnd, rnd.choice((1, 15, 16, 17, 33, 65, 100))) for _ in range(60)]
    calls: list[Any] = []
    expected = []
    for array in arrays:
        text = codec.encode({"l": array, "m": [1, 2, 3]}, subject="", max_bytes=1 << 30) + codec.CANONICAL_MARK
        for index in range(len(array) + 3):
            calls.append((text, 6, index))
            head = len(codec.encode(array[:index], subject="", max_bytes=1 << 30)) - 1 + (index > 0)
            expected.append([b"%d" % (6 + head)] if index < len(array) else [b"nil", b"%d" % len(array)])
    body = """
local scan_items = require("lib.scan_items")
run(function(text, open, index) return scan_items.find_element(document(text), tonumber(open), tonumber(index)) end)
"""
    for call, position, found in zip(calls, expected, lua(body, calls), strict=True):
        assert found == position, call


def test_only_json_passes_the_check_of_noncanonical_texts() -> None:
    rnd = random.Random(9)
    texts = [encode_noncanonical(rnd, documents.draw_value(rnd)).encode() for _ in range(400)]
    texts += [noncanonical.damaged(rnd, text) for text in texts for _ in range(4)] + [
        text.encode() for text in noncanonical.BROKEN
    ]
    body = 'run(function(text) return require("lib.noncanonical").parser.check(document(text, true)) end)'
    outcomes = set()
    for text, found in zip(texts, lua(body, [(text,) for text in texts]), strict=True):
        try:
            load(text)
        except ValueError:
            assert isinstance(found, LuaError), text
            assert found.args == (b"CORRUPT",), text
            outcomes.add(False)
            continue
        outcomes.add(True)
        stripped = text.strip(b" \t\r\n")
        start = text.index(stripped) + 1
        assert found == [b"%d" % start, b"%d" % (start + len(stripped) - 1)], text
    assert outcomes == {True, False}


def test_expiry_is_spelled_and_read_as_in_python() -> None:
    random.seed(7)
    times = [0, 1, 4095, 4096, 4**24 - 1, *(random.getrandbits(48) for _ in range(300))]
    body = """
    local expiry = require("lib.expiry")
    run(function(time)
      local text = expiry.spell(tonumber(time))
      return text, expiry.time_of("{}" .. text .. "\\t\\r\\t") == tonumber(time)
    end)
    """
    for milliseconds, (spelled, is_same) in zip(times, lua(body, [(time,) for time in times]), strict=True):
        assert expiry.expires_at(b"{}" + spelled + codec.CANONICAL_MARK) == milliseconds / 1000
        assert is_same == b"true"


def test_schedules_are_read_as_they_were_written() -> None:
    records = ["1700000000000:::", "1:1700000000060::", "0:60000:late:", "5:::1700000000000", "1:2:late:3"]
    body = """
    local schedules = require("lib.schedules")
    run(function(text, now)
      local record = schedules.decode(text)
      return record and schedules.encode(record), record and schedules.is_missed(record, tonumber(now)) and "missed" or ""
    end)
    """
    found = lua(body, [(record, 0) for record in records])
    assert [text for text, *_ in found] == [record.encode() for record in records]
    broken = ["", "x", "1:2", ":1::", "1:2:late", "-1:::", "1:::\n"]
    assert [text for text, *_ in lua(body, [(record, 0) for record in broken])] == [b"nil"] * len(broken)
    for record, now, missed in [("1:1000::", 61_000, False), ("1:1000::", 61_001, True), ("1:1000:late:", 99_999, False)]:
        assert (lua(body, [(record, now)])[0][1] == b"missed") == missed


def test_member_of_a_schedule_names_step_and_schedule_whatever_they_hold() -> None:
    names = [("Report", "UTC 0 3 * * *"), ("7:Ä b", "Europe/Berlin */5 * * * MON"), ("1", "2:3"), ("a", "")]
    body = """
    local schedules = require("lib.schedules")
    run(function(step, schedule) return schedules.split(string.match(schedules.member_of(step, schedule), "^schedule:(.*)$")) end)
    """
    calls: list[tuple[bytes | str | int, ...]] = [(step.encode(), schedule.encode()) for step, schedule in names]
    for (step, schedule), [found_step, found] in zip(names, lua(body, calls), strict=True):
        assert (found_step.decode(), found.decode()) == (step, schedule)
    (streams,) = lua(
        'local schedules = require("lib.schedules")\nrun(function(a, b, c) return schedules.is_stream(a), schedules.is_stream(b),'
        " schedules.is_stream(c) end)",
        [("{motia:3}:cron:Report", "{motia:3}:topic:0:x}:cron:y", "{motia:3}:events:0")],
    )
    assert streams == [b"true", b"false", b"false"]

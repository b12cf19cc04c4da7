"""Updates of random documents match an independent model (a part of `python -m tests.fuzzing`) and change no other byte.

The fuzzer itself detects wrong results."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._store import codec
from tests.fuzzing import (
    BATCH,
    BROKEN,
    Case,
    Model,
    Runner,
    draw_existing,
    draw_value,
    encode_noncanonical,
    expect,
    find_mismatch,
    fuzz,
    is_wanted,
    kept,
    load,
    old_text,
    pointer,
    resolve,
    shrink,
    try_case,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.servers import RedisServer


@pytest.fixture
async def runner(server: RedisServer, namespace: str) -> AsyncIterator[Runner]:
    async with Runner(server.url, namespace) as runner:
        yield runner


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_updates_match_the_model(runner: Runner, seed: int) -> None:
    tally = await fuzz(runner, seed, goes_on=lambda tally: tally.cases < 1300 and not tally.failures)
    assert not tally.failures, json.dumps(tally.failures[0].case.to_json()) + tally.failures[0].found
    assert tally.accepted > tally.cases // 3  # the generator draws cases that mostly fit
    assert tally.too_long < tally.cases // 50


# -- untouched bytes ----------------------------------------------------------------------------------------------------

_BLANK = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[^ \t\r\n{}\[\],:"]+', re.DOTALL)


def _solid(text: bytes, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match
    return match.end()


def _token_end(text: bytes, at: int) -> int:
    match = _TOKEN.match(text, at)
    assert match, text[at : at + 20]
    return match.end()


def _items(text: bytes, at: int) -> Iterator[tuple[Any, int, int]]:
    """Yield the items of the container at `at`: name or index, and start and end of the value."""
    is_object, index, at = text[at : at + 1] == b"{", 0, _solid(text, at + 1)
    while text[at : at + 1] not in (b"}", b"]"):
        name: Any = index
        if is_object:
            end = _token_end(text, at)
            name, at = json.loads(text[at:end]), _solid(text, _solid(text, end) + 1)
        end = _value_end(text, at)
        yield name, at, end
        index, at = index + 1, _solid(text, end)
        if text[at : at + 1] == b",":
            at = _solid(text, at + 1)
    yield None, at, at + 1


def _value_end(text: bytes, at: int) -> int:
    if text[at : at + 1] not in (b"{", b"["):
        return _token_end(text, at)
    return list(_items(text, at))[-1][2]


def span(text: bytes, path: list[str]) -> tuple[int, int]:
    """Return start and end of the value at a path, by a slow, simple scan that shares no code with the engine."""
    start = _solid(text, 0)
    end = _value_end(text, start)
    for segment in path:
        wanted: Any = segment if text[start : start + 1] == b"{" else int(segment)
        start, end = next((first, last) for name, first, last in _items(text, start) if name == wanted and name is not None)
    return start, end


def _texts(seed: int) -> Iterator[tuple[random.Random, bytes]]:
    """Yield documents as canonical and as non-canonical JSON."""
    rnd = random.Random(seed)
    while True:
        value = draw_value(rnd)
        canonical = rnd.random() < 0.5
        text = (
            codec.encode(value, subject="", max_bytes=1 << 30) + codec.CANONICAL_MARK
            if canonical
            else encode_noncanonical(rnd, value).encode()
        )
        if len(text) < 4000 and not (not canonical and text.endswith(codec.CANONICAL_MARK)):
            yield rnd, text


def _draw(seed: int, wanted: tuple[type, ...], count: int) -> list[tuple[bytes, list[str]]]:
    """Return texts, each with the path of a value of a wanted type."""
    drawn = []
    for rnd, text in _texts(seed):
        path = draw_existing(rnd, load(text), wanted)
        found = resolve(load(text), path)
        if path and is_wanted(found, wanted):
            drawn.append((text, path))
        if len(drawn) == count:
            break
    return drawn


async def _assert_only_the_span_changes(runner: Runner, drawn: list[tuple[bytes, list[str]]], operation: dict[str, Any]) -> int:
    changed = 0
    for first in range(0, len(drawn), BATCH):
        part = drawn[first : first + BATCH]
        cases = [Case(text, [operation | {"path": pointer(path)}], strict=True) for text, path in part]
        for (text, path), case, seen in zip(part, cases, await runner.run(cases), strict=True):
            if seen.raised is not None:
                assert expect(case).refusal, f"{case} {seen.raised!r}"
                continue
            changed += 1
            start, end = span(text, path)
            new = seen.stored
            assert new is not None
            assert new.startswith(text[:start]), f"bytes before the value changed: {case} {new!r}"
            assert new.endswith(text[end:]), f"bytes behind the value changed: {case} {new!r}"
            new_span = span(new, path)
            assert new_span == (start, len(new) - (len(text) - end)), (
                f"the new value does not stand where the old one did: {case} {new!r}"
            )
            [(_, fields)] = seen.events
            prefix, suffix = kept(fields)
            assert prefix >= start, "the event cuts out bytes before the value"
            assert suffix >= len(text) - end, "the event cuts out bytes behind the value"
            assert text[:prefix] == new[:prefix]
            assert text[len(text) - suffix :] == new[len(new) - suffix :]
            assert old_text(fields) == text
    return changed


async def test_increment_changes_only_the_bytes_of_the_number(runner: Runner) -> None:
    drawn = _draw(11, (int, float), 500)
    assert await _assert_only_the_span_changes(runner, drawn, {"op": "increment", "value": 3}) > 400


async def test_replace_changes_only_the_bytes_of_the_value(runner: Runner) -> None:
    drawn = _draw(12, (object,), 500)
    value = {"new": ["{", 1.5]}
    assert await _assert_only_the_span_changes(runner, drawn, {"op": "replace", "value": value}) > 480


# -- texts of other programs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [text.encode() for text in BROKEN])
async def test_invalid_stored_json_is_rejected_and_unchanged(runner: Runner, broken: bytes) -> None:
    for text in (broken, b'{"b":[' + broken + b'],"a":1}', b'{"a":1,"x":' + broken + b"}"):
        for operations in ([{"op": "replace", "path": "/a", "value": 2}], [{"op": "add", "path": "/c", "value": 2}], []):
            case = Case(text, operations, strict=False)
            [seen] = await runner.run([case])
            assert find_mismatch(case, expect(case), seen) is None


@pytest.mark.parametrize("end", [b"\r\t", b"\t\r", b"\t\t", b"\t", b"\t\r\t ", b"\t\r\n"])
async def test_partial_canonical_mark_is_not_a_mark(runner: Runner, end: bytes) -> None:
    # Read as canonical JSON, the brace inside of the string would be structure.
    case = Case(b'{"s":"}{","a":"[","n":1}' + end, [{"op": "increment", "path": "/n", "value": 1}], strict=True)
    [seen] = await runner.run([case])
    assert find_mismatch(case, expect(case), seen) is None
    assert seen.stored == case.text.replace(b'"n":1', b'"n":2')  # type: ignore[union-attr]


# -- the fuzzer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "operations", "strict", "kind"),
    [
        (b'{"a":true}', [{"op": "test", "path": "/a", "value": 1}], True, "test"),
        (b'{"a":"xy"}', [{"op": "test", "path": "/a/0", "value": "x"}], True, "place"),
        (b'{"a":[1,2]}', [{"op": "remove", "path": "/a/-1"}], True, "place"),
        (b'{"a":[1,2]}', [{"op": "replace", "path": "/a/01", "value": 1}], True, "place"),
        (b'{"a":[1,2]}', [{"op": "copy", "from": "/a/-", "path": "/b"}], True, "place"),
        (b"{}", [{"op": "remove", "path": "/a"}], True, "place"),
        (b"{}", [{"op": "remove", "path": "/a"}], False, None),
        (b"[]", [{"op": "remove", "path": "/0"}], False, "place"),
        (b'{"n":18446744073709551615}', [{"type": "increment", "path": "n", "by": 1}], False, "overflow"),
        (b'{"n":1e308}', [{"type": "increment", "path": "n", "by": 1e308}], False, "overflow"),
        (b'{"a":1e400}', [], False, "corrupt"),
        (b'["\\ud800"]', [], False, "corrupt"),
        (b'["\xed\xa0\x80"]', [], False, "corrupt"),
        (b"[NaN]", [], False, "corrupt"),
        (None, [], True, "no key"),
    ],
)
def test_model_rejects_what_the_rfc_rejects(text: bytes | None, operations: list[Any], strict: bool, kind: str | None) -> None:
    refusal = expect(Case(text, operations, strict)).refusal
    assert (refusal and refusal[0]) == kind


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b'{"b":1.50,"a":2}', None),
        (b'{"b":1.5,"a":2}', "stored"),
        (b'{"a":2,"b":1.50}', "stored"),
        (b'{"b":1.50,"a":2.0}', "stored"),
        (b'{"b":1.50,"a":2', "not JSON"),
    ],
)
async def test_find_mismatch_detects_a_changed_digit_and_a_changed_order(runner: Runner, stored: bytes, said: str | None) -> None:
    case = Case(b'{"b":1.50,"a":1}', [{"op": "increment", "path": "/a", "value": 1}], strict=True)
    [seen] = await runner.run([case])
    seen.stored = seen.events[0][1][b"new"] = stored
    found = find_mismatch(case, expect(case), seen)
    assert (found is None) if said is None else (found is not None and said in found)


async def test_find_mismatch_detects_a_rejected_update_that_changed_the_key(runner: Runner) -> None:
    case = Case(b'{"a":"x"}', [{"op": "increment", "path": "/a", "value": 1}], strict=True)
    [seen] = await runner.run([case])
    assert find_mismatch(case, expect(case), seen) is None
    seen.stored = b'{"a":1}'
    assert "changed the key" in (find_mismatch(case, expect(case), seen) or "")


async def test_mismatch_is_shrunk_and_saved_for_replay(runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    # A model that is wrong about one thing stands for an engine that is.
    monkeypatch.setattr(Model, "_increment", lambda self, path, amount: self._store(path, 7))
    operations = [{"op": "add", "path": "/z", "value": 1}, {"op": "increment", "path": "/a", "value": 1}]
    case = Case(b'{"b":[1,2,3],"a":1,"c":{}}' + codec.CANONICAL_MARK, operations, strict=False)
    failure = await try_case(runner, case)
    assert failure
    small = await shrink(runner, failure)
    assert small.case == Case(b"{}" + codec.CANONICAL_MARK, operations[1:], strict=False)
    saved = small.save(tmp_path)
    assert Case.from_json(json.loads(saved.read_text())) == small.case

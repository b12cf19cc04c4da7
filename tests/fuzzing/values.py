"""JSON values to the last digit: read exactly, copied, and compared in each way that the fuzzer needs."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

sys.setrecursionlimit(20_000)  # documents nest up to 1,000 levels and some more

DEPTH = 1000  # deeper values are refused: get() could not read them back
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ODD_INTEGER = re.compile(rb"-0|\d{309}")


class Float(float):
    """A float that remembers its spelling."""

    text: str

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        if math.isinf(self):
            raise ValueError(f"{text:.40} is over the largest double")
        self.text = text
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Integer(int):
    """An integer that remembers a spelling which is not Python's: `-0`."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


def fits(integer: int) -> bool:
    """Whether an integer has 64 bits at most, with or without a sign."""
    return -(2**63) <= integer < 2**64


def _integer(text: str) -> int:
    value = int(text)
    try:
        float(value)
    except OverflowError:
        raise ValueError("an integer over the largest double") from None
    return Integer(0) if text == "-0" else value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def load(text: bytes, duplicates: list[str] | None = None) -> Any:
    """Parse JSON exactly: integers of any size, floats with their spelling. Raises ValueError for what must be refused.

    The names of members that an object has twice are added to `duplicates`; the last one counts.
    """
    hooks: dict[str, Any] = {"parse_float": Float, "parse_constant": _no_constant}
    if _ODD_INTEGER.search(text):
        hooks["parse_int"] = _integer
    if duplicates is not None:
        hooks["object_pairs_hook"] = lambda pairs: _object(pairs, duplicates)
    source = text.decode()
    value = json.loads(source, **hooks)
    if "\\u" in source and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a lone surrogate")
    if source.count("[") + source.count("{") > DEPTH and depth(value) > DEPTH:
        raise ValueError("nested too deep")
    return value


def _object(pairs: list[tuple[str, Any]], duplicates: list[str]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        duplicates.extend(name for name, _ in pairs)
    return value


def clone(value: Any) -> Any:
    """A copy that shares no container; copy.deepcopy takes ten times as long."""
    if isinstance(value, dict):
        return {name: clone(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(clone, value))
    return value


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def is_number(value: Any) -> bool:
    """Whether a value is a number to JSON, to which true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and not LONE_SURROGATE.search(name) and is_json(item) for name, item in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, str):
        return not LONE_SURROGATE.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and fits(value))


def same(expected: Any, stored: Any) -> bool:
    """Whether a stored value is the expected one to the last digit, members in the same order."""
    if isinstance(expected, dict):
        return (
            isinstance(stored, dict)
            and list(expected) == list(stored)
            and all(same(item, stored[name]) for name, item in expected.items())
        )
    if isinstance(expected, list):
        return isinstance(stored, list) and len(expected) == len(stored) and all(map(same, expected, stored))
    if isinstance(expected, Float):
        return isinstance(stored, Float) and expected.text == stored.text
    if isinstance(expected, float):
        return isinstance(stored, float) and repr(expected) == float.__repr__(stored)
    return type(expected) is type(stored) and expected == stored


def plain(value: Any) -> Any:
    """A value as callers get it: numbers without their spelling, integers of more than 64 bits as floats."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if fits(value) else float(value)
    return value


def alike(expected: Any, got: Any) -> bool:
    """Whether a caller got the expected value: kinds, order and the sign of zero count."""
    text = json.dumps(got)
    return json.dumps(expected) == text or json.dumps(plain(expected)) == text


def equal(a: Any, b: Any) -> bool:
    """Equality of RFC 6902, 4.6. Older jsonpatch used Python's ==, to which true is 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(item, b[name]) for name, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)  # numbers by their value: Python compares an int and a float exactly

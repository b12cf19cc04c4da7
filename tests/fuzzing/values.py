"""Read JSON values with the exact text of their numbers, copy them, and compare them."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

sys.setrecursionlimit(20_000)  # documents nest up to 1,000 levels and some more

DEPTH = 1000  # deeper values are rejected: get() could not read them
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ODD_INTEGER = re.compile(rb"-0|\d{309}")


class Float(float):
    """A float that keeps its JSON text."""

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
    """An integer that was written as `-0`."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


def fits(integer: int) -> bool:
    """Return whether an integer fits into 64 bits, signed or unsigned."""
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
    """Parse JSON with integers of any size and floats with their text. Raise ValueError for a text that must be rejected.

    If an object has a member twice, all of its names are added to `duplicates`, and the last member counts.
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
    """Return a deep copy. copy.deepcopy takes ten times as long."""
    if isinstance(value, dict):
        return {name: clone(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(clone, value))
    return value


def depth(value: Any) -> int:
    """Return the number of nested containers."""
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def is_number(value: Any) -> bool:
    """Return whether a value is a JSON number. Booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_json(value: Any) -> bool:
    """Return whether the library accepts a value as JSON."""
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
    """Return whether a stored value equals the expected one, with the same number texts and order of members."""
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
    """Return a value as callers get it: numbers without their text, integers of more than 64 bits as floats."""
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
    """Return whether a caller got the expected value, with the same types, order of members and signs of zero."""
    text = json.dumps(got)
    return json.dumps(expected) == text or json.dumps(plain(expected)) == text


def equal(a: Any, b: Any) -> bool:
    """Return whether two values are equal by RFC 6902, 4.6. Older versions of jsonpatch use Python's ==, where True equals 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(item, b[name]) for name, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)  # numbers are compared by value: Python compares an int and a float exactly

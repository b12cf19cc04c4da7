"""Compare values with what is read back: a typed value is stored as it is, or is rejected with its place."""

from __future__ import annotations

import dataclasses
import datetime
import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from motia_redis._store.typed_fields import pointer_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Searches at memory speed come first: most texts hold no such number.
_SAME_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 16
_NUMBERS = bytes(byte if byte in b"0123456789." else 32 for byte in range(256))
_MISSING = object()


def show(value: Any) -> str:
    """Return a value for a message, whatever it is."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001  # of an object that is rejected, whatever it does
        return f"<{type(value).__name__}>"


def difference(one: Any, other: Any, model: type[Any], path: str = "") -> str | None:
    """Return the place of the first part that differs, or None. `model` is the base class of pydantic's models.

    Parts that are never stored do not count: private attributes and excluded fields of models.
    """
    if _is_equal(one, other):
        return None
    is_sequence = isinstance(one, list | tuple) and isinstance(other, list | tuple)
    if type(one) is not type(other) and not is_sequence:
        return path
    parts, others = (_parts(value, model) for value in (one, other))
    if parts is not None and others is not None:
        return _first(parts, dict(others), model, path)
    if isinstance(one, datetime.datetime):  # one in an hour that is there twice is equal to none of another zone
        is_same = one.replace(tzinfo=None, fold=0) == other.replace(tzinfo=None, fold=0) and one.utcoffset() == other.utcoffset()
        return None if is_same else path
    return path if _is_comparable(one, other) else None


def _parts(value: Any, model: type[Any]) -> Iterable[tuple[Any, Any]] | None:
    """Return the names and values of the parts that are stored; None for a value without parts."""
    if isinstance(value, list | tuple):
        return enumerate(value)
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, model):
        infos = type(value).model_fields
        fields = [
            (info.serialization_alias or name, getattr(value, name, None)) for name, info in infos.items() if not info.exclude
        ]
        return [*fields, *(value.model_extra or {}).items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _first(items: Iterable[tuple[Any, Any]], others: dict[Any, Any], model: type[Any], path: str) -> str | None:
    seen = 0
    for name, item in items:
        seen += 1
        place = f"{path}/{pointer_token(name)}"
        other = others.get(name, _MISSING)
        if other is _MISSING:
            return place
        if (found := difference(item, other, model, place)) is not None:
            return found
    return path if seen != len(others) else None


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001  # an array, for example, has no one answer
        return False


def _is_comparable(one: Any, other: Any) -> bool:
    """Return whether two objects of a class that are not equal differ, as far as their class can tell."""
    eq: Any = type(one).__eq__
    try:
        bool(one == other)
    except Exception:  # noqa: BLE001
        return False
    return eq is not object.__eq__


def may_hold_unusual_numbers(text: bytes) -> bool:
    """Return whether a text may hold numbers of many digits, or some that are not JSON's. Cost: a few passes at memory speed."""
    shape = text.translate(_SAME_DIGIT)
    is_huge = b"e000" in shape or b"e+000" in shape or b"E000" in shape or b"E+000" in shape
    return is_huge or _LONG in shape or b"NaN" in shape or b"Infinity" in shape


def changed_number(text: bytes, dump: Callable[[], Any], *, has_decimals: bool) -> str | None:
    """Return the place of the first number that has another value in the plain value that `dump` returns, or None.

    Only a decimal can have more digits behind its point than the float that pydantic reads.
    """
    words = text.translate(_NUMBERS).split()
    if not any(len(word) >= 16 and (has_decimals or b"." not in word) for word in words):
        return None  # a float has room for what is there
    return _changed(json.loads(text, parse_float=Decimal), dump(), "")


def _changed(stored: Any, dumped: Any, path: str) -> str | None:
    parts: Iterable[tuple[Any, Any, Any]]
    if isinstance(stored, dict) and isinstance(dumped, dict):
        parts = [(name, stored[name], dumped[name]) for name in stored.keys() & dumped.keys()]
    elif isinstance(stored, list) and isinstance(dumped, list):
        parts = zip(range(len(stored)), stored, dumped, strict=False)
    else:
        return None if _is_kept(stored, dumped) else path
    for name, one, other in parts:
        if (place := _changed(one, other, f"{path}/{pointer_token(name)}")) is not None:
            return place
    return None


def _is_kept(stored: Any, dumped: Any) -> bool:
    """Return whether a number has kept its value. A decimal is written as text."""
    if isinstance(stored, bool) or not isinstance(stored, int | Decimal):
        return True
    if isinstance(dumped, float) and isinstance(stored, Decimal):
        return float(stored) == dumped
    if isinstance(dumped, str):
        try:
            dumped = Decimal(dumped)
        except InvalidOperation:
            return True
    return not isinstance(dumped, int | float | Decimal) or bool(stored == dumped)

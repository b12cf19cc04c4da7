"""Turn Python values into those that JSON has: dict, list, str, int, float, bool and None. `docs/state.md` has the table.

A value is stored losslessly, or is rejected with its place. A type that is not in the table is rejected.
"""

from __future__ import annotations

import dataclasses
import datetime
import marshal
import math
import sys
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

MAX_DEPTH = 254

_FINITE_TYPES = frozenset({str, int, bool, type(None)})


class Unencodable(Exception):
    """A part of a value that JSON cannot hold. The text names its place and the reason."""


def plain_form(value: Any) -> bytes | None:
    """Return the form in `marshal` of a value that orjson could encode; None if it has other parts than builtin types.

    `marshal` takes exact builtin types, and objects with a buffer, which orjson rejects. So there is no `orjson.Fragment`, which
    orjson writes as it is, and no object that orjson writes in a form of its own. Cost: about that of encoding it.
    """
    try:
        return marshal.dumps(value, 4)
    except ValueError:
        return None


def may_hold_nonfinite(value: Any, form: bytes) -> bool:
    """Return whether a value may hold NaN or an infinity. `form`: what `plain_form` returned."""
    # The last byte of such a float in `form` is 0x7f or 0xff. UTF-8 has no 0xff, and texts and small numbers rarely 0x7f.
    if b"\x7f" not in form and b"\xff" not in form:
        return False
    rest = [value]
    while rest:
        item = rest.pop()
        kind = type(item)
        if kind is dict:
            rest.extend(item.values())
        elif kind is list or kind is tuple:
            rest.extend(item)
        elif kind is float:
            if not math.isfinite(item):
                return True
        elif kind not in _FINITE_TYPES:
            return True
    return False


def plain(value: Any, path: str = "", depth: int = 0) -> Any:  # noqa: PLR0911  # one return for each type
    """Return `value` with plain parts. Raises Unencodable for the first part that JSON cannot hold."""
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if value is None or kind is bool:
        return value
    if kind is int:
        return _integer(value, path)
    if kind is float:
        return _number(value, path)
    if kind is dict:
        return _members(value.items(), path, depth)
    if kind is list or kind is tuple:
        return [plain(item, f"{path}/{index}", _deeper(depth)) for index, item in enumerate(value)]
    return _convert(value, path, depth)


def plain_text(text: str) -> str:
    """Return a text of a subclass of `str`, such as an enum's member, as `str`."""
    if isinstance(text, Enum):
        value = text.value
        text = value if isinstance(value, str) else text
    return text if type(text) is str else str.__str__(text)


def _convert(value: Any, path: str, depth: int) -> Any:  # noqa: PLR0911  # one return for each type
    """Return the plain value of an object that is of no builtin type of JSON."""
    if isinstance(value, Enum):
        return plain(value.value, path, _deeper(depth))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _members(members, path, depth)
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        return _integer(int.__int__(value), path)
    if isinstance(value, float):
        return _number(float.__float__(value), path)
    if isinstance(value, dict):
        return _members(value.items(), path, depth)
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}/{index}", _deeper(depth)) for index, item in enumerate(value)]
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.time):
        if value.tzinfo is not None:
            raise _fault(path, f"a time with a time zone has no offset without a date: {_show(value)}")
        return value.isoformat()
    return _convert_foreign(value, path, depth)


def _convert_foreign(value: Any, path: str, depth: int) -> Any:
    """Return the plain value of an object of numpy or pydantic. Neither is imported: who has such an object has imported it."""
    if (pydantic := sys.modules.get("pydantic")) and isinstance(value, pydantic.BaseModel):
        try:
            dumped = value.model_dump(mode="json")
        except Exception as error:  # noqa: BLE001  # a serializer of the model may raise anything
            raise _fault(path, f"{type(value).__name__} has no JSON form: {error!r:.200}") from None
        return plain(dumped, path, _deeper(depth))
    numpy: Any = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.bool_ | numpy.integer | numpy.floating) and not isinstance(value, numpy.timedelta64):
        item = value.item()
        if type(item) in (bool, int, float):  # a longdouble stays one
            return plain(item, path, depth)
    if isinstance(value, orjson.Fragment):
        raise _fault(path, "raw text in an orjson.Fragment is no value: give the decoded value")
    raise _fault(path, f"{type(value).__name__} is not a JSON value: {_show(value)}")


def _members(items: Any, path: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    depth = _deeper(depth)
    for name, item in items:
        if not isinstance(name, str):
            raise _fault(path, f"member name {_show(name)} is not a string")
        text = plain_text(name)
        if _has_surrogate(text):
            raise _fault(path, f"member name {text!r:.80} holds a lone surrogate")
        if text in found:
            raise _fault(path, f"two member names are {text!r:.80}")
        token = text.replace("~", "~0").replace("/", "~1")
        found[text] = plain(item, f"{path}/{token}", depth)
    return found


def _text(text: str, path: str) -> str:
    if _has_surrogate(text):
        raise _fault(path, f"text with a lone surrogate: {text!r:.80}")
    return text


def _integer(number: int, path: str) -> int:
    if not -(2**63) <= number < 2**64:
        raise _fault(path, "an integer of more than 64 bits")
    return number


def _number(number: float, path: str) -> float:
    if not math.isfinite(number):
        raise _fault(path, f"{number} is not a JSON number")
    return number


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise Unencodable(f"more than {MAX_DEPTH} levels deep (or it contains itself)")
    return depth + 1


def _show(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001  # of an object that we reject, whatever it does
        return f"<{type(value).__name__}>"


def _fault(path: str, reason: str) -> Unencodable:
    return Unencodable(f"at {path!r}: {reason}" if path else reason)

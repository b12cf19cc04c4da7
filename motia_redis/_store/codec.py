r"""Encode values as JSON text and decode them, without silent changes.

This library writes *canonical JSON*: compact JSON in which no string holds a raw `{ } [ ]` or an escaped quote. They are spelled
`\u007b`, `\u0022` and so on, which every JSON reader understands. `CANONICAL_MARK` follows, three bytes of white space with which
no other writer ends a document. In canonical JSON every quote delimits a string and every bracket is structure, so the patch
engine finds a path with a few fast searches. *Non-canonical JSON*, without the mark, is read in the same way, and is updated by
an exact, slower parser.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._store.keyspace import Subject
from motia_redis.errors import CorruptValue, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CANONICAL_MARK = b"\t\r\t"

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_MAX_DEPTH = 254
_FINITE_TYPES = frozenset({str, int, bool, type(None)})
_PLAIN = bytes(byte for byte in range(256) if byte not in b'"{}[]')


def encode(value: Any, *, subject: object, max_bytes: int) -> bytes:
    """Return `value` as canonical JSON, without its mark.

    Tuples become arrays, enum members become their value and UUIDs become text. Error messages start with `subject`. Raises
    InvalidValue, which names the first part that JSON cannot hold (NaN, an int over 64 bits, a lone surrogate, a member name that
    is not a string, a set ...), and ValueTooLarge for a text of more than `max_bytes` bytes.
    """
    try:
        text = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidValue(f"{subject}: {_find_unencodable(value) or error}") from None
    # orjson writes NaN and the infinities as null; only then the parts must be checked.
    if b"null" in text and _may_hold_nonfinite(value) and (fault := _find_unencodable(value)) is not None:
        raise InvalidValue(f"{subject}: {fault}")
    text = _canonicalize(text)
    if len(text) > max_bytes:
        raise ValueTooLarge(f"{subject}: the value is {len(text)} bytes of JSON, the limit is {max_bytes}")
    return text


def encode_name(name: str) -> bytes:
    """Return a member name as canonical JSON, quotes included. Raises TypeError for a lone surrogate."""
    return _canonicalize(orjson.dumps(name))


def decode(text: bytes, *, subject: object) -> Any:
    """Return the value of a stored text. Raises CorruptValue, which starts with `subject`, if the text is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CorruptValue(
            f"{subject}: the stored text is not JSON ({error}); another client wrote it: set() or delete() the key"
        ) from None


def decode_page(scope: str, page: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    """Return the values of a page of a scope. One Python call for each value would take a tenth of the time of `list`."""
    try:
        return dict(zip(page, map(orjson.loads, page.values()), strict=True))
    except orjson.JSONDecodeError:
        return {key: decode_item(scope, key, text) for key, text in page.items()}


def decode_item(scope: str, key: bytes, text: bytes) -> Any:
    """Return the value of one key of a page. Raises CorruptValue, which names the key, if the text is not JSON."""
    try:
        return decode(text, subject="")
    except CorruptValue:
        return decode(text, subject=Subject(scope, key.decode(errors="replace")))


def decode_key(key: bytes) -> str:
    """Return a key. Bytes that are not UTF-8 (another client wrote them) become lone surrogates, so that keys stay distinct."""
    return key.decode(errors="surrogateescape")


def _canonicalize(text: bytes) -> bytes:
    r"""Spell brackets and quotes inside of strings as `\u` escapes. Cost: a few passes at memory speed."""
    if b"\\" in text:
        # Backslashes first: what is left of `\"` then is an escaped quote and never the end of `\\`.
        text = text.replace(b"\\\\", b"\\u005c").replace(b'\\"', b"\\u0022")
    # What is left of text whose strings hold no bracket is brackets between pairs of quotes; one that does parts its quotes.
    if b'"' not in text.translate(None, _PLAIN).replace(b'""', b""):
        return text
    parts = text.split(b'"')
    parts[1::2] = [
        part.replace(b"{", b"\\u007b").replace(b"}", b"\\u007d").replace(b"[", b"\\u005b").replace(b"]", b"\\u005d")
        for part in parts[1::2]
    ]
    return b'"'.join(parts)


def _may_hold_nonfinite(value: Any) -> bool:
    """Return whether an encoded value may hold NaN or an infinity. This check is fast: most values with a null just hold None."""
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


def _find_unencodable(value: Any, path: str = "", depth: int = 0) -> str | None:
    """Describe the first part of `value` that JSON cannot hold: its path and the reason. Return None if there is none."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, dict):
        items = value.items()
        if reason := next((reason for name in value if (reason := _member_fault(name))), None):
            return f"at {path!r}: {reason}"
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        reason = _leaf_fault(value)
        return reason and (f"at {path!r}: {reason}" if path else reason)
    if depth >= _MAX_DEPTH:
        return f"more than {_MAX_DEPTH} levels deep (or it contains itself)"
    for name, item in items:
        token = str(name).replace("~", "~0").replace("/", "~1")
        if found := _find_unencodable(item, f"{path}/{token}", depth + 1):
            return found
    return None


def _member_fault(name: Any) -> str | None:
    """Describe why a dict's key cannot be a member name. Return None if it can."""
    if not isinstance(name, str):
        return f"member name {name!r:.80} is not a string"
    return f"member name {name!r:.80} holds a lone surrogate" if _leaf_fault(name) else None


def _leaf_fault(value: Any) -> str | None:
    """Describe why a value without parts cannot be JSON. Return None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a JSON number"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "an integer of more than 64 bits"
    try:
        orjson.dumps(value, option=_OPTIONS)
    except TypeError:
        if isinstance(value, str):
            return f"text with a lone surrogate: {value!r:.80}"
        return f"{type(value).__name__} is not a JSON value: {value!r:.80}"
    return None

r"""Encode values as JSON text and decode them, without silent changes.

This library writes *canonical JSON*: compact JSON in which no string holds a raw `{ } [ ]` or an escaped quote. They are spelled
`\u007b`, `\u0022` and so on, which every JSON reader understands. `CANONICAL_MARK` follows, three bytes of white space with which
no other writer ends a document. In canonical JSON every quote delimits a string and every bracket is structure, so the patch
engine finds a path with a few fast searches. *Non-canonical JSON*, without the mark, is read in the same way, and is updated by
an exact, slower parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson

from motia_redis._store import values
from motia_redis._store.keyspace import Subject
from motia_redis.errors import CorruptValue, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CANONICAL_MARK = b"\t\r\t"

#: Objects of other types are left to values.py.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
_SCALARS = frozenset({str, int, float, bool, type(None)})
_INT64 = 2**63
_PLAIN = bytes(byte for byte in range(256) if byte not in b'"{}[]')


T = TypeVar("T")


class Coder(Protocol[T]):
    """What encodes and decodes the values of a manager: this module, or the schema of a typed scope."""

    def encode(self, value: T, *, subject: object, max_bytes: int) -> bytes:
        """Return a value as canonical JSON, without its mark."""

    def decode(self, text: bytes, *, subject: object) -> T:
        """Return the value of a stored text."""

    def decode_page(self, scope: str, page: Mapping[bytes, bytes]) -> list[T]:
        """Return the values of a page of a scope, in its order."""

    def decode_each(self, scope: str, page: Mapping[bytes, bytes]) -> Iterator[T]:
        """Yield the values of a page of a scope, each decoded when it is taken."""


def encode(value: Any, *, subject: object, max_bytes: int) -> bytes:
    """Return `value` as canonical JSON, without its mark.

    Objects that are not of JSON's types are converted (see values.py). Error messages start with `subject`. Raises InvalidValue,
    which names the first part that JSON cannot hold (NaN, an int over 64 bits, a lone surrogate, a member name that is not a
    string, a set ...), and ValueTooLarge for a text of more than `max_bytes` bytes.
    """
    is_short = type(value) is int and -_INT64 <= value < _INT64  # as the amounts of increments are
    text = b"%d" % value if is_short else canonicalize(to_json(value, subject=subject))
    if len(text) > max_bytes:
        raise ValueTooLarge(f"{subject}: the value is {len(text)} bytes of JSON, the limit is {max_bytes}")
    return text


def to_json(value: Any, *, subject: object) -> bytes:
    """Return `value` as JSON for readers outside of Redis: in the usual spelling, of any length. Else it is like `encode`."""
    try:
        return _dumps(value)
    except values.Unencodable as error:
        raise InvalidValue(f"{subject}: {error}") from None


def _dumps(value: Any) -> bytes:
    """Return `value` as JSON. Raises Unencodable."""
    try:
        text = orjson.dumps(value, option=_OPTIONS)
        # orjson writes NaN and the infinities as null; only then the parts must be checked.
        if type(value) in _SCALARS:
            if value is None or text != b"null":
                return text
        elif (form := values.plain_form(value)) is not None and not (b"null" in text and values.may_hold_nonfinite(value, form)):
            return text
    except TypeError:
        pass
    return orjson.dumps(values.plain(value))


def encode_name(name: str) -> bytes:
    """Return a member name as canonical JSON, quotes included. Raises TypeError for a lone surrogate."""
    return canonicalize(orjson.dumps(name))


def decode(text: bytes, *, subject: object) -> Any:
    """Return the value of a stored text. Raises CorruptValue, which starts with `subject`, if the text is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CorruptValue(
            f"{subject}: the stored text is not JSON ({error}); another client wrote it: set() or delete() the key"
        ) from None


def decode_page(scope: str, page: Mapping[bytes, bytes]) -> list[Any]:
    """Return the values of a page of a scope, in its order. One Python call for each would take a fifth of `list`'s time."""
    try:
        return list(map(orjson.loads, page.values()))
    except orjson.JSONDecodeError:
        return [decode_item(scope, key, text) for key, text in page.items()]


def decode_each(scope: str, page: Mapping[bytes, bytes]) -> Iterator[Any]:
    """Yield the values of a page of a scope, each decoded when it is taken.

    Who keeps none of them has one in memory at a time: the next takes its place, and the garbage collector is not woken.
    """
    loads = orjson.loads
    for key, text in page.items():
        try:
            value = loads(text)
        except orjson.JSONDecodeError:
            value = decode_item(scope, key, text)
        yield value


def decode_item(scope: str, key: bytes, text: bytes) -> Any:
    """Return the value of one key of a page. Raises CorruptValue, which names the key, if the text is not JSON."""
    try:
        return decode(text, subject="")
    except CorruptValue:
        return decode(text, subject=Subject(scope, key.decode(errors="replace")))


def decode_key(key: bytes) -> str:
    """Return a key. Bytes that are not UTF-8 (another client wrote them) become lone surrogates, so that keys stay distinct."""
    return key.decode(errors="surrogateescape")


def decode_keys(keys: Iterable[bytes]) -> list[str]:
    """Return keys as `decode_key` does. Cost: half of as many calls of it, if all are UTF-8."""
    keys = list(keys)
    try:
        return list(map(bytes.decode, keys))
    except UnicodeDecodeError:
        return list(map(decode_key, keys))


def is_canonical(text: bytes, value: Any) -> bool:
    """Return whether a JSON text, which was read as `value`, is canonical: what `encode` would write, but for its numbers."""
    try:
        canonical = canonicalize(_dumps(value))
    except values.Unencodable:
        return False
    if canonical == text:
        return True
    # Numbers may be spelled in other ways. Equal names and texts also show that no object has two members of one name.
    parts = text.split(b'"')
    structure = b"".join(parts[::2])
    return parts[1::2] == canonical.split(b'"')[1::2] and len(structure.split()) == 1 and structure.strip() == structure


def canonicalize(text: bytes) -> bytes:
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

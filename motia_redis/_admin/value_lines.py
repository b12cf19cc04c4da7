"""The lines of an exported file: the first one, one for each value, and the last one. `docs/format.md` describes them.

The JSON of a value stands in its line as it is stored, and is never decoded and encoded again: that would change numbers.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from motia_redis._store import codec, expiry, keyspace
from motia_redis._store.moving import StoredValue
from motia_redis._store.stream_groups import scope_name
from motia_redis.errors import InvalidName, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._store.limits import Limits

VERSION = 1
_FORMAT = "motia-redis values"
_VALUE = b',"value":'  # inside of a string, a backslash stands before each quote
_MEMBERS = frozenset({"scope", "key", "expires_at", "canonical", "bytes", "revision"})


class Refusal(Exception):
    """A line that cannot be imported, and why."""


@dataclass(frozen=True, slots=True)
class LastLine:
    """What the last line says."""

    values: int
    cursor: str


class _Head(NamedTuple):
    """A line without its value."""

    members: dict[str, Any]
    text: bytes | None


def first_line(namespace: str, scopes: Sequence[str] | None) -> bytes:
    """Return the first line of a file with the values of some scopes, or of all."""
    facts = {"format": _FORMAT, "version": VERSION, "namespace": namespace, "scopes": scopes, "time": round(time.time(), 3)}
    return orjson.dumps(facts) + b"\n"


def last_line(values: int, cursor: str) -> bytes:
    """Return the last line of a file: without it, the file was cut."""
    return orjson.dumps({"end": True, "values": values, "cursor": cursor}) + b"\n"


def check_first_line(line: bytes) -> None:
    """Raise StateError for a line that does not begin a file which can be imported."""
    try:
        facts = orjson.loads(line)
    except orjson.JSONDecodeError:
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise StateError(f'line 1 is not the first line of an export: it must begin with {{"format":"{_FORMAT}", ...')
    if facts.get("version") != VERSION:
        raise StateError(
            f"line 1: the file has version {facts.get('version')!r:.20}, this program reads version {VERSION}: "
            "import it with the version of motia-redis that wrote it"
        )


def encode_value(scope: bytes, key: bytes, stored: bytes) -> bytes:
    """Return the line of a value. `scope` is JSON already. Raises UnicodeDecodeError for a key that is not UTF-8."""
    text, is_canonical, expires = expiry.split(stored)
    head = b'{"scope":%b,"key":%b' % (scope, orjson.dumps(key.decode()))
    if expires is not None:
        head += b',"expires_at":%d.%03d' % divmod(expires, 1000)
    if b"\n" not in text and b"\r" not in text and _is_json(text):
        return b'%b%b,"value":%b}\n' % (head, b"" if is_canonical else b',"canonical":false', text)
    return b'%b,"bytes":"%b"}\n' % (head, base64.b64encode(text))


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def decode_line(line: bytes, limits: Limits) -> StoredValue | LastLine:
    """Return the value of a line, or what the last line says. Raises Refusal."""
    members, text = _parse(line.rstrip(b"\r\n"))
    if text is None and "end" in members:
        return _last(members)
    if unknown := sorted(set(members) - _MEMBERS):
        raise Refusal(f"unknown member {unknown[0]!r:.40}")
    try:
        scope = keyspace.encode_name("scope", scope_name(_text(members, "scope")), limits.name_bytes)
        key = keyspace.encode_name("key", _text(members, "key"), limits.name_bytes)
    except InvalidName as error:
        raise Refusal(str(error)) from None
    expires = _milliseconds(members.get("expires_at"))
    if text is None:
        text, is_canonical = _bytes(members), False
    else:
        is_canonical = _check_value(text, is_marked=members.get("canonical", True) is True)
    if len(text) > limits.value_bytes:
        raise Refusal(f"the value is {len(text)} bytes of JSON, the limit is {limits.value_bytes}")
    stored = expiry.join(text, expires, is_canonical=is_canonical)
    if expiry.split(stored) != (text, is_canonical, expires):
        raise Refusal("the value ends with white space that means something in Redis")
    return StoredValue(scope, key, stored)


def _parse(line: bytes) -> _Head:
    """Return a line and its value, which stands last."""
    place = line.find(_VALUE)
    try:
        if place < 0:
            members, text = orjson.loads(line), None
        else:
            members, text = orjson.loads(line[:place] + b"}"), line[place + len(_VALUE) : -1]
    except orjson.JSONDecodeError as error:
        raise Refusal(f"the line is not JSON as an export writes it ({error}); it may have been cut") from None
    if not isinstance(members, dict):
        raise Refusal("the line is not a JSON object")
    if text is not None and not line.endswith(b"}"):
        raise Refusal("the line has no end: it was cut")
    if text is None and "value" in members:
        raise Refusal('the value must stand last in its line, and without white space: {"scope":"s","key":"k","value":1}')
    return _Head(members, text)


def _last(members: dict[str, Any]) -> LastLine:
    match members:
        case {"end": True, "values": int() as values, "cursor": str() as cursor}:
            return LastLine(values, cursor)
    raise Refusal("the last line must have 'values' and 'cursor'")


def _text(members: dict[str, Any], name: str) -> str:
    if name not in members:
        raise Refusal(f"the line has no {name!r}")
    value = members[name]
    if not isinstance(value, str):
        raise Refusal(f"the {name} must be text, not {value!r:.80}")
    return value


def _milliseconds(seconds: object) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < expiry.END_OF_TIME / 1000 - 1:
        raise Refusal(f"expires_at must be Unix seconds or null, not {seconds!r:.80}")
    return round(seconds * 1000)


def _bytes(members: dict[str, Any]) -> bytes:
    if "bytes" not in members:
        raise Refusal("the line has neither 'value' nor 'bytes'")
    try:
        return base64.b64decode(members["bytes"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise Refusal("'bytes' is not base64") from None


def _check_value(text: bytes, *, is_marked: bool) -> bool:
    """Return whether the JSON of a line is to be stored as canonical. Raises Refusal."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(f"the value is not JSON ({error})") from None
    return is_marked and codec.is_canonical(text, value)

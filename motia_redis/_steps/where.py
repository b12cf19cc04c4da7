"""Declarative conditions: `where={"status": "paid"}`, decided on the JSON text, and decoded only where the text leaves it open.

Most texts are ruled out by a search of their bytes. That is sound because a value has one spelling there, or all of its spellings
are searched for:

- In canonical JSON (see codec.py) names, strings, `true`, `false` and `null` have one spelling, and no white space follows a
  name. Numbers have many: another integer is ruled out, and what has a fraction or an exponent is decoded.
- In other JSON without a backslash, names and strings stand as they are. A text with a backslash is decoded.

What is found may stand elsewhere in the document, so a text that is not ruled out is decoded and compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from motia_redis._store import codec
from motia_redis._store.codec import CANONICAL_MARK
from motia_redis.errors import InvalidValue

_ABSENT: Any = object()
_EXACT = 2**53  # integers below it have one spelling among those without fraction and exponent
_INDEX = re.compile(r"0|[1-9][0-9]*")
_BAD_ESCAPE = re.compile(r"~(?![01])")


class Where:
    """Members that a document must have, by their names or JSON Pointers, and the values that they must equal."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        """Take what `where_problem` finds nothing wrong with."""
        self._members = [
            _Member(_tokens(name), orjson.loads(codec.to_json(value, subject=name))) for name, value in members.items()
        ]

    def match(self, text: bytes) -> bool:
        """Return whether a JSON text has all members with their values. A text that is not JSON has none.

        Cost: one search of the text for each member; the text is decoded once if none of them rules it out.
        """
        if text.endswith(CANONICAL_MARK):
            for member in self._members:
                if not member.may_be_in(text):
                    return False
        elif b"\\" not in text:
            for member in self._members:
                if member.plain not in text:
                    return False
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return all(json_equal(_find(document, member.tokens), member.value) for member in self._members)


class _Member:
    """One member: where it is, what it must equal, and the bytes without which a text cannot have it."""

    __slots__ = ("literal", "number", "plain", "tokens", "value")

    def __init__(self, tokens: tuple[str, ...], value: Any) -> None:
        self.tokens = tokens
        self.value = value
        is_index = _INDEX.fullmatch(tokens[-1]) is not None  # an element of an array has no name
        name = b"" if is_index else codec.encode_name(tokens[-1]) + b":"
        token = _token(value)
        self.literal: bytes = name + token  #: in canonical JSON
        self.number = _number(name, value) if name and not token and type(value) in (int, float) else None
        #: in other JSON without a backslash; one that needs a backslash is in none of them
        self.plain: bytes = b"" if is_index else orjson.dumps(tokens[-1])
        if type(value) is str and (not self.plain or b"\\" not in self.plain):
            self.plain = orjson.dumps(value)

    def may_be_in(self, text: bytes) -> bool:
        """Return False if a canonical text cannot have the member."""
        literal, number = self.literal, self.number
        place = text.find(literal)
        if number is None:
            return place >= 0
        while place >= 0:  # a search by the pattern alone would take three times as long
            if number.match(text, place):
                return True
            place = text.find(literal, place + 1)
        return False


def where_problem(where: object, kind: str) -> str | None:
    """Return what is wrong with the `where` of a trigger of that kind, or None."""
    if not isinstance(where, Mapping) or not where:
        hint = "; a function is a condition=" if callable(where) else ""
        return (
            f"the where of a {kind} trigger must be a dict of at least one name and its value, such as "
            f"{{'status': 'paid'}}, not {where!r:.80}{hint}"
        )
    for name, value in where.items():
        if not isinstance(name, str) or not name:
            return f"a name in the where of a {kind} trigger must be text that is not empty, not {name!r:.80}"
        if name.startswith("/") and _BAD_ESCAPE.search(name):
            return f"the path {name!r:.80} in the where of a {kind} trigger is no JSON Pointer: 0 or 1 must follow '~'"
        try:
            name.encode()
            codec.to_json(value, subject=f"the value of {name!r:.80} in the where of a {kind} trigger")
        except UnicodeEncodeError:
            return f"the name {name!r:.80} in the where of a {kind} trigger holds a lone surrogate"
        except InvalidValue as error:
            return str(error)
    return None


def json_equal(found: Any, wanted: Any) -> bool:
    """Return whether two decoded JSON values are equal as RFC 6902 defines it for `test`: numbers are compared by value."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(json_equal(found[name], item) for name, item in wanted.items())
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(json_equal, found, wanted))
    return bool(found == wanted)


def _tokens(name: str) -> tuple[str, ...]:
    """Return the way to a member: the tokens of a JSON Pointer, which begins with a slash, or the name of a member."""
    if not name.startswith("/"):
        return (name,)
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in name[1:].split("/"))


def _find(document: Any, tokens: tuple[str, ...]) -> Any:
    for token in tokens:
        if isinstance(document, dict):
            document = document.get(token, _ABSENT)
        elif isinstance(document, list) and _INDEX.fullmatch(token) and len(token) <= len(str(len(document))):
            index = int(token)
            document = document[index] if index < len(document) else _ABSENT
        else:
            return _ABSENT
    return document


def _token(value: Any) -> bytes:
    """Return how a value is spelled in canonical JSON, or as much of that as all its spellings begin with."""
    if isinstance(value, dict):
        return b"{"
    if isinstance(value, list):
        return b"["
    if value is None or isinstance(value, bool):
        return orjson.dumps(value)
    return codec.canonicalize(orjson.dumps(value)) if isinstance(value, str) else b""


def _number(name: bytes, value: float) -> re.Pattern[bytes] | None:
    """Return a pattern of a name with any number but the integers that differ from `value`."""
    if abs(value) >= _EXACT:
        return None
    fraction = rb"-?[0-9]+[.eE]"
    if value != int(value):
        return re.compile(re.escape(name) + fraction)
    digits = b"-?0" if not value else b"%d" % int(value)
    return re.compile(re.escape(name) + b"(?:" + digits + b"(?![0-9])|" + fraction + b")")

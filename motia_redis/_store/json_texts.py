"""Values as JSON text, for who must not change a number: the command passes on what is stored, digit by digit.

A Python value would change a float of many digits and an integer over 64 bits, which another client may have written. Only the
spelling of strings and the white space are those of `codec.to_json`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._store import codec, expiry
from motia_redis._store.keyspace import Subject
from motia_redis.errors import CorruptValue, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from motia_redis._store.manager import StateManager

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_INDENT = "  "
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})  # categories: controls, directions of writing, what has no shape


class JsonTexts:
    """Encode JSON text that a person wrote, and decode stored JSON to text: a `Coder[str]`."""

    def encode(self, value: str, *, subject: object, max_bytes: int) -> bytes:
        """Return a JSON text as canonical JSON, with the same numbers. Raises InvalidValue and ValueTooLarge."""
        try:
            parse(value)
            decoded = orjson.loads(value)
        except ValueError as error:
            raise InvalidValue(f"{subject}: the text is not JSON: {error}") from None
        codec.to_json(decoded, subject=subject)  # its depth, and numbers that are too large for a float
        text = codec.canonicalize(compact(value).encode())
        if len(text) > max_bytes:
            raise ValueTooLarge(f"{subject}: the value is {len(text)} bytes of JSON, the limit is {max_bytes}")
        return text

    def decode(self, text: bytes, *, subject: object) -> str:
        """Return a stored text in the usual spelling, on one line. Raises CorruptValue."""
        codec.decode(text, subject=subject)
        return compact(text.decode())

    def decode_item(self, scope: str, key: bytes, text: bytes) -> str:
        """Return the text of one key of a page. Raises CorruptValue, which names the key."""
        return self.decode(text, subject=Subject(scope, codec.decode_key(key)))

    def decode_page(self, scope: str, page: Mapping[bytes, bytes]) -> list[str]:
        """Return the texts of a page of a scope."""
        return list(self.decode_each(scope, page))

    def decode_each(self, scope: str, page: Mapping[bytes, bytes]) -> Iterator[str]:
        """Yield the texts of a page of a scope, each decoded when it is taken."""
        return (self.decode_item(scope, key, text) for key, text in page.items())


TEXTS = JsonTexts()


def with_texts(state: StateManager) -> StateManager:
    """Return a manager with the same connections whose values are JSON texts."""
    return state._with_coder(TEXTS)


async def scan_texts(state: StateManager, scope: str, prefix: str = "") -> AsyncIterator[tuple[str, str | CorruptValue]]:
    """Yield the keys of a scope that begin with `prefix`, and the texts of their values, in pages: see `StateManager.scan`.

    A value that is not JSON comes as its error, so that the others follow.
    """
    values, scan = await state._scan(scope)
    start = prefix.encode(errors="surrogateescape")
    async for page in scan.items(values):
        for key, text in expiry.live(page).items():
            if key.startswith(start):
                try:
                    yield codec.decode_key(key), TEXTS.decode_item(scope, key, text)
                except CorruptValue as error:
                    yield codec.decode_key(key), error


async def scan_keys(state: StateManager, scope: str, prefix: str = "") -> AsyncIterator[str]:
    """Yield the keys of a scope that begin with `prefix`, in pages. A key may come twice. The values stay in Redis."""
    values, scan = await state._scan(scope)
    await state.count(scope)  # values whose time has run out expire first
    start = prefix.encode(errors="surrogateescape")
    async for page in scan.fields(values):
        for key in page:
            if key.startswith(start):
                yield codec.decode_key(key)


def parse(text: str, parse_float: Callable[[str], Any] | None = None) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for two members of one name, of which readers take either."""
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_no_number, parse_float=parse_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def exact(digits: str) -> float:
    """Return a number that has these digits: `parse(text, exact)`. Raises ValueError if a float would lose some."""
    number = float(digits)
    if abs(number) == float("inf") or Decimal(repr(number)) != Decimal(digits):
        raise ValueError(f"the number {digits:.80} would be stored as {number!r}; write that, or set the whole value")
    return number


def compact(text: str) -> str:
    """Return JSON text on one line, with the same numbers."""
    return "".join(tokens(text))


def indented(text: str, paint: Callable[[str, bool], str] | None = None) -> str:
    """Return JSON text on several lines, with the same numbers. `paint` takes a token, and whether it names a member."""
    parts: list[str] = []
    depth, last = 0, ""
    stream = [*tokens(text), ""]
    for part, following in pairwise(stream):
        if part in ("}", "]"):
            depth -= 1
            parts.append("" if last in ("{", "[") else "\n" + _INDENT * depth)
        elif last in ("{", "[", ","):
            parts.append("\n" + _INDENT * depth)
        if part in ("{", "["):
            depth += 1
        parts.append(part if paint is None else paint(part, following == ":"))
        if part == ":":
            parts.append(" ")
        last = part
    return "".join(parts)


def tokens(text: str) -> Iterator[str]:
    r"""Yield the tokens of a JSON text. Strings are in the usual spelling, with `\u` escapes for what a terminal may obey."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        yield _spell(token) if token[0] == '"' else token


def quoted(text: str) -> str:
    """Return text as a JSON string, with escapes for what a terminal may obey and for bytes of a key that are not UTF-8."""
    string = json.dumps(text, ensure_ascii=False)
    return string if string.isprintable() else "".join(map(_visible, string))


def _spell(token: str) -> str:
    if "\\" in token:
        token = orjson.dumps(orjson.loads(token)).decode()
    return token if token.isprintable() else "".join(map(_visible, token))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two members are named {next(name for name in names if names.count(name) > 1)!r:.80}")
    return members


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")

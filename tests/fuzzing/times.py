"""The time at which a stored text expires, independent of the library: docs/format.md says how it is spelled."""

from __future__ import annotations

import re

from motia_redis._store import codec

NOW = 1_750_000_000_000  #: Unix milliseconds: a stored text with an earlier time has expired, the other times are far ahead
_FOREIGN_MARK = b"\r\t\r"
_DIGITS = b" \t\n\r"
_TAIL = re.compile(rb"([ \t\n\r]{24})(\t\r\t|\r\t\r)\Z")


def split(text: bytes) -> tuple[bytes, int | None, bytes]:
    """Return the JSON of a stored text, its time (Unix milliseconds, None: it does not expire), and its mark."""
    found = _TAIL.search(text)
    if found is None:
        mark = codec.CANONICAL_MARK if text.endswith(codec.CANONICAL_MARK) else b""
        return text[: len(text) - len(mark)], None, mark
    time = 0
    for digit in found[1]:
        time = 4 * time + _DIGITS.index(digit)
    return text[: found.start()], time, found[2]


def with_time(text: bytes, time: int | None) -> bytes:
    """Return a stored text with another time, or without one."""
    json, _, mark = split(text)
    is_canonical = mark == codec.CANONICAL_MARK
    if time is None:
        return json + (mark if is_canonical else b"")
    digits = b"".join(_DIGITS[digit : digit + 1] for digit in (time >> shift & 3 for shift in range(46, -1, -2)))
    return json + digits + (mark if is_canonical else _FOREIGN_MARK)

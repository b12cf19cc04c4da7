"""JSON as other programs write it: blanks, escapes, spellings of numbers; and texts that are JSON no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.fuzzing.values import is_number

if TYPE_CHECKING:
    import random

# fmt: off
SPELLINGS = [
    "1E5", "1e5", "1.0", "1e-2", "100000000000000000000", "-0", "-0.0", "0e0", "0E+0", "1.50", "1.0E+2",
    "10000000000000000000000.5", "1e-400", "18446744073709551616", "-9223372036854775809",
    "0.1000000000000000055511151231257827", "5e-324", "2.5e-324", "1e308", "9" * 30, "0.10", "18446744073709551615",
    "9007199254740993.0", "1e0", "1.7976931348623157e308", "123456789.123456789123456789", "-1E-7", "3e00", "4E+007",
]
BROKEN = [
    "NaN", "Infinity", "-Infinity", "01", "-01", "+1", "1.", ".5", "1e", "1e+", "-", "0x10", "1_0", "True", "nul", "'a'",
    '"\t"', '"\0"', '"\\x"', '"\\u12"', '"\\u12g4"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\\udc00\\ud800"',
    '"\\ud83d\\ud83d\\ude00"', "", '"a', "[1,]", "[,1]", '{"a":1,}', '{"a" 1}', "{a:1}", '{"a":}', "{1:2}", "[1 2]", "/**/1",
    "[1]]", "{}}", "1e400", "-1e999", "9" * 310, '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"x":{"b":1,"b":2}}', "[", "{", "]",
    '{"a":1]', "[1}", "\ufeff1", '"\x1f"', "1 2", "--1", "1-",
]
# fmt: on
_SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _noncanonical_string(rnd: random.Random, text: str) -> str:
    parts = []
    for char in text:
        if char in _SHORT and (rnd.random() < 0.6 or (char in '"\\' and rnd.random() < 0.5)):
            parts.append(_SHORT[char])
        elif char < " " or char in '"\\' or rnd.random() < 0.15:
            units = char.encode("utf-16-be")
            form = "\\u%04x" if rnd.random() < 0.5 else "\\u%04X"
            parts += [form % (units[at] * 256 + units[at + 1]) for at in range(0, len(units), 2)]
        else:
            parts.append(char)
    return '"' + "".join(parts) + '"'


def encode_noncanonical(rnd: random.Random, value: Any) -> str:
    """A value as some other program might write it."""

    def blank() -> str:
        return "" if rnd.random() < 0.7 else rnd.choice((" ", "\n", "\t", "\r", "  ", "\r\n\t", " " * 17))

    if isinstance(value, dict):
        members = list(value.items())
        if rnd.random() < 0.3:
            rnd.shuffle(members)
        inner = ",".join(
            f"{blank()}{_noncanonical_string(rnd, name)}{blank()}:{blank()}{encode_noncanonical(rnd, item)}{blank()}"
            for name, item in members
        )
        return "{" + (inner or blank()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(blank() + encode_noncanonical(rnd, item) + blank() for item in value) or blank()) + "]"
    if isinstance(value, str):
        return _noncanonical_string(rnd, value)
    if is_number(value) and rnd.random() < 0.3:
        return rnd.choice(SPELLINGS)
    return json.dumps(value)


def damaged(rnd: random.Random, text: bytes) -> bytes:  # noqa: PLR0911  # one way to damage after the other
    """A non-canonical text that is JSON no more; or still is, by chance."""
    at = rnd.randrange(len(text) + 1)
    kind = rnd.randrange(9)
    if kind == 0:
        return b"\xef\xbb\xbf" + text
    if kind == 1:
        return text + rnd.choice((b"x", b"}", b",", b"\0", b" 1", b"\xc2\xa0", b"\x0b", b"\x0c", b"//", b"\xff"))
    if kind == 2:
        return text[:at]
    if kind == 3:
        return text[:at] + text[at + 1 :]
    if kind == 4:
        return text[:at] + bytes([rnd.choice(b'{}[],:"\\ 0aeE.-+\t\n\0\x1f\x7f')]) + text[at:]
    if kind == 5:
        bad = rnd.choice(
            (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82", b"\xf0\x80\x80\x80", b"\xc2")
        )
        inside = text.find(b'"', at) + 1
        return text[:inside] + bad + text[inside:]
    if kind == 6:
        quote = text.find(b'"', at) + 1
        return (
            text[:quote] + rnd.choice((b"\\ud800", b"\\udfff", b"\\uD83D\\u0041", b"\\x", b"\t", b"\0", b"\\u00")) + text[quote:]
        )
    if kind == 7:
        part = rnd.choice(BROKEN).encode()
        return rnd.choice((b"%s", b'{"a":%s}', b"[0,%s]", b'{"b":{"c":[%s,1]},"a":1}', b' [ {"a" :%s } ] ')).replace(b"%s", part)
    return text + rnd.choice((b"\r\t", b"\t\r", b"\t\t", b"\t\r\t ", b"\t\r\n", b"\n\t\r", b"\t"))

"""Draw random documents: names and strings that look like structure, numbers at limits, long containers, deep nesting."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from motia_redis._store import codec
from tests.fuzzing.values import clone

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# fmt: off
ATOMS = [
    "a", "b", "xyz", '"', "\\", "/", "{", "}", "[", "]", ",", ":", "\0", "\x1f", "\b\f", "\t", "\n", "\r", "\x7f", "\x80", "é",
    "\u07ff", "\u0800", "€", "\u2028", "\ud7ff", "\ue000", "\ufeff", "\uffff", "\U00010000", "😀", "\U0010ffff", '","a":1',
    '":', '"}', '{"a":[', "\\u0041", '\\"', "\\\\", "\\ud800", "null", "1e5", "\t\r\t", " ", "~", "~1", "0", "%b{}", "%", "$",
    "^", "-",
]
NAMES = [
    "a", "a", "b", "b", "c", "ab", "abc", "", "0", "1", "-", "01", "-1", "a/b", "~", "~1", "m~n", ",", ":", "}", "]", "{", "[",
    "\t", "\t\r\t", '"', "\\", '"a', '","a', '":', ',"a":', 'a"', "a\\", "é", "😀", " ", "\0", "A", "\n", ":1", ",0", ',"b":1',
    '","b":1', '"}', "\x1f", "%b", "null", "x" * 65, "\u2028", "a:", ",a", ':"a', "]a", "}a", "\ta", "\x7f", "\ue000",
    "length", "__proto__",
]
INTS = [
    0, 1, -1, 2, 9, 10, 99, 15, 16, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 10**15 - 1, 10**15, 10**14, -(10**14),
    999999999999999, -99999999999999, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 10**19, 10**7, 10**7 - 1, 10**14 - 1, -(10**15),
    9007199254740993,
]
FLOATS = [
    0.0, -0.0, 0.1, 0.2, 0.30000000000000004, 0.1 + 0.7, 1.0, -1.0, 1.5, 1e15, 1e16, 1e17, 123456789012345.6, 1e21, 1e22, 1e23,
    1e100, 5e-324, -5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308, -1.7976931348623157e308,
    1e308, 9e307, 1e-5, 1e-7, 4.35, 0.000001, 2**53 + 0.0, 2**63 + 0.0, 2**64 + 0.0, 1e-323, 3.3e-310, 9007199254740992.0,
    1.0000000000000002,
]
# fmt: on
#: Names whose text also occurs elsewhere: as structure, or as names at deeper levels.
AWKWARD = (",", ":", ":1", ",0", ",a", ':"a', ',b":1', "a", "id")


def draw_text(rnd: random.Random) -> str:
    if rnd.random() < 0.02:
        return rnd.choice(ATOMS) * rnd.choice((16, 60, 64, 65, 130))
    return "".join(rnd.choices(ATOMS, k=int(rnd.random() * 4)))


def draw_name(rnd: random.Random) -> str:
    return rnd.choice(NAMES) if rnd.random() < 0.9 else draw_text(rnd)


def draw_number(rnd: random.Random) -> Any:
    dice = rnd.random()
    if dice < 0.35:
        return int(rnd.random() * 100)
    if dice < 0.55:
        return rnd.choice(INTS)
    if dice < 0.65:
        return rnd.getrandbits(rnd.randrange(1, 65)) if rnd.random() < 0.6 else -rnd.getrandbits(63)
    if dice < 0.9:
        return rnd.choice(FLOATS)
    if dice < 0.95:
        return round(rnd.uniform(-100, 100), rnd.randrange(5))
    number = struct.unpack("<d", rnd.randbytes(8))[0]
    return number if math.isfinite(number) else 0.5


def draw_scalar(rnd: random.Random) -> Any:
    dice = rnd.random()
    if dice < 0.45:
        return draw_number(rnd)
    return draw_text(rnd) if dice < 0.8 else rnd.choice((True, False, None, "", [], {}))


def draw_tree(rnd: random.Random, levels: int) -> Any:
    dice = rnd.random()
    if levels == 0 or dice < 0.3:
        return draw_scalar(rnd)
    size = int(rnd.random() * 5)
    if dice < 0.7:
        return {draw_name(rnd): draw_tree(rnd, levels - 1) for _ in range(size)}
    return [draw_tree(rnd, levels - 1) for _ in range(size)]


def draw_items(rnd: random.Random, size: int) -> list[Any]:
    """Draw many values with long runs of one kind. The library scans in blocks; runs end inside and at ends of blocks."""
    makers: list[Callable[[], Any]] = [
        lambda: draw_number(rnd), lambda: draw_text(rnd), dict, list, lambda: [draw_number(rnd)],
        lambda: {draw_name(rnd): draw_scalar(rnd)}, lambda: None,
        lambda: rnd.choice(("x" * 61, "x" * 62, "x" * 63, "x" * 70)), lambda: draw_scalar(rnd),
        lambda: {"id": int(rnd.random() * 99)},
    ]  # fmt: skip
    items: list[Any] = []
    while len(items) < size:
        maker = rnd.choice(makers)
        items += [maker() for _ in range(rnd.choice((1, 2, 15, 16, 17, 33, size)))]
    return items[:size]


def _wide(rnd: random.Random) -> dict[str, Any]:
    """Draw an object of many members with one value. Some of the names are in `AWKWARD`."""
    value = rnd.choice(
        (7, "s", "s", ":", ",", ["s", ":"], [], [1, ","], {}, {"a": ","}, {"id": 1, "a": ":"}, {",": ",", ":": 1}, 1.5, None)
    )
    names = [f"m{number}" for number in range(rnd.choice((17, 20, 34, 40)))]
    for _ in range(rnd.randrange(1, 8)):
        names[rnd.randrange(len(names))] = rnd.choice(AWKWARD)
    return {name: clone(value) if rnd.random() < 0.98 else 1 for name in names}


def draw_value(rnd: random.Random) -> Any:
    dice = rnd.random()
    if dice < 0.72:
        value = draw_tree(rnd, 4)
        return value if isinstance(value, dict | list) or rnd.random() < 0.2 else {draw_name(rnd): value, "a": draw_tree(rnd, 2)}
    if dice < 0.77:
        value = _wide(rnd)
    elif dice < 0.84:
        value = draw_items(rnd, rnd.choice((15, 16, 17, 18, 33, 65, 70, 100)))
    elif dice < 0.97:
        size = rnd.choice((16, 17, 18, 33, 51, 70))
        value = {rnd.choice((f"m{n}", f"{n}", f"a{n}", draw_name(rnd))): item for n, item in enumerate(draw_items(rnd, size))}
    else:
        value = draw_scalar(rnd)
        for _ in range(rnd.choice((20, 60, 120))):
            value = rnd.choice(([value], {"a": value}, {draw_name(rnd): value}, {"b": {}, "a": value, "c": [0]}, [[], value, 1]))
    if rnd.random() < 0.7:
        value = {draw_name(rnd): draw_scalar(rnd), "list": value, draw_name(rnd): draw_tree(rnd, 2)}
    return value


def encode_canonical(value: Any) -> bytes:
    return codec.encode(value, subject="fuzz", max_bytes=1 << 30) + codec.CANONICAL_MARK

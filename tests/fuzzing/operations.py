"""Draw random operations on a document: most have an existing path and a fitting type, some do not, a few are malformed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.fuzzing.documents import AWKWARD, draw_name, draw_number, draw_scalar, draw_text, draw_tree, draw_value
from tests.fuzzing.model import FIELD_OPS, POINTER_OPS, Refused, pointer, resolve
from tests.fuzzing.values import fits, plain

if TYPE_CHECKING:
    import random

#: Indexes around the ends of the blocks in which the library scans.
_SEAMS = (0, 1, 7, 14, 15, 16, 17, 18, 30, 31, 32, 33, 34, 47, 48, 49, 50, 63, 64, 65, 66, 80, 81, 95, 96, 97)
_BAD_NAMES = ("-", "01", "-1", "+1", "1.0", "1e0", " 1", "", "99", "\u0661", "0x0", "9" * 25, "00", "a")
_WANTED: dict[str, tuple[type, ...]] = {
    "increment": (int, float),
    "decrement": (int, float),
    "append": (list, str),
    "merge": (dict,),
}


def _locations(rnd: random.Random, value: Any) -> list[str]:
    """Draw the path of an existing value."""
    path: list[str] = []
    stop = rnd.choice((0.05, 0.3, 0.5))
    while value and isinstance(value, dict | list) and len(path) < 126 and (not path or rnd.random() > stop):
        if isinstance(value, dict):
            awkward = [name for name in AWKWARD if name in value] if len(value) > 16 and rnd.random() < 0.7 else None
            name = next(reversed(value)) if rnd.random() < 0.2 else rnd.choice(awkward or list(value))
            value = value[name]
        else:
            index = rnd.choice(_SEAMS) if rnd.random() < 0.3 else rnd.randrange(len(value))
            index = min(index, len(value) - 1)
            name, value = str(index), value[index]
        path.append(name)
    return path if rnd.random() < 0.96 else []


def is_wanted(value: Any, wanted: tuple[type, ...]) -> bool:
    """Return whether a value has one of the wanted types. Booleans are not numbers."""
    return isinstance(value, wanted) and not (isinstance(value, bool) and object not in wanted)


def draw_existing(rnd: random.Random, value: Any, wanted: tuple[type, ...]) -> list[str]:
    """Draw the path of an existing value. Up to five draws try to find a wanted type."""
    path: list[str] = []
    for _ in range(5):
        path = _locations(rnd, value)
        found = resolve(value, path)
        if is_wanted(found, wanted):
            break
    return path


def _path(rnd: random.Random, value: Any, wanted: tuple[type, ...]) -> list[str]:
    dice = rnd.random()
    if dice < 0.72:
        return draw_existing(rnd, value, wanted)
    path = draw_existing(rnd, value, (dict, list))
    found = resolve(value, path)
    if dice < 0.9:
        if isinstance(found, list):
            return [*path, rnd.choice(("-", str(len(found)), str(len(found)), str(len(found) + 1)))]
        return [*path, draw_name(rnd)]
    return [*path, rnd.choice(_BAD_NAMES)] if rnd.random() < 0.6 else [*path, draw_name(rnd), draw_name(rnd)]


def _amount(rnd: random.Random, found: Any) -> Any:
    if isinstance(found, int) and rnd.random() < 0.25:
        target = rnd.choice((2**64 - 1, -(2**63), 2**53, 0, 10**15)) + rnd.choice((-1, 0, 0, 1))
        if fits(target - found):
            return target - found
    return draw_number(rnd)


def _members(rnd: random.Random, found: Any) -> dict[str, Any]:
    """Draw members for `merge`. Some replace existing members."""

    def name() -> str:
        return rnd.choice(list(found)) if found and isinstance(found, dict) and rnd.random() < 0.4 else draw_name(rnd)

    return {name(): draw_tree(rnd, 2) for _ in range(int(rnd.random() * 5))}


def draw_tested(rnd: random.Random, found: Any) -> Any:
    """Draw a value for `test`: mostly the existing value in another spelling."""
    found = plain(found)
    if isinstance(found, dict):
        members = [(name, draw_tested(rnd, item) if rnd.random() < 0.3 else item) for name, item in found.items()]
        rnd.shuffle(members)
        return dict(members)
    if isinstance(found, list):
        return [draw_tested(rnd, item) if rnd.random() < 0.2 else item for item in found]
    dice = rnd.random()
    if isinstance(found, int | float) and dice < 0.4:
        return rnd.choice((float(found), bool(found), found + 1, int(found)))
    return draw_scalar(rnd) if dice < 0.15 else found


def _malformed(rnd: random.Random) -> Any:
    bad: list[Any] = [
        {}, 7, None, [], "add", {"op": "add"}, {"op": "add", "path": "/a"}, {"op": "add", "path": "a", "value": 1},
        {"op": "nop", "path": ""}, {"op": "add", "path": "/a~2", "value": 1}, {"op": "add", "path": "/~", "value": 1},
        {"op": "add", "path": None, "value": 1}, {"op": "remove", "path": ""}, {"type": "remove"}, {"op": "move",
        "path": "/a/b", "from": "/a"}, {"op": "move", "path": "/a"}, {"op": "move", "from": "", "path": "/a"}, {"op": "copy",
        "from": 1, "path": "/a"}, {"op": "increment", "path": "/a", "value": True}, {"op": "increment", "path": "/a",
        "value": "1"}, {"op": "increment", "path": "/a", "value": 2**64}, {"op": "merge", "path": "", "value": []},
        {"op": "increment", "path": "/a", "by": 1}, {"type": "increment", "path": "a"}, {"op": "add", "type": "set",
        "path": "", "value": 1}, {"type": "set", "path": 1, "value": 1}, {"type": "set", "path": ["a", 1], "value": 1},
        {"type": "add", "path": "a", "value": 1}, {"op": "add", "path": "/a", "value": math.nan}, {"op": "add", "path": "/a",
        "value": [None, {"x": math.inf}]}, {"type": "set", "path": "a"}, {"op": "add", "path": "/a", "value": -(2**63) - 1},
        {"op": "add", "path": "/a", "value": "\ud800"}, {"op": "test", "path": "/a"}, {"op": "add", "path": "/\ud800",
        "value": 1}, {"op": "add", "path": "/a", "value": {"\udc00": 1}}, {"op": "add", "path": "/a" * 129, "value": 1},
        {"op": "decrement", "path": "/a", "value": math.inf}, {"op": "merge", "path": "", "value": {"a": math.nan}},
        {"op": "set", "path": "a", "value": 1}, {"op": "set", "path": "/a"},
    ]  # fmt: skip
    return rnd.choice(bad)


def draw_operation(rnd: random.Random, value: Any, *, big: bool) -> Any:
    """Draw an operation on `value`, mostly a valid one."""
    if rnd.random() < 0.012:
        return _malformed(rnd)
    field_dialect = rnd.random() < 0.25
    name = rnd.choice(FIELD_OPS if field_dialect else POINTER_OPS)
    if big and name == "copy":
        name = "test"
    path = _path(rnd, value, _WANTED.get(name, (object,)))
    if not path and name in ("replace", "add", "set", "test") and rnd.random() < 0.6:
        path = [draw_name(rnd)]
    try:
        found = resolve(value, path)
    except Refused:
        found = None
    operation: dict[str, Any] = {"type": name} if field_dialect else {"op": name, "path": pointer(path)}
    if field_dialect and (path or rnd.random() < 0.5):
        operation["path"] = path[0] if len(path) == 1 and path[0] and rnd.random() < 0.8 else path
    if name in ("move", "copy"):
        source = draw_existing(rnd, value, (object,)) if rnd.random() < 0.93 else _path(rnd, value, (object,))
        operation["from"] = pointer(path if rnd.random() < 0.05 else source)
    elif name in ("increment", "decrement"):
        operation["by" if field_dialect and rnd.random() < 0.7 else "value"] = _amount(rnd, found)
    elif name == "merge":
        operation["value"] = _members(rnd, found)
    elif name == "append" and isinstance(found, str) and rnd.random() < 0.9:
        operation["value"] = draw_text(rnd)
    elif name == "test" and rnd.random() < 0.93:
        operation["value"] = draw_tested(rnd, found)
    elif name != "remove":
        operation["value"] = draw_tree(rnd, 2) if rnd.random() < 0.97 else draw_value(rnd)
    return operation

"""The updated documents: their shapes, sizes, and the position of the incremented member."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The initial value of the member. Increments do not change its number of digits, so the size stays the same.
START = 1_000_000
#: The member's name at the root. In `repeated`, every record has one of that name too.
NAME = "total"
POSITIONS = ("front", "middle", "end", "deep")
_WORDS = "All that is gold does not glitter, not all those who wander are lost; the old that is strong does not wither. "

Members = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """A value and the path of the number in it that is incremented."""

    value: Members
    path: tuple[str | int, ...]

    @property
    def pointer(self) -> str:
        """The path as JSON Pointer."""
        return "".join(f"/{segment}" for segment in self.path)

    def incremented(self) -> Members:
        """Return the value with 1 added at the path."""
        changed = deepcopy(self.value)
        node: Any = changed
        for segment in self.path[:-1]:
            node = node[segment]
        node[self.path[-1]] += 1
        return changed


def build(shape: str, size: int, position: str) -> Document:
    """Return a document of about `size` bytes. See SHAPES and POSITIONS."""
    return SHAPES[shape](size, position)


def nested(size: int, position: str) -> Document:
    """Objects in objects: branches of three leaves, four levels."""
    return _spread(size, position, lambda index: (f"branch{index}", _branch(index)), _branch(0) | {"stats": {NAME: START}})


def flat(size: int, position: str) -> Document:
    """One object of scalars: texts, whole numbers and fractions."""
    kinds: tuple[Callable[[int], Any], ...] = (lambda n: f"value {n}", lambda n: n * 37, lambda n: n + 0.25)
    return _spread(size, position, lambda index: (f"field{index}", kinds[index % 3](index)), {"inner": {NAME: START}})


def records(size: int, position: str) -> Document:
    """Arrays of records inside of the root object; the member between two of them, or inside of the middle one."""
    return _records(size, position, "visits")


def repeated(size: int, position: str) -> Document:
    """Like `records`, but every record has a member of the name that is looked for at the root."""
    return _records(size, position, NAME)


def text(size: int, position: str) -> Document:
    """One long text (with line ends, quotes and brackets) and a few members."""
    line = _WORDS + 'He said "so be it" [1].\n'
    body = (line * (size // len(line) + 1))[: max(16, size - 130)]
    before: Members = {"id": 4711, "title": "On wandering"}
    after: Members = {"language": "en", "draft": False}
    if position == "deep":
        return Document({**before, "body": body, "meta": {"stats": {NAME: START}}, **after}, ("meta", "stats", NAME))
    return Document(_insert([before, {"body": body}, after], position), (NAME,))


def listing(size: int, element: Callable[[int], Any]) -> Members:
    """Return an object whose last member `list` is an array of about `size` bytes."""
    return {"id": 4711, "title": "On wandering", "list": list(_fill(size, element))}


def record(index: int, name: str = "visits") -> Members:
    """Return a record of about 100 bytes."""
    return {
        "id": index,
        "name": f"item {index}",
        "price": index + 0.5,
        "tags": ["new", "blue"],
        "stats": {name: START, "open": True, "note": None},
    }


SHAPES: dict[str, Callable[[int, str], Document]] = {
    "nested": nested,
    "flat": flat,
    "records": records,
    "text": text,
    "repeated": repeated,
}


def _branch(index: int) -> Members:
    return {"name": f"n{index}", "left": {"size": index, "leaf": {"on": True, "at": index * 3}}, "right": {"size": 7}}


def _fill(size: int, element: Callable[[int], Any]) -> Iterator[Any]:
    """Yield elements until they make `size` bytes of JSON."""
    written = 0
    for index in count():
        if written >= size:
            return
        item = element(index)
        written += len(orjson.dumps(item)) + 1
        yield item


def _insert(parts: list[Members], position: str) -> Members:
    """Join members and put the number before, amid or behind them. The last part may be what follows the middle."""
    target = {NAME: START}
    last = len(parts) - 1
    order = {"front": [target, *parts], "middle": [*parts[:last], target, *parts[last:]], "end": [*parts, target]}[position]
    return {name: value for part in order for name, value in part.items()}


def _spread(size: int, position: str, member: Callable[[int], tuple[str, Any]], deep: Members) -> Document:
    """Return a root object of members of one kind, the number at `position`, or inside of `deep` in their middle."""
    members = list(_fill(size - 30, member))
    half = len(members) // 2
    before, after = dict(members[:half]), dict(members[half:])
    if position != "deep":
        return Document(_insert([before, after], position), (NAME,))
    inner = next(name for name, value in deep.items() if isinstance(value, dict) and NAME in value)
    return Document({**before, "target": deep, **after}, ("target", inner, NAME))


def _records(size: int, position: str, name: str) -> Document:
    rows = list(_fill(size - 60, lambda index: record(index, name)))
    if position == "deep":
        middle = len(rows) // 2
        return Document({"title": "Items", "records": rows, "closed": False}, ("records", middle, "stats", name))
    half = (len(rows) + 1) // 2
    before = {"title": "Items", "records": rows[:half]}
    return Document(_insert([before, {"archive": rows[half:], "closed": False}], position), (NAME,))

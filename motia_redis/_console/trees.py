"""Values as a page shows them: with the digits that are stored, as a tree that may be cut, and as differences."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from motia_redis._store.json_texts import indented, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_NODES = 400  # of one tree
_MOST_TEXT = 2000  # characters of one string
_MOST_LINES = 200  # of one difference
_CONTEXT = 2  # lines around a difference


class Number(str):
    """A number with a fraction or an exponent, as it is spelled: `parse(text, Number)`."""

    __slots__ = ()


def to_json(value: Any, *, indent: bool = False) -> str:
    """Return a value that `parse` returned as JSON text, with the same numbers."""
    text = "".join(_pieces(value))
    return indented(text) if indent else text


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for index, (name, member) in enumerate(value.items()):
            yield f"{',' * bool(index)}{quoted(name)}:"
            yield from _pieces(member)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            yield "," * bool(index)
            yield from _pieces(item)
        yield "]"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


@dataclass(slots=True)
class Node:
    """A part of a value, as the tree shows it."""

    name: str  #: of the member, or the index; "" for the whole
    kind: str  #: object, array, string, number, word
    text: str  #: of a scalar; of a container, how much it holds
    children: list[Node] = field(default_factory=list)
    left_out: int = 0  #: children that are not shown


def tree(value: Any) -> Node:
    """Return the tree of a value that `parse` returned, cut to about 400 nodes, the outer ones first."""
    return _Grower(_MOST_NODES).grow(value)


class _Grower:
    """Make the nodes level by level, so that a cut takes away what is deep."""

    def __init__(self, most: int) -> None:
        self._left = most

    def grow(self, value: Any) -> Node:
        root = _node("", value)
        level = [(root, value)]
        while level:
            following = []
            for node, container in level:
                items = _items(container)
                taken = items[: max(0, self._left)]
                self._left -= len(taken)
                node.left_out = len(items) - len(taken)
                for name, child in taken:
                    node.children.append(made := _node(name, child))
                    if isinstance(child, dict | list):
                        following.append((made, child))
            level = following
        return root


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [(str(index), item) for index, item in enumerate(value)] if isinstance(value, list) else []


def _node(name: str, value: Any) -> Node:
    if isinstance(value, dict):
        return Node(name, "object", f"{len(value)} member{'s' * (len(value) != 1)}")
    if isinstance(value, list):
        return Node(name, "array", f"{len(value)} item{'s' * (len(value) != 1)}")
    text = _scalar(value)
    kind = "string" if text.startswith('"') else "word" if text in ("true", "false", "null") else "number"
    return Node(name, kind, text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}… ({len(text):,} characters)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a difference."""

    kind: str  #: added, removed, same, gap
    text: str


def differences(old: str, new: str) -> list[Line]:
    """Return the lines in which two texts differ, with some lines around them, at most 200."""
    lines: list[Line] = []
    for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=_CONTEXT):
        if line.startswith(("---", "+++")) and len(lines) < 2 and not lines:
            continue
        if line.startswith("@@"):
            if lines:
                lines.append(Line("gap", "…"))
            continue
        lines.append(Line({"+": "added", "-": "removed"}.get(line[:1], "same"), line[1:][:_MOST_TEXT]))
        if len(lines) == _MOST_LINES:
            lines.append(Line("gap", "… more lines differ"))
            break
    return lines

"""Compute the expected result of an update with the `jsonpatch` package and Python's arithmetic.

The only code of the library in it is the mark of canonical JSON.
"""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any

import jsonpatch

from motia_redis._store import codec
from tests.fuzzing.values import DEPTH, LONE_SURROGATE, clone, depth, equal, fits, is_json, is_number, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Refused(Exception):
    """The model rejects an operation; `kind` is a key of REFUSALS in `comparison`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


POINTER_OPS = ("add", "remove", "replace", "move", "copy", "test", "set", "increment", "decrement", "append", "merge")
FIELD_OPS = ("set", "merge", "increment", "decrement", "append", "remove")
_INDEX = re.compile("0|[1-9][0-9]*")
_BAD_ESCAPE = re.compile("~(?![01])")


def _names(operation: dict[str, Any], member: str = "path") -> list[str]:
    """Return the path of an operation as names. Raise Refused when the path is malformed."""
    if "type" in operation:
        path = operation.get(member, "")
        names = ([path] if path else []) if isinstance(path, str) else path
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Refused("malformed")
    else:
        written = operation.get(member)
        if not isinstance(written, str) or (written and written[0] != "/") or _BAD_ESCAPE.search(written):
            raise Refused("malformed")
        names = [name.replace("~1", "/").replace("~0", "~") for name in written.split("/")[1:]]
    if len(names) > 128 or any(map(LONE_SURROGATE.search, names)):
        raise Refused("malformed")
    return names


def pointer(path: Sequence[str]) -> str:
    """Return the JSON Pointer of a path."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)


def check_form(operation: Any) -> None:
    """Raise Refused when an operation is malformed for every document."""
    if not isinstance(operation, dict) or ("op" in operation) == ("type" in operation):
        raise Refused("malformed")
    name = operation["op"] if "op" in operation else operation["type"]
    if name not in (POINTER_OPS if "op" in operation else FIELD_OPS):
        raise Refused("malformed")
    path = _names(operation)
    if name == "remove":
        good = bool(path)
    elif name in ("move", "copy"):
        source = _names(operation, "from")
        good = not (name == "move" and len(source) < len(path) and path[: len(source)] == source)
    else:
        amount = name in ("increment", "decrement")
        value = operation.get("by" if amount and "type" in operation and "by" in operation else "value", Refused)
        good = value is not Refused and is_json(value)
        good = good and (not amount or is_number(value))
        good = good and not (name == "merge" and not isinstance(value, dict))
    if not good:
        raise Refused("malformed")


def _index(array: list[Any], name: str, past: int = 0) -> int:
    """Return `name` as an index of an array. jsonpointer before 3 accepts `01`; some versions accept `-` and negative indexes."""
    if not _INDEX.fullmatch(name) or int(name) >= len(array) + past:
        raise Refused("place")
    return int(name)


def _child(value: Any, name: str) -> Any:
    """Return the item `name` of a container. jsonpointer before 3 also returns characters of strings."""
    if isinstance(value, list):
        return value[_index(value, name)]
    if not isinstance(value, dict) or name not in value:
        raise Refused("place")
    return value[name]


def resolve(value: Any, path: Sequence[str]) -> Any:
    """Return the value at a path. Raise Refused when there is none."""
    for name in path:
        value = _child(value, name)
    return value


def _sum(a: Any, b: Any, operation: Callable[[Any, Any], Any]) -> Any:
    """Return Python's sum or difference of two JSON numbers. Integers of more than 64 bits are rejected."""
    if isinstance(a, int) and isinstance(b, int):
        total = operation(int(a), b)
        if not fits(a) or not fits(total):
            raise Refused("overflow")
        return total
    try:
        total = operation(float(a) if isinstance(a, float) else int(a), b)
    except OverflowError:
        total = math.inf
    if not math.isfinite(total):
        raise Refused("overflow")
    return total


def _check_target(value: Any, path: list[str]) -> None:
    """Raise Refused when no value can be added at a path."""
    parent = resolve(value, path[:-1])
    if isinstance(parent, list):
        if path[-1] != "-":
            _index(parent, path[-1], past=1)
    elif not isinstance(parent, dict):
        raise Refused("place")


class Model:
    """The expected result of an update. After `step` for each operation, `refusal`, `value` and `touched` hold the result."""

    def __init__(self, text: bytes | None, *, strict: bool) -> None:
        self.strict = strict
        self.duplicates: list[str] = []
        self.refusal: tuple[str, int | None] | None = None  # kind, index of the operation
        self.touched = text is None
        self._malformed = self._spoiled = False
        self._count = 0
        self._levels = 0 if text is None else text.count(b"[") + text.count(b"{")
        if text is None:
            self.value: Any = {}
            if strict:
                self.refusal = ("no key", None)
            return
        try:
            # Non-canonical JSON may contain a member twice; canonical JSON never does.
            self.value = load(text, None if text.endswith(codec.CANONICAL_MARK) else self.duplicates)
        except (ValueError, RecursionError):
            self.value, self.refusal = None, ("corrupt", None)

    def step(self, operation: Any) -> None:
        """Apply the next operation."""
        index, self._count = self._count, self._count + 1
        if self._malformed:
            return
        try:
            check_form(operation)
            if self.refusal is None:
                self._apply(operation)
        except Refused as refused:
            # The client checks the form of all operations before anything is sent.
            self._malformed = refused.kind == "malformed"
            self.refusal = (refused.kind, index)

    def take_back(self) -> bool:
        """Undo the last operation if it was rejected and did not change the value; return whether that was possible."""
        if self.refusal is None or self.refusal[1] != self._count - 1 or self._malformed or self._spoiled:
            return False
        self.refusal, self._count = None, self._count - 1
        return True

    def _apply(self, operation: dict[str, Any]) -> None:
        name = operation.get("op") or operation["type"]
        path = _names(operation)
        value = clone(operation.get("by", operation.get("value")) if "type" in operation else operation.get("value"))
        if name in ("increment", "decrement", "append", "merge"):
            getattr(self, f"_{name}")(path, value)
        elif name in ("set", "replace") and not (name == "replace" and self.strict):
            self._put(path, value)
        elif name == "remove" and not self.strict and isinstance(parent := resolve(self.value, path[:-1]), dict):
            if path[-1] in parent:
                self._rfc("remove", path)
        else:
            self._rfc(name, path, value, _names(operation, "from") if name in ("move", "copy") else None)

    def _rfc(self, name: str, path: list[str], value: Any = None, source: list[str] | None = None) -> None:
        """Apply an operation with jsonpatch. Check first what its versions do not check as the RFC says."""
        operation = {"op": name, "path": pointer(path), "value": value}
        if source is not None:
            operation["from"] = pointer(source)
            resolve(self.value, source)
        if name in ("remove", "replace", "test"):
            found = resolve(self.value, path)
            if name == "test" and not equal(found, value):
                raise Refused("test")
        if name in ("add", "copy") and path:
            _check_target(self.value, path)
        try:
            self.value = jsonpatch.JsonPatch([operation]).apply(self.value, in_place=True)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, IndexError):
            self._spoiled = name == "move"  # jsonpatch may have removed the value from its source
            if not self._spoiled:
                raise AssertionError(f"jsonpatch rejects {operation!r:.200}, the model does not") from None
            raise Refused("place") from None
        self.touched = self.touched or not (name == "test" or (name == "move" and source == path))
        if name in ("copy", "move"):
            # Only these operations nest existing values deeper. An upper bound saves counting the levels every time.
            self._levels = 2 * self._levels + len(path)
            if self._levels > DEPTH and depth(self.value) > DEPTH:
                self._spoiled = True
                raise Refused("too deep")

    def _put(self, path: list[str], value: Any) -> None:
        """Apply `set`, or `replace` without `strict`: replace a value or create a member."""
        parent = resolve(self.value, path[:-1])
        exists = not path or not isinstance(parent, dict) or path[-1] in parent
        self._rfc("replace" if exists else "add", path, value)

    def _target(self, path: list[str]) -> tuple[bool, Any]:
        """Return whether a value exists at the path, and the value. Raise Refused when it can not be created either."""
        if path and not self.strict:
            parent = resolve(self.value, path[:-1])
            if isinstance(parent, dict) and path[-1] not in parent:
                return False, None
        return True, resolve(self.value, path)

    def _store(self, path: list[str], value: Any) -> None:
        self.touched = True
        if not path:
            self.value = value
            return
        parent = resolve(self.value, path[:-1])
        parent[int(path[-1]) if isinstance(parent, list) else path[-1]] = value

    def _increment(self, path: list[str], amount: Any, operation: Callable[[Any, Any], Any] = operator.add) -> None:
        there, found = self._target(path)
        if there and not is_number(found):
            raise Refused("kind")
        self._store(path, _sum(found if there else 0, amount, operation))

    def _decrement(self, path: list[str], amount: Any) -> None:
        try:
            # A subtraction, not the addition of the negative: -0.0 - 0 is -0.0, but -0.0 + 0 is 0.0.
            self._increment(path, amount, operator.sub)
        except Refused as refused:
            # There are two errors: no value exists, and the result would be out of range. Either may be reported.
            raise Refused("place or overflow" if refused.kind == "place" and not is_json(-amount) else refused.kind) from None

    def _append(self, path: list[str], value: Any) -> None:
        there, found = self._target(path)
        if not there:
            self._store(path, [value])
        elif isinstance(found, list):
            self._store(path, [*found, value])
        elif isinstance(found, str) and isinstance(value, str):
            self._store(path, found + value)
        else:
            raise Refused("kind")

    def _merge(self, path: list[str], members: dict[str, Any]) -> None:
        there, found = self._target(path)
        if there and not isinstance(found, dict):
            raise Refused("kind")
        if not there or members:
            self._store(path, {**found, **members} if there else members)

"""Check update operations and translate them to arguments of the mutation script.

There are two dialects: JSON Patch (`op`, `path` = JSON Pointer; RFC 6902 plus `set`, `increment`, `decrement`, `append`,
`merge`) and Motia's own (`type`, `path` = the name of a field). The script receives split pointers and encoded values, so it
does not parse the operations.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from motia_redis._store import codec, values
from motia_redis.errors import InvalidOperation, InvalidPointer, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from motia_redis._store.limits import Limits

_T = TypeVar("_T")

_POINTER_OPS = ("add", "remove", "replace", "move", "copy", "test", "set", "increment", "decrement", "append", "merge")
_FIELD_OPS = ("set", "merge", "increment", "decrement", "append", "remove")
_LENIENT = {"replace": b"set", "remove": b"discard"}  # what the script calls them unless they are strict
_BAD_ESCAPE = re.compile(r"~(?![01])")
_MISSING = object()
_REMEMBERED = 256  # characters of a pointer that is remembered: programs use the same few again and again
_MOST_ARGUMENTS = 50_000  # the script receives each of them at a cost of its own


def translate(operations: Any, *, strict: bool, limits: Limits, subject: object) -> list[bytes]:
    """Return the script's arguments for `operations`, in order. Error messages start with `subject`.

    Raises InvalidOperation (or InvalidPointer), InvalidValue or ValueTooLarge, with the index of the operation.
    """
    if not isinstance(operations, list | tuple):
        raise InvalidOperation(f"{subject}: the operations must be a list of dicts, not {type(operations).__name__}")
    if len(operations) > limits.operations:
        raise InvalidOperation(f"{subject}: {len(operations)} operations, the limit is {limits.operations} in one update")
    arguments: list[bytes] = []
    size, most = 0, 2 * limits.value_bytes
    for index, operation in enumerate(operations):
        before = len(arguments)
        _Operation(operation, subject, index, strict=strict, limits=limits).translate(arguments)
        size += sum(map(len, arguments[before:]))
        if size > most:
            raise ValueTooLarge(f"{subject}: the operations 0 to {index} hold {size} bytes, the limit is {most}")
        if len(arguments) > _MOST_ARGUMENTS:
            raise InvalidOperation(
                f"{subject}: the operations 0 to {index} hold more than {_MOST_ARGUMENTS} path segments, members and values; "
                "split the update"
            )
    return arguments


class _Operation:
    """Check and translate one operation. As text it is the beginning of error messages, which is made only for them."""

    __slots__ = ("_index", "_subject", "fields", "limits", "name", "pointer", "strict")

    def __init__(self, operation: Any, subject: object, index: int, *, strict: bool, limits: Limits) -> None:
        self._subject = subject
        self._index = index
        self.name = ""  #: of the operation, once it is known
        self.strict = strict
        self.limits = limits
        if not isinstance(operation, dict):
            raise InvalidOperation(f"{self} must be a dict, not {type(operation).__name__}: {operation!r:.80}")
        self.fields: dict[Any, Any] = operation
        self.pointer = "op" in operation
        if self.pointer == ("type" in operation):
            raise InvalidOperation(f"{self} needs either `op` (JSON Patch) or `type` (Motia): {operation!r:.200}")
        name = operation["op"] if self.pointer else operation["type"]
        if isinstance(name, str):
            name = values.plain_text(name)
        known = _POINTER_OPS if self.pointer else _FIELD_OPS
        if name not in known:
            raise InvalidOperation(f"{self}: unknown operation {name!r}; known are {', '.join(known)}")
        self.name = name

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        return f"{self._subject}: operation {self._index}{name}"

    def translate(self, arguments: list[bytes]) -> None:
        """Append the operation's name, path and arguments."""
        path = self.segments("path") if self.pointer else self.field()
        name = self.name
        if name == "remove":
            if not path:
                raise InvalidOperation(f"{self}: the whole value cannot be removed by an update: use delete()")
            encoded = []
        elif name in ("increment", "decrement"):
            encoded = self.amount()
        elif name in ("move", "copy"):
            encoded = self.source(path)
        elif name == "merge":
            encoded = self.members()
        else:
            encoded = self.value()
        script_name = self.script_name()
        arguments += [script_name if len(path) == 1 else b"%b %d" % (script_name, len(path)), *path, *encoded]

    def script_name(self) -> bytes:
        """Return the name that the script uses. It has separate operations for the lenient forms."""
        if not self.strict and self.name in _LENIENT:
            return _LENIENT[self.name]
        return b"increment" if self.name == "decrement" else self.name.encode()

    def segments(self, field: str) -> Sequence[bytes]:
        """Split a JSON Pointer into member names as canonical JSON spells them."""
        pointer = self.given(field)
        if not isinstance(pointer, str):
            raise InvalidPointer(f"{self}: `{field}` must be a string, not {type(pointer).__name__}")
        pointer = values.plain_text(pointer)
        if not pointer:
            return ()
        if pointer[0] != "/":
            raise InvalidPointer(f"{self}: `{field}` must be empty or start with a slash: {pointer!r:.200}")
        if "~" in pointer and _BAD_ESCAPE.search(pointer):
            raise InvalidPointer(f"{self}: `{field}` holds a `~` that is neither ~0 nor ~1: {pointer!r:.200}")
        split = _split_remembered if len(pointer) <= _REMEMBERED else _split
        return self.checked(split, pointer, field)

    def field(self) -> Sequence[bytes]:
        """Return the path of Motia's dialect: a field, a list of fields, or nothing for the whole value."""
        path = self.fields.get("path", "")
        if isinstance(path, str):
            return self.checked(_encode_names, [path], "path") if path else ()
        if isinstance(path, list | tuple) and all(isinstance(name, str) for name in path):
            return self.checked(_encode_names, path, "path")
        raise InvalidOperation(f"{self}: `path` must be a field name or a list of them: {path!r:.200}")

    def checked(self, encode: Callable[[_T], Sequence[bytes]], path: _T, field: str) -> Sequence[bytes]:
        """Return the segments of a path, which are within their limits."""
        try:
            tokens = encode(path)
        except TypeError:
            raise InvalidPointer(f"{self}: `{field}` contains a lone surrogate") from None
        if len(tokens) > self.limits.pointer_depth:
            raise InvalidPointer(f"{self}: `{field}` has {len(tokens)} segments, the limit is {self.limits.pointer_depth}")
        if len(max(tokens, key=len, default=b"")) > self.limits.name_bytes:
            raise InvalidPointer(f"{self}: a segment of `{field}` is over {self.limits.name_bytes} bytes")
        return tokens

    def source(self, path: Sequence[bytes]) -> list[bytes]:
        """Return the `from` of a move or copy."""
        source = self.segments("from")
        if self.name == "move" and len(source) < len(path) and path[: len(source)] == source:
            raise InvalidOperation(f"{self}: a value cannot be moved into itself")
        return [b"%d" % len(source), *source]

    def value(self) -> list[bytes]:
        """Return the encoded `value`."""
        return [codec.encode(self.given("value"), subject=self, max_bytes=self.limits.value_bytes)]

    def amount(self) -> list[bytes]:
        """Return the encoded number to add. A decrement adds the negative number."""
        field = "value" if self.pointer or "by" not in self.fields else "by"
        amount = self.given(field)
        text = codec.encode(amount, subject=self, max_bytes=self.limits.value_bytes)
        if not text[-1:].isdigit():  # text ends with a quote, and true with a letter
            raise InvalidValue(f"{self}: `{field}` must be a number, not {type(amount).__name__}: {amount!r:.80}")
        if self.name == "decrement":
            text = text[1:] if text.startswith(b"-") else b"-" + text
        return [text]

    def members(self) -> list[bytes]:
        """Return the members that a merge writes: their number, then each one's name and value."""
        members = self.given("value")
        if not isinstance(members, dict):
            raise InvalidValue(f"{self}: `value` must be a dict, not {type(members).__name__}: {members!r:.80}")
        whole = codec.encode(members, subject=self, max_bytes=self.limits.value_bytes)
        pairs = [
            part
            for name, item in values.plain(members).items()
            for part in (codec.encode_name(name), codec.encode(item, subject=self, max_bytes=len(whole)))
        ]
        return [whole, b"%d" % len(members), *pairs]

    def given(self, field: str) -> Any:
        """Return a required field of the operation."""
        value = self.fields.get(field, _MISSING)
        if value is _MISSING:
            raise InvalidOperation(f"{self}: `{field}` is missing: {self.fields!r:.200}")
        return value


def _split(pointer: str) -> tuple[bytes, ...]:
    """Return the segments of a JSON Pointer. Raises TypeError for a lone surrogate."""
    names = pointer[1:].split("/")
    return _encode_names([name.replace("~1", "/").replace("~0", "~") for name in names] if "~" in pointer else names)


_split_remembered = lru_cache(1024)(_split)


def _encode_names(names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple([codec.encode_name(values.plain_text(name)) for name in names])

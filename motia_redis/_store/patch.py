"""Check update operations and translate them to arguments of the mutation script.

There are two dialects: JSON Patch (`op`, `path` = JSON Pointer; RFC 6902 plus `set`, `increment`, `decrement`, `append`,
`merge`)
and Motia's own (`type`, `path` = the name of a field). The script receives split pointers and encoded values, so it does
not parse the operations.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from motia_redis._store import codec, values
from motia_redis.errors import InvalidOperation, InvalidPointer, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._store.limits import Limits

_POINTER_OPS = ("add", "remove", "replace", "move", "copy", "test", "set", "increment", "decrement", "append", "merge")
_FIELD_OPS = ("set", "merge", "increment", "decrement", "append", "remove")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_MISSING = object()
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
        _Operation(operation, f"{subject}: operation {index}", strict=strict, limits=limits).translate(arguments)
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
    """Check and translate one operation."""

    def __init__(self, operation: Any, subject: object, *, strict: bool, limits: Limits) -> None:
        self.subject = subject
        self.strict = strict
        self.limits = limits
        if not isinstance(operation, dict):
            raise InvalidOperation(f"{subject} must be a dict, not {type(operation).__name__}: {operation!r:.80}")
        self.fields: dict[Any, Any] = operation
        if ("op" in operation) == ("type" in operation):
            raise InvalidOperation(f"{subject} needs either `op` (JSON Patch) or `type` (Motia): {operation!r:.200}")
        self.pointer = "op" in operation
        self.name = operation["op"] if self.pointer else operation["type"]
        if isinstance(self.name, str):
            self.name = values.plain_text(self.name)
        known = _POINTER_OPS if self.pointer else _FIELD_OPS
        if self.name not in known:
            raise InvalidOperation(f"{subject}: unknown operation {self.name!r}; known are {', '.join(known)}")
        self.subject = f"{subject} ({self.name})"

    def translate(self, arguments: list[bytes]) -> None:
        """Append the operation's name, path and arguments."""
        path = self.segments("path") if self.pointer else self.field()
        if self.name == "remove" and not path:
            raise InvalidOperation(f"{self.subject}: the whole value cannot be removed by an update: use delete()")
        encode: Callable[[], list[bytes]] = {
            "remove": list,
            "move": lambda: self.source(path),
            "copy": lambda: self.source(path),
            "increment": self.amount,
            "decrement": self.amount,
            "merge": self.members,
        }.get(self.name, self.value)
        name = self.script_name()
        arguments += [name if len(path) == 1 else b"%b %d" % (name, len(path)), *path, *encode()]

    def script_name(self) -> bytes:
        """Return the name that the script uses. It has separate operations for the lenient forms."""
        if self.name == "replace" and not self.strict:
            return b"set"
        if self.name == "remove" and not self.strict:
            return b"discard"
        return b"increment" if self.name == "decrement" else str(self.name).encode()

    def segments(self, field: str) -> list[bytes]:
        """Split a JSON Pointer into member names as canonical JSON spells them."""
        pointer = self.given(field)
        if not isinstance(pointer, str):
            raise InvalidPointer(f"{self.subject}: `{field}` must be a string, not {type(pointer).__name__}")
        pointer = values.plain_text(pointer)
        if not pointer:
            return []
        if pointer[0] != "/":
            raise InvalidPointer(f"{self.subject}: `{field}` must be empty or start with a slash: {pointer!r:.200}")
        if _BAD_ESCAPE.search(pointer):
            raise InvalidPointer(f"{self.subject}: `{field}` holds a `~` that is neither ~0 nor ~1: {pointer!r:.200}")
        names = pointer[1:].split("/")
        return self.encoded([name.replace("~1", "/").replace("~0", "~") for name in names], field)

    def field(self) -> list[bytes]:
        """Return the path of Motia's dialect: a field, a list of fields, or nothing for the whole value."""
        path = self.fields.get("path", "")
        if isinstance(path, str):
            return self.encoded([path], "path") if path else []
        if isinstance(path, list | tuple) and all(isinstance(name, str) for name in path):
            return self.encoded(list(path), "path")
        raise InvalidOperation(f"{self.subject}: `path` must be a field name or a list of them: {path!r:.200}")

    def encoded(self, names: list[str], field: str) -> list[bytes]:
        """Encode path segments within their limits."""
        if len(names) > self.limits.pointer_depth:
            raise InvalidPointer(f"{self.subject}: `{field}` has {len(names)} segments, the limit is {self.limits.pointer_depth}")
        try:
            tokens = [codec.encode_name(values.plain_text(name)) for name in names]
        except TypeError:
            raise InvalidPointer(f"{self.subject}: `{field}` contains a lone surrogate") from None
        if any(len(token) > self.limits.name_bytes for token in tokens):
            raise InvalidPointer(f"{self.subject}: a segment of `{field}` is over {self.limits.name_bytes} bytes")
        return tokens

    def source(self, path: list[bytes]) -> list[bytes]:
        """Return the `from` of a move or copy."""
        source = self.segments("from")
        if self.name == "move" and len(source) < len(path) and path[: len(source)] == source:
            raise InvalidOperation(f"{self.subject}: a value cannot be moved into itself")
        return [b"%d" % len(source), *source]

    def value(self) -> list[bytes]:
        """Return the encoded `value`."""
        return [codec.encode(self.given("value"), subject=self.subject, max_bytes=self.limits.value_bytes)]

    def amount(self) -> list[bytes]:
        """Return the encoded number to add. A decrement adds the negative number."""
        field = "value" if self.pointer or "by" not in self.fields else "by"
        amount = self.given(field)
        text = codec.encode(amount, subject=self.subject, max_bytes=self.limits.value_bytes)
        if not text[-1:].isdigit():  # text ends with a quote, and true with a letter
            raise InvalidValue(f"{self.subject}: `{field}` must be a number, not {type(amount).__name__}: {amount!r:.80}")
        if self.name == "decrement":
            text = text[1:] if text.startswith(b"-") else b"-" + text
        return [text]

    def members(self) -> list[bytes]:
        """Return the members that a merge writes: their number, then each one's name and value."""
        members = self.given("value")
        if not isinstance(members, dict):
            raise InvalidValue(f"{self.subject}: `value` must be a dict, not {type(members).__name__}: {members!r:.80}")
        whole = codec.encode(members, subject=self.subject, max_bytes=self.limits.value_bytes)
        pairs = [
            part
            for name, item in values.plain(members).items()
            for part in (codec.encode_name(name), codec.encode(item, subject=self.subject, max_bytes=len(whole)))
        ]
        return [whole, b"%d" % len(members), *pairs]

    def given(self, field: str) -> Any:
        """Return a required field of the operation."""
        value = self.fields.get(field, _MISSING)
        if value is _MISSING:
            raise InvalidOperation(f"{self.subject}: `{field}` is missing: {self.fields!r:.200}")
        return value

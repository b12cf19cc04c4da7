"""The values that are read and written: JSON objects with ten members, among them the counter `n`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = dict[str, Any]

BYTES = 1000


def build(index: int, size: int = BYTES) -> Value:
    """Return a value of about `size` bytes of JSON (at least 190) that differs from those of other indices."""
    value: Value = {
        "id": index,
        "n": 0,
        "name": f"Ann {index}",
        "mail": f"ann{index}@example.org",
        "active": index % 2 == 0,
        "balance": 12.25 + index,
        "tags": ["new", "paid"],
        "address": {"city": "Köln", "zip": "50667"},
        "seen": None,
        "notes": "",
    }
    value["notes"] = ("lorem ipsum dolor sit amet " * (size // 27 + 1))[: max(0, size - len(orjson.dumps(value)))]
    return value


def key(index: int) -> str:
    """Return the key of a value."""
    return f"user:{index}"


def digest(found: Iterable[Value]) -> str:
    """Return a hash of some values that does not depend on their order."""
    texts = sorted(orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in found)
    return hashlib.sha256(b"\n".join(texts)).hexdigest()

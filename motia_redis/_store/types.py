"""The types of what `StateManager` is given: update operations of both dialects, and levels of durability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic and others resolve these at run time
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

#: How safe a change is before its call returns: as Redis is configured, on replicas, or on the primary's disk.
Durability: TypeAlias = Literal["memory", "replicated", "fsynced"]

# -- JSON Patch (RFC 6902 and more): `op`, and `path` as a JSON Pointer -----------------------------------------------------


class PatchValue(TypedDict):
    """Add, replace, set or append a value, or test that the value there is equal."""

    op: Literal["add", "replace", "set", "append", "test"]
    path: str
    value: Any


class PatchRemove(TypedDict):
    """Remove a member or an array item."""

    op: Literal["remove"]
    path: str


PatchMove = TypedDict("PatchMove", {"op": Literal["move", "copy"], "path": str, "from": str})
PatchMove.__doc__ = "Move or copy the value at `from` to `path`."


class PatchNumber(TypedDict):
    """Increment or decrement a number."""

    op: Literal["increment", "decrement"]
    path: str
    value: float


class PatchMerge(TypedDict):
    """Merge members into an object."""

    op: Literal["merge"]
    path: str
    value: Mapping[str, Any]


# -- Motia's dialect: `type`, and `path` as a field, a list of nested fields, or nothing for the whole value ----------------


class FieldValue(TypedDict):
    """Set a field or append to it."""

    type: Literal["set", "append"]
    path: NotRequired[str | Sequence[str]]
    value: Any


class FieldRemove(TypedDict):
    """Remove a field."""

    type: Literal["remove"]
    path: str | Sequence[str]


class FieldNumber(TypedDict):
    """Increment or decrement a field by `by`."""

    type: Literal["increment", "decrement"]
    path: NotRequired[str | Sequence[str]]
    by: float


class FieldNumberValue(TypedDict):
    """Increment or decrement a field by `value`."""

    type: Literal["increment", "decrement"]
    path: NotRequired[str | Sequence[str]]
    value: float


class FieldMerge(TypedDict):
    """Merge members into a field or the whole value."""

    type: Literal["merge"]
    path: NotRequired[str | Sequence[str]]
    value: Mapping[str, Any]


#: An operation of JSON Patch, with our additions.
PatchOperation: TypeAlias = PatchValue | PatchRemove | PatchMove | PatchNumber | PatchMerge
#: An operation of Motia's dialect.
FieldOperation: TypeAlias = FieldValue | FieldRemove | FieldNumber | FieldNumberValue | FieldMerge
#: One operation of `StateManager.update`.
Operation: TypeAlias = PatchOperation | FieldOperation

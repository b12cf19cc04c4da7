"""The errors that our scripts report, by their codes, as the errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from motia_redis import errors

if TYPE_CHECKING:
    from motia_redis.errors import StateError

#: The errors that the script reports, by their code there.
BY_CODE: dict[str, type[StateError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.StateError) and error.code is not None
}

_UNKNOWN = {
    "trimmed": "the events of that time are trimmed",
    "late": "a later attempt was faster",
}
_REASONS = {
    ("PATHMISSING", "parent"): "the parent of the path is not there, or is no object or array",
    ("PATHMISSING", "target"): "there is nothing at the path",
    ("PATHMISSING", "from"): "there is nothing at `from`",
    ("BADINDEX", "form"): "an array index must be digits without leading zeros, or `-` to add at the end",
    ("BADINDEX", "end"): "`-` names the place behind the last element; only `add` can use it",
    ("BADINDEX", "range"): "the array has no element of that index",
    ("WRONGKIND", "number"): "the value at the path is not a number",
    ("WRONGKIND", "object"): "the value at the path is not an object",
    ("WRONGKIND", "text"): "only text can be appended to text",
    ("WRONGKIND", "array or text"): "the value at the path is neither an array nor text",
    ("TESTFAILED", "other value"): "the value at the path is another one",
    ("OVERFLOW", "integer"): "the sum does not fit into 64 bits",
    ("OVERFLOW", "float"): "the sum is over the largest float",
    ("OVERFLOW", "digits"): "the number has more than 400 characters",
    ("TOODEEP", "result"): "the result would be nested deeper than 1,000 levels",
    ("TOOMUCH", "bytes moved"): "all operations together move more than 64 MiB; split the update, or the value",
    ("TOOMUCH", "items scanned"): "the parser must scan too many items to find the path; split the update, or the value",
}


def is_script_error(error: Exception) -> bool:
    """Tell whether an error is one that the scripts report, for `to_error`."""
    return isinstance(error, ResponseError) and str(error).partition(" ")[0] in BY_CODE


def to_error(subject: object, error: ResponseError, operations: object = None) -> StateError | None:
    """Return the error that an error reply of the script stands for, or None when it is not one of the script's.

    `operations` are the caller's update operations; the message shows the one that failed.
    """
    code, _, detail = str(error).partition(" ")
    kind = BY_CODE.get(code)
    if kind is None:
        return None
    if kind is errors.RevisionConflict:
        actual = None if detail == "none" else detail
        found = "the key holds no value" if actual is None else f"its revision is {actual}"
        # The caller knows what it expected and puts it in.
        return errors.RevisionConflict(f"{subject}: if_revision does not hold: {found}", expected=None, actual=actual)
    if kind is errors.OutcomeUnknown:
        message = f"{subject}: the change was sent again, but {_UNKNOWN.get(detail, detail)}; it may have been applied"
        return errors.OutcomeUnknown(message, maybe_applied=True)
    return kind(f"{subject}: {_describe(kind, code, detail, operations)}")


def _describe(kind: type[StateError], code: str, detail: str, operations: object) -> str:
    """Return what an error of the script says to the caller."""
    index, _, reason = detail.partition(" ")
    if kind is errors.ValueTooLarge:
        return f"the result would be {detail} bytes of JSON, over the limit"
    if kind is errors.KeyMissing:
        return "a strict update needs a value to work on, and the key holds none: set() it first"
    if kind is errors.IdempotencyKeyReused:
        return "this idempotency_key came with another call before: give each call a key of its own"
    if kind is errors.CorruptValue:
        return f"the stored text cannot be updated ({reason}); another client wrote it: set() or delete() the key"
    operation = operations[int(index)] if isinstance(operations, list | tuple) else None
    return f"operation {index}: {_REASONS.get((code, reason), reason)}: {operation!r:.200}"

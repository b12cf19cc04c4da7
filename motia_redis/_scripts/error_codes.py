"""Turn the error replies of the scripts into the errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from motia_redis import errors
from motia_redis._transport.failures import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis.errors import StateError

#: The errors that the scripts report, by their code.
BY_CODE: dict[str, type[StateError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.StateError) and error.code is not None
}

_UNKNOWN = {
    "trimmed": "the events of that time were trimmed",
    "late": "a later attempt has taken its place",
}
_REASONS = {
    ("PATHMISSING", "parent"): "the parent of the path does not exist, or is not an object or array; create the parent first",
    ("PATHMISSING", "target"): "the path does not exist; a strict update needs an existing one",
    ("PATHMISSING", "from"): "the path in `from` does not exist",
    ("BADINDEX", "form"): "an array index must be digits without leading zeros, or `-` to add at the end",
    ("BADINDEX", "end"): "`-` is the position after the last element; only `add` can use it",
    ("BADINDEX", "range"): "the array has no element of that index",
    ("WRONGKIND", "number"): "the value at the path is not a number; set a number first",
    ("WRONGKIND", "object"): "the value at the path is not an object; set an object first",
    ("WRONGKIND", "text"): "the value at the path is text, and only text can be appended to text",
    ("WRONGKIND", "array or text"): "the value at the path is neither an array nor text; set one of them first",
    ("TESTFAILED", "other value"): "the value at the path is different; read the value again",
    ("OVERFLOW", "integer"): "the sum does not fit into 64 bits",
    ("OVERFLOW", "float"): "the sum is larger than the largest float",
    ("OVERFLOW", "digits"): "the number has more than 400 characters",
    ("TOODEEP", "result"): "the result would be nested deeper than 1,000 levels",
    ("TOOMUCH", "work"): "all operations together would block Redis for too long; split the update or the value",
    ("TOOMUCH", "non-canonical"): (
        "the operations would block Redis for too long: another client wrote the text, which makes them slower; set() the value "
        "or split the update"
    ),
}


def is_script_error(error: Exception) -> bool:
    """Return whether `error` is an error reply of a script, for `to_error`."""
    return isinstance(error, ErrorReply) and error.code in BY_CODE


def to_error(subject: object, error: ErrorReply, operations: object = None) -> StateError | None:
    """Return the error for an error reply of a script, or None when the reply has none of the scripts' codes.

    `operations` are the update operations of the caller; the message shows the one that failed.
    """
    code, _, detail = str(error).partition(" ")
    kind = BY_CODE.get(code)
    if kind is None:
        return None
    if kind is errors.RevisionConflict:
        actual = None if detail == "none" else detail
        found = "the key holds no value" if actual is None else f"its revision is {actual}"
        # The caller knows what it expected, and sets that.
        return errors.RevisionConflict(f"{subject}: the expected revision does not match: {found}", expected=None, actual=actual)
    if kind is errors.OutcomeUnknown:
        reason = _UNKNOWN.get(detail, detail)
        message = f"{subject}: the repeated change may have been applied: {reason}; read the state before a retry"
        return errors.OutcomeUnknown(message, maybe_applied=True)
    if kind is errors.TransactionTooLarge:
        return kind(f"{subject}: {detail} bytes of old and new values, or more, over the limit `transaction_bytes`: split it")
    if kind is errors.TransactionFailed:
        return _to_transaction_error(detail, cast("Sequence[Any]", operations))
    return kind(f"{subject}: {_describe(kind, code, detail, operations)}")


def _to_transaction_error(detail: str, items: Sequence[Any]) -> StateError:
    """Return the error for an item of a transaction. Its cause is the error of a call that makes only this change."""
    number, _, reply = detail.partition(" ")
    item = items[int(number)]
    cause = to_error(item.subject, ErrorReply(reply), item.operations)
    failed = errors.TransactionFailed(
        f"transaction: {item.method} (number {number}): {cause}; nothing was changed",
        scope=item.scope,
        key=item.key,
        operation=item.method,
        index=int(number),
    )
    if isinstance(cause, errors.RevisionConflict):
        expected = item.parameters[0].decode()
        cause.expected = None if expected == "none" else expected
    failed.__cause__ = cause
    return failed


def _describe(kind: type[StateError], code: str, detail: str, operations: object) -> str:
    """Return the message for an error reply: what was rejected, why, and what to do."""
    index, _, reason = detail.partition(" ")
    if kind is errors.ValueTooLarge:
        return f"the result of the update would be {detail} bytes of JSON, over the limit `value_bytes`; split the value"
    if kind is errors.TooManyDelayed:
        return f"{detail} delayed messages wait in the partition already, the limit is `Retention.most_entries`; cancel some"
    if kind is errors.KeyMissing:
        return "a strict update needs a value, and the key holds none: set() one first"
    if kind is errors.IdempotencyKeyReused:
        return "the idempotency_key was used for a different call: give each call its own key"
    if kind is errors.CorruptValue:
        return f"the stored text cannot be updated ({reason}); another client wrote the text: set() or delete() the key"
    operation = operations[int(index)] if isinstance(operations, list | tuple) else None
    return f"operation {index}: {_REASONS.get((code, reason), reason)}: {operation!r:.200}"

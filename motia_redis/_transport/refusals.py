"""Redis's error replies, those of the mutation script among them, with words a person can act on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from redis.exceptions import AskError, AuthenticationError, InvalidResponse, RedisError, ResponseError

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
    ("TOOMUCH", "items walked"): "too many items stand before the one in question; split the update, or the value",
}

#: What a script's error carries besides its text, as Redis 6.2 (in front) and 7 (behind) write it.
_NOISE = re.compile(
    r"^(?:ERR )?Error running script \([^)]*\): |@?user_script: ?\d+: ?"
    r"| script: [0-9a-f]{40}, on @?user_script:\d+\.?"
)
#: By the first word of Redis's own error replies.
_REFUSALS = {
    "NOAUTH": "needs a password: put it into the URL, redis://user:password@host",
    "WRONGPASS": "does not accept the user or the password of the URL",
    "NOPASS": "has no password, and the URL gives one: leave it out",
    "OOM": "is full (maxmemory): nothing was changed; delete or raise maxmemory, and let maxmemory-policy be noeviction",
    "READONLY": "is a read-only replica: give the URL of the primary to change anything",
    "LOADING": "is loading its data: try again in a moment",
    "NOPERM": "does not let this user do that: its ACL needs the namespace's keys and the commands",
    "WRONGTYPE": "holds another type under one of our keys: another client wrote it; delete or rename that key",
    "MISCONF": "takes no changes, because it cannot save to disk",
    "MASTERDOWN": "is a replica that has lost its primary",
    "BUSY": "is busy with a script: try again in a moment",
    "MOVED": "is a node of a Cluster: use redis+cluster://",
    "ASK": "is a node of a Cluster: use redis+cluster://",
    "CROSSSLOT": "is a node of a Cluster: use redis+cluster://",
    "CLUSTERDOWN": "is a node of a Cluster that is not complete: try again in a moment",
    "NOCLUSTER": "is no node of a Cluster: use redis://",
    "NOSENTINEL": "is no sentinel: give the sentinels' addresses, or use redis://",
    "TRYAGAIN": "is moving these keys to another node: try again in a moment",
    "NOREPLICAS": "takes no changes while it has too few replicas (min-replicas-to-write)",
}
#: For replies whose first word says nothing, or that redis-py has taken it from: a part of the text.
_BY_TEXT = {
    "without any password configured": "NOPASS",
    "no password is set": "NOPASS",
    "invalid username-password": "WRONGPASS",
    "invalid password": "WRONGPASS",
    "Authentication required": "NOAUTH",
    "HELLO must be called with the client already authenticated": "NOAUTH",
    "used memory > 'maxmemory'": "OOM",
    "against a read only replica": "READONLY",
    "against a key holding the wrong kind": "WRONGTYPE",
    "loading the dataset": "LOADING",
    "cluster support disabled": "NOCLUSTER",
    "unknown command 'SENTINEL'": "NOSENTINEL",
    "unknown command `SENTINEL`": "NOSENTINEL",
    "no permissions to": "NOPERM",
    "The user executing the script can't": "NOPERM",
}


#: Refusals that pass; READONLY and MASTERDOWN where a fail-over may have moved the primary.
_PASSING = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"})
_FAILING_OVER = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})


def essence(error: Exception) -> str:
    """Return the text of an error without what only tells where in a script it came up."""
    return _NOISE.sub("", str(error)).lstrip("-").strip() or type(error).__name__


def refusal(error: Exception) -> str | None:
    """Return what Redis says with an error reply, as the end of a sentence; None for an error of another kind.

    An error reply means that nothing was changed by the call.
    """
    if isinstance(error, InvalidResponse):
        return f"is not a Redis: it answered in another protocol ({essence(error)})"
    code = _code(error)
    return f"{_REFUSALS[code]} ({essence(error)})" if code in _REFUSALS else None


def is_ours(error: Exception) -> bool:
    """Tell whether an error is one that the scripts report, for `to_error`."""
    return isinstance(error, ResponseError) and str(error).partition(" ")[0] in BY_CODE


def is_passing(error: Exception, *, fails_over: bool) -> bool:
    """Tell whether an error reply refuses a call for a moment only; `fails_over`: another server may become the primary."""
    code = _code(error)
    return code in _PASSING or (fails_over and (code in _FAILING_OVER or isinstance(error, AskError)))


def _code(error: Exception) -> str | None:
    """Return the code of an error reply, also one that redis-py has taken out of it; None for an error of another kind."""
    if not isinstance(error, RedisError):
        return None
    text = essence(error)
    code = next((code for part, code in _BY_TEXT.items() if part in text), None)
    code = code or getattr(error, "status_code", None) or text.partition(" ")[0]
    return "WRONGPASS" if code not in _REFUSALS and isinstance(error, AuthenticationError) else code


def to_error(where: object, error: ResponseError, operations: object = None) -> StateError | None:
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
        return errors.RevisionConflict(f"{where}: if_revision does not hold: {found}", expected=None, actual=actual)
    if kind is errors.OutcomeUnknown:
        message = f"{where}: the change was sent again, but {_UNKNOWN.get(detail, detail)}; it may have been applied"
        return errors.OutcomeUnknown(message, maybe_applied=True)
    return kind(f"{where}: {_said(kind, code, detail, operations)}")


def _said(kind: type[StateError], code: str, detail: str, operations: object) -> str:
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

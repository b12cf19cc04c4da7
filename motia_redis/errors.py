"""The one tree of errors that motia-redis raises.

Every message names the scope and key (and the operation, for an update) and says what to do. Errors that the mutation
script reports carry the same code there (`code` below); a test holds the two lists equal::

    StateError
    ├── InvalidName          a scope, key or message id that is not text, empty, too long or malformed
    ├── InvalidValue         a value that JSON cannot hold
    ├── InvalidTime          a delay or a time that cannot be, or is too far away
    ├── ValueTooLarge        a value, or an update's result, over the size limit      TOOLARGE
    ├── InvalidOperation     an unknown or malformed update operation
    │   └── InvalidPointer   a path that is not a JSON Pointer
    ├── UpdateFailed         an update that does not fit the stored value
    │   ├── KeyMissing       strict update of a key that holds no value               KEYMISSING
    │   ├── PathMissing      the path, or its parent, is not there                    PATHMISSING
    │   ├── BadIndex         not an index of that array                               BADINDEX
    │   ├── WrongKind        the value there is of another kind                       WRONGKIND
    │   ├── TestFailed       a `test` operation found another value                   TESTFAILED
    │   ├── NumberOverflow   the sum does not fit its kind of number                  OVERFLOW
    │   ├── TooDeep          the result could not be read back                        TOODEEP
    │   └── TooMuchWork      the operations cost more than one call may               TOOMUCH
    ├── CorruptValue         the stored text is not JSON (another client wrote it)  CORRUPT
    ├── SchemaMismatch       a value, or a field, is not of the type of its typed scope
    ├── RevisionConflict     `if_revision` does not hold                              CONFLICT
    ├── TransactionFailed    a check or change of a transaction fails                 TRANSACTION
    ├── TransactionTooLarge  too many changes, or too many bytes, for one transaction OVERSIZE
    ├── TransactionMisused   a transaction is nested, or used outside of its block
    ├── DifferentTags        a transaction over scopes or topics of several tags
    ├── TooManyDelayed       too many messages wait for their time                    CROWDED
    ├── TooManyKeys          more keys than `get_many` reads in one moment
    ├── LayoutMismatch       this namespace has another layout, or is an unfinished copy
    ├── SettingsMismatch     this process is given other settings than the namespace has
    ├── StateUnavailable     Redis cannot be reached or refused the call
    │   └── OutcomeUnknown   whether a repeated change was applied cannot be told         UNKNOWN
    ├── NotDurable           the change stands, but not as safely as was asked for
    ├── IdempotencyKeyReused the key stands for another call                              REUSED
    ├── HistoryGone          events that a watch needs were trimmed, or are of another layout
    ├── HistoryForked        the server has lost events that a watch has shown
    ├── InvalidCursor        a text that is no cursor of a watch
    ├── WatchOverflow        a watch that is read too slowly
    ├── MirrorTooLarge       a mirror whose values have more bytes than it may hold
    ├── Stale                a mirror that is older than it may be
    ├── WatchMisused         a watch that is used twice, or outside of its block
    ├── EventLoopRunning     a call of `motia_redis.sync` in a thread whose event loop runs
    ├── DeadLetterMissing    no such dead letter, or one without its event
    ├── StepMissing          no step of that name is known to Redis
    ├── StepInUse            a live worker runs the step
    └── StepError            a step or an application that cannot be loaded
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadIndex",
    "CorruptValue",
    "DeadLetterMissing",
    "DifferentTags",
    "EventLoopRunning",
    "HistoryForked",
    "HistoryGone",
    "IdempotencyKeyReused",
    "InvalidCursor",
    "InvalidName",
    "InvalidOperation",
    "InvalidPointer",
    "InvalidTime",
    "InvalidValue",
    "KeyMissing",
    "LayoutMismatch",
    "MirrorTooLarge",
    "NotDurable",
    "NumberOverflow",
    "OutcomeUnknown",
    "PathMissing",
    "RevisionConflict",
    "SchemaMismatch",
    "SettingsMismatch",
    "Stale",
    "StateError",
    "StateUnavailable",
    "StepError",
    "StepInUse",
    "StepMissing",
    "TestFailed",
    "TooDeep",
    "TooManyDelayed",
    "TooManyKeys",
    "TooMuchWork",
    "TransactionFailed",
    "TransactionMisused",
    "TransactionTooLarge",
    "UpdateFailed",
    "ValueTooLarge",
    "WatchMisused",
    "WatchOverflow",
    "WrongKind",
]


class StateError(Exception):
    """Report an error; the root of every error that motia-redis raises."""

    code: ClassVar[str | None] = None


class InvalidName(StateError):
    """Report a scope, key, topic or message id that is no string, or is empty, too long or malformed; nothing was sent."""


class InvalidValue(StateError):
    """Report a value that JSON cannot hold exactly; nothing was sent."""


class InvalidTime(StateError):
    """Report a delay or a time that is not valid: of another type, naive, negative, or too far away; nothing was sent."""


class ValueTooLarge(StateError):
    """Report a value, or the result of an update, over the size limit; nothing was changed."""

    code: ClassVar[str | None] = "TOOLARGE"


class InvalidOperation(StateError):
    """Report an unknown or malformed update operation; nothing was sent."""


class InvalidPointer(InvalidOperation):
    """Report a path that is not a JSON Pointer; nothing was sent."""


class UpdateFailed(StateError):
    """Report an operation of an update that does not fit the stored value; nothing was changed."""


class KeyMissing(UpdateFailed):
    """Report a strict update of a key that holds no value."""

    code: ClassVar[str | None] = "KEYMISSING"


class PathMissing(UpdateFailed):
    """Report an operation on a place that is not in the value, or whose parent is not."""

    code: ClassVar[str | None] = "PATHMISSING"


class BadIndex(UpdateFailed):
    """Report a path segment that is no index of the array it points into."""

    code: ClassVar[str | None] = "BADINDEX"


class WrongKind(UpdateFailed):
    """Report an operation on a value of a kind that it does not work on, such as an increment of text."""

    code: ClassVar[str | None] = "WRONGKIND"


class TestFailed(UpdateFailed):
    """Report a `test` operation that found another value."""

    __test__ = False  # the name is RFC 6902's; pytest must not collect it
    code: ClassVar[str | None] = "TESTFAILED"


class NumberOverflow(UpdateFailed):
    """Report a sum that does not fit: an integer over 64 bits or a float over the largest."""

    code: ClassVar[str | None] = "OVERFLOW"


class TooDeep(UpdateFailed):
    """Report a copy or move that would nest values deeper than JSON readers follow."""

    code: ClassVar[str | None] = "TOODEEP"


class TooMuchWork(UpdateFailed):
    """Report operations that together would block Redis for too long; split the update or the value."""

    code: ClassVar[str | None] = "TOOMUCH"


class CorruptValue(StateError):
    """Report stored text that this library cannot read as JSON; another client wrote it."""

    code: ClassVar[str | None] = "CORRUPT"


class SchemaMismatch(StateError):
    """Report a value that is not of the type of its typed scope: a stored one, or one to be stored; then nothing was sent.

    `scope` and `key` say where, and `field` which part: a JSON Pointer such as `/address/zip`, or an empty text for the whole
    value. The message names up to three places.
    """

    def __init__(self, message: str, *, scope: str, key: str, field: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.key = key
        self.field = field


class RevisionConflict(StateError):
    """Report that the key does not have the revision `if_revision`; nothing was changed.

    `expected` and `actual` are revisions, or None for a key that must not exist, or does not.
    """

    code: ClassVar[str | None] = "CONFLICT"

    def __init__(self, message: str, *, expected: str | None, actual: str | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class TransactionFailed(StateError):
    """Report a check or change of a transaction that cannot be made; nothing was changed.

    `scope` (of a message: the topic) and `key` say where, `operation` is the method of the transaction, `index` its place among
    the calls, from 0. `__cause__` is the error that a call of its own would raise: RevisionConflict for a check.
    """

    code: ClassVar[str | None] = "TRANSACTION"

    def __init__(self, message: str, *, scope: str, key: str | None, operation: str, index: int) -> None:
        super().__init__(message)
        self.scope = scope
        self.key = key
        self.operation = operation
        self.index = index


class TransactionTooLarge(StateError):
    """Report more changes, or more bytes of old and new values, than one transaction may have; nothing was changed."""

    code: ClassVar[str | None] = "OVERSIZE"


class TransactionMisused(StateError):
    """Report a transaction that is inside of another one's block, used outside of its own, or used twice; nothing was sent."""


class DifferentTags(StateError):
    """Report a transaction over scopes or topics of different tags; nothing was sent."""


class TooManyDelayed(StateError):
    """Report a delayed message for which there is no room: too many wait for their time; nothing was sent."""

    code: ClassVar[str | None] = "CROWDED"


class TooManyKeys(StateError):
    """Report a read of more keys than one command may read; nothing was sent."""


class LayoutMismatch(StateError):
    """Report that the namespace has another layout (partitions, lanes) or version, or is a copy that is not finished."""


class SettingsMismatch(StateError):
    """Report that a process is given settings (retention, deadline) that differ from those that the namespace has stored."""


class StateUnavailable(StateError):
    """Report that Redis cannot be reached or rejected the call.

    `maybe_applied` tells of a change whether it may have been applied, or may be still: True, or False when it certainly was not.
    """

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class OutcomeUnknown(StateUnavailable):
    """Report a change that was sent again when the events that tell whether it had been applied are trimmed, or too many."""

    code: ClassVar[str | None] = "UNKNOWN"


class NotDurable(StateError):
    """Report a change that stands on the primary, with its event, but is not as safe in time as `durability` asks for."""


class IdempotencyKeyReused(StateError):
    """Report an idempotency key that was used by a call with other arguments; nothing was changed."""

    code: ClassVar[str | None] = "REUSED"


class HistoryGone(StateError):
    """Report that events which a watch needs were trimmed, or that its cursor is of another layout or namespace."""


class HistoryForked(StateError):
    """Report that the server has lost events that a watch has shown: in a fail-over, or by a restart without all of its data."""


class InvalidCursor(StateError):
    """Report a `start` of a watch that is no cursor; nothing was sent."""


class WatchOverflow(StateError):
    """Report that a watch was read more slowly than changes came: it ends after the items that waited."""


class MirrorTooLarge(StateError):
    """Report that the values of a mirror have more bytes than `max_bytes`: the mirror has ended."""


class Stale(StateError):
    """Report that a mirror was not known to be current for `max_age` seconds."""


class WatchMisused(StateError):
    """Report a watch that is used twice, read outside of its block, or given a cursor or arguments that do not fit."""


class EventLoopRunning(StateError):
    """Report a call of `motia_redis.sync` in a thread whose event loop runs, which the call would stop; nothing was sent."""


class DeadLetterMissing(StateError):
    """Report that there is no such dead letter, or that its event was trimmed before it was handled; nothing was changed."""


class StepMissing(StateError):
    """Report that no step of that name has a consumer group where one is needed; nothing was changed."""


class StepInUse(StateError):
    """Report that a live worker runs the step; nothing was changed."""


class StepError(StateError):
    """Report a step, or an application of steps, that cannot be loaded."""

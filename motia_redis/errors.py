"""The one tree of errors that motia-redis raises.

Every message names the scope and key (and the operation, for an update) and says what to do. Errors that the mutation
script reports carry the same code there (`code` below); a test holds the two lists equal.

    StateError
    ├── InvalidName          a scope or key that is not text, empty or too long
    ├── InvalidValue         a value that JSON cannot hold
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
    ├── RevisionConflict     `if_revision` does not hold                              CONFLICT
    ├── LayoutMismatch       this namespace was created with another layout
    ├── StateUnavailable     Redis cannot be reached or refused the call
    │   └── OutcomeUnknown   whether a repeated change was applied cannot be told         UNKNOWN
    ├── NotDurable           the change stands, but not as safely as was asked for
    ├── IdempotencyKeyReused the key stands for another call                              REUSED
    ├── DeadLetterMissing    no such dead letter, or one without its event
    ├── StepMissing          no step of that name is known to Redis
    ├── StepInUse            a live worker runs the step
    └── StepError            a step or an application that cannot be loaded
"""

from __future__ import annotations

from typing import ClassVar


class StateError(Exception):
    """The root of every error that motia-redis raises."""

    code: ClassVar[str | None] = None


class InvalidName(StateError):
    """A scope or key that is not a string, is empty or is too long; nothing was sent."""


class InvalidValue(StateError):
    """A value that JSON cannot hold exactly; nothing was sent."""


class ValueTooLarge(StateError):
    """A value, or the result of an update, over the size limit; nothing was changed."""

    code = "TOOLARGE"


class InvalidOperation(StateError):
    """An unknown or malformed update operation; nothing was sent."""


class InvalidPointer(InvalidOperation):
    """A path that is not a JSON Pointer; nothing was sent."""


class UpdateFailed(StateError):
    """An operation of an update that does not fit the stored value; nothing was changed."""


class KeyMissing(UpdateFailed):
    """A strict update of a key that holds no value."""

    code = "KEYMISSING"


class PathMissing(UpdateFailed):
    """The place an operation names, or its parent, is not in the value."""

    code = "PATHMISSING"


class BadIndex(UpdateFailed):
    """A path segment that is no index of the array it points into."""

    code = "BADINDEX"


class WrongKind(UpdateFailed):
    """An operation on a value of a kind it does not work on, such as an increment of text."""

    code = "WRONGKIND"


class TestFailed(UpdateFailed):
    """A `test` operation that found another value."""

    __test__ = False  # the name is RFC 6902's; pytest must not collect it
    code = "TESTFAILED"


class NumberOverflow(UpdateFailed):
    """A sum that does not fit: an integer over 64 bits or a float over the largest."""

    code = "OVERFLOW"


class TooDeep(UpdateFailed):
    """A copy or move that would nest values deeper than JSON readers follow."""

    code = "TOODEEP"


class TooMuchWork(UpdateFailed):
    """Operations that together would hold up Redis for too long; split the update or the value."""

    code = "TOOMUCH"


class CorruptValue(StateError):
    """The stored text is not JSON that this library can read; another client wrote it."""

    code = "CORRUPT"


class RevisionConflict(StateError):
    """`if_revision` does not hold: somebody else changed the key; nothing was changed.

    `expected` and `actual` are revisions, or None for a key that must not exist, or does not.
    """

    code = "CONFLICT"

    def __init__(self, message: str, *, expected: str | None, actual: str | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class LayoutMismatch(StateError):
    """The namespace was created with another layout (partitions, lanes) or by another version."""


class StateUnavailable(StateError):
    """Redis cannot be reached, or refused the call.

    `maybe_applied` tells of a change whether it may have been applied, or may be still: True, or False when it certainly was not.
    """

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class OutcomeUnknown(StateUnavailable):
    """A change was sent again, and the events that would tell whether it had been applied are trimmed, or too many."""

    code = "UNKNOWN"


class NotDurable(StateError):
    """The change stands on the primary, with its event, but did not get as safe in time as `durability` asks for."""


class IdempotencyKeyReused(StateError):
    """The idempotency key stands for a call of other arguments; nothing was changed."""

    code = "REUSED"


class DeadLetterMissing(StateError):
    """There is no such dead letter, or its event was trimmed before it was handled; nothing was changed."""


class StepMissing(StateError):
    """No step of that name has a consumer group where one is needed; nothing was changed."""


class StepInUse(StateError):
    """A live worker runs the step; nothing was changed."""


class StepError(StateError):
    """A step, or an application of steps, that cannot be loaded."""

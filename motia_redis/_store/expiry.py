r"""The time at which a value expires: the `ttl` of a call, and the white space that carries it behind a stored text.

A text that expires ends with 24 bytes of white space and then its mark. Each of the 24 bytes stands for two bits of the Unix time
in milliseconds, the highest ones first. JSON allows white space there, so every client in every language reads the value. A text
that another client wrote has no mark; when it gets a time, it gets `FOREIGN_MARK`, which does not say that the JSON is canonical.
"""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from motia_redis._store.codec import CANONICAL_MARK
from motia_redis._store.times import check_ttl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.keyspace import Subject

FOREIGN_MARK = b"\r\t\r"  #: ends a text that another client wrote, behind its time

_DIGITS = 24  # bytes of white space: two bits each
END_OF_TIME = 4**_DIGITS  #: Unix milliseconds from which on a time cannot be stored
_TO_DIGIT = bytes(b" \t\n\r".find(byte) + 48 if byte in b" \t\n\r" else 120 for byte in range(256))  # others become "x"


class Keep(enum.Enum):
    """The type of `KEEP`, the `ttl` of a change that keeps the time at which the value expires."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return self.value


#: The `ttl` of a change that keeps the time at which the value expires.
KEEP: Final = Keep.KEEP
UNSET: Final[Any] = object()  #: the `ttl` of a call that names none

#: Seconds until a value expires; None: never; KEEP: at the time it has.
Ttl: TypeAlias = float | Keep | None


class ScopeTtls:
    """Translate the `ttl` of calls to what the script takes, with the defaults of the scopes.

    The script takes "" (what the kind of change does by default: `set` never, `update` keep), "never", milliseconds, or
    "keep:<milliseconds for a value that the change creates>", with nothing behind the colon for never.
    """

    def __init__(self, defaults: Mapping[str, float]) -> None:
        self.defaults: dict[str, float] = {
            scope: check_ttl(f"ttl of scope {scope!r:.200}", ttl) for scope, ttl in defaults.items()
        }

    def of_set(self, subject: Subject, scope: str, ttl: object) -> bytes:
        """Return the time to live of a value that is set."""
        if ttl is UNSET:
            return self._default(scope) if self.defaults else b""
        if ttl is KEEP:
            return b"keep:" + self._default(scope)
        return b"" if ttl is None else _milliseconds(check_ttl(subject, ttl))

    def of_update(self, subject: Subject, scope: str, ttl: object) -> bytes:
        """Return the time to live of a value that is updated."""
        if ttl is KEEP or ttl is UNSET:
            default = self._default(scope) if self.defaults else b""
            return b"keep:" + default if default else b""
        return b"never" if ttl is None else _milliseconds(check_ttl(subject, ttl))

    def of_expire(self, subject: Subject, ttl: object) -> bytes:
        """Return the time to live that a value shall have."""
        return b"never" if ttl is None else _milliseconds(check_ttl(subject, ttl))

    def _default(self, scope: str) -> bytes:
        default = self.defaults.get(scope)
        return b"" if default is None else _milliseconds(default)


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % max(1, round(seconds * 1000))


def expires_at(text: bytes) -> float | None:
    """Return the Unix time at which a stored text expires, in seconds, or None if it does not."""
    if text[-4:-3] > b" " or len(text) < _DIGITS + 3 or text[-3:] not in (CANONICAL_MARK, FOREIGN_MARK):
        return None
    try:
        return int(text[-3 - _DIGITS : -3].translate(_TO_DIGIT), 4) / 1000
    except ValueError:
        return None


def split(text: bytes) -> tuple[bytes, bool, int | None]:
    """Return the JSON of a stored text, whether it has the canonical mark, and when it expires, in Unix milliseconds."""
    is_canonical = text.endswith(CANONICAL_MARK)
    if text[-4:-3] > b" " or (at := expires_at(text)) is None:
        return (text[: -len(CANONICAL_MARK)], True, None) if is_canonical else (text, False, None)
    return text[: -_DIGITS - 3], is_canonical, round(at * 1000)


def join(text: bytes, time: int | None, *, is_canonical: bool) -> bytes:
    """Return the stored text of JSON that expires at a Unix time in milliseconds, below `END_OF_TIME`: the inverse of `split`."""
    if time is None:
        return text + CANONICAL_MARK if is_canonical else text
    digits = bytes(b" \t\n\r"[time >> shift & 3] for shift in range(2 * _DIGITS - 2, -2, -2))
    return text + digits + (CANONICAL_MARK if is_canonical else FOREIGN_MARK)


def is_expired(text: bytes) -> bool:
    """Return whether a stored text has expired by the clock of this machine."""
    if text[-4:-3] > b" ":  # canonical JSON never ends with white space; this is the usual case
        return False
    at = expires_at(text)
    return at is not None and at <= time.time()


def live(page: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return a page of stored texts without those that have expired. Without values that expire the page itself is returned."""
    expired = {key for key, text in page.items() if text[-4:-3] <= b" " and is_expired(text)}
    return {key: text for key, text in page.items() if key not in expired} if expired else page

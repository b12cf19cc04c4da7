"""Values before and after a change, masked, as lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._console.pages import moment
from motia_redis._console.trees import Number, differences, to_json
from motia_redis._store import expiry
from motia_redis._store.json_texts import TEXTS, parse
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from motia_redis._console.redacting import Redaction
    from motia_redis._console.trees import Line


@dataclass(frozen=True, slots=True)
class Shown:
    """A value with what must not be shown masked."""

    value: Any
    text: str  #: indented JSON
    is_masked: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change did to a value."""

    lines: list[Line]
    note: str  #: why there are no lines


def show(redaction: Redaction, scope: str, key: str, text: str) -> Shown:
    """Return a value by its JSON text, masked."""
    masked, is_masked = redaction.mask(scope, key, parse(text, Number))
    return Shown(masked, to_json(masked, indent=True), is_masked)


def compare(redaction: Redaction, scope: str, key: str, old: bytes | None, new: bytes | None, *, most: int) -> Difference:
    """Return what differs between two stored texts of a key; not that of texts of more than `most` bytes."""
    if max(len(old or b""), len(new or b"")) > most:
        return Difference([], "The values are too long to be compared here.")
    lines = differences(*(_lines(redaction, scope, key, text) for text in (old, new)))
    return Difference(lines, "The value stayed the same." if old == new else "Only what is masked has changed.")


def _lines(redaction: Redaction, scope: str, key: str, text: bytes | None) -> str:
    """Return a stored text as lines, the time at which it expires as one of them."""
    if text is None:
        return ""
    try:
        shown = show(redaction, scope, key, TEXTS.decode(text, subject=key)).text
    except CorruptValue as error:
        return str(error)
    at = expiry.expires_at(text)
    return shown if at is None else f"{shown}\n(expires at {moment(at)})"

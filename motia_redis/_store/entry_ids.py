"""Compare ids of stream entries."""

from __future__ import annotations


def order(entry_id: str) -> tuple[int, int]:
    """Return an entry id in a form that compares as Redis orders ids."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def is_id(text: str) -> bool:
    """Return whether a text is the id of an entry."""
    milliseconds, dash, sequence = text.partition("-")
    return bool(dash) and all(part.isascii() and part.isdigit() for part in (milliseconds, sequence))


def before(entry_id: str) -> str:
    """Return the id right before another one."""
    milliseconds, sequence = order(entry_id)
    if sequence:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{2**64 - 1}" if milliseconds else "0-0"

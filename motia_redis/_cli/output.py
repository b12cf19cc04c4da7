"""How the commands print: tables, JSON, and text of anybody without what could confuse a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_json(value: Any) -> None:
    """Print JSON that a person can read too."""
    import orjson  # noqa: PLC0415 - see cli.py

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print aligned columns; those named in `right` are numbers."""
    texts = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    for row in (head, *texts):
        cells = (
            cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in zip(head, row, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def plain(value: object, width: int | None = None) -> str:
    """Return text of anybody as one line without control characters."""
    text = printable(" ".join(str(value).split()))
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return text with a ? for each character that is none to look at."""
    return "".join(character if character.isprintable() else "?" for character in text)

"""Print tables and JSON. Replace control characters, so that no value can send commands to the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_json(value: Any) -> None:
    """Print indented JSON."""
    import orjson  # noqa: PLC0415 - slow

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print aligned columns. Align the columns named in `right` to the right.

    At a terminal, and with the package rich, long cells are wrapped inside of their column.
    """
    texts = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty() and _print_wrapped(head, texts, right):
        return
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    for row in (head, *texts):
        cells = (
            cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in zip(head, row, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def _print_wrapped(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> bool:
    """Print a table as wide as the terminal. Return False if the package rich, which is optional, is missing."""
    try:
        from rich.console import Console  # noqa: PLC0415 - optional
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        shown.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console(highlight=False).print(shown)
    return True


def plain(value: object, width: int | None = None) -> str:
    """Return a value as one line without control characters, cut to `width` characters."""
    text = printable(" ".join(str(value).split()))
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as "2 dead letters"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Return text with a ? in place of each character that is not printable."""
    return "".join(character if character.isprintable() else "?" for character in text)

"""Markdown tables, number formats, and generated sections of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Return a table. The first `text_columns` columns are aligned left, the others right."""
    rule = ["---" if column < text_columns else "---:" for column in range(len(head))]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def has(page: Path, marker: str) -> bool:
    """Return whether a page has both markers of a generated section."""
    text = page.read_text()
    return all(mark in text for mark in _marks(marker))


def put(page: Path, marker: str, text: str) -> None:
    """Replace the text between `<!-- marker:begin -->` and `<!-- marker:end -->` in a page that has both."""
    begin, end = _marks(marker)
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}")


def figure(value: float) -> str:
    """Format a number with three significant digits, or with all digits of its whole part."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quartiles(spread: Mapping[str, float]) -> str:
    """Format the quartiles of `Spread.as_dict`."""
    return f"{figure(spread['low'])} to {figure(spread['high'])}"


def with_quartiles(spread: Mapping[str, float]) -> str:
    """Format the median of `Spread.as_dict` and, if they differ from it, the quartiles."""
    middle = figure(spread["median"])
    return middle if spread["low"] == spread["high"] else f"{middle} ({quartiles(spread)})"


def _marks(marker: str) -> tuple[str, str]:
    return f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"

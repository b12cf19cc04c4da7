"""Markdown tables, and putting generated text into its place in a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table; the first `words` columns are words, the others figures and stand to the right."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def put(page: Path, marker: str, text: str) -> bool:
    """Replace what stands between `<!-- marker:begin -->` and `<!-- marker:end -->`; False when the page has no such place."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        return False
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")
    return True


def figure(value: float) -> str:
    """Return a figure with three significant digits, never fewer than its whole part."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

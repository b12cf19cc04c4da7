"""Plots as SVG files, each in a light and a dark variant."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.common.results import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

PLOTS = FOLDER / "plots"
THEMES = {
    "light": {"ink": "#1f2328", "faint": "#d1d9e0", "ground": "#ffffff"},
    "dark": {"ink": "#e6edf3", "faint": "#3d444d", "ground": "#0d1117"},
}
#: A palette for all kinds of colour vision, on light and dark backgrounds (Okabe and Ito, without black), and two more.
COLOURS = ("#009e73", "#d55e00", "#3a8fd0", "#cc79a7", "#b8860b", "#56b4e9", "#8a63b8", "#7f7f7f")


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


@contextmanager
def theme(name: str) -> Iterator[Any]:
    """Configure matplotlib for one variant and yield `pyplot`."""
    import matplotlib as mpl  # noqa: PLC0415  # optional: a benchmark runs without plots

    mpl.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    ink, faint, ground = (THEMES[name][part] for part in ("ink", "faint", "ground"))
    settings = {
        "font.size": 11,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "svg.fonttype": "none",
        "svg.hashsalt": "motia-redis",
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.facecolor": ground,
        "figure.facecolor": ground,
        "savefig.facecolor": ground,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": faint,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(settings):
        yield pyplot


def draw(name: str, paint: Callable[[Any], Figure]) -> list[Path]:
    """Write `plots/<name>-light.svg` and `-dark.svg`; `paint` gets `pyplot` and returns the figure."""
    PLOTS.mkdir(exist_ok=True)
    paths = []
    for variant in THEMES:
        with theme(variant) as pyplot:
            figure = paint(pyplot)
            path = PLOTS / f"{name}-{variant}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
            # matplotlib writes trailing blanks
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            paths.append(path)
    return paths


def picture(name: str, alt: str) -> str:
    """Return HTML that shows the variant for the reader's colour scheme, with the alternative text `alt`."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="plots/{name}-dark.svg">\n'
        f'  <img alt="{alt}" src="plots/{name}-light.svg">\n</picture>\n'
    )

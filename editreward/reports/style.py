"""What all figures share: colours, fonts and settings of matplotlib."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

INK, FAINT, GRID, PAPER, TRACK = "#1d2433", "#667085", "#e4e7ec", "#ffffff", "#eef1f5"
COLOURS = ("#2f6fde", "#0f9d7a", "#c2710c", "#8e44ad", "#c0392b", "#475467")

FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS", "SimHei")
"""Asked in turn for a character that the first one lacks: names may be in any script."""

POSTER: Mapping[str, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
"""Settings of a picture with several charts."""


@contextmanager
def figure_style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Inside of it figures are made and drawn with the fonts that this machine has.

    Args:
        settings: of matplotlib (`rcParams`), beside the fonts.
    """
    import matplotlib
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    rc: dict[Any, Any] = {
        **(settings or {}),
        "font.family": [name for name in FONTS if name in installed] or ["sans-serif"],
    }
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # tables beside the figures have every name
        yield


def title_of(dimension: str) -> str:
    """A column's name as a heading: "visual_quality" is "Visual quality"."""
    return dimension.replace("_", " ").capitalize()

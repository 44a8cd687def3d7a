"""What all figures share: colours, fonts and settings of matplotlib."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours of a page and its plots.

    Attributes:
        paper, ink, faint, grid, track: background, text, lesser text, lines, what bars run in.
        card, mark: background and frame of what is set apart.
        good, bad: of what is as it should be, and what is not.
        neutral: of bars that belong to no series.
        series: of scorers, of dimensions, or of what else is told apart, in turn.
        ramp: name of the colour map for shares.
    """

    paper: str
    ink: str
    faint: str
    grid: str
    track: str
    card: str
    mark: str
    good: str
    bad: str
    neutral: str
    series: tuple[str, ...]
    ramp: str


LIGHT = Palette(
    paper="#ffffff", ink="#1d2433", faint="#5b6579", grid="#e4e7ec", track="#eef1f5", card="#f7f8fa", mark="#2159c4",
    good="#0f9d7a", bad="#c0392b", neutral="#7f8ca3",
    series=("#2f6fde", "#0f9d7a", "#c2710c", "#8e44ad", "#c0392b", "#475467"), ramp="Blues",
)  # fmt: skip
DARK = Palette(
    paper="#141821", ink="#e6e9ef", faint="#a3adbf", grid="#30384a", track="#1f2633", card="#1c2230", mark="#8ab2fa",
    good="#4cc9a4", bad="#f08a7d", neutral="#8d99ae",
    series=("#7aa7f7", "#4cc9a4", "#eda552", "#c58be0", "#f08a7d", "#a3adbf"), ramp="Blues_r",
)  # fmt: skip

FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS", "SimHei")
"""Asked in turn for a character that the first one lacks: names may be in any script."""

POSTER: Mapping[str, object] = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "ytick.color": LIGHT.ink,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.fontsize": 8.5,
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "figure.constrained_layout.use": False,
}
"""Settings of a picture of several charts, beside those of every figure."""


@contextmanager
def figure_style(palette: Palette = LIGHT, settings: Mapping[str, object] | None = None) -> Iterator[None]:
    """Inside of it figures are made and drawn in a palette's colours, with the fonts that this machine has.

    A dollar sign in a name begins no formula.

    Args:
        palette: the colours.
        settings: more of matplotlib's settings (`rcParams`).
    """
    import matplotlib
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    style: dict[str, object] = {
        "font.family": [name for name in FONTS if name in installed] or ["sans-serif"],
        "font.size": 9,
        "text.parse_math": False,
        "text.color": palette.ink,
        "figure.facecolor": palette.paper,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1,
        "figure.constrained_layout.h_pad": 0.06,
        "savefig.facecolor": palette.paper,
        "axes.facecolor": palette.paper,
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.faint,
        "axes.titlesize": 9,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": palette.grid,
        "xtick.color": palette.faint,
        "ytick.color": palette.faint,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(style | dict(settings or {})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # tables beside the figures have every name
        yield


def title_of(dimension: str) -> str:
    """A column's name as a heading: "visual_quality" is "Visual quality"."""
    return dimension.replace("_", " ").capitalize()

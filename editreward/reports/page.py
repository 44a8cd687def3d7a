"""A page of tables, plots and examples, as Markdown, as one HTML file that needs no other, and its plots as a figure.

Everything that comes from data is plain text here. It is escaped where a page is written, and nowhere else.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from editreward.reports.style import DARK, LIGHT, Palette, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html")
DPI = 144


@dataclass(frozen=True)
class Strong:
    """A cell of a table that stands out."""

    text: str


Cell: TypeAlias = str | Strong


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header, rows: one cell for each column.
        caption: stands above.
        names, remarks: how many columns from the left are names, and from the right remarks; the others are numbers.
        is_folded: HTML shows the caption, and the rest on demand.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    names: int = 1
    remarks: int = 0
    is_folded: bool = False

    @property
    def numbers(self) -> range:
        """The columns of numbers."""
        return range(self.names, len(self.header) - self.remarks)

    def least_width(self, column: int) -> float:
        """The least width of a column of text on HTML pages, in rem: long texts get lines of several words."""
        cells = [row[column] for row in self.rows]
        longest = max((len(cell.text if isinstance(cell, Strong) else cell) for cell in cells), default=0)
        return 0.0 if column in self.numbers else min(0.45 * longest, 16.0)

    def markdown(self) -> str:
        """The table as Markdown, its caption above."""
        rule = ["---:" if number in self.numbers else "---" for number in range(len(self.header))]
        header, *rows = [
            [f"**{escaped(cell.text)}**" if isinstance(cell, Strong) else escaped(cell) for cell in row]
            for row in [list(self.header), *self.rows]
        ]
        lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
        return "\n".join([*([escaped(self.caption), ""] if self.caption else []), *lines])


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: its heading.
        alt: what is to be seen, in words and numbers.
        draw: draws it into a figure or a part of one.
        width, height: in inches.
    """

    title: str
    alt: str
    draw: Callable[[Figure, Palette], None]
    width: float = 5.0
    height: float = 3.4

    @property
    def is_wide(self) -> bool:
        """It takes the whole width of a page."""
        return self.width > 6


@dataclass(frozen=True)
class Picture:
    """An image of an example with the lines below it.

    Attributes:
        jpeg: the file; None where the image cannot be shown.
        alt: what it is.
        lines: what is known of it.
        mark: a word that sets it apart.
    """

    jpeg: bytes | None
    alt: str
    lines: Sequence[str]
    mark: str = ""

    @property
    def src(self) -> str:
        return data_uri(self.jpeg or b"", "image/jpeg")


@dataclass(frozen=True)
class Example:
    """One edit group to look at."""

    title: str
    instruction: str
    lines: Sequence[str]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: its heading.
        text: paragraphs below it.
        sections: the rest.
    """

    title: str
    text: Sequence[str]
    sections: Sequence[Section]

    @property
    def plots(self) -> list[Plot]:
        """Of all sections."""
        return [plot for section in self.sections for plot in section.plots]

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write `STEM.md`, `STEM.html` and, where there are plots, `STEM.png`."""
        files = [folder / f"{stem}.md", folder / f"{stem}.html"]
        files[0].write_text(self.markdown(f"{stem}.png" if self.plots else None), encoding="utf-8")
        files[1].write_text(self.html(), encoding="utf-8")
        if self.plots:
            files.append(folder / f"{stem}.png")
            files[2].write_bytes(_figure(self.plots, LIGHT))
        return files

    def markdown(self, figure: str | None = None) -> str:
        """The page as Markdown, with a link to the figure; pictures of examples are in the HTML alone."""
        parts = [f"# {escaped(self.title)}", *map(escaped, self.text)]
        if figure:
            parts.append(f"![{escaped('. '.join(plot.alt for plot in self.plots))}]({figure})")
        for section in self.sections:
            parts += [f"## {escaped(section.title)}", *map(escaped, section.text)]
            parts += [table.markdown() for table in section.tables]
            parts += [_markdown_example(example) for example in section.examples]
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """The page as one HTML file, light or dark as the reader's system is."""
        import jinja2

        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.tests["strong"] = lambda cell: isinstance(cell, Strong)
        environment.filters["drawn"] = _drawn
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=self, light=LIGHT, dark=DARK)


def data_uri(data: bytes, kind: str) -> str:
    """A file as the `src` of an image."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def escaped(text: str) -> str:
    """Text for Markdown, on one line: no character of it is taken for markup or for HTML."""
    return re.sub(r"([\\`*\[\]<>|&#~$])", r"\\\1", " ".join(text.split()))


def _markdown_example(example: Example) -> str:
    lines = [f"### {escaped(example.title)}", "", escaped(example.instruction), ""]
    lines += [f"- {escaped(line)}" for line in example.lines]
    for picture in example.pictures:
        if known := "; ".join(filter(None, [picture.mark, *picture.lines])):
            lines.append(f"- {escaped(f'{picture.alt}: {known}')}")
    return "\n".join(lines)


def _drawn(plot: Plot) -> dict[str, str]:
    """A plot as the `src` of images for light and for dark pages."""
    return {
        name: data_uri(_figure([plot], palette), "image/png") for name, palette in (("light", LIGHT), ("dark", DARK))
    }


def _figure(plots: Sequence[Plot], palette: Palette) -> bytes:
    """Plots as one PNG: wide ones over the whole width, others side by side, two in a row."""
    from matplotlib.figure import Figure

    rows: list[list[Plot]] = []
    for plot in plots:
        has_room = rows and len(rows[-1]) == 1 and not rows[-1][0].is_wide
        if has_room and not plot.is_wide:
            rows[-1].append(plot)
        else:
            rows.append([plot])
    with figure_style(palette):
        heights = [max(plot.height for plot in row) for row in rows]
        figure = Figure(figsize=(max(sum(plot.width for plot in row) for row in rows), sum(heights)))
        for strip, row in zip(
            figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0], rows, strict=True
        ):
            # A plot that stands alone in its row keeps its width.
            widths = [plot.width for plot in row]
            left = figure.get_figwidth() - sum(widths)
            ratios = [*widths, left] if left > 1 else widths
            places = strip.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
            for place, plot in zip(places, row, strict=False):
                place.suptitle(plot.title, x=0.015, ha="left", fontsize=11, fontweight="bold")
                plot.draw(place, palette)
        out = io.BytesIO()
        # Without the library's version, so that equal figures are equal files.
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()

"""Scored groups as a picture: the source, then the candidates in ranked order with their scores."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from editreward.groups import CandidateScore, EditGroup, GroupScores
from editreward.groups.group import ImageInput
from editreward.groups.where import Where
from editreward.reports.style import LIGHT
from editreward.reports.text import percent

# Sizes in pixels, colours, and a bar's colour per dimension.
COLUMN, GAP, MARGIN = 184, 16, 40
INK, FAINT, PAPER, CARD, TRACK = LIGHT.ink, LIGHT.faint, LIGHT.track, LIGHT.paper, LIGHT.grid
BAR_COLOURS = LIGHT.series[:4]
SCALE = (1, 4)
LEGEND = "Bars run from 1 to 4."
LABEL = 24
"""Height of a line above a heat picture."""
HEAT_LEGENDS = {
    "heads": "Red: where this model\nholds the edit to be wrong.",
    "gradients": "Red: what costs score,\nrelative to the worst place\nin this row.",
    "occlusion": "Red: what costs score,\nrelative to the worst place\nin this row.",
}
"""By method of [`Where`]."""
STD_LEGEND = LEGEND + "\nThe line is ± one\nstandard deviation."

# Pillow's own font has no Chinese. The others are tried in turn for characters that it lacks, where Pillow
# finds them on the system: on Linux, macOS and Windows.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "simhei.ttf",
    "DejaVuSans.ttf",
)
NO_FONT = "(in characters that no font of this machine has; Noto Sans CJK has them)"

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class ScoredGroup:
    """One group to draw.

    Attributes:
        title: what the group is, one line.
        group: the group, its images upright.
        names: what each candidate is.
        scores: of the candidates, all of them scored.
        where: of the candidates, what speaks against them; drawn below each by dimension, if it is given.
    """

    title: str
    group: EditGroup
    names: list[str]
    scores: GroupScores
    where: Sequence[Where] = ()

    @property
    def sources(self) -> list[Image.Image]:
        """The images before the edit."""
        return _images(self.group.sources)

    @property
    def edited(self) -> list[Image.Image]:
        """The candidates, in the order given."""
        return _images(self.group.edited)


def _images(images: Sequence[ImageInput]) -> list[Image.Image]:
    """The images, which must be open."""
    found = [image for image in images if isinstance(image, Image.Image)]
    if len(found) < len(images):
        raise TypeError("A group is drawn from open images (`PIL.Image`).")
    return found


def draw_groups(groups: Sequence[ScoredGroup], notes: Sequence[str] = ()) -> Image.Image:
    """Draw groups below each other.

    Args:
        groups: the scored groups.
        notes: lines for the foot of the picture.
    """
    columns = max(len(group.group.sources) + len(group.scores.order) for group in groups)
    width = 2 * MARGIN + columns * (COLUMN + GAP) - GAP
    sections = [draw_group(group, width - 2 * MARGIN) for group in groups]
    foot = 24 * len(notes)
    height = MARGIN + sum(section.height + MARGIN for section in sections) + foot + MARGIN // 2
    picture = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for section in sections:
        picture.paste(section, (MARGIN, y))
        y += section.height + MARGIN
    for note in notes:
        draw_line(ImageDraw.Draw(picture), (MARGIN, y), note, INK, 16, width - 2 * MARGIN)
        y += 24
    return picture


def draw_group(group: ScoredGroup, width: int) -> Image.Image:
    """One group as a row of cards below its title and instruction."""
    order, scored = group.scores.order, group.scores.scored
    sources, edited = group.sources, group.edited
    images = [*sources, *(edited[index] for index in order)]
    image_height = max(round(COLUMN * image.height / image.width) for image in images)
    top, text_height = 72, 38 + 42 * len(scored[order[0]].dimensions) + 52
    heats = tuple(group.where[0].maps) if group.where else ()
    below = top + image_height + len(heats) * (image_height + LABEL)
    section = Image.new("RGB", (width, below + text_height), PAPER)
    drawing = ImageDraw.Draw(section)
    draw_line(drawing, (0, 0), group.title, FAINT, 16, width)
    draw_line(drawing, (0, 26), f"“{group.group.instruction}”", INK, 24, width)
    for column, image in enumerate(images):
        x = column * (COLUMN + GAP)
        drawing.rounded_rectangle((x, top, x + COLUMN, section.height - 1), radius=8, fill=CARD)
        _paste(section, image, (x, top))
        corner = (x + 10, below + 10)
        if column >= len(sources):
            index = order[column - len(sources)]
            for row, name in enumerate(heats):
                y = top + image_height + row * (image_height + LABEL)
                drawing.text((x + 10, y + 5), f"against: {name.replace('_', ' ')}", fill=FAINT, font=font(12))
                _paste(section, group.where[index].picture(name), (x, y + LABEL))
            draw_scores(drawing, corner, f"{group.scores.ranks[index]}.  {group.names[index]}", scored[index])
            if group.scores.probabilities:
                chance = f"P(best) {percent(group.scores.probabilities[index])}"
                drawing.text((corner[0], section.height - 28), chance, fill=FAINT, font=font(14))
            continue
        drawing.text(corner, "source", fill=INK, font=font(16))
        if column == 0 and heats:
            legend = HEAT_LEGENDS.get(group.where[0].method, "")
            drawing.text((x + 10, top + image_height + LABEL + 6), legend, fill=FAINT, font=font(13), spacing=6)
        if column == 0:
            shown = scored[order[0]].dimensions.values()
            calibrated = bool(shown) and all(value.calibrated for value in shown)
            legend = LEGEND if calibrated else "Uncalibrated scores:\nno scale."
            if calibrated and any(value.shown_std is not None for value in shown):
                legend = STD_LEGEND
            drawing.text((corner[0], corner[1] + 28), legend, fill=FAINT, font=font(13), spacing=6)
    return section


def _paste(section: Image.Image, image: Image.Image, corner: tuple[int, int]) -> None:
    size = (COLUMN, round(COLUMN * image.height / image.width))
    section.paste(image.resize(size, Image.Resampling.LANCZOS), corner)


def draw_scores(drawing: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, score: CandidateScore) -> None:
    """Title and scores of one candidate: a bar on the scale with a line of ± std where there is a scale."""
    x, y = corner
    width, bar = COLUMN - 20, COLUMN - 106
    draw_line(drawing, (x, y), title, INK, 16, width)
    y += 28
    for (dimension, value), colour in zip(score.dimensions.items(), cycle(BAR_COLOURS), strict=False):
        drawing.text((x, y), dimension.replace("_", " "), fill=FAINT, font=font(13))
        drawing.text((x + width, y + 17), str(value), fill=INK, font=font(13), anchor="ra")
        if value.calibrated:
            std = value.shown_std or 0.0
            marks = (value.mean - std, value.mean, value.mean + std)
            shares = [(mark - SCALE[0]) / (SCALE[1] - SCALE[0]) for mark in marks]
            left, middle, right = (x + bar * min(max(share, 0), 1) for share in shares)
            drawing.rectangle((x, y + 20, x + bar, y + 28), fill=TRACK)
            drawing.rectangle((x, y + 20, middle, y + 28), fill=colour)
            if value.shown_std is not None:
                drawing.line((left, y + 24, right, y + 24), fill=INK, width=2)
        y += 42
    total = f"reward {score.reward:.2f}" if score.overall is None else f"overall {score.overall}"
    drawing.text((x, y + 4), total, fill=INK, font=font(14))


def draw_line(
    drawing: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, colour: str, size: int, width: int
) -> None:
    """A line of text, cut to a width. Where no font has its characters, it says so instead."""
    text = " ".join(text.split())
    chosen = font_for(text, size)
    if chosen is None:
        text, chosen = NO_FONT, font(size)
    if drawing.textlength(text, font=chosen) > width:
        while text and drawing.textlength(text + "...", font=chosen) > width:
            text = text[:-1]
        text += "..."
    drawing.text(corner, text, fill=colour, font=chosen)


def font(size: int) -> Font:
    """The font that Pillow ships: no Chinese."""
    return ImageFont.load_default(size)


def font_for(text: str, size: int) -> Font | None:
    """The first font that has all characters of a text; `None`: there is none."""
    fonts = (font(size), *(_installed_font(name, size) for name in FONTS))
    return next((found for found in fonts if found is not None and _has_all(found, text)), None)


@functools.cache
def _installed_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_all(chosen: Font, text: str) -> bool:
    """Whether no character is drawn as one that fonts don't have."""
    missing = _drawn(chosen, "\uffff")
    return all(_drawn(chosen, character) != missing for character in set(text) if not character.isspace())


def _drawn(chosen: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = chosen.getmask(character)
    return mask.size, bytes(mask)

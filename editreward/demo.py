"""`editreward demo`: two groups scored, ranked and drawn, one simulated and one of edits of a photograph."""

from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from editreward.scoring import BestEdit, EditRewardScorer
from editreward.scoring.report import ranking_table
from editreward.simulation import simulate_groups

PHOTO_INSTRUCTION = "make the red cup and saucer blue"
PHOTO_CREDIT = "photograph: Rachel Michetti, CC0, from scikit-image"

# The photograph's red crockery (600 x 400 pixels): the outline of the saucer, the ellipse of the cup, and the inside
# of the cup, which is white.
SAUCER = [
    (77, 219), (80, 183), (89, 157), (100, 134), (120, 108), (140, 91), (160, 79), (181, 71), (300, 60), (418, 104),
    (440, 126), (460, 154), (471, 183), (478, 216), (478, 238), (473, 263), (460, 292), (440, 320), (416, 343),
    (389, 362), (360, 376), (330, 385), (301, 389), (279, 390), (250, 387), (210, 376), (181, 365), (159, 353),
    (130, 331), (108, 305), (91, 276), (80, 245),
]  # fmt: skip
CUP = (168, 14, 414, 290)
CUP_INSIDE = (180, 26, 402, 200)

# The picture: sizes in pixels, colours, and a bar's colour per dimension.
COLUMN, GAP, MARGIN = 184, 16, 40
INK, FAINT, PAPER, CARD, TRACK = "#1d2433", "#667085", "#f2f4f7", "#ffffff", "#e4e7ec"
BAR_COLOURS = ("#2f6fde", "#0f9d7a", "#c2710c", "#8e44ad")
SCALE = (1, 4)
LEGEND = "Bars run from 1 to 4.\nThe line is ± one\nstandard deviation."


@dataclass
class DemoGroup:
    """One group of the demo, scored.

    Attributes:
        title: what the group is, one line.
        source: the image before the edit.
        instruction: what the edits were to do.
        names: what each candidate is.
        edited: the candidates.
        best: their scores and ranking.
    """

    title: str
    source: Image.Image
    instruction: str
    names: list[str]
    edited: list[Image.Image]
    best: BestEdit


def run(scorer: EditRewardScorer, output: str | Path, seed: int = 0) -> None:
    """Score the demo's two groups, print both rankings and draw them.

    Args:
        scorer: the model to show.
        output: the picture, any format that Pillow writes; missing folders are made.
        seed: where to start in the held-out test split; the first group with an English instruction is taken.
    """
    groups = [simulated_group(scorer, seed), photo_group(scorer)]
    print(f"Model: {scorer.name}")
    for group in groups:
        print(f"\n{group.title}\nInstruction: {group.instruction}\n")
        print(ranking_table(group.names, group.best))
    print()
    for note in scorer.notes:
        print(f"Note: {note}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(groups, scorer.notes).save(path)
    print(f"Picture: {path}")


def simulated_group(scorer: EditRewardScorer, seed: int) -> DemoGroup:
    """A held-out simulated group, with the true scores in the candidates' names."""
    # The font that Pillow ships has no Chinese glyphs.
    group = next(group for group in simulate_groups(1000, split="test", seed=seed) if group.language == "en")
    edited = [candidate.image for candidate in group.candidates]
    dimensions = [name.replace("_", " ") for name in group.candidates[0].scores]
    return DemoGroup(
        title=f"Simulated scene, held out from training ({group.group_id}); truth: {', '.join(dimensions)}",
        source=group.source,
        instruction=group.instruction,
        names=["truth " + ", ".join(f"{score:g}" for score in c.scores.values()) for c in group.candidates],
        edited=edited,
        best=scorer.best_of(source=group.source, edited=edited, instruction=group.instruction),
    )


def photo_group(scorer: EditRewardScorer) -> DemoGroup:
    """Edits of a photograph of a red coffee cup: as asked, in the wrong colour, blurred, and not edited at all."""
    photo = load_photo()
    as_asked = recolour(photo, hue=150)
    edits = {
        "as asked": as_asked,
        "wrong colour": recolour(photo, hue=80),
        "as asked, blurred": as_asked.filter(ImageFilter.GaussianBlur(7)),
        "untouched": photo,
    }
    return DemoGroup(
        title=f"Edits of a photograph ({PHOTO_CREDIT})",
        source=photo,
        instruction=PHOTO_INSTRUCTION,
        names=list(edits),
        edited=list(edits.values()),
        best=scorer.best_of(source=photo, edited=list(edits.values()), instruction=PHOTO_INSTRUCTION),
    )


def load_photo() -> Image.Image:
    """The coffee cup that scikit-image ships.

    Raises:
        FileNotFoundError: scikit-image is not installed.
    """
    try:
        with (files("skimage") / "data" / "coffee.png").open("rb") as file:
            return Image.open(file).convert("RGB")
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "The demo's photograph comes with scikit-image, which is not installed: pip install scikit-image"
        ) from error


def recolour(photo: Image.Image, hue: int) -> Image.Image:
    """The photograph with its red crockery in another hue (0..255), light and shadow kept."""
    hues, saturation, value = photo.convert("HSV").split()
    # Glazed red: a hue near 0 on the circle of 256, and saturated. The wood around is yellower.
    red = hues.point([255 if hue <= 13 or hue >= 244 else 0 for hue in range(256)])
    saturated = saturation.point([255 if level > 110 else 0 for level in range(256)])
    place = Image.new("L", photo.size, 0)
    drawing = ImageDraw.Draw(place)
    drawing.polygon(SAUCER, fill=255)
    drawing.ellipse(CUP, fill=255)
    drawing.ellipse(CUP_INSIDE, fill=0)
    mask = ImageChops.multiply(ImageChops.multiply(red, saturated), place)
    mask = mask.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(1))
    painted = Image.merge("HSV", (Image.new("L", photo.size, hue), saturation, value)).convert("RGB")
    return Image.composite(painted, photo, mask)


def draw(groups: list[DemoGroup], notes: list[str]) -> Image.Image:
    """Draw groups below each other: the source, then the candidates in ranked order with their scores.

    Args:
        groups: the scored groups.
        notes: lines for the foot of the picture.
    """
    columns = 1 + max(len(group.edited) for group in groups)
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
        ImageDraw.Draw(picture).text((MARGIN, y), note, fill=INK, font=font(16))
        y += 24
    return picture


def draw_group(group: DemoGroup, width: int) -> Image.Image:
    """One group as a row of cards below its title and instruction."""
    image_height = max(round(COLUMN * image.height / image.width) for image in [group.source, *group.edited])
    top, text_height = 72, 38 + 42 * len(group.best.scores[0].dimensions) + 52
    section = Image.new("RGB", (width, top + image_height + text_height), PAPER)
    drawing = ImageDraw.Draw(section)
    drawing.text((0, 0), group.title, fill=FAINT, font=font(16))
    drawing.text((0, 26), f"“{group.instruction}”", fill=INK, font=font(24))
    for column, index in enumerate([None, *group.best.order]):
        image = group.source if index is None else group.edited[index]
        x = column * (COLUMN + GAP)
        drawing.rounded_rectangle((x, top, x + COLUMN, section.height - 1), radius=8, fill=CARD)
        size = (COLUMN, round(COLUMN * image.height / image.width))
        section.paste(image.resize(size, Image.Resampling.LANCZOS), (x, top))
        corner = (x + 10, top + image_height + 10)
        if index is None:
            calibrated = all(value.calibrated for value in group.best.scores[0].dimensions.values())
            legend = LEGEND if calibrated else "Uncalibrated scores:\nno scale."
            drawing.text(corner, "source", fill=INK, font=font(16))
            drawing.text((corner[0], corner[1] + 28), legend, fill=FAINT, font=font(13), spacing=6)
        else:
            draw_scores(drawing, corner, group.names[index], group.best, index)
    return section


def draw_scores(drawing: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, best: BestEdit, index: int) -> None:
    """Rank, name and scores of one candidate: a bar on the scale with a line of ± std where there is a scale."""
    x, y = corner
    width, bar = COLUMN - 20, COLUMN - 106
    score = best.scores[index]
    drawing.text((x, y), f"{best.ranks[index]}.  {name}", fill=INK, font=font(16))
    y += 28
    for (dimension, value), colour in zip(score.dimensions.items(), cycle(BAR_COLOURS), strict=False):
        drawing.text((x, y), dimension.replace("_", " "), fill=FAINT, font=font(13))
        numbers = f"{value.mean:.2f} ± {value.std:.2f}"
        drawing.text((x + width, y + 17), numbers, fill=INK, font=font(13), anchor="ra")
        if value.calibrated:
            marks = (value.mean - value.std, value.mean, value.mean + value.std)
            shares = [(mark - SCALE[0]) / (SCALE[1] - SCALE[0]) for mark in marks]
            left, middle, right = (x + bar * min(max(share, 0), 1) for share in shares)
            drawing.rectangle((x, y + 20, x + bar, y + 28), fill=TRACK)
            drawing.rectangle((x, y + 20, middle, y + 28), fill=colour)
            drawing.line((left, y + 24, right, y + 24), fill=INK, width=2)
        y += 42
    drawing.text((x, y + 4), f"reward {score.reward:.2f} ± {score.reward_std:.2f}", fill=INK, font=font(14))
    drawing.text((x, y + 24), f"P(best) {best.probabilities[index]:.0%}", fill=FAINT, font=font(14))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow ships: Latin letters only."""
    return ImageFont.load_default(size)

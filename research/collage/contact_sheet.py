"""Draws groups of a simulated world for a person to look at: source, what was requested, candidates, all in words.

python -m research.collage.contact_sheet --output docs/collage.png --seeds 0 5 7
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from editreward.simulation import SimulatedGroup, simulate_group

MARGIN, LINE = 8, 13
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PAPER = (24, 24, 27), (255, 255, 255)


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: Font, width: int, lines: int) -> str:
    """Text in at most so many lines; letters are the units, so that Chinese wraps, too."""
    rows, row = [], ""
    for letter in text:
        if draw.textlength(row + letter, font=font) > width:
            rows.append(row)
            row = ""
        row += letter
    return "\n".join([*rows, row][:lines])


def draw_group(group: SimulatedGroup, side: int, font: Font) -> Image.Image:
    """One row: the source, the exact result, the candidates, with scores and faults."""
    pictures = [(group.source, "source"), (group.requested_image, "requested")]
    for candidate in group.candidates:
        following, quality = candidate.scores.values()
        faults = ", ".join(dict.fromkeys((candidate.fault, candidate.artefact or "clean")))
        pictures.append((candidate.image, f"{following}, {quality}: {faults}"))
    width = MARGIN + len(pictures) * (side + MARGIN)
    sheet = Image.new("RGB", (width, LINE + 6 + side + 2 * LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    unseen = [name for name in ("wording", "name", "style", "photograph") if getattr(group, f"unseen_{name}", False)]
    heading = f"{group.category}: {group.instruction}" + (f"   [unseen: {', '.join(unseen)}]" if unseen else "")
    draw.text((MARGIN, 2), heading, fill=INK, font=font)
    for index, (picture, text) in enumerate(pictures):
        left = MARGIN + index * (side + MARGIN)
        sheet.paste(picture, (left, LINE + 6))
        draw.text((left, LINE + side + 7), _wrapped(text, draw, font, side, 2), fill=INK, font=font, spacing=0)
    return sheet


def main() -> None:
    """Read the options and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)), help="of the groups (default: 0 to 5)")
    parser.add_argument("--world", default="collage", help="which world (%(default)s)")
    parser.add_argument("--split", default="test", help="which split (%(default)s)")
    parser.add_argument("--candidates", type=int, default=5, help="of each group (%(default)s)")
    parser.add_argument("--size", type=int, default=168, help="side of the images (%(default)s)")
    parser.add_argument("--enlarged", type=float, default=0.0, help="share of enlarged candidates (%(default)s)")
    parser.add_argument("--font", help="a font file that has Chinese characters")
    args = parser.parse_args()
    font = ImageFont.truetype(args.font, 11) if args.font else ImageFont.load_default(11)
    rows = [
        draw_group(
            simulate_group(seed, args.split, args.candidates, args.size, world=args.world, enlarged=args.enlarged),
            args.size,
            font,
        )
        for seed in args.seeds
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.quantize(192).save(args.output, optimize=True)


if __name__ == "__main__":
    main()

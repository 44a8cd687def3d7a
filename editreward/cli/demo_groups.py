"""`editreward demo`: groups scored, ranked and drawn: a simulated one, and one of edits of a photograph.

Nothing is picked: of the simulated groups it is the first one of the held-out split with an English instruction.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from editreward.groups import EditGroup, GroupScores, Scorer
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward.reports.ranking import ranking_table
from editreward.scorers.registry import complete_scores
from editreward.scorers.where import where
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


def run(scorer: Scorer, output: str | Path, seed: int = 0, worlds: Sequence[str] | None = None) -> None:
    """Score the demo's groups, print the rankings and draw them.

    Args:
        scorer: the model to show.
        output: the picture, any format that Pillow writes; missing folders are made.
        seed: where to start in the held-out test split; the first group with an English instruction is taken.
        worlds: simulated worlds to show; by default those that the model's dense heads have learnt, else shapes.
    """
    heads = getattr(scorer, "dense_heads", None)
    known = ("shapes",) if heads is None else heads.worlds
    # Of other scorers it would cost dozens of passes for each edit; heads know nothing of other worlds.
    can = hasattr(scorer, "where_group")
    groups = [simulated_group(scorer, seed, can and world in known, world) for world in worlds or known]
    groups.append(photo_group(scorer))
    print(f"Model: {scorer.name}")
    for group in groups:
        print(f"\n{group.title}\nInstruction: {group.group.instruction}\n")
        print(ranking_table(group.names, group.scores))
    print()
    for note in scorer.notes:
        print(f"Note: {note}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_groups(groups, scorer.notes).save(path)
    print(f"Picture: {path}")


def simulated_group(scorer: Scorer, seed: int, with_where: bool = False, world: str = "shapes") -> ScoredGroup:
    """A held-out simulated group, with the true scores in the candidates' names; with what speaks against them."""
    # The font that Pillow ships has no Chinese glyphs.
    made = simulate_groups(1000, split="test", seed=seed, world=world)
    group = next(group for group in made if group.language == "en")
    edited = [candidate.image for candidate in group.candidates]
    dimensions = [name.replace("_", " ") for name in group.candidates[0].scores]
    scene = "scene" if world == "shapes" else world
    title = f"Simulated {scene}, held out from training, not picked ({group.group_id}); truth: {', '.join(dimensions)}"
    names = ["truth " + ", ".join(f"{score:g}" for score in c.scores.values()) for c in group.candidates]
    shown = EditGroup([group.source], group.instruction, edited)
    return ScoredGroup(title, shown, names, scores_of(scorer, shown), where(scorer, shown) if with_where else ())


def scores_of(scorer: Scorer, group: EditGroup) -> GroupScores:
    """The scores of a group whose images are sound.

    Raises:
        ValueError: the scorer could not score it.
    """
    (scores,) = scorer([group])
    return complete_scores(scorer, group, scores)


def photo_group(scorer: Scorer) -> ScoredGroup:
    """Edits of a photograph of a red coffee cup: as asked, in the wrong colour, blurred, and not edited at all."""
    photo = load_photo()
    as_asked = recolour(photo, hue=150)
    edits = {
        "as asked": as_asked,
        "wrong colour": recolour(photo, hue=80),
        "as asked, blurred": as_asked.filter(ImageFilter.GaussianBlur(7)),
        "untouched": photo,
    }
    group = EditGroup([photo], PHOTO_INSTRUCTION, list(edits.values()))
    return ScoredGroup(f"Edits of a photograph ({PHOTO_CREDIT})", group, list(edits), scores_of(scorer, group))


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

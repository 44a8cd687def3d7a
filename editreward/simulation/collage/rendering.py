"""Drawing scenes of the collage world: a photograph, shadows, drawings, then the effect."""

from functools import lru_cache

from PIL import Image, ImageEnhance

from editreward.simulation.collage.assets import photograph
from editreward.simulation.collage.drawing import ANGLES, shadow, sprite
from editreward.simulation.collage.effects import apply_effect
from editreward.simulation.world import Background, Scene, SceneObject

SIZES: dict[str, float] = {
    name: px / 112 for name, px in zip(("tiny", "small", "medium", "large", "huge"), (11, 19, 27, 38, 52), strict=True)
}
"""Longer side of a drawing as a fraction of the image side, in the middle of the image."""

DEPTH = 0.14
"""An object at the lower edge is drawn larger by this share than one at the upper edge."""
CROPS = (1.0, 0.86, 0.72)
"""Shares of a photograph's short side that a crop takes."""
LIGHTS = (0.84, 0.94, 1.0, 1.08)
"""Factors on a photograph's brightness."""
VARIANTS = len(CROPS) * len(LIGHTS) * 3 * 3 * 2
"""Ways to show a photograph: crop, light, its place along both sides, mirrored or not."""


@lru_cache(maxsize=256)
def _background(background: Background, size: int) -> Image.Image:
    index, way = divmod(background.variant, VARIANTS)
    image = photograph(index)
    way, mirrored = divmod(way, 2)
    way, across = divmod(way, 3)
    way, down = divmod(way, 3)
    light, crop = divmod(way, len(CROPS))
    side = CROPS[crop] * min(image.size)
    left, top = (image.width - side) * across / 2, (image.height - side) * down / 2
    picture = image.resize(
        (size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=2
    )
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(picture).enhance(LIGHTS[light])


def drawn_size(thing: SceneObject) -> float:
    """The side of an object's square as a fraction of the image side."""
    return SIZES[thing.size] * (1 + DEPTH * (thing.y - 0.5))


def render(scene: Scene, size: int) -> Image.Image:
    """Draw a scene of the collage world without artefacts: RGB, size x size."""
    image = _background(scene.background, size).copy()
    if scene.remainder:
        edge = round(size * 2 / 3)
        image.paste(_background(scene.remainder, size).crop((edge, 0, size, size)), (edge, 0))
    slant = 1 if scene.background.variant % 2 else -1
    for thing in scene.objects:
        pixels = round(drawn_size(thing) * size)
        pose = thing.key % len(ANGLES)
        left, top = round(thing.x * size - pixels / 2), round(thing.y * size - pixels / 2)
        looks = thing.shape, scene.style, thing.colour, thing.second_colour, thing.remnant, pixels, pose
        image.paste((0, 0, 0), (left - pixels // 2, top), shadow(*looks, slant))
        drawn = sprite(*looks)
        image.paste(drawn, (left, top), drawn)
    return apply_effect(image, scene.effect, scene.effect_stops) if scene.effect else image

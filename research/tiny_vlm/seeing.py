"""Crowded scenes for the vision tower alone: what things look like, and what they are called.

Scenes cost a fifth of edit groups, since no text is read. The names are the language model's own token embeddings, in
both languages: what a cell shows is named by them, so that what is seen and what is read meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from editreward.simulation import ARTEFACTS, apply_artefact, render_scene
from editreward.simulation.collage.assets import HELD_OUT_STYLE, STYLES, names, photographs
from editreward.simulation.collage.rendering import VARIANTS
from editreward.simulation.edits import sample_task
from editreward.simulation.grounding import Vocabulary, scene_attributes
from editreward.simulation.world import COLOURS, EFFECTS, OWN, SHAPES, Background, Scene, SceneObject
from editreward.simulation.worlds import WORLDS, World
from research.tiny_vlm.images import to_patches
from research.tiny_vlm.model import image_features

OWN_SHARE = 0.55
"""Of the collage's things that keep their own colours."""
SIZE_SHARES = {"tiny": 0.06, "small": 0.22, "medium": 0.3, "large": 0.3, "huge": 0.12}
JITTER = 0.09
"""How far a thing may stand from the middle of its place, as a share of the side."""
EFFECT_SHARE = 0.15
ARTEFACT_SHARE = 0.25
NO_THING = -1
SHARPNESS = 16
"""Of the cosines by which things are named."""


def crowded_scene(rng: Random, world: str) -> Scene:
    """A scene with more things than a source has; at times an effect."""
    where = WORLDS[world]
    scene = _crowded_collage(rng) if world == "collage" else _two_sources(rng, where)
    kinds = [kind for kind in EFFECTS if kind in where.categories]
    if kinds and rng.random() < EFFECT_SHARE:
        scene = replace(scene, effect=rng.choice(where.effects(rng.choice(kinds), scene.background)))
    return scene


def _two_sources(rng: Random, where: World) -> Scene:
    """The objects of two sources, as far as they do not stand in each other's place."""
    first, second = (sample_task(rng.choice(where.categories), False, rng, where).source for _ in range(2))
    taken = {place for thing in first.objects for place in thing.position}
    more = [thing for thing in second.objects if not taken & set(thing.position)]
    return replace(first, objects=(*first.objects, *more))


def _crowded_collage(rng: Random) -> Scene:
    """Things of all kinds, about every place taken: a picture teaches seven names."""
    photograph = rng.choice([one for one in photographs() if not one.held_out])
    known = [name for name in names().values() if not name.held_out]
    things = []
    for place in rng.sample(range(9), rng.randint(5, 9)):
        name = rng.choice(known)
        colour = OWN if rng.random() < OWN_SHARE else rng.choice([c for c in COLOURS if c not in name.avoid])
        size = rng.choices(list(SIZE_SHARES), list(SIZE_SHARES.values()))[0]
        x, y = ((at + 0.5) / 3 + rng.uniform(-JITTER, JITTER) for at in (place % 3, place // 3))
        things.append(SceneObject(rng.randrange(1000), colour, name.name, size, x, y))
    variant = photograph.index * VARIANTS + rng.randrange(VARIANTS)
    style = rng.choice([style for style in STYLES if style != HELD_OUT_STYLE])
    return Scene(tuple(things), Background(photograph.subject, "", variant), world="collage", style=style)


@dataclass(frozen=True)
class Seen:
    """A picture: `image` (side, side, 3), `attributes` (cells, names), `things` (cells,) as in `seeing_batch`."""

    image: NDArray[np.uint8]
    attributes: NDArray[np.bool_]
    things: NDArray[np.int64]


def draw(seed: int, worlds: Sequence[str], size: int, side: int, vocabulary: Vocabulary) -> Seen:
    """The crowded scene of a seed, at times damaged."""
    shapes = [number for number, name in enumerate(vocabulary.attributes) if name.startswith("shape ")]
    rng = Random(f"seeing {seed}")
    scene = crowded_scene(rng, worlds[seed % len(worlds)])
    image, cells = render_scene(scene, size), scene_attributes(scene, side, vocabulary)
    if rng.random() < ARTEFACT_SHARE:
        kind, quality = rng.choice(tuple(ARTEFACTS)), rng.randint(1, 3)
        image = apply_artefact(image, kind, quality, rng)
        for name in (f"artefact {kind}", f"severity {quality}"):
            cells[:, vocabulary.index[name]] = True
    in_cell = cells[:, shapes]
    return Seen(np.asarray(image), cells, np.where(in_cell.sum(1) == 1, in_cell.argmax(1), NO_THING))


def seeing_batch(scenes: Sequence[Seen], patch_size: int) -> dict[str, Tensor]:
    """Pictures as the trainer takes them.

    Returns:
        `patches` as `to_patches` gives them, `attributes` (scenes, cells, names), and `things` (scenes, cells): the
        number of the thing that alone is in a cell, in the order of the vocabulary's shapes, or -1.
    """
    side = round(len(scenes[0].things) ** 0.5)
    merge = len(scenes[0].image) // patch_size // side
    return {
        "patches": torch.from_numpy(to_patches([seen.image for seen in scenes], patch_size, merge)),
        "attributes": torch.from_numpy(np.stack([seen.attributes for seen in scenes])),
        "things": torch.from_numpy(np.stack([seen.things for seen in scenes])),
    }


class SceneBank:
    """Pictures that are shown again in another light: drawing one costs more than learning from it.

    Args:
        kept: pictures; later ones replace earlier ones.
        seed: of the choice.
    """

    def __init__(self, kept: int, seed: int) -> None:
        self.kept, self.scenes, self.added = kept, list[Seen](), 0
        self.rng = np.random.default_rng(seed)

    def add(self, seen: Seen) -> None:
        """Keep a picture."""
        if len(self.scenes) < self.kept:
            self.scenes.append(seen)
        else:
            self.scenes[self.added % self.kept] = seen
        self.added += 1

    def again(self, count: int) -> list[Seen]:
        """Some of the pictures, lighter or darker and tinted."""
        chosen = [self.scenes[number] for number in self.rng.integers(len(self.scenes), size=count)]
        return [replace(seen, image=self._lit(seen.image)) for seen in chosen]

    def _lit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        lit = image * self.rng.uniform(0.85, 1.15) + self.rng.normal(0, 6, 3)
        return lit.clip(0, 255).astype(np.uint8)


class Naming(nn.Module):
    """Names what cells show by the embeddings of the names' tokens, the mean of each name's.

    Args:
        hidden_size: Width of the language model.
        tokenizer: Its tokenizer.
        things: English names; those that no split holds out are learnt.
    """

    def __init__(self, hidden_size: int, tokenizer: PreTrainedTokenizerFast, things: Sequence[str]) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size))
        drawn = names()
        tables: list[list[list[int]]] = [[], []]
        for thing in things:
            chinese = SHAPES[thing] if thing in SHAPES else drawn[thing].chinese
            for table, word in zip(tables, (f" {thing}", chinese), strict=True):
                table.append(tokenizer.encode(word, add_special_tokens=False))
        self.tables = tables

    def logits(self, features: Tensor, embedding: nn.Embedding) -> list[Tensor]:
        """How well each name fits, (cells, things), by language.

        Args:
            features: (cells, hidden_size).
            embedding: the language model's.
        """
        shown = F.normalize(self.project(features), dim=-1)
        made = []
        for table in self.tables:
            flat = torch.tensor([token for word in table for token in word])
            offsets = torch.tensor(np.cumsum([0, *(len(word) for word in table[:-1])]))
            called = F.embedding_bag(flat, embedding.weight, offsets, mode="mean")
            made.append(SHARPNESS * shown @ F.normalize(called, dim=-1).T)
        return made

    def loss(self, features: Tensor, embedding: nn.Embedding, things: Tensor) -> Tensor:
        """Cross entropy of the things of cells, mean over both languages; `things` is -1 where there is not one."""
        known = things >= 0
        logits = self.logits(features[known], embedding)
        return torch.stack([F.cross_entropy(one, things[known]) for one in logits]).mean()


def seeing_losses(
    model: Any, heads: Any, naming: Naming, batch: dict[str, Tensor], pixel_values: Tensor, side: int
) -> dict[str, Tensor]:
    """The losses of a batch of scenes: what cells show, and what that is called."""
    features = image_features(model.model.visual, pixel_values, side)
    shown = heads.attributes(features).float().view(batch["attributes"].shape)
    targets = batch["attributes"].float()
    return {
        "attributes": F.binary_cross_entropy_with_logits(shown, targets, reduction="none").sum(-1).mean(),
        "naming": naming.loss(features, model.model.language_model.embed_tokens, batch["things"].flatten()),
    }


@torch.no_grad()
def named_right(model: Any, naming: Naming, batch: dict[str, Tensor], pixel_values: Tensor, side: int) -> Tensor:
    """Where the thing of a cell is called by its English name, (scenes, cells); NaN where there is not one."""
    features = image_features(model.model.visual, pixel_values, side)
    found = naming.logits(features, model.model.language_model.embed_tokens)[0].argmax(-1).view(batch["things"].shape)
    return torch.where(batch["things"] >= 0, (found == batch["things"]).float(), torch.nan)

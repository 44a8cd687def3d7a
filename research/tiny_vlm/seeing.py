"""Crowded scenes for the vision tower alone: what things look like, and what they are called.

Scenes cost a fifth of edit groups, since no text is read. The names are the language model's own token embeddings, in
both languages: what a cell shows is named by them, so that what is seen and what is read meet.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from editreward.simulation import ARTEFACTS, apply_artefact, render_scene
from editreward.simulation.collage.assets import names
from editreward.simulation.edits import sample_task
from editreward.simulation.grounding import Vocabulary, scene_attributes
from editreward.simulation.world import EFFECTS, SHAPES, Scene
from editreward.simulation.worlds import WORLDS
from research.tiny_vlm.images import to_patches

EFFECT_SHARE = 0.15
ARTEFACT_SHARE = 0.25
NO_THING = -1


def crowded_scene(rng: Random, world: str) -> Scene:
    """The objects of two sources, as far as they do not stand in each other's place; at times an effect."""
    where = WORLDS[world]
    first, second = (sample_task(rng.choice(where.categories), False, rng, where).source for _ in range(2))
    taken = {place for thing in first.objects for place in thing.position}
    more = [thing for thing in second.objects if not taken & set(thing.position)]
    scene = replace(first, objects=(*first.objects, *more))
    kinds = [kind for kind in EFFECTS if kind in where.categories]
    if kinds and rng.random() < EFFECT_SHARE:
        scene = replace(scene, effect=rng.choice(where.effects(rng.choice(kinds), scene.background)))
    return scene


def seeing_batch(
    seeds: range, worlds: Sequence[str], size: int, side: int, patch_size: int, vocabulary: Vocabulary
) -> dict[str, Tensor]:
    """Scenes, at times damaged.

    Returns:
        `patches` as `to_patches` gives them, `attributes` (scenes, cells, names), and `things` (scenes, cells): the
        number of the thing that alone is in a cell, in the order of the vocabulary's shapes, or -1.
    """
    shapes = [number for number, name in enumerate(vocabulary.attributes) if name.startswith("shape ")]
    images, shown, things = [], [], []
    for seed in seeds:
        rng = Random(f"seeing {seed}")
        scene = crowded_scene(rng, worlds[seed % len(worlds)])
        image, cells = render_scene(scene, size), scene_attributes(scene, side, vocabulary)
        if rng.random() < ARTEFACT_SHARE:
            kind, quality = rng.choice(tuple(ARTEFACTS)), rng.randint(1, 3)
            image = apply_artefact(image, kind, quality, rng)
            for name in (f"artefact {kind}", f"severity {quality}"):
                cells[:, vocabulary.index[name]] = True
        in_cell = cells[:, shapes]
        images.append(image)
        shown.append(cells)
        things.append(np.where(in_cell.sum(1) == 1, in_cell.argmax(1), NO_THING))
    merge = size // patch_size // side
    return {
        "patches": torch.from_numpy(to_patches(images, patch_size, merge)),
        "attributes": torch.from_numpy(np.stack(shown)),
        "things": torch.from_numpy(np.stack(things)),
    }


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

    def loss(self, features: Tensor, embedding: nn.Embedding, things: Tensor) -> Tensor:
        """Cross entropy of the things of cells, mean over both languages.

        Args:
            features: (cells, hidden_size).
            embedding: the language model's.
            things: (cells,), -1 where there is not exactly one.
        """
        known = things >= 0
        shown = F.normalize(self.project(features[known]), dim=-1)
        losses = []
        for table in self.tables:
            flat = torch.tensor([token for word in table for token in word])
            offsets = torch.tensor(np.cumsum([0, *(len(word) for word in table[:-1])]))
            called = F.embedding_bag(flat, embedding.weight, offsets, mode="mean")
            losses.append(F.cross_entropy(16 * shown @ F.normalize(called, dim=-1).T, things[known]))
        return torch.stack(losses).mean()


def seeing_losses(
    model: Any, heads: Any, naming: Naming, batch: dict[str, Tensor], pixel_values: Tensor, side: int
) -> dict[str, Tensor]:
    """The losses of a batch of scenes: what cells show, and what that is called."""
    grid = torch.tensor([[1, side, side]]).expand(len(batch["attributes"]), 3)
    features = torch.cat(model.model.get_image_features(pixel_values, grid).pooler_output)
    shown = heads.attributes(features).float().view(batch["attributes"].shape)
    targets = batch["attributes"].float()
    return {
        "attributes": F.binary_cross_entropy_with_logits(shown, targets, reduction="none").sum(-1).mean(),
        "naming": naming.loss(features, model.model.language_model.embed_tokens, batch["things"].flatten()),
    }

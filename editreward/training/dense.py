"""Dense targets within the model: what each image token shows, should show, and where an edit is not as asked for.

Pre-training teaches them (`research/tiny_vlm`); reward training keeps them on with a small weight ([`DenseLoss`]), so
that what was learnt is not lost. The targets are known for simulated groups only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from editreward.simulation import SimulatedGroup
from editreward.simulation.grounding import (
    ASKED,
    ATTRIBUTES,
    COMPARISONS,
    MISMATCHES,
    REQUEST,
    group_asked,
    group_attributes,
    group_comparisons,
    group_mismatches,
    request_values,
)

HEADS_FILE = "dense_heads.safetensors"
INPUTS = -1
"""In the place of a layer's number: what the language model is given."""
MISMATCH_HIDDEN = 96
TO_CHANGE_WEIGHT = 4.0
"""Of a cell that should show something else than the source does, to a weight of 1 of the others: it takes reading."""


@dataclass(frozen=True)
class DenseLayers:
    """Numbers of the language model's layers whose outputs the heads read.

    Args:
        request: at the token before the source image: what the instruction says.
        source: at the source's tokens: what they should show.
        edited: at the edited images' tokens: what they should show.
        comparison: at all image tokens: where images differ, and where an edit is not as asked for.
    """

    request: int
    source: int
    edited: int
    comparison: int

    @classmethod
    def of(cls, depth: int) -> "DenseLayers":
        """Those before the last of `depth` layers, one after another: each takes up what the one before it found."""
        return cls(*(max(0, depth - back) for back in (5, 4, 3, 2)))


@dataclass
class DenseLogits:
    """In float32. The last two are None where there are no edited images, or they were not computed.

    Args:
        request: (groups, values of all parts of `REQUEST`).
        attributes, asked, comparisons, mismatches: (groups, images, cells, names); the source is the first image.
    """

    request: Tensor
    attributes: Tensor
    asked: Tensor
    comparisons: Tensor | None = None
    mismatches: Tensor | None = None


class DenseHeads(nn.Module):
    """Linear heads, and an MLP for what is not as asked for.

    Args:
        hidden_size: Width of the language model.
        layers: What they read.
    """

    def __init__(self, hidden_size: int, layers: DenseLayers) -> None:
        super().__init__()
        self.hidden_size, self.layers = hidden_size, layers

        def linear(names: int) -> nn.Module:
            return nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, names))

        self.request = linear(sum(map(len, REQUEST.values())))
        self.attributes = linear(len(ATTRIBUTES))
        self.asked_source = linear(len(ASKED))
        self.asked_edited = linear(len(ASKED))
        self.comparisons = linear(len(COMPARISONS))
        self.mismatches = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, MISMATCH_HIDDEN),
            nn.GELU(),
            nn.Linear(MISMATCH_HIDDEN, len(MISMATCHES)),
        )

    def forward(self, features: Tensor, states: Mapping[int, Tensor], is_image: Tensor, images: int) -> DenseLogits:
        """The logits of every target.

        Args:
            features: (image tokens, hidden_size), the vision tower's.
            states: by number, a layer's output (groups, length, hidden_size). With one image a group, the edited and
                the comparison layer may be missing.
            is_image: (groups, length), which tokens are those of images.
            images: of each group.
        """
        shape = len(is_image), images, -1, self.hidden_size
        rows, before_source = torch.arange(len(is_image)), is_image.int().argmax(-1) - 1

        def cells(layer: int) -> Tensor:
            return states[layer][is_image].view(shape)

        request = self.request(states[self.layers.request][rows, before_source]).float()
        attributes = self.attributes(features.view(shape)).float()
        asked = self.asked_source(cells(self.layers.source)[:, :1]).float()
        if images == 1:
            return DenseLogits(request, attributes, asked)
        edited, compared = cells(self.layers.edited)[:, 1:], cells(self.layers.comparison)
        asked = torch.cat([asked, self.asked_edited(edited).float()], dim=1)
        return DenseLogits(
            request, attributes, asked, self.comparisons(compared).float(), self.mismatches(compared).float()
        )

    def save(self, folder: str | Path) -> None:
        """Write weights and layers into a model folder."""
        metadata = {"hidden_size": str(self.hidden_size), "layers": json.dumps(asdict(self.layers))}
        save_file(self.state_dict(), Path(folder) / HEADS_FILE, metadata)

    @classmethod
    def load(cls, folder: str | Path) -> "DenseHeads":
        """Read them from a model folder.

        Raises:
            FileNotFoundError: it has none.
        """
        path = Path(folder) / HEADS_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {HEADS_FILE}: only models of research/tiny_vlm bring dense heads."
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        heads = cls(int(metadata["hidden_size"]), DenseLayers(**json.loads(metadata["layers"])))
        heads.load_state_dict(weights)
        return heads


def dense_targets(groups: Sequence[SimulatedGroup], side: int) -> dict[str, Tensor]:
    """The targets of simulated groups, all with as many candidates, by the names of [`DenseLogits`].

    Args:
        groups: The groups.
        side: Image tokens along one side of an image.
    """
    dense = {
        "attributes": group_attributes,
        "asked": group_asked,
        "comparisons": group_comparisons,
        "mismatches": group_mismatches,
    }
    targets = {"request": torch.from_numpy(np.stack([request_values(group.task) for group in groups]))}
    for name, function in dense.items():
        targets[name] = torch.from_numpy(np.stack([function(group, side) for group in groups]))
    return targets


def dense_losses(logits: DenseLogits, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every loss by name."""
    attributes = targets["attributes"]
    losses = {
        "request": request_loss(logits.request, targets["request"]),
        "attributes": F.binary_cross_entropy_with_logits(logits.attributes, attributes.float(), reduction="none")
        .sum(-1)
        .mean(),
        "asked": asked_loss(logits.asked, targets["asked"], attributes),
    }
    if logits.comparisons is not None and logits.mismatches is not None:
        losses["comparisons"] = binary_loss(logits.comparisons, targets["comparisons"])
        losses["mismatches"] = binary_loss(logits.mismatches, targets["mismatches"])
    return losses


def request_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Cross entropy of what the instruction says, summed over its parts, mean over the groups."""
    parts = logits.split([len(names) for names in REQUEST.values()], dim=-1)
    losses = [
        F.cross_entropy(part, value, ignore_index=-1, reduction="sum")
        for part, value in zip(parts, values.unbind(-1), strict=True)
    ]
    return torch.stack(losses).sum() / len(values)


def asked_loss(logits: Tensor, asked: Tensor, attributes: Tensor) -> Tensor:
    """Binary cross entropy of what cells should show, summed over the names, weighted mean over the cells."""
    source = attributes[:, :1, :, : len(ASKED)]
    weights = 1 + (TO_CHANGE_WEIGHT - 1) * (asked != source).any(-1).float()
    losses = F.binary_cross_entropy_with_logits(logits, asked.float(), reduction="none").sum(-1)
    return (losses * weights).sum() / weights.sum()


def binary_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy, summed over the names, each its mean over the cells whose truth is known."""
    known = ~truth.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none") * known
    cells = tuple(range(losses.ndim - 1))
    return (losses.sum(cells) / known.sum(cells).clamp(min=1)).sum()


class DenseLoss:
    """The dense losses of reward training, an auxiliary loss of [`EditRewardTrainer`].

    The heads are frozen: the model has to keep what they read. Hooks on the layers take what they need from the pass
    that computes the scores.

    Args:
        heads: Trained with the vision-language model that the run starts from.
        weight: Of the sum of the losses, to a weight of 1 of the loss of rewards.
        side: Image tokens along one side of an image.
    """

    def __init__(self, heads: DenseHeads, weight: float, side: int) -> None:
        self.heads, self.weight, self.side = heads.requires_grad_(False), weight, side
        self._states: dict[int, Tensor] = {}

    def watch(self, model: Any) -> None:
        """Hook into an [`EditRewardModel`]."""
        self.image_token_id = model.config.backbone_config.image_token_id
        language_model = model.backbone.language_model
        language_model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)
        for number in set(asdict(self.heads.layers).values()):
            language_model.layers[number].register_forward_hook(partial(self._keep_output, number))

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._states[INPUTS] = kwargs["inputs_embeds"]

    def _keep_output(self, number: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._states[number] = output[0] if isinstance(output, tuple) else output

    def targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Of rows that hold their simulated group as `simulation`.

        Raises:
            ValueError: a row has none.
        """
        if any("simulation" not in row for row in rows):
            raise ValueError("Dense losses need groups whose truth is known: set `--dataset_name simulated`.")
        return dense_targets([row["simulation"] for row in rows], self.side)

    def __call__(self, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the batch that the model was just run on, by name."""
        states, self._states = self._states, {}
        is_image = inputs["input_ids"] == self.image_token_id
        images = targets["attributes"].shape[1]
        logits = self.heads.to(is_image.device)(states[INPUTS][is_image], states, is_image, images)
        return dense_losses(logits, targets)

"""Where something speaks against an edit, for reward models: from dense heads, or from gradients."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from transformers import BatchFeature

from editreward.dense_heads import DenseHeads, LayerStates
from editreward.groups import EditGroup
from editreward.groups.where import ARTEFACT, NOT_AS_ASKED, UNASKED, Map, Where
from editreward.scorers.where import enlarged
from editreward.simulation.grounding import COMPARISONS, MISMATCHES, SHAPES_VOCABULARY, Vocabulary
from images_editreward import load_image
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor, PackedGroup

REASONS_OF = {"instruction_following": (NOT_AS_ASKED, UNASKED), "visual_quality": (ARTEFACT,)}
"""What speaks against an edit in a dimension; in any other dimension all three do."""
FLOOR = 0.2
"""What counts of a cell where nothing stands out."""
SEVERITY = {1: 1.0, 2: 0.7, 3: 0.4}
"""How much an artefact speaks against an edit, by the score that it would get."""


@dataclass(frozen=True)
class CellLogits:
    """What the dense heads say of one edited image.

    Attributes:
        attributes, comparisons, mismatches: (rows, columns, names), logits in float32.
    """

    attributes: NDArray[np.float32]
    comparisons: NDArray[np.float32]
    mismatches: NDArray[np.float32]


def fits_heads(processor: EditRewardProcessor, group: EditGroup) -> bool:
    """Whether dense heads can read a group: one source, and the instruction before the images."""
    return processor.layout == "compact" and len(group.sources) == 1


@torch.no_grad()
def cell_logits(
    model: EditRewardModel, processor: EditRewardProcessor, heads: DenseHeads, group: EditGroup
) -> list[CellLogits]:
    """What the heads say of each candidate of a group.

    Raises:
        ValueError: the group cannot be used; the message names the image or argument.
    """
    packed, batch = _batch_of(model, processor, group)
    states = LayerStates(heads.layers)
    hooks = states.watch(model.backbone.language_model)
    try:
        model(**batch, packing="tree")
    finally:
        for hook in hooks:
            hook.remove()
    inputs, outputs = states.take()
    places = batch["input_ids"][0] == model.config.backbone_config.image_token_id
    features, compared = (x[0, places].float() for x in (inputs, outputs[heads.layers.comparison]))
    heads = heads.to(features.device)
    logits = heads.attributes(features), heads.comparisons(compared), heads.mismatches(compared)
    grids = _grids(packed, processor)
    sizes = [rows * columns for rows, columns in grids]
    by_image = zip(*(values.cpu().split(sizes) for values in logits), strict=True)
    return [
        CellLogits(*(of_image.reshape(*grid, -1).numpy() for of_image in image))
        for image, grid in list(zip(by_image, grids, strict=True))[1:]
    ]


def _batch_of(
    model: EditRewardModel, processor: EditRewardProcessor, group: EditGroup
) -> tuple[PackedGroup, BatchFeature]:
    packed = processor.pack(group.source, list(group.edited), group.instruction)
    return packed, processor.collate([packed], share_images=False).to(model.device)


def _grids(packed: PackedGroup, processor: EditRewardProcessor) -> list[tuple[int, int]]:
    """Rows and columns of the tokens of each image, sources first."""
    merge = processor.image_processor.merge_size
    return [(int(rows) // merge, int(columns) // merge) for _, rows, columns in packed.image_grid_thw.tolist()]


def where_by_heads(
    model: EditRewardModel, processor: EditRewardProcessor, heads: DenseHeads, group: EditGroup
) -> list[Where]:
    """Maps from the dense heads: probabilities that a place is not as asked, was changed unasked, or is damaged."""
    source = load_image(group.sources[0], "source")
    found = []
    for index, (content, cells) in enumerate(
        zip(group.edited, cell_logits(model, processor, heads, group), strict=True)
    ):
        image = load_image(content, f"edited[{index}]")
        reasons = reasons_of(cells, image, source.resize(image.size), heads.vocabulary)
        maps = {}
        for dimension in model.config.dimensions:
            names = REASONS_OF.get(dimension, tuple(reasons))
            maps[dimension] = np.maximum.reduce([reasons[name] for name in names])
        found.append(Where(image, maps, reasons, "heads"))
    return found


def reasons_of(
    cells: CellLogits, image: Image.Image, source: Image.Image, vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> dict[str, Map]:
    """By reason, the probability of each place that it speaks against the edit.

    Cells are coarse. Within one, what stands out comes first, unless it is the background that is wrong; of artefacts
    what differs from the source in its fine structure, where nothing else changed.

    Args:
        cells: what the heads say.
        image: the edited image.
        source: of the same size.
        vocabulary: of the heads.
    """

    def large(values: NDArray[np.float32]) -> Map:
        return enlarged(values, image.size)

    compared, mismatched, shown = map(sigmoid, (cells.comparisons, cells.mismatches, cells.attributes))
    changed, to_change, wrong = (compared[..., COMPARISONS.index(name)] for name in COMPARISONS)
    background = mismatched[..., MISMATCHES.index("background")]
    artefacts = [i for i, name in enumerate(vocabulary.attributes) if name.startswith("artefact ")]
    severe = sum(shown[..., vocabulary.index[f"severity {score}"]] * share for score, share in SEVERITY.items())
    artefact = np.minimum(shown[..., artefacts].max(-1), severe)
    detail = FLOOR + (1 - FLOOR) * standing_out(image, source)
    return {
        NOT_AS_ASKED: np.maximum(large(wrong * (1 - background)) * detail, large(wrong * background)),
        UNASKED: large(changed * (1 - to_change) * wrong) * detail,
        ARTEFACT: large(artefact) * np.sqrt(fine_difference(image, source) * (1 - 0.9 * large(changed))),
    }


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-logits))."""
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def standing_out(image: Image.Image, source: Image.Image) -> Map:
    """How much each pixel of an edited image differs from the source, or from what is around it, to the most."""
    around = image.filter(ImageFilter.BoxBlur(min(image.size) / 6))
    return smooth(np.maximum(differences(image, source), 0.4 * differences(image, around)), min(image.size) / 75)


def fine_difference(image: Image.Image, source: Image.Image) -> Map:
    """How much each pixel's fine structure differs from the source's, to the most."""
    blur = ImageFilter.GaussianBlur(min(image.size) / 112)
    fine = [
        np.asarray(one, dtype=np.float32) - np.asarray(one.filter(blur), dtype=np.float32) for one in (image, source)
    ]
    return smooth(np.abs(fine[0] - fine[1]).max(-1) / 255, min(image.size) / 75)


def differences(first: Image.Image, second: Image.Image) -> Map:
    """The greatest difference of the channels of each pixel, in 0..1."""
    a, b = (np.asarray(image, dtype=np.float32) for image in (first, second))
    return np.asarray(np.abs(a - b).max(-1) / 255)


def smooth(values: Map, radius: float) -> Map:
    """Blurred by a Gaussian and divided by the largest value."""
    scaled = Image.fromarray((255 * values / max(float(values.max()), 1e-6)).astype(np.uint8))
    blurred = np.asarray(scaled.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    return np.asarray(blurred / max(float(blurred.max()), 1.0))


def where_by_gradients(model: EditRewardModel, processor: EditRewardProcessor, group: EditGroup) -> list[Where]:
    """Maps from gradients: what each image token of an edit takes from a score, to first order.

    That is the gradient of the score with respect to the token, times what the token differs from the source's in its
    place, or times the token itself where the grids differ. They are relative to the largest value in the group.
    """
    packed, batch = _batch_of(model, processor, group)
    with torch.no_grad():
        features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    leaves = [of_image.detach().requires_grad_() for of_image in features]
    batch["pixel_values"] = None
    with torch.enable_grad():
        mean = model(**batch, image_features=leaves, packing="tree").mean
        sources = len(group.sources)
        edits = leaves[sources:]
        by_dimension = {
            name: torch.autograd.grad(mean[:, index].sum(), edits, retain_graph=True)
            for index, name in enumerate(model.config.dimensions)
        }
    grids = _grids(packed, processor)
    images = [load_image(content, f"edited[{index}]") for index, content in enumerate(group.edited)]
    base = features[0] if sources == 1 else None
    costs: dict[str, list[Tensor]] = {}
    for name, gradients in by_dimension.items():
        for edit, gradient in zip(features[sources:], gradients, strict=True):
            difference = edit - base if base is not None and base.shape == edit.shape else edit
            costs.setdefault(name, []).append((-gradient * difference).sum((0, -1)).clamp(min=0).float().cpu())
    highest = {name: max(max(cost.max().item() for cost in of), 1e-12) for name, of in costs.items()}
    return [
        Where(
            image,
            {
                name: enlarged((of[index] / highest[name]).reshape(grids[sources + index]).numpy(), image.size)
                for name, of in costs.items()
            },
            method="gradients",
        )
        for index, image in enumerate(images)
    ]

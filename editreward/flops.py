"""The work of batches by counting: tokens, images, query-key pairs, and the floating-point operations that they need.

An operation is a multiplication or an addition. A forward pass needs

- in the language model 2 x weights of its linear layers for each token, and 4 x width x layers for each query-key pair
  that the attention allows (a token to those of its path to the root, itself included);
- in the vision tower 2 x weights of a block's linear layers for each patch and block, 4 x width for each pair of
  patches in a window or, in the blocks with full attention, in an image; and the patch embedding and the mergers;
- in a reward head 2 x its weights for each reward.

A backward pass needs twice that, but for the patch embedding once: no gradient goes to the pixels. Norms, activations,
rotary positions, embeddings and the optimizer are left out. `tests/scorers/test_work_counts.py` holds the formula to
torch's own count.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from modeling_editreward import EditRewardModel


@dataclass(frozen=True)
class Work:
    """What passes through a model handle; of several passes, the sum.

    Attributes:
        calls: passes through the language model.
        tokens: of the language model, without padding.
        pairs: query-key pairs that its attention allows.
        images, patches: of the vision tower.
        window_pairs, image_pairs: pairs of patches within windows, and within whole images.
        rewards: applications of a reward head.
    """

    calls: int = 0
    tokens: int = 0
    pairs: int = 0
    images: int = 0
    patches: int = 0
    window_pairs: int = 0
    image_pairs: int = 0
    rewards: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def batch_work(batch: Mapping[str, Tensor], model: EditRewardModel) -> Work:
    """Work of one forward pass over a batch of the processor, tree-packed.

    Args:
        batch: what [`EditRewardProcessor`] returns.
        model: the model that it is for.
    """
    pairs = 0
    for segments, parents in zip(batch["segment_ids"].cpu(), batch["segment_parents"].tolist(), strict=True):
        sizes = torch.bincount(segments[segments >= 0], minlength=len(parents)).tolist()
        before = [0] * len(parents)  # tokens of a segment's ancestors
        for segment, (parent, size) in enumerate(zip(parents, sizes, strict=True)):
            if parent >= 0:
                before[segment] = before[parent] + sizes[parent]
            pairs += size * before[segment] + size * (size + 1) // 2
    config = model.config.backbone_config.vision_config
    grids = batch["image_grid_thw"].tolist()
    return Work(
        calls=1,
        tokens=int((batch["segment_ids"] >= 0).sum()),
        pairs=pairs,
        images=len(grids),
        patches=sum(frames * rows * columns for frames, rows, columns in grids),
        window_pairs=sum(sum(size**2 for size in window_sizes(grid, config)) for grid in grids),
        image_pairs=sum(frames * (rows * columns) ** 2 for frames, rows, columns in grids),
        rewards=batch["reward_positions"].shape[:2].numel(),
    )


def window_sizes(grid: Iterable[int], vision_config: object) -> list[int]:
    """Patches of each attention window of an image; none for towers without windows (Qwen3-VL).

    Args:
        grid: frames, rows and columns of patches.
        vision_config: of the vision tower.
    """
    window = getattr(vision_config, "window_size", None)
    if window is None:
        return []
    merge = vision_config.spatial_merge_size  # type: ignore[attr-defined]
    side = window // merge // vision_config.patch_size  # type: ignore[attr-defined]
    frames, rows, columns = grid
    heights, widths = (
        [min(side, length // merge - start) for start in range(0, length // merge, side)] for length in (rows, columns)
    )
    return [merge**2 * height * width for height in heights for width in widths] * frames


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass, by part."""

    language_linear: int
    language_attention: int
    vision_linear: int
    vision_attention: int
    patch_embedding: int
    heads: int

    @property
    def forward(self) -> int:
        return sum(astuple(self))

    @property
    def training(self) -> int:
        """Forward and backward pass, nothing computed twice."""
        return 3 * self.forward - self.patch_embedding


def forward_flops(model: EditRewardModel, work: Work) -> Flops:
    """Operations that a forward pass of `model` over `work` needs, by the formula of this module."""
    text, vision = model.config.get_text_config(), model.config.backbone_config.vision_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tower = model.backbone.visual
    blocks = _linear_weights(tower.blocks)
    # Mergers see a token for each square of patches.
    merged = sum(_linear_weights(part) for name, part in tower.named_children() if "merger" in name)
    full = len(vision.fullatt_block_indexes) if hasattr(vision, "fullatt_block_indexes") else vision.depth
    vision_pairs = full * work.image_pairs + (vision.depth - full) * work.window_pairs
    return Flops(
        language_linear=2 * _linear_weights(model.backbone.language_model.layers) * work.tokens,
        language_attention=4 * text.num_attention_heads * head_dim * text.num_hidden_layers * work.pairs,
        vision_linear=2 * (blocks * work.patches + merged * work.patches // vision.spatial_merge_size**2),
        vision_attention=4 * vision.hidden_size * vision_pairs,
        patch_embedding=2 * tower.patch_embed.proj.weight.numel() * work.patches,
        heads=2 * _linear_weights(model.heads.mlps[0]) * work.rewards,
    )


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))

"""Estimate memory and operations of scoring with the published backbones, as Markdown tables for docs/memory.md.

    python -m research.scoring_memory

Groups have images of 448 x 448 pixels and the numbers of tokens that Qwen's tokenizer gives the default prompts and an
instruction of 18 tokens, as in `recipe_memory.py`. Nothing is loaded: models are made without memory.
"""

import argparse

import torch

from configuration_editreward import EditRewardConfig
from editreward.flops import batch_work, forward_flops
from editreward.training.memory import GIB
from modeling_editreward import EditRewardModel
from research.recipe_memory import (
    BACKBONES,
    COMPACT_TOKENS,
    END_TOKENS,
    INSTRUCTION_TOKENS,
    PAPER_TOKENS,
    PIXELS,
    TURN_TOKENS,
    load_config,
)

BYTES = 2  # bfloat16
LAYER_COPIES = 3
"""What a layer holds at its widest: residual, normalised and attended states; gate, up and product."""
BATCH_TOKENS = 16_384  # of the scorer on a GPU
EDITS = 8


def group(config: EditRewardConfig, layout: str, edits: int) -> dict[str, torch.Tensor]:
    """Segments, grids and rewards of a packed group, as far as its work depends on them."""
    vision = config.backbone_config.vision_config
    side = int(PIXELS**0.5 / vision.patch_size / vision.spatial_merge_size) * vision.spatial_merge_size
    image = (side // vision.spatial_merge_size) ** 2 + 2
    dimensions = len(config.dimensions)
    if layout == "paper":
        leaf = PAPER_TOKENS // dimensions + INSTRUCTION_TOKENS + END_TOKENS
        sizes, parents = [TURN_TOKENS + image], [-1]
        for _ in range(edits):
            place = len(sizes)
            sizes += [image] + dimensions * [leaf]
            parents += [0] + dimensions * [place]
    else:
        sizes = [TURN_TOKENS + COMPACT_TOKENS + INSTRUCTION_TOKENS + image] + edits * [image + dimensions + END_TOKENS]
        parents = [-1] + edits * [0]
    return {
        "segment_ids": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[None],
        "segment_parents": torch.tensor(parents)[None],
        "image_grid_thw": torch.tensor([[1, side, side]] * (edits + 1)),
        "reward_positions": torch.zeros(edits, dimensions),
    }


def layer_bytes(width: int, intermediate: int) -> int:
    """Bytes of a token, or patch, in the layer that is computed."""
    return BYTES * LAYER_COPIES * (width + intermediate)


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| | weights | a batch of 16,384 tokens: language model | vision tower | together | prompt's keys, values |")
    print("|---|--:|--:|--:|--:|--:|")
    work_rows = []
    for file in sorted(BACKBONES.glob("*.json")):
        config = load_config(file)
        with torch.device("meta"):
            model = EditRewardModel(config)
        text, vision = config.get_text_config(), config.backbone_config.vision_config
        weights = BYTES * sum(weight.numel() for weight in model.parameters())
        work = batch_work(group(config, "compact", EDITS), model)
        patches = work.patches * BATCH_TOKENS // work.tokens
        language = BATCH_TOKENS * layer_bytes(text.hidden_size, text.intermediate_size)
        tower = patches * layer_bytes(vision.hidden_size, vision.intermediate_size)
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        cache = 96 * BYTES * 2 * text.num_hidden_layers * text.num_key_value_heads * head
        most = weights + max(language, tower)
        print(
            f"| {file.stem} | {weights / GIB:.1f} GiB | {language / GIB:.1f} GiB | {tower / GIB:.1f} GiB "
            f"| {most / GIB:.1f} GiB | {cache / 2**20:.0f} MiB |"
        )
        cells = []
        for layout in ("compact", "paper"):
            for edits in (1, EDITS):
                done = batch_work(group(config, layout, edits), model)
                cells.append(f"{done.tokens:,} | {forward_flops(model, done).forward / edits / 1e12:.1f}")
        work_rows.append(f"| {file.stem} | {' | '.join(cells)} |")
    print("\n| | compact, N = 1: tokens | TFLOP an edit | N = 8: tokens | TFLOP an edit ", end="")
    print("| paper, N = 1: tokens | TFLOP an edit | N = 8: tokens | TFLOP an edit |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    print("\n".join(work_rows))


if __name__ == "__main__":
    main()

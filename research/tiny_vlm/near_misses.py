"""Evaluate a model of a run on the committed near misses, by its dense heads and by its verdict in words.

    python -m research.tiny_vlm.near_misses --model runs/tiny-vlm/model
    python -m research.tiny_vlm.near_misses --model runs/tiny-both/model --near_misses configs/collage_near_misses.json

Prints, by attribute, how often the perfect edit is put before the near miss.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from editreward.benchmarks.near_misses import NearMissSet, near_miss_accuracy, near_miss_table
from editreward.dense_heads import DenseHeads
from editreward.simulation import SimulatedGroup
from editreward.simulation.captions import KINDS
from modeling_editreward import set_backbone_attention
from research.tiny_vlm.arguments import DataArguments, ModelArguments
from research.tiny_vlm.data import batch_of
from research.tiny_vlm.evaluation import dense_scores, expected_scores
from research.tiny_vlm.losses import forward
from research.tiny_vlm.model import build_image_processor

BATCH = 10


@torch.no_grad()
def score(folder: Path, groups: list[SimulatedGroup]) -> dict[str, list[np.ndarray]]:
    """The scores of every group's edits, by who gives them; higher is better."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, heads = AutoTokenizer.from_pretrained(folder), DenseHeads.load(folder).eval()
    vision = model.config.vision_config
    model_args = ModelArguments(
        image_size=groups[0].source.width, patch_size=vision.patch_size, merge_size=vision.spatial_merge_size
    )
    data_args = DataArguments(candidates=2, judged=2, source_captions=0, worlds=list(heads.worlds))
    processor = build_image_processor(model_args)
    set_backbone_attention(model.model.config, None)
    scores: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(groups), BATCH):
        chosen = groups[first : first + BATCH]
        batch = batch_of(chosen, list(range(first, first + len(chosen))), tokenizer, model_args, data_args)
        outputs = forward(model, heads, batch, processor)
        assert outputs.words is not None
        by_who = dense_scores(outputs.dense)
        by_who["verdict"] = expected_scores(outputs.words, batch, tokenizer, KINDS.index("verdict"))
        for who, of_groups in by_who.items():
            scores.setdefault(who, []).extend(of_groups.numpy())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder of a run, with its dense heads")
    parser.add_argument("--near_misses", default="configs/near_misses.json", help="which pairs (%(default)s)")
    parser.add_argument("--pairs", type=int, help="only the first pairs of the set, for a quick look")
    args = parser.parse_args()
    groups = NearMissSet.from_json(args.near_misses).load()[: args.pairs]
    scores = score(Path(args.model), groups)
    print(near_miss_table({who: near_miss_accuracy(of_groups, groups) for who, of_groups in scores.items()}))


if __name__ == "__main__":
    main()

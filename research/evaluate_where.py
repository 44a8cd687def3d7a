"""Do a scorer's maps show where an edit is wrong? The pointing game and the overlap, on simulated edits.

    python research/evaluate_where.py --scorer checkpoints/editreward-tiny --groups 100
    python research/evaluate_where.py --scorer runs/tiny-vlm/model    # a vision-language model with dense heads
    python research/evaluate_where.py --scorer ssim --methods occlusion --world collage

Prints a table for each dimension, with baselines that know nothing of the instruction.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from editreward import EditRewardScorer, load_scorer
from editreward.benchmarks.pointing import (
    BASELINES,
    FOLLOWING,
    QUALITY,
    by_scorer,
    faults_of,
    pointing,
    pointing_groups,
    pointing_table,
)
from editreward.dense_heads import DenseHeads
from editreward.groups import EditGroup, Scorer
from editreward.groups.where import Where
from editreward.scorers.where import occlusion
from editreward.scorers.where_model import where_by_gradients
from editreward.simulation.worlds import WORLDS
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

METHODS = ("heads", "gradients", "occlusion")


def scorer_of(spec: str) -> Scorer:
    """Any scorer; a vision-language model with dense heads becomes one whose scores mean nothing."""
    config = Path(spec) / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8"))["model_type"] != "editreward":
        heads = DenseHeads.load(spec)
        model = EditRewardModel.from_backbone(spec)
        return EditRewardScorer(model, EditRewardProcessor.from_backbone(spec, pixels=112 * 112), dense_heads=heads)
    return load_scorer(spec)


def ways_of(scorer: Scorer, methods: Sequence[str]) -> dict[str, Callable[[EditGroup], Sequence[Where]]]:
    """The ways to make maps that this scorer has, of those that are asked for."""
    ways: dict[str, Callable[[EditGroup], Sequence[Where]]] = {}
    if isinstance(scorer, EditRewardScorer):
        if scorer.dense_heads is not None:
            ways["heads"] = scorer.where_group
        model, processor = scorer.model, scorer.processor
        ways["gradients"] = lambda group: where_by_gradients(model, processor, group)
    ways["occlusion"] = lambda group: occlusion(scorer, group)
    return {name: way for name, way in ways.items() if name in methods}


def main() -> None:
    """Read the options, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", "--model", required=True, help="any scorer, or a model of research/tiny_vlm")
    parser.add_argument("--groups", type=int, default=100, help="groups of 4 edits (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the first group (default: %(default)s)")
    parser.add_argument("--world", choices=tuple(WORLDS), default="shapes", help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all it has")
    args = parser.parse_args()
    groups = pointing_groups(args.groups, start=args.start, world=args.world)
    faults = [fault for group in groups for fault in faults_of(group)]
    mappers = dict(BASELINES)
    mappers |= {name: by_scorer(way) for name, way in ways_of(scorer_of(args.scorer), args.methods).items()}
    maps = {name: {group.group_id: mapper(group) for group in groups} for name, mapper in mappers.items()}
    for dimension in (FOLLOWING, QUALITY):
        results = {name: pointing(faults, of, dimension) for name, of in maps.items()}
        print(f"\n{dimension}: points at the fault (overlap)\n\n{pointing_table(results)}")


if __name__ == "__main__":
    main()

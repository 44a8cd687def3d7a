"""Average the weights of models of one shape, such as those of a run and of the model that it went on from.

    python research/average_models.py --models runs/first runs/second --weights 0.4 0.6 --output runs/averaged

The configuration, processor and training log are the last model's.
"""

import editreward.scripts

import argparse
import json
import shutil
from pathlib import Path

import torch

from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor


def average(models: list[Path], weights: list[float], output: Path) -> None:
    """Write the weighted average of models, in float32.

    Args:
        models: model folders.
        weights: one for each; they are divided by their sum.
        output: folder to write.

    Raises:
        ValueError: the models differ in the names or shapes of their weights, or a weight is missing or not positive.
    """
    if len(weights) != len(models) or not all(weight > 0 for weight in weights):
        raise ValueError(f"Each of the {len(models)} models needs a positive weight, got {weights}.")
    last = EditRewardModel.from_pretrained(models[-1], dtype=torch.float32)
    total = {name: torch.zeros_like(value) for name, value in last.state_dict().items()}
    for folder, weight in zip(models, weights, strict=True):
        state = EditRewardModel.from_pretrained(folder, dtype=torch.float32).state_dict()
        if {name: value.shape for name, value in state.items()} != {name: v.shape for name, v in total.items()}:
            raise ValueError(f"{folder} and {models[-1]} are models of different shapes.")
        for name, value in state.items():
            total[name] += value * (weight / sum(weights))
    last.load_state_dict(total)
    last.save_pretrained(output)
    EditRewardProcessor.from_pretrained(models[-1]).save_pretrained(output)
    states = [models[-1] / "trainer_state.json", *models[-1].glob("checkpoint-*/trainer_state.json")]
    states = sorted((s for s in states if s.exists()), key=lambda s: json.loads(s.read_text())["global_step"])
    if states:
        shutil.copy(states[-1], output / "trainer_state.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, nargs="+", type=Path, help="model folders")
    parser.add_argument("--weights", required=True, nargs="+", type=float, help="weight of each")
    parser.add_argument("--output", required=True, type=Path, help="model folder to write")
    args = parser.parse_args()
    try:
        average(args.models, args.weights, args.output)
    except ValueError as error:
        parser.error(str(error))
    print(f"Wrote {args.output}.")


if __name__ == "__main__":
    main()

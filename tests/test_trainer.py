"""Collator, trainer and training script, on a tiny random backbone."""

import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

import train_trl
from editreward.simulation import simulate_group
from editreward.training import EditGroupCollator, EditRewardTrainer, EditRewardTrainingArguments
from editreward.training.losses import log_expected_sigmoid
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

ROOT = Path(__file__).parent.parent
BACKBONE = ROOT / "tests" / "golden" / "base_model"
DIMENSIONS = ["instruction_following", "visual_quality"]
PIXELS = 56 * 56


def make_model(seed=0, dtype=torch.float32, **config) -> EditRewardModel:
    torch.manual_seed(seed)
    config = {"head_hidden_sizes": [32, 16], "head_dropout": 0.0} | config
    return EditRewardModel.from_backbone(BACKBONE, dtype=dtype, **config).to(dtype)


def make_processor(**settings) -> EditRewardProcessor:
    return EditRewardProcessor.from_backbone(BACKBONE, pixels=PIXELS, **settings)


def make_dataset(rows) -> Dataset:
    """Rows with PIL images as a dataset, kept as they are."""
    transform = lambda batch: {key: [rows[i][key] for i in batch["i"]] for key in rows[0]}  # noqa: E731
    return Dataset.from_dict({"i": range(len(rows))}).with_transform(transform)


def make_rows(scores_of_groups, size=56, preferences=()):
    """A simulated group for each list of per-candidate scores, with these scores."""
    rows = []
    for seed, scores in enumerate(scores_of_groups):
        row = simulate_group(seed, candidates=len(scores), size=size).to_row()
        for candidate, of_candidate in zip(row["candidates"], scores, strict=True):
            candidate["scores"] = dict(zip(DIMENSIONS, of_candidate, strict=True))
        rows.append(row | {"preferences": list(preferences)})
    return rows


def make_trainer(folder, rows, model=None, processor=None, eval_rows=None, **arguments) -> EditRewardTrainer:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
    }
    return EditRewardTrainer(
        model=model or make_model(),
        args=EditRewardTrainingArguments(**(settings | arguments)),
        train_dataset=make_dataset(rows),
        eval_dataset=make_dataset(eval_rows) if eval_rows else None,
        processing_class=processor or make_processor(),
    )


# Groups with a tie, a null score, different sizes, and one without any usable pair.
SCORES = [
    [(4.0, 3.0), (2.0, 2.0), (1.0, 4.0), (3.0, 1.0)],
    [(1.0, 1.0), (2.0, None), (3.0, 4.0)],
    [(2.0, 3.0), (2.0, 3.0)],
    [(10 / 3, 8 / 3), (4.0, 1.0), (1.0, 1.0)],
]


def pairs_by_loop(scores, dimension=None):
    """(winner, loser) of one group's scores."""
    deciding = [math.nan if None in s else sum(s) for s in scores]
    if dimension is not None:
        deciding = [math.nan if s[dimension] is None else s[dimension] for s in scores]
    return [(i, j) for i, j in itertools.permutations(range(len(scores)), 2) if deciding[i] > deciding[j] + 1e-6]


# Gradients


def score_alone(model, row, index, layout):
    """Mean and log standard deviation of each dimension of one candidate that is run by itself.

    In the paper layout each dimension is a prompt, and is run by a model of that dimension on the same weights.
    """
    source, edited = row["source_images"], [row["candidates"][index]["image"]]
    if layout == "compact":
        output = model(**make_processor(layout=layout)(source, edited, row["instruction"]))
        return output.mean[0], output.log_std[0]
    scores = []
    for k, name in enumerate(DIMENSIONS):
        config = model.config.__class__(
            **{**model.config.to_dict(), "dimensions": [name], "backbone_config": model.config.backbone_config}
        )
        single = EditRewardModel(config, model.backbone)
        single.heads.mlps[0] = model.heads.mlps[k]
        output = single(**make_processor(layout=layout, dimensions=[name])(source, edited, row["instruction"]))
        scores.append(torch.stack([output.mean[0, 0], output.log_std[0, 0]]))
    return torch.stack(scores).unbind(-1)


@pytest.mark.parametrize("loss", ["nll", "expected_nll"])
@pytest.mark.parametrize("layout", ["paper", "compact"])
def test_packed_loss_and_gradients_equal_the_mean_over_pairs_run_one_at_a_time(tmp_path, layout, loss):
    model = make_model(dtype=torch.float64, layout=layout)
    (row,) = make_rows(SCORES[:1])
    trainer = make_trainer(
        tmp_path, [row], model, make_processor(layout=layout), loss=loss, dimension_weight=0.7
    )
    packed = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator([row])))
    packed.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    nodes = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-nodes * nodes / 2) / torch.exp(-nodes * nodes / 2).sum()

    def pair_loss(difference, variance):
        z = difference + variance.sqrt() * nodes
        if loss == "nll":
            return -torch.log((density * torch.sigmoid(z)).sum())
        return (density * F.softplus(-z)).sum()

    total = 0.0
    terms = [(None, 1.0), (0, 0.7 / 2), (1, 0.7 / 2)]
    for dimension, weight in terms:
        pairs = pairs_by_loop(SCORES[0], dimension)
        for winner, loser in pairs:
            (mean_i, log_std_i), (mean_j, log_std_j) = (score_alone(model, row, k, layout) for k in (winner, loser))
            difference, variances = mean_i - mean_j, (2 * log_std_i).exp() + (2 * log_std_j).exp()
            if dimension is None:
                value = pair_loss(difference.mean(), variances.sum() / 4)
            else:
                value = pair_loss(difference[dimension], variances[dimension])
            value = weight / len(pairs) * value
            value.backward()
            total += value.item()

    assert packed.item() == pytest.approx(total, rel=1e-6)
    largest = max(gradient.norm() for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            error = (gradients[name] - parameter.grad).norm()
            assert error <= 1e-6 * max(parameter.grad.norm(), 1e-3 * largest), name
    assert gradients["backbone.visual.patch_embed.proj.weight"].norm() > 0

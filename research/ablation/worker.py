"""One run of an ablation, in a process of its own: train, then evaluate.

    python -m research.ablation.worker runs/ablation/3f2a91c0b7de

The folder holds `run.json`, the settings. Training goes on from its last checkpoint there if it was stopped, and is
not repeated once it has ended. `result.json` is written last.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from editreward.benchmarks.simulated_test_set import TestSet
from editreward.files import write_text
from editreward.scorers.reward_model import EditRewardScorer
from editreward.simulation import SimulatedGroup, simulate_groups
from editreward.statistics import (
    expected_calibration_error,
    fit_calibration,
    log_loss,
    pair_accuracy,
    strict_ranking_accuracy,
)
from editreward.statistics.preferences import preference_probability
from research.ablation.running import locked

LIBRARIES = ("torch", "transformers", "trl", "numpy", "pillow")
TOKEN_GROUPS = 20


def main(folder: Path) -> None:
    """Train and evaluate what `run.json` of the folder says."""
    with locked(folder):
        train_and_evaluate(folder)


def train_and_evaluate(folder: Path) -> None:
    settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    trained = folder / "trained.json"
    if not (trained.exists() and (folder / "model" / "config.json").exists()):
        write_text(trained, json.dumps(train(settings, folder)))
    start = time.monotonic()
    metrics = evaluate_model(folder / "model", **settings["evaluation"])
    result = {
        **json.loads(trained.read_text(encoding="utf-8")),
        "metrics": metrics,
        "evaluation_seconds": round(time.monotonic() - start, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "machine": f"{platform.system()} {platform.machine()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}",
    }
    write_text(folder / "result.json", json.dumps(result))


def train(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train with train_trl.py.

    Returns:
        `curves`, `steps`, `groups_seen` (epochs x groups), `train_seconds` of this process and whether it `resumed`.
    """
    import yaml

    from editreward.training import script

    options = {**settings["train"], "output_dir": str(folder / "model")}
    if "backbone_folder" in settings:
        options["model_name_or_path"] = settings["backbone_folder"]
    resumed = any((folder / "model").glob("checkpoint-*/trainer_state.json"))
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(options | ({"resume_from_checkpoint": "true"} if resumed else {})))
    start, load_model = time.monotonic(), script.load_model

    def load_scaled(*args: Any) -> Any:
        model, processor = load_model(*args)
        scale_heads(model, settings.get("head_scale", 1.0))
        return model, processor

    script.load_model = load_scaled  # type: ignore[assignment]
    try:
        script.main(["--config", str(config)])
    finally:
        script.load_model = load_model
    seconds = time.monotonic() - start
    state = last_state(folder / "model")
    return {
        "curves": curves(state["log_history"]),
        "steps": state["global_step"],
        "groups_seen": round(state["epoch"] * options["simulated_train_groups"]),
        "train_seconds": round(seconds, 1),
        "resumed": resumed,
    }


def scale_heads(model: nn.Module, factor: float) -> None:
    """Multiply what every head says, its mean and its standard deviation, by a factor."""
    import torch

    with torch.no_grad():
        for mlp in model.heads.mlps:  # type: ignore[union-attr]
            mlp[-1].weight[0] *= factor  # the mean
            mlp[-1].bias[0] *= factor
            mlp[-1].bias[1] += np.log(factor)  # the log of the standard deviation


def last_state(folder: Path) -> dict[str, Any]:
    """The state of the Trainer at the end of a training, from the last checkpoint."""
    states = [json.loads(path.read_text()) for path in folder.glob("checkpoint-*/trainer_state.json")]
    if not states:
        raise ValueError(f"{folder} holds no checkpoint: the recipe of an ablation needs `save_strategy: steps`.")
    return max(states, key=lambda state: state["global_step"])


def curves(log_history: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Loss and accuracy by step, in training (on the scores as annotated) and on validation groups (exact ones)."""
    series: dict[str, dict[str, list[float]]] = {}
    for name, prefix in (("train", ""), ("validation", "eval_")):
        entries = [entry for entry in log_history if f"{prefix}loss" in entry]
        series[name] = {"step": [entry["step"] for entry in entries]}
        for metric in ("loss", "accuracy"):
            series[name][metric] = [round(entry[f"{prefix}{metric}"], 4) for entry in entries]
    return series


def evaluate_model(
    model: str | Path, test_set: str, groups: int | None = None, validation_groups: int = 100
) -> dict[str, Any]:
    """Metrics of a model on simulated groups, whose scores are exact.

    Args:
        model: folder.
        test_set, groups, validation_groups: see `research.ablation.Evaluation`.

    Returns:
        `accuracy` of pairs by the reward, `accuracy_NAME` by a dimension's mean, `strict_3` and `strict_4`, in 0..1;
        `rmse` of the reward and `rmse_NAME` of the dimensions' means against the true scores (the sum's, 2..8 for two
        dimensions, and 1..4), after the affine map that fits validation groups best, null where it would not rise;
        `log_loss` and `calibration_error` (of ten bins) of the preference probability of pairs whose truth differs;
        `std_NAME`, the mean standard deviation; `tokens` of a group.
    """
    scorer = EditRewardScorer.from_pretrained(model)
    scorer.model.config.calibration = None  # raw means, whatever training has saved
    tested = Scored(scorer, TestSet.from_json(test_set).load()[:groups])
    fitted = Scored(scorer, list(simulate_groups(validation_groups, "validation")))
    metrics: dict[str, Any] = {"test_groups": len(tested.truth["reward"])}
    for name in tested.truth:
        suffix = "" if name == "reward" else f"_{name}"
        metrics[f"accuracy{suffix}"] = pair_accuracy(tested.mean[name], tested.truth[name]).value
        metrics[f"rmse{suffix}"] = affine_rmse(fitted, tested, name)
        if suffix:
            metrics[f"std{suffix}"] = float(np.concatenate(tested.std[name]).mean())
    for k in (3, 4):
        metrics[f"strict_{k}"] = strict_ranking_accuracy(tested.mean["reward"], tested.truth["reward"], k).value
    probabilities = preference_probabilities(tested, scorer.model.config.preference_link)
    metrics["log_loss"] = log_loss(probabilities)
    metrics["calibration_error"] = expected_calibration_error(probabilities)
    metrics["tokens"] = tested.tokens
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in metrics.items()}


class Scored:
    """Raw means, standard deviations and true scores of `reward` and of each dimension, an array for each group."""

    def __init__(self, scorer: EditRewardScorer, groups: Sequence[SimulatedGroup]) -> None:
        source = [group.source for group in groups]
        edited = [[candidate.image for candidate in group.candidates] for group in groups]
        instruction = [group.instruction for group in groups]
        scores = scorer.score(source=source, edited=edited, instruction=instruction)
        names = scorer.model.config.dimensions
        self.mean = {n: [np.array([s.dimensions[n].mean for s in group]) for group in scores] for n in names}
        self.std = {n: [np.array([s.dimensions[n].std for s in group]) for group in scores] for n in names}
        self.truth = {n: [np.array([float(c.scores[n]) for c in g.candidates]) for g in groups] for n in names}
        self.mean["reward"] = [np.array([score.reward for score in group]) for group in scores]
        self.std["reward"] = [np.array([score.reward_std for score in group]) for group in scores]
        self.truth["reward"] = [np.sum(truths, axis=0) for truths in zip(*self.truth.values(), strict=True)]
        packed = scorer.processor(source[:TOKEN_GROUPS], edited[:TOKEN_GROUPS], instruction[:TOKEN_GROUPS])
        self.tokens = float((packed["segment_ids"] >= 0).sum() / len(packed["segment_ids"]))


def affine_rmse(fitted: Scored, tested: Scored, name: str) -> float | None:
    """Root mean square error of means that an affine map, fitted on other groups, brings to the scale of the truth."""
    try:
        line = fit_calibration(np.concatenate(fitted.mean[name]), np.concatenate(fitted.truth[name]))
    except ValueError:  # the best map would turn the order around
        return None
    error = line["intercept"] + line["slope"] * np.concatenate(tested.mean[name]) - np.concatenate(tested.truth[name])
    return float(np.sqrt(np.mean(error**2)))


def preference_probabilities(scored: Scored, link: str) -> np.ndarray:
    """P(the better one is preferred) of all pairs whose truth differs, shape `(pairs,)`."""
    import torch

    parts = []
    of_groups = zip(scored.mean["reward"], scored.std["reward"], scored.truth["reward"], strict=True)
    for mean, std, truth in of_groups:
        better, worse = np.nonzero(np.subtract.outer(truth, truth) > 0)
        m, log_std = torch.from_numpy(mean), torch.from_numpy(np.log(std))
        parts.append(preference_probability(m[better], log_std[better], m[worse], log_std[worse], link).numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

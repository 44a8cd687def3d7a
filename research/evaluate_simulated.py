"""Evaluate a scorer on the held-out simulated groups, with the control of shuffled instructions.

    python research/evaluate_simulated.py --model checkpoints/editreward-tiny
    python research/evaluate_simulated.py --scorer ssim --groups 100
    python research/evaluate_simulated.py --model runs/editreward-tiny --calibrate
    python research/evaluate_simulated.py --model runs/editreward-tiny --test_set configs/collage_test_set.json
    python research/evaluate_simulated.py --model runs/editreward-tiny-both --calibrate shapes collage

`--calibrate` first fits the calibration on validation groups and saves it into the model's config; for one of several
worlds name them. Results are printed as Markdown; those of a model on the whole set are written beside it as
`results.json` and `results.md`, and into the metadata of its card; of another world than that of shapes, as
`results_WORLD.json` and `results_WORLD.md` alone.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard

from editreward import EditRewardScorer, load_scorer
from editreward.benchmarks.simulated_test_set import TestSet, evaluate, judge, report_table, shuffled_instructions
from editreward.data.sources import SIMULATED, numbered_rows
from editreward.groups import Scorer
from editreward.hub_ids import PIPELINE_TAG
from editreward.scorers.calibrating import fit_scorer, save_in_model
from editreward.simulation import SimulatedGroup
from editreward.simulation.worlds import WORLDS
from editreward.statistics import calibration_error


def main() -> None:
    """Read the options, evaluate, print, and write what is complete beside the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", "--model", required=True, help="any scorer: a model folder, ssim, FILE.yaml, ...")
    parser.add_argument("--test_set", default="configs/simulated_test_set.json", help="which groups (%(default)s)")
    parser.add_argument("--groups", type=int, help="only the first groups of the set, for a quick look")
    parser.add_argument(
        "--calibrate",
        nargs="*",
        choices=tuple(WORLDS),
        help="fit and save a model's calibration first, on groups of these worlds (default: that of the test set)",
    )
    parser.add_argument("--validation_groups", type=int, default=500, help="to calibrate on, by world (%(default)s)")
    args = parser.parse_args()
    if args.calibrate is not None and args.groups is not None:
        parser.error("--groups is for a look, which writes nothing; --calibrate writes: give one of the two")

    scorer = load_scorer(args.scorer)
    fitted_mean = dict.fromkeys(scorer.dimensions, 2.5)  # the scores are uniform on 1..4
    test_set = TestSet.from_json(args.test_set)
    if args.calibrate is not None:
        names = [f"{SIMULATED}:{world}" for world in args.calibrate or [test_set.world]]
        fitted_mean = calibrate(scorer, Path(args.scorer), args.validation_groups, names)
    groups = test_set.load()[: args.groups]
    result = evaluate_with_control(scorer, groups, fitted_mean)
    if len(groups) == test_set.groups:
        result["test_set"] = vars(test_set)
    result["versions"] = {library.__name__: library.__version__ for library in (torch, transformers, np, PIL)}
    markdown = f"{report_table(result)}\n\n{more_tables(result)}"
    print(f"Scorer {scorer.name}.\n\n{markdown}")
    folder = Path(args.scorer)
    if "test_set" not in result or not (folder / "config.json").is_file():
        return  # a part of the set says nothing that is to be kept
    stem = "results" if test_set.world == "shapes" else f"results_{test_set.world}"
    for name, text in ((f"{stem}.json", json.dumps(result, indent=1) + "\n"), (f"{stem}.md", markdown + "\n")):
        (folder / name).write_text(text, encoding="utf-8")
    if test_set.world == "shapes" and (folder / "README.md").is_file():
        write_metadata(folder, result)


def calibrate(scorer: Scorer, folder: Path, groups: int, names: Sequence[str] = (SIMULATED,)) -> dict[str, float]:
    """Fit a model's calibration on validation groups, so many of each simulated dataset, and save it into its config.

    Returns:
        The mean true score by dimension.

    Raises:
        ValueError: the scorer is no reward model.
    """
    if not isinstance(scorer, EditRewardScorer):
        raise ValueError(f"{scorer.name} is no reward model: it has no calibration to be saved.")
    scorer.use_calibration(None)
    rows = [row for name in names for _, row in numbered_rows(name, "validation", limit=groups)]
    fit = fit_scorer(scorer, rows)
    save_in_model(folder, fit.calibration)
    scorer.use_calibration(fit.calibration)
    scores = [candidate["scores"] for row in rows for candidate in row["candidates"]]
    return {name: float(np.mean([one[name] for one in scores])) for name in scorer.dimensions}


def evaluate_with_control(
    scorer: Scorer, groups: Sequence[SimulatedGroup], fitted_mean: Mapping[str, float]
) -> dict[str, Any]:
    """Accuracies, those with shuffled instructions and, of a calibrated scorer, its errors."""
    judgements = judge(scorer, groups)
    result = evaluate(judgements, groups)
    control = evaluate(judge(scorer, groups, shuffled_instructions(groups)), groups)
    result["shuffled_instructions"] = {
        name: control[name]["accuracy"] for name in ("overall", *scorer.dimensions) if name in control
    }
    result["calibration"] = {}
    config = getattr(getattr(scorer, "model", None), "config", None)
    lines = getattr(config, "calibration", None) or {}
    for name in scorer.dimensions if lines else ():
        affine = lines[name]
        mean, std, truth = (
            np.concatenate(values[name]) for values in (judgements.mean, judgements.std, judgements.truth)
        )
        error = calibration_error(mean, std, truth, fitted_mean=fitted_mean[name])
        result["calibration"][name] = {**affine, **error.to_dict()}
    return result


def write_metadata(folder: Path, result: dict[str, Any]) -> None:
    """Put the accuracies into the `model-index` of a model's card, where the Hub reads them."""
    card = ModelCard.load(folder / "README.md")
    card.data.model_name = folder.resolve().name
    card.data.metrics = ["accuracy"]
    card.data.eval_results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type="simulated",
            dataset_name=f"simulated groups, {result['groups']} held out",
            metric_type="accuracy",
            metric_name=f"pairs ranked right, {name.replace('_', ' ')}",
            metric_value=round(result[name]["accuracy"]["value"], 4),
        )
        for name in result["shuffled_instructions"]
    ]
    card.save(folder / "README.md")


def more_tables(result: dict[str, Any]) -> str:
    """The control and the calibration as Markdown."""
    lines = ["With the instructions shuffled between groups:", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {100 * share['value']:.1f} %"
        for name, share in result["shuffled_instructions"].items()
    ]
    if result["calibration"]:
        lines += [
            "",
            "Calibrated scores, in points of the 1..4 scale:",
            "",
            "| dimension | root mean square error | of predicting the mean | mean absolute error "
            "| within intervals of 50, 80, 95 % | rank correlation of error and std |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name.replace('_', ' ')} | {c['rmse']:.2f} | {c['rmse_of_mean']:.2f} | {c['mae']:.2f} "
            f"| {100 * c['coverage_50']:.0f}, {100 * c['coverage_80']:.0f}, {100 * c['coverage']:.0f} % "
            f"| {c['std_correlation']:.2f} |"
            for name, c in result["calibration"].items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

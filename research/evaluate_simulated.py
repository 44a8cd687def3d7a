"""Evaluate a model on the held-out simulated groups, with the control of shuffled instructions.

    python research/evaluate_simulated.py --model checkpoints/editreward-tiny
    python research/evaluate_simulated.py --model runs/editreward-tiny --calibrate

`--calibrate` first fits the calibration on validation groups and saves it into the model's config. Results are printed
as Markdown and written beside the model as `results.json` and `results.md`; those on the whole set also go into the
metadata of its card.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard

from configuration_editreward import EditRewardConfig
from editreward import EditRewardScorer
from editreward.benchmarks.simulated_test_set import TestSet, evaluate, judge, report_table, shuffled_instructions
from editreward.hub_ids import PIPELINE_TAG
from editreward.simulation import simulate_groups
from editreward.statistics import calibration_error, fit_calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--test_set", default="configs/simulated_test_set.json", help="which groups (%(default)s)")
    parser.add_argument("--groups", type=int, help="only the first groups of the set, for a quick look")
    parser.add_argument("--calibrate", action="store_true", help="fit and save the calibration first")
    parser.add_argument("--validation_groups", type=int, default=500, help="to calibrate on (%(default)s)")
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()

    scorer = EditRewardScorer.from_pretrained(args.model)
    config = scorer.model.config
    print(f"Model {args.model}: {scorer.model.num_parameters():,} parameters.\n")
    fitted_mean = dict.fromkeys(config.dimensions, 2.5)  # the scores are uniform on 1..4
    if args.calibrate:
        config.calibration = None
        validation = judge(scorer, list(simulate_groups(args.validation_groups, "validation")))
        config.calibration = {
            name: fit_calibration(np.concatenate(validation.mean[name]), np.concatenate(validation.truth[name]))
            for name in config.dimensions
        }
        fitted_mean = {name: float(np.concatenate(truth).mean()) for name, truth in validation.truth.items()}
        # Not the loaded model's own: that one has this machine's precision.
        saved_config = EditRewardConfig.from_pretrained(args.model)
        saved_config.calibration = config.calibration
        saved_config.save_pretrained(args.model)

    test_set = TestSet.from_json(args.test_set)
    groups = test_set.load()[: args.groups]
    judgements = judge(scorer, groups)
    result = evaluate(judgements, groups)
    control = evaluate(judge(scorer, groups, shuffled_instructions(groups)), groups)
    result["shuffled_instructions"] = {name: control[name]["accuracy"] for name in ("overall", *config.dimensions)}
    result["calibration"] = {}
    for name, affine in (config.calibration or {}).items():
        mean, std, truth = (
            np.concatenate(values[name]) for values in (judgements.mean, judgements.std, judgements.truth)
        )
        error = calibration_error(mean, std, truth, fitted_mean=fitted_mean[name])
        result["calibration"][name] = {**affine, **error.to_dict()}
    if len(groups) == test_set.groups:
        result["test_set"] = vars(test_set)
    result["versions"] = {library.__name__: library.__version__ for library in (torch, transformers, np, PIL)}

    markdown = f"{report_table(result)}\n\n{more_tables(result)}"
    print(markdown)
    for name, text in (("results.json", json.dumps(result, indent=1) + "\n"), ("results.md", markdown + "\n")):
        (Path(args.model) / name).write_text(text, encoding="utf-8")
    if "test_set" in result and (Path(args.model) / "README.md").is_file():
        write_metadata(Path(args.model), result)


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
            "| dimension | root mean square error | of predicting the mean | mean absolute error | within 1.96 std |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {name.replace('_', ' ')} | {c['rmse']:.2f} | {c['rmse_of_mean']:.2f} | {c['mae']:.2f} "
            f"| {100 * c['coverage']:.0f} % |"
            for name, c in result["calibration"].items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

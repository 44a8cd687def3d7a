"""The card of a trained model, written from the run: data, recipe, metrics, curves, use and limits."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainerState, TrainingArguments
from trl import RewardConfig

from configuration_editreward import EditRewardConfig
from editreward.hub_ids import PIPELINE_TAG, is_hub_id
from editreward.statistics import CalibrationError
from editreward.training.curves import draw_curves
from editreward.training.losses import RewardLoss
from editreward.training.metrics import metric_name

CURVES = "curves.png"
PACKAGES = ("editreward", "torch", "transformers", "trl", "accelerate", "datasets", "peft")
SIMULATED = "simulated"

# Arguments of every recipe, by what the card calls them. Our own follow where they are not at their defaults.
ARGUMENTS = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps, or their share",
    "optim": "optimizer",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient clipping",
    "seed": "seed",
}
# Longer names first, which the shorter ones begin.
CALIBRATION_ERRORS = "|".join(sorted((field.name for field in dataclasses.fields(CalibrationError)), reverse=True))
UNTOLD = ("loss", "hardest_groups", "early_stopping_patience", "early_stopping_threshold", "calibrate")


class TrainedRun(Protocol):
    """What a card tells of an [`EditRewardTrainer`]."""

    args: TrainingArguments
    state: TrainerState
    model: PreTrainedModel
    accelerator: Accelerator
    train_dataset: Dataset | IterableDataset
    eval_dataset: Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset] | None
    dimensions: list[str]
    loss: RewardLoss
    hub_model_id: str | None
    is_in_train: bool

    def get_num_trainable_parameters(self) -> int:
        """How many weights are trained."""
        ...


def write_model_card(
    trainer: TrainedRun,
    name: str,
    dataset_names: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> ModelCard:
    """Write `README.md`, and after training the curves beside it, into the run's output folder.

    Args:
        trainer: of the run. What it did comes from its arguments and its log history.
        name: of the model.
        dataset_names: what it was trained on. Those that are no Hub ids are not named: a path tells a reader nothing.
        tags: for the Hub.
    """
    args, state, config = trainer.args, trainer.state, trainer.model.config
    folder = Path(args.output_dir)
    dimensions = trainer.dimensions
    sets = evaluation_sets(trainer)
    results = [entry for entry in (last_evaluation(state.log_history, prefix) for prefix in sets) if entry]
    hub_names = told_names(dataset_names)
    base_model = base_of(trainer)
    card_data = ModelCardData(
        library_name="peft" if is_adapter(trainer) else "transformers",
        pipeline_tag=PIPELINE_TAG,
        base_model=base_model,
        datasets=hub_names or None,
        metrics=["accuracy"],
        tags=list(dict.fromkeys(tags)),
        model_name=name,
        eval_results=eval_results(results, dimensions, hub_names) or None,
    )
    calibrated = next((entry for entry in results if config.calibration and "calibration" in entry), None)
    best_step = state.best_global_step if args.load_best_model_at_end else None
    curves = None
    if not trainer.is_in_train and draw_curves(state.log_history, list(sets), dimensions, folder / CURVES):
        curves = CURVES
    card = ModelCard.from_template(
        card_data,
        template_str=(files("editreward.training") / "model_card.md").read_text(encoding="utf-8"),
        name=name,
        hub_id=trainer.hub_model_id or name,
        adapter=is_adapter(trainer),
        dimensions=dimensions,
        results=results,
        rows=result_rows(results, dimensions),
        best_step=best_step,
        best_metric=args.metric_for_best_model,
        calibration_set=calibrated and calibrated["set"],
        calibration=calibrated and [(_title(name), error) for name, error in calibrated["calibration"].items()],
        std_calibrated=calibrated and all("std_factor" in line for line in config.calibration.values()),
        curves=curves,
        data=data_rows(trainer, dataset_names, results),
        recipe=[(label, value) for label, value in recipe(trainer, base_model) if value not in (None, "")],
        limits=limits(config, dataset_names, bool(results)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    card.save(folder / "README.md")
    return card


def told_names(dataset_names: Sequence[str]) -> list[str]:
    """The datasets that a reader can find: those on the Hub."""
    return [name for name in dataset_names if not _is_simulated(name) and is_hub_id(name)]


def is_adapter(trainer: TrainedRun) -> bool:
    """Whether an adapter is trained."""
    return hasattr(trainer.model, "peft_config")


def base_of(trainer: TrainedRun) -> str | None:
    """The Hub id of the model that training started from, if it is on the Hub."""
    name = getattr(trainer.model.config, "_name_or_path", None) or getattr(
        trainer.model.config.backbone_config, "_name_or_path", None
    )
    return name if name and is_hub_id(name) else None


def evaluation_sets(trainer: TrainedRun) -> dict[str, str]:
    """What to call each evaluation set, by the prefix of its metrics."""
    if isinstance(trainer.eval_dataset, dict):
        return {f"eval_{name}": name for name in trainer.eval_dataset}
    return {"eval": "evaluation set"}


def last_evaluation(log_history: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any] | None:
    """The last metrics of an evaluation set, without their prefix, and the errors of a calibration on it."""
    entries = [entry for entry in log_history if f"{prefix}_num_groups" in entry]
    if not entries:
        return None
    found = {name.removeprefix(f"{prefix}_"): value for name, value in entries[-1].items() if name.startswith(prefix)}
    result = {**found, "prefix": prefix, "set": "evaluation set" if prefix == "eval" else prefix.removeprefix("eval_")}
    errors: dict[str, dict[str, float]] = {}
    for entry in log_history:
        for name, value in entry.items():
            match = re.fullmatch(rf"{re.escape(prefix)}_calibration_({CALIBRATION_ERRORS})_(\w+)", name)
            if match:
                errors.setdefault(match[2], {})[match[1]] = value
    return {**result, "calibration": errors} if errors else result


def result_rows(results: Sequence[Mapping[str, Any]], dimensions: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The table of metrics: a row's label, and its cell for each evaluation set."""
    names = [("accuracy", "accuracy"), ("accuracy_with_ties", "accuracy with ties")]
    shown = [
        (metric_name(metric, dimension), f"{label}, {_title(dimension) if dimension else 'overall'}", "%")
        for metric, label in names
        for dimension in (None, *dimensions)
    ]
    shown += [("calibration_error", "calibration error", "%"), ("loss", "loss", ""), ("ties", "tied pairs", "%")]
    rows = []
    for metric, label, unit in shown:
        values = [result.get(metric) for result in results]
        if any(value is not None for value in values):
            rows.append((label, ["-" if v is None else f"{100 * v:.1f} %" if unit else f"{v:.3f}" for v in values]))
    return rows


def eval_results(
    results: Sequence[Mapping[str, Any]], dimensions: Sequence[str], datasets: Sequence[str]
) -> list[EvalResult]:
    """The accuracies as the Hub's `model-index` takes them."""
    return [
        EvalResult(
            task_type=PIPELINE_TAG,
            task_name="Reward modeling of image edits",
            dataset_type=datasets[0] if len(datasets) == 1 else "edit-groups",
            dataset_name=result["set"],
            dataset_split=result["set"] if len(results) > 1 else None,  # results of one split are merged
            metric_type="accuracy",
            metric_name=f"{metric.replace('_', ' ')}{f', {_title(dimension)}' if dimension else ''}",
            metric_value=round(result[metric_name(metric, dimension)], 4),
        )
        for result in results
        for metric in ("accuracy", "accuracy_with_ties")
        for dimension in (None, *dimensions)
        if metric_name(metric, dimension) in result
    ]


def _is_simulated(name: str) -> bool:
    return name.partition(":")[0] == SIMULATED


def data_rows(
    trainer: TrainedRun, dataset_names: Sequence[str], results: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """Name, groups, candidates and pairs of what was trained and evaluated on."""
    counts = ("num_groups", "num_candidates", "num_pairs")
    told = [f"`{name}`" for name in told_names(dataset_names)]
    told += ["simulated groups"] if any(map(_is_simulated, dataset_names)) else []
    rows = []
    size = len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None
    rows.append(
        [f"training: {', '.join(told) or 'not published'}", "streamed" if size is None else f"{size:,}", "", ""]
    )
    seen = next((entry for entry in reversed(trainer.state.log_history) if counts[0] in entry), None)
    if seen is not None:
        rows.append(["seen in training, repetitions included", *(f"{seen[name]:,}" for name in counts)])
    return rows + [[result["set"], *(f"{result[name]:,}" for name in counts)] for result in results]


def recipe(trainer: TrainedRun, base_model: str | None) -> list[tuple[str, object]]:
    """What a reader needs to do it again, as labels and values."""
    args, state, config = trainer.args, trainer.state, trainer.model.config
    processes = trainer.accelerator.num_processes
    device = trainer.accelerator.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    runtime = next((e["train_runtime"] for e in reversed(state.log_history) if "train_runtime" in e), None)
    last: Mapping[str, float] = next((e for e in reversed(state.log_history) if "groups_per_second" in e), {})
    model = [
        ("base model", base_model and f"`{base_model}`"),
        ("backbone", f"`{config.backbone_config.model_type}`, {trainer.model.num_parameters():,} parameters"),
        ("trained parameters", f"{trainer.get_num_trainable_parameters():,}"),
        ("heads", f"{config.head_type}, {config.aggregation} of {', '.join(config.dimensions)}"),
        ("layout, positions", f"{config.layout}, {config.position_scheme}"),
    ]
    training: list[tuple[str, object]] = [("loss", trainer.loss.name)]
    training += [(label, _plain(getattr(args, name))) for name, label in ARGUMENTS.items()]
    unit, batch = "pairs" if args.split_into_pairs else "groups", args.per_device_train_batch_size
    if args.max_tokens_per_batch is not None:
        unit, batch = "tokens at most", args.max_tokens_per_batch
    in_step = batch * args.gradient_accumulation_steps * processes
    precision = next((name for name in ("bf16", "fp16") if getattr(args, name)), None)
    training += [
        ("steps", f"{state.global_step:,} ({state.epoch or 0:.3g} epochs)"),
        (f"{unit} per step", f"{in_step:,} ({batch:,} x {args.gradient_accumulation_steps} micro-batches x "
         f"{processes} processes)"),
        ("precision", f"{precision} autocast" if precision else "float32"),
    ]  # fmt: skip
    own = {field.name: field for field in dataclasses.fields(args)}
    inherited = {field.name for field in dataclasses.fields(RewardConfig)} | {*ARGUMENTS, *UNTOLD}
    training += [
        (name.replace("_", " "), _plain(getattr(args, name)))
        for name, field in own.items()
        if name not in inherited and getattr(args, name) != field.default and not _is_path(getattr(args, name))
    ]
    run = [
        ("hardware", f"{processes} x {hardware}"),
        ("time", runtime and str(timedelta(seconds=round(runtime)))),
        ("groups per second", last and f"{last['groups_per_second']:.2f}"),
        ("peak memory", last and f"{last['peak_memory_gib']:.1f} GiB per process"),
        ("versions", ", ".join(f"{name} {found}" for name, found in versions().items())),
    ]
    return [*model, *training, *run]


def versions() -> dict[str, str]:
    """Versions of the packages that a run depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def limits(config: EditRewardConfig, dataset_names: Sequence[str], evaluated: bool) -> list[str]:
    """What a reader must know before relying on the scores."""
    told = []
    if any(map(_is_simulated, dataset_names)):
        shown = "coloured shapes" if set(dataset_names) == {SIMULATED} else "coloured shapes or named drawings"
        told.append(
            f"It was trained on simulated scenes of {shown}"
            + (" and more" if len(dataset_names) > 1 else " and knows nothing else: its scores of photos mean nothing")
            + "."
        )
    told.append(
        "Scores of edits of one source and instruction can be compared. Across sources calibrated scores can, "
        "within the errors above."
        if config.calibration
        else "Only scores of edits of one source and instruction can be compared."
    )
    told.append(
        "It learned what its annotators preferred, with their tastes and mistakes. Judge it on your own edits before "
        "you filter data or train a generator with it: what is optimised against a reward model finds its weaknesses."
    )
    if evaluated:
        told.append("Editors, subjects and wordings that its data lacks may be judged worse than the results say.")
    return told


def _title(dimension: str) -> str:
    return dimension.replace("_", " ")


def _plain(value: object) -> object:
    """A value as a reader writes it in a config."""
    value = getattr(value, "value", value)
    return (
        ", ".join(map(str, value))
        if isinstance(value, (list, tuple))
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )


def _is_path(value: object) -> bool:
    return isinstance(value, (str, Path)) and ("/" in str(value) or "\\" in str(value))

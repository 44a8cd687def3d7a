"""A model as it is published: weights in shards, code, processor, and a card with metadata and results."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from editreward.dense_heads import DenseHeads
from editreward.files import atomic_folder
from editreward.hub_ids import PIPELINE_TAG, is_hub_id
from editreward.scorers.loading import load_model_and_processor
from modeling_editreward import EditRewardModel

TAGS = ("reward-model", "image-editing", "editreward")
MAX_SHARD_SIZE = "5GB"

# Weights of an earlier version that has more or other shards.
REPLACED_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pth", "*.pt")
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

UNKNOWN_LICENSE = "unknown"
BENCHMARKS = "## Benchmarks"


@dataclass(frozen=True)
class CardOptions:
    """What is said of a model beside what its folder tells. What is `None` or empty leaves the card's own entry.

    Attributes:
        license: the Hub's identifier of a licence.
        base_model: Hub id of the model that it was trained from.
        datasets: Hub ids of what it was trained on.
        results: files that `editreward bench --output` wrote (`result.json`).
    """

    license: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    results: Sequence[str | Path] = ()


def write_model(
    name: str,
    folder: Path,
    repo_id: str,
    options: CardOptions,
    *,
    max_shard_size: str = MAX_SHARD_SIZE,
    hub_kwargs: Mapping[str, object] | None = None,
) -> ModelCard:
    """Write what is published of a model into a new folder.

    The model is loaded first, so that nothing is published that cannot be: its weights are complete and finite, and
    the processor is its own. The code files are those of the installed package.

    Args:
        name: folder or Hub id of the model.
        folder: must not exist, or be empty. It is there in the end, or, after an error, not at all.
        repo_id: where it will be on the Hub.
        options: for the card.
        max_shard_size: of a file of weights, such as "5GB".
        hub_kwargs: `revision`, `token` ... of a model on the Hub.

    Returns:
        The card that was written.

    Raises:
        ValueError: the folder is not empty, a result is none of `editreward bench`, or an adapter sits on a model that
            others do not have.
        ModelError: the model cannot be used.
    """
    tables = [read_result(path) for path in options.results]
    with atomic_folder(folder) as part:
        model, processor = load_model_and_processor(name, dtype="auto", **(hub_kwargs or {}))
        base = adapter_base(model)
        if base is not None and Path(base).exists():
            raise ValueError(
                f"{name} is an adapter on {base}, a folder that only this machine has. Make one model of both with "
                "`editreward merge`, or name the model's Hub id in adapter_config.json."
            )
        model.save_pretrained(part, max_shard_size=max_shard_size)
        processor.save_pretrained(part)
        if (heads := DenseHeads.find(name, **(hub_kwargs or {}))) is not None:
            heads.save(part)
        card = model_card(name, model, repo_id, options, tables)
        card.save(part / "README.md")
        for path in named_files(card, Path(name)):
            (part / path.name).write_bytes(path.read_bytes())
    return card


def adapter_base(model: EditRewardModel) -> str | None:
    """The model that an adapter sits on; `None` for a whole model."""
    configs = getattr(model, "peft_config", None) or {}
    return next((str(config.base_model_name_or_path) for config in configs.values()), None)


def model_card(
    name: str,
    model: EditRewardModel,
    repo_id: str,
    options: CardOptions,
    results: Sequence[Mapping[str, Any]] = (),
) -> ModelCard:
    """The model's own card, or a new one where it has none, with the metadata and results that are given.

    Args:
        name: folder or Hub id that the model was loaded from.
        model: the model.
        repo_id: where it will be.
        options: what to say.
        results: contents of the files of results.
    """
    readme = Path(name) / "README.md"
    base = adapter_base(model)
    if readme.is_file():
        card = ModelCard.load(readme, ignore_metadata_errors=True)
        _rename(card, Path(name).resolve().name, repo_id)
    else:
        config = model.config
        card = ModelCard.from_template(
            ModelCardData(),
            template_str=(files("editreward.publishing") / "model_card.md").read_text(encoding="utf-8"),
            name=repo_id.split("/")[-1],
            repo_id=repo_id,
            adapter=base is not None,
            config=config,
            backbone=config.backbone_config.model_type,
            millions=round(model.num_parameters() / 1e6, 1),
        )
    data = card.data
    data.library_name = data.library_name or ("transformers" if base is None else "peft")
    data.pipeline_tag = data.pipeline_tag or PIPELINE_TAG
    data.license = options.license or data.license or UNKNOWN_LICENSE
    data.base_model = options.base_model or data.base_model or base
    data.datasets = list(options.datasets) or data.datasets
    data.metrics = data.metrics or ["accuracy"]
    data.tags = list(dict.fromkeys([*(data.tags or ()), *TAGS]))
    if results:
        benchmarks = {result["benchmark"] for result in results}
        kept = [each for each in data.eval_results or [] if each.dataset_name not in benchmarks]
        data.model_name = data.model_name or repo_id.split("/")[-1]
        data.eval_results = kept + [each for result in results for each in eval_results(result)]
        others = re.sub(rf"\n*^{BENCHMARKS}\n.*?(?=^## |\Z)", "\n\n", card.text, flags=re.MULTILINE | re.DOTALL)
        card.text = f"{others.rstrip()}\n\n{BENCHMARKS}\n\n" + "\n".join(map(result_table, results))
    return card


def _rename(card: ModelCard, folder: str, repo_id: str) -> None:
    """Put the repository's name and id where a card has the name of the folder that the model was trained in."""
    name = repo_id.split("/")[-1]
    data: Any = card.data
    for local in {folder, data.model_name or folder}:
        card.text = re.sub(rf"^# {re.escape(local)}$", lambda _: f"# {name}", card.text, flags=re.MULTILINE)
        card.text = card.text.replace(f'"{local}"', f'"{repo_id}"')
    if data.model_name is not None:
        data.model_name = name


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a `result.json` of `editreward bench`.

    Raises:
        ValueError: it is none; the message names the file.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        complete = all(key in result for key in ("benchmark", "measures", "data", "environment"))
    except (ValueError, TypeError, IsADirectoryError) as error:
        raise ValueError(f"{path} is not the result.json of `editreward bench --output`: {error}") from error
    if not complete:
        raise ValueError(f"{path} is not the result.json of `editreward bench --output`.")
    return dict(result)


def eval_results(result: Mapping[str, Any]) -> list[EvalResult]:
    """The measures of a benchmark as the Hub's `model-index` takes them."""
    return [
        EvalResult(
            task_type=PIPELINE_TAG,
            task_name="Reward modeling of image edits",
            dataset_type=dataset_type(result["data"].get("name")),
            dataset_name=result["benchmark"],
            dataset_split=measure["subset"],  # results of one split are merged
            metric_type=re.sub(r"\W+", "_", measure["name"]).strip("_").lower(),
            metric_name=f"{measure['name']}, {measure['subset']}",
            metric_value=round(measure["value"], 4),
        )
        for measure in result["measures"]
        if measure["value"] is not None
    ]


def result_table(result: Mapping[str, Any]) -> str:
    """The measures of a benchmark for a reader."""
    rows = []
    for measure in result["measures"]:
        scale, unit = (100, " %") if measure["unit"] == "share" else (1, "")

        def text(name: str, measure: Mapping[str, Any] = measure, scale: int = scale) -> str:
            value = measure.get(name)
            return "-" if value is None else f"{scale * value:.1f}" if scale == 100 else f"{value:.3f}"

        interval = "-" if measure["low"] is None else f"{text('low')} to {text('high')}"
        cells = [measure["name"], measure["subset"], text("value") + unit, interval, f"{measure['total']:,}"]
        rows.append(f"| {' | '.join([*cells, text('chance')])} |")
    head = "| measure | of | value | 95 % interval | n | random scores |\n|---|---|---|---|---|---|\n"
    made_with = ", ".join(f"{key} {value}" for key, value in result["environment"].items() if isinstance(value, str))
    return f"`editreward bench {result['benchmark']}` ({made_with}):\n\n{head}" + "\n".join(rows) + "\n"


def dataset_type(name: str | None) -> str:
    """What the results' metadata call a dataset: its id on the Hub, if it has one. A bare name may be a file's."""
    return name if name is not None and "/" in name and is_hub_id(name) else "edit-groups"


def named_files(card: ModelCard, folder: Path) -> list[Path]:
    """Files of the model's folder that its card names, such as curves. Of the others nobody knows what they hold."""
    named = [folder / name for name in sorted(set(re.findall(r"[\w.-]+\.\w+", card.text)))]
    return [
        path
        for path in named
        if path.is_file() and path.suffix not in (*PICKLES, ".py", ".safetensors") and path.name != "README.md"
    ]

"""Where edit groups for training come from: one dataset or a weighted mixture, in memory-mapped files or streamed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Image, IterableDataset, List, Value
from filelock import FileLock
from trl import ScriptArguments

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.data.sources import SimulatedGroups, features_of, load_groups, simulated_world
from editreward.groups.rows import GroupRow
from editreward.simulation import ARTEFACTS
from editreward.training.bad_rows import UnreadableRow
from editreward.training.batching import Request, undecoded
from editreward.training.dataloading import MIXTURE_PART, MIXTURE_ROW, MIXTURE_WEIGHT, GroupRows


@dataclass
class GroupDatasetConfig:
    """One dataset of a mixture, an entry of `datasets` or `eval_datasets` in a YAML file.

    The fields that TRL's `DatasetConfig` has as well mean the same.

    Args:
        path (`str`): As for `--dataset_name`.
        name (`str`, *optional*): Configuration of a Hub dataset that has several.
        split (`str`, *optional*): By default "train" for training, "test" for evaluation.
        revision (`str`, *optional*): Commit, branch or tag of a Hub dataset.
        weight (`float`, *optional*): Share of the mixture, in any unit; for all datasets or none. Without weights an
            epoch has every group of every dataset once.
        label (`str`, *optional*): For evaluation: its metrics are `eval_LABEL_accuracy` and so on. By default the last
            part of the path.
        format (`str`, *optional*): As `--dataset_format`.
        images (`str`, *optional*): As `--dataset_images`.
        groups, start (`int`, *optional*): For simulated groups: how many, and the number of the first.
    """

    path: str
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    weight: float | None = None
    label: str | None = None
    format: str | None = None
    images: str | None = None
    groups: int | None = None
    start: int | None = None


@dataclass
class GroupDataArguments(ScriptArguments):
    """TRL's `ScriptArguments` with mixtures, published formats and simulated groups."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Edit groups in the dataset schema: a folder that `DatasetDict.save_to_disk` wrote, a folder of "
            "Parquet files, a Hub id, or 'simulated' or 'simulated:collage', which are made on the fly. Or, with "
            "`--dataset_format`, published data."
        },
    )
    dataset_format: str | None = field(
        default=None,
        metadata={
            "help": "Format of published data that is not in groups, such as 'editreward-data' for the published "
            "pairs: what `editreward data import --format` takes. It is imported once, into the cache of `datasets`."
        },
    )
    dataset_images: str | None = field(
        default=None,
        metadata={
            "help": "With `--dataset_format`: folder that image paths are relative to; that of the file if unset."
        },
    )
    datasets: list[GroupDatasetConfig] = field(
        default_factory=list,
        metadata={
            "help": "A mixture to train on, in a YAML file: a list of datasets, each with `path` and, as needed, "
            "`name`, `split`, `weight` ... (docs/training_data.md). Then `dataset_name` is ignored."
        },
    )
    eval_datasets: list[GroupDatasetConfig] = field(
        default_factory=list,
        metadata={"help": "Datasets to evaluate on one by one, in a YAML file, as `datasets`, each with a `label`."},
    )
    simulated_train_groups: int = field(default=20_000, metadata={"help": "Simulated groups to train on."})
    simulated_train_start: int = field(
        default=0, metadata={"help": "Number of the first simulated group to train on; others are new groups."}
    )
    simulated_contrast: float = field(
        default=0.0,
        metadata={
            "help": "Share of the simulated training groups in which only the instruction tells which edits are right "
            "(docs/simulation.md)."
        },
    )
    simulated_near_misses: float = field(
        default=0.0,
        metadata={
            "help": "Share of the simulated training candidates that are perfect but for exactly one attribute "
            "(docs/simulation.md)."
        },
    )
    simulated_enlarged: float = field(
        default=0.0,
        metadata={
            "help": "Share of the simulated training candidates that were drawn small and enlarged "
            "(docs/simulation.md)."
        },
    )
    simulated_artefacts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Artefacts of the simulated training candidates, all by default; a name that is given twice comes "
            "twice as often (docs/simulation.md)."
        },
    )
    simulated_stresses: float = field(
        default=0.0,
        metadata={
            "help": "Share of the simulated training groups with shifts by a pixel, borders, other files, faint noise "
            "or a remark beside the instruction (docs/simulation.md)."
        },
    )
    dense_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the losses of what image tokens show and should show, on simulated groups and from a "
            "backbone that brings their heads (docs/tiny_vlm.md)."
        },
    )
    dense_heads: str | None = field(
        default=None, metadata={"help": "Folder of a model with these heads, if not that of the run's model."}
    )
    simulated_eval_groups: int = field(default=300, metadata={"help": "Simulated groups to evaluate on."})
    simulated_image_size: int = field(default=112, metadata={"help": "Side of the simulated images, in pixels."})
    simulated_annotators: int = field(
        default=0,
        metadata={
            "help": "Simulated annotators whose mean is the score of a training candidate; 0 trains on exact scores. "
            "Evaluation is always on exact ones."
        },
    )
    simulated_noise: float = field(
        default=0.0,
        metadata={"help": "Probability that a simulated annotator is one point off, per score (docs/simulation.md)."},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dense_weight < float("inf"):
            raise ValueError(f"`dense_weight` must be 0 or more, got {self.dense_weight}.")
        self.simulated_truth = self.dense_weight > 0  # whether rows of simulated groups hold their truth
        self.datasets = [_as_config(entry) for entry in self.datasets]
        self.eval_datasets = [_as_config(entry) for entry in self.eval_datasets]


def _as_config(entry: GroupDatasetConfig | Mapping[str, Any]) -> GroupDatasetConfig:
    if isinstance(entry, GroupDatasetConfig):
        return entry
    known = [field.name for field in fields(GroupDatasetConfig)]
    unknown = [name for name in entry if name not in known]
    if unknown or "path" not in entry:
        fault = f"has no field {', '.join(unknown)}" if unknown else "needs a `path`"
        raise ValueError(f"A dataset of a mixture {fault}: {dict(entry)}. Its fields are {', '.join(known)}.")
    return GroupDatasetConfig(**entry)


def load_train_dataset(
    script_args: GroupDataArguments, seed: int = 0, on_fault: str = "stop"
) -> Dataset | IterableDataset:
    """The groups to train on, a `datasets.Dataset` or, streamed, a `datasets.IterableDataset`.

    Args:
        script_args: What to load.
        seed: Of the order in which the datasets of a streamed mixture take turns.
        on_fault: With a format: "stop" at rows that cannot be imported, or "list" them.

    Raises:
        ValueError: If nothing is named, or a mixture cannot be mixed.
    """
    configs = script_args.datasets or [_only_dataset(script_args)]
    parts = [_load(config, script_args, script_args.dataset_train_split, True, on_fault) for config in configs]
    weights = [config.weight for config in configs]
    if len(parts) == 1:
        return parts[0]
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        raise ValueError(
            "Some datasets of the mixture have a `weight` and some have none. Set it for all or for none."
        )
    given = None if weights[0] is None else [float(weight) for weight in weights if weight is not None]
    if script_args.dataset_streaming:
        if given is None:
            raise ValueError("Nobody knows how long a stream is. Give each dataset of a streamed mixture a `weight`.")
        return mix_streams(parts, given, [config.path for config in configs], seed)
    return mix(parts, given)


def load_eval_dataset(
    script_args: GroupDataArguments, on_fault: str = "stop"
) -> Dataset | IterableDataset | dict[str, Dataset | IterableDataset]:
    """The groups to evaluate on: one dataset, or several by label."""
    configs = script_args.eval_datasets
    if not configs:
        if script_args.datasets and script_args.dataset_name is None:
            raise ValueError("There is a mixture to train on, but nothing to evaluate on. Set `eval_datasets`.")
        return _load(_only_dataset(script_args), script_args, script_args.dataset_test_split, False, on_fault)
    labels = [config.label or Path(config.path).name for config in configs]
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"Two of `eval_datasets` have one label: {', '.join(labels)}. Give each a `label` of its own."
        )
    loaded = [_load(config, script_args, script_args.dataset_test_split, False, on_fault) for config in configs]
    if len(configs) == 1 and configs[0].label is None:
        return loaded[0]
    return dict(zip(labels, loaded, strict=True))


def _only_dataset(script_args: GroupDataArguments) -> GroupDatasetConfig:
    if script_args.dataset_name is None:
        raise ValueError("`--dataset_name` is missing: give a dataset of edit groups, or 'simulated'.")
    return GroupDatasetConfig(
        script_args.dataset_name,
        script_args.dataset_config,
        format=script_args.dataset_format,
        images=script_args.dataset_images,
    )


def _load(
    config: GroupDatasetConfig, script_args: GroupDataArguments, split: str, training: bool, on_fault: str
) -> Dataset | IterableDataset:
    split, streaming = config.split or split, script_args.dataset_streaming
    if simulated_world(config.path):
        return load_groups(config.path, split, streaming, simulated=_simulated(config, script_args, training))
    if config.format is not None:
        folder, split = import_published(config, split, on_fault)
        return load_groups(folder, split, streaming, strict=False)
    return load_groups(config.path, split, streaming, config.name, config.revision, strict=False)


def _simulated(config: GroupDatasetConfig, script_args: GroupDataArguments, training: bool) -> SimulatedGroups:
    """Which simulated groups an entry means: all but their number and size is for training alone."""
    size, truth = script_args.simulated_image_size, script_args.simulated_truth
    if not training:
        groups = _first(config.groups, script_args.simulated_eval_groups)
        return SimulatedGroups(groups, config.start or 0, size, truth=truth)
    return SimulatedGroups(
        groups=_first(config.groups, script_args.simulated_train_groups),
        start=_first(config.start, script_args.simulated_train_start),
        size=size,
        annotators=script_args.simulated_annotators,
        noise=script_args.simulated_noise,
        contrast=script_args.simulated_contrast,
        near_misses=script_args.simulated_near_misses,
        stresses=script_args.simulated_stresses,
        enlarged=script_args.simulated_enlarged,
        artefacts=tuple(script_args.simulated_artefacts or ARTEFACTS),
        truth=truth,
    )


def _first(value: int | None, default: int) -> int:
    return default if value is None else value


def import_published(config: GroupDatasetConfig, split: str, on_fault: str = "stop") -> tuple[Path, str]:
    """Import published data into the cache of `datasets`, unless that has been done.

    Args:
        config: Names path, format and images.
        split: Split to read, where the path is a dataset that has some.
        on_fault: As for `editreward.data.importers.ImportOptions`.

    Returns:
        The folder, and the split that it holds.

    Raises:
        ValueError: If the format is unknown, or the input has an error.
    """
    from editreward.data.importers import FORMATS, ImportOptions, Source, import_dataset
    from editreward.data.importers.running import REPORT_FILE

    if config.format is None or config.format not in FORMATS:
        raise ValueError(f"`--dataset_format` {config.format!r} is unknown. Known are {', '.join(FORMATS)}.")
    source = Source(config.path, split if not Path(config.path).is_file() else "train", config.name, config.revision)
    images = str(Path(config.images).resolve()) if config.images else None
    key = datasets.fingerprint.Hasher.hash([config.format, source.fingerprint(), images, on_fault])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "editreward" / f"{config.format}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # one process imports, the others wait for it
        report = folder / REPORT_FILE
        if not report.exists() or (folder / ".import").exists():
            options = ImportOptions(images=images, on_fault=on_fault)
            import_dataset(FORMATS[config.format], [source], folder, options)
        return folder, json.loads(report.read_text(encoding="utf-8"))["split"]


class MixtureReader:
    """The transform of a mixture: reads rows from the datasets that its table points to."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts
        self._rows = [GroupRows(part) for part in parts]

    def __call__(self, batch: Mapping[str, list[int]]) -> dict[str, list[object]]:
        rows = [
            self._rows[part][Request(row)] for part, row in zip(batch[MIXTURE_PART], batch[MIXTURE_ROW], strict=True)
        ]
        for row in rows:
            if isinstance(row, UnreadableRow):
                raise ValueError(row["reason"])
        columns = dict.fromkeys(column for row in rows for column in row)
        return {column: [row.get(column) for row in rows] for column in columns}


def mix(parts: Sequence[Dataset], weights: Sequence[float] | None = None) -> Dataset:
    """Several datasets as one: a table of dataset, row and weight, which the trainer draws each epoch from.

    With weights, an epoch is as long as it can be without a group coming twice; the next epoch goes on with the groups
    whose turn it is ([`EpochOrder`]). Parts may have different columns, and transforms.
    """
    sizes = [len(part) for part in parts]
    table = {
        MIXTURE_PART: np.repeat(np.arange(len(parts)), sizes),
        MIXTURE_ROW: np.concatenate([np.arange(size) for size in sizes]),
    }
    if weights is not None:
        table[MIXTURE_WEIGHT] = np.repeat(np.asarray(weights, dtype=np.float64), sizes)
    return Dataset.from_dict(table).with_transform(MixtureReader(parts))


def mix_streams(
    parts: Sequence[IterableDataset], weights: Sequence[float], names: Sequence[str], seed: int = 0
) -> IterableDataset:
    """Several streams as one: the next group comes from each with a probability that is its share of the weights.

    Raises:
        ValueError: If the datasets score candidates on different dimensions, or a weight is not positive.
    """
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"The weights of a mixture must be positive, got {list(weights)}.")
    dimensions = [_dimensions(part) for part in parts]
    if any(found != dimensions[0] for found in dimensions):
        found = "; ".join(f"{name}: {', '.join(of)}" for name, of in zip(names, dimensions, strict=True))
        raise ValueError(f"Streams of different dimensions cannot be mixed ({found}). Unset `--dataset_streaming`.")
    features = _features(dimensions[0])
    alike = [
        undecoded(part).map(_common_columns, remove_columns=part.column_names, features=features) for part in parts
    ]
    shares = [weight / sum(weights) for weight in weights]
    return datasets.interleave_datasets(alike, shares, seed, stopping_strategy="all_exhausted")


def _dimensions(part: IterableDataset) -> list[str]:
    if part.features is None:  # made by a generator: its rows tell
        return list(next(iter(part))["candidates"][0]["scores"])
    return list(features_of(part)["candidates"].feature["scores"])


def _features(dimensions: Sequence[str] = DEFAULT_DIMENSIONS) -> datasets.Features:
    """The columns that training reads."""
    image = Image(decode=False)
    scores = {dimension: Value("float64") for dimension in dimensions}
    candidate = {
        "image": image,
        "scores": scores,
        "annotations": List({"annotator": Value("string"), **scores}),
        "rationale": Value("string"),
    }
    preference = {"chosen": Value("int64"), "rejected": Value("int64"), "weight": Value("float64")}
    return datasets.Features(
        {
            "group_id": Value("string"),
            "instruction": Value("string"),
            "source_images": List(image),
            "candidates": List(candidate),
            "preferences": List(preference),
        }
    )


def _common_columns(row: GroupRow) -> GroupRow:
    kept = ("image", "scores", "annotations", "rationale")
    return {
        "group_id": row["group_id"],
        "instruction": row["instruction"],
        "source_images": row["source_images"],
        "candidates": [{name: candidate.get(name) for name in kept} for candidate in row["candidates"] or ()],
        "preferences": row.get("preferences"),
    }

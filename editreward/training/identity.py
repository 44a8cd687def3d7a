"""What a run goes on with: its settings and data, saved in each checkpoint and compared before it resumes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from editreward.files import check_same, write_json
from editreward.resuming import row_digest
from editreward.training.bad_rows import UnreadableRow
from editreward.training.dataloading import GroupRows

if TYPE_CHECKING:
    from transformers import TrainingArguments

IDENTITY_FILE = "run_identity.json"
SETTINGS = (
    "loss",
    "loss_reduction",
    "dimension_weight",
    "ties",
    "tie_weight",
    "label_smoothing",
    "vote_labels",
    "pointwise_weight",
    "pointwise_scale",
    "rationale_weight",
    "rationale_head",
    "regression_offset",
    "freeze",
    "split_into_pairs",
    "max_candidates",
    "vary_instructions",
    "seed",
)
"""Those that make another training of it. Steps, rates, batches and what is logged may change."""

SAMPLED_ROWS = 32


def run_identity(
    args: "TrainingArguments",
    dataset: datasets.Dataset | datasets.IterableDataset,
    settings: Sequence[str] = SETTINGS,
) -> dict[str, object]:
    """Settings and data of a run, as JSON data.

    Args:
        args: Of the run.
        dataset: Training data. Of a stream, which could only be read from its start, nothing is compared.
        settings: Names of the arguments that make another training of it.
    """
    identity: dict[str, object] = {name: getattr(args, name) for name in settings}
    if isinstance(dataset, datasets.Dataset):
        rows, count = GroupRows(dataset), len(dataset)
        places = sorted({place * (count - 1) // max(1, SAMPLED_ROWS - 1) for place in range(SAMPLED_ROWS)})
        identity["rows"] = count
        identity |= {f"row {place}": _row(rows, place) for place in places}
    return json.loads(json.dumps(identity))


def _row(rows: GroupRows, place: int) -> list[object]:
    """Images, instruction and annotations of a row."""
    row = rows._read(place)
    if isinstance(row, UnreadableRow):
        return ["cannot be read"]
    given = [
        {name: (candidate or {}).get(name) for name in ("scores", "annotations")}
        for candidate in row["candidates"] or ()
    ]
    return [row_digest(row), json.dumps([given, row.get("preferences")], sort_keys=True, default=str)]


def save_identity(folder: Path, identity: dict[str, object]) -> None:
    """Write it into a checkpoint."""
    write_json(folder / IDENTITY_FILE, identity)


def check_identity(checkpoint: Path, identity: dict[str, object]) -> None:
    """Be sure that a checkpoint is of this run. Those without the file, of earlier versions, are taken as they are.

    Raises:
        ValueError: It is of other settings or data.
    """
    file = checkpoint / IDENTITY_FILE
    if file.is_file():
        check_same(
            f"{checkpoint} is of a run",
            json.loads(file.read_text(encoding="utf-8")),
            identity,
            f"Resume with those, or start a run of its own from its weights: `--model_name_or_path {checkpoint}`, "
            "another `--output_dir`.",
        )

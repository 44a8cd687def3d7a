"""How long the rows of a dataset will be as token sequences, read from image headers alone."""

from dataclasses import dataclass
from typing import TypedDict

import pyarrow as pa
from datasets import Dataset, Features, List, Value

from editreward.groups.rows import GroupRow
from editreward.training.bad_rows import UnreadableRow, check_entries, row_name
from editreward.training.rationales import count_rationale_tokens
from editreward.training.subsets import Pair, pairs_of_group
from processing_editreward import EditRewardProcessor, image_size

SIZE = List(Value("int32"))
SCAN_FEATURES = Features(
    {
        "group_id": Value("string"),
        "instruction": Value("string"),
        "source_sizes": List(SIZE),
        "candidate_sizes": List(SIZE),
        "rationales": List(Value("string")),
        "pairs": List(List(Value("int32"))),
        "fault": Value("string"),
    }
)


class ScannedRow(TypedDict):
    """What the length and the pairs of a row depend on, `SCAN_FEATURES`; `fault` is why it cannot be used."""

    group_id: str | None
    instruction: str | None
    source_sizes: list[tuple[int, int]]
    candidate_sizes: list[tuple[int, int]]
    rationales: list[str | None]
    pairs: list[Pair]
    fault: str | None


@dataclass
class RowTokens:
    """Tokens of one row.

    Args:
        root: Those before the candidates.
        candidates: Those of each candidate.
    """

    root: int
    candidates: list[int]

    def most(self, limit: int | None = None) -> int:
        """Tokens with all candidates, or with those `limit` that have most."""
        return self.root + sum(sorted(self.candidates, reverse=True)[:limit])

    def of_pair(self, pair: Pair) -> int:
        """Tokens with two candidates."""
        return self.root + self.candidates[pair[0]] + self.candidates[pair[1]]


class TokenCounter:
    """Counts the tokens of rows; the texts of one instruction once.

    Args:
        processor: Of the model.
        rationales: Count the candidates' rationales, too.
    """

    def __init__(self, processor: EditRewardProcessor, rationales: bool = False) -> None:
        self.processor, self.rationales = processor, rationales

    def __call__(self, scanned: ScannedRow) -> RowTokens:
        """Tokens of a row as [`scan_row`] describes it; 0 for one that cannot be used, which the collator reports."""
        if scanned["fault"] is not None:
            return RowTokens(0, [])
        sources, instruction = scanned["source_sizes"], scanned["instruction"]
        assert instruction is not None  # else it has a fault
        root, candidates = self.processor.count_tokens(sources, scanned["candidate_sizes"], instruction)
        if self.rationales:
            try:
                more = count_rationale_tokens(scanned["rationales"], self.processor, len(sources), instruction)
            except ValueError:  # the collator says so
                return RowTokens(root, candidates)
            candidates = [count + of_rationale for count, of_rationale in zip(candidates, more, strict=True)]
        return RowTokens(root, candidates)

    def of_row(self, row: GroupRow) -> int:
        """Tokens of a row with its images and all candidates."""
        return self(scan_row(row)).most()


def scan_row(row: GroupRow) -> ScannedRow:
    """Read what the length and the pairs of a row depend on."""
    scanned: ScannedRow = {
        "group_id": row.get("group_id"),
        "instruction": row.get("instruction"),
        "source_sizes": [],
        "candidate_sizes": [],
        "rationales": [],
        "pairs": [],
        "fault": None,
    }
    if isinstance(row, UnreadableRow):
        scanned["fault"] = row["reason"]
        return scanned
    name = row_name(row)
    sources, candidates = row.get("source_images") or [], row.get("candidates") or []
    try:
        check_entries(row)
        pairs = pairs_of_group(row.get("preferences"), len(candidates))
        if not sources or not candidates or pairs is None:
            raise ValueError(f"{name} has no source image, no candidates or an impossible preference.")
        if not isinstance(row["instruction"], str) or not row["instruction"].strip():
            raise ValueError(f"{name} has no instruction.")
        scanned["pairs"] = pairs
        scanned["source_sizes"] = [image_size(image, f"{name}: source[{i}]") for i, image in enumerate(sources)]
        scanned["candidate_sizes"] = [
            image_size(candidate["image"], f"{name}: edited[{i}]") for i, candidate in enumerate(candidates)
        ]
        texts = [candidate.get("rationale") for candidate in candidates]
        scanned["rationales"] = [text if isinstance(text, str) else None for text in texts]
    except ValueError as error:
        return {
            **scanned,
            "source_sizes": [],
            "candidate_sizes": [],
            "rationales": [],
            "pairs": [],
            "fault": str(error),
        }
    return scanned


def scan_dataset(dataset: Dataset, num_proc: int | None = None) -> Dataset:
    """Scan all rows of a dataset, `SCAN_FEATURES`. The result is cached with the dataset where that is on disk.

    Of embedded images only the headers are read. A dataset with a transform has to make its rows.
    """
    options: dict[str, object] = {"num_proc": num_proc, "desc": "Reading image sizes", "features": SCAN_FEATURES}
    if dataset.format["type"] == "custom":
        return dataset.map(scan_row, remove_columns=dataset.column_names, **options).with_format(None)
    scanned = dataset.with_format("arrow").map(
        _scan_table, batched=True, batch_size=64, remove_columns=dataset.column_names, **options
    )
    return scanned.with_format(None)


def _scan_table(table: pa.Table) -> pa.Table:
    rows = [scan_row({name: _lazy(column[i]) for name, column in _columns(table)}) for i in range(len(table))]
    return pa.Table.from_pylist(rows, schema=SCAN_FEATURES.arrow_schema)


def _columns(table: pa.Table) -> list[tuple[str, pa.ChunkedArray]]:
    wanted = ("group_id", "instruction", "source_images", "candidates", "preferences")
    return [(name, table[name]) for name in wanted if name in table.column_names]


def _lazy(value: pa.Scalar | None) -> object:
    """An Arrow value as Python's, but binary data as open files: a header is read without copying its image."""
    if value is None or not value.is_valid:
        return None
    if pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        return [_lazy(item) for item in value]
    if pa.types.is_struct(value.type):
        return {field.name: _lazy(value[field.name]) for field in value.type if field.name != "annotations"}
    if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
        return pa.BufferReader(value.as_buffer())
    return value.as_py()

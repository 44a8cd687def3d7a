"""Rows of a dataset that cannot be used: counted and listed, never replaced."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate.utils import gather_object
from transformers.utils import logging

from editreward.groups.rows import GroupRow
from editreward.printing import printable

logger = logging.get_logger(__name__)

ON_BAD_ROW = ("stop", "skip")
SKIPPED_ROWS_FILE = "skipped_rows.jsonl"

HOPELESS = 32
"""So many bad rows before the first good one are no accident, but data that the model cannot use."""


@dataclass(frozen=True, order=True)
class BadRow:
    """A row that was left out, a line of `skipped_rows.jsonl`.

    Args:
        split: "train", or the prefix of the evaluation's metrics, such as "eval".
        group_id: Its id, or "row N" where it has none.
        reason: What is wrong with it.
    """

    split: str
    group_id: str
    reason: str


class UnreadableRow(dict[str, str]):
    """Stands for a row that could not be read, with `group_id` and `reason`, on its way to the collator."""


def row_id(row: GroupRow) -> str:
    """The id of a row in lists, whatever it lacks."""
    return str(row.get("group_id"))


def row_name(row: GroupRow) -> str:
    """What messages call a row."""
    return f"group {row.get('group_id')!r}"


ENTRIES = {"candidates": ("image", "scores"), "preferences": ("chosen", "rejected", "weight")}
"""Lists of a row, and the fields of their entries that training reads."""


def check_entries(row: GroupRow) -> None:
    """Raise a `ValueError` unless candidates and preferences, where there are any, hold what training reads."""
    for column, fields in ENTRIES.items():
        entries = row.get(column) or []
        if not isinstance(entries, (list, tuple)):
            raise ValueError(f"{row_name(row)}: `{column}` is a {type(entries).__name__}; it must be a list.")
        for index, entry in enumerate(entries):
            missing = [name for name in fields if not isinstance(entry, Mapping) or name not in entry]
            if missing:
                raise ValueError(
                    f"{row_name(row)}: `{column}[{index}]` has no {', '.join(missing)}. Each entry has "
                    f"{', '.join(fields)}; scores that are unknown are null, and a weight is 1 unless one is meant."
                )


class BadRows:
    """The rows that a run left out, each once.

    Args:
        folder: The run's output folder, which holds the list.
    """

    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder) / SKIPPED_ROWS_FILE
        self.rows: set[BadRow] = set()
        self._new: list[BadRow] = []
        self._used = False

    def start(self, resume: bool, is_main_process: bool) -> None:
        """Begin a run, or go on with the list of one that was stopped."""
        if resume and self.file.exists():
            with self.file.open(encoding="utf-8") as lines:
                self.rows |= {BadRow(**json.loads(line)) for line in lines}
        elif is_main_process:
            self.file.unlink(missing_ok=True)

    def add(self, split: str, skipped: Iterable[tuple[str, str]], used: int) -> None:
        """Take up what one batch left out.

        Args:
            split: Which data.
            skipped: Id and reason of each row.
            used: How many rows the batch has.

        Raises:
            ValueError: If all of the first rows are bad.
        """
        new = [BadRow(split, *entry) for entry in skipped]
        self._new += new
        self._used = self._used or used > 0
        if not self._used and len(set(self._new)) >= HOPELESS:
            raise ValueError(
                f"The first {len(set(self._new))} rows can't be used, so `--on_bad_row skip` would skip everything: "
                f"{self._new[0].reason}"
            )

    def gather(self, is_main_process: bool) -> None:
        """Exchange what all processes found, and write the list. Every process must call it at the same time."""
        new = set(gather_object(self._new)) - self.rows
        self._new = []
        self.rows |= new
        if new and is_main_process:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in sorted(new))

    def report(self) -> None:
        """Log all rows that were left out, by split."""
        for split in sorted({row.split for row in self.rows}):
            of_split = sorted(row for row in self.rows if row.split == split)
            listed = "".join(f"\n  {printable(row.group_id)}: {printable(row.reason)}" for row in of_split)
            logger.warning(f"{len(of_split):,} bad rows of the {split} data were skipped ({self.file}):{listed}")

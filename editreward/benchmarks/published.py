"""Numbers that papers report. None was measured here; every place that shows one says so.

Each benchmark's file has its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        source: where it is from.
        columns: what the numbers are; `Measure.column` names one of them.
        rows: by method; accuracies in percent, correlations times 100; None where the table has none.
        note: what a reader must know.
    """

    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """As JSON data."""
        rows = {method: dict(zip(self.columns, values, strict=True)) for method, values in self.rows.items()}
        return {"source": self.source, "note": self.note, "rows": rows}


PAPER = "EditReward, arXiv 2509.26346, table 2"
"""Where the numbers of four benchmarks are from."""

POSITION_BIAS = Published(
    "EditReward, arXiv 2509.26346, table 8", ("first", "second"), {"Gemini-2.0-Flash": (55.28, 50.16)}
)
"""Accuracy in percent of a pairwise judge with the better edit shown first (left) and second (right)."""

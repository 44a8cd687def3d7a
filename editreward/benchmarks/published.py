"""Numbers that the papers report. None was measured here; every place that shows one says so."""

from dataclasses import dataclass
from typing import Any


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        rows = {method: dict(zip(self.columns, values, strict=True)) for method, values in self.rows.items()}
        return {"source": self.source, "note": self.note, "rows": rows}


PAPER = "EditReward, arXiv 2509.26346, table 2"

# GenAI-Bench, AURORA-Bench, ImagenHub; EditReward-Bench at K = 2, 3, 4, overall.
_TABLE_2: dict[str, tuple[float | None, ...]] = {
    "random": (25.90, 33.43, None, 25.81, 11.33, 1.35, 13.84),
    "human to human": (None, None, 41.84, None, None, None, None),
    "GPT-4o": (53.54, 50.81, 38.21, 45.69, 27.33, 7.31, 28.31),
    "GPT-5": (59.61, 47.27, 40.85, 57.53, 38.51, 12.84, 37.81),
    "Gemini-2.0-Flash": (53.32, 44.31, 23.69, 52.43, 33.33, 13.51, 33.47),
    "Gemini-2.5-Flash": (57.01, 47.63, 41.62, 58.61, 39.86, 12.16, 38.02),
    "Qwen2.5-VL-3B (as judge)": (42.76, 30.69, -2.54, 51.07, 20.27, 2.71, 26.86),
    "Qwen2.5-VL-7B (as judge)": (40.48, 38.62, 18.59, 52.69, 24.67, 3.38, 29.75),
    "Qwen2.5-VL-32B (as judge)": (39.28, 37.06, 26.87, 50.54, 25.27, 4.05, 28.72),
    "MiMo-VL-7B-SFT-2508 (as judge)": (57.89, 30.43, 22.14, 49.46, 30.41, 9.46, 31.19),
    "ADIEE": (59.96, 55.56, 34.50, None, None, None, None),
    "EditReward, Qwen2.5-VL-7B": (63.97, 59.50, 36.18, 56.99, 36.00, 10.81, 36.78),
    "EditReward, MiMo-VL-7B": (65.72, 63.62, 35.20, 56.45, 42.67, 11.49, 38.42),
}


def _columns(start: int, *names: str, note: str = "") -> Published:
    rows = {method: values[start : start + len(names)] for method, values in _TABLE_2.items()}
    return Published(PAPER, names, {m: v for m, v in rows.items() if any(x is not None for x in v)}, note)


PUBLISHED: dict[str, Published] = {
    "genai-bench": _columns(0, "pairs"),
    "aurora-bench": _columns(
        1, "pairs", note="Two versions of the pair-wise part exist: the same model is at 59.50 and 53.33 in the paper."
    ),
    "imagenhub": _columns(
        2, "ratings", note="The published script takes the tanh of the mean correlation, which is no Fisher average."
    ),
    "editreward-bench": _columns(
        3,
        "K = 2",
        "K = 3",
        "K = 4",
        "overall",
        note="The random row fits a coin per pair with four verdicts at K = 2, of which one is right (25, 12.5, 1.6), "
        "not random scores (33 or more, 16.7, 4.2). Overall pools the tuples, which gives about half of this column "
        "exactly and the rest within one point.",
    ),
}
"""By benchmark."""

POSITION_BIAS = Published(
    "EditReward, arXiv 2509.26346, table 8", ("first", "second"), {"Gemini-2.0-Flash": (55.28, 50.16)}
)
"""Accuracy in percent of a pairwise judge with the better edit shown first (left) and second (right)."""

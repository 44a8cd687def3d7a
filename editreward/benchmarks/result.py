"""What a run of a scorer on a benchmark found."""

from dataclasses import dataclass
from typing import Any

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import Answers
from editreward.benchmarks.published import POSITION_BIAS, Published
from editreward.reports.page import escaped

RESULT_VERSION = 1


@dataclass(frozen=True)
class BenchmarkResult:
    """What a run found: all that `result.json` holds, and the answers it was computed from.

    Attributes:
        benchmark: which one.
        model: name, fingerprint, revision and notes of the scorer or judge.
        data: name, revision and hash of the dataset; counts; faults; what was left out and why.
        settings: of the run.
        measures: the numbers.
        environment: versions of libraries, and when.
        answers: what the measures were computed from, for reports.
    """

    benchmark: Benchmark
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    measures: list[Measure]
    environment: dict[str, Any]
    answers: Answers

    def to_dict(self) -> dict[str, object]:
        """As JSON data."""
        return {
            "version": RESULT_VERSION,
            "benchmark": self.benchmark.name,
            "model": self.model,
            "data": self.data,
            "settings": self.settings,
            "measures": [measure.to_dict() for measure in self.measures],
            "published": [table.to_dict() for table in self.published],
            "environment": self.environment,
        }

    @property
    def published(self) -> list[Published]:
        """The published tables that some of the measures can be compared with."""
        tables = [self.benchmark.published] if self.benchmark.published else []
        return [*tables, POSITION_BIAS] if self.settings["position_bias"] else tables

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        limit = self.settings["limit"]
        limited = [] if limit is None else [f"only the first {limit:,} groups: this is no result of the benchmark."]
        return [*self.model["notes"], *self.data["notes"], *limited]

    def headline(self) -> str:
        """What a reader wants first, in five lines at most: who, on what, and the first three measures."""
        shown: dict[str, Measure] = {}
        for measure in self.measures:
            shown.setdefault(measure.name, measure)
        data = self.data
        left_out = sum(map(len, data["items_left_out"].values()))
        lost = f", {left_out:,} left out" if left_out else ""
        lines = [f"{self.model['name']} on {self.benchmark.title}: {data['items_judged']:,} items{lost}"]
        for measure in list(shown.values())[:3]:
            chance = "" if measure.chance is None else f"; random scores {_number(measure, measure.chance)}"
            lines.append(f"  {measure.name} ({measure.subset}): {measure.estimate.text()}{chance}")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The measures as a table, with what was left out."""
        lines = [f"# {self.benchmark.title}: {self.model['name']}", ""]
        for note in self.notes:
            lines += [f"Note: {note}", ""]
        lines += ["| measure | of | value | 95 % interval | n | random scores | coin |", "|---" * 7 + "|"]
        lines += [_table_row(measure) for measure in self.measures]
        data = self.data
        lines += [
            "",
            f"{data['items_judged']:,} of {data['items']:,} items judged, in {data['groups_judged']:,} groups.",
        ]
        for kind, ids in data["items_left_out"].items():
            lines.append(f"Left out: {len(ids):,} items, {kind.replace('_', ' ')}.")
        imported = data["imported"] or {"errors": {}}
        for kind, count in imported["errors"].items():
            lines.append(f"Left out by the import: {count:,} x {kind}, listed in {imported['listed_in']}.")
        for kind, count in data["faults"].items():
            lines.append(f"Found in the data: {count:,} x {kind.replace('_', ' ')}.")
        return "\n".join(lines) + "\n"


def _number(measure: Measure, value: float) -> str:
    """A number in the unit of a measure."""
    return f"{100 * value:.1f} %" if measure.to_dict()["unit"] == "share" else f"{value:.3f}"


def _table_row(measure: Measure) -> str:
    numbers = measure.to_dict()
    scale, digits = (100, 1) if numbers["unit"] == "share" else (1, 3)

    def text(value: float | None) -> str:
        return "-" if value is None else f"{scale * value:.{digits}f}"

    interval = "-" if numbers["low"] is None else f"{text(numbers['low'])} to {text(numbers['high'])}"
    value = text(numbers["value"]) + (" %" if scale == 100 and numbers["value"] is not None else "")
    # Tasks and dimensions are named by data and scorers.
    cells = [escaped(measure.name), escaped(measure.subset), value, interval, f"{numbers['total']:,}"]
    return f"| {' | '.join([*cells, text(measure.chance), text(measure.coin)])} |"

"""The files that a run leaves for later: its result, and the answers with all that they were judged by."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.protocols import Answers, PairKey
from editreward.benchmarks.registry import BENCHMARKS
from editreward.benchmarks.result import RESULT_VERSION
from editreward.benchmarks.runner import GroupRecord
from editreward.data.benchmark_items import BenchmarkItem, Comparison
from editreward.groups import GroupScores

RESULT, ANSWERS, ITEMS, GROUPS = "result.json", "answers.jsonl", "items.jsonl", "groups.jsonl"
PAIR = ("group_id", "dimension", "first", "second")
"""Fields of a judge's answer that say which pair it is about."""


@dataclass(frozen=True)
class SavedResult:
    """A result that was read back.

    Attributes:
        folder: where it lies.
        benchmark: which one.
        data: what `result.json` holds.
        answers: what its measures were computed from.
    """

    folder: Path
    benchmark: Benchmark
    data: dict[str, Any]
    answers: Answers


def write_answers(answers: Answers, folder: Path) -> list[Path]:
    """Write the answers, a group or pair a line; what was asked, an item a line; and the groups without images."""
    if answers.scores is not None:
        lines: Iterable[dict[str, Any]] = (
            {"group_id": group_id, **_columns(scores)} for group_id, scores in answers.scores.items()
        )
    else:
        margins = (answers.margins or {}).items()
        lines = (
            {**dict(zip(PAIR, key, strict=True)), "margin": margin, "shown": _shown(answers, key)}
            for key, margin in margins
        )
    groups = (
        {
            **vars(record),
            "truth": _listed(record.truth),
            "ratings": {annotator: _listed(ratings) for annotator, ratings in record.ratings.items()},
            "tags": dict(answers.tags.get(record.group_id, {})),
        }
        for record in answers.groups.values()
    )
    files = {ANSWERS: lines, ITEMS: (asdict(item) for item in answers.items), GROUPS: groups}
    for name, written in files.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def read_result(path: str | Path) -> SavedResult:
    """Read what a run with `--output` wrote.

    Args:
        path: its folder, or the `result.json` in it.

    Raises:
        FileNotFoundError: a file is missing; it is named.
        ValueError: a file is damaged or of another version.
    """
    folder = Path(path).parent if Path(path).name == RESULT else Path(path)
    for name in (RESULT, ANSWERS, ITEMS, GROUPS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: run editreward bench NAME --output {folder} first.")
    data = next(_json(folder / RESULT, whole=True))
    if data.get("version") != RESULT_VERSION or data.get("benchmark") not in BENCHMARKS:
        raise ValueError(
            f"{folder / RESULT} is of version {data.get('version')} and benchmark {data.get('benchmark')!r}, which "
            "this version of editreward does not read: run it again."
        )
    benchmark = BENCHMARKS[data["benchmark"]]
    try:
        groups, tags = {}, {}
        for line in _json(folder / GROUPS):
            tags[line["group_id"]] = line.pop("tags")
            truth = _arrays(line.pop("truth"))
            ratings = {annotator: _arrays(ratings) for annotator, ratings in line.pop("ratings").items()}
            groups[line["group_id"]] = GroupRecord(**line, truth=truth, ratings=ratings)
        items = [
            BenchmarkItem(comparisons=[Comparison(**one) for one in line.pop("comparisons")], **line)
            for line in _json(folder / ITEMS)
        ]
        scores, margins = None, None
        shown_first: dict[PairKey, float] = {}
        if data["model"]["kind"] == "scorer":
            scores = {line.pop("group_id"): _scores(line) for line in _json(folder / ANSWERS)}
        else:
            margins = {}
            for line in _json(folder / ANSWERS):
                group_id, dimension, first, second = (line[name] for name in PAIR)
                orders = (group_id, dimension, first, second), (group_id, dimension, second, first)
                margins[orders[0]] = line["margin"]
                # Earlier releases wrote the margin alone.
                shown = line.get("shown", (None, None))
                shown_first |= {order: said for order, said in zip(orders, shown, strict=True) if said is not None}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"The files of {folder} are not those of a run, or damaged: {error!r}.") from error
    calibrated = data["model"].get("calibrated", False)
    answers = Answers(items, groups, scores, margins, tags, benchmark.names, calibrated, shown_first)
    return SavedResult(folder, benchmark, data, answers)


def _json(file: Path, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line or one in all."""
    text = file.read_text(encoding="utf-8")
    for number, part in enumerate([text] if whole else text.split("\n")[:-1], start=1):
        try:
            yield json.loads(part)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number + error.lineno - 1} of {file} is not JSON: {error.msg}.") from error


def _listed(scores: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    return {name: [None if math.isnan(x) else x for x in values.tolist()] for name, values in scores.items()}


def _arrays(scores: Mapping[str, list[float | None]]) -> dict[str, np.ndarray]:
    # A column of floats: None becomes NaN.
    return {name: np.array(values, dtype=float) for name, values in scores.items()}


def _shown(answers: Answers, key: PairKey) -> list[float | None]:
    """What a judge said when it was shown the pair in the key's order, and in the other; None: it was not."""
    group_id, dimension, first, second = key
    return [answers.shown_first.get(one) for one in (key, (group_id, dimension, second, first))]


def _columns(scores: GroupScores) -> dict[str, Any]:
    """Scores as lists with an entry per candidate."""
    return {
        "overall": scores.overall,
        "dimensions": scores.dimensions,
        "stds": scores.stds,
        "probabilities": scores.preferences,
    }


def _scores(columns: Mapping[str, Any]) -> GroupScores:
    """The opposite of `_columns`."""
    names = ("overall", "dimensions", "stds", "probabilities")
    return GroupScores.from_columns(*(columns[name] for name in names))

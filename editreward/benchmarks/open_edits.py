"""The benchmark `open-edits`: photographs that ordinary tools edited, well and badly on purpose.

`python -m research.open_edits` makes the groups: they are not part of the package, for their pictures have licences of
their own. Nothing of them comes from the simulated worlds, on which the bundled models train.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.benchmarks.benchmark import Benchmark, BenchmarkData, DataRequest
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.own import items_of
from editreward.benchmarks.protocols import OVERALL, Answers, calibration
from editreward.benchmarks.simulated import exact_accuracy, exact_relations
from editreward.data.sources import StoredRows
from editreward.resources import resource
from editreward.statistics import bootstrap

ABOUT = "photographs edited by ordinary tools, made by `python -m research.open_edits`"

NAME = "open-edits"
FOLDER = "runs/open-edits"
"""Where the groups are looked for if no other folder is named."""
MAKE = "python -m research.open_edits --output"
DESCRIPTION, BY_EYE = "configs/open_edits.json", "configs/open_edits_by_eye.json"
"""Seed, hashes and versions of the groups that docs/open_edits.md is about; grades of some of them by eye."""
EDITS_FILE, FOUND_FILE = "edits.jsonl", "found.json"
"""Beside the groups: what was done in each, and the description of those that were made."""

ACCURACY = "accuracy of pairs"
EYE = "grades by eye"


def make(request: DataRequest) -> BenchmarkData:
    """The groups of a folder, each pair of their edits an item.

    Raises:
        FileNotFoundError: the folder does not hold such groups; the command that makes them is named.
    """
    folder = Path(request.data or FOLDER)
    if not (folder / EDITS_FILE).is_file() or not (folder / FOUND_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} has no open edits: make them with `{MAKE} {folder}` in a clone of the repository "
            "(docs/open_edits.md), or name their folder with --data."
        )
    lines = (folder / EDITS_FILE).read_text(encoding="utf-8").splitlines()
    about = {group["group_id"]: group for group in map(json.loads, lines)}
    rows = StoredRows(str(folder))
    items = []
    for row in rows:
        scores = [candidate["scores"] for candidate in row["candidates"]]
        graded = {name: [score[name] for score in scores] for name in scores[0]}
        items += [replace(item, benchmark=NAME, details={"exact_scores": graded}) for item in items_of(row)]
    tags = {name: {"names": group["names"]} for name, group in about.items()}
    return BenchmarkData(str(folder), rows, items, tags=tags, notes=notes(folder))


def notes(folder: Path) -> list[str]:
    """What a reader of results on the groups in a folder must know: how they differ from those of the docs."""
    found, committed = (json.loads(file.read_text("utf-8")) for file in (folder / FOUND_FILE, resource(DESCRIPTION)))
    if found["pixels_sha256"] == committed["pixels_sha256"]:
        return []
    made_with = committed["made_with"]
    other = [f"{name} {version}" for name, version in found["made_with"].items() if version != made_with.get(name)]
    what = "pixels" if found["labels_sha256"] == committed["labels_sha256"] else "edits"
    return [
        f"These are not quite the groups of docs/open_edits.md: some {what} differ (seed {found['seed']}, "
        f"{found['groups']} groups{', ' if other else ''}{', '.join(other)}). Compare with runs on the same groups."
    ]


def protocol(answers: Answers) -> list[Measure]:
    """Share of pairs in the order of their grades, by sum and by dimension, in subsets; what grades by eye reach."""
    pairs = answers.pairs()
    by_eye = json.loads(resource(BY_EYE).read_text(encoding="utf-8"))
    return [
        *exact_accuracy(answers, pairs, ACCURACY),
        *calibration(answers, pairs),
        *agreement_by_eye(answers, by_eye["grades"]),
    ]


def agreement_by_eye(answers: Answers, grades: Mapping[str, Sequence[Sequence[float]]]) -> list[Measure]:
    """Share of pairs that grades by eye put in the order of the grades of the data; ties by eye count half.

    Args:
        answers: whose items are compared.
        grades: by group id the grades of each edit, in the order of the default dimensions. Groups with another
            number of edits are left out: they are not those that were graded.
    """
    chosen = [
        item for item in answers.items if len(grades.get(item.group_id, ())) == answers.groups[item.group_id].size
    ]
    if not chosen:
        return []
    pairs = answers.pairs(chosen)
    measures = []
    for name in (OVERALL, *DEFAULT_DIMENSIONS):
        truth = exact_relations(pairs, name)
        column = range(len(DEFAULT_DIMENSIONS)) if name == OVERALL else [DEFAULT_DIMENSIONS.index(name)]
        totals = {group_id: np.array(graded)[:, list(column)].sum(axis=1) for group_id, graded in grades.items()}
        seen = [
            totals[item.group_id][item.candidates[0]] - totals[item.group_id][item.candidates[1]] for item in chosen
        ]
        right = ((1 + truth * np.sign(seen)) / 2)[truth != 0]
        groups = [item.group_id for item, relation in zip(chosen, truth, strict=True) if relation]
        measures.append(Measure(f"{EYE}, {ACCURACY}", name, bootstrap(partial(_mean_at, right), len(right), groups)))
    return measures


def _mean_at(values: np.ndarray, rows: np.ndarray) -> float:
    return float(values[rows].mean())


BENCHMARK = Benchmark(
    NAME,
    "Open edits",
    protocol,
    ties=lambda item: True,
    names={name: (name,) for name in DEFAULT_DIMENSIONS},
    make=make,
)

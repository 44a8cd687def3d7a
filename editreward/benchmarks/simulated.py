"""The benchmark `simulated`: tuples of held-out simulated edits that simulated annotators have labelled.

The benchmark builder chooses and labels them. Nothing is downloaded: all of it comes from seeds, is made once, and is
kept in the cache. The protocol is that of EditReward-Bench, with accuracy on exact scores, and the annotators.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.benchmarks.benchmark import Benchmark, BenchmarkData, DataRequest
from editreward.benchmarks.measures import Cases, Measure
from editreward.benchmarks.protocols import OVERALL, Answers, Pairs, accuracies_of, tuples
from editreward.benchmarks.simulated_test_set import read_description
from editreward.curation.benchmark import GROUPS_FOLDER, BuildOptions, build_benchmark
from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, read_benchmark
from editreward.data.images import read_image
from editreward.data.sources import StoredRows, stream_splits
from editreward.data.storage import write_groups
from editreward.files import alone_at
from editreward.groups.ratings import Rating
from editreward.groups.rows import GroupRow
from editreward.resources import resource
from editreward.scorers.fingerprints import content_hash, versions
from editreward.simulation import WORLDS, annotate, novelty_in_words, simulate_groups
from editreward.statistics import tuple_outcomes
from editreward.statistics.agreement import agreement

ABOUT = "held-out simulated groups, no download"

DESCRIPTION = "configs/simulated_benchmark.json"
"""Of the benchmark that is meant where no other is named."""

NAME = "simulated"
LONGEST_MAKING = 3600
"""Seconds that a run waits for another one that makes the same benchmark."""
FOUND_FILE = "found.json"
"""Beside a benchmark that was made: hashes and versions."""

NOVELTIES = {name: ("wording", *world.novelties) for name, world in WORLDS.items()}
"""World to what only its test split shows."""

PACKAGES = ("numpy", "pillow")
"""Those whose versions may change pixels; labels depend on none."""

EXACT = "accuracy on exact scores"
CEILING = "exact scores against the labels"
AGREEMENT = "agreement of annotators"


@dataclass(frozen=True)
class SimulatedBenchmark:
    """A simulated benchmark, identified by what makes it and by hashes of what comes out.

    Attributes:
        split, seed, pool, candidates, size: the groups `simulate_groups` makes, from which tuples are chosen: `pool`
            groups from `seed` on.
        world: in which world they are.
        annotators, noise: of `annotate`.
        tuples: how many to choose, a third of 2, 3 and 4 candidates each, one from a group.
        labels_sha256: over everything but the pixels.
        pixels_sha256: over the pixels.
        made_with: versions of `PACKAGES` that gave these pixels.
    """

    split: str
    seed: int
    pool: int
    candidates: int
    size: int
    annotators: int
    noise: float
    tuples: int
    labels_sha256: str
    pixels_sha256: str
    made_with: dict[str, str]
    world: str = "shapes"

    @classmethod
    def from_json(cls, path: str | Path) -> "SimulatedBenchmark":
        """Read the description from a JSON file.

        Raises:
            ValueError: it has other fields; they are named.
        """
        return read_description(cls, path, "a simulated benchmark", "configs/simulated_benchmark.json")

    def load(self, cache: Path, progress: bool | None = None) -> Path:
        """The benchmark's folder in the cache, made there first if need be.

        It holds `groups/` with `benchmark.jsonl` and `published/` as `editreward data build-bench` writes them. An
        item's `details` say beyond that which `exact_scores` the candidates have, by dimension in the order of the
        row, and whether wording and combination occur in no training group: `unseen_wording`, `unseen_combination`.

        Args:
            cache: folder of the cache.
            progress: show progress bars; None: in a terminal.

        Raises:
            ValueError: the labels are not those that were hashed, or there are too few groups for the tuples.
        """
        made_by = json.dumps([asdict(self), versions(*PACKAGES)], sort_keys=True)
        folder = cache / NAME / content_hash(made_by)[:32]
        with alone_at(folder, wait=LONGEST_MAKING):
            if not folder.exists():
                # What killed runs left, hidden and never used.
                for left in folder.parent.glob(f".{folder.name}.making*"):
                    shutil.rmtree(left, ignore_errors=True)
                work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.making"))
                try:
                    self.build(work / "bench", progress)
                    self._check_labels(found_in(work / "bench"))
                    _move(work / "bench", folder)
                finally:
                    shutil.rmtree(work)
        self._check_labels(found_in(folder))
        return folder

    def build(self, folder: Path, progress: bool | None = None) -> None:
        """Make the benchmark in a folder that does not exist yet; see `load`."""
        exact: dict[str, dict[str, Any]] = {}
        pool = folder.parent / f".{folder.name}-pool"
        disable = None if progress is None else not progress
        try:
            rows = tqdm(self.annotated(exact), "Simulating", self.pool, unit=" groups", disable=disable)
            write_groups(rows, pool, self.split)
            # Nobody adjudicates here: all labels are by majority.
            options = BuildOptions(
                groups=self.tuples, annotators=self.annotators, adjudicated_share=0, split=self.split
            )
            datasets = list(stream_splits(pool).values())
            summary = build_benchmark(datasets, folder, options, name=NAME, progress=progress)
        finally:
            shutil.rmtree(pool, ignore_errors=True)
        if sum(summary.written.values()) != self.tuples:
            raise ValueError(
                f"{self.pool} simulated groups gave {sum(summary.written.values())} labelled tuples, not "
                f"{self.tuples}: use a larger pool or less noise."
            )
        items = [_with_truth(item, exact) for item in read_benchmark(folder / GROUPS_FOLDER)]
        lines = "".join(f"{item.to_json()}\n" for item in items)
        (folder / GROUPS_FOLDER / BENCHMARK_FILE).write_text(lines, encoding="utf-8")
        found = {**hashes(folder), "made_with": versions(*PACKAGES)}
        (folder / FOUND_FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def annotated(self, exact: dict[str, dict[str, Any]] | None = None) -> Iterator[GroupRow]:
        """Rows of the pool with annotations. What else is known of each group is put into `exact`, by its id."""
        for group in simulate_groups(self.pool, self.split, self.seed, self.candidates, self.size, 0.0, self.world):
            row = group.to_row()
            if exact is not None:
                exact[group.group_id] = {
                    "scores": [candidate["scores"] for candidate in row["candidates"]],
                    "unseen": {f"unseen_{name}": getattr(group, f"unseen_{name}") for name in NOVELTIES[self.world]},
                }
            yield annotate(row, self.annotators, self.noise)

    def notes(self, folder: Path) -> list[str]:
        """What a reader of results on the benchmark in this folder must know: whether the pixels are others."""
        found = found_in(folder)
        if found["pixels_sha256"] == self.pixels_sha256:
            return []
        return [
            f"The images were made with {_named(found['made_with'])} and differ in some pixels from those made with "
            f"{_named(self.made_with)}, on which the numbers in docs/benchmarks.md are. Scenes, instructions and "
            "labels are the same. Compare with runs on the same pixels (SHA-256 "
            f"{found['pixels_sha256'][:12]}...) where tenths of a point matter."
        ]

    def _check_labels(self, found: dict[str, Any]) -> None:
        if found["labels_sha256"] != self.labels_sha256:
            raise ValueError(
                f"The labels of the simulated benchmark have the hash {found['labels_sha256']}, not "
                f"{self.labels_sha256}: the generator, the annotators or the builder has changed, and results cannot "
                "be compared with earlier ones."
            )


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 over everything but the pixels, and over the pixels, of the benchmark in a folder.

    Neither depends on the order of rows or on how image files are compressed.
    """
    items = {item.item_id: item for item in read_benchmark(folder / GROUPS_FOLDER)}
    labels, pixels = {}, {}
    for row in StoredRows(str(folder / GROUPS_FOLDER)):
        images = [*row["source_images"], *(candidate["image"] for candidate in row["candidates"])]
        candidates = [{**candidate, "image": None} for candidate in row["candidates"]]
        without_images = {**row, "source_images": None, "candidates": candidates}
        name = row["group_id"]
        labels[name] = json.dumps([asdict(items[name]), without_images], sort_keys=True)
        decoded = [read_image(image) for image in images]
        pixels[name] = "\n".join(f"{image.size} {hashlib.sha256(image.tobytes()).hexdigest()}" for image in decoded)
    return {
        "labels_sha256": content_hash(*(labels[name] for name in sorted(labels))),
        "pixels_sha256": content_hash(*(pixels[name] for name in sorted(pixels))),
    }


def found_in(folder: Path) -> dict[str, Any]:
    """Hashes and versions of the benchmark that was made in a folder."""
    found: dict[str, Any] = json.loads((folder / FOUND_FILE).read_text(encoding="utf-8"))
    return found


def _with_truth(item: BenchmarkItem, exact: dict[str, dict[str, Any]]) -> BenchmarkItem:
    known = exact[item.details["source_group_id"]]
    scores = [known["scores"][index] for index in item.details["source_candidates"]]
    truth = {
        "exact_scores": {name: [score[name] for score in scores] for name in scores[0]},
        **known["unseen"],
    }
    return replace(item, benchmark=NAME, details={**item.details, **truth})


def _move(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.exists():
            raise  # otherwise another process was faster, and has the same


def _named(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def make_data(request: DataRequest) -> BenchmarkData:
    """The benchmark's data; the first process makes them where they are not in the cache."""
    file = Path(request.data) if request.data else resource(DESCRIPTION)
    if not file.is_file():
        raise FileNotFoundError(
            f"--data: {file} is no file. simulated takes the description of another simulated benchmark, as "
            f"{DESCRIPTION} is one."
        )
    described, processes = SimulatedBenchmark.from_json(file), request.processes
    made = described.load(request.cache, request.progress) if processes.is_main else None
    folder = processes.from_main(made)
    items = list(read_benchmark(folder / GROUPS_FOLDER))
    tags = {item.group_id: _novelties(item, described.world) for item in items}
    rows = StoredRows(str(folder / GROUPS_FOLDER))
    return BenchmarkData(request.data or DESCRIPTION, rows, items, tags=tags, notes=described.notes(folder))


def _novelties(item: BenchmarkItem, world: str) -> dict[str, str]:
    """What of an item occurs in no training group: in one phrase, or in the collage world one by one."""
    unseen = [item.details[f"unseen_{name}"] for name in NOVELTIES[world]]
    if world == "shapes":
        return {"novelty": novelty_in_words(*unseen)}
    return {name: "unseen" if is_new else "seen" for name, is_new in zip(NOVELTIES[world], unseen, strict=True)}


def protocol(answers: Answers) -> list[Measure]:
    """Tuples as EditReward-Bench judges them, with subsets; pairs by their exact scores; people, and the exact scores
    themselves, in the place of the scorer.

    Labels are majorities of the annotators. Subsets are categories, languages, and what occurs in no training group.
    """
    pairs = answers.pairs()
    return [
        *(replace(measure, column=None) for measure in tuples(answers)),
        *_labels_by_subset(answers, pairs),
        *exact_accuracy(answers, pairs),
        *_strict_exact_accuracy(pairs),
        *annotators(answers, pairs),
    ]


def subsets(answers: Answers, pairs: Pairs) -> dict[str, np.ndarray]:
    """Labels of each pair, shape (pairs,), by the kind of subset: category, language and the tags."""
    records = [answers.groups[group_id] for group_id in pairs.groups]
    found = {
        "category": [record.category for record in records],
        "language": [record.language for record in records],
    }
    for kind in dict.fromkeys(name for tags in answers.tags.values() for name in tags):
        found[kind] = [answers.tags[group_id][kind] for group_id in pairs.groups]
    return {kind: np.array(labels) for kind, labels in found.items()}


def exact_relations(pairs: Pairs, dimension: str) -> np.ndarray:
    """1 where the first of a pair is better by the exact scores, -1 where the second is, 0 where they are equal.

    Args:
        pairs: the comparisons.
        dimension: one of the exact scores, or `overall` for their sum.
    """
    return np.sign(_exact_differences(pairs, dimension))


def exact_accuracy(answers: Answers, pairs: Pairs, title: str = EXACT) -> list[Measure]:
    """Share of pairs in the order of their exact scores, where these differ: overall and by dimension, in subsets.

    A dimension is judged by the scorer's own, else by its overall score, as the details say.
    """
    measures = []
    of_kind = subsets(answers, pairs)
    for name in (OVERALL, *_dimensions(pairs)):
        truth = exact_relations(pairs, name)
        scored_by = answers.answering(name)
        right = np.sign(answers.differences_in(pairs, scored_by)) == truth
        details = {} if name == OVERALL else {"score": scored_by if answers.scores else "verdict"}
        chosen_by = {name: truth != 0}
        for kind, labels in of_kind.items():
            for label in sorted(set(labels)):
                subset = f"{kind}: {label}" if name == OVERALL else f"{name}, {kind}: {label}"
                chosen_by[subset] = (truth != 0) & (labels == label)
        for subset, chosen in chosen_by.items():
            measures.append(_share(title, subset, pairs, right, chosen, details))
    return measures


def _labels_by_subset(answers: Answers, pairs: Pairs) -> list[Measure]:
    threshold = None if answers.margins is None else 0.0
    right = tuple_outcomes(pairs.differences, pairs.truths, pairs.tuples, pairs.sizes, threshold).pair_right
    measures = []
    for kind, labels in subsets(answers, pairs).items():
        for label in sorted(set(labels)):
            chosen = labels == label
            measures.append(Measure("pair-wise accuracy", f"{kind}: {label}", pairs.cases(right, chosen)))
    return measures


def _strict_exact_accuracy(pairs: Pairs) -> list[Measure]:
    """Share of tuples of 3 and 4 with different exact scores whose order is right."""
    truth, sizes = exact_relations(pairs, OVERALL), pairs.sizes
    tied = {name for name, relation in zip(pairs.tuples, truth, strict=True) if relation == 0}
    of_tuple = np.array([name not in tied for name in pairs.tuples])
    measures = []
    for k in (3, 4):
        chosen = np.flatnonzero(of_tuple & (sizes == k))
        if not len(chosen):
            continue
        names = [pairs.tuples[row] for row in chosen]
        found = tuple_outcomes(pairs.differences[chosen], truth[chosen], names, sizes[chosen], 0.0)
        groups = [str(name[0]) for name in found.tuples]  # type: ignore[index]
        cases = Cases(found.tuples, groups, found.right.astype(float))
        floors = 1 / factorial(k), 0.5 ** (k * (k - 1) / 2)
        measures.append(Measure(f"strict {EXACT}", f"K = {k}", cases, *floors))
    return measures


def annotators(answers: Answers, pairs: Pairs) -> list[Measure]:
    """What is the same whatever the scorer: how far the exact scores agree with the labels, which is as far as a
    perfect scorer gets; and how far the annotators agree with each other.
    """
    perfect = tuple_outcomes(_exact_differences(pairs, OVERALL), pairs.truths, pairs.tuples, pairs.sizes)
    return [*accuracies_of(CEILING, pairs, [(perfect, np.arange(len(pairs.items)))]), *_agreement(answers)]


def _agreement(answers: Answers) -> list[Measure]:
    records = [answers.groups[item.group_id] for item in answers.items]
    ratings = [
        Rating(annotator, record.group_id, index, {name: float(values[index]) for name, values in scores.items()})
        for record in records
        for annotator, scores in record.ratings.items()
        for index in range(record.size)
    ]
    measures = []
    names = list(records[0].truth)
    for name in (*names, OVERALL):
        found = agreement(ratings, name, names)
        measures.append(Measure(f"{AGREEMENT}, equal scores", name, found.exact))
        measures.append(Measure(f"{AGREEMENT}, Krippendorff's alpha", name, found.alpha))
    return measures


def _dimensions(pairs: Pairs) -> list[str]:
    return list(pairs.items[0].details["exact_scores"])


def _exact_differences(pairs: Pairs, dimension: str) -> np.ndarray:
    names = _dimensions(pairs) if dimension == OVERALL else [dimension]
    return np.array(
        [
            sum(scores[name][c.first] - scores[name][c.second] for name in names)
            for scores, c in zip(
                (item.details["exact_scores"] for item in pairs.items), pairs.comparisons, strict=True
            )
        ]
    )


def _share(
    name: str, subset: str, pairs: Pairs, right: np.ndarray, chosen: np.ndarray, details: dict[str, str]
) -> Measure:
    # Of four verdicts on a pair of K = 2, two are ties.
    coin = float(np.where(pairs.sizes[chosen] == 2, 0.25, 0.5).mean()) if chosen.any() else None
    return Measure(name, subset, pairs.cases(right, chosen), 0.5, coin, details=details)


BENCHMARK = Benchmark(
    NAME,
    "Simulated edits, held out",
    protocol,
    ties=lambda item: len(item.candidates) == 2,
    names={name: (name,) for name in DEFAULT_DIMENSIONS},
    make=make_data,
)

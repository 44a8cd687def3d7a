"""The simulated benchmark: tuples of held-out simulated edits that simulated annotators have labelled.

The benchmark builder of the data package chooses and labels them. Nothing is downloaded: all of it comes from seeds,
is made once, and is kept in the cache.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from editreward.curation.benchmark import GROUPS_FOLDER, BuildOptions, build_benchmark
from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, read_benchmark
from editreward.data.images import read_image
from editreward.data.storage import raw_groups, stream_splits, write_groups
from editreward.scorers.scorers import content_hash, versions
from editreward.simulation import annotate, simulate_groups

NAME = "simulated"
FOUND_FILE = "found.json"
"""Beside a benchmark that was made: hashes and versions."""

PACKAGES = ("numpy", "pillow")
"""Those whose versions may change pixels; labels depend on none."""


@dataclass(frozen=True)
class SimulatedBenchmark:
    """A simulated benchmark, identified by what makes it and by hashes of what comes out.

    Attributes:
        split, seed, pool, candidates, size: the groups `simulate_groups` makes, from which tuples are chosen: `pool`
            groups from `seed` on.
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

    @classmethod
    def from_json(cls, path: str | Path) -> "SimulatedBenchmark":
        """Read the description from a JSON file.

        Raises:
            ValueError: it has other fields; they are named.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            found = ", ".join(sorted(values)) if isinstance(values, dict) else f"a {type(values).__name__}"
            raise ValueError(
                f"{path} does not describe a simulated benchmark: it holds {found}. It needs "
                f"{', '.join(sorted(names))}, as configs/simulated_benchmark.json has them."
            )
        return cls(**values)

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
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
            try:
                self.build(work / "bench", progress)
                self._check_labels(found_in(work / "bench"))
                _move(work / "bench", folder)
            finally:
                shutil.rmtree(work)
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

    def annotated(self, exact: dict[str, dict[str, Any]] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of the pool with annotations. What else is known of each group is put into `exact`, by its id."""
        for group in simulate_groups(self.pool, self.split, self.seed, self.candidates, self.size):
            row = group.to_row()
            if exact is not None:
                exact[group.group_id] = {
                    "scores": [candidate["scores"] for candidate in row["candidates"]],
                    "unseen_wording": group.unseen_wording,
                    "unseen_combination": group.unseen_combination,
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
    for dataset in stream_splits(folder / GROUPS_FOLDER).values():
        for row in raw_groups(dataset):
            images = [*row["source_images"], *(candidate["image"] for candidate in row["candidates"])]
            candidates = [{**candidate, "image": None} for candidate in row["candidates"]]
            plain = {**row, "source_images": None, "candidates": candidates}
            name = row["group_id"]
            labels[name] = json.dumps([asdict(items[name]), plain], sort_keys=True)
            decoded = [read_image(image) for image in images]
            pixels[name] = "\n".join(
                f"{image.size} {hashlib.sha256(image.tobytes()).hexdigest()}" for image in decoded
            )
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
        "unseen_wording": known["unseen_wording"],
        "unseen_combination": known["unseen_combination"],
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

"""Make the example dataset: every step from candidates to a published dataset and benchmark, on simulated groups.

    python research/example_dataset.py --work out/example --output examples/simulated-edits

Needs no download and no GPU. `--work` takes what the steps write and must be new, `--output` the published dataset.
Simulated annotators stand in for people: they use the app's own pages, without the browser.
"""

import editreward.scripts

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from datasets import Dataset

from editreward.annotation.adjudication import Adjudication, read_tuples
from editreward.annotation.assignment import Policy
from editreward.annotation.database import Database
from editreward.annotation.people import annotators
from editreward.annotation.store import GroupStore
from editreward.annotation.workflow import Workflow
from editreward.cli import command as cli
from editreward.data.sources import open_groups, raw_groups
from editreward.data.storage import write_groups
from editreward.editors.editors import SimulatedEditor, read_editors
from editreward.groups.protocol import DEFAULT_PROTOCOL, read_protocol
from editreward.simulation import simulate_groups

EDITORS = Path(__file__).parents[1] / "configs" / "simulated_editors.yaml"

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Annotator:
    """A simulated annotator.

    Args:
        name: who.
        error: probability that a score is off by one.
        leniency: probability that an error is towards the better score.
        seconds: mean time per candidate.
    """

    name: str
    error: float
    leniency: float
    seconds: float

    def rate(self, truth: Scores, *key: object) -> dict[str, int]:
        """Score a candidate whose true scores are known; the same `key` always gives the same scores."""
        rng = Random(json.dumps([self.name, *key]))
        scores = {}
        for dimension, score in truth.items():
            if rng.random() < self.error:
                score += 1 if rng.random() < self.leniency else -1
            scores[dimension] = min(4, max(1, round(score)))
        return scores


ANNOTATORS = (
    Annotator("ana", error=0.15, leniency=0.5, seconds=6.0),
    Annotator("ben", error=0.25, leniency=0.7, seconds=5.0),
    Annotator("cleo", error=0.2, leniency=0.35, seconds=8.0),
)


def run(*command: object) -> None:
    """Run an `editreward` command and show it. Exit with its status if that is not 0."""
    words = [str(word) for word in command]
    print(f"\n$ editreward {' '.join(words)}", flush=True)
    status = cli.main(words)
    if status:
        raise SystemExit(status)


def truth_of(dataset: Dataset) -> dict[str, list[Scores]]:
    """True scores of the candidates of every group, asked of the simulated editors that made them."""
    editors = {editor.name: editor for editor in read_editors(EDITORS)}
    truth: dict[str, list[Scores]] = {}
    for row in raw_groups(dataset):
        truth[row["group_id"]] = []
        for candidate in row["candidates"]:
            editor = editors[candidate["editor"]]
            assert isinstance(editor, SimulatedEditor)
            truth[row["group_id"]].append(editor.scores(row["group_id"], candidate["seed"]))
    return truth


def annotate(
    database: Database, store: GroupStore, truth: Mapping[str, Sequence[Scores]], ratings_per_group: int
) -> None:
    """Let every simulated annotator rate until nothing is left, with a calibration round and gold groups."""
    protocol = read_protocol(DEFAULT_PROTOCOL)
    workflow = Workflow(database, store, protocol, Policy(protocol.calibration, gold_every=5), ratings_per_group)
    for annotator in ANNOTATORS:
        page = workflow.current(annotator.name)
        while page.kind != "finished":
            if page.kind == "calibration":
                if page.result is not None and not page.result.passed:
                    print(f"{annotator.name} tries the calibration round again: {page.result.exact}")
                page = workflow.start_round(annotator.name)
                continue
            assignment = page.assignment
            assert assignment is not None
            true = truth[assignment.group_id]
            scores: dict[tuple[int, str], int | None] = {}
            for place, candidate in enumerate(assignment.order):
                rated = annotator.rate(true[candidate], assignment.id, candidate)
                scores |= {(place, dimension): score for dimension, score in rated.items()}
                # As the page does while somebody looks at it.
                seconds = annotator.seconds * Random(f"{annotator.name} {assignment.id} {place}").uniform(0.6, 1.4)
                database.touch(assignment.id, now=time.time() + (place + 1) * seconds)
            page = workflow.submit(annotator.name, assignment.id, assignment.version, page.form, scores)
    for progress in database.progress():
        print(f"{progress.annotator}: {progress.rated} groups, {progress.seconds / 60:.0f} simulated minutes")


def adjudicate(database: Database, store: GroupStore, truth: Mapping[str, Sequence[Scores]], tuples: Path) -> None:
    """Have all annotators propose the ranking by the true sums; a true tie among more than two leaves a tuple out."""
    adjudication = Adjudication(database, store, read_tuples(tuples, store), read_protocol(DEFAULT_PROTOCOL).names)
    for place, entry in enumerate(adjudication.tuples):
        true = truth[entry.group_id]
        sums = [sum(true[candidate].values()) for candidate in entry.candidates]
        ranks: list[int | None] | None = [1 + sum(other > own for other in sums) for own in sums]
        if len(sums) > 2 and len(set(sums)) < len(sums):
            ranks = None
        for name in annotators(database):
            adjudication.propose(name, place, ranks, "" if ranks else "two edits are equally good")


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/example"), help="folder for what the steps write")
    parser.add_argument("--output", type=Path, help="folder for a copy of the published dataset")
    parser.add_argument("--groups", type=int, default=20, help="groups to annotate (default: %(default)s)")
    args = parser.parse_args()
    work: Path = args.work
    if work.exists() and any(work.iterdir()):
        parser.error(f"{work} is not empty: name a new folder, or delete it")
    work.mkdir(parents=True, exist_ok=True)

    # 1. Candidates: six simulated editors with two seeds each, seven drawn for annotation
    candidates = work / "candidates"
    run("generate", "--instructions", "simulated", "--split", "train", "--limit", args.groups,
        "--editors", EDITORS, "--keep", 7, "--output", candidates)  # fmt: skip
    run("data", "check", candidates)

    # 2. Annotation by three people, after a calibration round, with gold groups mixed in
    reference = list(simulate_groups(9, split="validation"))
    write_groups((group.to_row() for group in reference[:5]), work / "calibration")
    write_groups((group.to_row() for group in reference[5:]), work / "gold")
    truth = truth_of(open_groups(str(candidates)))
    truth |= {group.group_id: [candidate.scores for candidate in group.candidates] for group in reference}
    database_path = work / "annotations.sqlite"
    run("annotate", "people", "--database", database_path, "--add", *(annotator.name for annotator in ANNOTATORS))
    store = GroupStore()
    store.add(open_groups(str(candidates)), "work", "candidates")
    store.add(open_groups(str(work / "calibration")), "calibration", "calibration")
    store.add(open_groups(str(work / "gold")), "gold", "gold")
    with Database(database_path) as database:
        annotate(database, store, truth, ratings_per_group=3)
    annotated = work / "annotated"
    run("annotate", "export", "--dataset", candidates, "--database", database_path, "--output", annotated)
    run("annotate", "report", "--database", database_path, "--output", work / "report")
    run("data", "check", annotated)

    # 3. A benchmark, with an adjudication round for the tuples that annotators do not agree on
    build = ["data", "build-bench", annotated, "--groups", max(3, args.groups // 2), "--output"]
    run(*build, work / "benchmark")
    tuples = work / "benchmark" / "tuples.jsonl"
    if tuples.exists() and tuples.stat().st_size:
        with Database(database_path) as database:
            adjudicate(database, store, truth, tuples)
        rankings = work / "rankings.jsonl"
        run("annotate", "export", "--database", database_path, "--rankings", rankings)
        run(*build, work / "benchmark-final", "--rankings", rankings)

    exchange(annotated, work)
    run("data", "stats", annotated, "--output", work / "statistics")
    publish(annotated, work / "published", args.output)


def exchange(annotated: Path, work: Path) -> None:
    """4. Other trainers' format, and back; what else can be said of the rows."""
    run("data", "export", annotated, "--format", "editreward-data", "--output", work / "pairs")
    run("data", "import", "--format", "editreward-data", "--input", work / "pairs" / "pairs.json",
        "--output", work / "imported")  # fmt: skip
    run("data", "contamination", annotated, work / "gold")
    run("data", "flag", annotated, "--output", work / "flags.jsonl")


def publish(annotated: Path, published: Path, copy: Path | None) -> None:
    """5. The folder as it would go to the Hub, and a copy of it."""
    run("data", "publish", annotated, "--repo-id", "org/simulated-edits", "--license", "apache-2.0",
        "--splits", "train=0.8", "test=0.2", "--dry-run", published)  # fmt: skip
    if copy:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(published, copy)
        print(f"\nCopied {published} to {copy}.")


if __name__ == "__main__":
    main()

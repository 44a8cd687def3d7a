"""The simulated benchmark: how it is made, and its protocol against brute force."""

import importlib.util
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from editreward.benchmarks import BENCHMARKS, load_benchmark, run_benchmark
from editreward.benchmarks import simulated as module
from editreward.benchmarks.measures import SHARE
from editreward.benchmarks.runner import Runner
from editreward.benchmarks.simulated import DESCRIPTION, PACKAGES, SimulatedBenchmark, found_in, hashes
from editreward.benchmarks.simulated_test_set import novelty
from editreward.data.benchmark_items import read_benchmark
from editreward.data.images import read_image
from editreward.data.sources import load_groups, raw_groups
from editreward.groups import GroupScores
from editreward.resources import resource
from editreward.scorers.baselines import CoinPerPair
from editreward.scorers.fingerprints import versions
from editreward.simulation import simulate_group, simulate_groups
from tests.helpers.benchmarks import SMALL, described

DIMENSIONS = ("instruction_following", "visual_quality")


@pytest.fixture(scope="module")
def description(tmp_path_factory) -> Path:
    return described(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def data(description):
    return load_benchmark(BENCHMARKS["simulated"], str(description), cache=description.parent, progress=False)


@pytest.fixture(scope="module")
def rows(data) -> dict[str, dict]:
    return {row["group_id"]: row for row in data.rows}


def seed_of(item) -> int:
    return int(item.details["source_group_id"].rsplit("-", 1)[1])


def overall(annotations: list[dict]) -> list[float]:
    """Sums of the scores that each annotator gives, in the order of their names."""
    return [sum(a[name] for name in DIMENSIONS) for a in sorted(annotations, key=lambda a: a["annotator"])]


# How it is made


def test_the_order_of_the_groups_changes_nothing_and_a_second_time_gives_the_same(tmp_path, description, monkeypatch):
    first = json.loads(description.read_text())
    monkeypatch.setattr(module, "simulate_groups", lambda *options: reversed(list(simulate_groups(*options))))
    SMALL.build(tmp_path / "turned", progress=False)
    assert hashes(tmp_path / "turned") == {name: first[name] for name in ("labels_sha256", "pixels_sha256")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["turned"], "the pool is left"


def test_hashes_tell_labels_from_pixels(tmp_path, description):
    first = json.loads(description.read_text())
    replace(SMALL, size=85).build(tmp_path / "larger", progress=False)
    larger = hashes(tmp_path / "larger")
    assert larger["labels_sha256"] == first["labels_sha256"] and larger["pixels_sha256"] != first["pixels_sha256"]
    replace(SMALL, noise=0.11).build(tmp_path / "noisier", progress=False)
    assert hashes(tmp_path / "noisier")["labels_sha256"] != first["labels_sha256"]


def test_the_generator_the_annotators_and_the_builder_make_what_the_committed_benchmark_was_made_of(tmp_path):
    committed = SimulatedBenchmark.from_json(resource(DESCRIPTION))
    replace(committed, pool=30, tuples=12).build(tmp_path / "bench", progress=False)
    found = found_in(tmp_path / "bench")
    # A change of these hashes changes the benchmark: the numbers in docs/benchmarks.md are then to be made anew, with
    # other hashes in configs/simulated_benchmark.json.
    assert found["labels_sha256"] == "920a458f9c64f649f94355d27e2f7f96859f0e5fe719c4a927de8d83214d7b82"
    if versions(*PACKAGES) == committed.made_with:
        assert found["pixels_sha256"] == "29e86283b50d50fcce946dfe1245c6c0ec1584efa34f3a0764588b7a4a12050b"


@pytest.mark.slow
def test_the_committed_benchmark_has_the_committed_hashes_and_numbers_of_tuples(tmp_path):
    committed = SimulatedBenchmark.from_json(resource(DESCRIPTION))
    folder = committed.load(tmp_path, progress=False)
    if versions(*PACKAGES) == committed.made_with:
        assert committed.notes(folder) == []
    items = list(read_benchmark(folder / "groups"))
    assert Counter(len(item.candidates) for item in items) == {2: 167, 3: 167, 4: 166}
    categories = Counter(row["category"] for row in raw_groups(load_groups(folder / "groups", "test", True)))
    assert sorted(categories.values()) == [71, 71, 71, 71, 72, 72, 72]
    assert sum(comparison.verdict == "tie" for item in items for comparison in item.comparisons) == 41
    assert min(map(seed_of, items)) >= 500, "the seeds of configs/simulated_test_set.json"


def test_sizes_categories_and_ties_are_balanced(data, rows):
    assert Counter(len(item.candidates) for item in data.items) == {2: 7, 3: 7, 4: 6}
    categories = Counter(row["category"] for row in rows.values())
    assert len(categories) == 7 and set(categories.values()) == {2, 3}
    tied = [item for item in data.items if any(c.verdict == "tie" for c in item.comparisons)]
    assert len(tied) == 1 and len(tied[0].candidates) == 2  # a quarter of 7
    assert len({item.details["source_group_id"] for item in data.items}) == 20


def test_tuples_are_of_held_out_groups_with_their_true_flags_and_scores(data, rows):
    for item in data.items:
        group = simulate_group(seed_of(item), "test", candidates=7, size=84)
        row = rows[item.group_id]
        assert (row["instruction"], row["category"], row["language"]) == (
            group.instruction,
            group.category,
            group.language,
        )
        assert item.details["unseen_wording"] == group.unseen_wording
        assert item.details["unseen_combination"] == group.unseen_combination
        assert data.tags[item.group_id] == {"novelty": novelty(group)}
        candidates = [group.candidates[index] for index in item.details["source_candidates"]]
        for name in DIMENSIONS:
            assert item.details["exact_scores"][name] == [candidate.scores[name] for candidate in candidates]
        for stored, candidate in zip(row["candidates"], candidates, strict=True):
            assert read_image(stored["image"]).tobytes() == candidate.image.tobytes()
    assert len({(i.details["unseen_wording"], i.details["unseen_combination"]) for i in data.items}) == 4


def test_annotators_are_off_by_one_point_as_often_as_said_and_labels_are_their_majorities(data, rows):
    exact: dict = {}
    off = Counter()
    for row in SMALL.annotated(exact):
        for candidate, true in zip(row["candidates"], exact[row["group_id"]]["scores"], strict=True):
            assert len(candidate["annotations"]) == 3
            off.update(abs(a[name] - true[name]) for a in candidate["annotations"] for name in DIMENSIONS)
    assert set(off) == {0, 1} and off.total() == 60 * 7 * 3 * 2
    assert off[1] / off.total() == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / off.total()))
    for item in data.items:
        for c in item.comparisons:
            sides = [overall(rows[item.group_id]["candidates"][index]["annotations"]) for index in (c.first, c.second)]
            votes = Counter("first" if a > b else "second" if a < b else "tie" for a, b in zip(*sides, strict=True))
            assert votes[c.verdict] >= 2


def test_it_is_made_once_and_kept(description, tmp_path, monkeypatch):
    benchmark = SimulatedBenchmark.from_json(description)
    folder = benchmark.load(tmp_path, progress=False)
    monkeypatch.setattr(module, "simulate_groups", lambda *options: pytest.fail("made again"))
    assert benchmark.load(tmp_path, progress=False) == folder
    assert list(folder.parent.iterdir()) == [folder]


def test_other_pixels_are_stated_in_the_result_and_other_labels_are_refused(description, tmp_path):
    values = json.loads(description.read_text())
    file = tmp_path / "other.json"
    file.write_text(json.dumps(values | {"pixels_sha256": "0" * 64, "made_with": {"numpy": "1.0", "pillow": "2.0"}}))
    other = load_benchmark(BENCHMARKS["simulated"], str(file), cache=tmp_path, progress=False)
    result = run_benchmark(BENCHMARKS["simulated"], other, CoinPerPair(), Runner(progress=False))
    (note,) = result.to_dict()["data"]["notes"]
    assert "numpy 1.0, pillow 2.0" in note and values["pixels_sha256"][:12] in note and note in result.markdown()
    file.write_text(json.dumps(values | {"labels_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=f"have the hash {values['labels_sha256']}, not 000"):
        load_benchmark(BENCHMARKS["simulated"], str(file), cache=tmp_path, progress=False)
    file.write_text(json.dumps(values | {"tuples": 80}))
    with pytest.raises(ValueError, match="60 simulated groups gave 60 labelled tuples, not 80: use a larger pool"):
        load_benchmark(BENCHMARKS["simulated"], str(file), cache=tmp_path, progress=False)
    file.write_text(json.dumps({"split": "test", "groups": 500}))
    with pytest.raises(ValueError, match="other.json does not describe a simulated benchmark: it holds groups, split"):
        load_benchmark(BENCHMARKS["simulated"], str(file), cache=tmp_path, progress=False)
    assert not [path for path in (tmp_path / "simulated").iterdir() if path.name.startswith(".")]


# The protocol


class Table:
    """Scores by image, and by dimension where there are any."""

    def __init__(self, score, dimensions=()) -> None:
        self.name = self.fingerprint = "table"
        self.score, self.dimensions = score, dimensions

    def __call__(self, groups):
        return [
            GroupScores.from_columns(
                [self.score("overall", image) for image in group.edited],
                {name: [self.score(name, image) for image in group.edited] for name in self.dimensions},
            )
            for group in groups
        ]


def run(data, scorer) -> dict[tuple[str, str], float]:
    result = run_benchmark(BENCHMARKS["simulated"], data, scorer, Runner(progress=False))
    assert all(measure.column is None for measure in result.measures), "there is no published table"
    for measure in result.measures:  # what compares two models is what the measure is the mean of
        if measure.cases is not None and measure.cases.statistic is SHARE:
            assert measure.cases.values.mean() == pytest.approx(measure.estimate.value)
    return {(measure.name, measure.subset): measure.estimate.value for measure in result.measures}


def share(values) -> float:
    return sum(values) / len(values)


def sign(x: float) -> int:
    return (x > 1e-6) - (x < -1e-6)


def strict(items, rows, differences, truths, sizes=(2, 3, 4)) -> tuple[float, list[bool]]:
    """Share of right tuples and what pairs are right, over all thresholds of K = 2, by brute force."""

    def right(item, threshold):
        pairs = list(combinations(range(len(item.candidates)), 2))
        said = [differences(item, i, j) for i, j in pairs]
        said = [0 if len(pairs) == 1 and abs(d) <= threshold else sign(d) for d in said]
        return [a == truths(item, i, j) for a, (i, j) in zip(said, pairs, strict=True)]

    two = [item for item in items if len(item.candidates) == 2]
    thresholds = sorted({0.0, *(abs(differences(item, 0, 1)) for item in two)})
    best = max(thresholds, key=lambda threshold: sum(right(item, threshold)[0] for item in two))  # of equals the first
    found = [right(item, best) for item in items if len(item.candidates) in sizes]
    return share([all(pairs) for pairs in found]), [one for pairs in found for one in pairs]


def test_measures_equal_brute_force(data, rows):
    rng = np.random.default_rng(0)
    images = [candidate["image"]["bytes"] for row in rows.values() for candidate in row["candidates"]]
    table = {(name, image): rng.normal() for name in ("overall", DIMENSIONS[0]) for image in images}
    found = run(data, Table(lambda name, image: table[name, image], DIMENSIONS[:1]))

    def scores(item, name):
        return [table[name, candidate["image"]["bytes"]] for candidate in rows[item.group_id]["candidates"]]

    def difference(item, i, j, name="overall"):
        return scores(item, name)[i] - scores(item, name)[j]

    def label(item, i, j):
        (verdict,) = [c.verdict for c in item.comparisons if (c.first, c.second) == (i, j)]
        return {"first": 1, "second": -1, "tie": 0}[verdict]

    def exact(item, i, j, names=DIMENSIONS):
        return sign(
            sum(item.details["exact_scores"][name][i] - item.details["exact_scores"][name][j] for name in names)
        )

    for sizes in ((2,), (3,), (4,), (2, 3, 4)):
        subset = f"K = {sizes[0]}" if len(sizes) == 1 else "overall"
        tuples, pairs = strict(data.items, rows, difference, label, sizes)
        assert found["strict accuracy", subset] == pytest.approx(tuples)
        assert found["pair-wise accuracy", subset] == pytest.approx(share(pairs))
        perfect, _ = strict(data.items, rows, lambda item, i, j: exact(item, i, j), label, sizes)
        assert found["exact scores against the labels, strict accuracy", subset] == pytest.approx(perfect)

    # The second dimension has no score of its own: the overall one judges it.
    judged_by = {"overall": ("overall", DIMENSIONS)}
    judged_by |= {DIMENSIONS[0]: (DIMENSIONS[0], DIMENSIONS[:1]), DIMENSIONS[1]: ("overall", DIMENSIONS[1:])}
    for name, (column, truth) in judged_by.items():
        right: dict[str, list[bool]] = {}
        for item in data.items:
            row = rows[item.group_id]
            labels = [f"category: {row['category']}", f"language: {row['language']}"]
            labels += [f"novelty: {data.tags[item.group_id]['novelty']}"]
            for i, j in combinations(range(len(item.candidates)), 2):
                if exact(item, i, j, truth):
                    is_right = sign(difference(item, i, j, column)) == exact(item, i, j, truth)
                    for place in ("", *labels):
                        right.setdefault(place, []).append(is_right)
        for place, values in right.items():
            subset = name if not place else place if name == "overall" else f"{name}, {place}"
            assert found["accuracy on exact scores", subset] == pytest.approx(share(values))
        assert len([s for n, s in found if n == "accuracy on exact scores" and s.startswith(f"{name}, ")]) == (
            0 if name == "overall" else len(right) - 1
        )
    for k in (3, 4):
        different = [
            item
            for item in data.items
            if len(item.candidates) == k and all(exact(item, i, j) for i, j in combinations(range(k), 2))
        ]
        tuples, _ = strict(different, rows, difference, exact, (k,)) if different else (None, None)
        assert found.get(("strict accuracy on exact scores", f"K = {k}")) == pytest.approx(tuples)


def test_people_are_judged_by_the_mean_of_the_others_and_by_how_often_they_agree(data, rows):
    found = run(data, Table(lambda name, image: float(len(image))))
    per_annotator, equal = [], {name: [] for name in (*DIMENSIONS, "overall")}
    for annotator in range(3):

        def rated(item, index, who):
            return overall(rows[item.group_id]["candidates"][index]["annotations"])[who]

        def own(item, i, j, who=annotator):
            return rated(item, i, who) - rated(item, j, who)

        def others(item, i, j, who=annotator):
            rest = [one for one in range(3) if one != who]
            return sign(sum(rated(item, i, one) - rated(item, j, one) for one in rest))

        per_annotator.append(strict(data.items, rows, own, others))
    assert found["human to human, strict accuracy", "overall"] == pytest.approx(
        share([one for one, _ in per_annotator])
    )
    pairs = [right for _, of_pair in per_annotator for right in of_pair]
    assert found["human to human, pair-wise accuracy", "overall"] == pytest.approx(share(pairs))

    for row in rows.values():
        for candidate in row["candidates"]:
            for a, b in combinations(candidate["annotations"], 2):
                for name in DIMENSIONS:
                    equal[name].append(a[name] == b[name])
                equal["overall"].append(sum(a[n] for n in DIMENSIONS) == sum(b[n] for n in DIMENSIONS))
    assert not all(equal["overall"]), "annotators who always agree test nothing"
    for name, values in equal.items():
        assert found["agreement of annotators, equal scores", name] == pytest.approx(share(values))


def test_who_knows_the_exact_scores_is_right_about_them_and_reaches_the_ceiling_of_the_labels(data, rows):
    exact = {
        (name, candidate["image"]["bytes"]): item.details["exact_scores"][name][index]
        for item in data.items
        for index, candidate in enumerate(rows[item.group_id]["candidates"])
        for name in DIMENSIONS
    }
    exact |= {("overall", image): sum(exact[name, image] for name in DIMENSIONS) for _, image in list(exact)}
    found = run(data, Table(lambda name, image: exact[name, image], DIMENSIONS))
    assert {value for (name, _), value in found.items() if name.endswith("accuracy on exact scores")} == {1.0}
    for kind in ("strict accuracy", "pair-wise accuracy"):
        for subset in ("K = 2", "K = 3", "K = 4", "overall"):
            assert found[kind, subset] == found[f"exact scores against the labels, {kind}", subset]


def test_a_judge_of_pairs_is_asked_about_ties_of_two_only_and_gets_all_measures(data):
    class Judge:
        name = fingerprint = "judge"
        asked: list = []

        def compare(self, pairs):
            self.asked += pairs
            return [1.0] * len(pairs)

    judge = Judge()
    of_judge, of_coin = run(data, judge), run(data, CoinPerPair())
    assert sum(pair.ties for pair in judge.asked) == 7 and len(judge.asked) == 7 + 7 * 3 + 6 * 6
    assert set(of_judge) == set(of_coin) and ("accuracy on exact scores", DIMENSIONS[1]) in of_judge


@pytest.mark.slow
def test_the_script_gives_the_gap_to_the_best_blind_scorer(tmp_path, description, random_model_dir, monkeypatch):
    file = Path(__file__).parents[2] / "research" / "simulated_benchmark.py"
    spec = importlib.util.spec_from_file_location("simulated_benchmark_script", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setenv("EDITREWARD_CACHE", str(description.parent))
    options = ["--model", str(random_model_dir), "--data", str(description), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["script", *options])
    script.main()
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")}
    assert set(results) == {"random", "coin", "model", *script.BLIND}
    right = {
        name: {m["subset"]: m["value"] for m in result["measures"] if m["name"] == "accuracy on exact scores"}
        for name, result in results.items()
    }
    lines = {
        line.split(" | ")[0][2:]: line for line in (tmp_path / "tables.md").read_text().split("\n\n")[1].splitlines()
    }
    for category in ("add", "background", "move", "recolour", "remove", "replace", "resize"):
        cells = lines[category].strip("| ").split(" | ")
        for place, (model, blind, gap) in (("instruction_following, ", cells[1:4]), ("", cells[4:7])):
            values = {name: right[name][f"{place}category: {category}"] for name in ("model", *script.BLIND)}
            best = max(values[name] for name in script.BLIND)
            assert float(model) == pytest.approx(100 * values["model"], abs=0.06)
            assert float(blind.split(" ")[0]) == pytest.approx(100 * best, abs=0.06)
            assert float(gap.split(" ")[0]) == pytest.approx(100 * (values["model"] - best), abs=0.06)

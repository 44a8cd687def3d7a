"""Runs on benchmarks: the cache, faulty data, the protocols against brute force, position bias, processes, command."""

import json
import random
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.benchmarks import BENCHMARKS, load_benchmark, run_benchmark
from editreward.benchmarks import runner as runner_module
from editreward.benchmarks.editscore_bench import TASK_GROUPS, resize_edited
from editreward.benchmarks.protocols import Answers, calibration
from editreward.benchmarks.reports.saved import read_result
from editreward.benchmarks.runner import Preparation, Runner, shuffled_instructions
from editreward.cli import command as cli
from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, comparisons_of, read_benchmark
from editreward.data.sources import StoredRows
from editreward.data.storage import write_groups
from editreward.groups import EditGroup, GroupScores, Unscored
from editreward.modules import ModuleRegistry
from editreward.scorers.baselines import CoinPerPair, RandomScores
from editreward.scorers.cache import SCORES, store_for
from editreward.scorers.reward_model import EditRewardScorer
from tests.helpers.benchmarks import (
    NO_SCORES,
    SMALL,
    Table,
    command,
    described,
    imported,
    result_of,
    row_of,
    tuple_bench,
    values,
)
from tests.helpers.hub_server import Hub, run_with_hub
from tests.helpers.pictures import file_of, noise, picture
from tests.helpers.processes import errors_of, run_ranks
from tests.helpers.published_rows import bench_rows, import_bench, pair_rows, run


class Counting:
    """Random scores that note which instructions they were asked about."""

    def __init__(self, stop_after: int | None = None, fingerprint: str = "counting") -> None:
        self.name, self.fingerprint = "counting", fingerprint
        self.asked: list[str] = []
        self.stop_after = stop_after

    def __call__(self, groups):
        if self.stop_after is not None and len(self.asked) + len(groups) > self.stop_after:
            raise KeyboardInterrupt
        self.asked += [group.instruction for group in groups]
        return RandomScores()(groups)


def score(rows, scorer, cache, batch=2, **options):
    """Scores by group id."""
    using = Runner(cache=cache, progress=False, batch=batch)
    return using.score(rows, list(using.inspect(rows).groups.values()), scorer, **options)


# The runner and its cache


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same(tmp_path):
    rows = [row_of(number) for number in range(7)]
    with pytest.raises(KeyboardInterrupt):
        score(rows, Counting(stop_after=4), tmp_path)
    for file in tmp_path.rglob("*.parquet"):  # what a process leaves that is killed while it writes
        (file.parent / ".0123.part").write_bytes(b"half")
    second, third = Counting(), Counting()
    assert score(rows, second, tmp_path) == score(rows, Counting(), None)
    assert second.asked == ["edit 4", "edit 5", "edit 6"]
    assert score(rows, third, tmp_path) == score(rows, RandomScores(), None) and third.asked == []
    assert len(list(store_for("counting", SCORES, tmp_path).folder.glob("*.parquet"))) == 1


def test_the_order_of_rows_and_the_size_of_batches_change_nothing(tmp_path):
    rows = [row_of(number) for number in range(7)]
    expected = score(rows, RandomScores(), None)
    turned = Counting()
    assert score(rows[::-1], turned, tmp_path, batch=3) == expected and len(turned.asked) == 7
    again = Counting()
    assert score(rows[3:] + rows[:3], again, tmp_path, batch=5) == expected and again.asked == []


@pytest.mark.parametrize("change", ["source", "candidate", "order", "instruction", "scorer", "preparation", "shown"])
def test_what_is_changed_is_asked_again(tmp_path, change):
    rows = [row_of(number) for number in range(3)]
    score(rows, Counting(), tmp_path)
    scorer, options, changed = Counting(), {}, dict(rows[1])
    if change == "source":
        changed["source_images"] = [{"bytes": picture(9), "path": None}]
    elif change == "candidate":
        changed["candidates"] = [*rows[1]["candidates"][:2], row_of(8)["candidates"][0]]
    elif change == "order":
        changed["candidates"] = rows[1]["candidates"][::-1]
    elif change == "instruction":
        changed["instruction"] = "another"
    elif change == "scorer":
        scorer = Counting(fingerprint="another revision")
    elif change == "preparation":
        options["preparation"] = Preparation("nothing", lambda group: group)
    else:
        options["instructions"] = {"g1": "another"}
    new = [rows[0], changed, rows[2]]
    found = score(new, scorer, tmp_path, **options)
    everything = change in ("scorer", "preparation")
    assert len(scorer.asked) == (3 if everything else 1)
    assert found == score(new, RandomScores(), None, **options)


def test_labels_may_change_without_another_pass(tmp_path):
    rows = [row_of(number) for number in range(2)]
    score(rows, Counting(), tmp_path)
    again = Counting()
    score([row | {"category": "other", "group_id": f"x{i}"} for i, row in enumerate(rows)], again, tmp_path)
    assert again.asked == []


def test_scores_of_every_kind_come_back_from_the_cache_as_they_were(tmp_path):
    kinds = [
        GroupScores([0.1, 1 / 3, -2.5e-9]),
        GroupScores.from_columns(
            [1.0, 2.0, 3.0], {"a b": [0.0, 1.0, 2.0], "c": [1.0, 1.0, 1.0]}, {"overall": [0.5, 0.5, 0.1]}
        ),
        GroupScores([1.0, 2.0, 3.0], preferences=[[0.5, 0.1, 0.2], [0.9, 0.5, 0.3], [0.8, 0.7, 0.5]]),
    ]

    for number, kind in enumerate(kinds):

        class Same(Counting):
            def __call__(self, groups, kind=kind):
                self.asked += [group.instruction for group in groups]
                return [kind] * len(groups)

        score([row_of(0)], Same(fingerprint=f"kind {number}"), tmp_path)
        again = Same(fingerprint=f"kind {number}")
        assert score([row_of(0)], again, tmp_path) == {"g0": kind} and again.asked == []


def test_what_could_not_be_scored_is_not_kept_and_is_asked_again(tmp_path):
    class Failing(Counting):
        def __call__(self, groups):
            scored = zip(groups, super().__call__(groups), strict=True)
            return [Unscored("busy") if group.instruction == "edit 1" else score for group, score in scored]

    rows = [row_of(number) for number in range(3)]
    assert score(rows, Failing(), tmp_path)["g1"] == Unscored("busy")
    again = Counting()
    assert score(rows, again, tmp_path) == score(rows, RandomScores(), None) and again.asked == ["edit 1"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GroupScores([1.0, float("nan"), 1.0]), "bad returned nan as overall of candidate 1 of group 'g0'"),
        (GroupScores([1.0]), "bad returned, for group 'g0', 1 scores for 3 candidates"),
        (
            GroupScores.from_columns([1.0] * 3, {"style": [1.0, 1.0, float("inf")]}),
            "bad returned inf as style of candidate 2 of group 'g0'",
        ),
        ([1.0] * 3, "bad returned, for group 'g0', a list, not GroupScores"),
        (None, "bad returned 0 answers to 1 questions"),
    ],
)
def test_wrong_answers_are_refused_with_the_group(answer, message):
    def bad(groups):
        return [answer] if answer else []

    bad.name, bad.fingerprint = "bad", "bad"
    with pytest.raises(ValueError, match=message):
        score([row_of(0)], bad, None)


def test_all_groups_have_to_be_scored_in_the_same_dimensions():
    def bad(groups):
        style = {"style": [1.0] * 3}
        return [GroupScores.from_columns([1.0] * 3, style if g.instruction == "edit 1" else None) for g in groups]

    bad.name, bad.fingerprint = "bad", "bad"
    with pytest.raises(ValueError, match="bad returned scores in different dimensions: none for group 'g0' and style"):
        score([row_of(0), row_of(1)], bad, None)


def test_a_damaged_cache_file_is_named(tmp_path):
    rows = [row_of(0)]
    score(rows, Counting(), tmp_path)
    (file,) = store_for("counting", SCORES, tmp_path).folder.glob("*.parquet")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{file.name}.*Delete the file"):
        score(rows, Counting(), tmp_path)


def test_faulty_groups_are_left_out_and_listed_and_sound_ones_are_checked_once(tmp_path, monkeypatch):
    broken, missing, unnamed, silent = (row_of(number) for number in range(10, 14))
    broken["candidates"][1]["image"] = {"bytes": picture(5)[:60], "path": None}
    missing["source_images"] = [{"bytes": None, "path": str(tmp_path / "none.png")}]
    unnamed["group_id"], silent["instruction"] = " ", ""
    same = row_of(14)
    same["candidates"][0]["image"] = same["source_images"][0]  # an editor that changes nothing is judged like others
    rows = [row_of(0), row_of(1), row_of(2, group_id="g1"), broken, missing, unnamed, silent, same, row_of(15, 1)]
    found = Runner(tmp_path, progress=False).inspect(rows)
    assert list(found.groups) == ["g0", "g14", "g15"] and found.rows == 9
    assert found.left_out == {
        "duplicate_id": ["g1", "g1"],
        "broken_image": ["g10"],
        "missing_image": ["g11"],
        "missing_id": ["row 5"],
        "empty_instruction": ["g13"],
    }
    assert {(fault.kind, fault.row) for fault in found.faults} == {
        *(("duplicate_id", 1), ("duplicate_id", 2), ("broken_image", 3), ("missing_image", 4), ("missing_id", 5)),
        *(("empty_instruction", 6), ("candidate_equals_source", 7)),
    }
    monkeypatch.setattr(runner_module, "check_group", lambda row: pytest.fail("checked again"))
    again = Runner(tmp_path, progress=False).inspect(rows)
    assert asdict(again)["faults"] == asdict(found)["faults"] and again.digest == found.digest


def test_groups_are_checked_anew_with_another_pillow(tmp_path, monkeypatch):
    rows, checked = [row_of(0)], []
    Runner(tmp_path, progress=False).inspect(rows)
    monkeypatch.setattr(runner_module, "versions", lambda *packages: dict.fromkeys(packages, "another"))
    monkeypatch.setattr(runner_module, "check_group", lambda row: checked.append(row) or [])
    Runner(tmp_path, progress=False).inspect(rows)
    assert checked == rows


def test_shuffled_instructions_are_another_group_s():
    groups = Runner(progress=False).inspect([row_of(n, instruction=f"edit {n % 5}") for n in range(12)]).groups
    shown = shuffled_instructions(list(groups.values()))
    assert all(shown[name] != group.instruction for name, group in groups.items())
    assert set(shown.values()) == {f"edit {n}" for n in range(5)}
    with pytest.raises(ValueError, match="the same instruction"):
        shuffled_instructions([replace(group, instruction="one") for group in groups.values()])


# The protocols


def test_tuples_are_judged_as_brute_force_does(tmp_path):
    made = tuple_bench(tmp_path)
    rng = random.Random(3)
    table = {picture(seed + 1 + n): rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]) for _, seed in made for n in range(4)}
    found = values(result_of("editreward-bench", tmp_path / "out", Table(table)))

    def outcome(ranking: str, seed: int, threshold: float) -> list[bool]:
        letters = sorted(set(ranking) & set("ABCD"))
        right = []
        for a, b in combinations(letters, 2):
            difference = table[picture(seed + 1 + "ABCD".index(a))] - table[picture(seed + 1 + "ABCD".index(b))]
            said = 0 if len(letters) == 2 and abs(difference) <= threshold else np.sign(difference)
            true = 0 if "=" in ranking else 1 if ranking.index(a) < ranking.index(b) else -1
            right.append(said == true)
        return right

    of_size = {k: [(r, s) for r, s in made if len(set(r) & set("ABCD")) == k] for k in (2, 3, 4)}
    thresholds = {abs(a - b) for a in table.values() for b in table.values()}
    best = max(sum(outcome(r, s, threshold)[0] for r, s in of_size[2]) for threshold in thresholds)
    strict = {k: [all(outcome(r, s, 0)) for r, s in pairs] for k, pairs in of_size.items() if k > 2}
    assert found["strict accuracy", "K = 2"] == pytest.approx(best / 6)
    assert found["strict accuracy", "K = 3"] == pytest.approx(np.mean(strict[3]))
    assert found["strict accuracy", "K = 4"] == pytest.approx(np.mean(strict[4]))
    assert found["strict accuracy", "overall"] == pytest.approx((best + sum(strict[3]) + sum(strict[4])) / 11)
    pairwise = [right for k in (3, 4) for r, s in of_size[k] for right in outcome(r, s, 0)]
    assert found["pair-wise accuracy", "overall"] == pytest.approx((best + sum(pairwise)) / (6 + len(pairwise)))


def test_who_knows_the_ranking_is_always_right_and_who_turns_it_is_right_about_ties_alone(tmp_path):
    made = tuple_bench(tmp_path)
    table = {}
    for ranking, seed in made:
        for n, letter in enumerate("ABCD"):
            table[picture(seed + 1 + n)] = 0.0 if "=" in ranking else -float(ranking.find(letter))
    whole = {"instruction_following": table, "visual_quality": {image: -score for image, score in table.items()}}
    right = result_of("editreward-bench", tmp_path / "out", Table(table, whole))
    found = values(right)
    strict = [value for (name, _), value in found.items() if name.startswith(("strict", "pair-wise accuracy"))]
    assert found["strict accuracy", "overall"] == found["pair-wise accuracy", "overall"] == 1 and len(strict) == 12
    # People's scores by dimension are those of the published rows: the best visual quality is lowered by 0.5.
    assert found["pair-wise accuracy without ties", "instruction_following"] == 1
    assert found["pair-wise accuracy without ties", "visual_quality"] < 0.5
    wrong = values(result_of("editreward-bench", tmp_path / "out", Table({i: -s for i, s in table.items()})))
    assert wrong["strict accuracy", "K = 2"] == pytest.approx(2 / 6) and wrong["strict accuracy", "K = 3"] == 0
    chance = {measure.subset: measure.chance for measure in right.measures if measure.name == "strict accuracy"}
    assert chance["K = 3"] == pytest.approx(1 / 6) and chance["K = 4"] == pytest.approx(1 / 24)


def tuples_of(folder: Path, rows: list[dict], ranks: list[list[int]]) -> Path:
    """A benchmark with a tuple of all candidates of each group; ranks of the candidates, 0 being the best."""
    items = []
    for row, of_row in zip(rows, ranks, strict=True):
        name, candidates = row["group_id"], list(range(len(of_row)))
        item = BenchmarkItem("editreward-bench", f"{len(of_row)}pair", name, candidates, group_id=name)
        items.append(replace(item, comparisons=comparisons_of(candidates, of_row)))
    write_groups(rows, folder, "test")
    (folder / BENCHMARK_FILE).write_text("".join(item.to_json() + "\n" for item in items))
    return folder


def many_tuples(folder: Path, per_size: int) -> None:
    """Tuples whose images are noise; of those of two one in four is a tie."""
    rows = [row_of(number, 2 + number % 3) for number in range(3 * per_size)]
    ranks = [[1, 1] if number % 12 == 0 else list(range(2 + number % 3)) for number in range(len(rows))]
    tuples_of(folder, rows, ranks)


def test_random_scores_and_a_coin_reach_their_floors(tmp_path):
    many_tuples(tmp_path / "bench", 100)
    data = imported("editreward-bench", tmp_path / "bench")
    shares = {"random": [], "coin": []}
    for seed in range(2):
        for name, scorer in (("random", RandomScores(seed)), ("coin", CoinPerPair(seed))):
            runner = Runner(tmp_path / "cache", progress=False)
            result = run_benchmark(BENCHMARKS["editreward-bench"], data, scorer, runner)
            found = [m for m in result.measures if m.name in ("strict accuracy", "pair-wise accuracy")]
            shares[name].append([measure.estimate.value for measure in found])
    floors = {"random": [measure.chance for measure in found], "coin": [measure.coin for measure in found]}
    assert floors["random"][1:3] == pytest.approx([1 / 6, 1 / 24])
    of_two = 3 / 4 * 1 / 4 + 1 / 4 * 1 / 2  # either of the two verdicts that say "tie" is right about one
    assert floors["coin"][:4] == pytest.approx([of_two, 1 / 8, 1 / 64, (of_two + 1 / 8 + 1 / 64) / 3])
    assert floors["coin"][4:] == pytest.approx([of_two, 1 / 2, 1 / 2, (of_two + 3 / 2 + 6 / 2) / 10])
    for name, floor in floors.items():
        error = np.sqrt(np.multiply(floor, np.subtract(1, floor)) / 200)  # of 2 runs on 100 tuples
        assert np.all(abs(np.mean(shares[name], axis=0) - floor) < 4 * error), name


@pytest.mark.parametrize("name", ["genai-bench", "aurora-bench"])
def test_pairs_are_judged_with_ties_at_the_best_threshold_and_without(tmp_path, name):
    (tmp_path / "valid.json").write_text(json.dumps(pair_rows(tmp_path)))
    run(name, tmp_path / "valid.json", tmp_path / "out")
    # Verdicts: a > b, c > b, a = c for one source; b > a for the other.
    result = result_of(name, tmp_path / "out", Table({picture(2): 1.0, picture(3): 0.6, picture(4): 0.9}))
    subset = "pairwise" if name == "aurora-bench" else "all"
    assert values(result)["accuracy with ties", subset] == 3 / 4
    assert values(result)["accuracy without ties", subset] == 2 / 3
    (with_ties,) = [measure for measure in result.measures if measure.name == "accuracy with ties"]
    assert with_ties.details == {"ties": 1, "tie_threshold": pytest.approx(0.1)} and with_ties.column == "pairs"
    assert result.to_dict()["published"][0]["rows"]["random"]["pairs"] in (25.90, 33.43)


def points(folder: Path, name: str, instruction: str, source: str, edited: str) -> dict[bytes, tuple[float, str, int]]:
    """A point-wise benchmark of 3 editors on 8 prompts: by image its human score, its editor and its prompt."""
    rows, made, rng = [], {}, random.Random(0)
    for number in range(8):
        for index in range(3):
            seed = 10 * number + index + 1
            for path, content in ((f"{seed}.png", picture(seed)), (f"s{number}.png", picture(10 * number))):
                (folder / path).write_bytes(content)
            made[picture(seed)] = (rng.choice([0.0, 0.5, 1.0]), f"editor{index}", number)
            row = {instruction: f"edit {number}", source: f"s{number}.png", edited: f"{seed}.png"}
            rows.append(row | {"score": made[picture(seed)][0], "model": f"editor{index}"})
    (folder / "points.json").write_text(json.dumps(rows))
    run(name, folder / "points.json", folder / "out")
    return made


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("name", "fields"),
    [("imagenhub", ("instruction", "input_path", "output_path")), ("aurora-bench", ("prompt", "input", "gen"))],
)
def test_ratings_are_correlated_per_editing_model(tmp_path, name, fields):
    from scipy.stats import kendalltau, spearmanr

    made = points(tmp_path, name, *fields)
    rng = random.Random(1)
    table = {image: score + rng.random() for image, (score, _, _) in made.items()}
    found = values(result_of(name, tmp_path / "out", Table(table)))
    subset = "pointwise" if name == "aurora-bench" else "all"

    def columns(chosen):
        images = [image for image in made if chosen(made[image])]
        return [table[image] for image in images], [made[image][0] for image in images]

    of_editors = [spearmanr(*columns(lambda m, e=e: m[1] == f"editor{e}")).statistic for e in range(3)]
    expected = np.tanh(np.mean(np.arctanh(of_editors)))
    assert found["Spearman per editing model, Fisher average", subset] == pytest.approx(expected)
    script = np.tanh(np.mean(of_editors))
    assert found["Spearman per editing model, tanh of the mean", subset] == pytest.approx(script)
    assert found["Spearman of all edits", subset] == pytest.approx(spearmanr(*columns(lambda m: True)).statistic)
    assert found["Kendall of all edits", subset] == pytest.approx(kendalltau(*columns(lambda m: True)).statistic)


def test_a_judge_of_pairs_cannot_rate_single_edits(tmp_path):
    points(tmp_path, "imagenhub", "instruction", "input_path", "output_path")
    with pytest.raises(ValueError, match="No item .*single_edits_for_a_judge_of_pairs: 24"):
        result_of("imagenhub", tmp_path / "out", CoinPerPair())


def test_tasks_and_dimensions_are_averaged_as_editscore_does(tmp_path):
    tasks = ["subject-add"] * 3 + ["subject-remove", "color_alter", "compose"]
    rows, table, other = [], {}, {}
    wins = {"prompt_following": [1, 1, 0, 1, 0, 1], "overall": [0, 1, 1, 1, 1, 0]}
    for dimension, scored in (("prompt_following", other), ("overall", table)):
        for number, task in enumerate(tasks):
            seed = 10 * number + (100 if dimension == "overall" else 0)
            row = {"key": [f"{seed}a", f"{seed}b"], "instruction": f"edit {number}", "task_type": task}
            images = [{"bytes": picture(seed + 1)}, {"bytes": picture(seed + 2)}]
            rows.append(
                row | {"dimension": dimension, "input_image": {"bytes": picture(seed)}, "output_images": images}
            )
            scored |= {picture(seed + 1): 1.0 if wins[dimension][number] else -1.0, picture(seed + 2): 0.0}
    import_bench(rows, tmp_path, "editscore-bench")
    unused = dict.fromkeys([*table, *other], 0.0)
    scorer = Table(unused | table, {"instruction_following": unused | other})
    result = result_of("editscore-bench", tmp_path / "out", scorer)
    found = values(result)
    # Means over tasks of the shares of a task: subject-add has three pairs and counts once.
    assert found["accuracy, average over tasks", "prompt_following"] == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)
    assert found["accuracy, average over tasks", "overall"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    assert found["accuracy, average over tasks", "prompt_following: object"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy", "prompt_following: subject-add"] == pytest.approx(2 / 3)
    scored_by = {measure.subset: measure.details for measure in result.measures if measure.details}
    assert scored_by["prompt_following"] == {"score": "instruction_following"}
    assert scored_by["overall"] == {"score": "overall"}
    assert len({task for members in TASK_GROUPS.values() for task in members}) == 13


def test_edited_images_of_editscore_are_judged_at_the_size_of_the_source():
    source, same, larger = noise(1, (20, 16)), noise(2, (20, 16)), noise(3, (40, 30))
    group = resize_edited(EditGroup((file_of(source),), "edit", (file_of(same), file_of(larger))))
    assert group.edited[0] == file_of(same) and group.sources == (file_of(source),)
    from editreward.scorers.baselines import decode

    resized = decode(group.edited[1])
    assert np.array_equal(np.asarray(resized), np.asarray(larger.resize((20, 16))))
    assert BENCHMARKS["editscore-bench"].preparation.apply is resize_edited


def test_compass_judges_ties_by_nearly_equal_scores_and_apart(tmp_path):
    for seed in range(7):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    cases = [(1, 2, "IA", "preference"), (3, 4, "IA", "tie"), (5, 6, "VQ", "tie"), (2, 3, "VQ", "preference")]
    rows = [
        {
            "source_image": "0.png",
            "prompt": f"edit {d}",
            "winner": f"{w}.png",
            "loser": f"{x}.png",
            "dimension": d,
            "label": label,
        }
        for w, x, d, label in cases
    ]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    run("editreward-compass", tmp_path / "eval.json", tmp_path / "out")
    table = {
        picture(1): 1.0,
        picture(2): 0.9,
        picture(3): 0.5,
        picture(4): 0.5 + 9e-6,
        picture(5): 0.0,
        picture(6): 2e-5,
    }
    found = values(result_of("editreward-compass", tmp_path / "out", Table(table)))
    assert found["accuracy", "IA"] == 1 and found["accuracy", "VQ"] == 1 / 2 and found["accuracy", "all"] == 3 / 4
    assert found["accuracy on preferences", "all"] == 1 and found["accuracy on ties", "all"] == 1 / 2


@pytest.fixture(scope="module")
def test_set(tmp_path_factory) -> Path:
    """A file that describes a small simulated benchmark."""
    small = replace(SMALL, pool=24, tuples=9, candidates=6)
    return described(tmp_path_factory.mktemp("simulated"), small)


def test_probabilities_are_those_of_the_better_edit():
    item = BenchmarkItem("x", "2pair", "t", [0, 1], comparisons_of([0, 1], [2, 1]), group_id="g")
    answers = Answers([item], {}, {"g": GroupScores([0.0, 1.0], preferences=[[0.5, 0.2], [0.8, 0.5]])})
    measures = {measure.name: measure.estimate.value for measure in calibration(answers, answers.pairs())}
    assert measures == pytest.approx({"expected calibration error": 0.2, "Brier score": 0.04})


def test_annotators_are_judged_against_the_mean_of_the_others_on_the_tuples_that_they_rated_in_full(tmp_path):
    # Sums of each annotator by group and candidate; None: not rated.
    given = {
        "g0": {"ann": (8, 2), "bob": (6, 4), "eve": (4, 6)},
        "g1": {"ann": (8, 6, 2), "bob": (8, 4, 2), "eve": (8, None, 2)},
        "g2": {"ann": (8, 6, 2)},
    }
    rows = []
    for number, (group_id, of_annotator) in enumerate(given.items()):
        row = row_of(number, len(of_annotator["ann"]), group_id=group_id)
        for index, candidate in enumerate(row["candidates"]):
            candidate["annotations"] = [
                {"annotator": name, **dict.fromkeys(NO_SCORES, sums[index] / 2)}
                for name, sums in of_annotator.items()
                if sums[index] is not None
            ]
        rows.append(row)
    folder = tuples_of(tmp_path, rows, [[0, 1], [0, 1, 2], [0, 1, 2]])
    found = {m.name: m.estimate for m in result_of("editreward-bench", folder, RandomScores()).measures}
    # g0: ann and bob see what the others see on average, eve the opposite. g1: eve left one out, who is judged by
    # nobody there, and whose ratings count for the others. g2: nobody else rated it.
    of_all = found["human to human, strict accuracy"]
    assert of_all.total == 5 and of_all.value == pytest.approx(4 / 5)
    pairs = found["human to human, pair-wise accuracy"]
    assert pairs.total == 3 + 2 * 3 and pairs.value == pytest.approx(8 / 9)


def test_intervals_of_a_calibrated_scorer_are_held_against_people_s_scores(tmp_path):
    rows = [row_of(number, 2) for number in range(3)]
    for row in rows:
        for candidate, score in zip(row["candidates"], (3.0, 2.0), strict=True):
            candidate["scores"] = {"instruction_following": score, "visual_quality": None}
    folder = tuples_of(tmp_path, rows, [[0, 1]] * 3)

    # One standard deviation off, three, and exact.
    means = {"edit 0": [4.0, 2.0], "edit 1": [3.0, 3.5], "edit 2": [3.0, 2.0]}
    stds = {name: [1.0, 0.5] for name in NO_SCORES}

    class Calibrated:
        name = fingerprint = "calibrated"
        calibrated = True

        def __call__(self, groups):
            return [
                GroupScores.from_columns(means[g.instruction], dict.fromkeys(NO_SCORES, means[g.instruction]), stds)
                for g in groups
            ]

    def coverage(scorer):
        measures = result_of("editreward-bench", folder, scorer).measures
        return {(m.name, m.subset): m.estimate.value for m in measures if m.name.startswith("coverage")}

    assert coverage(Calibrated()) == {
        ("coverage of 50% intervals", "instruction_following"): pytest.approx(4 / 6),
        ("coverage of 95% intervals", "instruction_following"): pytest.approx(5 / 6),
    }
    uncalibrated = Calibrated()
    uncalibrated.calibrated = False
    assert coverage(uncalibrated) == {}


# Judges of pairs


class Biased:
    """A judge that knows the truth and says "the first" whatever it sees in a given share of the pairs."""

    name = fingerprint = "biased"

    def __init__(self, table: dict[bytes, float], share: float) -> None:
        self.table, self.share, self.pairs = table, share, []

    def compare(self, pairs):
        self.pairs += pairs
        return [self.answer(pair) for pair in pairs]

    def answer(self, pair):
        is_blind = random.Random(pair.instruction).random() < self.share
        return 1.0 if is_blind else np.sign(self.table[pair.first] - self.table[pair.second])


def test_the_position_bias_of_a_judge_is_found(tmp_path):
    rows, items = [row_of(number, 2) for number in range(200)], []
    table = {candidate["image"]["bytes"]: 0.0 for row in rows for candidate in row["candidates"]}
    for number, row in enumerate(rows):
        better = number % 2
        table[row["candidates"][better]["image"]["bytes"]] = 1.0
        comparisons = comparisons_of([0, 1], [2, 1] if better else [1, 2])
        items.append(BenchmarkItem("genai-bench", "pairwise", str(number), [0, 1], comparisons, group_id=f"g{number}"))
    write_groups(rows, tmp_path, "test")
    (tmp_path / BENCHMARK_FILE).write_text("".join(item.to_json() + "\n" for item in items))
    blind = sum(random.Random(f"edit {number}").random() < 0.4 for number in range(200)) / 200
    judge = Biased(table, 0.4)
    result = result_of("genai-bench", tmp_path, judge, with_position_bias=True)
    found = {measure.subset: measure.estimate for measure in result.measures if measure.name == "position bias"}
    assert found["better edit shown first"].value == 1
    assert found["better edit shown second"].value == pytest.approx(1 - blind)
    gap = found["gap"]
    assert gap.value == pytest.approx(blind) and 0 < gap.low < gap.value < gap.high
    assert len(judge.pairs) == 400 and all(pair.ties for pair in judge.pairs)
    # One order of each pair counts for the benchmark: half of the blind answers are right by luck.
    assert values(result)["accuracy without ties", "all"] == pytest.approx(1 - blind / 2, abs=0.08)
    assert result.to_dict()["published"][-1]["rows"] == {"Gemini-2.0-Flash": {"first": 55.28, "second": 50.16}}

    fair = result_of("genai-bench", tmp_path, Biased(table, 0), with_position_bias=True)
    assert [m.estimate.value for m in fair.measures if m.name == "position bias"] == [1, 1, 0]
    assert values(fair)["accuracy without ties", "all"] == 1
    with pytest.raises(ValueError, match="no position bias"):
        result_of("genai-bench", tmp_path, RandomScores(), with_position_bias=True)


def test_a_judge_s_answers_are_cached_for_each_order_of_a_pair(tmp_path):
    (tmp_path / "valid.json").write_text(json.dumps(pair_rows(tmp_path)))
    run("genai-bench", tmp_path / "valid.json", tmp_path / "out")
    table = {picture(2): 1.0, picture(3): 0.6, picture(4): 0.9}
    data, runner = imported("genai-bench", tmp_path / "out"), Runner(tmp_path / "answers", progress=False)
    judges = [Biased(table, 0), Biased(table, 0), Biased(table, 0)]
    asked = []
    for judge, both in zip(judges, (False, True, True), strict=True):
        run_benchmark(BENCHMARKS["genai-bench"], data, judge, runner, with_position_bias=both)
        asked.append(len(judge.pairs))
    assert asked == [4, 4, 0]


# Items, the command, processes and the Hub


def test_items_that_contradict_each_other_or_the_data_are_left_out_and_listed(tmp_path):
    def item(name: str, group: str, candidates: list[int], ranks: list[int], **fields) -> BenchmarkItem:
        comparisons = comparisons_of(candidates, ranks)
        return BenchmarkItem(
            "editreward-bench", f"{len(candidates)}pair", name, candidates, comparisons, group_id=group, **fields
        )

    broken = row_of(5)
    broken["candidates"][0]["image"] = {"bytes": b"broken", "path": None}
    write_groups([row_of(0), row_of(1), broken], tmp_path, "test")
    whole = item("partial", "g1", [0, 1, 2], [1, 2, 3])
    items = [
        item("good", "g0", [0, 1, 2], [1, 2, 3]),
        item("again", "g0", [0, 1, 2], [1, 2, 3]),
        item("one", "g1", [0, 1], [1, 2]),
        item("other", "g1", [1, 0], [1, 2]),
        item("fine", "g1", [1, 2], [1, 1]),
        item("broken", "g5", [0, 1], [1, 2]),
        item("far", "g0", [0, 7], [1, 2]),
        item("nowhere", "g9", [0, 1], [1, 2]),
        replace(whole, comparisons=whole.comparisons[:2]),
    ]
    (tmp_path / BENCHMARK_FILE).write_text("".join(line.to_json() + "\n" for line in items))
    assert len(list(read_benchmark(tmp_path))) == 9
    result = result_of("editreward-bench", tmp_path, RandomScores())
    assert result.data["items_left_out"] == {
        "broken_image": ["broken"],
        "unknown_candidate": ["far"],
        "unknown_group": ["nowhere"],
        "incomplete_comparisons": ["partial"],
        "repeated_item": ["again"],
        "contradictory_labels": ["one", "other"],
    }
    assert [item.item_id for item in result.answers.items] == ["good", "fine"]
    assert "2 of 9 items judged, in 2 groups" in result.markdown()
    lines = result.headline().splitlines()
    assert 2 <= len(lines) <= 5 and lines[0].startswith(result.model["name"]) and ": 2 items, 7 left out" in lines[0]
    first = result.measures[0]
    assert first.name in lines[1] and first.estimate.text() in lines[1]
    assert "Left out: 2 items, contradictory labels." in result.markdown()
    limited = result_of("editreward-bench", tmp_path, RandomScores(), limit=1)
    assert limited.data["items"] == 3 and limited.data["items_judged"] == 1


def test_groups_that_cannot_be_scored_are_left_out_with_the_reason(tmp_path):
    tuple_bench(tmp_path)

    class Picky(RandomScores):
        def __call__(self, groups):
            scored = super().__call__(groups)
            return [
                Unscored("too hard") if g.instruction == "edit t3" else s for g, s in zip(groups, scored, strict=True)
            ]

    result = result_of("editreward-bench", tmp_path / "out", Picky())
    assert result.data["items_left_out"] == {"not_answered": ["t3"]}
    assert result.data["not_answered"] == {"t3": "too hard"} and result.data["items_judged"] == 10


def test_the_command_imports_runs_prints_and_writes(tmp_path, capsys):
    rows = [*bench_rows("aa", 2, "B>A", 10), *bench_rows("cc", 3, "C>A>B", 30), *bench_rows("dd", 4, "D>B>A>C", 40)]
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows[:-1]), file)  # dd lacks a comparison
    options = ["editreward-bench", "--data", file, "--cache", tmp_path / "cache", "--output", tmp_path / "result"]
    assert command(*options, "--scorer", "pixels") == 0
    printed = capsys.readouterr().out
    assert "| strict accuracy | K = 3 |" in printed and "Left out by the import: 1 x incomplete-tuple" in printed
    result = json.loads((tmp_path / "result" / "result.json").read_text())
    assert result["model"]["name"] == "pixels to the source" and result["benchmark"] == "editreward-bench"
    assert result["data"]["items_judged"] == 2 and result["data"]["imported"]["errors"] == {"incomplete-tuple": 1}
    assert {"torch", "transformers", "numpy", "editreward", "date"} < set(result["environment"])
    assert len(result["data"]["sha256"]) == 64 and result["settings"]["shuffle_instructions"] is False
    measure = next(m for m in result["measures"] if (m["name"], m["subset"]) == ("strict accuracy", "overall"))
    assert measure["total"] == 2 and measure["unit"] == "share" and measure["column"] == "overall"
    lines = [json.loads(line) for line in (tmp_path / "result" / "answers.jsonl").read_text().splitlines()]
    assert {line["group_id"]: len(line["overall"]) for line in lines} == {"aa": 2, "cc": 3}

    pq.write_table(pa.Table.from_pylist(rows), file)  # another import, not the old one
    assert command(*options[:-2], "--scorer", "pixels", "--shuffle-instructions", "--limit", 3) == 0
    printed = capsys.readouterr().out
    assert "pixels to the source, instructions shuffled" in printed and "3 of 3 items judged" in printed
    assert "Note: only the first 3 groups" in printed


OWN_SCORER = """
class Judge:
    name = fingerprint = "mine"
    def compare(self, pairs):
        return [len(pair.first) - len(pair.second) for pair in pairs]

def scorer():
    return Judge()

def nothing():
    return 3
"""


def test_the_command_takes_scorers_of_one_s_own_and_says_what_is_wrong(tmp_path, capsys):
    tuple_bench(tmp_path)
    (tmp_path / "own.py").write_text(OWN_SCORER)
    options = ["editreward-bench", "--data", tmp_path / "out", "--no-cache"]
    assert command(*options, "--scorer", f"{tmp_path}/own.py:scorer", "--position-bias") == 0
    assert "| position bias | gap |" in capsys.readouterr().out
    wrong = [
        ([*options, "--scorer", f"{tmp_path}/own.py:nothing"], "returned a int, which is no scorer"),
        ([*options, "--scorer", "ssin"], "ssin is neither a model folder nor a Hub repository"),
        ([*options, "--scorer", "psnr", "--device", "cpu", "--dtype", "float32"], "'psnr' has no `device`, `dtype`"),
        ([*options, "--scorer", "clip", "--model-revision", "x", "--dtype", "float32"], "'clip' has no `dtype`"),
        (["imagenhub", "--data", tmp_path / "out", "--scorer", "random"], "holds editreward-bench, not imagenhub"),
        (["genai-bench", "--scorer", "random"], "name a folder or file with --data"),
        (["editscore-bench", "--scorer", "random"], "EditScore/EditReward-Bench is neither a folder"),
        ([*options, "--scorer", "random", "--limit", "0"], "must be 1 or more"),
        (
            [*options, "--scorer", "random", "--split", "x"],
            "holds groups, not the published format: leave out --split",
        ),
        ([*options, "--scorer", "random", "--revision", "x"], "is here, not on the Hub: leave out --revision"),
        (["simulated", "--scorer", "random", "--images", tmp_path], "made on the spot: leave out --images"),
        (["simulated", "--scorer", "random", "--data", tmp_path], "is no file. simulated takes the description"),
    ]
    for arguments, message in wrong:
        assert command(*arguments) == 2
        assert message in capsys.readouterr().err


def test_a_benchmark_is_found_by_its_file(tmp_path, monkeypatch):
    names = {"genai-bench", "aurora-bench", "imagenhub", "editreward-bench", "editscore-bench", "editreward-compass"}
    names |= {"mmrb2", "editreward-bench-pairs"}
    assert set(BENCHMARKS) == names | {"own", "simulated", "open-edits"}
    assert all(benchmark.name == name and BENCHMARKS.about(name) for name, benchmark in BENCHMARKS.items())
    package = tmp_path / "of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "next_bench.py").write_text('ABOUT = "the next one"\n\nBENCHMARK = "it"\n')
    (package / "silent_bench.py").write_text("raise SystemExit\nBENCHMARK: int = 1\n")
    (package / "shared.py").write_text("BENCHMARKS = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = ModuleRegistry("BENCHMARK", "of_mine")
    assert list(found) == ["next-bench", "silent-bench"]
    assert found.about("next-bench") == "the next one" and found["next-bench"] == "it"
    with pytest.raises(ValueError, match="silent_bench.py has no line `ABOUT"):
        found.about("silent-bench")
    with pytest.raises(KeyError):
        found["shared"]


def test_help_names_benchmarks_and_formats_without_what_takes_long_to_import():
    code = "import sys, editreward.cli.command as c; c.build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "datasets", "scipy", "editreward.benchmarks.genai_bench"} & set(loaded)


def test_the_command_scores_with_a_model_and_uses_the_cache(tmp_path, test_set, random_model_dir, capsys, monkeypatch):
    options = ["simulated", "--data", test_set, "--model", random_model_dir, "--device", "cpu", "--limit", 3]
    options += ["--cache", tmp_path / "cache"]
    assert command(*options) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("modeling_editreward.EditRewardModel.forward", lambda *a, **k: pytest.fail("scored again"))
    assert command(*options) == 0
    assert capsys.readouterr().out == first and "3 of 3 items judged, in 3 groups." in first
    assert "| pair-wise accuracy with ties | instruction_following |" in first


def bench(*arguments: str) -> None:
    """What each process does in the test below."""
    sys.exit(cli.main(["bench", *arguments]))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, test_set, random_model_dir):
    arguments = ["simulated", "--data", test_set, "--model", random_model_dir, "--limit", 7]
    arguments += ["--output", tmp_path / "two", "--cache", tmp_path / "cache"]
    codes = run_ranks(bench, *map(str, arguments), folder=tmp_path, ACCELERATE_USE_CPU="true")
    assert codes == [0, 0], errors_of(tmp_path)
    printed = [(tmp_path / f"rank{rank}.out").read_text() for rank in range(2)]
    assert printed[0] and not printed[1], "only the main process prints"
    benchmark, model = BENCHMARKS["simulated"], EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    data = load_benchmark(benchmark, str(test_set), cache=tmp_path / "cache", progress=False)
    one = run_benchmark(benchmark, data, model, Runner(progress=False), limit=7)
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert two["environment"]["processes"] == 2 and one.environment["processes"] == 1
    values, expected = ([m["value"] for m in result["measures"][:15]] for result in (two, one.to_dict()))
    assert values == pytest.approx(expected, abs=1e-5)
    found = read_result(tmp_path / "two").answers.scores
    assert list(found) == list(one.answers.scores) and len(found) == 7
    for group_id, scores in one.answers.scores.items():
        assert scores.overall == pytest.approx(found[group_id].overall, abs=1e-5)


HUB = """
import sys
from huggingface_hub import HfApi
from editreward.cli.command import main
repo, folder, cache, output = sys.argv[1:]
api = HfApi()
api.create_repo(repo, repo_type="dataset")
api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder)
options = ["--data", repo, "--scorer", "random", "--cache", cache, "--output", output]
sys.exit(main(["bench", "editreward-bench", *options]))
"""
CARD = """---
configs:
- config_name: 2pair
  data_files: 2pair/train.parquet
- config_name: 3pair
  data_files: 3pair/train.parquet
---
"""


def published_repository(tmp_path: Path) -> Path:
    """A dataset in the published row format with a configuration for each K."""
    for name, rows in (("2pair", bench_rows("aa", 2, "B>A", 10)), ("3pair", bench_rows("cc", 3, "C>A>B", 30))):
        (tmp_path / "repo" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "repo" / name / "train.parquet")
    (tmp_path / "repo" / "README.md").write_text(CARD)
    return tmp_path / "repo"


def test_a_local_copy_of_a_published_dataset_is_read_with_all_its_configurations(tmp_path):
    folder, cache = published_repository(tmp_path), tmp_path / "repo" / "cache"
    loaded = load_benchmark(BENCHMARKS["editreward-bench"], str(folder), cache=cache, progress=False)
    assert sorted(item.item_id for item in loaded.items) == ["aa", "cc"]
    before = list(cache.glob("imports/*"))
    again = load_benchmark(BENCHMARKS["editreward-bench"], str(folder), cache=cache, progress=False)
    assert again.items == loaded.items and list(cache.glob("imports/*")) == before
    with pytest.raises(ValueError, match="no split 'valid'"):
        load_benchmark(BENCHMARKS["editreward-bench"], str(folder), split="valid", cache=cache, progress=False)


@pytest.mark.slow
def test_a_published_dataset_is_fetched_from_the_hub_with_all_its_configurations(tmp_path):
    folder = published_repository(tmp_path)
    with Hub() as hub:
        done = run_with_hub(hub, tmp_path, HUB, "org/bench", folder, tmp_path / "cache", tmp_path / "result")
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "result" / "result.json").read_text())
        assert result["data"]["items_judged"] == 2
        assert result["data"]["revision"] == hub.repositories["org/bench"].commits[-1][0]


def test_stored_rows_can_be_gone_through_again(tmp_path):
    write_groups([row_of(number) for number in range(20)], tmp_path, "test")
    rows = StoredRows(str(tmp_path))
    assert [row["group_id"] for row in rows] == [row["group_id"] for row in rows] == [f"g{n}" for n in range(20)]


def test_an_empty_folder_of_data_is_an_error_that_says_what_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no data files"):
        load_benchmark(BENCHMARKS["editreward-bench"], str(tmp_path / "empty"), cache=tmp_path / "cache")


def test_a_name_that_is_nowhere_is_an_error_that_says_so(tmp_path, monkeypatch):
    class ConnectError(Exception):
        """Like the one of the Hub's HTTP library, no OSError."""

    def unreachable(*args, **kwargs):
        raise ConnectError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(FileNotFoundError, match="nope is neither a folder or file here nor a Hub dataset"):
        load_benchmark(BENCHMARKS["editreward-bench"], "nope", cache=tmp_path / "cache")

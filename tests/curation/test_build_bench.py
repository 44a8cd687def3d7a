"""Building a benchmark: labels against loops over all orders, selection, exclusion, files and the command."""

import itertools
import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from datasets import DatasetDict, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editreward.benchmarks.editreward_bench import FORMAT
from editreward.cli import command as cli
from editreward.curation.tuples import (
    SIZES,
    AnnotatedGroup,
    candidate_tuples,
    check_ranking,
    label_tuple,
    majority_verdict,
    ranks_of_verdicts,
    select_tuples,
    shared_sources,
    tuple_id,
)
from editreward.data.benchmark_items import Comparison, read_benchmark
from editreward.data.importers.reading import Source
from editreward.data.importers.running import import_dataset
from editreward.data.sources import load_groups, split_names
from editreward.data.storage import write_groups
from editreward.groups.ratings import TupleRanking

DIMENSIONS = ("instruction_following", "visual_quality")


def group_of(overall, group_id="g", category="add"):
    """A group from the overall scores of each annotator, a list of lists of the same length."""
    columns = list(zip(*overall, strict=True))
    given_scores = [[score for score in column if score is not None] for column in columns]
    means = [{"overall": sum(scores) / len(scores) if scores else None} for scores in given_scores]
    return AnnotatedGroup(group_id, category, {f"ann{i}": list(row) for i, row in enumerate(overall)}, means)


def annotations(annotators=(3, 5), candidates=(2, 5)):
    return st.tuples(st.integers(*annotators), st.integers(*candidates)).flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(2, 8), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    )


def sign(x):
    return (x > 0) - (x < 0)


# Labels


@pytest.mark.parametrize("size", [2, 3, 4])
def test_verdicts_have_a_ranking_exactly_if_some_order_with_ties_gives_them(size):
    pairs = list(itertools.combinations(range(size), 2))
    possible = {}
    for ranks in itertools.product(range(1, size + 1), repeat=size):
        if set(ranks) == set(range(1, max(ranks) + 1)):
            possible[tuple(sign(ranks[j] - ranks[i]) for i, j in pairs)] = ranks
    assert len(possible) == {2: 3, 3: 13, 4: 75}[size]  # the ordered Bell numbers
    for verdicts in itertools.product((-1, 0, 1), repeat=len(pairs)):
        found = ranks_of_verdicts(dict(zip(pairs, verdicts, strict=True)), size)
        assert found == possible.get(verdicts)


def test_a_cycle_has_no_ranking():
    assert ranks_of_verdicts({(0, 1): 1, (1, 2): 1, (0, 2): -1}, 3) is None
    assert ranks_of_verdicts({(0, 1): 0, (1, 2): 0, (0, 2): 1}, 3) is None


@given(annotations(candidates=(2, 2)))
@settings(max_examples=100, deadline=None)
def test_majority_is_the_verdict_of_more_than_half(scores):
    votes = [sign(first - second) for first, second in scores]
    expected = [verdict for verdict in (-1, 0, 1) if votes.count(verdict) > len(votes) / 2]
    assert majority_verdict(*zip(*scores, strict=True)) == (expected[0] if expected else None)


@given(annotations(candidates=(2, 5)))
@settings(max_examples=150, deadline=None)
def test_labels_equal_a_search_over_all_rankings(scores):
    group = group_of(scores)
    means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    for size in SIZES:
        for candidates in itertools.combinations(range(len(means)), size):
            label = label_tuple(group, candidates)
            fitting = []
            for ranks in itertools.product(range(1, size + 1), repeat=size):
                if set(ranks) != set(range(1, max(ranks) + 1)):
                    continue
                if all(
                    sum(sign(row[a] - row[b]) == sign(q - p) for row in scores) > len(scores) / 2
                    and (p == q or sign(q - p) * (means[a] - means[b]) > 1e-6)
                    for (a, p), (b, q) in itertools.combinations(zip(candidates, ranks, strict=True), 2)
                ):
                    fitting.append(ranks)
            assert len(fitting) <= 1
            assert label.ranks == (fitting[0] if fitting else None)
            assert label.state == ("majority" if fitting else "pending") and bool(label.reason) != bool(fitting)
            differences = [abs(means[a] - means[b]) for a, b in itertools.combinations(candidates, 2)]
            assert label.spread == pytest.approx(sum(differences) / len(differences), abs=1e-5)


def test_reasons_name_candidates():
    no_majority = group_of([[5, 4], [4, 5], [4, 4]])
    assert label_tuple(no_majority, (0, 1)).reason == "no majority on candidates 0 and 1"
    cycle = group_of([[4, 3, 2], [2, 4, 3], [3, 2, 4]])
    assert "contradict each other" in label_tuple(cycle, (0, 1, 2)).reason
    for second in (6, 8):  # means equal, and in the other order
        against = group_of([[5, 4], [5, 4], [4, second]])
        assert "not borne out by their mean scores" in label_tuple(against, (0, 1)).reason


def test_only_annotators_who_rated_the_whole_tuple_count():
    group = group_of([[5, 4, None], [5, 4, 3], [4, 5, 3], [5, 4, 2]])
    assert label_tuple(group, (0, 1)).annotators == ("ann0", "ann1", "ann2", "ann3")
    assert label_tuple(group, (0, 2)).annotators == ("ann1", "ann2", "ann3")
    assert label_tuple(group, (0, 2), annotators=4) is None


@given(annotations())
@settings(max_examples=60, deadline=None)
def test_only_tuples_of_two_may_have_ties_and_the_hardest_of_each_kind_is_kept(scores):
    group = group_of(scores)
    found = candidate_tuples(group)
    labels = [
        label_tuple(group, candidates)
        for size in SIZES
        for candidates in itertools.combinations(range(len(scores[0])), size)
    ]
    usable = [label for label in labels if not (label.tied and label.size > 2)]
    kinds = {(label.size, label.state, label.tied) for label in usable}
    assert {(item.size, item.state, item.tied) for item in found} == kinds and len(found) == len(kinds)
    for item in found:
        rivals = [r for r in usable if (r.size, r.state, r.tied) == (item.size, item.state, item.tied)]
        assert item in rivals and item.spread == min(rival.spread for rival in rivals)


def test_rankings_take_the_place_of_majorities_in_any_order_of_candidates():
    group = group_of([[5, 4, 3], [4, 5, 3], [4, 4, 3]])
    name = tuple_id("g", (0, 1))
    [pending] = [item for item in candidate_tuples(group) if item.tuple_id == name]
    assert pending.state == "pending"
    ranking = TupleRanking(name, "g", [1, 0], [1, 2], ["ann0", "ann1"])
    [adjudicated] = [item for item in candidate_tuples(group, {name: ranking}) if item.tuple_id == name]
    assert (adjudicated.state, adjudicated.ranks) == ("adjudicated", (2, 1))
    assert adjudicated.annotators == ("ann0", "ann1")
    left_out = TupleRanking(name, "g", [0, 1], [])
    assert name not in {item.tuple_id for item in candidate_tuples(group, {name: left_out})}
    of_three = tuple_id("g", (0, 1, 2))
    tied = TupleRanking(of_three, "g", [0, 1, 2], [1, 1, 2])
    assert of_three not in {item.tuple_id for item in candidate_tuples(group, {of_three: tied})}


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (TupleRanking(tuple_id("g", (0, 1)), "g", [0, 2], [1, 2]), "another tuple"),
        (TupleRanking(tuple_id("g", (0, 7)), "g", [0, 7], [1, 2]), "group g has 3"),
        (TupleRanking(tuple_id("g", (0, 0)), "g", [0, 0], [1, 2]), "different candidates"),
        (TupleRanking(tuple_id("g", (0, 1)), "g", [0, 1], [1]), "different candidates"),
    ],
)
def test_rankings_of_something_else_are_refused(ranking, message):
    with pytest.raises(ValueError, match=f"{ranking.tuple_id}.*{message}"):
        check_ranking(ranking, group_of([[1, 2, 3]] * 3))


def test_tuple_ids_depend_on_group_and_candidates_and_have_no_underscore():
    assert tuple_id("a_b", (2, 0)) == tuple_id("a_b", (0, 2))
    names = [tuple_id(g, c) for g in ("a_b", "a_c") for k in SIZES for c in itertools.combinations(range(6), k)]
    assert len(set(names)) == len(names) and not any("_" in name for name in names)


# Selection


def random_groups(n, categories=5, seed=0, candidates=6):
    rng = np.random.default_rng(seed)
    groups = []
    for index in range(n):
        truth = rng.integers(2, 9, candidates)
        scores = [np.clip(truth + rng.integers(-1, 2, candidates), 2, 8).tolist() for _ in range(3)]
        category = f"c{min(int(rng.geometric(0.5)) - 1, categories - 1)}"
        groups.append(group_of(scores, f"group-{index}", category))
    return groups


def options_of(groups, seed=0, rankings=None):
    return [item for group in groups for item in candidate_tuples(group, rankings, seed=seed)]


def test_selection_is_a_third_of_each_size_with_few_ties_and_few_to_adjudicate():
    selection = select_tuples(options_of(random_groups(300)), groups=100)
    chosen = selection.tuples + selection.pending
    assert selection.wanted == {2: 34, 3: 33, 4: 33} == Counter(item.size for item in chosen)
    assert len({item.group_id for item in chosen}) == 100
    assert all(item.ranks is not None for item in selection.tuples)
    assert all(sorted(item.ranks) == list(range(1, item.size + 1)) for item in selection.tuples if item.size > 2)
    ties = [item for item in chosen if item.tied]
    assert 0 < len(ties) <= 34 / 4 and {item.size for item in ties} == {2}
    for size in SIZES:
        assert sum(item.size == size for item in selection.pending) <= 0.2 * selection.wanted[size]


def test_every_category_gets_its_share_as_far_as_it_has_groups():
    groups = random_groups(300)
    of_category = Counter(group.category for group in groups)
    selection = select_tuples(options_of(groups), groups=100)
    chosen = Counter(item.category for item in selection.tuples + selection.pending)
    fair = 100 / len(of_category)
    for category, available in of_category.items():
        # A small category may lack the size that is asked for at its turn.
        assert chosen[category] >= min(0.6 * available, fair - 1)
    assert max(chosen.values()) <= 100 - sum(min(available, fair) for available in of_category.values()) + 3 * fair


@pytest.mark.parametrize("cap", [0.0, 0.2])
def test_equal_categories_get_equal_numbers(cap):
    groups = [group_of([[8, 6, 4, 2]] * 3, f"g{index}", f"c{index % 4}") for index in range(60)]
    selection = select_tuples(options_of(groups), groups=30, adjudicated_share=cap)
    assert sorted(Counter(item.category for item in selection.tuples).values()) == [7, 7, 8, 8]


def test_small_differences_are_preferred():
    easy = [group_of([[8, 6, 4, 2]] * 3, f"easy{index}") for index in range(20)]
    hard = [group_of([[5, 4, 3, 2]] * 3, f"hard{index}") for index in range(9)]
    selection = select_tuples(options_of(easy + hard), groups=9)
    assert {item.group_id for item in selection.tuples} == {group.group_id for group in hard}
    assert all(item.spread == 1 for item in selection.tuples if item.size == 2)


def test_selection_depends_on_the_seed_and_not_on_the_order_of_groups():
    groups = random_groups(150)
    rng = np.random.default_rng(0)
    shuffled = [groups[index] for index in rng.permutation(len(groups))]
    first = select_tuples(options_of(groups), groups=60)
    assert select_tuples(options_of(shuffled), groups=60) == first
    assert select_tuples(options_of(groups, seed=1), groups=60, seed=1).tuples != first.tuples


def test_adjudicating_what_is_pending_completes_the_same_benchmark():
    groups = random_groups(120, seed=4)
    first = select_tuples(options_of(groups), groups=90)
    assert len(first.pending) > 5
    rankings = {
        item.tuple_id: TupleRanking(item.tuple_id, item.group_id, list(item.candidates), list(range(1, item.size + 1)))
        for item in first.pending
    }
    second = select_tuples(options_of(groups, rankings=rankings), groups=90)
    assert not second.pending
    assert {item.tuple_id for item in second.tuples} == {item.tuple_id for item in first.tuples + first.pending}
    assert {item.tuple_id for item in second.tuples if item.state == "adjudicated"} == set(rankings)


def test_groups_without_any_majority_are_adjudicated_beyond_the_share():
    groups = [group_of([[5, 4], [4, 5], [4, 4]], f"g{index}") for index in range(6)]
    selection = select_tuples(options_of(groups), groups=6, adjudicated_share=0.0)
    assert len(selection.pending) == selection.wanted[2] and not selection.tuples


# Exclusion


def noise(seed, size=84):
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def test_groups_that_share_a_picture_are_found_at_the_given_distance():
    groups = [AnnotatedGroup(f"g{bits}", "", {}, [], [(1 << bits) - 1]) for bits in range(8)]
    groups.append(AnnotatedGroup("several", "", {}, [], [0xFFFF0000FFFF0000, 0xFFFFFFFF]))
    for near in range(4):
        far_apart = [group for group in groups if group.group_id in ("g0", "g7", "several", f"g{near}")]
        expected = {f"g{near}", "g0"} if near else {"g0"}
        assert shared_sources(far_apart, [0], near) == expected
    assert shared_sources(groups, [0xFFFFFFFF], 0) == {"several"}
    assert shared_sources(groups, [], 4) == set()


# Files and the command


def row_of(index, scores, category="add", source=None):
    """A row whose candidate i has the scores[annotator][i] = (first, second dimension)."""
    return {
        "group_id": f"group_{index}",
        "origin": "test",
        "category": category,
        "instruction": f"instruction {index}",
        "language": "en",
        "source_images": [source or noise(1000 * index)],
        "candidates": [
            {
                "image": noise(1000 * index + 1 + number),
                "editor": f"editor-{number}",
                "seed": number,
                "scores": dict.fromkeys(DIMENSIONS),
                "annotations": [
                    {"annotator": f"ann{a}", **dict(zip(DIMENSIONS, row[number], strict=True))}
                    for a, row in enumerate(scores)
                ],
                "rationale": None,
            }
            for number in range(len(scores[0]))
        ],
        "preferences": [],
    }


CLEAR = [[(4, 4), (4, 3), (3, 3), (2, 3)], [(4, 4), (3, 4), (3, 3), (2, 2)], [(4, 4), (4, 3), (2, 3), (2, 2)]]
SPLIT = [[(4, 4), (3, 3)], [(2, 2), (3, 3)], [(3, 3), (3, 3)]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    rows = [row_of(index, CLEAR, ("add", "remove")[index % 2]) for index in range(9)]
    write_groups([*rows, row_of(9, SPLIT)], folder)
    return folder


def build(*arguments):
    return cli.main(["data", "build-bench", *map(str, arguments)])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".parquet"
    }


def test_both_formats_hold_the_same_labels_and_images(dataset, tmp_path, capsys):
    assert build(dataset, "--output", tmp_path) == 0
    assert "Wrote 9 tuples of 10 groups" in capsys.readouterr().out
    groups = {row["group_id"]: row for row in load_groups(tmp_path / "groups", "test")}
    originals = {row["group_id"]: row for row in load_groups(dataset)}
    items = {item.group_id: item for item in read_benchmark(tmp_path / "groups")}
    published = load_dataset(str(tmp_path / "published"), split="train")
    assert list(groups) == list(items) and len(groups) == 9
    assert Counter(len(row["candidates"]) for row in groups.values()) == {2: 3, 3: 3, 4: 3}

    comparisons = {}
    for row in published:
        comparisons.setdefault(row["id"].split("_")[0], []).append(row)
    assert set(comparisons) == set(groups)
    for name, group in groups.items():
        record, size = items[name].details, len(group["candidates"])
        assert items[name].item_id == name and items[name].subset == f"{size}pair"
        assert items[name].candidates == list(range(size))
        original = originals[record["source_group_id"]]
        assert group["instruction"] == original["instruction"]
        assert group["source_images"] == original["source_images"]
        ranks = record["ranks"]
        for candidate, index in zip(group["candidates"], record["source_candidates"], strict=True):
            before = original["candidates"][index]
            assert candidate["image"] == before["image"] and candidate["annotations"] == before["annotations"]
            for dimension in DIMENSIONS:
                mean = sum(given[dimension] for given in before["annotations"]) / 3
                assert candidate["scores"][dimension] == pytest.approx(mean)
        verdicts = {(c.first, c.second): c.verdict for c in items[name].comparisons}
        assert verdicts == {
            (i, j): "first" if ranks[i] < ranks[j] else "second" for i, j in itertools.combinations(range(size), 2)
        }
        better = {(p["chosen"], p["rejected"]) for p in group["preferences"]}
        assert better == {(i, j) for i, j in itertools.permutations(range(size), 2) if ranks[i] < ranks[j]}
        # CLEAR ranks the candidates in their order.
        order = sorted(range(size), key=lambda i: record["source_candidates"][i])
        assert [ranks[i] for i in order] == list(range(1, size + 1))

        rows = {row["comparison_type"]: row for row in comparisons[name]}
        assert len(rows) == len(comparisons[name]) == math.comb(size, 2)
        for i, j in itertools.combinations(range(size), 2):
            row = rows[f"{'ABCD'[i]}vs{'ABCD'[j]}"]
            first, second = ("ABCD"[i], "ABCD"[j]) if ranks[i] < ranks[j] else ("ABCD"[j], "ABCD"[i])
            assert row["ranking"] == f"{first}>{second}"
            assert row["dataset"] == f"{size}pair" and row["instruction"] == group["instruction"]
            assert row["source_image"] == group["source_images"][0]
            for place, index in (("1", i), ("2", j)):
                candidate = group["candidates"][index]
                assert row[f"candidate_{place}"] == candidate["image"]
                assert row[f"model_{place}"] == candidate["editor"]
                assert row[f"visual_quality_{place}"] == candidate["scores"]["visual_quality"]
                assert row[f"overall_score_{place}"] == row[f"score_{place}"] == sum(candidate["scores"].values())


def test_importing_the_published_format_gives_the_same_groups_and_items(tmp_path):
    ties = [row_of(20 + index, [[(3, 3), (3, 3)]] * 3) for index in range(3)]
    write_groups([row_of(index, CLEAR) for index in range(9)] + ties, tmp_path / "groups")
    assert build(tmp_path / "groups", "--output", tmp_path / "bench", "--tie-share", 1) == 0
    report = import_dataset(FORMAT, [Source(str(tmp_path / "bench" / "published"))], tmp_path / "back", progress=False)
    assert not report["errors"] and not report["notes"] and report["groups"] == 12
    items, back = (
        {item.item_id: item for item in read_benchmark(tmp_path / name)} for name in ("bench/groups", "back")
    )
    assert items.keys() == back.keys()
    assert sum(item.comparisons[0].verdict == "tie" for item in items.values()) == 3
    groups = {row["group_id"]: row for row in load_groups(tmp_path / "bench" / "groups", "test")}
    for row in load_groups(tmp_path / "back", "test"):
        item, imported, group = items[row["group_id"]], back[row["group_id"]], groups[row["group_id"]]
        assert (item.subset, item.candidates, item.comparisons) == (
            imported.subset,
            imported.candidates,
            imported.comparisons,
        )
        for column in ("instruction", "source_images", "preferences"):
            assert row[column] == group[column]
        for candidate, original in zip(row["candidates"], group["candidates"], strict=True):
            assert all(candidate[name] == original[name] for name in ("image", "editor", "scores"))


def test_place_in_the_row_does_not_tell_the_rank(tmp_path):
    rows = [row_of(index, [[(4, 4), (1, 1)]] * 3) for index in range(24)]
    write_groups(rows, tmp_path / "groups")
    assert build(tmp_path / "groups", "--output", tmp_path / "bench") == 0
    first = [item.details["ranks"][0] for item in read_benchmark(tmp_path / "bench" / "groups")]
    assert {1, 2} == set(first)


def test_the_same_seed_writes_the_same_files(dataset, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert build(dataset, "--output", tmp_path / name, "--groups", 5, "--seed", seed) == 0
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")
    assert lines(tmp_path / "a" / "groups" / "benchmark.jsonl") != lines(tmp_path / "c" / "groups" / "benchmark.jsonl")
    for path in ("groups/data/test-00000-of-00001.parquet", "published/data/train-00000-of-00001.parquet"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_adjudication_round_trip(tmp_path, capsys):
    write_groups([row_of(index, SPLIT) for index in range(3)], tmp_path / "groups")
    bench = tmp_path / "bench"
    assert build(tmp_path / "groups", "--output", bench, "--groups", 9) == 0
    assert "1 tuples wait" in capsys.readouterr().out
    [pending] = lines(bench / "tuples.jsonl")
    assert set(pending) == {"tuple_id", "group_id", "candidates", "reason"}
    assert pending["candidates"] == [0, 1] and pending["reason"] == "no majority on candidates 0 and 1"
    assert not lines(bench / "groups" / "benchmark.jsonl")

    ranking = TupleRanking(pending["tuple_id"], pending["group_id"], [0, 1], [1, 1], ["ann0", "ann1", "ann2"])
    rankings = tmp_path / "rankings.jsonl"
    rankings.write_text(json.dumps(asdict(ranking)), encoding="utf-8")
    # A tie has to fit into the share of ties.
    assert build(tmp_path / "groups", "--output", bench, "--groups", 9, "--rankings", rankings) == 0
    assert "Not used: 1 rankings" in capsys.readouterr().out
    assert build(tmp_path / "groups", "--output", bench, "--rankings", rankings, "--tie-share", 1) == 0
    [item] = read_benchmark(bench / "groups")
    assert item.comparisons == [Comparison(0, 1, "tie")] and item.details["label"] == "adjudicated"
    assert item.details["annotators"] == ["ann0", "ann1", "ann2"] and not lines(bench / "tuples.jsonl")
    [group] = load_groups(bench / "groups", "test")
    assert group["preferences"] == []
    [row] = load_dataset(str(bench / "published"), split="train")
    assert row["ranking"] == "A=B" and row["comparison_type"] == "AvsB"


def test_source_images_of_excluded_datasets_are_left_out(dataset, tmp_path):
    recompressed = tmp_path / "source.jpg"
    noise(3000, 168).save(recompressed, quality=60)  # group_3 in another size and format
    write_groups([row_of(100, CLEAR, source=str(recompressed))], tmp_path / "train", split="validation")
    bench = tmp_path / "bench"
    assert build(dataset, "--output", bench, "--exclude", tmp_path / "train") == 0
    summary = json.loads((bench / "build.json").read_text(encoding="utf-8"))
    assert summary["left_out"]["source image shared with an excluded dataset"] == ["group_3"]
    used = {item.details["source_group_id"] for item in read_benchmark(bench / "groups")}
    assert "group_3" not in used and len(used) == 8


def test_faulty_input_is_named(dataset, tmp_path, capsys):
    twice = row_of(1, CLEAR)
    twice["candidates"][2]["annotations"][1]["annotator"] = "ann0"
    write_groups([twice], tmp_path / "twice")
    assert build(tmp_path / "twice", "--output", tmp_path / "out") == 2
    assert "group 'group_1', candidate 2: ann0 annotates it 2 times" in capsys.readouterr().err
    write_groups([row_of(1, CLEAR), row_of(1, CLEAR)], tmp_path / "same")
    assert build(tmp_path / "same", "--output", tmp_path / "out") == 2
    assert "two groups are called 'group_1'" in capsys.readouterr().err
    twice["candidates"][2]["annotations"][1]["annotator"] = None
    write_groups([twice], tmp_path / "nameless")
    assert build(tmp_path / "nameless", "--output", tmp_path / "out") == 2
    assert "group 'group_1', candidate 2: an annotation has no annotator's name" in capsys.readouterr().err
    report = ["annotate", "report", "--dataset", str(tmp_path / "nameless"), "--output", str(tmp_path / "report")]
    assert cli.main(report) == 2
    assert "Group 'group_1', candidate 2: an annotation has no annotator's name" in capsys.readouterr().err
    one = load_groups(dataset, split_names(dataset)[0])
    write_groups([row_of(1, CLEAR) | {"candidates": []}], tmp_path / "other", dimensions=["consistency"])
    DatasetDict({"a": one, "b": load_groups(tmp_path / "other")}).save_to_disk(tmp_path / "mixed")
    assert build(tmp_path / "mixed", "--output", tmp_path / "out") == 2
    assert "The splits have different dimensions" in capsys.readouterr().err
    ranking = {"tuple_id": tuple_id("x", (0, 1)), "group_id": "x", "candidates": [0, 1], "ranks": [1, 2]}
    (tmp_path / "r.jsonl").write_text(json.dumps(ranking), encoding="utf-8")
    assert build(dataset, "--output", tmp_path / "out", "--rankings", tmp_path / "r.jsonl") == 2
    assert "is of group x, not in" in capsys.readouterr().err
    assert build(dataset, "--output", tmp_path / "out", "--exclude", dataset) == 2
    assert "nothing to make a benchmark of (10 groups: source image shared" in capsys.readouterr().err
    assert build(dataset, "--output", tmp_path / "out", "--tie-share", 2) == 2
    assert "tie_share must be from 0 to 1" in capsys.readouterr().err

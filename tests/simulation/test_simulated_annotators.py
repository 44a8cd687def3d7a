"""Simulated annotators: statistics and determinism of their errors, and where training sees them."""

import itertools
from collections import Counter

import pytest

from editreward.data.schema import encode_group, group_features
from editreward.data.sources import SimulatedGroups
from editreward.simulation import annotate, simulate_group

NAMES = ["instruction_following", "visual_quality"]


def rows_of(scores, groups):
    """Rows with nothing but what `annotate` reads; candidate i of each has the i-th pair of scores."""
    candidates = [{"scores": dict(zip(NAMES, map(float, pair), strict=True)), "annotations": []} for pair in scores]
    return [{"group_id": f"g{i}", "candidates": candidates} for i in range(groups)]


def test_errors_have_the_stated_probability_and_are_even_up_and_down_or_inward_at_the_ends():
    scores = list(itertools.product([1, 2, 3, 4], repeat=2))
    seen = {score: Counter() for score in (1, 2, 3, 4)}
    both_off, groups = 0, 500
    for row in rows_of(scores, groups):
        for pair, candidate in zip(scores, annotate(row, annotators=1, noise=0.3)["candidates"], strict=True):
            offs = [candidate["scores"][name] - true for name, true in zip(NAMES, pair, strict=True)]
            for true, off in zip(pair, offs, strict=True):
                seen[true][off] += 1
            both_off += all(offs)
    count = 2 * 4 * groups  # of each true score: standard errors are below 0.0073
    for true, allowed in ((1, {1: 0.3}), (2, {-1: 0.15, 1: 0.15}), (3, {-1: 0.15, 1: 0.15}), (4, {-1: 0.3})):
        assert set(seen[true]) == {0, *allowed}
        for off, probability in allowed.items():
            assert seen[true][off] / count == pytest.approx(probability, abs=0.03)
    assert both_off / (16 * groups) == pytest.approx(0.09, abs=0.013)  # dimensions err independently


def test_the_score_is_the_mean_of_annotators_who_err_independently():
    noise, agree, total = 0.3, 0, 0
    for row in rows_of([(2, 3), (3, 2), (2, 2)], 400):
        for candidate in annotate(row, annotators=3, noise=noise)["candidates"]:
            assert [a["annotator"] for a in candidate["annotations"]] == [f"sim-annotator-{i}" for i in (1, 2, 3)]
            for name in NAMES:
                given = [annotation[name] for annotation in candidate["annotations"]]
                assert candidate["scores"][name] == sum(given) / 3
                agree += sum(a == b for a, b in itertools.combinations(given, 2))
                total += 3
    # Both right, or both off in the same direction; a standard error is 0.006 (pairs of one score share annotators).
    assert agree / total == pytest.approx((1 - noise) ** 2 + noise**2 / 2, abs=0.03)


def test_annotation_depends_on_group_and_seed_alone():
    row = simulate_group(5, candidates=3, size=84).to_row()
    before = [dict(candidate["scores"]) for candidate in row["candidates"]]
    three = annotate(row, 3, 0.5)
    assert [candidate["scores"] for candidate in row["candidates"]] == before
    assert three == annotate(row, 3, 0.5)

    def said(annotated, annotators):
        return [candidate["annotations"][:annotators] for candidate in annotated["candidates"]]

    assert said(three, 1) == said(annotate(row, 1, 0.5), 1)
    fewer = {**row, "candidates": row["candidates"][:2]}
    assert said(annotate(fewer, 3, 0.5), 3) == said(three, 3)[:2]
    many = rows_of([(2, 3)] * 4, 50)
    assert [said(annotate(r, 1, 0.5), 1) for r in many] != [said(annotate(r, 1, 0.5, seed=1), 1) for r in many]
    assert len({str(said(annotate(r, 1, 0.5), 1)) for r in many}) > 40  # groups differ


def test_no_noise_is_the_truth_and_the_row_keeps_to_the_schema():
    row = simulate_group(5, candidates=2, size=84).to_row()
    exact = annotate(row, 2, 0.0)
    assert [c["scores"] for c in exact["candidates"]] == [c["scores"] for c in row["candidates"]]
    encode_group(exact, group_features(NAMES))
    with pytest.raises(ValueError, match="annotators >= 1"):
        annotate(row, 0, 0.3)
    with pytest.raises(ValueError, match="noise of 0 to 1"):
        annotate(row, 1, 1.3)


def test_training_groups_are_scored_by_annotators_and_nothing_else_changes():
    noisy = SimulatedGroups(3, 7, 84, annotators=1, noise=0.5).dataset("train")
    exact = SimulatedGroups(3, 7, 84).dataset("train")
    for index in range(3):
        row, true = noisy[index], exact[index]
        expected = annotate(true, 1, 0.5)["candidates"]
        assert [c["scores"] for c in row["candidates"]] == [c["scores"] for c in expected]
        assert {k: v for k, v in row.items() if k != "candidates"} == {
            k: v for k, v in true.items() if k != "candidates"
        }
    assert [c["scores"] for c in noisy[0]["candidates"]] != [c["scores"] for c in exact[0]["candidates"]]
    with pytest.raises(ValueError, match="simulated_annotators"):
        SimulatedGroups(3, size=84, noise=0.5)


def test_a_share_of_a_training_set_is_contrasting_whatever_the_batches() -> None:
    some, every, none = (SimulatedGroups(24, 6, 84, contrast=share).dataset("train") for share in (0.5, 1, 0))
    ids = some[:]["group_id"]
    contrasting = [name.endswith("-contrast") for name in ids]
    assert 4 <= sum(contrasting) <= 20 and contrasting[::2] == contrasting[1::2]  # both of a pair
    assert [some[index]["group_id"] for index in range(24)] == ids
    for name, other, plain in zip(ids, every[:]["group_id"], none[:]["group_id"], strict=True):
        assert other == f"{plain}-contrast" and name in (other, plain)
    with pytest.raises(ValueError, match="must be a share from 0 to 1, got 1.5"):
        SimulatedGroups(3, size=84, contrast=1.5)

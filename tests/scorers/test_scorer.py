"""The scorer gives what the model gives, in order, whatever the batches; and it says what it could not score."""

import copy
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import editreward
from editreward.scorers import loading
from editreward.scorers import reward_model as scorer_module
from editreward.scorers.loading import ModelError
from editreward.scorers.reward_model import EditRewardScorer, ScoringError, SkippedGroup
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor


@pytest.fixture(scope="module")
def scorer(random_model_dir: Path) -> EditRewardScorer:
    return EditRewardScorer.from_pretrained(random_model_dir, device="cpu")


@pytest.fixture
def own_scorer(random_model_dir: Path) -> EditRewardScorer:
    """A scorer that a test may change."""
    return EditRewardScorer.from_pretrained(random_model_dir, device="cpu")


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_groups(candidates: list[int]) -> dict[str, list]:
    """Groups of the given sizes, with images of many shapes."""
    seeds = iter(range(10_000))
    return {
        "source": [picture(next(seeds), 40 + 24 * (i % 3)) for i in range(len(candidates))],
        "edited": [[picture(next(seeds), 56, 40 + 16 * (k % 4)) for k in range(n)] for n in candidates],
        "instruction": [f"make it colour number {i}" * (1 + i % 3) for i in range(len(candidates))],
    }


def rewards(results: list) -> list[list[float]]:
    return [[score.reward for score in group] for group in results]


def assert_same(actual: list, expected: list) -> None:
    assert [len(group) for group in actual] == [len(group) for group in expected]
    np.testing.assert_allclose(np.concatenate(rewards(actual)), np.concatenate(rewards(expected)), atol=1e-5)


def test_scores_are_those_of_the_model(scorer, random_model_dir):
    model = EditRewardModel.from_pretrained(random_model_dir).eval()
    processor = EditRewardProcessor.from_pretrained(random_model_dir, trust_remote_code=False)
    group = {"source": picture(0), "edited": [picture(1), picture(2), picture(3)], "instruction": "paint it red"}
    with torch.no_grad():
        output = model(**processor(**group))
    scores = scorer.score(**group)
    assert len(scores) == 3
    for i, score in enumerate(scores):
        assert score.reward == pytest.approx(output.reward[i].item(), abs=1e-5)
        assert score.reward_std == pytest.approx(output.reward_std[i].item(), rel=1e-4)
        for column, name in enumerate(model.config.dimensions):
            dimension = getattr(score, name)
            assert dimension.mean == pytest.approx(output.mean[i, column].item(), abs=1e-5)
            assert dimension.std == pytest.approx(math.exp(output.log_std[i, column].item()), rel=1e-4)
            assert not dimension.calibrated


def test_random_weights_tell_inputs_apart(scorer):
    # Otherwise the other tests here would pass on any mix-up.
    values = np.concatenate(rewards(scorer.score(**make_groups([3, 3]))))
    assert np.diff(np.sort(values)).min() > 1e-4


@pytest.mark.parametrize("max_batch_tokens", [1, 700, 100_000])
def test_results_keep_the_order_given_whatever_the_batches(scorer, max_batch_tokens):
    groups = make_groups([5, 1, 3, 7, 2, 1, 4])
    one_by_one = [scorer.score(*group) for group in zip(*groups.values(), strict=True)]
    batched = EditRewardScorer(scorer.model, scorer.processor, max_batch_tokens=max_batch_tokens)
    assert_same(batched.score(**groups), one_by_one)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_keep_the_token_budget_and_lose_no_group(lengths, budget):
    stub = SimpleNamespace(max_batch_tokens=budget)
    groups = [
        SimpleNamespace(index=index, inputs=SimpleNamespace(num_tokens=length)) for index, length in enumerate(lengths)
    ]
    batches = list(EditRewardScorer._split(stub, groups))
    assert sorted(group.index for batch in batches for group in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(group.inputs.num_tokens for group in batch)
        assert padded <= budget or len(batch) == 1


def test_forward_passes_keep_the_token_budget(own_scorer, monkeypatch):
    sizes = []
    forward = own_scorer.model.forward

    def spy(**inputs):
        sizes.append(inputs["input_ids"].shape)
        return forward(**inputs)

    monkeypatch.setattr(own_scorer.model, "forward", spy)
    own_scorer.max_batch_tokens = 1000
    own_scorer.score(**make_groups([2, 6, 2, 6, 2, 2]))
    assert all(rows * length <= 1000 or rows == 1 for rows, length in sizes)
    assert len(sizes) < 6, "short groups share a forward pass"


def test_several_source_images_make_one_group(scorer):
    group = {"edited": [picture(2), picture(3)], "instruction": "put the first into the second"}
    both = scorer.score(source=[picture(0), picture(1)], **group)
    swapped = scorer.score(source=[picture(1), picture(0)], **group)
    assert len(both) == 2
    assert abs(both[0].reward - swapped[0].reward) > 1e-5
    listed = scorer.score(
        source=[[picture(0), picture(1)], picture(0)],
        edited=[group["edited"], [picture(5)]],
        instruction=[group["instruction"], "other"],
    )
    assert_same([listed[0]], [both])


def test_one_group_in_a_list_is_a_list_of_one(scorer):
    alone = scorer.score(picture(0), [picture(1), picture(2)], "x")
    assert_same(scorer.score([picture(0)], [[picture(1), picture(2)]], ["x"]), [alone])


def test_no_groups_give_no_results(scorer):
    assert scorer.score([], [], []) == []


def test_all_forms_of_an_image_score_alike(scorer, tmp_path):
    image = picture(1)
    path = tmp_path / "image.png"
    image.save(path)
    array = np.asarray(image)
    forms = [
        image,
        path,
        str(path),
        path.read_bytes(),
        array,
        torch.from_numpy(array.copy()),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        array / 255.0,
    ]
    scores = scorer.score(picture(0), forms, "paint it red")
    np.testing.assert_allclose([score.reward for score in scores], scores[0].reward, atol=1e-5)


def test_calibration_maps_dimensions_and_leaves_rewards_raw(random_model_dir, scorer):
    own = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    first, second = own.model.config.dimensions
    own.model.config.calibration = {
        first: {"intercept": 2.5, "slope": 0.5},
        second: {"intercept": 1.0, "slope": 2.0, "std_factor": 3.0},
        "overall": {"intercept": 2.0, "slope": 0.25, "std_factor": 2.0},
    }
    group = (picture(0), [picture(1), picture(2)], "paint it red")
    for raw, calibrated in zip(scorer.score(*group), own.score(*group), strict=True):
        assert calibrated.dimensions[first].mean == pytest.approx(2.5 + 0.5 * raw.dimensions[first].mean)
        assert calibrated.dimensions[second].mean == pytest.approx(1.0 + 2.0 * raw.dimensions[second].mean)
        assert calibrated.dimensions[first].std == pytest.approx(0.5 * raw.dimensions[first].std)
        assert calibrated.dimensions[second].std == pytest.approx(6.0 * raw.dimensions[second].std)
        assert not calibrated.dimensions[first].std_calibrated and calibrated.dimensions[second].std_calibrated
        assert calibrated.overall.mean == pytest.approx(2.0 + 0.25 * raw.reward) and raw.overall is None
        assert calibrated.overall.std == pytest.approx(0.5 * raw.reward_std) and calibrated.overall.std_calibrated
        assert all(value.calibrated for value in calibrated.dimensions.values())
        assert (calibrated.reward, calibrated.reward_std) == (raw.reward, raw.reward_std)
    assert not own.notes
    assert any("uncalibrated" in note for note in scorer.notes)


def test_best_of_ranks_by_reward(scorer):
    group = (picture(0), [picture(seed) for seed in range(1, 6)], "paint it red")
    best = scorer.best_of(*group)
    values = np.array([score.reward for score in scorer.score(*group)])
    assert best.index == values.argmax()
    assert best.order == list(np.argsort(-values))
    assert [best.ranks[index] for index in best.order] == [1, 2, 3, 4, 5]
    assert sum(best.probabilities) == pytest.approx(1)
    assert best.probability == best.probabilities[best.index]


def test_one_candidate_is_the_best_of_nothing_and_has_no_probability(scorer):
    best = scorer.best_of(picture(0), [picture(1)], "paint it red")
    assert (best.index, best.probability, best.probabilities) == (0, None, None)
    assert best.to_dict()["candidates"][0]["probability_best"] is None


def test_preference_is_the_expected_sigmoid_of_the_reward_difference(scorer):
    group = {"source": picture(0), "instruction": "paint it red"}
    first, second = scorer.score(edited=[picture(1), picture(2)], **group)
    noise = np.random.default_rng(0).standard_normal((2, 400_000))
    differences = first.reward + first.reward_std * noise[0] - second.reward - second.reward_std * noise[1]
    expected = (1 / (1 + np.exp(-differences))).mean()
    probability = scorer.preference(first=picture(1), second=picture(2), **group)
    assert probability == pytest.approx(expected, abs=3e-3)
    assert scorer.preference(first=picture(2), second=picture(1), **group) == pytest.approx(1 - probability, abs=1e-6)
    best = scorer.best_of(edited=[picture(1), picture(2)], **group)
    assert best.probabilities[0] == pytest.approx(probability, abs=1e-6)


def test_a_preference_in_one_dimension_is_the_expected_sigmoid_of_its_raw_difference(random_model_dir, scorer):
    own = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    own.model.config.calibration = {
        name: {"intercept": 2.5, "slope": 0.5 + place, "std_factor": 7.0}
        for place, name in enumerate(own.model.config.dimensions)
    }
    group = (picture(0), [picture(1), picture(2)], "paint it red")
    raw = scorer.score(*group)
    noise = np.random.default_rng(0).standard_normal((2, 400_000))
    expected = {}
    for name in own.model.config.dimensions:
        one, other = (score.dimensions[name] for score in raw)
        differences = one.mean + one.std * noise[0] - other.mean - other.std * noise[1]
        expected[name] = (1 / (1 + np.exp(-differences))).mean()
    assert scorer.dimension_preferences(*raw) == pytest.approx(expected, abs=3e-3)
    assert own.dimension_preferences(*own.score(*group)) == pytest.approx(expected, abs=3e-3)


def test_best_of_and_preference_take_lists_of_groups(scorer):
    sources, instructions = [picture(0), "missing.png"], ["paint it red", "paint it red"]
    best = scorer.best_of(sources, [[picture(1), picture(2)]] * 2, instructions, on_error="skip")
    assert best[0] == scorer.best_of(sources[0], [picture(1), picture(2)], instructions[0])
    assert isinstance(best[1], SkippedGroup)
    preferences = scorer.preference(sources, [picture(1)] * 2, [picture(2)] * 2, instructions, on_error="skip")
    assert preferences[0] == pytest.approx(best[0].probabilities[0], abs=1e-6)
    assert isinstance(preferences[1], SkippedGroup)


def test_a_skipped_group_costs_the_others_nothing(scorer):
    groups = make_groups([2, 3, 1, 4])
    expected = scorer.score(**groups)
    groups["edited"][1][2] = "no/such/file.png"
    groups["instruction"][2] = "  "
    results = scorer.score(**groups, on_error="skip")
    assert_same([results[0], results[3]], [expected[0], expected[3]])
    assert isinstance(results[1], SkippedGroup) and results[1].index == 1
    assert "groups[1].edited[2]" in results[1].reason and "no/such/file.png" in results[1].reason
    assert isinstance(results[2], SkippedGroup) and "groups[2].instruction" in results[2].reason


def test_skipping_the_only_group_returns_the_reason(scorer):
    assert "source" in scorer.score("missing.png", [picture(0)], "x", on_error="skip").reason


def test_an_error_in_a_list_carries_the_results_so_far(scorer):
    groups = make_groups([2, 3, 2, 2])
    expected = scorer.score(**groups)
    groups["source"][3] = "missing.png"
    eager = EditRewardScorer(scorer.model, scorer.processor, max_batch_tokens=1)
    with pytest.raises(ScoringError, match=r"groups\[3\]\.source \('missing\.png'\).*3 of 4") as caught:
        eager.score(**groups)
    assert caught.value.index == 3
    assert_same(caught.value.results[:3], expected[:3])
    assert caught.value.results[3] is None


def break_forward(scorer: EditRewardScorer, monkeypatch, candidates: int) -> None:
    """Make every forward pass fail whose batch has a group with this many candidates."""
    forward = scorer.model.forward

    def failing(**inputs):
        if candidates in torch.bincount(inputs["group_index"]).tolist():
            raise torch.OutOfMemoryError("out of memory")
        return forward(**inputs)

    monkeypatch.setattr(scorer.model, "forward", failing)


def test_a_failing_forward_pass_costs_only_the_group_that_makes_it_fail(own_scorer, monkeypatch):
    groups = make_groups([2, 2, 3, 2])
    expected = own_scorer.score(**groups)
    break_forward(own_scorer, monkeypatch, candidates=3)
    results = own_scorer.score(**groups, on_error="skip")
    assert_same([results[i] for i in (0, 1, 3)], [expected[i] for i in (0, 1, 3)])
    assert results[2] == SkippedGroup(2, "out of memory")
    with pytest.raises(ScoringError, match="out of memory") as caught:
        own_scorer.score(**groups)
    assert caught.value.index == 2
    assert_same(caught.value.results[:2], expected[:2])


def test_scores_that_are_not_numbers_cost_only_their_group(own_scorer, monkeypatch):
    groups = make_groups([2, 2, 2])
    expected = own_scorer.score(**groups)
    forward = own_scorer.model.forward

    def broken(**inputs):
        output = forward(**inputs)
        output.reward[output.group_index == 1] = float("nan")
        return output

    monkeypatch.setattr(own_scorer.model, "forward", broken)
    results = own_scorer.score(**groups, on_error="skip")
    skipped = [result for result in results if isinstance(result, SkippedGroup)]
    assert len(skipped) == 1 and "NaN" in skipped[0].reason
    assert_same(
        [result for result in results if not isinstance(result, SkippedGroup)],
        [group for index, group in enumerate(expected) if index != skipped[0].index],
    )
    with pytest.raises(ScoringError, match="NaN") as caught:
        own_scorer.score(**groups)
    assert sum(result is not None for result in caught.value.results) == 2, "good groups of the same batch are kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": [1, 2], "edited": [[1]], "instruction": ["a"]}, "`source` 2, `edited` 1"),
        ({"source": "a.png", "edited": [["b.png"]], "instruction": ["a"]}, "`source` must be a list"),
        ({"source": "a.png", "edited": ["b.png"], "instruction": "a", "on_error": "ignore"}, "'raise' or 'skip'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(scorer, arguments, message):
    with pytest.raises(ValueError, match=message):
        scorer.score(**arguments)


def test_scores_are_small_values(scorer):
    score = scorer.score(picture(0), [picture(1)], "x")[0]
    assert score.visual_quality is score.dimensions["visual_quality"]
    with pytest.raises(AttributeError, match="'beauty'.*instruction_following, visual_quality"):
        score.beauty  # noqa: B018
    with pytest.raises(AttributeError):
        score.reward = 1.0
    assert pickle.loads(pickle.dumps(score)) == copy.deepcopy(score) == score
    record = json.loads(json.dumps(score.to_dict()))
    assert record["dimensions"]["visual_quality"]["mean"] == score.visual_quality.mean
    assert record["reward"] == score.reward


def test_a_progress_bar_is_shown_on_request_only(scorer, capsys, monkeypatch):
    monkeypatch.setattr(scorer_module, "SECONDS_BEFORE_PROGRESS", 0)
    groups = make_groups([1, 1])
    scorer.score(**groups, progress=False)
    assert capsys.readouterr().err == ""
    scorer.score(**groups, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_defaults_suit_the_device(random_model_dir):
    assert loading.choose_dtype(None, torch.device("cpu")) == torch.float32
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert loading.choose_device(None).type == expected
    half = EditRewardScorer.from_pretrained(random_model_dir, device="cpu", dtype="bfloat16")
    assert half.model.backbone.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in half.model.heads.parameters()} == {torch.float32}
    assert math.isfinite(half.score(picture(0), [picture(1)], "x")[0].reward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
        ({"device": "warp"}, "device 'warp'"),
        ({"max_batch_tokens": 0}, "max_batch_tokens"),
    ],
)
def test_options_that_do_not_exist_are_named(random_model_dir, options, message):
    with pytest.raises(ValueError, match=message):
        EditRewardScorer.from_pretrained(random_model_dir, **{"device": "cpu", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(random_model_dir):
    with pytest.raises(ValueError, match="'cuda' cannot be used on this machine"):
        EditRewardScorer.from_pretrained(random_model_dir, device="cuda")


def test_a_model_of_the_users_own_is_put_into_evaluation_mode(random_model_dir, scorer):
    model = EditRewardModel.from_pretrained(random_model_dir).train()
    own = EditRewardScorer(model, scorer.processor)
    assert_same([own.score(picture(0), [picture(1)], "x")], [scorer.score(picture(0), [picture(1)], "x")])


def test_the_bundled_model_is_the_default_and_says_what_it_is(monkeypatch, random_model_dir, tmp_path):
    folder = tmp_path / scorer_module.BUNDLED_MODEL
    folder.symlink_to(random_model_dir)
    monkeypatch.setattr(scorer_module, "bundled_model", lambda: folder)
    assert any("simulated scenes" in note for note in EditRewardScorer.from_pretrained(device="cpu").notes)


def test_a_missing_bundled_model_is_explained(monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED_MODEL", "no-such-model")
    with pytest.raises(ModelError, match="bundled model is not there"):
        EditRewardScorer.from_pretrained()


def test_the_package_exports_what_it_lists():
    assert all(getattr(editreward, name).__name__ == name for name in editreward.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        editreward.nothing  # noqa: B018


def test_tensors_of_edits_and_one_instruction_for_several_groups(scorer):
    edited = [[picture(1), picture(2)], [picture(3), picture(4)]]
    sources = [picture(5), picture(6)]
    expected = scorer.score(sources, edited, ["make it blue"] * 2)
    assert_same(scorer.score(sources, edited, "make it blue"), expected)
    tensors = [np.stack([np.asarray(image) for image in group]) for group in edited]
    assert_same(scorer.score(sources, tensors, "make it blue"), expected)
    assert_same([scorer.score(sources[0], tensors[0], "make it blue")], expected[:1])
    best = scorer.best_of(sources, edited, "make it blue")
    np.testing.assert_allclose([[s.reward for s in one.scores] for one in best], rewards(expected), atol=1e-5)
    firsts, seconds = zip(*edited, strict=True)
    assert len(scorer.preference(sources, list(firsts), list(seconds), "make it blue")) == 2


def test_what_is_printed_can_be_read(scorer):
    assert repr(scorer).startswith("EditRewardScorer('") and len(repr(scorer)) < 300
    best = scorer.best_of(picture(0), [picture(1), picture(2)], "make it blue")
    lines = repr(best).splitlines()
    assert len(lines) == 3 and lines[0] == f"GroupScores(best={best.index}"
    assert f"rank {best.ranks[1]}" in lines[2] and f"reward={best.scores[1].reward:.3f}" in lines[2]
    group = editreward.groups.EditGroup([b"x" * 10_000], "make it blue", [b"y" * 10_000] * 3, "g1")
    assert repr(group) == "EditGroup('g1', 1 source, 3 edited, 'make it blue')"

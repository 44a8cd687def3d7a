"""The transformers pipeline: dictionaries in, plain dictionaries out, one at a time or in batches."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import pipeline

from editreward import EditRewardScorer
from editreward.training.adapters import save_configuration
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor
from tests.helpers.backbones import make_image


@pytest.fixture(scope="module")
def pipe(random_model_dir):
    return pipeline("edit-reward", model=str(random_model_dir), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def groups():
    # Of different lengths, so that batches are padded.
    return [
        {
            "source": make_image(seed),
            "edited": [make_image(10 * seed + index, (60, 40 + 20 * seed)) for index in range(count)],
            "instruction": "make it blue " * (1 + seed),
        }
        for seed, count in enumerate((2, 4, 1, 3, 2))
    ]


def assert_close(found, expected):
    assert [one["best"] for one in found] == [one["best"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        for candidate, same in zip(one["candidates"], other["candidates"], strict=True):
            assert candidate["reward"] == pytest.approx(same["reward"], abs=1e-4)
            assert candidate["reward_std"] == pytest.approx(same["reward_std"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_give_what_single_groups_give(pipe, groups, batch_size):
    assert_close(pipe(groups, batch_size=batch_size), [pipe(group) for group in groups])


def test_lists_tuples_generators_and_no_groups(pipe, groups):
    expected = pipe(groups)
    assert_close(pipe(tuple(groups)), expected)
    assert_close(list(pipe(group for group in groups)), expected)
    assert pipe([]) == []
    assert_close([pipe({**groups[2], "edited": groups[2]["edited"][0]})], [expected[2]])


def test_scores_are_the_scorers_and_plain(random_model_dir, groups):
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    scale = {"intercept": 2.5, "slope": 0.5}
    for calibration in (None, dict.fromkeys(scorer.model.config.dimensions, scale)):
        scorer.model.config.calibration = calibration
        pipe = pipeline(
            "edit-reward", model=str(random_model_dir), trust_remote_code=True, device="cpu", dtype=torch.float32
        )
        pipe.model.config.calibration = calibration
        for group in groups[:2]:
            result = json.loads(json.dumps(pipe(group)))  # nothing is lost: all of it is plain
            best = scorer.best_of(**group)
            assert result["best"] == best.index
            assert [candidate.pop("rank") for candidate in result["candidates"]] == best.ranks
            for candidate, score in zip(result["candidates"], best.scores, strict=True):
                expected = score.to_dict()
                assert candidate["reward"] == pytest.approx(expected["reward"], abs=1e-5)
                for name, value in candidate["dimensions"].items():
                    assert value == pytest.approx(expected["dimensions"][name], abs=1e-5)
                    assert value["calibrated"] is (calibration is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edited": []}, "edited is an empty list"),
        ({"source": "missing.png"}, "'missing.png'. does not exist"),
        ({"prompt": "more"}, "source, edited, instruction; got source, edited, instruction, prompt"),
    ],
)
def test_a_bad_group_is_an_error_that_names_the_field(pipe, groups, change, message):
    with pytest.raises(ValueError, match=message):
        pipe({**groups[0], **change})


def test_a_group_may_be_given_by_its_fields(pipe, groups):
    assert_close([pipe(**groups[0])], [pipe(groups[0])])
    with pytest.raises(ValueError, match="not both"):
        pipe(groups[0], source=groups[0]["source"])
    with pytest.raises(ValueError, match="source, edited, instruction; got edited"):
        pipe(edited=groups[0]["edited"])


def test_a_group_must_be_a_dictionary_and_arguments_known(pipe, groups):
    with pytest.raises(ValueError, match="source, edited, instruction; got str"):
        pipe("cat.png")
    with pytest.raises(TypeError, match="no argument 'top_k'"):
        pipe(groups[0], top_k=1)


def test_what_is_for_the_model_stays_out_of_what_the_pipeline_saves(random_model_dir, groups, tmp_path):
    options = {"dtype": torch.float32, "device": "cpu", "model_kwargs": {"attn_implementation": "eager"}}
    pipe = pipeline(model=str(random_model_dir), trust_remote_code=True, **options)  # its only task
    pipe.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in random_model_dir.iterdir()}
    assert "eager" not in (tmp_path / "tokenizer_config.json").read_text()
    again = pipeline("edit-reward", model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert_close(again(groups[:2]), pipe(groups[:2]))


def test_an_adapter_is_scored_with_its_base(random_model_dir, groups, tmp_path):
    model = EditRewardModel.from_pretrained(random_model_dir)
    target = LoraConfig(target_modules=r".*language_model.*_proj", modules_to_save=["heads"], init_lora_weights=False)
    adapted = get_peft_model(model, target)
    for parameter in adapted.model.heads.modules_to_save["default"].parameters():
        parameter.data += 0.1  # trained whole, beside the adapter
    adapted.save_pretrained(tmp_path)
    save_configuration(model, tmp_path)
    EditRewardProcessor.from_pretrained(random_model_dir).save_pretrained(tmp_path)
    scorer = EditRewardScorer.from_pretrained(tmp_path, device="cpu")
    piped = pipeline("edit-reward", model=str(tmp_path), trust_remote_code=True, device="cpu", dtype=torch.float32)
    for group in groups[:2]:
        found = [candidate["reward"] for candidate in piped(group)["candidates"]]
        assert found == pytest.approx([score.reward for score in scorer.score(**group)], abs=1e-4)

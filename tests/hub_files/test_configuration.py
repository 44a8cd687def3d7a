"""The configuration: what it takes, what it refuses, and that it is saved whole."""

import json
import re

import pytest
from transformers import AutoConfig

from configuration_editreward import (
    AGGREGATIONS,
    DEFAULT_DIMENSIONS,
    HEAD_TYPES,
    LAYOUTS,
    POSITION_SCHEMES,
    PREFERENCE_LINKS,
    UNCERTAINTY_AGGREGATIONS,
    EditRewardConfig,
    reward_tokens,
)

BACKBONE_TYPES = ["qwen2_5_vl", "qwen3_vl"]
TINY_TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 100}


def tiny(model_type="qwen2_5_vl", **fields):
    return EditRewardConfig(backbone_config={"model_type": model_type, "text_config": dict(TINY_TEXT)}, **fields)


CHANGED = {
    "dimensions": ["visual_quality", "consistency"],
    "head_type": "shared",
    "head_hidden_sizes": [12, 3],
    "head_dropout": 0.2,
    "aggregation": "min",
    "aggregation_temperature": 0.25,
    "uncertainty_aggregation": "reference",
    "layout": "paper",
    "position_scheme": "sequential",
    "preference_link": "probit",
    "calibration": {
        "visual_quality": {"intercept": 2.5, "slope": 0.7},
        "consistency": {"intercept": -1.0, "slope": 2.0},
    },
}


def test_defaults_are_those_of_new_models():
    config = tiny()
    assert config.dimensions == ["instruction_following", "visual_quality"] == DEFAULT_DIMENSIONS
    assert (config.head_type, config.layout, config.position_scheme) == ("multi", "compact", "mrope")
    assert (config.aggregation, config.uncertainty_aggregation) == ("mean", "propagate")
    assert config.preference_link == "logistic"
    assert config.calibration is None
    assert config.num_labels == 1


def test_default_dimensions_belong_to_each_configuration_alone():
    config = tiny()
    config.dimensions.append("consistency")
    assert tiny().dimensions == ["instruction_following", "visual_quality"]


def test_a_single_head_judges_overall_by_default():
    assert tiny(head_type="single").dimensions == ["overall"]


@pytest.mark.parametrize("model_type", BACKBONE_TYPES)
def test_the_backbones_sizes_are_exposed(model_type):
    config = tiny(model_type)
    assert config.backbone_config.model_type == model_type
    assert config.hidden_size == config.get_text_config().hidden_size == 48
    assert config.get_text_config() is config.backbone_config.text_config


@pytest.mark.parametrize("model_type", BACKBONE_TYPES)
def test_every_field_survives_saving(model_type, tmp_path):
    config = tiny(model_type, **CHANGED)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for loaded in (EditRewardConfig.from_pretrained(tmp_path), EditRewardConfig.from_dict(saved)):
        for field, value in CHANGED.items():
            assert saved[field] == getattr(loaded, field) == value
        assert type(loaded.backbone_config) is type(config.backbone_config)
        assert loaded.backbone_config.to_dict() == config.backbone_config.to_dict()


def test_no_path_is_saved(tmp_path):
    tiny().backbone_config.save_pretrained(tmp_path / "backbone")
    backbone = AutoConfig.from_pretrained(tmp_path / "backbone")
    assert str(tmp_path) in backbone._name_or_path
    EditRewardConfig(backbone_config=backbone).save_pretrained(tmp_path / "model")
    EditRewardConfig.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    for folder in ("model", "again"):
        assert str(tmp_path) not in (tmp_path / folder / "config.json").read_text()


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("head_type", HEAD_TYPES),
        ("aggregation", AGGREGATIONS),
        ("uncertainty_aggregation", UNCERTAINTY_AGGREGATIONS),
        ("layout", LAYOUTS),
        ("position_scheme", POSITION_SCHEMES),
        ("preference_link", PREFERENCE_LINKS),
    ],
)
def test_a_mistyped_choice_is_refused_with_its_field_and_the_choices(field, choices):
    for choice in choices:
        assert getattr(tiny(**{field: choice}), field) == choice
    for typo in (choices[0] + "s", choices[0].upper(), ""):
        with pytest.raises(ValueError, match=f"`{field}` is {typo!r}") as error:
            tiny(**{field: typo})
        assert all(choice in str(error.value) for choice in choices)


@pytest.mark.parametrize(
    "dimensions", [[], "overall", ["Visual Quality"], ["visual-quality"], ["a", "a"], [""], [1], ["1st"]]
)
def test_unusable_dimensions_are_refused(dimensions):
    with pytest.raises(ValueError, match="`dimensions`"):
        tiny(dimensions=dimensions)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head_hidden_sizes", [1024]),
        ("head_hidden_sizes", [1024, 16, 4]),
        ("head_hidden_sizes", [1024, 0]),
        ("head_hidden_sizes", 1024),
        ("aggregation_temperature", 0.0),
        ("aggregation_temperature", float("inf")),
        ("aggregation_temperature", float("nan")),
        ("calibration", {"visual_quality": {"intercept": 0.0, "slope": 1.0}}),
        ("calibration", {name: {"intercept": 0.0, "slope": -1.0} for name in DEFAULT_DIMENSIONS}),
        ("calibration", {name: {"intercept": 0.0, "slope": float("nan")} for name in DEFAULT_DIMENSIONS}),
        ("calibration", {name: {"slope": 1.0} for name in DEFAULT_DIMENSIONS}),
        ("calibration", {"overall": {"intercept": 0.0, "slope": 1.0}}),
        ("calibration", {n: {"intercept": 0.0, "slope": 1.0, "std_factor": 0.0} for n in DEFAULT_DIMENSIONS}),
        ("calibration", {n: {"intercept": 0.0, "slope": 1.0, "stf_factor": 1.0} for n in DEFAULT_DIMENSIONS}),
        ("calibration", {n: {"intercept": 0.0, "slope": 1.0, "groups": float("inf")} for n in DEFAULT_DIMENSIONS}),
    ],
)
def test_unusable_values_are_refused_with_their_field(field, value):
    with pytest.raises(ValueError, match=f"`{field}"):
        tiny(**{field: value})


def test_the_published_uncertainty_of_a_smooth_minimum_is_refused():
    with pytest.raises(ValueError, match="smooth_min.*use 'propagate'"):
        tiny(aggregation="smooth_min", uncertainty_aggregation="reference")


def test_a_configuration_from_before_a_field_takes_its_default(tmp_path):
    tiny(aggregation="min").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["aggregation_temperature"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded = EditRewardConfig.from_pretrained(tmp_path)
    assert (loaded.aggregation, loaded.aggregation_temperature) == ("min", 1.0)


def test_a_backbone_without_its_type_is_refused():
    with pytest.raises(ValueError, match="model_type.*qwen3_vl"):
        EditRewardConfig(backbone_config={"text_config": {"hidden_size": 64}})


def test_a_single_head_for_two_dimensions_is_refused():
    with pytest.raises(ValueError, match=re.escape("head_type='single'")):
        tiny(head_type="single", dimensions=["instruction_following", "visual_quality"])


def test_another_models_configuration_is_refused(tmp_path):
    tiny().backbone_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'qwen2_5_vl' model, not of an EditReward model"):
        EditRewardConfig.from_pretrained(tmp_path)


def test_reward_tokens_are_one_per_prompt_ending():
    names = ["instruction_following", "consistency"]
    assert reward_tokens("paper", names) == ["<|Reward|>", "<|Reward|>"]
    assert reward_tokens("compact", names) == ["<|Reward_instruction_following|>", "<|Reward_consistency|>"]


def test_scores_are_on_the_scale_and_say_whether_their_standard_deviations_are():
    lines = {
        "instruction_following": {"intercept": 2.0, "slope": 0.5, "std_factor": 3.0, "groups": 40},
        "visual_quality": {"intercept": 1.0, "slope": 0.1},
    }
    scores = tiny(calibration=lines).scores([1.0, 2.0], [0.2, 0.3])
    first, second = (scores[name] for name in DEFAULT_DIMENSIONS)
    assert first == {"mean": 2.5, "std": pytest.approx(0.3), "calibrated": True, "std_calibrated": True}
    assert second == {"mean": 1.2, "std": pytest.approx(0.03), "calibrated": True, "std_calibrated": False}
    raw = tiny().scores([1.0, 2.0], [0.2, 0.3])["visual_quality"]
    assert raw == {"mean": 2.0, "std": 0.3, "calibrated": False, "std_calibrated": False}


@pytest.mark.parametrize(("aggregation", "slope"), [("mean", 0.3), ("min", 0.3), ("sum", 0.15)])
def test_the_reward_has_its_own_place_on_the_scale_or_the_mean_of_the_dimensions(aggregation, slope):
    lines = {
        "instruction_following": {"intercept": 2.0, "slope": 0.5},
        "visual_quality": {"intercept": 1.0, "slope": 0.1},
    }
    assert tiny().overall_score(1.0, 0.1) is None
    found = tiny(calibration=lines, aggregation=aggregation).overall_score(2.0, 0.1)
    assert found["mean"] == pytest.approx(1.5 + 2 * slope) and not found["std_calibrated"]
    own = {"intercept": 0.5, "slope": 0.25, "std_factor": 2.0}
    found = tiny(calibration={**lines, "overall": own}, aggregation=aggregation).overall_score(2.0, 0.1)
    assert found == {"mean": 1.0, "std": pytest.approx(0.05), "calibrated": True, "std_calibrated": True}


def test_a_single_head_s_overall_score_is_its_dimension():
    line = {"intercept": 1.0, "slope": 2.0, "std_factor": 1.5}
    config = tiny(head_type="single", calibration={"overall": line})
    assert config.overall_score(0.5, 0.1) == config.scores([0.5], [0.1])["overall"]

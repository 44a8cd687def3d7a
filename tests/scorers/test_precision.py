"""The benchmark of precisions: how rankings are compared, on the bundled model and on numbers made by hand."""

import json
from importlib.util import find_spec

import numpy as np
import precision
import pytest
import torch
from measuring import PRESETS
from transformers import TorchAoConfig

from editreward import EditRewardScorer
from editreward.benchmarks.simulated_test_set import Judgements, TestSet, evaluate, judge
from editreward.scorers.loading import bundled_model
from editreward.simulation import groups_hash, simulate_groups
from modeling_editreward import EditRewardModel
from tests.helpers.work import tiny_shape

NARROW = ["bfloat16", "autocast"]
has_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")


def test_rankings_are_compared_pair_by_pair():
    truth = {"a": [np.array([4.0, 3.0, 2.0]), np.array([1.0, 1.0])]}
    exact = Judgements([np.array([3.0, 2.0, 1.99]), np.array([0.0, 5.0])], {"a": []}, {}, truth)
    # The second and the third candidate change places, and so do the last two.
    other = Judgements([np.array([3.5, 2.0, 2.1]), np.array([1.0, 0.5])], {"a": []}, {}, truth)
    exact.mean["a"], other.mean["a"] = exact.reward, other.reward
    found = precision.compare_rankings(other, exact)
    assert (found["flipped"]["value"], found["flipped"]["total"]) == (2 / 4, 4)
    # The first of them are 0.01 apart.
    assert (found["flipped_beyond_margin"]["value"], found["flipped_beyond_margin"]["total"]) == (1 / 3, 3)
    assert found["kendall"]["value"] == pytest.approx((1 / 3 - 1) / 2)
    assert found["lowest_kendall"] == -1
    assert found["same_best"]["value"] == 1 / 2
    assert found["largest_difference"] == 4.5
    # Of the pairs that the truth orders, one is wrong.
    assert found["accuracy"]["a"]["value"] == found["accuracy"]["overall"]["value"] == pytest.approx(2 / 3)
    same = precision.compare_rankings(exact, exact)
    assert (same["flipped"]["value"], same["kendall"]["value"], same["largest_difference"]) == (0, 1, 0)


@pytest.mark.slow
def test_precisions_of_the_bundled_model_are_compared_on_simulated_groups(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(precision, "GROUPS_PER_ROUND", 4)
    monkeypatch.setattr(precision, "GROUPS_PER_BATCH", 3)
    size = 7  # two rounds, of two batches and of one
    groups = list(simulate_groups(size, "test", 0, 3, 112))
    test_set = TestSet("test", size, 3, 112, 0, groups_hash(groups))
    (tmp_path / "set.json").write_text(json.dumps(vars(test_set)))
    command = ["--device", "cpu", "--precisions", *NARROW, "--test_set", str(tmp_path / "set.json")]
    report = precision.main([*command, "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text())["rankings"] == report["rankings"]
    rows = {row["precision"]: row for row in report["rankings"]["results"]}
    assert list(rows) == ["float32", *NARROW]

    exact = rows["float32"]
    expected = evaluate(judge(EditRewardScorer.from_pretrained(device="cpu", dtype="float32"), groups), groups)
    assert exact["accuracy"] == {name: expected[name]["accuracy"] for name in exact["accuracy"]}
    assert (exact["flipped"]["value"], exact["kendall"]["value"], exact["ratio"]) == (0, 1, 1)
    for name in NARROW:
        assert len(rows[name]["seconds"]) == 2
        assert 0 < rows[name]["largest_difference"] < 0.1 * report["rankings"]["reward_std"]
        assert rows[name]["kendall"]["value"] > 0.95
        ratios = np.divide(exact["seconds"], rows[name]["seconds"])
        assert rows[name]["ratio"] == pytest.approx(np.median(ratios))
    assert rows["autocast"]["weight_bytes"] == exact["weight_bytes"]
    assert 0.5 < rows["bfloat16"]["weight_bytes"] / exact["weight_bytes"] < 0.55  # heads are in float32
    assert "| autocast | " in capsys.readouterr().out


@pytest.mark.slow
def test_the_speed_of_random_weights_is_measured_without_rankings(tmp_path, capsys):
    command = ["--preset", "7b", "--shape", str(tiny_shape(tmp_path)), "--device", "cpu", "--pixels", "3136"]
    command += ["--candidates", "1", "2", "--layouts", "paper", "compact", "--repetitions", "2"]
    report = precision.main([*command, "--precisions", "bfloat16"])
    assert "rankings" not in report
    cells = [(row["layout"], row["candidates"], row["precision"]) for row in report["speed"]]
    assert cells == [
        (layout, count, name)
        for layout in ("paper", "compact")
        for count in (1, 2)
        for name in ("float32", "bfloat16")
    ]
    assert all(len(row["seconds"]) == 2 for row in report["speed"])
    assert "| compact | 2 | bfloat16 | " in capsys.readouterr().out


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_int8_without_torchao_is_an_error_that_says_so(capsys):
    with pytest.raises(SystemExit):
        precision.main(["--device", "cpu"])
    assert "int8 needs torchao: `pip install torchao`" in capsys.readouterr().err


@has_torchao
def test_int8_is_what_the_option_of_from_pretrained_gives():
    from torchao.quantization import Int8WeightOnlyConfig

    model = precision.PRECISIONS["int8"].build(PRESETS["cpu-tiny"], torch.device("cpu"))
    loaded = EditRewardModel.from_pretrained(
        bundled_model(), dtype=torch.float32, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    weights = dict(loaded.named_parameters())
    linears = [name for name, module in model.backbone.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linears:
        weight, expected = model.backbone.get_submodule(name).weight, weights[f"backbone.{name}.weight"]
        assert type(weight) is type(expected) and type(weight) is not torch.nn.Parameter
        assert torch.equal(weight.qdata, expected.qdata) and torch.equal(weight.scale, expected.scale)
        assert precision.weight_bytes(model.backbone.get_submodule(name)) < 1.2 * weight.numel() + 4 * sum(
            weight.shape
        )
    assert {type(parameter) for parameter in model.heads.parameters()} == {torch.nn.Parameter}

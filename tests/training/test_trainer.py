"""Collator, trainer and training script, on tiny backbones with random weights."""

import functools
import itertools
import json
import logging
import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.distributions import Normal
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from editreward.simulation import simulate_group
from editreward.training import EditGroupCollator
from editreward.training.losses import LOSSES
from editreward.training.row_sizes import scan_row
from editreward.training.subsets import row_of_epoch
from tests.helpers.backbones import PAPER_TEMPLATES, backbone_folder, build, build_processor, make_image
from tests.helpers.processes import as_script, errors_of, run_ranks
from tests.helpers.trainers import (
    DIMENSIONS,
    ROOT,
    SCORES,
    SCRIPT,
    as_dataset,
    broken,
    make_arguments,
    make_row,
    make_rows,
    make_trainer,
    run_script,
    step_of,
)


def pairs_by_loop(scores, dimension=None):
    """(winner, loser) of one group, by comparing every two candidates."""
    if dimension is None:
        deciding = [math.nan if None in of_candidate else sum(of_candidate) for of_candidate in scores]
    else:
        deciding = [math.nan if s[dimension] is None else s[dimension] for s in scores]
    return [(i, j) for i, j in itertools.permutations(range(len(scores)), 2) if deciding[i] > deciding[j] + 1e-3]


# Loss and gradients


@functools.cache
def build_single(dimension):
    return build(layout="paper", dimensions=[dimension], templates={dimension: PAPER_TEMPLATES[dimension]})


def score_alone(model, row, index):
    """Mean and log standard deviation per dimension of one candidate that is run by itself.

    In the paper layout each dimension has a prompt of its own, here run by a model of that dimension on the same
    weights.
    """
    source, edited = row["source_images"], [row["candidates"][index]["image"]]
    if model.config.layout == "compact":
        output = model(**build_processor()(source, edited, row["instruction"]))
        return output.mean[0], output.log_std[0]
    scores = []
    for k, name in enumerate(DIMENSIONS):
        single, processor = build_single(name)
        single.backbone, single.heads.mlps[0] = model.backbone, model.heads.mlps[k]
        output = single(**processor(source, edited, row["instruction"]))
        scores.append(torch.stack([output.mean[0, 0], output.log_std[0, 0]]))
    return torch.stack(scores).unbind(-1)


@pytest.mark.parametrize(("layout", "loss"), [("paper", "nll"), ("compact", "expected_nll")])
def test_packed_loss_and_gradients_equal_the_mean_over_pairs_run_one_at_a_time(tmp_path, layout, loss):
    model, processor = build(layout=layout, head_dropout=0.0)
    model.double()
    row = make_row(0, SCORES[0])
    trainer = make_trainer(tmp_path, [row], (model, processor), loss=loss, dimension_weight=0.7)
    packed = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator([row])))
    packed.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    nodes = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-nodes * nodes / 2) / torch.exp(-nodes * nodes / 2).sum()

    def loss_by_hand(difference, variance):
        z = difference + variance.sqrt() * nodes
        if loss == "nll":
            return -torch.log((density * torch.sigmoid(z)).sum())
        return (density * F.softplus(-z)).sum()

    total = 0.0
    for dimension, weight in ((None, 1.0), (0, 0.7 / 2), (1, 0.7 / 2)):
        pairs = pairs_by_loop(SCORES[0], dimension)
        for winner, loser in pairs:
            (mean_i, log_std_i), (mean_j, log_std_j) = (score_alone(model, row, index) for index in (winner, loser))
            difference, variance = mean_i - mean_j, (2 * log_std_i).exp() + (2 * log_std_j).exp()
            if dimension is None:
                value = loss_by_hand(difference.mean(), variance.sum() / 4)
            else:
                value = loss_by_hand(difference[dimension], variance[dimension])
            value = weight / len(pairs) * value
            value.backward()
            total += value.item()

    assert packed.item() == pytest.approx(total, rel=1e-6)
    assert gradients["backbone.visual.patch_embed.proj.weight"].norm() > 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected = parameter.grad.norm().item()
            assert gradients[name].norm().item() == pytest.approx(expected, rel=1e-6, abs=1e-12), name
            assert (gradients[name] - parameter.grad).norm().item() <= 1e-6 * expected + 1e-12, name


def test_the_pointwise_term_is_the_mean_over_scored_candidates_of_each_dimension(tmp_path):
    rows = make_rows()
    model, processor = build(head_dropout=0.0)
    model.double()
    settings = {"pointwise_weight": 0.5, "pointwise_scale": 3.0}
    trainer = make_trainer(tmp_path, rows, (model, processor), **settings)
    without = make_trainer(tmp_path / "without", rows, (model, processor))
    found, base = (
        one.compute_loss(model, one._prepare_inputs(one.data_collator(rows))).item() for one in (trainer, without)
    )
    by_hand = []
    for k, name in enumerate(DIMENSIONS):
        losses = []
        for row in rows:
            for index, candidate in enumerate(row["candidates"]):
                if candidate["scores"][name] is None:
                    continue
                mean, log_std = (value[k].detach() for value in score_alone(model, row, index))
                target, std = 3.0 * (candidate["scores"][name] - 2.5), log_std.exp()
                losses.append(
                    -Normal(mean, std).log_prob(torch.tensor(target, dtype=torch.float64)).item()
                    - math.log(2 * math.pi) / 2
                )
        by_hand.append(sum(losses) / len(losses))
    assert found - base == pytest.approx(0.5 * sum(by_hand) / 2, rel=1e-6)


@pytest.mark.parametrize("reduction", ["pair", "group"])
def test_gradient_accumulation_equals_one_batch_with_groups_of_any_size(tmp_path, reduction):
    rows = make_rows()
    settings = {"loss_reduction": reduction, "pointwise_weight": 0.3}
    whole = step_of(tmp_path, rows, batch_size=4, accumulation=1, **settings)
    # Among them a micro-batch that is a group without usable pairs.
    parts = step_of(tmp_path, rows, batch_size=1, accumulation=4, **settings)
    assert sum(step.norm() for step in whole.values()) > 0
    for name, step in whole.items():
        assert (parts[name] - step).norm() <= 1e-6 * step.norm() + 1e-12, name


def test_group_reduction_is_the_mean_of_the_groups_means(tmp_path):
    rows = make_rows()
    trainer = make_trainer(tmp_path, rows, loss_reduction="group", dimension_weight=1.0)
    whole = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
    terms = {"pair_loss": [], "pair_loss_instruction_following": [], "pair_loss_visual_quality": []}
    for row in rows:
        alone = make_trainer(tmp_path, rows, dimension_weight=1.0)
        alone.model.train()
        alone.compute_loss(alone.model, alone._prepare_inputs(alone.data_collator([row])))
        metrics = alone._sums["train"].pop()
        for name in terms:
            if name in metrics:
                terms[name].append(metrics[name])
    assert [len(values) for values in terms.values()] == [3, 3, 3]
    mean, of_following, of_quality = (sum(values) / len(values) for values in terms.values())
    assert whole.item() == pytest.approx(mean + (of_following + of_quality) / 2, rel=1e-5)


def test_a_group_of_ties_without_weight_does_not_count_among_the_groups(tmp_path):
    rows = [make_row(0, [(2.0, 3.0), (3.0, 2.0)]), make_row(1, SCORES[0])]
    options = {"loss_reduction": "group", "ties": "disentangle", "tie_weight": 0.0}
    losses = []
    for some in (rows, rows[1:]):
        trainer = make_trainer(tmp_path, rows, **options)
        losses.append(trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(some))).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_without_a_usable_pair_has_zero_loss_with_the_graph(tmp_path):
    rows = [make_row(0, SCORES[2])]
    trainer = make_trainer(tmp_path, rows, dimension_weight=1.0)
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
    assert loss.item() == 0
    loss.backward()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.eq(0).all(), name


def test_losses_are_float32_under_bfloat16_autocast(tmp_path):
    rows = make_rows()
    trainer = make_trainer(tmp_path, rows, bf16=True, max_steps=1, per_device_train_batch_size=4)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    assert trainer.compute_loss(trainer.model_wrapped, batch).dtype == torch.float32


@pytest.mark.parametrize("log_std", [-80.0, 0.0, 80.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_under_bfloat16_autocast_is_finite_at_extreme_scores(tmp_path, loss, log_std):
    model, processor = build(head_dropout=0.0)
    with torch.no_grad():
        for mlp in model.heads.mlps:
            mlp[-1].weight.mul_(1e4)
            mlp[-1].weight[1].zero_()
            mlp[-1].bias[1] = log_std
    trainer = make_trainer(
        tmp_path,
        make_rows(),
        (model, processor),
        loss=loss,
        ties="bradley_terry_ties" if loss == "bradley_terry_ties" else "drop",
        dimension_weight=1.0,
        bf16=True,
        max_grad_norm=0.0,
    )
    batch = trainer._prepare_inputs(trainer.data_collator(make_rows()))
    with trainer.compute_loss_context_manager():
        value = trainer.compute_loss(trainer.model, batch)
    value.backward()
    assert value.isfinite() and value > 0
    assert all(p.grad.isfinite().all() for p in trainer.model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_regression_trains_towards_the_scores_and_saves_its_link(tmp_path):
    rows = make_rows()
    trainer = make_trainer(
        tmp_path,
        rows,
        loss="regression",
        dimension_weight=1.0,
        max_steps=60,
        learning_rate=3e-3,
        per_device_train_batch_size=4,
        bf16=False,
    )
    trainer.train()
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    with torch.no_grad():
        mean = trainer.model.eval()(
            **{k: v for k, v in batch.items() if k in trainer.processing_class.model_input_names}
        ).mean
    known = ~batch["labels"].isnan()
    error = (mean - (batch["labels"] - 2.5))[known]
    assert error.square().mean() < 0.3 * (batch["labels"][known] - 2.5).square().mean()
    assert trainer.model.config.preference_link == "logistic"


def test_probit_saves_its_link(tmp_path):
    trainer = make_trainer(tmp_path, make_rows(), loss="probit", max_steps=1)
    trainer.train()
    assert trainer.model.config.preference_link == "probit"


# Metrics


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_is_exact_over_the_pairs_of_the_whole_set(tmp_path, batch_size):
    rows = make_rows()
    rows[1]["preferences"] = [{"chosen": 1, "rejected": 2, "weight": 3.0}]
    trainer = make_trainer(tmp_path, rows, eval_rows=rows, per_device_eval_batch_size=batch_size, dimension_weight=0.5)
    metrics = trainer.evaluate()

    model, processor = trainer.model.eval(), trainer.processing_class
    sums = {}

    def add(name, value, weight=1.0):
        value_sum, weight_sum = sums.get(name, (0.0, 0.0))
        sums[name] = value_sum + weight * value, weight_sum + weight

    for row, scores in zip(rows, SCORES, strict=True):
        edited = [candidate["image"] for candidate in row["candidates"]]
        with torch.no_grad():
            output = model(**processor(row["source_images"], edited, row["instruction"]))
        annotated = [((p["chosen"], p["rejected"]), p["weight"]) for p in row["preferences"]]
        for (i, j), weight in annotated or [(pair, 1.0) for pair in pairs_by_loop(scores)]:
            margin = output.reward[i] - output.reward[j]
            std = torch.hypot(output.reward_std[i], output.reward_std[j])
            add("pair_loss", trainer.loss(margin, std).item(), weight)
            add("accuracy", float(margin > 0))
            add("margin", margin.item())
        for k, name in enumerate(DIMENSIONS):
            for i, j in pairs_by_loop(scores, k):
                difference = output.mean[i, k] - output.mean[j, k]
                std = torch.hypot(output.log_std[i, k].exp(), output.log_std[j, k].exp())
                add(f"pair_loss_{name}", trainer.loss(difference, std).item())
                add(f"accuracy_{name}", float(difference > 0))
            for i in range(len(scores)):
                add(f"std_{name}", output.log_std[i, k].exp().item())
    expected = {name: total / weight for name, (total, weight) in sums.items()}
    expected["loss"] = expected["pair_loss"] + 0.5 / 2 * sum(expected[f"pair_loss_{name}"] for name in DIMENSIONS)
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    # Groups 0, 2 and 3 have a tie each; 5 + 1 + 0 + 2 pairs differ.
    assert metrics["eval_ties"] == pytest.approx(3 / 11)


def test_training_logs_the_metrics_of_all_pairs_since_the_last_log(tmp_path):
    rows = make_rows()
    trainer = make_trainer(
        tmp_path, rows, eval_rows=rows, max_steps=2, logging_steps=2, gradient_accumulation_steps=2, learning_rate=0.0
    )
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    exact = trainer.evaluate()
    for name in ("pair_loss", "accuracy", "accuracy_visual_quality", "margin", "std_visual_quality", "ties"):
        assert logged[name] == pytest.approx(exact[f"eval_{name}"], rel=1e-4, abs=1e-6), name


def test_several_evaluation_sets_have_metrics_of_their_own(tmp_path):
    rows = make_rows()
    trainer = make_trainer(tmp_path, rows)
    metrics = trainer.evaluate({"all": as_dataset(rows), "first": as_dataset(rows[:1])})
    assert metrics["eval_all_loss"] != metrics["eval_first_loss"]
    assert metrics["eval_first_loss"] == trainer.evaluate(as_dataset(rows[:1]))["eval_loss"]
    assert not any(name.startswith("eval_loss") for name in metrics)


# Training


def test_a_few_steps_lower_the_loss(tmp_path):
    rows = [simulate_group(seed, candidates=4, size=84).to_row() for seed in range(4)]
    trainer = make_trainer(
        tmp_path, rows, eval_rows=rows, per_device_train_batch_size=4, max_steps=12, learning_rate=2e-3
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.97 * before


@pytest.mark.slow
def test_loss_falls_and_accuracy_rises_on_twenty_simulated_groups(tmp_path):
    rows = [simulate_group(seed, candidates=4, size=84).to_row() for seed in range(20)]
    trainer = make_trainer(
        tmp_path,
        rows,
        eval_rows=rows,
        per_device_train_batch_size=10,
        per_device_eval_batch_size=20,
        max_steps=120,
        learning_rate=2e-3,
        dimension_weight=1.0,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    assert after["eval_accuracy"] > 0.85 > before["eval_accuracy"]
    assert all(after[f"eval_accuracy_{name}"] > 0.8 for name in DIMENSIONS)


def test_checkpoints_load_with_auto_classes_and_resuming_gives_what_an_uninterrupted_run_gives(tmp_path):
    rows = make_rows()
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3, "loss": "nll"}
    trainer = make_trainer(tmp_path / "whole", rows, build(head_dropout=0.1, preference_link="probit"), **settings)
    trainer.train()
    final = trainer.model.eval().state_dict()

    for step in (2, 4):
        folder = tmp_path / "whole" / f"checkpoint-{step}"
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert model.config.preference_link == "logistic"
        batch = processor(rows[0]["source_images"], [c["image"] for c in rows[0]["candidates"]], "make it blue")
        with torch.no_grad():
            loaded, trained = model(**batch).reward, trainer.model(**batch).reward
        assert torch.allclose(loaded, trained, atol=1e-6) == (step == 4)

    resumed = make_trainer(tmp_path / "whole", rows, build(head_dropout=0.1, seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in resumed.model.state_dict().items():
        assert torch.allclose(value, final[name], atol=1e-6), name


def test_a_calibration_that_cannot_be_fitted_anew_stays_without_its_factors_and_the_log_says_so(tmp_path, caplog):
    line = {"intercept": 2.5, "slope": 1.0}
    calibration = {name: {**line, "std_factor": 2.0, "groups": 40} for name in DIMENSIONS}
    trainer = make_trainer(
        tmp_path, make_rows(), build(calibration=calibration, preference_link="probit"), max_steps=1
    )
    assert trainer.model.config.calibration == calibration
    assert trainer.model.config.preference_link == "probit"
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.model.config.calibration == dict.fromkeys(DIMENSIONS, line)
    assert "fitted to its weights, not to these (there was no evaluation)" in caplog.text
    assert f"editreward calibrate --model {tmp_path}" in caplog.text
    assert trainer.model.config.preference_link == "logistic"


# Data


def test_labels_and_preferences_of_a_batch():
    rows = make_rows()[:2]
    rows[1]["preferences"] = [{"chosen": 2, "rejected": 0, "weight": 0.5}]
    batch = EditGroupCollator(build_processor())(rows)
    expected = [[math.nan if score is None else score for score in scores] for scores in SCORES[0] + SCORES[1]]
    assert torch.equal(batch["labels"].nan_to_num(-1), torch.tensor(expected).nan_to_num(-1))
    assert batch["group_index"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch["preferences"].tolist() == [[6, 4]] and batch["preference_weight"].tolist() == [0.5]


def test_a_model_of_the_overall_dimension_learns_the_sum_of_the_scores():
    batch = EditGroupCollator(build_processor(dimensions=["overall"]))(make_rows()[:2])
    assert batch["labels"].nan_to_num(-1).flatten().tolist() == [7.0, 4.0, 5.0, 5.0, 2.0, -1.0, 7.0]


def test_annotations_of_a_batch_line_up_by_annotator_within_a_group():
    rows = make_rows()[:2]
    rows[0]["candidates"] = [dict(candidate) for candidate in rows[0]["candidates"]]
    annotation = {"instruction_following": 3.0, "visual_quality": None}
    rows[0]["candidates"][0]["annotations"] = [
        {"annotator": "Ann", "instruction_following": 1.0, "visual_quality": 2.0}
    ]
    rows[0]["candidates"][2]["annotations"] = [{"annotator": "Bo", **annotation}, {"annotator": "Ann", **annotation}]
    batch = EditGroupCollator(build_processor(), vote_labels=True)(rows)
    expected = torch.full((7, 2, 2), math.nan)
    expected[0, 0] = torch.tensor([1.0, 2.0])
    expected[2, :, 0] = 3.0
    assert torch.equal(batch["annotator_labels"].nan_to_num(-1), expected.nan_to_num(-1))
    assert "annotator_labels" not in EditGroupCollator(build_processor())(rows)
    rows[0]["candidates"][2]["annotations"].append({"annotator": "Bo", **annotation})
    with pytest.raises(ValueError, match="group 'group-0', candidate 2, annotator 'Bo'.*each once"):
        EditGroupCollator(build_processor(), vote_labels=True)(rows)


BAD_ROWS = {
    "no candidates": (lambda row: row.update(candidates=[]), "has no candidates"),
    "no source image": (lambda row: row.update(source_images=[]), "source"),
    "missing image": (lambda row: row["candidates"][1].update(image=None), r"edited\[1\]"),
    "broken image": (lambda row: row["candidates"][1].update(image={"bytes": b"GIF89a"}), r"edited\[1\]"),
    "empty instruction": (lambda row: row.update(instruction=" "), "instruction"),
    "score not a number": (lambda row: row["candidates"][2]["scores"].update(visual_quality=math.nan), "candidate 2"),
    "dimension without entry": (lambda row: row["candidates"][0].update(scores={"beauty": 3.0}), "visual_quality"),
    "preference for nobody": (
        lambda row: row.update(preferences=[{"chosen": 0, "rejected": 9, "weight": 1.0}]),
        "candidates 0 and 9",
    ),
    "preference without weight": (
        lambda row: row.update(preferences=[{"chosen": 0, "rejected": 1, "weight": 0.0}]),
        "must be positive",
    ),
    "preference with no weight": (
        lambda row: row.update(preferences=[{"chosen": 0, "rejected": 1}]),
        r"`preferences\[0\]` has no weight",
    ),
    "preference of nothing": (lambda row: row.update(preferences=[None]), r"`preferences\[0\]` has no chosen"),
    "candidate of nothing": (lambda row: row["candidates"].append(None), r"`candidates\[4\]` has no image, scores"),
    "candidate without scores": (lambda row: row["candidates"][0].pop("scores"), r"`candidates\[0\]` has no scores"),
    "candidate without image": (lambda row: row["candidates"][0].pop("image"), r"`candidates\[0\]` has no image"),
    "candidates in a text": (lambda row: row.update(candidates="a.png b.png"), "`candidates` is a str"),
    "score in a text": (lambda row: row["candidates"][1].update(scores=dict.fromkeys(DIMENSIONS, "3")), "score '3'"),
    "scores without names": (lambda row: row["candidates"][1].update(scores=[3.0, 2.0]), "scores that are a list"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_by_its_group_id(case):
    change, message = BAD_ROWS[case]
    row = broken(make_row(7, SCORES[0]), change)
    with pytest.raises(ValueError, match=f"group 'group-7'.*{message}"):
        EditGroupCollator(build_processor())([make_row(0, SCORES[0]), row])
    batch = EditGroupCollator(build_processor(), on_bad_row="skip")([make_row(0, SCORES[0]), row])
    assert [name for name, _ in batch["skipped_rows"]] == ["group-7"]
    assert scan_row(row_of_epoch(row, 2, 0, 0))["candidate_sizes"] is not None


@pytest.mark.parametrize("annotation", [None, dict.fromkeys(DIMENSIONS, 3.0)])
def test_an_annotation_of_nobody_is_named_by_its_group_id(annotation):
    row = make_row(7, SCORES[0])
    row["candidates"][1]["annotations"] = [annotation]
    with pytest.raises(ValueError, match="group 'group-7', candidate 1: an annotation has no `annotator`"):
        EditGroupCollator(build_processor(), vote_labels=True)([row])


def test_a_dataset_without_the_columns_of_edit_groups_is_refused_at_once(tmp_path):
    rows = [{"prompt": "make it blue", "path_src": "a.png", "path1": "b.png", "path2": "c.png"}]
    with pytest.raises(ValueError, match="train dataset has no column group_id, source_images"):
        make_trainer(tmp_path, rows)
    with pytest.raises(ValueError, match="eval dataset has no column"):
        make_trainer(tmp_path, make_rows(), eval_rows=rows)


# Arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": "hinge"}, "'hinge'; choose one of: nll, expected_nll"),
        ({"loss_reduction": "sum"}, "'sum'; choose one of: pair, group"),
        ({"ties": "keep"}, "'keep'; choose one of: drop"),
        ({"dimension_weight": -1.0}, "dimension_weight"),
        ({"freeze": "vision_tower"}, r"write a list: `freeze: \[vision_tower\]`"),
        ({"loss": "regression", "ties": "disentangle"}, "`ties` says nothing to the loss 'regression'"),
        ({"loss": "regression", "label_smoothing": 0.1}, "`label_smoothing` says nothing"),
        ({"regression_offset": 4.5}, "`regression_offset` says nothing to the loss 'nll'"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"label_smoothing_factor": 0.1}, "Use `label_smoothing`"),
        ({"max_length": 1024}, "max_length"),
        ({"center_rewards_coefficient": 0.01}, "center_rewards_coefficient"),
    ],
)
def test_arguments_that_cannot_be_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(tmp_path, **arguments)


def test_a_model_that_is_not_loaded_and_a_processor_of_another_model_are_refused(tmp_path):
    with pytest.raises(TypeError, match="from_backbone"):
        make_trainer(tmp_path, make_rows(), ("some/model", build_processor()))
    with pytest.raises(ValueError, match="layout"):
        make_trainer(tmp_path, make_rows(), (build()[0], build_processor(layout="paper")))


# The script


@pytest.mark.slow
def test_script_starts_from_a_backbone_resumes_and_goes_on_from_its_own_output(tmp_path):
    folder = tmp_path / "first"
    backbone = f"--model_name_or_path={backbone_folder('qwen2_5_vl')}"
    new = [backbone, "--pixels=3136", "--aggregation=min", "--head_hidden_sizes", "32", "16"]
    run_script(*new, f"--output_dir={folder}", "--learning_rate=1e-3")
    state = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2 and any("eval_accuracy" in entry for entry in state["log_history"])
    assert "AutoModel.from_pretrained" in (folder / "README.md").read_text()
    for saved in (folder, folder / "checkpoint-1"):
        model = AutoModel.from_pretrained(saved, trust_remote_code=True)
        assert model.config.aggregation == "min" and model.config.head_hidden_sizes == [32, 16]
        processor = AutoProcessor.from_pretrained(saved, trust_remote_code=True)
        batch = processor(make_image(0), [make_image(1), make_image(2)], "make it blue")
        assert model(**batch).reward.shape == (2,) and batch["image_grid_thw"].tolist() == [[1, 4, 4]] * 3

    run_script(*new, f"--output_dir={folder}", "--max_steps=3", "--resume_from_checkpoint=true")
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3 and len([e for e in state["log_history"] if "grad_norm" in e]) == 3

    run_script(f"--model_name_or_path={folder}", f"--output_dir={tmp_path / 'second'}")
    second = AutoModel.from_pretrained(tmp_path / "second", trust_remote_code=True)
    assert second.config.aggregation == "min"
    with pytest.raises(ValueError, match="keeps its own aggregation"):
        run_script(
            f"--model_name_or_path={folder}",
            "--aggregation=mean",
            f"--output_dir={tmp_path / 'third'}",
        )


@pytest.mark.parametrize("data", ["data", pytest.param("parquet", marks=pytest.mark.slow)])
def test_script_reads_a_saved_dataset(tmp_path, random_model_dir, data):
    from datasets import DatasetDict, Features, Image, List, Value

    features = Features(
        {
            "group_id": Value("string"),
            "instruction": Value("string"),
            "source_images": List(Image()),
            "candidates": List({"image": Image(), "scores": {name: Value("float32") for name in DIMENSIONS}}),
        }
    )
    rows = [{column: row[column] for column in features} for row in make_rows()]
    dataset = Dataset.from_list(rows, features=features)
    DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "data")
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    more = [] if data == "data" else ["--eval_strategy=no", "--dataset_train_split=train"]
    run_script(
        f"--model_name_or_path={random_model_dir}",
        f"--dataset_name={tmp_path / data}",
        "--dataset_test_split=test",
        f"--output_dir={tmp_path / 'run'}",
        *more,
    )
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_give_the_step_and_the_metrics_of_one(tmp_path):
    model, processor = build(head_dropout=0.0)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = [
        f"--model_name_or_path={tmp_path / 'model'}",
        "--gradient_accumulation_steps=2",
        "--per_device_eval_batch_size=2",
        "--max_steps=1",
        "--optim=sgd",
        "--learning_rate=1.0",
        "--lr_scheduler_type=constant",
        "--warmup_steps=0",
        "--max_grad_norm=0",
    ]
    run_script(*options, f"--output_dir={tmp_path / 'one'}", "--per_device_train_batch_size=4")
    two = [*SCRIPT, *options, f"--output_dir={tmp_path / 'two'}", "--per_device_train_batch_size=2"]
    codes = run_ranks(as_script, ROOT / "train_trl.py", *two, folder=tmp_path)
    assert codes == [0, 0], errors_of(tmp_path)

    start = load_file(tmp_path / "model" / "model.safetensors")
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        step = (value - start[name]).norm()
        assert (two[name] - value).norm() <= 1e-3 * step + 1e-6, name
    logs = {}
    for run in ("one", "two"):
        state = json.loads((tmp_path / run / "checkpoint-1" / "trainer_state.json").read_text())
        logs[run] = {name: value for entry in state["log_history"] for name, value in entry.items()}
    # The evaluation set of three groups fills no whole number of batches on two processes.
    names = ["loss", "pair_loss", "accuracy", "margin", "num_groups", "num_candidates", "num_pairs", "num_tokens"]
    names += [f"eval_{name}" for name in ("loss", "accuracy", "margin", "ties", "num_groups", "num_pairs")]
    names += [f"eval_{name}" for name in ("accuracy_with_ties", "calibration_error", "spread_visual_quality")]
    for name in names:
        assert logs["two"][name] == pytest.approx(logs["one"][name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("annotated", [False, True])
def test_votes_that_no_group_has_are_missed(tmp_path, caplog, annotated):
    rows = [make_row(0, SCORES[0]), make_row(1, SCORES[1])]
    if annotated:
        for candidate in rows[0]["candidates"]:
            candidate["annotations"] = [{"annotator": "Ann", **candidate["scores"]}]
    trainer = make_trainer(
        tmp_path, rows, max_steps=1, per_device_train_batch_size=2, vote_labels=True, logging_steps=1
    )
    with caplog.at_level("WARNING"):
        trainer.train()
    assert ("`vote_labels` changed nothing" in caplog.text) is not annotated

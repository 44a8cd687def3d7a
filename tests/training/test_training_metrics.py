"""What a run shows: metrics, throughput, warnings, the hardest groups, the best checkpoint, trackers."""

import itertools
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from PIL import Image
from scipy.special import expit
from transformers import AutoModel

from editreward.reports import picture
from editreward.simulation import simulate_group
from editreward.training import EditGroupCollator, EditRewardTrainer, metrics
from editreward.training.hardest import FOLDER, HardestGroups, images_of_row
from editreward.training.metrics import (
    EvaluatedGroup,
    EvaluationScores,
    MetricSums,
    Throughput,
    collapse_warning,
    collapsed_dimensions,
)
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor
from tests.helpers.backbones import build, build_processor, make_image
from tests.helpers.trainers import DIMENSIONS, as_dataset, make_arguments, make_row, make_rows, make_trainer

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "editreward-tiny"
ONE_PROCESS = SimpleNamespace(num_processes=1, device=torch.device("cpu"))


def simulated_rows(groups, candidates=4):
    return [simulate_group(seed, candidates=candidates, size=84).to_row() for seed in range(groups)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six steps with evaluations, checkpoints and trackers; the best of its evaluations is kept."""
    folder = tmp_path_factory.mktemp("run")
    model = EditRewardModel.from_pretrained(BUNDLED, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        trainer = make_trainer(
            folder / "out",
            simulated_rows(8),
            (model, EditRewardProcessor.from_pretrained(BUNDLED)),
            eval_rows=simulated_rows(6),
            per_device_train_batch_size=2,
            per_device_eval_batch_size=4,
            max_steps=6,
            learning_rate=1e-3,
            dimension_weight=1.0,
            logging_steps=3,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            metric_for_best_model="calibration_error",
            load_best_model_at_end=True,
            hardest_groups=3,
            report_to=["tensorboard", "trackio"],
            project=f"editreward-tests-{uuid4().hex}",  # trackio keeps the folder that it was first imported with
            run_name="run",
        )
        trainer.train()
    return trainer


def evaluations(trainer, name="eval_loss"):
    return [entry for entry in trainer.state.log_history if name in entry]


# Metrics


def test_what_a_diverged_model_says_is_wrong_and_has_no_calibration_error():
    labels = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    none = np.zeros((0, 2), dtype=int)

    def measured(rewards):
        scores = EvaluationScores()
        reward = np.array(rewards, dtype=float)
        scores.groups = [EvaluatedGroup(labels, np.zeros((3, 2)), reward, np.zeros(3), labels, none)]
        return scores.metrics(DIMENSIONS, "logistic")

    found = measured([1.0, 2.0, math.nan])  # one of three pairs can be right
    assert (found["accuracy_with_ties"], found["tie_threshold"]) == (pytest.approx(1 / 3), 0)
    assert math.isnan(found["calibration_error"])
    assert measured([math.nan] * 3)["accuracy_with_ties"] == 0
    assert measured([1.0, 2.0, 3.0])["accuracy_with_ties"] == 1


def test_evaluation_scores_are_those_of_each_group_run_alone(tmp_path):
    rows = make_rows()
    rows[1]["preferences"] = [{"chosen": 1, "rejected": 2, "weight": 3.0}, {"chosen": 0, "rejected": 2, "weight": 1.0}]
    trainer = make_trainer(tmp_path, rows, eval_rows=rows, per_device_eval_batch_size=3)
    found = trainer.evaluate()
    model, processor = trainer.model.eval(), trainer.processing_class

    pairs, spreads = {name: [] for name in (None, *DIMENSIONS)}, {name: [] for name in DIMENSIONS}
    probabilities = []
    for row in rows:
        with torch.no_grad():
            edited = [candidate["image"] for candidate in row["candidates"]]
            output = model(**processor(row["source_images"], edited, row["instruction"]))
        labels = [[s if s is not None else math.nan for s in c["scores"].values()] for c in row["candidates"]]
        for i, j in itertools.combinations(range(len(edited)), 2):
            sums = round(sum(labels[i]) - sum(labels[j]), 3)
            if not row["preferences"] and not math.isnan(sums):
                pairs[None].append(((output.reward[i] - output.reward[j]).item(), np.sign(sums), output, i, j))
            for k, name in enumerate(DIMENSIONS):
                difference = labels[i][k] - labels[j][k]
                if not math.isnan(difference):
                    pairs[name].append(((output.mean[i, k] - output.mean[j, k]).item(), np.sign(difference)))
        for preference in row["preferences"]:
            i, j = preference["chosen"], preference["rejected"]
            pairs[None].append(((output.reward[i] - output.reward[j]).item(), 1, output, i, j))
        for k, name in enumerate(DIMENSIONS):
            spreads[name].append((output.mean[:, k].var(correction=1).item(), len(edited) - 1))

    for name, judged in pairs.items():
        best = max(
            sum((0 if abs(d) <= threshold else np.sign(d)) == truth for d, truth, *_ in judged)
            for threshold in (0, *(abs(d) for d, *_ in judged))
        )
        suffix = f"_{name}" if name else ""
        assert found[f"eval_accuracy_with_ties{suffix}"] == pytest.approx(best / len(judged)), name
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    for difference, truth, output, i, j in pairs[None]:
        if truth:
            z = truth * difference + math.hypot(output.reward_std[i], output.reward_std[j]) * nodes
            probabilities.append((weights * expit(z)).sum() / weights.sum())
    bins = {}
    for p in probabilities:
        bins.setdefault(min(int((max(p, 1 - p) - 0.5) * 20), 9), []).append(max(p, 1 - p) - (p > 0.5))
    error = sum(abs(sum(of_bin)) for of_bin in bins.values()) / len(probabilities)
    assert found["eval_calibration_error"] == pytest.approx(error, rel=1e-4)
    for name, of_groups in spreads.items():
        pooled = sum(variance * n for variance, n in of_groups) / sum(n for _, n in of_groups)
        assert found[f"eval_spread_{name}"] == pytest.approx(pooled**0.5, rel=1e-4)
    assert (found["eval_num_groups"], found["eval_num_candidates"]) == (4, sum(len(r["candidates"]) for r in rows))
    assert found["eval_num_pairs"] == len(probabilities)


def test_streamed_sets_and_sets_of_a_dictionary_are_measured_as_others(tmp_path):
    rows = make_rows()
    trainer = make_trainer(tmp_path, rows, per_device_eval_batch_size=3, hardest_groups=2)
    expected = trainer.evaluate(as_dataset(rows))
    found = trainer.evaluate({"streamed": IterableDataset.from_generator(lambda: iter(rows))})
    names = [name for name in expected if not name.endswith(("second", "runtime", "time"))]
    assert len(names) > 15
    assert {name: found[name.replace("eval_", "eval_streamed_")] for name in names} == {
        name: pytest.approx(expected[name]) for name in names
    }
    assert (tmp_path / FOLDER / "eval_streamed_hardest_groups.png").is_file()


def test_throughput_is_of_the_time_between_the_first_batch_and_the_log_and_counts_on(monkeypatch):
    clock = iter([10.0, 14.0, 100.0, 102.0])
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    batch = EditGroupCollator(build_processor())(make_rows()[:2])
    pairs = SimpleNamespace(weight=torch.ones(5))
    monkeypatch.setattr(metrics, "WeightedPairs", SimpleNamespace)
    throughput, history = Throughput(), [{"num_groups": 7, "num_candidates": 30, "num_pairs": 40, "num_tokens": 1000}]
    tokens = int((batch["segment_ids"] >= 0).sum())
    for repetitions, seconds in ((2, 4), (1, 2)):
        for _ in range(repetitions):
            throughput.start()
            throughput.count(batch, pairs)
        logs = throughput.pop(ONE_PROCESS, history)
        assert logs["groups_per_second"] == 2 * repetitions / seconds
        assert logs["tokens_per_second"] == tokens * repetitions / seconds
        history.append(logs)
    assert [history[-1][name] for name in metrics.COUNTS] == [7 + 6, 30 + 21, 40 + 15, 1000 + 3 * tokens]


def test_training_logs_rates_memory_and_what_was_seen_before_every_evaluation(run):
    logs = evaluations(run, "loss")
    assert [entry["step"] for entry in logs] == [2, 3, 4, 6]
    assert [entry["num_groups"] for entry in logs] == [4, 6, 8, 12]
    assert [entry["num_candidates"] for entry in logs] == [16, 24, 32, 48]
    assert all(0 < entry["num_pairs"] <= 6 * entry["num_groups"] for entry in logs)
    for entry in logs:
        assert entry["tokens_per_second"] / entry["groups_per_second"] > 10
        assert 0.05 < entry["peak_memory_gib"] < 100
        assert {"learning_rate", "grad_norm", "accuracy", "margin", *(f"std_{name}" for name in DIMENSIONS)} <= set(
            entry
        )


def test_a_collapse_of_standard_deviations_is_told_once_with_what_to_try(tmp_path, caplog):
    healthy = {"std_a": 0.5, "spread_a": 5.0, "std_b": 0.004, "spread_b": 0.01}
    assert collapsed_dimensions(healthy, ["a", "b"]) == []
    collapsed = {"std_a": 2.7, "spread_a": 5.0, "std_b": 0.004, "spread_b": 5.0}
    assert collapsed_dimensions(collapsed, ["a", "b"]) == ["b"]
    assert "--loss nll" in collapse_warning(collapsed, ["b"], "expected_nll")
    assert "--ties disentangle" in collapse_warning(collapsed, ["b"], "nll")

    model, processor = build(head_dropout=0.0)
    with torch.no_grad():
        for mlp in model.heads.mlps:
            mlp[-1].weight[1] = 0
            mlp[-1].bias[1] = -16.0  # log sigma
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tmp_path, make_rows(), (model, processor), max_steps=2, logging_steps=1)
        trainer.train()
    warnings = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(warnings) == 1
    assert "instruction_following: 1.1e-07 on average" in warnings[0] and "visual_quality" in warnings[0]


def test_the_advice_on_a_collapse_is_true_of_the_losses():
    """Under `nll` a smaller standard deviation pays on pairs that are ranked right, under `expected_nll` on all."""
    from editreward.training.losses import LOSSES

    for name, pays in (("nll", {2.0: True, -2.0: False}), ("expected_nll", {2.0: True, -2.0: True})):
        for difference, is_better in pays.items():
            std = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
            LOSSES[name]()(torch.tensor(difference, dtype=torch.float64), std).backward()
            assert (std.grad > 0) == is_better, (name, difference)


def test_sums_of_ranks_give_the_metrics_of_all_pairs_at_once():
    ranks = [{"accuracy": torch.tensor([[3.0, 4.0]])}, {"accuracy": torch.tensor([[0.0, 1.0], [5.0, 5.0]])}]
    sums = MetricSums(["style"], [(None, 1.0)])
    for statistics in ranks:
        sums.add(statistics)
    assert sums.pop() == {"accuracy": 0.8}
    assert not sums and sums.pop() == {}


# The best checkpoint


def test_the_best_weights_are_kept_by_a_metric_that_is_better_when_lower(run):
    errors = {entry["step"]: entry["eval_calibration_error"] for entry in evaluations(run)[:3]}
    assert len(set(errors.values())) > 1
    best = min(errors, key=errors.get)
    assert run.state.best_global_step == best and run.state.best_metric == errors[best]
    saved = AutoModel.from_pretrained(f"{run.args.output_dir}/checkpoint-{best}", trust_remote_code=True).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in run.model.state_dict().items())


def test_the_last_evaluation_is_of_the_weights_that_are_kept(run):
    by_step = {}
    for entry in evaluations(run):
        by_step.setdefault(entry["step"], []).append(entry["eval_loss"])
    best = run.state.best_global_step
    assert [len(losses) for losses in by_step.values()] == ([1, 1, 1] if best == 6 else [1, 1, 2])
    assert by_step[6][-1] == pytest.approx(by_step[best][0])


def test_a_metric_that_no_evaluation_computes_is_refused_at_the_start_with_those_there_are(tmp_path):
    options = {"metric_for_best_model": "acuracy", "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(ValueError, match=r"'acuracy'.*: loss, pair_loss, accuracy, .*calibration_error"):
        make_trainer(tmp_path, make_rows(), eval_rows=make_rows(), **options)


def test_metrics_of_an_evaluation_are_those_that_may_be_asked_for(tmp_path):
    rows = make_rows()
    trainer = make_trainer(tmp_path, rows, eval_rows=rows, dimension_weight=1.0)
    found = {name.removeprefix("eval_") for name in trainer.evaluate()}
    promised = set(metrics.evaluation_metrics(DIMENSIONS, trainer._terms))
    assert promised <= found
    counts_and_speed = {*metrics.COUNTS, "epoch", "runtime", "model_preparation_time"}
    assert {n for n in found - promised if not n.endswith("_per_second")} <= counts_and_speed


def test_training_stops_when_the_metric_gets_no_better(tmp_path):
    rows = make_rows()
    model, processor = build(head_dropout=0.0)
    arguments = make_arguments(
        tmp_path,
        max_steps=10,
        learning_rate=0.0,  # every evaluation is as good as the first
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="first_accuracy",
        early_stopping_patience=2,
        hardest_groups=0,
    )
    trainer = EditRewardTrainer(
        model=model,
        args=arguments,
        train_dataset=as_dataset(rows),
        eval_dataset={"first": as_dataset(rows[:1]), "all": as_dataset(rows)},
        processing_class=processor,
    )
    trainer.train()
    assert trainer.state.global_step == 3
    assert not (tmp_path / FOLDER).exists()


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path):
    arguments = {
        "eval_rows": make_rows()[:1],
        "learning_rate": 0.0,  # every evaluation is as good as the first
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "metric_for_best_model": "accuracy",
        "early_stopping_patience": 2,
        "hardest_groups": 0,
    }
    make_trainer(tmp_path, make_rows(), max_steps=2, **arguments).train()
    resumed = make_trainer(tmp_path, make_rows(), max_steps=10, **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"early_stopping_patience": 0, "metric_for_best_model": "loss", "eval_strategy": "epoch"}, "positive"),
        ({"early_stopping_patience": 2, "eval_strategy": "epoch"}, "needs `metric_for_best_model`"),
        ({"early_stopping_patience": 2, "metric_for_best_model": "loss"}, "needs `eval_strategy`"),
        ({"hardest_groups": -1}, "hardest_groups"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(tmp_path, **options)


def test_accuracy_is_better_higher_and_losses_and_calibration_errors_lower(tmp_path):
    for metric, higher in (
        ("accuracy_visual_quality", True),
        ("eval_pair_loss_visual_quality", False),
        ("test_set_calibration_error", False),
        ("accuracy_glossiness", True),
        ("eval_lossless_loss", False),
    ):
        assert make_arguments(tmp_path, metric_for_best_model=metric).greater_is_better is higher
    assert make_arguments(tmp_path, metric_for_best_model="loss", greater_is_better=True).greater_is_better is True


# Calibration


def test_the_calibration_is_fitted_on_the_evaluation_set_and_saved(run, tmp_path):
    groups = run.evaluated["eval"].groups
    for index, name in enumerate(DIMENSIONS):
        means = np.concatenate([group.mean[:, index] for group in groups])
        scores = np.concatenate([group.labels[:, index] for group in groups])
        slope, intercept = np.polyfit(means, scores, 1)
        line = run.model.config.calibration[name]
        assert (line["intercept"], line["slope"]) == pytest.approx((intercept, slope)), name
    rewards = np.concatenate([group.reward for group in groups])
    slope, intercept = np.polyfit(rewards, np.concatenate([group.labels.mean(axis=1) for group in groups]), 1)
    line = run.model.config.calibration["overall"]
    assert (line["intercept"], line["slope"]) == pytest.approx((intercept, slope))
    error = evaluations(run, "eval_calibration_rmse_visual_quality")[-1]
    assert 0 < error["eval_calibration_rmse_visual_quality"] < 3
    run.save_model(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["calibration"] == run.model.config.calibration


def test_an_evaluation_set_of_preferences_calibrates_nothing_and_says_so(tmp_path, caplog):
    rows = [make_row(i, [(None, None)] * 3, [{"chosen": 0, "rejected": 2, "weight": 1.0}]) for i in range(3)]
    trainer = make_trainer(tmp_path, rows, eval_rows=rows, max_steps=1, eval_strategy="steps", eval_steps=1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "instruction_following: no group has scores, only preferences" in caplog.text
    assert trainer.model.config.calibration is None
    assert evaluations(trainer)[-1]["eval_num_pairs"] == 3


# The hardest groups


def test_images_of_a_batch_are_those_that_were_resized():
    processor = build_processor(pixels=8 * 28 * 28)
    row = make_row(0, [(1.0, 2.0), (3.0, 4.0)])
    row["source_images"] = [make_image(1, (112, 56)), make_image(2, (56, 112))]
    row["candidates"][1]["image"] = make_image(3, (112, 56))
    batch = EditGroupCollator(processor)([make_row(9, [(1.0, 1.0)]), row])
    found = images_of_row(batch, 1, processor)
    images = [*row["source_images"], *(candidate["image"] for candidate in row["candidates"])]
    assert len(found) == 4
    for image, original in zip(found, images, strict=True):
        _, height, width = processor.image_processor(images=[original])["image_grid_thw"][0]
        resized = original.resize((int(width) * 14, int(height) * 14), Image.Resampling.BICUBIC)
        assert image.size == resized.size
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(resized, dtype=int)).max() <= 1


def test_the_hardest_groups_are_those_with_the_least_likely_preferences(run):
    hardest = HardestGroups(3, run.processing_class)
    rows = simulated_rows(6)
    batch = EditGroupCollator(run.processing_class)(rows)
    groups = run.evaluated["eval"].groups
    hardest.add(groups[:4], {**batch, "group_ids": batch["group_ids"][:4], "instructions": ["-"] * 4}, "logistic")
    found = hardest.gather(ONE_PROCESS)
    difficulty = {
        row["group_id"]: np.mean(-np.log(group.preference_probabilities("logistic")))
        for row, group in zip(rows[:4], groups, strict=False)
    }
    assert [group.group_id for group in found] == sorted(difficulty, key=difficulty.get, reverse=True)[:3]
    assert [len(group.edited) for group in found] == [4, 4, 4]


def test_the_hardest_groups_are_drawn_and_written_with_scores_and_annotation(run):
    folder = f"{run.args.output_dir}/{FOLDER}"
    with Image.open(f"{folder}/eval_hardest_groups.png") as drawn:
        assert drawn.width > 4 * picture.COLUMN and drawn.height > 3 * picture.COLUMN
    with open(f"{folder}/eval_hardest_groups.md", encoding="utf-8") as file:
        text = file.read()
    instructions = {row["group_id"]: row["instruction"] for row in simulated_rows(6)}
    shown = [group_id for group_id in instructions if f"## {group_id} " in text]
    assert len(shown) == 3 and all(instructions[group_id] in text for group_id in shown)
    assert text.count("truth ") == 12 and "visual quality (1..4)" in text


def test_an_instruction_is_drawn_in_a_font_that_has_its_characters(tmp_path, monkeypatch):
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for corner in ((100, 0), (100, 800), (900, 800), (900, 0)):
        (pen.moveTo if corner == (100, 0) else pen.lineTo)(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "box"])
    builder.setupCharacterMap({ord(character): "box" for character in "“把杯子变蓝”"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "box": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "box": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupPost()
    builder.save(tmp_path / "chinese.ttf")

    monkeypatch.setattr(picture, "FONTS", (str(tmp_path / "chinese.ttf"),))
    assert picture.font_for("“把杯子变蓝”", 24).path == str(tmp_path / "chinese.ttf")
    assert picture.font_for("make it blue", 24).path != str(tmp_path / "chinese.ttf")
    assert picture.font_for("ᚠᛇᚻ", 24) is None


# What shows it


def test_tensorboard_gets_every_metric_and_the_picture(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = [EventAccumulator(str(path)) for path in Path(run.args.output_dir, "runs").rglob("events.out.*")]
    scalars = {}
    for events in folders:
        events.Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    names = ["train/accuracy", "train/tokens_per_second", "train/peak_memory_gib", "eval/accuracy_with_ties"]
    names += ["eval/calibration_error", "eval/std_visual_quality", "eval/calibration_rmse_visual_quality"]
    assert set(names) <= set(scalars)
    for step, value in scalars["eval/calibration_error"][:3]:
        logged = next(e for e in evaluations(run) if e["step"] == step)
        assert value == pytest.approx(logged["eval_calibration_error"])
    assert any("eval/hardest_groups" in events.Tags()["images"] for events in folders)


def test_trackio_gets_one_run_with_every_metric(run):
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs(run.args.project, "run")
    names = {name for entry in logs for name in entry}
    assert {"train/accuracy", "eval/accuracy_with_ties", "eval/hardest_groups"} <= names
    assert SQLiteStorage.get_runs(run.args.project) == ["run"]


def test_the_progress_bar_shows_loss_and_accuracy_and_a_line_for_each_evaluation(tmp_path, capfd):
    rows = make_rows()
    trainer = make_trainer(
        tmp_path,
        rows,
        eval_rows=rows,
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        calibrate=False,
        disable_tqdm=False,
        hardest_groups=0,
    )
    trainer.train()
    shown = "".join(capfd.readouterr())
    last = evaluations(trainer, "loss")[-1]
    assert f"accuracy={last['accuracy']:.3f}, loss={last['loss']:.3f}" in shown or (
        f"loss={last['loss']:.3f}, accuracy={last['accuracy']:.3f}" in shown
    )
    evaluated = evaluations(trainer)[-1]
    assert f"step 2: eval_loss {evaluated['eval_loss']:.4g}, eval_accuracy {evaluated['eval_accuracy']:.4g}" in shown

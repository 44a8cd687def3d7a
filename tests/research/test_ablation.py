"""Ablations: the plan, statistics by hand, runs that are killed and go on, and the report."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from editreward.benchmarks.simulated_test_set import TestSet, evaluate, judge
from editreward.scorers.reward_model import EditRewardScorer
from editreward.simulation import groups_hash, simulate_groups
from research.ablation import read_ablation, worker
from research.ablation.__main__ import main as ablate
from research.ablation.plan import Ablation, rehearsal
from research.ablation.report import write_report
from research.ablation.running import Results, Scheduler, Task, carry_out, locked
from research.ablation.statistics import estimate, factorial_effects, half_width, paired_difference
from tests.helpers.backbones import backbone_folder, build
from tests.helpers.processes import start

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def repository_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def make_config(folder: Path, **changes) -> Path:
    """A config of two arms and two seeds, two steps each, on a tiny backbone."""
    groups = {"split": "test", "groups": 4, "candidates": 4, "size": 84, "seed": 0}
    sha256 = groups_hash(simulate_groups(4, "test", candidates=4, size=84))
    (folder / "test_set.json").write_text(json.dumps({**groups, "sha256": sha256}))
    recipe = {
        "model_name_or_path": str(backbone_folder("qwen2_5_vl")),
        "dtype": "float32",
        "pixels": 56 * 56,
        "head_dropout": 0.0,
        "dataset_name": "simulated",
        "dataset_test_split": "validation",
        "simulated_image_size": 84,
        "simulated_train_groups": 4,
        "simulated_eval_groups": 2,
        "simulated_annotators": 1,
        "simulated_noise": 0.3,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arms = {"mean": {"label": "the mean"}, "sum": {"label": "the sum", "options": {"aggregation": "sum"}}}
    config = {
        "recipe": str(folder / "recipe.yaml"),
        "seeds": [0, 1],
        "seed_options": {"simulated_train_start": 100},
        "evaluation": {"test_set": str(folder / "test_set.json"), "validation_groups": 4},
        "folder": str(folder / "runs"),
        "results": str(folder / "ablations" / "results.jsonl"),
        "report": str(folder / "ablations.md"),
        "studies": {
            "aggregation": {"title": "Aggregation", "base": "mean", "arms": arms},
            "again": {"title": "Again", "base": "mean", "arms": {"mean": {"label": "the mean, renamed"}}},
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))
    return path


def change(path: Path, *place: str, value) -> Path:
    """Set or, with `...`, remove one entry of a YAML file."""
    content = yaml.safe_load(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# The plan


def test_arms_with_equal_settings_share_their_runs(tmp_path):
    ablation = read_ablation(make_config(tmp_path))
    runs = ablation.runs()
    assert [(run.seed, arms) for run, arms in runs.items()] == [
        (0, ["aggregation/mean", "again/mean"]),
        (0, ["aggregation/sum"]),
        (1, ["aggregation/mean", "again/mean"]),
        (1, ["aggregation/sum"]),
    ]
    assert [run.settings["train"]["simulated_train_start"] for run in runs] == [0, 0, 100, 100]
    assert list(ablation.runs(("again",)).values()) == [["again/mean"], ["again/mean"]]
    # What decides the result changes the key, what doesn't leaves it.
    before = [run.key for run in runs]
    change(tmp_path / "config.yaml", "studies", "aggregation", "title", value="Another")
    assert [run.key for run in read_ablation(tmp_path / "config.yaml").runs()] == before
    change(tmp_path / "recipe.yaml", "learning_rate", value=2e-3)
    after = [run.key for run in read_ablation(tmp_path / "config.yaml").runs()]
    assert not set(before) & set(after)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("studies", "aggregation", "arms", "sum", "options"), {"agregation": "sum"}, "agregation"),
        (("studies", "aggregation", "arms", "sum", "options"), {"seed": 3}, "aggregation/sum sets `seed`"),
        (("studies", "aggregation", "arms", "sum", "optoins"), {}, "aggregation/sum has an unknown key 'optoins'"),
        (("studies", "aggregation", "base"), "median", "base 'median'"),
        (("studies", "aggregation", "arms", "sum", "backbone"), "huge", "unknown backbone 'huge'"),
        (("studies", "aggregation", "factors"), ["a", "b"], "level of each factor"),
        (("evaluation", "test_set"), ..., "no 'test_set'"),
        (("seed_options",), {"nothing": 1}, "nothing"),
        (("studies",), {}, "no `studies`"),
    ],
)
def test_faults_of_a_config_are_named(tmp_path, place, value, message):
    with pytest.raises(ValueError, match=message):
        read_ablation(change(make_config(tmp_path), *place, value=value))


def test_the_shipped_config_plans_three_seeds_of_every_arm_and_the_papers_recipe():
    ablation = read_ablation("configs/ablation_tiny.yaml")
    for name, study in ablation.studies.items():
        assert len(ablation.seeds_of(name)) >= 3
        keys = [ablation.run_of(name, arm, 0).key for arm in study.arms]
        assert len(set(keys)) == len(keys), f"two arms of {name} are the same"
    base = ablation.run_of("table_4", "mean", 0).settings["train"]
    paper = {
        "loss": "nll",
        "ties": "disentangle",
        "head_type": "multi",
        "aggregation": "mean",
        "dimension_weight": 0.0,
    }
    assert {name: base[name] for name in paper} == paper
    shared = {arms for run, arms in ((r.key, tuple(a)) for r, a in ablation.runs().items()) if len(arms) > 5}
    assert shared, "the recipe's own run belongs to many studies"


# Statistics


def test_intervals_are_students_and_differences_are_paired():
    # By hand: mean 3, variance 4, t(0.975, 2) = 4.302653.
    value = estimate([1.0, 3.0, 5.0])
    assert (value.value, value.total) == (3.0, 3)
    assert half_width(value) == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    assert not value.excludes_zero
    one = estimate([2.0])
    assert one.value == 2.0 and math.isnan(one.low) and not one.excludes_zero
    # Seeds 1 and 2 are in both: differences 1 and 2, mean 1.5, standard deviation sqrt(1/2), t(0.975, 1) = 12.7062.
    paired = paired_difference({0: 9.0, 1: 11.0, 2: 22.0}, {1: 10.0, 2: 20.0, 3: 5.0})
    assert (paired.value, paired.total) == (1.5, 2)
    assert half_width(paired) == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-5)


def test_factorial_effects_are_those_of_the_linear_model():
    # y = 70 + 2 a + 5 b + 3 a b + seed, so a averages 3.5, b 6.5, and a's effect grows by 3 from b = 0 to b = 1.
    cells = {(a, b): {s: 70 + 2 * a + 5 * b + 3 * a * b + s for s in (0, 1, 2)} for a in (0, 1) for b in (0, 1)}
    effects = factorial_effects(cells)
    assert {name: (value.value, half_width(value)) for name, value in effects.items()} == {
        "first": (3.5, 0.0),
        "second": (6.5, 0.0),
        "interaction": (3.0, 0.0),
    }


# Processes


def python_task(folder: Path, name: str, code: str, needs: tuple[str, ...] = (), said: list | None = None) -> Task:
    def finish() -> str:
        if said is not None:
            said.append(name)
        return "ended"

    return Task(name, "a test", folder / name, lambda: [sys.executable, "-c", code], finish, needs)


def schedule(folder: Path, tasks: list[Task], jobs: int = 2) -> tuple[list[str], list[str]]:
    messages: list[str] = []
    failed = Scheduler(tasks, jobs, dict(os.environ), messages.append).run()
    return failed, messages


def test_a_task_waits_for_what_it_needs_and_failures_are_told(tmp_path):
    finished: list[str] = []
    marker = tmp_path / "marker"
    tasks = [
        python_task(tmp_path, "slow", f"import time; time.sleep(0.5); open({str(marker)!r}, 'w')", said=finished),
        python_task(tmp_path, "needy", f"open({str(marker)!r})", needs=("slow",), said=finished),
        python_task(tmp_path, "broken", "raise SystemExit('this is the reason')", said=finished),
        python_task(tmp_path, "hopeless", "", needs=("broken",), said=finished),
    ]
    failed, messages = schedule(tmp_path, tasks)
    assert finished == ["slow", "needy"]
    assert sorted(failed) == ["broken", "hopeless"]
    assert any("this is the reason" in message for message in messages)
    assert any("hopeless: not started" in message for message in messages)


def test_two_runners_and_two_processes_of_one_run_exclude_each_other(tmp_path):
    config = make_config(tmp_path)
    holding = "import pathlib, sys; from research.ablation.running import locked\n"
    holding += "with locked(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    command = [sys.executable, "-c", holding, str(tmp_path / "runs")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"\n"
    with pytest.raises(ValueError, match="at work in"):
        carry_out(read_ablation(config))
    with pytest.raises(ValueError, match="at work in"):
        worker.main(tmp_path / "runs")
    other.communicate(b"\n")
    with locked(tmp_path / "runs"):
        pass


def test_results_survive_a_line_that_was_cut_off(tmp_path):
    results = Results(tmp_path / "deep" / "results.jsonl")
    assert results.read() == {}
    results.append({"key": "a", "value": 1})
    results.append({"key": "b", "value": 2})
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-5])
    assert list(results.read()) == ["a"]
    results.append({"key": "b", "value": 2})
    assert results.path.read_bytes() == whole
    results.path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(ValueError, match="line 1"):
        results.read()


# Runs


def in_this_process(monkeypatch) -> list[str]:
    """Let runs be done here and not in processes of their own, which take ten seconds to start. Returns their keys."""
    done: list[str] = []

    def run(self, task):
        start = time.monotonic()
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / "log.txt").touch()
        worker.main(Path(task.command()[-1]))
        done.append(task.name)
        return 0, time.monotonic() - start

    monkeypatch.setattr(Scheduler, "_do", run)
    return done


@pytest.mark.slow
def test_an_ablation_trains_each_run_once_and_reports(tmp_path, monkeypatch):
    config = make_config(tmp_path)
    done = in_this_process(monkeypatch)
    assert ablate(["--config", str(config), "--study", "again", "--keep-models"]) == 0
    assert len(done) == 2
    ablation = read_ablation(config)
    model = tmp_path / "runs" / "runs" / done[0] / "model"
    result = Results(ablation.results).read()[done[0]]
    assert result["steps"] == 2 and result["groups_seen"] == 4 and result["seed"] == 0
    assert result["curves"]["train"]["step"] == result["curves"]["validation"]["step"] == [1, 2]

    # The metrics are those of the evaluation that the bundled model's table comes from.
    groups = TestSet.from_json(tmp_path / "test_set.json").load()
    expected = evaluate(judge(EditRewardScorer.from_pretrained(model), groups), groups)
    metrics = result["metrics"]
    assert metrics["accuracy"] == pytest.approx(expected["overall"]["accuracy"]["value"], abs=1e-5)
    for name in ("instruction_following", "visual_quality"):
        assert metrics[f"accuracy_{name}"] == pytest.approx(expected[name]["accuracy"]["value"], abs=1e-5)
    assert metrics["strict_3"] == pytest.approx(expected["strict_ranking"]["3"]["value"], abs=1e-5)

    assert ablate(["--config", str(config)]) == 0
    assert len(done) == len(set(done)) == 4  # those of the other study were there
    assert not (tmp_path / "runs" / "runs" / done[3] / "model").exists()
    assert ablate(["--config", str(config)]) == 0
    assert len(done) == 4
    report = Path(ablation.report).read_text()
    assert report.count("| the mean |") == 1 and "of 2 seeds)" not in report
    assert all((tmp_path / "ablations" / f"{name}.png").stat().st_size > 1000 for name in ablation.studies)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    config = change(make_config(tmp_path), "seeds", value=[0])
    change(tmp_path / "recipe.yaml", "num_train_epochs", value=4)
    done = in_this_process(monkeypatch)
    assert carry_out(read_ablation(config), ["again"], keep_models=True, say=lambda text: None) == []
    folder = tmp_path / "runs" / "runs" / done[0]
    whole = load_file(folder / "model" / "model.safetensors")

    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "run.json").write_text((folder / "run.json").read_text())
    process = start(worker.main, killed, log=tmp_path / "killed")
    while not list(killed.glob("model/checkpoint-*/trainer_state.json")):
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (killed / "trained.json").exists()
    worker.main(killed)
    result = json.loads((killed / "result.json").read_text())
    assert result["resumed"] and result["steps"] == 8
    for name, weight in load_file(killed / "model" / "model.safetensors").items():
        assert torch.equal(weight, whole[name]), name


def test_scaled_heads_start_the_sum_where_the_mean_starts():
    inputs = None
    outputs = []
    for aggregation, factor in (("mean", 1.0), ("sum", 0.5)):
        model, processor = build(head_dropout=0.0, aggregation=aggregation)
        worker.scale_heads(model, factor)
        if inputs is None:
            groups = list(simulate_groups(2, "train", candidates=3, size=84))
            inputs = processor(
                source=[g.source for g in groups],
                edited=[[c.image for c in g.candidates] for g in groups],
                instruction=[g.instruction for g in groups],
            )
        with torch.no_grad():
            outputs.append(model(**inputs))
    torch.testing.assert_close(outputs[0].reward, outputs[1].reward)
    torch.testing.assert_close(outputs[0].reward_std, outputs[1].reward_std)


# The report


def fake_results(ablation: Ablation, accuracy: dict[str, dict[int, float]], study: str) -> dict:
    """Results of an ablation with the accuracies given by arm and seed; the rest is made up."""
    results = {}
    for arm, by_seed in accuracy.items():
        for seed, value in by_seed.items():
            run = ablation.run_of(study, arm, seed)
            names = ("accuracy_instruction_following", "accuracy_visual_quality", "strict_3", "strict_4")
            metrics = {"accuracy": value, **dict.fromkeys(names, 0.5), "log_loss": 0.6, "calibration_error": 0.1}
            curve = {"step": [1, 2], "loss": [0.7, 0.6], "accuracy": [0.5, value]}
            results[run.key] = {
                "key": run.key,
                "seed": seed,
                "settings": run.settings,
                "metrics": {**metrics, "rmse": None, "tokens": 300.0, "test_groups": 4},
                "curves": {"train": curve, "validation": curve},
                "groups_seen": 4,
                "steps": 2,
                "train_seconds": 2.0,
                "evaluation_seconds": 1.0,
                "resumed": False,
                "versions": {"torch": "2"},
                "machine": "m",
                "commit": "c",
            }
    return results


def test_the_report_has_means_intervals_and_paired_differences_and_keeps_what_was_written(tmp_path):
    ablation = read_ablation(change(make_config(tmp_path), "seeds", value=[0, 1, 2]))
    accuracy = {"mean": {0: 0.80, 1: 0.82, 2: 0.84}, "sum": {0: 0.81, 1: 0.84, 2: 0.87}}
    results = fake_results(ablation, accuracy, "aggregation")
    report = Path(ablation.report)
    files = write_report(ablation, results, "a.yaml")
    assert all(file.exists() for file in files)
    text = report.read_text()
    # Standard deviations 2 and 3 points, differences 1, 2 and 3 points: deviation 1; t(0.975, 2) / sqrt(3) = 2.4841.
    assert "| the mean | 82.0 ± 5.0 | base |" in text
    assert "| the sum | 84.0 ± 7.5 | +2.0 ± 2.5 |" in text
    assert text.count("*Not written yet.*") == 3

    ours = text.replace("<!-- written: again -->\n*Not written yet.*\n", "<!-- written: again -->\nOurs, *kept*.\n")
    report.write_text(ours)
    accuracy["sum"] = {0: 0.85, 1: 0.88, 2: 0.90}
    write_report(ablation, fake_results(ablation, accuracy, "aggregation"), "a.yaml")
    text = report.read_text()
    # Differences 5, 6, 6: mean 5.67, deviation 0.5774, half width 1.43: it excludes 0.
    assert "**+5.7 ± 1.4**" in text
    assert text.count("Ours, *kept*.") == 1 and text.count("*Not written yet.*") == 2
    before = text
    write_report(ablation, fake_results(ablation, accuracy, "aggregation"), "a.yaml")
    assert report.read_text() == before

    report.write_text(text.replace("written: again", "written: gone"))
    with pytest.raises(ValueError, match="gone"):
        write_report(ablation, results, "a.yaml")


def test_the_report_of_two_factors_tells_their_effects(tmp_path):
    config = make_config(tmp_path)
    cells = {"a0b0": ["no", "few"], "a0b1": ["no", "many"], "a1b0": ["yes", "few"], "a1b1": ["yes", "many"]}
    options = [{"ties": ties, "simulated_train_groups": n} for ties in ("drop", "disentangle") for n in (2, 4)]
    arms = {
        name: {"label": name, "levels": levels, "options": option}
        for (name, levels), option in zip(cells.items(), options, strict=True)
    }
    study = {"title": "Two", "base": "a0b0", "factors": ["ties", "groups"], "curves": True, "arms": arms}
    ablation = read_ablation(change(config, "studies", value={"two": study}))
    accuracy = {
        name: {seed: 0.7 + 0.02 * int(name[1]) + 0.05 * int(name[3]) + 0.01 * seed for seed in (0, 1)} for name in arms
    }
    files = write_report(ablation, fake_results(ablation, accuracy, "two"), "a.yaml")
    assert {file.name for file in files} == {"ablations.md", "two.png", "two_effects.png", "two_curves.png"}
    text = Path(ablation.report).read_text()
    assert "| ties: yes against no | **+2.0 ± 0.0** |" in text
    assert "| groups: many against few | **+5.0 ± 0.0** |" in text
    assert "| the first, with many minus with few | " in text
    # A study of which an arm is missing has no effects yet, and the report names the arm.
    del accuracy["a1b1"], accuracy["a0b1"][1]
    write_report(ablation, fake_results(ablation, accuracy, "two"), "a.yaml")
    text = Path(ablation.report).read_text()
    assert (
        "effect on the accuracy" not in text
        and "\n\nNot run: a1b1.\n" in text
        and "| a1b1 |" not in text
        and "| a0b1 (1 of 2 seeds) |" in text
    )


def test_a_rehearsal_has_all_arms_in_two_steps_elsewhere(tmp_path):
    ablation = read_ablation("configs/ablation_tiny.yaml")
    short = rehearsal(ablation, tmp_path)
    assert {name: list(study.arms) for name, study in short.studies.items()} == {
        name: list(study.arms) for name, study in ablation.studies.items()
    }
    for run in short.runs():
        assert run.settings["train"]["max_steps"] == 2 and run.seed == ablation.seeds[0]
    for place in (short.folder, short.results, short.report):
        assert Path(place).is_relative_to(tmp_path)


def test_curves_take_losses_and_accuracies_apart():
    log = [
        {"loss": 0.7, "accuracy": 0.5, "step": 1},
        {"eval_loss": 0.69, "eval_accuracy": 0.55, "step": 1},
        {"loss": 0.6, "accuracy": 0.61234567, "step": 2},
        {"train_loss": 0.65, "train_runtime": 3.0, "step": 2},
    ]
    assert worker.curves(log) == {
        "train": {"step": [1, 2], "loss": [0.7, 0.6], "accuracy": [0.5, 0.6123]},
        "validation": {"step": [1], "loss": [0.69], "accuracy": [0.55]},
    }


def test_preference_probabilities_are_of_the_better_one():
    scored = worker.Scored.__new__(worker.Scored)
    scored.mean = {"reward": [np.array([0.0, 1.0, 3.0])]}
    scored.std = {"reward": [np.array([1e-6, 1e-6, 1e-6])]}
    scored.truth = {"reward": [np.array([5.0, 5.0, 3.0])]}  # two pairs that differ, both ordered wrongly
    expected = [1 / (1 + math.exp(3)), 1 / (1 + math.exp(2))]
    assert worker.preference_probabilities(scored, "logistic") == pytest.approx(expected, rel=1e-6)

"""Training of generative scorers: the loss, the script, what it saves, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from torch.nn import functional as F

from editreward.cli.train import RECIPES, is_generative, script_arguments
from editreward.groups.scores import Unscored
from editreward.scorers.generative.loading import load_writer
from editreward.scorers.generative.scorer import GenerativeScorer
from editreward.scorers.registry import load_scorer
from editreward.simulation import simulate_group
from editreward.training.generative import script
from editreward.training.generative.arguments import GenerativeTrainingArguments
from editreward.training.generative.collator import IGNORED, AnswerCollator
from editreward.training.generative.evaluation import Scored, _scored, scoring_metrics
from editreward.training.generative.trainer import GenerativeTrainer
from tests.helpers.editscore import GOLDEN
from tests.helpers.trainers import ON_A_CPU

ROOT = Path(__file__).parents[2]
QWEN25 = GOLDEN / "qwen25" / "base"
OPTIONS = ON_A_CPU | {"max_pixels": 4096}


def rows(count: int = 2) -> Dataset:
    groups = [simulate_group(number, candidates=2, size=84) for number in range(count)]

    def read(batch):
        found = [{**groups[i].to_row(), "simulation": groups[i]} for i in batch["row"]]
        return {name: [row[name] for row in found] for name in found[0]}

    return Dataset.from_dict({"row": range(count)}).with_transform(read)


def trainer_of(folder, **options) -> GenerativeTrainer:
    args = GenerativeTrainingArguments(str(folder), prompts=["editreward-scores"], **(OPTIONS | options))
    sets = script.load_sets(args.prompts)
    return GenerativeTrainer(load_writer(str(QWEN25), torch.float32), args, sets, rows())


def test_the_loss_is_the_weighted_mean_over_the_tokens_of_answers(tmp_path):
    trainer = trainer_of(tmp_path, score_weight=3.0)
    batch = trainer.data_collator([rows()[0]])
    inputs = {name: value for name, value in batch.items() if name not in ("skipped", "used", "is_number", "labels")}
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, dict(batch))
        logits = trainer.model(**inputs, use_cache=False).logits[:, :-1]
    total, count = 0.0, 0
    for place, labels in enumerate(batch["labels"][:, 1:]):
        learnt = labels != IGNORED
        losses = F.cross_entropy(logits[place][learnt], labels[learnt], reduction="none").double()
        weights = torch.tensor([3.0 if one else 1.0 for one in batch["is_number"][place, 1:][learnt]]).double()
        total += float((losses * weights).sum() / weights.sum()) * len(losses)
        count += len(losses)
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_accumulated_batches_give_the_loss_of_one(tmp_path):
    trainer = trainer_of(tmp_path)
    collate = trainer.data_collator
    both = collate([rows()[0], rows()[1]])
    tokens = (both["labels"] != IGNORED).sum()
    trainer.model.eval()
    with torch.no_grad():
        whole = trainer.compute_loss(trainer.model, dict(both))
        parts = [
            trainer.compute_loss(trainer.model, dict(collate([rows()[i]])), num_items_in_batch=tokens) for i in (0, 1)
        ]
    torch.testing.assert_close(sum(parts), whole)


def test_metrics_of_scores_count_pairs_and_edits_without_a_score():
    nan = float("nan")
    groups = [
        Scored({"overall": [3.0, 2.0, 1.0], "x": [1.0, 1.0, 2.0]}, {"overall": [4.0, 4.0, 1.0], "x": [1.0, nan, 2.0]}),
        Scored({"overall": [nan, 2.0], "x": [nan, nan]}, {"overall": [1.0, 2.0], "x": [nan, nan]}),
    ]
    found = scoring_metrics(groups)
    assert found == {"accuracy": pytest.approx(2 / 3), "x_accuracy": 1.0, "unscored": pytest.approx(1 / 5)}


def test_candidates_without_scores_are_evaluated_as_unknown():
    row = {"candidates": [{"scores": None}, {"scores": {"x": 2.0}}]}
    scored = _scored(["x"], row, Unscored("lost"))
    assert np.isnan(scored.truths["overall"][0]) and scored.truths["overall"][1] == 2.0


@pytest.mark.slow
def test_a_run_trains_an_adapter_that_scores_by_its_prompts(tmp_path):
    recipe = yaml.safe_load((ROOT / "configs" / "editscore_tiny.yaml").read_text(encoding="utf-8"))
    recipe |= OPTIONS | {
        "model_name_or_path": str(QWEN25),
        "lora_r": 4,
        "prompts": ["editreward-scores", "editreward-compact"],
        "answers_per_group": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "dataloader_persistent_workers": False,
        "simulated_image_size": 84,
        "simulated_eval_groups": 1,
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": 2,
        "output_dir": str(tmp_path / "run"),
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert is_generative(file)
    script.main(["--config", str(file)])
    folder = tmp_path / "run"
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert any("score_token_accuracy" in entry or "train_loss" in entry for entry in log)
    assert "LoRA | rank 4" in (folder / "README.md").read_text()
    assert (folder / "prompts-editreward-compact.yaml").is_file()
    scorer = load_scorer(f"generative:{folder}")
    assert isinstance(scorer, GenerativeScorer) and scorer.prompts.name == "editreward-scores"

    recipe |= {"resume_from_checkpoint": True, "score_weight": 4.0}
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(ValueError, match=r"other settings: score_weight [\d.]+ became 4.0"):
        script.main(["--config", str(file)])


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("editscore")])
def test_recipes_can_be_parsed_and_are_known_to_the_command(name):
    from trl import TrlParser

    words = script_arguments(name, ["--output_dir", "x"])
    assert is_generative(Path(words[1]))
    classes = (script.GenerativeScriptArguments, GenerativeTrainingArguments, script.EditRewardModelConfig)
    options = words + ["--bf16", "false", "--use_cpu", "true", "--activation_checkpointing", "false"]
    _, args, model_args = TrlParser(classes).parse_args_and_config(options)
    assert model_args.use_peft and script.load_sets(args.prompts)
    assert not is_generative(Path(script_arguments("tiny", [])[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "nothing"], "There is no prompt set 'nothing'"),
        (["--prompts", "editreward-pairs"], "'editreward-pairs' compares two edits"),
        (["--prompts", "editreward", "editreward"], "names a set twice"),
        (["--prompts", "editscore"], "comes without its texts"),
        (["--model_name_or_path", "nowhere"], "neither a model folder nor"),
        (
            ["--model_name_or_path", str(ROOT / "checkpoints/editreward-tiny")],
            "is a reward model, which does not write",
        ),
        (["--model_name_or_path", str(GOLDEN / "qwen25" / "adapter")], "is an adapter"),
        (["--score_weight", "0"], "`score_weight` must be above 0"),
        (["--packing", "true"], "`packing` has no effect"),
        (["--dense_weight", "1"], "are for reward models"),
        (["--load_in_4bit", "true"], "need `--use_peft`"),
    ],
)
def test_mistakes_are_one_line(options, message, tmp_path, capsys):
    words = ["--model_name_or_path", str(QWEN25), "--dataset_name", "simulated", "--simulated_train_groups", "4"]
    words += ["--use_cpu", "true", "--bf16", "false", "--output_dir", str(tmp_path), *options]
    assert script.run(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "Traceback" not in error


def test_groups_without_reasons_end_the_run_by_name(tmp_path):
    row = simulate_group(0, candidates=2, size=84).to_row()
    made = load_writer(str(QWEN25), torch.float32)
    with pytest.raises(ValueError, match="group 'simulated-train-000000': no candidate has what an answer"):
        AnswerCollator(made, list(script.load_sets(["editreward"]).values()))([row])

"""The model card that a run writes, its curves, and what a push to the Hub uploads."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers.trainer
import transformers.utils.hub
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import LoraConfig
from PIL import Image
from transformers import AutoModel, AutoProcessor

from editreward.simulation import simulate_group
from editreward.training import EditRewardTrainer
from editreward.training.card import last_evaluation, recipe, told_names
from editreward.training.curves import draw_curves, series
from editreward.training.hardest import FOLDER
from tests.helpers.backbones import build, make_image
from tests.helpers.hub_server import TOKEN, Hub
from tests.helpers.trainers import DIMENSIONS, as_dataset, make_arguments, make_rows, make_trainer

REPO = "someone/EditReward-tiny"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A run of three steps that was pushed: its trainer, and the folder that the Hub has."""
    folder = tmp_path_factory.mktemp("run")
    rows = [simulate_group(seed, candidates=3, size=84).to_row() for seed in range(6)]
    model, processor = build(head_dropout=0.0)
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=TOKEN)
        patch.setattr(transformers.utils.hub, "_hf_api", api)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        trainer = EditRewardTrainer(
            model=model,
            args=make_arguments(
                folder / "local-name",
                max_steps=3,
                logging_steps=1,
                eval_strategy="steps",
                eval_steps=1,
                save_strategy="steps",
                save_steps=3,
                loss="expected_nll",
                dimension_weight=0.5,
                hub_model_id=REPO,
                hub_token=TOKEN,
            ),
            train_dataset=as_dataset(rows),
            eval_dataset={"held_out": as_dataset(rows[:5]), "preferences": as_dataset(make_rows()[2:])},
            processing_class=processor,
        )
        trainer.dataset_names = ["someone/edits", str(folder)]
        trainer.train()
        trainer.push_to_hub()
        files = hub.repositories[REPO].commits[-1][1]
    for name, file in files.items():
        path = folder / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    return trainer, folder / "hub"


def test_a_push_uploads_a_folder_that_loads_without_the_package(pushed):
    trainer, folder = pushed
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "processor_config.json", "README.md", "curves.png"} <= names
    assert {f"{part}_editreward.py" for part in ("configuration", "modeling", "processing")} <= names
    assert not any(name.startswith((FOLDER, "checkpoint-")) for name in names), "pictures show the data"
    assert "AutoModel" in json.loads((folder / "config.json").read_text())["auto_map"]

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    batch = processor(make_image(0), [make_image(1), make_image(2)], "make it blue")
    with torch.no_grad():
        assert torch.equal(model(**batch).reward, trainer.model.eval()(**batch).reward)
    assert model.config.calibration == trainer.model.config.calibration


def test_a_push_in_the_middle_of_a_run_is_a_model_that_loads(tmp_path, monkeypatch):
    class Hub:
        def upload_folder(self, folder_path, **arguments):
            shutil.copytree(folder_path, tmp_path / "hub", ignore=shutil.ignore_patterns("checkpoint-*"))
            return SimpleNamespace(done=lambda: True, result=lambda: None)

    monkeypatch.setattr(transformers.trainer, "hf_api", Hub)
    monkeypatch.setattr(EditRewardTrainer, "init_hf_repo", lambda trainer: setattr(trainer, "push_in_progress", None))
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "push_to_hub": True, "hub_model_id": REPO}
    trainer = make_trainer(tmp_path / "run", make_rows(), **options)
    trainer.train()
    model = AutoModel.from_pretrained(tmp_path / "hub", trust_remote_code=True)
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_card_has_metadata_that_the_hub_reads(pushed):
    trainer, folder = pushed
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.datasets) == (
        "transformers",
        "image-text-to-text",
        ["someone/edits"],
    )
    assert data.metrics == ["accuracy"] and {"reward-trainer", "editreward"} <= set(data.tags)
    assert data.license is None
    results = {(r.dataset_name, r.metric_name): r.metric_value for r in data.eval_results}
    logged = last_evaluation(trainer.state.log_history, "eval_held_out")
    assert results["held_out", "accuracy"] == pytest.approx(logged["accuracy"], abs=1e-4)
    name = ("held_out", "accuracy with ties, visual quality")
    assert results[name] == pytest.approx(logged["accuracy_with_ties_visual_quality"], abs=1e-4)
    found, _ = model_index_to_eval_results(data.to_dict()["model-index"])
    assert found == "EditReward-tiny"


def test_the_card_tells_data_recipe_and_results_and_no_path(pushed):
    trainer, folder = pushed
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f'AutoModel.from_pretrained("{REPO}"' in text
    assert "| training: `someone/edits` | 6 | " in text
    assert re.search(r"\| seen in training, repetitions included \| 3 \| 9 \| \d \|", text)
    assert "| held_out | 5 | 15 | " in text
    assert "| loss | expected_nll |" in text and "| dimension weight | 0.5 |" in text
    assert "| groups per step | 1 (1 x 1 micro-batches x 1 processes) |" in text
    assert f"torch {torch.__version__}" in text
    logged = last_evaluation(trainer.state.log_history, "eval_held_out")
    other = last_evaluation(trainer.state.log_history, "eval_preferences")
    cells = [f"{100 * of_set['accuracy_visual_quality']:.1f} %" for of_set in (logged, other)]
    assert f"| accuracy, visual quality | {' | '.join(cells)} |" in text
    for path in (str(trainer.args.output_dir), str(Path.home()), str(Path.cwd()), "/tmp"):
        assert path not in text, path
    assert not re.search(r"\n{3,}|\{\{|None|nan", text)


def test_a_card_of_a_run_without_evaluation_says_so(tmp_path):
    trainer = make_trainer(tmp_path, make_rows(), max_steps=1)
    trainer.train()
    trainer.create_model_card(dataset_name="simulated")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "It was not evaluated in training." in text and "It is uncalibrated" in text
    assert "training: simulated groups | 4 |" in text and "knows nothing else" in text
    assert "curves" not in text and not (tmp_path / "curves.png").exists()
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None


def test_the_card_of_an_adapter_loads_it_by_name_and_names_its_base(tmp_path):
    model, processor = build(head_dropout=0.0)
    model.config._name_or_path = "someone/base"
    trainer = EditRewardTrainer(
        model=model,
        args=make_arguments(tmp_path, max_steps=1),
        train_dataset=as_dataset(make_rows()),
        processing_class=processor,
        peft_config=LoraConfig(target_modules=r".*language_model.*_proj", modules_to_save=["heads"]),
    )
    trainer.train()
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.base_model) == ("peft", "someone/base")
    assert "EditRewardModel.from_pretrained(" in text and "AutoModel" not in text and "editreward merge" in text
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert f"| trained parameters | {trained:,} |" in text and trained < model.num_parameters()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"split_into_pairs": True, "per_device_train_batch_size": 2}, ("pairs per step", "4 (2 x 2")),
        ({"max_tokens_per_batch": 3000}, ("tokens at most per step", "6,000 (3,000 x 2")),
    ],
)
def test_the_card_counts_batches_in_what_they_are_made_of(tmp_path, options, told):
    trainer = make_trainer(tmp_path, make_rows(), gradient_accumulation_steps=2, **options)
    rows = dict(recipe(trainer, None))
    assert rows[told[0]] == f"{told[1]} micro-batches x 1 processes)" and "groups per step" not in rows


def test_a_card_names_the_datasets_that_are_on_the_hub():
    names = ["someone/edits", "edits", "simulated", "./edits", "/data/edits"]
    assert told_names(names) == ["someone/edits", "edits"]


# Curves


def test_a_series_has_one_value_for_each_step():
    log = [
        {"step": 1, "loss": 0.7},
        {"step": 2, "eval_loss": 0.6},
        {"step": 2, "loss": 0.5},
        {"step": 2, "eval_loss": 0.4},  # of the best weights, at the end
    ]
    assert series(log, "loss") == ([1, 2], [0.7, 0.5])
    assert series(log, "eval_loss") == ([2], [0.6])


def test_curves_show_what_changes_and_need_two_points(tmp_path):
    def log(values):
        return [
            entry
            for step, value in enumerate(values)
            for entry in (
                {"step": step, "loss": value, "accuracy": 1 - value},
                {"step": step, "eval_loss": value, "eval_accuracy": 1 - value},
            )
        ]

    assert not draw_curves(log([0.5]), ["eval"], DIMENSIONS, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    pictures = []
    for values in ([0.7, 0.5, 0.3], [0.7, 0.5, 0.3], [0.7, 0.6, 0.1]):
        assert draw_curves(log(values), ["eval"], DIMENSIONS, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as drawn:
            pictures.append(np.asarray(drawn.convert("L")))
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])

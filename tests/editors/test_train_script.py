import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from editreward.data.sources import SimulatedGroups
from editreward.data.storage import write_groups
from editreward.editors import script as train_script
from editreward.editors.reward_source import Rewarded
from editreward.editors.tiny.pipeline import TinyEditPipeline
from editreward.editors.train import run
from editreward.editors.training_data import pairs, triples
from tests.helpers.image_editors import flux_kontext, picture, tiny_editor

SMALL = [
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "4",
    "--groups_per_step",
    "2",
    "--samples_per_group",
    "3",
]
SMALL += [
    "--sampling_steps",
    "3",
    "--window",
    "1",
    "--window_range",
    "0",
    "2",
    "--sample_rows",
    "1",
    "--sample_steps",
    "2",
]


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor")
    tiny_editor().save_pretrained(folder)
    return folder


def words(editor, output, *more):
    return ["--model_name_or_path", str(editor), "--output_dir", str(output), "--dataset_limit", "6", *SMALL, *more]


def test_grpo_with_the_truth_trains_an_editor_that_loads(editor, tmp_path):
    assert run(words(editor, tmp_path, "--reward", "truth", "--watch_truth", "true", "--most_idle_steps", "9")) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines] == [1, 2]
    assert {"reward", "truth/right", "truth/visual_quality", "groups_flat", "seconds/sampling"} <= set(lines[0])
    assert lines[0]["reward"] == pytest.approx(
        lines[0]["truth/instruction_following"] + lines[0]["truth/visual_quality"], rel=1e-4
    )
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-000000.png", "step-000002.png"}
    TinyEditPipeline.from_pretrained(tmp_path / "editor")


def test_nft_trains_an_editor_that_loads_and_refuses_another_stages_checkpoint(editor, tmp_path, capsys):
    more = ["--stage", "nft", "--reward", "truth", "--sampling_steps", "2"]
    assert run(words(editor, tmp_path, *more)) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines] == [1, 2] and {"reward", "moved", "kl"} <= set(lines[0])
    TinyEditPipeline.from_pretrained(tmp_path / "editor")
    assert run(words(editor, tmp_path, "--stage", "grpo", "--reward", "truth")) == 2
    assert "is of a run with other settings: stage 'nft' became 'grpo'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_stages_of_a_dataset_train_on_its_edits(editor, tmp_path, stage):
    write_groups(
        SimulatedGroups(groups=3).dataset("train"),
        tmp_path / "data",
        "train",
        ("instruction_following", "visual_quality"),
    )
    more = ["--stage", stage, "--dataset_name", str(tmp_path / "data")]
    assert run(words(editor, tmp_path / "out", *more)) == 0
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2


def test_rows_become_triples_and_pairs():
    rows = list(SimulatedGroups(groups=2).dataset("train"))
    read, count = triples(rows)
    assert count == sum(len(group["candidates"]) for group in rows)
    last = rows[1]["candidates"][-1]["image"]
    assert read(count - 1).edited.tobytes() == last.tobytes() and read(0).rejected is None
    read, count = pairs(rows, None)
    scores = [sum(candidate["scores"].values()) for candidate in rows[0]["candidates"]]
    best, worst = (rows[0]["candidates"][scores.index(end(scores))]["image"] for end in (max, min))
    edit = read(0)
    assert (edit.edited.tobytes(), edit.rejected.tobytes()) == (best.tobytes(), worst.tobytes())
    rows[0]["preferences"] = [{"chosen": 2, "rejected": 1, "weight": 1.0}]
    chosen = rows[0]["candidates"][2]["image"]
    assert pairs(rows[:1], None)[0](0).edited.tobytes() == chosen.tobytes()
    same = [{**row, "candidates": [{**one, "scores": {"q": 2.0}} for one in row["candidates"]]} for row in rows[1:]]
    with pytest.raises(ValueError, match="No group has two edits of which one is better"):
        pairs(same, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reward", "nosuchscorer"], "nosuchscorer"),
        (["--reward", "truth", "--pipeline", "NoPipeline"], "has no pipeline NoPipeline"),
        (["--reward", "truth", "--model_name_or_path", "./nowhere"], "`--model_name_or_path ./nowhere` is no "),
        (["--reward", "truth", "--guard", "ssim"], "are for a scorer in this process, not for truth"),
        (["--samples_per_group", "1"], "`samples_per_group` must be at least 2"),
        (["--window", "9"], "does not fit `window_range`"),
        (["--dtype", "bfloat16", "--reward", "truth"], "its inputs are bfloat16: add `--mixed_precision bf16`"),
        (["--stage", "sft", "--watch_truth", "true"], "`watch_truth` is for grpo and nft; sft makes no edits"),
    ],
)
def test_what_a_user_can_mend_is_one_line(editor, tmp_path, capsys, more, message):
    assert run([*words(editor, tmp_path), *more]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and last.startswith("editreward.editors.train: error: ")


def test_a_choice_in_a_recipe_is_checked(editor, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stage: sftt\n", encoding="utf-8")
    assert run([*words(editor, tmp_path / "out"), "--config", str(recipe)]) == 2
    assert "`stage` is 'sftt'; choose one of: sft, dpo, grpo, nft." in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--watch_truth", "true"], ["--reward", "truth"]])
def test_the_truth_of_rows_that_nobody_drew_is_refused_at_the_start(editor, tmp_path, capsys, more):
    picture(1, 16).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("source,instruction\na.png,Make it red.\n", encoding="utf-8")
    data = ["--dataset_name", str(tmp_path / "rows.csv")]
    assert run([*words(editor, tmp_path / "out"), *data, *more]) == 2
    assert "are for simulated rows alone, not for" in capsys.readouterr().err


def test_edits_are_ranked_once_by_their_reward(editor, tmp_path, monkeypatch):
    write_groups(
        SimulatedGroups(groups=3).dataset("train"),
        tmp_path / "data",
        "train",
        ("instruction_following", "visual_quality"),
    )
    asked = []

    class Brightness:
        def __call__(self, rows, sources, edited):
            asked.append(rows[0].group_id)
            if len(asked) == 3:
                raise ValueError("the server is gone")
            return Rewarded(np.array([np.asarray(one).mean() for one in edited], dtype=np.float32), {})

    monkeypatch.setattr(train_script, "reward_source", lambda *_: Brightness())
    more = ["--stage", "dpo", "--reward", "ssim", "--dataset_name", str(tmp_path / "data")]
    assert run(words(editor, tmp_path / "out", *more)) == 2
    assert run(words(editor, tmp_path / "out", *more)) == 0
    assert run(words(editor, tmp_path / "out", *more, "--max_steps", "3")) == 0
    assert len(asked) == 4 and len(set(asked)) == 3


def test_pairs_follow_the_majority_and_name_a_row_without_its_source():
    rows = list(SimulatedGroups(groups=1).dataset("train"))
    split = [(0, 1, 0.9), (1, 0, 0.1), (2, 3, 0.5), (3, 2, 0.5), (4, 5, 0.0)]
    rows[0]["preferences"] = [{"chosen": a, "rejected": b, "weight": weight} for a, b, weight in split]
    read, count = pairs(rows)
    edits = [one["image"].tobytes() for one in rows[0]["candidates"]]
    assert count == 1 and (read(0).edited.tobytes(), read(0).rejected.tobytes()) == (edits[0], edits[1])
    rows[0]["source_images"] = []
    with pytest.raises(ValueError, match=f"group {rows[0]['group_id']} has 0 source images"):
        read(0)
    rows[0]["preferences"][0]["weight"] = None
    with pytest.raises(ValueError, match=f"group {rows[0]['group_id']}: a preference has no weight"):
        pairs(rows)


def test_a_checkpoint_without_its_text_encoder_is_named(tmp_path, capsys):
    pipeline = flux_kontext()
    pipeline.save_pretrained(tmp_path / "flux")
    index = tmp_path / "flux" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "text_encoder_2": [None, None]}))
    more = ["--pipeline", "FluxKontextPipeline", "--resolution", "32", "--reward", "truth"]
    assert run(words(tmp_path / "flux", tmp_path / "out", *more)) == 2
    assert "text_encoder_2" in capsys.readouterr().err


def test_recipes_are_options_of_the_script():
    from trl import TrlParser

    from editreward.editors.arguments import EditorScriptArguments, EditorTrainingArguments
    from editreward.resources import resource

    recipes = sorted(resource("configs/editors").glob("*.yaml"))
    ours = [path for path in recipes if not path.name.startswith("flow_factory")]
    assert len(ours) == 6
    for path in ours:
        parser = TrlParser((EditorScriptArguments, EditorTrainingArguments))
        script, args = parser.parse_args_and_config(["--config", str(path)], fail_with_unknown_args=True)
        assert script.stage in path.name and args.output_dir == f"runs/{path.stem}"
    for path in set(recipes) - set(ours):
        assert yaml.safe_load(path.read_text())["rewards"][0]["reward_model"].startswith("editreward.rewards.")


@pytest.mark.slow
def test_two_processes_train_one_editor(editor, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "-m", "editreward.editors.train", *words(editor, tmp_path, "--stage", "sft")]
    subprocess.run(command, check=True, timeout=600)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 2 and len((tmp_path / "log.jsonl").read_text().splitlines()) == 2

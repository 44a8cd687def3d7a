"""`editreward push` and `push_to_hub`: what is uploaded, and loaded again over HTTP where the package is missing."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from editreward import EditRewardScorer
from editreward.cli import command as cli
from editreward.publishing.spaces import MODEL_VARIABLE, REVISION_VARIABLE
from editreward.scorers.loading import bundled_model
from tests.helpers.backbones import make_image
from tests.helpers.hub_server import Hub, run_with_hub

ROOT = Path(__file__).parents[2]
REPO, PRIVATE, PLAIN, SPACE = "org/EditReward", "org/Private", "org/Plain", "org/Space"

PUSH = """
import sys
from editreward.cli import command as cli
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

first, second, results, repo, private, plain, space = sys.argv[1:]

def push(kind, *arguments):
    assert cli.main(["push", kind, *arguments]) == 0

push("model", "--model", first, "--repo-id", repo, "--license", "apache-2.0", "--results", results,
     "--base-model", "org/VLM", "--datasets", "org/edits", "--max-shard-size", "500KB")
push("model", "--model", second, "--repo-id", repo)
push("model", "--model", first, "--repo-id", repo, "--revision", "v1")
push("model", "--model", first, "--repo-id", private, "--private")
push("space", "--repo-id", space, "--model", repo, "--model-revision", "v1")
EditRewardModel.from_pretrained(first).push_to_hub(plain)
EditRewardProcessor.from_pretrained(first).push_to_hub(plain)
"""

LOAD = """
import importlib.abc, json, sys

PARTS = ("configuration", "images", "modeling", "pipeline", "processing")
MISSING = {"editreward", *(f"{part}_editreward" for part in PARTS)}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
group, repo, commit, private, plain = json.load(open(sys.argv[1])), *sys.argv[2:]

import torch
from transformers import AutoModel, AutoProcessor, pipeline

def score(name, **where):
    where["trust_remote_code"] = True
    model = AutoModel.from_pretrained(name, **where)
    processor = AutoProcessor.from_pretrained(name, **where)
    with torch.no_grad():
        rewards = model(**processor(**group)).reward.tolist()
    piped = pipeline("edit-reward", model=name, device="cpu", **where)(group)
    return rewards, [candidate["reward"] for candidate in piped["candidates"]]

def refused(load, *arguments):
    try:
        load(*arguments, token=False, trust_remote_code=True)
    except OSError as error:
        return str(error)

scores = {
    "main": score(repo),
    "commit": score(repo, revision=commit),
    "branch": score(repo, revision="v1"),
    "private": score(private),
    "plain": score(plain),
}
errors = [refused(AutoModel.from_pretrained, private), refused(AutoProcessor.from_pretrained, private)]
errors.append(refused(pipeline, "edit-reward", private))
print("RESULT" + json.dumps([scores, errors]))
"""

RESULT = {
    "version": 1,
    "benchmark": "editreward-bench",
    "model": {"name": "x", "notes": []},
    "data": {"name": "org/EditReward-Bench"},
    "settings": {},
    "measures": [
        {"name": "accuracy", "subset": "K = 2", "unit": "share", "value": 0.5699, "low": 0.5, "high": 0.64,
         "total": 186, "chance": 0.25},
        {"name": "Spearman correlation", "subset": "all", "unit": "number", "value": 0.3618, "low": None, "high": None,
         "total": 500},
        {"name": "accuracy", "subset": "K = 4", "unit": "share", "value": None, "low": None, "high": None, "total": 0},
    ],
    "environment": {"editreward": "0.1.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(random_model_dir, tmp_path_factory):
    """A Hub after all pushes, what loading from it gave, and what the models score on this machine."""
    folder = tmp_path_factory.mktemp("push")
    changed = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    for mlp in changed.model.heads.mlps:
        mlp[-1].bias.data += 1
    changed.model.save_pretrained(folder / "changed")
    changed.processor.save_pretrained(folder / "changed")
    paths = [str(folder / f"{index}.png") for index in range(3)]
    for index, path in enumerate(paths):
        make_image(index).save(path)
    group = {"source": paths[0], "edited": paths[1:], "instruction": "make it blue"}
    (folder / "group.json").write_text(json.dumps(group))
    (folder / "result.json").write_text(json.dumps(RESULT))
    here = [
        [score.reward for score in EditRewardScorer.from_pretrained(name, device="cpu").score(**group)]
        for name in (random_model_dir, folder / "changed")
    ]
    with Hub() as hub:
        names = (REPO, PRIVATE, PLAIN, SPACE)
        result = run_with_hub(hub, folder, PUSH, random_model_dir, folder / "changed", folder / "result.json", *names)
        assert result.returncode == 0, result.stdout + result.stderr
        first = hub.repositories[REPO].commits[1][0]
        shutil.rmtree(folder / "hf_home", ignore_errors=True)
        loaded = run_with_hub(hub, folder, LOAD, folder / "group.json", REPO, first, PRIVATE, PLAIN)
        assert loaded.returncode == 0, loaded.stdout + loaded.stderr
        yield hub, json.loads(loaded.stdout.split("RESULT")[1]), here, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("where", "model"), [("main", 1), ("commit", 0), ("branch", 0), ("private", 0), ("plain", 0)])
def test_what_was_pushed_scores_the_same_without_the_package(hub, where, model):
    _, (scores, _), here, _ = hub
    by_model, by_pipeline = scores[where]
    assert by_model == pytest.approx(here[model], abs=1e-5)
    assert by_pipeline == pytest.approx(here[model], abs=1e-5)
    assert here[0] != pytest.approx(here[1], abs=1e-2)


@pytest.mark.slow
def test_a_private_repository_without_a_token_gives_the_hubs_error(hub):
    server, (_, errors), _, _ = hub
    assert server.repositories[PRIVATE].private and not server.repositories[REPO].private
    assert len(errors) == 3
    for error in errors:
        assert PRIVATE in error and "private" in error and "token" in error


@pytest.mark.slow
def test_code_config_and_weights_in_shards_are_uploaded_and_old_shards_deleted(hub):
    repository = hub[0].repositories[REPO]
    (_, first), (_, second) = repository.commits[1:3]
    code = {f"{part}_editreward.py" for part in ("configuration", "images", "modeling", "pipeline", "processing")}
    for files in (first, second, hub[0].repositories[PLAIN].commits[-1][1]):
        assert {"config.json", "processor_config.json", "tokenizer.json", "README.md", *code} <= set(files)
        for name in code:
            assert files[name].content == (ROOT / name).read_bytes()
        assert set(json.loads(files["config.json"].content)["auto_map"]) == {"AutoConfig", "AutoModel"}
    shards = {name for name in first if name.endswith(".safetensors")}
    index = json.loads(first["model.safetensors.index.json"].content)
    assert len(shards) > 2 and set(index["weight_map"].values()) == shards
    assert {name for name in second if "safetensors" in name} == {"model.safetensors"}


@pytest.mark.slow
def test_the_card_has_metadata_and_results(hub):
    card = ModelCard(hub[0].repositories[REPO].commits[1][1]["README.md"].content.decode())
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert (data.license, data.base_model, data.datasets) == ("apache-2.0", "org/VLM", ["org/edits"])
    assert data.metrics == ["accuracy"] and "reward-model" in data.tags
    results = {(each.metric_name, each.metric_value, each.dataset_type) for each in data.eval_results}
    assert results == {
        ("accuracy, K = 2", 0.5699, "org/EditReward-Bench"),
        ("Spearman correlation, all", 0.3618, "org/EditReward-Bench"),
    }
    assert "| accuracy | K = 2 | 57.0 % | 50.0 to 64.0 | 186 | 25.0 |" in card.text
    assert "| Spearman correlation | all | 0.362 | - | 500 | - |" in card.text
    assert f'pipeline("edit-reward", model="{REPO}", trust_remote_code=True)' in card.text
    assert "uncalibrated" in card.text and str(Path.home()) not in card.content
    plain = ModelCard(hub[0].repositories[PLAIN].commits[-1][1]["README.md"].content.decode())
    assert plain.data.library_name == "transformers" and "reward-model" in plain.data.tags


@pytest.mark.slow
def test_notes_say_what_the_card_lacks(hub):
    out = hub[3]
    assert out.count("the card states no licence") == 3 and out.count("the card has no results") == 3
    assert out.count(f"Pushed {hub[0].endpoint}/{REPO}/commit/") == 3


@pytest.mark.slow
def test_the_space_is_pushed_with_its_variables(hub):
    space = hub[0].repositories[SPACE]
    assert space.variables == {MODEL_VARIABLE: REPO, REVISION_VARIABLE: "v1"}
    files = space.commits[-1][1]
    assert {"app.py", "requirements.txt", "editreward/cli/command.py", "modeling_editreward.py"} <= set(files)
    assert files["checkpoints/editreward-tiny/model.safetensors"].lfs
    assert not [name for name in files if "__pycache__" in name]
    metadata = yaml.safe_load(files["README.md"].content.decode().split("---")[1])
    assert (metadata["sdk"], metadata["app_file"], metadata["models"]) == ("gradio", "app.py", [REPO])


def push(*arguments: object) -> int:
    return cli.main(["push", *map(str, arguments)])


def test_a_card_of_training_gets_the_repositorys_name(tmp_path):
    source = shutil.copytree(bundled_model(), tmp_path / "run-7")
    card = ModelCard('---\nmodel_name: run-7\n---\n# run-7\n\nModel.from_pretrained("run-7") in run-7 of June\n')
    card.save(source / "README.md")
    assert push("model", "--repo-id", REPO, "--dry-run", tmp_path / "out", "--model", source) == 0
    written = ModelCard.load(tmp_path / "out" / "README.md")
    name = REPO.split("/")[-1]
    assert written.data.model_name == name
    assert written.text.strip() == f'# {name}\n\nModel.from_pretrained("{REPO}") in run-7 of June'


def test_a_card_that_is_there_is_kept_and_its_files_with_it(tmp_path, capsys):
    result = tmp_path / "result.json"
    result.write_text(json.dumps(RESULT))
    source = shutil.copytree(bundled_model(), tmp_path / "model")
    (source / "training_args.bin").write_bytes(b"a pickle")
    (source / "notes.txt").write_text("mine")
    arguments = ("model", "--repo-id", REPO, "--results", result, "--dry-run")
    assert push(*arguments, tmp_path / "once", "--model", source) == 0
    assert "Nothing was pushed" in capsys.readouterr().out
    card = ModelCard.load(tmp_path / "once" / "README.md")
    assert ModelCard.load(source / "README.md").text.strip().removeprefix("# editreward-tiny") in card.text
    assert card.data.license == "apache-2.0" and "simulated" in card.data.tags
    names = {path.name for path in (tmp_path / "once").iterdir()}
    assert {"results.md", "results.json", "training_log.jsonl"} <= names
    assert not {"training_args.bin", "notes.txt"} & names
    assert push(*arguments, tmp_path / "twice", "--model", tmp_path / "once") == 0
    again = ModelCard.load(tmp_path / "twice" / "README.md")
    assert again.content == card.content, "results are replaced, not repeated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", "--model", "{folder}", "--repo-id", "a b"), "'a b' is no id of a Hub repository"),
        (("model", "--model", "no/such", "--repo-id", REPO), "no/such is neither a model folder nor"),
        (("model", "--model", "{model}", "--repo-id", REPO, "--results", "{model}/config.json"), "is not the result"),
        (("model", "--model", "{model}", "--repo-id", REPO, "--dry-run", "{folder}"), "is there and not empty"),
        (("space", "--repo-id", SPACE, "--model-revision", "v1"), "--model, which is missing"),
        (("space", "--repo-id", SPACE, "--dry-run", "{folder}"), "is there and not empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_one_line(arguments, message, random_model_dir, tmp_path, capsys):
    (tmp_path / "file").touch()
    filled = [argument.format(folder=tmp_path, model=random_model_dir) for argument in arguments]
    assert push(*filled) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and out == ""

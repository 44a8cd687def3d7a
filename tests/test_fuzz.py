"""Files and JSON that were changed at random: an error that says so, or scores; no other exception, no NaN.

The quick run tries a few changes, the slow one dozens. The seeds are fixed.
"""

import json
import math
import random
import shutil

import pytest
import torch
import yaml

from configuration_editreward import EditRewardConfig
from editreward.cli import command as cli
from editreward.groups import EditGroup
from editreward.resources import resource
from editreward.scorers.files import read_scorer
from editreward.scorers.loading import ModelError, load_model_and_processor
from editreward.scorers.registry import ScorerOptions
from editreward.scorers.reward_model import EditRewardScorer
from tests.helpers.pictures import picture

VALUES = [None, True, 0, -1, 1, 2**31, 10**12, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J", "9" * 50, [], {}]
VALUES += [[[]], [1, "a"], {"a": None}, "../../etc/passwd", "{{ 9 ** 9 ** 9 }}", "<|image_pad|>", [0] * 3, 10**6, 0.5]
FILES = ("config.json", "processor_config.json", "tokenizer_config.json")


def places(value, path=()):
    """Paths of all entries of a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(value, draw):
    """A copy with one entry replaced, removed or put twice."""
    value = json.loads(json.dumps(value))
    *above, key = draw.choice(list(places(value)))
    holder = value
    for step in above:
        holder = holder[step]
    if draw.random() < 0.15:
        del holder[key]
    elif draw.random() < 0.1 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = draw.choice(VALUES)
    return value


def is_loaded_or_told(folder, group):
    """Whether a model folder is refused in words, or gives finite scores."""
    try:
        model, processor = load_model_and_processor(str(folder))
        scorer = EditRewardScorer(model, processor, max_batch_tokens=4096)
    except ModelError as error:
        assert str(folder) in str(error)
        return False
    (scores,) = scorer([group])
    for one in getattr(scores, "scored", {}).values():
        assert math.isfinite(one.reward) and all(math.isfinite(d.mean) for d in one.dimensions.values())
    return True


@pytest.fixture(scope="module")
def group():
    return EditGroup([picture(1)], "make it red", [picture(2)])


def try_folders(tmp_path, group, number, seed):
    draw = random.Random(seed)
    folder = shutil.copytree(resource("checkpoints/editreward-tiny"), tmp_path / "model")
    originals = {name: (folder / name).read_text() for name in FILES}
    told = 0
    for _ in range(number):
        name = draw.choice(FILES)
        if draw.random() < 0.1:
            text = originals[name]
            text = text[: draw.randrange(len(text))] + draw.choice(["", "}", "\x00", "NaN"])
        else:
            text = json.dumps(changed(json.loads(originals[name]), draw))
        (folder / name).write_text(text)
        told += not is_loaded_or_told(folder, group)
        (folder / name).write_text(originals[name])
    return told


def test_a_few_changed_model_folders_are_refused_in_words_or_score(tmp_path, group):
    assert try_folders(tmp_path, group, 3, seed=2) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_changed_model_folders_are_refused_in_words_or_score(tmp_path, group, seed):
    assert try_folders(tmp_path, group, 15, seed=100 + seed) >= 2


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("config.json", ("backbone_config", "text_config", "vocab_size"), 10**9),
        ("config.json", ("backbone_config", "text_config", "hidden_size"), 10**6),
        ("config.json", ("backbone_config", "text_config", "num_hidden_layers"), 10**8),
        ("config.json", ("backbone_config", "vision_config", "depth"), 10**8),
        ("config.json", ("backbone_config", "vision_config", "patch_size"), 10**6),
        ("config.json", ("backbone_config", "text_config", "rope_parameters", "mrope_section"), [4, 14, [1, "a"]]),
        ("config.json", ("backbone_config", "text_config", "rope_parameters", "mrope_section"), [4, 14]),
        ("config.json", ("backbone_config", "vision_config", "num_heads"), 7),
        ("config.json", ("backbone_config", "vision_config", "output_hidden_states"), [[]]),
        ("config.json", ("head_hidden_sizes",), [10**9, 16]),
        ("config.json", ("head_hidden_sizes",), ["a", None]),
        ("config.json", ("dimensions",), 5),
        ("config.json", ("calibration",), {"instruction_following": "x", "visual_quality": 3}),
        ("processor_config.json", ("image_processor", "patch_size"), 10**6),
        ("processor_config.json", ("image_processor", "size"), {"shortest_edge": 10**12, "longest_edge": 10**12}),
        ("processor_config.json", ("image_processor", "merge_size"), 0),
        ("processor_config.json", ("image_processor", "image_std"), [0, 0, 0]),
        ("processor_config.json", ("templates",), {"compact": "{source}{text_prompt}" + "a" * 10_000_000}),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_more_than_the_weights_hold_is_refused_before_it_is_allocated(tmp_path, name, entry, value, monkeypatch):
    folder = shutil.copytree(resource("checkpoints/editreward-tiny"), tmp_path / "model")
    content = json.loads((folder / name).read_text())
    holder = content
    for step in entry[:-1]:
        holder = holder[step]
    holder[entry[-1]] = value
    (folder / name).write_text(json.dumps(content))
    monkeypatch.setattr("editreward.scorers.loading._load_model", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(ModelError, match=r"model"):
        load_model_and_processor(str(folder))


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"a": 1}', "\x00\xff", "[" * 5000])
def test_files_with_other_content_are_model_errors(tmp_path, file, content):
    folder = shutil.copytree(resource("checkpoints/editreward-tiny"), tmp_path / "model")
    (folder / file).write_bytes(content.encode("latin-1"))
    try:
        load_model_and_processor(str(folder))
    except ModelError as error:
        assert str(folder) in str(error)


CALIBRATION_NUMBERS = [float("nan"), float("inf"), -float("inf"), "1", None, True, [1], {}, 10**400]


def test_a_calibration_that_is_no_number_is_refused():
    base = json.loads((resource("checkpoints/editreward-tiny") / "config.json").read_text())
    good = {name: {"intercept": 2.5, "slope": 0.7} for name in base["dimensions"]}
    assert EditRewardConfig.from_dict({**base, "calibration": good}).calibration == good
    for value in CALIBRATION_NUMBERS:
        for entry in ("intercept", "slope"):
            bad = {**good, base["dimensions"][0]: {**good[base["dimensions"][0]], entry: value}}
            with pytest.raises(ValueError, match="calibration"):
                EditRewardConfig.from_dict({**base, "calibration": bad})


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    "text", [BOMB, MERGED, "a: &a [*a]", "[" * 5000, "\x00", "a: b: c", "!!python/object:os.system {}"]
)
def test_yaml_bombs_are_refused_by_every_reader(tmp_path, capsys, text):
    from editreward.training.script import main

    file = tmp_path / "file.yaml"
    file.write_text(text)
    for read in (lambda: read_scorer(file, ScorerOptions()), lambda: main(["--config", str(file)])):
        with pytest.raises(ValueError, match=r"file\.yaml"):
            read()
    assert cli.main(["score", "--scorer", str(file), "--source", "a", "--edited", "b", "--instruction", "c"]) == 2


def test_aliases_as_people_use_them_are_fine(tmp_path):
    from editreward.yaml_files import load_yaml

    text = "base: &base {device: cpu, dtype: float32}\nscorer: ssim\nown:\n  <<: *base\n  dtype: bfloat16\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert torch.device(load_yaml(text)["own"]["device"]).type == "cpu"

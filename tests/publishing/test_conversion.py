"""Conversion of published checkpoints, against the outputs of the published implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from editreward.cli.command import main
from editreward.conversion import (
    ConversionError,
    Prompts,
    convert_checkpoint,
    read_prompts_json,
    read_prompts_py,
    read_state_dict,
)
from modeling_editreward import EditRewardModel, aggregate
from processing_editreward import EditRewardProcessor

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
BACKBONE = GOLDEN / "base_model"


@pytest.fixture(scope="module")
def published():
    return load_file(GOLDEN / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def prompts():
    return read_prompts_json(GOLDEN / "cases.json")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The golden checkpoint, converted by the command."""
    output = tmp_path_factory.mktemp("converted")
    arguments = ["--checkpoint", GOLDEN / "checkpoint", "--backbone", BACKBONE, "--templates", GOLDEN / "cases.json"]
    assert main(["convert", *map(str, arguments), "--output", str(output)]) == 0
    return output


def score(folder, case, dtype=None):
    model = EditRewardModel.from_pretrained(folder, dtype=dtype or "auto").eval()
    processor = EditRewardProcessor.from_pretrained(folder)
    images = GOLDEN / "images"
    group = processor.pack(images / case["source"], [images / name for name in case["edited"]], case["instruction"])
    with torch.no_grad():
        return group, model(**processor.collate([group]))


def state_after(folder):
    return EditRewardModel.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["source"])
def test_scores_token_counts_and_grids_are_those_of_the_published_implementation(converted, case):
    group, output = score(converted, case)
    dimensions = ["instruction_following", "visual_quality"]
    expected = torch.tensor([case["logits_per_dimension"][name] for name in dimensions]).transpose(0, 1)
    assert (torch.stack([output.mean, output.log_std], dim=-1) - expected).abs().max() < 1e-5
    for aggregation in ("mean", "min", "sum"):
        ours = torch.stack(aggregate(output.mean, output.log_std, aggregation, "reference"), dim=-1)
        assert (ours - torch.tensor(case[f"logits_{aggregation}"])).abs().max() < 1e-5, aggregation
    assert (output.reward - torch.tensor(case["logits_mean"])[:, 0]).abs().max() < 1e-5
    assert group.path_lengths().T.tolist() == [case["num_tokens"][name] for name in dimensions]
    # The published code encodes source and edit for each candidate; here the source comes once.
    pairs = [
        grid for edited in group.image_grid_thw[1:].tolist() for grid in (group.image_grid_thw[0].tolist(), edited)
    ]
    assert pairs == case["image_grid_thw"]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["source"])
def test_bfloat16_keeps_the_ranking_where_scores_differ(converted, case):
    _, output = score(converted, case, dtype=torch.bfloat16)
    reference = torch.tensor(case["logits_mean"])[:, 0]
    apart = (reference[:, None] - reference[None]) > 0.05
    assert ((output.reward[:, None] > output.reward[None]) | ~apart).all()


def test_the_checkpoint_is_in_the_folder_bit_for_bit(converted, published):
    ours = state_after(converted)
    assert torch.equal(ours["heads.mlps.1.3.weight"], published["rm_heads.head_1.3.weight"])
    for key, value in published.items():
        if key.startswith("model."):
            assert torch.equal(ours[key.replace("model.", "backbone.", 1)], value), key
    assert not any("lm_head" in key for key in ours)


def as_older(state_dict):
    """The older published layout: `visual` at the top, no `language_model` in the text model's keys."""
    return {
        key.replace("model.visual", "visual").replace("model.language_model", "model"): value
        for key, value in state_dict.items()
    }


def write_pth(state_dict, folder):
    torch.save(state_dict, folder / "model.pth")
    return folder / "model.pth"


def write_wrapped(state_dict, folder):
    torch.save({"model": state_dict, "step": torch.tensor(3)}, folder / "model.pth")
    torch.save({"cpu": [1, 2]}, folder / "rng_state.pth")
    return folder


def write_older(state_dict, folder):
    save_file(as_older(state_dict), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_shards(state_dict, folder):
    keys, index = sorted(state_dict), {}
    for number in range(3):
        part = {key: state_dict[key] for key in keys[number::3]}
        save_file(part, folder / f"model-{number}.safetensors")
        index.update(dict.fromkeys(part, f"model-{number}.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("write", [write_pth, write_wrapped, write_older, write_shards])
def test_every_published_file_layout_gives_the_same_model(converted, published, prompts, tmp_path, write):
    (tmp_path / "in").mkdir()
    convert_checkpoint(write(published, tmp_path / "in"), BACKBONE, prompts, tmp_path / "out")
    expected = state_after(converted)
    assert all(torch.equal(value, expected[key]) for key, value in state_after(tmp_path / "out").items())


def test_a_vocabulary_that_shrinks_from_the_padded_size_is_kept(published, prompts, tmp_path):
    # As Qwen's does: the backbone pads its embeddings beyond the tokenizer, resizing to the tokenizer cuts that off.
    padded = tmp_path / "padded"
    model = AutoModelForImageTextToText.from_pretrained(BACKBONE)
    model.resize_token_embeddings(1024)
    model.save_pretrained(padded)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(padded)
    (padded / "preprocessor_config.json").write_bytes((BACKBONE / "preprocessor_config.json").read_bytes())
    config = convert_checkpoint(GOLDEN / "checkpoint", padded, prompts, tmp_path / "out")
    assert config.get_text_config().vocab_size == 909
    case = CASES["cases"][3]
    _, output = score(tmp_path / "out", case)
    assert (output.reward - torch.tensor(case["logits_mean"])[:, 0]).abs().max() < 1e-5


def test_a_tokenizer_beside_the_checkpoint_is_used(published, prompts, tmp_path):
    save_file(published, tmp_path / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|Reward|>"]}, replace_extra_special_tokens=False)
    tokenizer.model_max_length = 1234
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    convert_checkpoint(tmp_path, BACKBONE, prompts, tmp_path / "out")
    assert EditRewardProcessor.from_pretrained(tmp_path / "out").tokenizer.model_max_length == 1234
    _, output = score(tmp_path / "out", CASES["cases"][3])
    assert (output.reward - torch.tensor(CASES["cases"][3]["logits_mean"])[:, 0]).abs().max() < 1e-5


def with_one_head(state_dict, wide=None):
    """A shared or single head in the published layout, optionally narrower."""
    ours = {key: value for key, value in state_dict.items() if not key.startswith("rm_heads.")}
    for layer in (0, 3, 5):
        for part in ("weight", "bias"):
            ours[f"rm_head.{layer}.{part}"] = state_dict[f"rm_heads.head_0.{layer}.{part}"].clone()
    if wide:
        ours["rm_head.0.weight"], ours["rm_head.0.bias"] = (
            ours["rm_head.0.weight"][:wide],
            ours["rm_head.0.bias"][:wide],
        )
        ours["rm_head.3.weight"] = ours["rm_head.3.weight"][:, :wide].contiguous()
    return ours


def test_heads_keep_their_prompts_whatever_the_order_of_the_templates(prompts, converted, tmp_path):
    turned = Prompts(dict(reversed(prompts.templates.items())), prompts.reward_suffix, prompts.system_prompt)
    assert list(turned.templates) == ["visual_quality", "instruction_following"]
    config = convert_checkpoint(GOLDEN / "checkpoint", BACKBONE, turned, tmp_path)
    assert config.dimensions == ["instruction_following", "visual_quality"]
    case = CASES["cases"][0]
    assert torch.equal(score(tmp_path, case)[1].mean, score(converted, case)[1].mean)


def test_a_shared_head_reads_both_prompts(published, prompts, tmp_path):
    torch.save(with_one_head(published), tmp_path / "model.pth")
    config = convert_checkpoint(tmp_path / "model.pth", BACKBONE, prompts, tmp_path / "out")
    assert config.head_type == "shared"
    case = CASES["cases"][3]
    _, output = score(tmp_path / "out", case)
    expected = torch.tensor(case["logits_per_dimension"]["instruction_following"])
    assert (torch.stack([output.mean[:, 0], output.log_std[:, 0]], dim=-1) - expected).abs().max() < 1e-5


def test_a_single_head_of_other_widths_reads_the_overall_prompt(published, prompts, tmp_path):
    weights = with_one_head(published, wide=128)
    torch.save(weights, tmp_path / "model.pth")
    # Under the instruction-following prompt the backbone computes what the golden case did.
    overall = Prompts(
        {"overall": prompts.templates["instruction_following"]}, prompts.reward_suffix, prompts.system_prompt
    )
    config = convert_checkpoint(tmp_path / "model.pth", BACKBONE, overall, tmp_path / "out")
    assert (config.head_type, config.dimensions, config.head_hidden_sizes) == ("single", ["overall"], [128, 16])
    seen = []
    model = EditRewardModel.from_pretrained(tmp_path / "out").eval()
    model.heads.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    processor = EditRewardProcessor.from_pretrained(tmp_path / "out")
    images, case = GOLDEN / "images", CASES["cases"][3]
    with torch.no_grad():
        output = model(**processor(images / case["source"], [images / case["edited"][0]], case["instruction"]))
    hidden = seen[0][0][0, 0]
    first = torch.relu(weights["rm_head.0.weight"] @ hidden + weights["rm_head.0.bias"])
    second = torch.relu(weights["rm_head.3.weight"] @ first + weights["rm_head.3.bias"])
    expected = weights["rm_head.5.weight"] @ second + weights["rm_head.5.bias"]
    assert torch.allclose(torch.stack([output.mean[0, 0], output.log_std[0, 0]]), expected, atol=1e-6)
    assert torch.allclose(output.reward, output.mean[:, 0])


def test_prompts_are_read_from_python_files_without_running_them(prompts, tmp_path):
    templates = prompts.templates
    (tmp_path / "prompts.py").write_text(
        "raise SystemExit('this file must not run')\n"
        f"INSTRUCTION_EDIT_FOLLOWING = {templates['instruction_following']!r}\n"
        f"INSTRUCTION_EDIT_QUALITY = {templates['visual_quality']!r}\n"
        "INSTRUCTION_EDIT_OVERALL = 'brief {{x}} {text_prompt}'\n"
        "INSTRUCTION_EDIT_OVERALL_DETAILED = 'long {text_prompt}'\n"
    )
    (tmp_path / "collator.py").write_text(
        f"import missing_module\nprompt_with_special_token = {prompts.reward_suffix!r}\n"
    )
    files = [tmp_path / "prompts.py", tmp_path / "collator.py"]
    read = read_prompts_py(files)
    assert read.templates == {**templates, "overall": "long {text_prompt}"}
    assert read.reward_suffix == prompts.reward_suffix
    assert read_prompts_py(files, overall="overall").templates["overall"] == "brief {x} {text_prompt}"
    with pytest.raises(ConversionError, match="prompt_with_special_token.*as well"):
        read_prompts_py(files[:1])
    with pytest.raises(ConversionError, match="INSTRUCTION_EDIT_FOLLOWING"):
        read_prompts_py(files[1:])


def test_a_checkpoint_that_does_not_fit_names_missing_and_left_over_keys(published, prompts, tmp_path):
    weights = dict(published)
    del weights["model.language_model.norm.weight"]
    weights["model.language_model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)
    weights["critic.weight"] = torch.zeros(2)
    weights["rm_heads.head_1.5.weight"] = torch.zeros(3, 16)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ConversionError) as error:
        convert_checkpoint(tmp_path / "model.pth", BACKBONE, prompts, tmp_path / "out")
    message = str(error.value)
    assert "missing: backbone.language_model.norm.weight" in message
    assert "critic.weight" in message and "layers.7.mlp.up_proj.weight" in message
    assert "heads.mlps.1.5.weight ((3, 16), not (2, 16))" in message


def test_weights_that_are_not_numbers_are_refused(published, prompts, tmp_path):
    weights = dict(published)
    weights["rm_heads.head_0.0.bias"] = torch.full_like(weights["rm_heads.head_0.0.bias"], torch.nan)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ConversionError, match="heads.mlps.0.0.bias holds NaN"):
        convert_checkpoint(tmp_path / "model.pth", BACKBONE, prompts, tmp_path / "out")


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("fault", ["absent", "empty", "pickle", "list", "shard"])
def test_unusable_checkpoints_are_named(published, tmp_path, fault):
    path = tmp_path / "model.pth"
    if fault == "pickle":
        torch.save({"model": Exploit()}, path)
    elif fault == "list":
        torch.save([torch.zeros(1)], path)
    elif fault == "shard":
        write_shards(published, tmp_path)
        (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ConversionError, match=tmp_path.name):
        read_state_dict(path if fault in ("absent", "pickle", "list") else tmp_path)


def test_the_command_reports_a_missing_file_in_one_line(tmp_path, capsys):
    arguments = ["--checkpoint", "nowhere.pth", "--backbone", str(BACKBONE), "--templates", str(GOLDEN / "cases.json")]
    assert main(["convert", *arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "nowhere.pth" in error and error.count("\n") == 1

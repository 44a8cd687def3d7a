"""Pre-training of the tiny vision-language model: preprocessing, tokenizer, the packed tree, and the script itself."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from editreward.simulation import simulate_group
from editreward.simulation.captions import KINDS, corpus
from editreward.simulation.grounding import ATTRIBUTES, COMPARISONS
from tests.helpers.processes import as_script, errors_of, run_ranks


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    path = Path(__file__).parents[2] / "research" / "pretrain_tiny_vlm.py"
    spec = importlib.util.spec_from_file_location("pretrain_tiny_vlm", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer(script: ModuleType) -> PreTrainedTokenizerFast:
    """A tokenizer of a few simulated groups."""
    return script.build_tokenizer(corpus(simulate_group(seed, candidates=2, size=84) for seed in range(20)), 700)


MICRO = {
    "patch_size": 8,
    "merge_size": 2,
    "vision_hidden_size": 32,
    "vision_intermediate_size": 48,
    "vision_depth": 2,
    "vision_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
}


@pytest.mark.parametrize(("patch_size", "merge_size"), [(16, 1), (8, 2), (14, 2)])
def test_patches_equal_the_library_image_processor(script: ModuleType, patch_size: int, merge_size: int) -> None:
    args = script.ModelArguments(patch_size=patch_size, merge_size=merge_size)
    generator = torch.Generator().manual_seed(0)
    arrays = torch.randint(0, 256, (3, 112, 112, 3), generator=generator, dtype=torch.uint8).numpy()
    images = [Image.fromarray(array) for array in arrays]
    processor = script.build_image_processor(args)
    expected = processor(images, return_tensors="pt")
    patches = torch.from_numpy(script.to_patches(images, patch_size, merge_size).copy())
    torch.testing.assert_close(script.normalise(patches, processor), expected["pixel_values"], atol=2e-6, rtol=0)
    assert expected["image_grid_thw"].tolist() == [[1, 112 // patch_size, 112 // patch_size]] * 3


@pytest.mark.parametrize(
    "text", ["把红色的圆形变成蓝色。", "🙂 🧑‍🚀 ünïcode\t\n  x", "Paint it  blue, 1234!", "กขค ﷽ \u2028"]
)
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_rubric_words_and_special_tokens_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode(" image", add_special_tokens=False)) == 1
    for special in ("<|im_start|>", "<|image_pad|>", "<|vision_end|>"):
        assert len(tokenizer.encode(special, add_special_tokens=False)) == 1


def test_packed_tree_equals_separate_rows_of_the_plain_model(
    script: ModuleType, tokenizer: PreTrainedTokenizerFast
) -> None:
    model_args = script.ModelArguments(**MICRO)
    args = script.TrainArguments(candidates=3, edited_captions=1, judged=2)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(script.build_config(model_args, tokenizer))
    for parameter in model.parameters():  # the default initialisation is too small to tell tokens apart
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.5)
    plain = Qwen2_5_VLForConditionalGeneration(script.build_config(model_args, tokenizer))
    plain.load_state_dict(model.state_dict())
    processor = script.build_image_processor(model_args)
    batch = script.make_batch(range(2), "train", tokenizer, model_args, args)
    script.set_backbone_attention(model.model.config, None)
    with torch.no_grad():
        packed = script.forward(model, script.GroundingHeads(64, -2), batch, processor).words

    separate, kinds = [], []
    for seed in range(2):
        group = simulate_group(seed, split="train", candidates=3, size=112)
        segments = script.encode_group(group, tokenizer, 49, args, Random(seed))
        for segment in segments:
            if max(segment.kinds) == script.NO_KIND:
                continue
            path = [segment]
            while path[0].parent is not None:
                path.insert(0, segments[path[0].parent])
            ids = torch.tensor([[token for part in path for token in part.input_ids]])
            images = [group.source]
            images += [] if segment.candidate is None else [group.candidates[segment.candidate].image]
            inputs = processor(images, return_tensors="pt")
            token_types = (ids == model.config.image_token_id).int()
            with torch.no_grad():
                logits = plain(input_ids=ids, mm_token_type_ids=token_types, **inputs).logits[0]
            start = ids.shape[1] - len(segment.input_ids)
            predicted = [i for i, kind in enumerate(segment.kinds) if kind != script.NO_KIND]
            separate.append(logits[[start + i - 1 for i in predicted]])
            kinds += [segment.kinds[i] for i in predicted]
    separate = torch.cat(separate)
    assert separate.std() > 0.1
    assert kinds == batch["targets"][:, 2].tolist()
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-5)


def test_script_writes_a_loadable_folder_and_resumes(script: ModuleType, tmp_path: Path) -> None:
    output, run = tmp_path / "model", tmp_path / "run"
    options = {"output_dir": output, "run_dir": run, "groups": 2, "candidates": 2, "eval_groups": 2, "workers": 0}
    options |= {"tokenizer_groups": 20, "vocab_size": 700, "log_steps": 1, "max_steps": 3, "threads": 1, **MICRO}
    threads = torch.get_num_threads()
    script.main([part for name, value in options.items() for part in (f"--{name}", str(value))])

    model = AutoModelForImageTextToText.from_pretrained(output)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not any("lm_head" in name for name in load_file(output / "model.safetensors"))
    assert AutoConfig.from_pretrained(output).model_type == "qwen2_5_vl"
    assert AutoModel.from_pretrained(output).config.vision_config.temporal_patch_size == 1
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.decode(tokenizer.encode("把圆形🙂", add_special_tokens=False)) == "把圆形🙂"
    processor = Qwen2VLImageProcessorPil.from_pretrained(output)
    inputs = processor([Image.new("RGB", (64, 64))], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 14, 14]]
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|vision_start|><|image_pad|><|vision_end|>hello<|im_end|>\n<|im_start|>assistant\n")
    card = (output / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("simulated world", "Token accuracy", "3 steps"))

    options["max_steps"] = 5
    script.main([part for name, value in options.items() for part in (f"--{name}", str(value))] + ["--resume"])
    torch.set_num_threads(threads)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["resumed_from"] for line in lines if "resumed_from" in line] == [0, 3]
    assert [line["step"] for line in lines if "train_loss" in line] == [1, 2, 3, 4, 5]
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    assert len(held_out) == 2
    assert {*KINDS, "f1_colour", "f1_shape", "f1_changed", "f1_wrong"} <= set(held_out[0])


def test_dense_losses_are_the_mean_over_image_tokens(script: ModuleType, tokenizer: PreTrainedTokenizerFast) -> None:
    args = script.TrainArguments(candidates=3)
    batch = script.make_batch(range(2), "train", tokenizer, script.ModelArguments(**MICRO), args)
    tokens = 2 * 4 * 49
    assert batch["attributes"].shape == (tokens, len(ATTRIBUTES))
    assert batch["comparisons"].shape == (tokens, len(COMPARISONS))
    assert int((batch["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum()) == tokens

    def loss(attributes: torch.Tensor, comparisons: torch.Tensor) -> float:
        return script.grounding_loss(script.Outputs(torch.empty(0), attributes, comparisons), batch).item()

    unsure = torch.zeros(tokens, len(ATTRIBUTES)), torch.zeros(tokens, len(COMPARISONS))
    assert loss(*unsure) == pytest.approx(math.log(2) * (len(ATTRIBUTES) + len(COMPARISONS)), rel=1e-5)
    right = batch["attributes"].float() * 200 - 100, batch["comparisons"].nan_to_num(0.5) * 200 - 100
    assert loss(*right) == pytest.approx(0, abs=1e-6)
    wrong = right[0].clone()
    wrong[5, 3] *= -1  # one name of one token: a loss of 100
    assert loss(wrong, right[1]) == pytest.approx(100 / tokens, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_one_model_on_different_groups(tmp_path: Path) -> None:
    options = {"output_dir": tmp_path / "model", "run_dir": tmp_path / "run", "groups": 1, "candidates": 2}
    options |= {"eval_groups": 2, "workers": 0, "tokenizer_groups": 20, "vocab_size": 700, "log_steps": 1}
    options |= {"max_steps": 2, "threads": 1, **MICRO}
    root = Path(__file__).parents[2]
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    codes = run_ranks(as_script, root / "scripts" / "pretrain_tiny_vlm.py", *words, folder=tmp_path)
    assert codes == [0, 0], errors_of(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["ranks"] == 2
    assert [line["step"] for line in lines if "train_loss" in line] == [1, 2]
    assert [line["groups"] for line in lines if "held_out" in line] == [4]
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


def average(script_path: Path) -> None:
    """What one of two processes does in the test below."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    spec = importlib.util.spec_from_file_location("pretrain_tiny_vlm", script_path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:  # a parameter that only one process used
        parameters[1].grad = torch.ones(1, 3)
    module.average_gradients(parameters)
    assert parameters[0].grad.tolist() == [1.5, 3.0]
    assert parameters[1].grad.tolist() == [[0.5, 0.5, 0.5]]
    assert module.agreed(float(rank)) == 0.0
    assert module.rank_and_ranks() == (rank, 2)
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "research" / "pretrain_tiny_vlm.py"
    assert run_ranks(average, path, folder=tmp_path) == [0, 0], errors_of(tmp_path)

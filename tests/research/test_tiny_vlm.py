"""Pre-training of the tiny vision-language model: tokenizer, packed tree, first weights, optimizer, and whole runs."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
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

from editreward.dense_heads import DenseHeads, DenseLayers
from editreward.simulation import simulate_group
from editreward.simulation.captions import KINDS, corpus
from editreward.simulation.collage.assets import names as collage_names
from editreward.simulation.grounding import vocabulary_of
from editreward.simulation.world import COLOURS, PLACES, SHAPES, TONES
from modeling_editreward import set_backbone_attention
from research.tiny_vlm import train as script
from research.tiny_vlm.arguments import DataArguments, ModelArguments
from research.tiny_vlm.data import GroupEncoder, batch_of, instruction_batch, make_batch, simulate
from research.tiny_vlm.distributed import agreed, average_gradients, rank_and_ranks
from research.tiny_vlm.evaluation import count_near_misses
from research.tiny_vlm.images import to_patches
from research.tiny_vlm.losses import forward
from research.tiny_vlm.model import (
    begin_with,
    build_config,
    build_image_processor,
    image_features,
    normalise,
    run_packed,
)
from research.tiny_vlm.optimizers import orthogonalised
from research.tiny_vlm.packing import NO_KIND
from research.tiny_vlm.seeing import Naming, SceneBank, Seen, crowded_scene, draw, seeing_batch
from research.tiny_vlm.tokenizer import begin_as_nouns, build_tokenizer, names_things, transfer_embeddings
from tests.helpers.processes import errors_of, run_ranks


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a few simulated groups."""
    return build_tokenizer(corpus(simulate_group(seed, candidates=2, size=84) for seed in range(20)), 700)


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
def test_patches_equal_the_library_image_processor(patch_size: int, merge_size: int) -> None:
    args = ModelArguments(patch_size=patch_size, merge_size=merge_size)
    generator = torch.Generator().manual_seed(0)
    arrays = torch.randint(0, 256, (3, 112, 112, 3), generator=generator, dtype=torch.uint8).numpy()
    images = [Image.fromarray(array) for array in arrays]
    processor = build_image_processor(args)
    expected = processor(images, return_tensors="pt")
    patches = torch.from_numpy(to_patches(images, patch_size, merge_size).copy())
    torch.testing.assert_close(normalise(patches, processor), expected["pixel_values"], atol=2e-6, rtol=0)
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


def test_packed_tree_equals_separate_rows_of_the_plain_model(tokenizer: PreTrainedTokenizerFast) -> None:
    model_args = ModelArguments(**MICRO)
    args = DataArguments(candidates=3, edited_captions=1, judged=2)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(build_config(model_args, tokenizer))
    for parameter in model.parameters():  # the default initialisation is too small to tell tokens apart
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.5)
    plain = Qwen2_5_VLForConditionalGeneration(build_config(model_args, tokenizer))
    plain.load_state_dict(model.state_dict())
    processor = build_image_processor(model_args)
    groups = [simulate(seed, "train", model_args, args) for seed in range(2)]
    batch = batch_of(groups, [0, 1], tokenizer, model_args, args)
    set_backbone_attention(model.model.config, None)
    with torch.no_grad():
        packed = forward(model, DenseHeads(64, DenseLayers.of(2)), batch, processor).words

    separate, kinds = [], []
    encoder = GroupEncoder(tokenizer, model_args, args)
    rubric = encoder.rubric(Random(0))
    for seed, group in enumerate(groups):
        segments = encoder(group, rubric, Random(seed))
        for segment in segments:
            if max(segment.kinds) == NO_KIND:
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
            predicted = [i for i, kind in enumerate(segment.kinds) if kind != NO_KIND]
            separate.append(logits[[start + i - 1 for i in predicted]])
            kinds += [segment.kinds[i] for i in predicted]
    separate = torch.cat(separate)
    assert separate.std() > 0.1
    assert kinds == batch["targets"][:, 2].tolist()
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-5)


def test_words_of_the_world_are_whole_tokens_in_both_languages() -> None:
    groups = (simulate_group(seed, candidates=1, size=84) for seed in range(1500))
    tokenizer = build_tokenizer(corpus(groups), 2048)
    for names in (COLOURS, SHAPES, PLACES, TONES):
        for english, chinese in names.items():
            for text in (*(f" {word}" for word in english.split()), chinese):
                assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text


def test_names_that_no_split_holds_out_are_whole_tokens_in_chinese() -> None:
    worlds = ("shapes", "collage")
    groups = [simulate_group(seed, candidates=1, size=84, world=worlds[seed % 2]) for seed in range(40)]
    tokenizer = build_tokenizer(corpus(groups), 1200, worlds)
    assert len(tokenizer) <= 1200
    one_token = {
        name.held_out: len(tokenizer.encode(name.chinese, add_special_tokens=False)) == 1
        for name in collage_names().values()
    }
    assert one_token == {False: True, True: False}
    for group in groups:
        assert tokenizer.decode(tokenizer.encode(group.instruction)) == group.instruction


def test_a_word_keeps_its_embedding_under_another_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    smaller = build_tokenizer(corpus(simulate_group(seed, candidates=2, size=84) for seed in range(5)), 400)
    table = torch.randn(len(smaller), 8, generator=torch.Generator().manual_seed(0))
    moved = transfer_embeddings(smaller, table, tokenizer)
    assert moved.shape == (len(tokenizer), 8)
    new, old = tokenizer.get_vocab(), smaller.get_vocab()
    assert torch.equal(moved[new["<|im_end|>"]], table[old["<|im_end|>"]])
    token = next(token for token in new if token not in old and token.isascii() and "\u0120" not in token)
    pieces = smaller.encode(token, add_special_tokens=False)
    torch.testing.assert_close(moved[new[token]], table[pieces].mean(0))


def test_names_of_things_begin_with_what_names_of_shapes_have_in_common(tokenizer: PreTrainedTokenizerFast) -> None:
    worlds = ("shapes", "collage")
    texts = corpus(simulate_group(seed, candidates=1, size=84, world=worlds[seed % 2]) for seed in range(40))
    both = build_tokenizer(texts, 2000, worlds)
    assert names_things(both) and not names_things(tokenizer)
    table = torch.randn(len(both), 8, generator=torch.Generator().manual_seed(0))
    new, drawn = begin_as_nouns(table, both), [name for name in collage_names().values() if name.name not in SHAPES]

    def mean(rows: torch.Tensor, words: list[str]) -> torch.Tensor:
        pieces = [both.encode(word, add_special_tokens=False) for word in words]
        return torch.stack([rows[ids].mean(0) for ids in pieces]).mean(0)

    known = [name.chinese for name in drawn if not name.held_out]
    shapes = list(SHAPES.values())
    assert torch.equal(mean(new, shapes), mean(table, shapes))
    before, after = ((mean(rows, known) - mean(table, shapes)).norm() for rows in (table, new))
    assert after < before / 4
    for word in (" red", " of", " and"):
        assert torch.equal(new[both.encode(word)], table[both.encode(word)])


def test_a_deeper_model_begins_as_the_earlier_one(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    args = ModelArguments(**MICRO)
    torch.manual_seed(0)
    earlier = Qwen2_5_VLForConditionalGeneration(build_config(args, tokenizer)).eval()
    for parameter in earlier.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.5)
    earlier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    deeper = Qwen2_5_VLForConditionalGeneration(build_config(replace(args, layers=4), tokenizer)).eval()
    begin_with(deeper, tokenizer, tmp_path, insert_at=1)
    ids = torch.arange(20)[None] + 30
    with torch.no_grad():
        expected, found = earlier(input_ids=ids).logits, deeper(input_ids=ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_orthogonalised_matrices_keep_their_directions(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    within = left.mT @ orthogonalised(matrices) @ right.mT
    values = within.diagonal(dim1=1, dim2=2)
    assert ((values > 0.6) & (values < 1.3)).all()  # what five steps of the iteration reach
    torch.testing.assert_close(within - torch.diag_embed(values), torch.zeros_like(within), atol=1e-4, rtol=0)


def test_without_candidates_only_the_source_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    model_args = ModelArguments(**MICRO)
    args = DataArguments(candidates=0, source_captions=0)
    groups = [simulate(seed, "train", model_args, args) for seed in range(2)]
    batch = batch_of(groups, [0, 1], tokenizer, model_args, args)
    assert batch["attributes"].shape[:2] == (2, 1) and len(batch["targets"]) == 0
    assert (batch["segment_parents"] == -1).all()
    model = Qwen2_5_VLForConditionalGeneration(build_config(model_args, tokenizer))
    set_backbone_attention(model.model.config, None)
    outputs = forward(model, DenseHeads(64, DenseLayers.of(2)), batch, build_image_processor(model_args))
    assert outputs.words is None and outputs.dense.mismatches is None
    assert outputs.dense.asked.shape[:3] == (2, 1, 49)


def test_instructions_alone_are_read_as_beside_a_source(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    worlds = ["shapes", "collage"]
    model_args, args = ModelArguments(**MICRO), DataArguments(candidates=0, source_captions=0, worlds=worlds)
    model = Qwen2_5_VLForConditionalGeneration(build_config(model_args, tokenizer))
    set_backbone_attention(model.model.config, None)
    processor, seeds = build_image_processor(model_args), range(4)
    alone = instruction_batch(seeds, tokenizer, model_args, args)
    beside = make_batch(seeds, "train", tokenizer, model_args, args)
    assert torch.equal(alone["request"], beside["request"]) and len(alone["patches"]) == 0
    (_, first), (_, second) = (run_packed(model, batch, processor, 2) for batch in (alone, beside))
    before_source = (beside["input_ids"] == model.config.image_token_id).int().argmax(-1) - 1
    assert torch.allclose(first[1][0, alone["ends"]], second[1][range(4), before_source], atol=1e-5)


def test_pairs_of_a_perfect_edit_and_a_near_miss_are_counted_by_attribute() -> None:
    batch = {"following": torch.tensor([[4, 2, 4, 1]]), "missed": torch.tensor([[-1, 0, -1, -1]])}
    counts: dict[str, torch.Tensor] = {}
    count_near_misses(counts, "x", torch.tensor([[3.0, 2.0, 1.0, 9.0]]), batch)
    assert counts["near_x_colour"].tolist() == [1, 2] and counts["near_x_all"].tolist() == [1, 2]
    assert counts["near_x_shape"].tolist() == [0, 0]
    count_near_misses(counts, "x", torch.tensor([[3.0, torch.nan, 1.0, 9.0]]), batch)
    assert counts["near_x_colour"].tolist() == [1, 2]


def test_script_writes_a_loadable_folder_and_resumes(tmp_path: Path) -> None:
    output, run = tmp_path / "model", tmp_path / "run"
    options = {"output_dir": output, "run_dir": run, "groups": 2, "candidates": 2, "eval_groups": 2, "workers": 0}
    options |= {"reading_groups": 2, "instructions": 5, "scenes": 3, "scenes_again": 0.5}
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
    assert all(word in card for word in ("coloured shapes", "Token accuracy", "3 steps"))

    options["max_steps"] = 5
    script.main([part for name, value in options.items() for part in (f"--{name}", str(value))] + ["--resume"])
    torch.set_num_threads(threads)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["resumed_from"] for line in lines if "resumed_from" in line] == [0, 3]
    assert [line["step"] for line in lines if "train_loss" in line] == [1, 2, 3, 4, 5]
    assert all({"scenes_naming", "instructions_request"} <= set(line) for line in lines if "train_loss" in line)
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    assert len(held_out) == 2
    assert {*KINDS, "f1_colour", "f1_shape", "f1_changed", "f1_wrong", "request_category"} <= set(held_out[0])
    assert DenseHeads.load(output).layers == DenseLayers.of(2)


def test_seeing_goes_on_with_the_names_and_without_a_change_to_the_embeddings(tmp_path: Path) -> None:
    options = {"groups": 0, "scenes": 4, "eval_groups": 0, "workers": 0, "vocab_size": 700, "log_steps": 1, **MICRO}
    folders = [tmp_path / name for name in ("first", "second")]
    more = ({"tokenizer_groups": 20}, {"init_from": folders[0] / "model", "naming_from": folders[0]})
    for folder, extra in zip(folders, more, strict=True):
        given = options | extra | {"output_dir": folder / "model", "run_dir": folder, "max_steps": 1}
        given |= {"train_embeddings": folder is folders[0], "seed": folders.index(folder)}
        script.main([part for name, value in given.items() for part in (f"--{name}", str(value))])
    first, second = (torch.load(folder / "state" / "state.pt", weights_only=True) for folder in folders)
    name = "model.language_model.embed_tokens.weight"
    assert torch.equal(first["model"][name].bfloat16().float(), second["model"][name])
    change = (second["naming"]["project.1.weight"] - first["naming"]["project.1.weight"]).abs().max()
    assert 0 < change < 0.01  # a new one would differ by about 0.1


def train_with(*words: str) -> None:
    """What each of two processes does in the test below."""
    script.main([str(word) for word in words])
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_model_on_different_groups(tmp_path: Path) -> None:
    options = {"output_dir": tmp_path / "model", "run_dir": tmp_path / "run", "groups": 1, "candidates": 2}
    options |= {"eval_groups": 2, "workers": 0, "tokenizer_groups": 20, "vocab_size": 700, "log_steps": 1}
    options |= {"max_steps": 2, "threads": 1, **MICRO}
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    codes = run_ranks(train_with, *words, folder=tmp_path)
    assert codes == [0, 0], errors_of(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["ranks"] == 2
    assert [line["step"] for line in lines if "train_loss" in line] == [1, 2]
    assert [line["groups"] for line in lines if "held_out" in line] == [4]
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


def average() -> None:
    """What one of two processes does in the test below."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:  # a parameter that only one process used
        parameters[1].grad = torch.ones(1, 3)
    average_gradients(parameters)
    assert parameters[0].grad.tolist() == [1.5, 3.0]
    assert parameters[1].grad.tolist() == [[0.5, 0.5, 0.5]]
    assert agreed(float(rank)) == 0.0
    assert rank_and_ranks() == (rank, 2)
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    assert run_ranks(average, folder=tmp_path) == [0, 0], errors_of(tmp_path)


def test_crowded_scenes_show_more_and_nothing_held_out() -> None:
    vocabulary = vocabulary_of(("shapes", "collage"))
    held_out = {f"shape {name.name}" for name in collage_names().values() if name.held_out}
    worlds = "shapes", "collage"
    batch = seeing_batch([draw(seed, worlds, 112, 4, vocabulary) for seed in range(12)], 14)
    assert batch["patches"].shape == (12 * 64, 3 * 14 * 14)
    shown = {vocabulary.attributes[number] for number in batch["attributes"].flatten(0, 1).any(0).nonzero().flatten()}
    assert not shown & held_out
    assert np.mean([len(crowded_scene(Random(seed), "collage").objects) for seed in range(12)]) > 4
    things = vocabulary.request["target shape"]
    for cells, numbers in zip(batch["attributes"], batch["things"], strict=True):
        for cell, number in zip(cells, numbers.tolist(), strict=True):
            names = [name for name in things if cell[vocabulary.index[f"shape {name}"]]]
            assert names == [things[number]] if number >= 0 else len(names) != 1
    again = seeing_batch([draw(seed, worlds, 112, 4, vocabulary) for seed in range(12)], 14)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_a_bank_shows_its_newest_pictures_again_in_another_light() -> None:
    bank = SceneBank(2, 0)
    for grey in (0, 100, 200):
        image = np.full((4, 4, 3), grey, dtype=np.uint8)
        bank.add(Seen(image, np.full((1, 2), grey > 0), np.array([grey])))
    shown = bank.again(40)
    assert {int(seen.things[0]) for seen in shown} == {100, 200}
    levels = [seen.image.mean() for seen in shown if seen.things[0] == 100]
    assert 60 < min(levels) < 95 and 105 < max(levels) < 140
    assert all(seen.attributes.all() for seen in shown)


def test_image_features_are_those_of_transformers(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    args = ModelArguments(patch_size=14, merge_size=2, vision_hidden_size=32, vision_depth=2, vision_heads=2)
    visual = Qwen2_5_VLForConditionalGeneration(build_config(args, tokenizer)).model.visual
    patches = torch.randn(3 * 64, 3 * 14 * 14)
    expected = visual(patches, grid_thw=torch.tensor([[1, 8, 8]] * 3)).pooler_output
    found = image_features(visual, patches, 8)
    assert torch.allclose(found, expected, atol=1e-5)
    found.square().sum().backward()
    assert all(one.grad is not None for one in visual.parameters())


def test_seeing_alone_trains_tower_and_names(tmp_path: Path) -> None:
    output, run = tmp_path / "model", tmp_path / "run"
    options = {"output_dir": output, "run_dir": run, "groups": 0, "scenes": 4, "scenes_again": 0.5, "eval_groups": 3}
    options |= {"workers": 0, "tokenizer_groups": 20, "vocab_size": 700, "log_steps": 1, "max_steps": 2, **MICRO}
    script.main([part for name, value in options.items() for part in (f"--{name}", str(value))])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all({"scenes_naming", "scenes_attributes"} <= set(line) for line in lines if "rate" in line)
    assert 0 <= lines[-1]["held_out"]["seen_shapes"] <= 1
    assert DenseHeads.load(output).layers == DenseLayers.of(2)


def test_what_is_seen_is_named_by_the_embeddings_of_both_languages(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    things = ["circle", "star", "apple"]
    naming, embedding = Naming(32, tokenizer, things), torch.nn.Embedding(len(tokenizer), 32)
    features, numbers = torch.randn(4, 32), torch.tensor([0, 1, -1, 2])
    loss = naming.loss(features, embedding, numbers)
    loss.backward()
    assert embedding.weight.grad is not None
    for word in (" circle", "\u5706\u5f62"):
        pieces = tokenizer.encode(word, add_special_tokens=False)
        assert embedding.weight.grad[pieces].abs().sum(-1).min() > 0
    others = naming.loss(features + torch.tensor([[0.0], [0], [9], [0]]), embedding, numbers)
    assert torch.equal(others, loss)  # the cell without a thing has no part
    assert naming.loss(features, embedding, torch.tensor([1, 0, -1, 2])) != loss

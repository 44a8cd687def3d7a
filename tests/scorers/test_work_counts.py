"""How much work groups are, by counts rather than times: no token, image or pass comes back that packing has saved."""

import json

import pytest
import scaling
import throughput
import torch
from datasets import Dataset
from measuring import PRESETS, build_config
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from editreward.flops import batch_work, forward_flops, window_sizes
from editreward.scorers.reward_model import EditRewardScorer
from editreward.training.arguments import EditRewardTrainingArguments
from editreward.training.trainer import EditRewardTrainer
from modeling_editreward import EditRewardModel, TreeBlocks, ancestor_table, tree_mask
from tests.helpers.backbones import FACTOR, build, make_image
from tests.helpers.work import Counted, tiny_shape

LAYOUTS = ["compact", "paper"]
KINDS = ["qwen2_5_vl", "qwen3_vl"]
INSTRUCTION = "give the cat a red hat"


def make_group(candidates, sources=1):
    return [make_image(i) for i in range(sources)], [make_image(10 + i) for i in range(candidates)], INSTRUCTION


def tokens_of(processor, candidates, sources=1):
    """Tokens of a packed group: what stands before the first edit once, and a text per edit, or per dimension."""
    image, separator = 4, "\ue001"
    instruction = separator + INSTRUCTION
    root, candidate, leaves = processor._render(sources)

    def length(text):
        text = text.replace("\ue000", instruction).replace(separator, "")
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return len(ids) + ids.count(processor.image_token_id) * (image - 1)

    return length(root) + candidates * (length(candidate) + sum(map(length, leaves)))


# Scoring and training


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scoring_runs_once_over_each_batch_and_image(layout):
    model, processor = build(layout=layout)
    sizes = [(1, 1), (3, 1), (3, 2), (7, 1)]
    groups = [make_group(*size) for size in sizes]
    lengths = [tokens_of(processor, *size) for size in sizes]
    scorer = EditRewardScorer(model, processor)
    with Counted(model) as one_by_one:
        for group in groups:
            scorer.score(*group)
    prefix = len(processor.prefix_ids())  # in a call of its own, once
    assert one_by_one.calls == 1 + len(groups)
    assert one_by_one.tokens == prefix + sum(length - prefix for length in lengths)
    assert one_by_one.images == sum(candidates + sources for candidates, sources in sizes)
    assert one_by_one.heads == sum(candidates for candidates, _ in sizes) * 2
    with Counted(model) as together:
        EditRewardScorer(model, processor, max_batch_tokens=10**6).score(*map(list, zip(*groups, strict=True)))
    assert (together.calls, together.heads) == (2, one_by_one.heads)
    assert together.images == 2 + 7  # the groups share sources and edits
    assert together.tokens == prefix + len(groups) * (max(lengths) - prefix)  # padded


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("candidates", [3])
def test_a_training_step_runs_once_over_each_group_and_image(layout, candidates, tmp_path):
    model, processor = build(layout=layout)
    (source,), edited, instruction = make_group(candidates)
    scores = [{"instruction_following": 1.0 + index % 4, "visual_quality": 2.5} for index in range(candidates)]
    row = {"group_id": "a", "instruction": instruction, "source_images": [source], "preferences": []}
    row["candidates"] = [
        {"image": image, "scores": score, "annotations": []} for image, score in zip(edited, scores, strict=True)
    ]
    settings = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    settings |= {"dataloader_pin_memory": False, "dataloader_num_workers": 0, "activation_checkpointing": False}
    trainer = EditRewardTrainer(
        model=model,
        args=EditRewardTrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=1, **settings
        ),
        train_dataset=Dataset.from_dict({"row": range(2)}).with_transform(
            lambda batch: {name: [value] * len(batch["row"]) for name, value in row.items()}
        ),
        processing_class=processor,
    )
    with Counted(model) as counted:
        trainer.train()
    # The published code: 2 x C(7, 2) x 4 passes over two groups of 7, and twice as many images.
    assert counted.calls == 1
    assert counted.tokens == 2 * tokens_of(processor, candidates)
    assert counted.images == 1 + candidates  # the two groups have the same
    assert counted.heads == 2 * candidates * 2


def test_attention_computes_little_that_the_tree_forbids():
    # Images of 16 tokens and rubrics of about 60: a dense mask would have eight edits' leaves attend to each other.
    model, processor = build(layout="paper", pixels=(4 * FACTOR["qwen2_5_vl"]) ** 2)
    batch = processor(*make_group(8))
    blocks = TreeBlocks.of(batch["segment_ids"], ancestor_table(batch["segment_parents"]))
    computed = sum(query.numel() * key.shape[1] for query, key, _ in blocks.levels)
    allowed = batch_work(batch, model).pairs
    assert allowed == sum(
        int(mask[query < batch["input_ids"].numel()].sum())
        for query, mask in ((query, mask[:, 0]) for query, _, mask in blocks.levels)
    )
    assert computed < 2 * allowed < batch["input_ids"].numel() ** 2 / 2


# The formula


@pytest.mark.parametrize("layout", LAYOUTS)
def test_allowed_pairs_are_those_of_the_mask(layout):
    model, processor = build(layout=layout)
    groups = [make_group(3), make_group(1, sources=2), make_group(2)]
    batch = processor(*(list(part) for part in zip(*groups, strict=True)))
    mask = tree_mask(batch["segment_ids"], ancestor_table(batch["segment_parents"]))
    mask &= (batch["segment_ids"] >= 0)[:, None, :, None]
    work = batch_work(batch, model)
    assert work.pairs == int(mask.sum())
    assert work.tokens == sum(processor.pack(*group).num_tokens for group in groups)
    assert (work.images, work.rewards, work.calls) == (2 + 3, 12, 1)


@pytest.mark.parametrize("size", [(1, 4, 4), (1, 6, 10), (1, 2, 14), (3, 8, 6)])
def test_windows_are_those_of_the_library(size):
    model, _ = build("qwen2_5_vl")
    tower, bounds = model.backbone.visual, []
    tower.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: bounds.append(kwargs["cu_seqlens"]), with_kwargs=True
    )
    frames, rows, columns = size
    tower(torch.zeros(frames * rows * columns, tower.patch_embed.proj.weight[0].numel()), torch.tensor([size]))
    assert window_sizes(size, model.config.backbone_config.vision_config) == bounds[0].diff().tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operations_are_those_that_torch_counts(kind, layout):
    model, processor = build(kind, layout=layout, pixels=(4 * FACTOR[kind]) ** 2, attn_implementation="eager")
    batch = processor(*make_group(3))
    work = batch_work(batch, model)
    flops = forward_flops(model, work)
    # Eager attention computes what it masks, too.
    text = model.config.get_text_config()
    dense = 4 * text.hidden_size * text.num_hidden_layers * (work.tokens**2 - work.pairs)
    with FlopCounterMode(display=False) as counter:
        output = model(**batch)
    # Positions are multiplied by frequencies as matrices.
    rotary = sum(
        sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name.endswith("rotary_emb")
    )
    assert counter.get_total_flops() - rotary == flops.forward + dense
    with FlopCounterMode(display=False) as counter:
        (output.mean + output.log_std).sum().backward()
    assert flops.forward + dense + counter.get_total_flops() == flops.training + 3 * dense


def test_the_7b_shape_costs_what_its_matrices_do():
    with torch.device("meta"):
        model = EditRewardModel(build_config(PRESETS["7b"]))
    processor_batch = {
        "segment_ids": torch.zeros(1, 1, dtype=torch.long),
        "segment_parents": torch.tensor([[-1]]),
        "image_grid_thw": torch.tensor([[1, 32, 32]]),
        "reward_positions": torch.zeros(1, 2, 2),
    }
    flops = forward_flops(model, batch_work(processor_batch, model))
    layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944
    assert flops.language_linear == 2 * 28 * layer
    assert flops.language_linear / 1e9 == pytest.approx(13.05, abs=0.005)
    vision = flops.vision_linear + flops.vision_attention + flops.patch_embedding
    assert vision / 1e12 == pytest.approx(1.34, abs=0.01)  # 448 x 448 pixels


# The benchmark


@pytest.mark.slow
def test_the_benchmark_of_7b_runs_on_a_small_shape(tmp_path, capsys):
    command = ["--preset", "7b", "--shape", str(tiny_shape(tmp_path)), "--device", "cpu", "--pixels", "3136"]
    command += ["--cells", "scoring:2", "training:7", "--repetitions", "1", "--sampled-passes", "1"]
    command += ["--gradient-checkpointing"]
    report = throughput.main([*command, "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text())["results"] == report["results"]
    assert "training:7" in capsys.readouterr().out
    assert max(report["equality"].values()) <= 1e-4
    rows = {(row["cell"], row["mode"]): row for row in report["results"]}
    assert set(rows) == {(cell, mode) for cell in ("scoring:2", "training:7") for mode in throughput.MODES}
    for mode in ("reference", "batched"):
        assert rows["scoring:2", mode]["passes"] == 4 and rows["scoring:2", mode]["images"] == 8
        # arXiv 2509.26346's code: 21 pairs, two candidates, two dimensions, two images each.
        assert rows["training:7", mode]["passes"] == 84 and rows["training:7", mode]["images"] == 168
        assert rows["training:7", mode]["bound"] == 1
    assert rows["training:7", "paper"]["images"] == rows["training:7", "compact"]["images"] == 8
    for row in rows.values():
        reference = rows[row["cell"], "reference"]
        assert row["bound"] == pytest.approx(reference["flops"] / row["flops"])
        assert row["ratio"] == pytest.approx(reference["seconds"][0] / row["seconds"][0])
        assert row["of_bound"] == pytest.approx(row["ratio"] / row["bound"])
    assert rows["training:7", "compact"]["bound"] > rows["training:7", "paper"]["bound"] > 4


def test_the_benchmark_refuses_scores_that_differ(tmp_path, monkeypatch):
    command = ["--preset", "7b", "--shape", str(tiny_shape(tmp_path)), "--device", "cpu", "--pixels", "3136"]
    forward = EditRewardModel.forward

    def off(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.mean = output.mean + 2e-4
        return output

    monkeypatch.setattr(EditRewardModel, "forward", off)
    with pytest.raises(ValueError, match="Scores of `paper` are off by 0.0002"):
        throughput.main(command)


@pytest.mark.slow
def test_scaling_measures_and_draws_every_series(tmp_path):
    words = ["--candidates", "1", "2", "--sides", "84", "112", "--groups", "1", "2", "--repetitions", "1"]
    report = scaling.main([*words, "--device", "cpu", "--plot", str(tmp_path / "scaling.png")])
    for name in ("candidates", "pixels", "groups"):
        for points in report[name].values():
            assert len(points) == 2 and all(point["seconds"] > 0 for point in points)
    tokens = [point["tokens"] for point in report["pixels"]["compact"]]
    assert tokens[1] - tokens[0] == (1 + scaling.GROUP_SIZE) * (16 - 9)  # visual tokens of 28 pixels a side
    assert Image.open(tmp_path / "scaling.png").width > 1000


def test_the_line_of_points_on_a_line_is_that_line():
    line = scaling.line_through([{"x": x, "seconds": 0.5 + 0.25 * x} for x in (1, 2, 8, 64)])
    assert (line["intercept"], line["slope"]) == pytest.approx((0.5, 0.25))
    assert line["largest_relative_error"] < 1e-9


def test_counts_of_any_preset_are_printed_without_running_it(capsys):
    throughput.main(["--preset", "3b", "--count-only", "--cells", "scoring:1"])
    assert "| scoring:1 | reference | " in capsys.readouterr().out

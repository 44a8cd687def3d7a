"""The processor: any image to RGB, groups to tokens as the backbone's own chat template and tokenizer make them."""

import json
import shutil
import unicodedata
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from processing_editreward import EditRewardProcessor, clean_instruction
from tests.helpers.backbones import (
    FACTOR,
    KINDS,
    PAPER_TEMPLATES,
    backbone_folder,
    build,
    build_processor,
    make_image,
    ordinary_text,
    paths,
)

LAYOUTS = ["compact", "paper"]
SOURCE, FIRST, SECOND = make_image(0, (60, 40)), make_image(1, (60, 40)), make_image(2, (28, 90))
INSTRUCTIONS = [
    "Add a red hat",
    "  two spaces before, three after   ",
    "a line\nanother\n\n\tand a tab\n",
    "把天空换成黄昏，其余保持不变。",
    "🧑‍🚀 on a 🏖️, no 🇫🇷 flags!!",
    "don't I'LL we've 12345 + 6.7e-8",
    "e\u0301 and A\u030a are é and Å, decomposed",
    "\u200bzero\u00a0width\u3000spaces\r\n",
    "{braces} {0} %s ${x} \\n </s> <b>",
    "\ue000 and \ue001 are private",
]


def path_ids(processor: EditRewardProcessor, batch: dict[str, Any]) -> list[tuple[list[int], str, list[list[int]]]]:
    """Each path's token ids, its dimension and the patch grids of its images, for a batch of one group."""
    grids = batch["image_grid_thw"][batch["image_index"]].tolist()
    candidates = len(batch["reward_positions"])
    return [
        (
            batch["input_ids"][0, columns].tolist(),
            processor.dimensions[dimension],
            [*grids[: len(grids) - candidates], grids[len(grids) - candidates + candidate]],
        )
        for candidate, dimension, columns in paths(batch)
    ]


def expected_text(processor: EditRewardProcessor, instruction: str, dimension: str, grids: list[list[int]]) -> str:
    """The ordinary text as far as the packed path goes: the compact layout ends with its last reward token."""
    text = ordinary_text(processor, "\0", dimension, grids)
    if processor.layout == "compact":
        last = f"<|Reward_{processor.dimensions[-1]}|>"
        text = text[: text.index(last) + len(last)]
    is_clean = processor.instruction_mode == "clean"
    return text.replace("\0", clean_instruction(instruction) if is_clean else instruction)


# Prompts


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_path_reads_as_the_backbones_chat_template_renders_it(kind, layout, sources):
    processor = build_processor(kind, layout=layout)
    for instruction in INSTRUCTIONS[:4]:
        batch = processor(source=[SOURCE, SECOND][:sources], edited=[FIRST, SECOND], instruction=instruction)
        for ids, dimension, grids in path_ids(processor, batch):
            assert processor.tokenizer.decode(ids) == expected_text(processor, instruction, dimension, grids)


def test_the_turns_are_those_of_the_backbone():
    text = {kind: processor_text(build_processor(kind, layout="paper")) for kind in ("qwen2_5_vl", "mimo")}
    assert text["qwen2_5_vl"].startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    )
    assert text["qwen2_5_vl"].endswith("Rating: <|Reward|>\n<|im_end|>\n<|im_start|>assistant\n")
    assert text["mimo"].startswith("<|im_start|>system\nYou are a tiny model, made for tests.<|im_end|>\n")
    assert text["mimo"].endswith("Rating: <|Reward|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n")


def processor_text(processor: EditRewardProcessor) -> str:
    batch = processor(source=SOURCE, edited=FIRST, instruction="Add a hat")
    return processor.tokenizer.decode(path_ids(processor, batch)[0][0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_system_prompt_replaces_the_chat_templates_own(layout):
    processor = build_processor(layout=layout, system_prompt="Judge well.")
    assert processor_text(processor).startswith("<|im_start|>system\nJudge well.<|im_end|>\n<|im_start|>user\n")
    batch = processor(source=SOURCE, edited=[FIRST], instruction="Add a hat")
    for ids, dimension, grids in path_ids(processor, batch):
        assert processor.tokenizer.decode(ids) == expected_text(processor, "Add a hat", dimension, grids)


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
IMAGES_OF_TURN = "{% for part in message.content if part.type == 'image' %}" + IMAGE + "{% endfor %}"
TEXTS_OF_TURN = "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"


@pytest.mark.parametrize(
    ("layout", "turn"),
    [
        ("compact", IMAGES_OF_TURN + TEXTS_OF_TURN),
        ("compact", TEXTS_OF_TURN + IMAGES_OF_TURN),
        ("paper", TEXTS_OF_TURN + IMAGES_OF_TURN),
        ("compact", TEXTS_OF_TURN),
        ("paper", TEXTS_OF_TURN),
        ("paper", IMAGES_OF_TURN),
        ("paper", IMAGE + IMAGES_OF_TURN + TEXTS_OF_TURN),
    ],
)
def test_a_chat_template_that_moves_or_drops_images_or_texts_is_refused(layout, turn):
    processor = build_processor(layout=layout)
    processor.chat_template = "{% for message in messages %}<|im_start|>user\n" + turn + "<|im_end|>\n{% endfor %}"
    with pytest.raises(ValueError, match="does not keep images and texts of a user turn in order"):
        processor(source=SOURCE, edited=[FIRST], instruction="Add a hat")


def test_the_chat_template_may_lie_in_a_file_of_its_own(tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(backbone_folder("qwen2_5_vl"), folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    processor = EditRewardProcessor.from_backbone(folder, pixels=56 * 56)
    assert processor_text(processor) == processor_text(build_processor())


def test_a_backbone_without_chat_template_is_refused(tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(backbone_folder("qwen2_5_vl"), folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        EditRewardProcessor.from_backbone(folder)


# Tokens

# Special tokens have a test of their own; hypothesis tries strings that it finds in the code, such as these.
plain_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "<|" not in text
)


def check_tokens_of_paths(processor: EditRewardProcessor, instruction: str) -> None:
    batch = processor(source=SOURCE, edited=[FIRST], instruction=instruction)
    for ids, dimension, grids in path_ids(processor, batch):
        text = expected_text(processor, instruction, dimension, grids)
        assert ids == processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert processor.tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_path_are_those_of_its_whole_text(kind, layout):
    processor = build_processor(kind, layout=layout)
    for instruction in INSTRUCTIONS:
        check_tokens_of_paths(processor, instruction)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_of_a_path_are_those_of_its_whole_text_for_any_instruction(layout):
    processor = build_processor(layout=layout)

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(plain_text)
    @example("\u0301starts with an accent")
    def check(instruction):
        check_tokens_of_paths(processor, instruction)

    check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_instruction_of_special_tokens_is_plain_text_and_is_scored(kind, layout):
    model, processor = build(kind, layout=layout)
    tokenizer = processor.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    assert {"<|image_pad|>", "<|im_end|>", "<|endoftext|>", *processor.reward_tokens} <= special
    special_ids = set(tokenizer.convert_tokens_to_ids(sorted(special)))
    hostile = [*sorted(special), "\ue000", "\ue001", "{text_prompt}", "{source}", "{}", "{{ messages }}", "<|Reward|>"]

    def special_runs(batch):
        """Special ids of each path in order, an image's tokens among them."""
        return [[i for i in ids if i in special_ids] for ids, _, _ in path_ids(processor, batch)]

    expected = special_runs(processor(source=SOURCE, edited=[FIRST, SECOND], instruction="hat"))
    for text in [*hostile, "".join(hostile), " ".join(hostile * 2)]:
        instruction = f"hat {text}"
        batch = processor(source=SOURCE, edited=[FIRST, SECOND], instruction=instruction)
        assert special_runs(batch) == expected
        for ids, dimension, grids in path_ids(processor, batch):
            assert tokenizer.decode(ids) == expected_text(processor, instruction, dimension, grids)
    assert model(**batch).reward.isfinite().all(), "The last one, with every special token."


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_paths_have_in_common_is_packed_once(layout):
    processor = build_processor(layout=layout)
    packs = [processor.pack(SOURCE, [FIRST] * count, "Add a hat") for count in (1, 2, 3)]
    per_candidate = packs[1].num_tokens - packs[0].num_tokens
    assert packs[2].num_tokens - packs[1].num_tokens == per_candidate
    visual_tokens = int(packs[0].image_grid_thw[1].prod()) // 4
    if layout == "compact":
        assert per_candidate == visual_tokens + 1 + 2, "An image, the end of its markup and two reward tokens."
    else:
        first, second = (ids for ids, _, _ in path_ids(processor, processor.collate(packs[:1])))
        common = next(i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
        end_of_image = 1
        assert packs[0].num_tokens == len(first) + len(second) - common + end_of_image
        assert packs[0].num_tokens - per_candidate == common - end_of_image - visual_tokens


# Batches


def test_a_batch_is_its_groups_padded_on_the_right():
    processor = build_processor()
    groups: list[dict[str, Any]] = [
        {"source": SOURCE, "edited": [FIRST, SECOND], "instruction": "a long instruction of many words"},
        {"source": [SOURCE, FIRST], "edited": [SECOND], "instruction": "short"},
    ]
    batch = processor(**{field: [group[field] for group in groups] for field in groups[0]})
    alone = [processor(**group) for group in groups]
    assert sorted(batch) == sorted(processor.model_input_names)
    for row, single in enumerate(alone):
        length = single["input_ids"].shape[1]
        segments = single["segment_parents"].shape[1]
        assert torch.equal(batch["input_ids"][row, :length], single["input_ids"][0])
        assert torch.equal(batch["segment_ids"][row, :length], single["segment_ids"][0])
        assert torch.equal(batch["position_ids"][:, row, :length], single["position_ids"][:, 0])
        assert torch.equal(batch["segment_parents"][row, :segments], single["segment_parents"][0])
        assert (batch["segment_ids"][row, length:] == -1).all()
        assert (batch["segment_parents"][row, segments:] == -1).all()
        assert (batch["input_ids"][row, length:] == processor.pad_token_id).all()
    # The second group's images are in the first, too.
    assert torch.equal(batch["pixel_values"], alone[0]["pixel_values"])
    assert torch.equal(batch["image_grid_thw"], alone[0]["image_grid_thw"])
    assert batch["image_index"].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch["group_index"].tolist() == [0, 0, 1]
    tokens = batch["input_ids"][batch["reward_positions"][..., 0], batch["reward_positions"][..., 1]]
    assert tokens.tolist() == [processor.reward_token_ids] * 3


def test_one_edited_image_needs_no_list():
    processor = build_processor()
    alone = processor(source=SOURCE, edited=FIRST, instruction="Add a hat")
    listed = processor(source=[SOURCE], edited=[FIRST], instruction="Add a hat")
    assert all(torch.equal(alone[field], listed[field]) for field in listed if field != "plan")


def same_batch(one: Any, other: Any) -> bool:
    return all(torch.equal(one[field], other[field]) for field in other if field != "plan")


def test_edits_may_be_a_tensor_and_one_instruction_may_be_for_several_groups():
    processor = build_processor()
    arrays = [np.asarray(make_image(seed, (60, 40))) for seed in range(4)]
    stacked = np.stack(arrays)
    tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    listed = processor(source=SOURCE, edited=arrays, instruction="Add a hat", return_tensors="pt")
    for edited in (stacked, tensor):
        assert same_batch(processor(source=SOURCE, edited=edited, instruction="Add a hat"), listed)
    groups = processor(source=[SOURCE, FIRST], edited=[arrays[:2], arrays[2:]], instruction=["Add a hat"] * 2)
    for edited in ([arrays[:2], arrays[2:]], [tensor[:2], tensor[2:]], tensor.unflatten(0, (2, 2))):
        assert same_batch(processor(source=[SOURCE, FIRST], edited=edited, instruction="Add a hat"), groups)
    with pytest.raises(ValueError, match="`return_tensors` is 'np'"):
        processor(source=SOURCE, edited=FIRST, instruction="Add a hat", return_tensors="np")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instruction": ""}, "instruction is empty"),
        ({"instruction": " \n"}, "instruction is empty"),
        ({"instruction": None}, "instruction must be a string, got NoneType"),
        ({"instruction": 3}, "instruction must be a string, got int"),
        ({"instruction": "\ud83d alone"}, "instruction is not valid text"),
        ({"instruction": []}, "no group to score|`source` must be a list"),
        ({"edited": []}, "edited is an empty list"),
        ({"source": []}, "source is an empty list"),
        ({"source": None}, "source is of type NoneType"),
        ({"edited": [FIRST, None]}, r"edited\[1\] is of type NoneType"),
        ({"source": [SOURCE, "missing.png"]}, r"source\[1\] \('missing.png'\) does not exist"),
        ({"instruction": ["a", "b"]}, "2 groups' instructions; `source` must be a list of as many entries, got Image"),
        ({"instruction": ["a"], "source": [SOURCE], "edited": [[FIRST], [FIRST]]}, "`edited` must be .*, got 2"),
        ({"instruction": ["a", ""], "source": [SOURCE] * 2, "edited": [[FIRST]] * 2}, r"groups\[1\]\.instruction"),
        ({"instruction": ["a", "b"], "source": [SOURCE, 1], "edited": [[FIRST]] * 2}, r"groups\[1\]\.source"),
        ({"instruction": "word " * 5000}, "instruction is too long: .* context has 4096"),
    ],
)
def test_unusable_groups_are_refused_with_the_field_named(arguments, message):
    processor = build_processor()
    with pytest.raises(ValueError, match=message):
        processor(**{"source": SOURCE, "edited": [FIRST], "instruction": "Add a hat", **arguments})


def test_the_longest_path_must_fit_the_context_and_the_pack_need_not():
    processor = build_processor(layout="paper")
    group = processor.pack(SOURCE, [FIRST] * 3, "Add a hat")
    longest = max(len(ids) for ids, _, _ in path_ids(processor, processor.collate([group])))
    assert group.path_lengths().max() == longest < group.num_tokens
    processor.max_length = longest
    processor.pack(SOURCE, [FIRST] * 3, "Add a hat")
    processor.max_length = longest - 1
    with pytest.raises(ValueError, match=f"has {longest} tokens"):
        processor.pack(SOURCE, [FIRST] * 3, "Add a hat")


def test_what_fills_the_context_is_named():
    processor = build_processor()
    without = processor.pack(SOURCE, FIRST, "a").num_tokens - 1
    processor.max_length = without + 5
    with pytest.raises(ValueError, match=r"^instruction is too long: .* Shorten the instruction"):
        processor.pack(SOURCE, FIRST, "word " * 50)
    with pytest.raises(ValueError, match=r"^groups\[1\]\.source has too many images, 9: .* Pass fewer"):
        processor([SOURCE, [SOURCE] * 9], [[FIRST], [FIRST]], ["a", "a"])
    processor.max_length = without - 1
    with pytest.raises(ValueError, match="^images and rubric are too long, whatever the instruction: .* Lower the"):
        processor.pack(SOURCE, FIRST, "a")


# White space in instructions


MEANT = "Mets un béret,\nand keep the rest"
SAME = [
    MEANT + "\r\n",
    "\ufeff" + MEANT,
    "\u00a0 \u3000" + MEANT.replace(" ", "\u00a0") + "\u2028\u2029",
    MEANT.replace("\n", "\r\n"),
    MEANT.replace("\n", " \x85\t"),
    MEANT.replace("\n", "\u2028"),
    MEANT.replace("\n", "\x0b\x0c"),
    MEANT.replace(" ", "  \t"),
    MEANT.replace("r", "\u200br\u2060"),
    unicodedata.normalize("NFD", MEANT),
]
OTHER = [MEANT.replace("\n", " "), MEANT + ".", MEANT.lower(), MEANT.replace(" ", "")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clean_instructions_have_the_same_tokens_however_they_were_written_down(layout):
    processor = build_processor(layout=layout, instruction_mode="clean")
    reference = build_processor(layout=layout, instruction_mode="reference")
    meant = processor.pack(SOURCE, [FIRST], MEANT).input_ids
    assert np.array_equal(meant, reference.pack(SOURCE, [FIRST], MEANT).input_ids), "a clean text is read as it is"
    for text in SAME:
        assert np.array_equal(processor.pack(SOURCE, [FIRST], text).input_ids, meant), repr(text)
        if unicodedata.is_normalized("NFC", text):  # Qwen's tokenizer composes characters itself
            assert not np.array_equal(reference.pack(SOURCE, [FIRST], text).input_ids, meant), repr(text)
        assert processor.reply_prompt(1, "Say why: {text_prompt}", text) == processor.reply_prompt(
            1, "Say why: {text_prompt}", MEANT
        )
        sizes = [image.size[::-1] for image in (SOURCE, FIRST)]
        root, candidates = processor.count_tokens(sizes[:1], sizes[1:], text)
        assert root + sum(candidates) == len(meant)
    for text in OTHER:
        assert not np.array_equal(processor.pack(SOURCE, [FIRST], text).input_ids, meant), repr(text)


def cleaned_by_characters(text: str) -> str:
    """The rules of `clean_instruction`, one character at a time."""
    text = unicodedata.normalize("NFC", "".join(c for c in text if c not in "\ufeff\u200b\u2060"))
    out: list[str] = []
    for character in text:
        if not character.isspace():
            out.append(character)
            continue
        new = "\n" if len(f"a{character}a".splitlines()) > 1 else " "
        if out and out[-1] in " \n":
            new = "\n" if "\n" in (out.pop(), new) else " "
        out.append(new)
    return "".join(out).strip(" \n")


@given(
    st.text(st.one_of(st.characters(), st.sampled_from(" \n\r\t\u00a0\u2028\ufeff\u200b\x85\x1c\x1f\u3000é\u0301")))
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_cleaning_keeps_to_its_rules_and_twice_is_once(text):
    cleaned = clean_instruction(text)
    assert cleaned == cleaned_by_characters(text)
    assert clean_instruction(cleaned) == cleaned


def test_a_saved_processor_keeps_its_mode_and_one_without_the_field_reads_instructions_as_they_are(tmp_path):
    build_processor().save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    saved = json.loads(file.read_text())
    assert saved["instruction_mode"] == "clean", "new models"
    assert EditRewardProcessor.from_pretrained(tmp_path).instruction_mode == "clean"
    del saved["instruction_mode"]
    file.write_text(json.dumps(saved))
    assert EditRewardProcessor.from_pretrained(tmp_path).instruction_mode == "reference"


@pytest.mark.parametrize("mode", ["clean", "reference"])
def test_an_instruction_of_nothing_that_is_seen_is_empty(mode):
    processor = build_processor(instruction_mode=mode)
    for text in ("", " \n", "\ufeff", "\u200b\u2028\u00a0"):
        with pytest.raises(ValueError, match="instruction is empty"):
            processor.pack(SOURCE, [FIRST], text)


# Settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layout": "papr"}, "`layout` is 'papr'; choose one of: compact, paper"),
        ({"position_scheme": "grid"}, "`position_scheme` is 'grid'; choose one of: mrope, sequential"),
        ({"instruction_mode": "raw"}, "`instruction_mode` is 'raw'; choose one of: clean, reference"),
        ({"image_mode": "raw"}, "`image_mode` is 'raw'; choose one of: upright, reference"),
        ({"dimensions": ["Visual Quality"]}, "`dimensions` holds 'Visual Quality'"),
        ({"dimensions": ["a", "a"]}, "`dimensions` names a dimension twice"),
        ({"dimensions": ["identity"], "layout": "paper"}, "`templates` has no entry 'identity'"),
        ({"templates": {"compact": "{source} and no instruction"}}, "'{text_prompt}' exactly once"),
        ({"templates": {"compact": "{text_prompt} and no image"}}, "'{source}' exactly once"),
        ({"templates": {"compact": "{source}{source}{text_prompt}"}}, "'{source}' exactly once"),
        ({"templates": {"compact": "{source}{text_prompt}<|Reward_visual_quality|>"}}, "must not hold '<|Reward_v"),
        ({"templates": {"compact": "{source}{text_prompt}<|image_pad|>"}}, "must not hold '<|image_pad|>'"),
        ({"templates": {"compct": "{source}{text_prompt}"}}, "no entry 'compact'"),
        ({"templates": {"compact": "{source}{text_prompt}", "overal": ""}}, r"does not use: \['overal'\]"),
        ({"templates": {"visual_quality": "{text_prompt}"}, "layout": "paper"}, "no entry 'instruction_following'"),
        ({"templates": dict.fromkeys(PAPER_TEMPLATES, "none"), "layout": "paper"}, "'{text_prompt}' exactly once"),
        ({"reward_suffix": "Rating:", "layout": "paper"}, "`reward_suffix` must hold '<|Reward|>' once"),
        ({"reward_suffix": "<|Reward|><|Reward|>", "layout": "paper"}, "`reward_suffix` must hold"),
    ],
)
def test_unusable_settings_are_refused_with_the_field_named(setting, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        EditRewardProcessor.from_backbone(backbone_folder("qwen2_5_vl"), **setting)


def test_a_tokenizer_without_the_reward_tokens_is_refused():
    processor = build_processor()
    with pytest.raises(ValueError, match=r"no token '<\|Reward\|>'"):
        EditRewardProcessor(processor.image_processor, processor.tokenizer, layout="paper")


def test_the_papers_prompts_are_the_default_of_the_paper_layout():
    for dimensions in (["instruction_following", "visual_quality"], ["overall"]):
        processor = EditRewardProcessor.from_backbone(
            backbone_folder("qwen2_5_vl"), layout="paper", dimensions=dimensions, pixels=56 * 56
        )
        for ids, _, _ in path_ids(processor, processor(source=SOURCE, edited=[FIRST], instruction="Add a hat")):
            text = processor.tokenizer.decode(ids)
            assert "<|vision_end|>You are tasked with evaluating an edited image" in text
            assert "Text instruction - Add a hat\n\nRating: <|Reward|>\n<|im_end|>" in text


def test_any_dimension_has_a_compact_prompt():
    processor = build_processor(dimensions=["visual_quality", "text_legibility"])
    text = processor_text(processor)
    assert "- visual quality: the image is realistic" in text
    assert "- text legibility\n" in text
    assert text.endswith("<|Reward_visual_quality|><|Reward_text_legibility|>")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_processor_gives_the_same_tensors_and_saves_the_same_files(kind, layout, tmp_path):
    processor = build_processor(
        kind, layout=layout, position_scheme="sequential", system_prompt="Judge.", image_mode="reference"
    )
    processor.save_pretrained(tmp_path / "first")
    loaded = EditRewardProcessor.from_pretrained(tmp_path / "first")
    assert type(loaded.image_processor) is Qwen2VLImageProcessorPil
    for instruction in [*INSTRUCTIONS, "<|Reward|><|image_pad|>"]:
        group: dict[str, Any] = {"source": [SOURCE, FIRST], "edited": [SECOND], "instruction": instruction}
        expected, actual = processor(**group), loaded(**group)
        assert expected.keys() == actual.keys()
        tensors = [field for field, value in expected.items() if isinstance(value, torch.Tensor)]
        assert all(torch.equal(actual[field], expected[field]) for field in tensors)
        for field in ("visual_places", "visual_index", "ancestors"):
            assert torch.equal(getattr(actual["plan"], field), getattr(expected["plan"], field))
    loaded.save_pretrained(tmp_path / "second")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == files
    for name in files:
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name
        assert str(tmp_path).encode() not in (tmp_path / "first" / name).read_bytes()


def test_a_folder_without_processor_is_refused():
    with pytest.raises(ValueError, match="has no EditReward processor"):
        EditRewardProcessor.from_pretrained(backbone_folder("qwen2_5_vl"))


def test_trl_can_ask_and_set_the_tokenizers_special_tokens():
    processor = build_processor()
    tokenizer = processor.tokenizer
    assert (processor.pad_token, processor.pad_token_id) == ("<|endoftext|>", tokenizer.pad_token_id)
    assert (processor.eos_token, processor.eos_token_id) == ("<|im_end|>", tokenizer.eos_token_id)
    assert processor.get_vocab() == tokenizer.get_vocab()
    processor.pad_token, processor.eos_token = "<|im_end|>", "<|endoftext|>"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|endoftext|>")


# Image preprocessing


def unpatched(pixel_values: np.ndarray, grid: list[int], patch_size: int) -> np.ndarray:
    """The (height, width, 3) image that a backbone's patches were cut from."""
    _, rows, columns = grid
    patches = pixel_values.reshape(rows // 2, columns // 2, 2, 2, 3, 2, patch_size, patch_size)
    assert np.array_equal(patches[..., 0, :, :], patches[..., 1, :, :]), "A still image fills both frames."
    #  (rows, of merged patches, patch rows) x (columns, of merged patches, patch columns) x channels
    return patches[..., 0, :, :].transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * patch_size, columns * patch_size, 3)


@pytest.mark.parametrize("size", [(640, 480), (300, 1000), (31, 17), (448, 448), (2000, 20)])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_images_are_resized_bicubically_to_the_budget_and_normalised(kind, size):
    processor = EditRewardProcessor.from_backbone(backbone_folder(kind))
    image = make_image(5, size)
    batch = processor(source=image, edited=[FIRST], instruction="Add a hat")
    grid = batch["image_grid_thw"][0].tolist()
    patch_size, factor = FACTOR[kind] // 2, FACTOR[kind]
    height, width = grid[1] * patch_size, grid[2] * patch_size
    assert height % factor == width % factor == 0
    # One multiple more on both sides would be too many pixels, one less too few.
    assert (height - factor) * (width - factor) < 448 * 448 < (height + factor) * (width + factor)
    if min(height, width) > 5 * factor:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.12)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (resized - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    patches = batch["pixel_values"][: grid[1] * grid[2]].numpy()
    np.testing.assert_allclose(unpatched(patches, grid, patch_size), expected, atol=1e-5)


def test_preprocessing_is_the_librarys_with_equal_minimum_and_maximum():
    images = [make_image(i, size) for i, size in enumerate([(640, 480), (90, 400), (56, 56)])]
    library = Qwen2VLImageProcessorPil(min_pixels=200_704, max_pixels=200_704)(images=images, return_tensors="pt")
    processor = EditRewardProcessor.from_backbone(backbone_folder("qwen2_5_vl"))
    batch = processor(source=images[0], edited=images[1:], instruction="Add a hat")
    assert torch.equal(batch["pixel_values"], library["pixel_values"])
    assert torch.equal(batch["image_grid_thw"], library["image_grid_thw"])

"""Tiny vision-language backbones with random weights, in the form of the checkpoints that the real ones come in."""

import copy
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

GOLDEN_BASE = Path(__file__).parents[1] / "golden" / "base_model"
KINDS = ("qwen2_5_vl", "mimo", "qwen3_vl")
FACTOR = {"qwen2_5_vl": 28, "mimo": 28, "qwen3_vl": 32}
"""Sides of resized images are multiples of this many pixels."""

# Like Qwen's, with another system turn, texts trimmed and an assistant turn that opens with an empty thought.
MIMO_CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
<|im_start|>system
You are a tiny model, made for tests.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content | trim }}{% else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}
{{ part.text | trim }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>

</think>
{% endif -%}
"""

# Short stand-ins for the paper layout's prompts, which the tests' tokenizer would turn into two thousand tokens.
PAPER_TEMPLATES = {
    "instruction_following": "Was it done, and nothing else?\nText instruction - {text_prompt}\n",
    "visual_quality": 'Is it clean, for "{text_prompt}"? Braces {} and {source} mean nothing here.\n',
}

# Loading takes far longer than copying.
_models: dict[str, EditRewardModel] = {}
_processors: dict[str, EditRewardProcessor] = {}
_folders = tempfile.TemporaryDirectory(prefix="editreward-tests-")


@functools.cache
def backbone_folder(kind: str) -> Path:
    """Folder of a `kind` backbone's checkpoint: weights, configuration, tokenizer and image processor."""
    folder = Path(_folders.name) / kind
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN_BASE)
    if kind == "mimo":
        tokenizer.chat_template = MIMO_CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    build_backbone(kind, len(tokenizer)).save_pretrained(folder)
    patch_size = FACTOR[kind] // 2
    # The backbones' own pixel budget, which the processor must not take over.
    Qwen2VLImageProcessorPil(
        patch_size=patch_size, merge_size=2, min_pixels=4 * FACTOR[kind] ** 2, max_pixels=1280 * FACTOR[kind] ** 2
    ).save_pretrained(folder)
    return folder


def build_backbone(kind: str, vocab_size: int, seed: int = 0) -> PreTrainedModel:
    """A generative vision-language model of about 0.2 million parameters."""
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    tokens = {"image_token_id": 906, "video_token_id": 907, "vision_start_token_id": 903, "vision_end_token_id": 904}
    if kind == "qwen3_vl":
        # Like the published ones, with more embeddings than the tokenizer has tokens.
        text |= {"vocab_size": vocab_size + 20, "head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}}
        vision |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
        model = Qwen3VLForConditionalGeneration(config)
    else:
        text |= {"vocab_size": vocab_size, "rope_parameters": rope}
        # Windows of 2 x 2 visual tokens, so that an image holds several.
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        model = Qwen2_5_VLForConditionalGeneration(config)
    randomize(model, seed)
    return model.eval()


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights that keep activations at about unit scale, so that every input moves the scores."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise * parameter[0].numel() ** -0.5
        else:
            # Of norms and biases, keep what the default initialisation means and move it a little.
            parameter.data += 0.2 * noise


def build(
    kind: str = "qwen2_5_vl",
    *,
    layout: str = "compact",
    position_scheme: str = "mrope",
    dimensions: list[str] | None = None,
    templates: dict[str, str] | None = None,
    pixels: int | None = None,
    seed: int = 0,
    **config: Any,
) -> tuple[EditRewardModel, EditRewardProcessor]:
    """A reward model in evaluation mode and its processor, on a tiny backbone.

    Args:
        pixels: Pixel budget, by default that of 2 x 2 visual tokens.
        seed: Of the heads.
        config: Further fields of the model's configuration.
    """
    shared: dict[str, Any] = {"layout": layout, "position_scheme": position_scheme, "dimensions": dimensions}
    key = f"{kind} {seed} {sorted((shared | config).items())}"
    if key not in _models:
        folder = backbone_folder(kind)  # draws random numbers when it is first made
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _models[key] = EditRewardModel.from_backbone(folder, **shared, **config).eval()
    return copy.deepcopy(_models[key]), build_processor(kind, templates=templates, pixels=pixels, **shared)


def build_processor(
    kind: str = "qwen2_5_vl",
    *,
    layout: str = "compact",
    templates: dict[str, str] | None = None,
    pixels: int | None = None,
    **settings: Any,
) -> EditRewardProcessor:
    """The processor alone; see `build`."""
    if templates is None and layout == "paper":
        templates = PAPER_TEMPLATES
    settings |= {"layout": layout, "templates": templates, "pixels": pixels or (2 * FACTOR[kind]) ** 2}
    key = f"{kind} {sorted(settings.items())}"
    if key not in _processors:
        _processors[key] = EditRewardProcessor.from_backbone(backbone_folder(kind), **settings)
    return copy.deepcopy(_processors[key])


def make_image(seed: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """Random colours in cells of about 7 pixels. `size` is (width, height)."""
    cells = np.random.default_rng(seed).integers(0, 256, (max(1, size[1] // 7), max(1, size[0] // 7), 3))
    return Image.fromarray(cells.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


# A path from the root to a leaf of a packed group, and the ordinary sequence that it stands for


def paths(batch: BatchFeature) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Candidate, dimension and columns of its path's tokens, for all candidates and dimensions of a batch."""
    for candidate, of_candidate in enumerate(batch["reward_positions"].tolist()):
        for dimension, (row, column) in enumerate(of_candidate):
            on_path, segment = set(), int(batch["segment_ids"][row, column])
            while segment >= 0:
                on_path.add(segment)
                segment = int(batch["segment_parents"][row, segment])
            segments = enumerate(batch["segment_ids"][row].tolist())
            yield candidate, dimension, torch.tensor([i for i, segment in segments if segment in on_path])


def ordinary_text(
    processor: EditRewardProcessor, instruction: str, dimension: str, grids: Sequence[Sequence[int]]
) -> str:
    """What the backbone's chat template makes of the conversation about one candidate.

    Args:
        instruction: Is written into the rendered text, so that a chat template that trims texts leaves it as it is.
        grids: Patch grids of the source images and the candidate. Each image's placeholder is repeated as often as
            the image has visual tokens.
    """
    images = [{"type": "image"}] * (len(grids) - 1)
    if processor.layout == "compact":
        before, after = processor.templates["compact"].split("{source}")
        content = [{"type": "text", "text": before}, *images, {"type": "text", "text": after}, {"type": "image"}]
        content.append({"type": "text", "text": "".join(f"<|Reward_{name}|>" for name in processor.dimensions)})
    else:
        text = processor.templates[dimension] + "\nRating: <|Reward|>\n"
        content = [*images, {"type": "image"}, {"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if processor.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": processor.system_prompt}]})
    rendered = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pieces = rendered.split("<|image_pad|>")
    assert len(pieces) == len(grids) + 1
    for index, (_, height, width) in enumerate(grids):
        pieces[index] += "<|image_pad|>" * (height * width // 4)
    return "".join(pieces).replace("{text_prompt}", instruction)

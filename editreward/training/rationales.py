"""Language modelling of written rationales, beside the loss of the rewards.

A candidate's `rationale` becomes a segment of the packed group below the candidate, as the assistant's reply to
`REQUESTS`. Its tokens attend to the root and to the candidate; they and the reward tokens do not see each other, so
that scores are the same with and without rationales. What the two share is the backbone.

The language-model head is that of the vision-language model that the run starts from, frozen: a plain tensor beside
the model, in none of its checkpoints and the same after resuming.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from processing_editreward import EditRewardProcessor, PackedGroup

# What asks for the rationale, after the edited image. In the paper layout the instruction stands in the branches that
# are scored, which a rationale does not see.
REQUESTS = {
    "compact": "\nExplain how good the edit is.",
    "paper": "\nInstruction: {text_prompt}\nExplain how good the edit is.",
}

# Tokens whose logits are held at once: for a vocabulary of 150,000, 0.3 GB in float32.
CHUNK = 512


@dataclass
class GroupWithRationales(PackedGroup):
    """A packed group with the rationales of its candidates.

    Attributes:
        predicting_columns: Place of the token before each token of a rationale, (tokens,).
        rationale_ids: The tokens of the rationales, each one's end included, (tokens,).
    """

    predicting_columns: np.ndarray
    rationale_ids: np.ndarray


@dataclass
class _NewTokens:
    """Tokens that rationales add to a group, in the order of its columns."""

    before: list[int] = field(default_factory=list)  # the column that each goes before
    ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)  # (3, tokens) each
    is_target: list[bool] = field(default_factory=list)

    def add(self, prompt: Sequence[int], reply: Sequence[int], column: int, segment: int, start: np.ndarray) -> None:
        """A prompt and its reply before a column; `start` is the position, (3,), of the first token."""
        new = [*prompt, *reply]
        self.before += [column] * len(new)
        self.ids += new
        self.segments += [segment] * len(new)
        self.positions.append(start[:, None] + np.arange(len(new)))
        self.is_target += [False] * len(prompt) + [True] * len(reply)

    def inserted_into(
        self, group: PackedGroup, segment_ids: np.ndarray, parents: Sequence[int]
    ) -> GroupWithRationales:
        """The group with these tokens; `segment_ids` and `parents` are those of the group, with the new branches."""
        target = np.flatnonzero(self.is_target)
        before = np.array(self.before, dtype=np.int64)
        positions = np.concatenate([np.zeros((3, 0), dtype=group.position_ids.dtype), *self.positions], axis=1)
        return GroupWithRationales(
            input_ids=np.insert(group.input_ids, before, self.ids),
            segment_ids=np.insert(segment_ids, before, self.segments),
            segment_parents=np.array(parents, dtype=np.int64),
            position_ids=np.insert(group.position_ids, before, positions, axis=1),
            pixel_values=group.pixel_values,
            image_grid_thw=group.image_grid_thw,
            reward_columns=group.reward_columns + np.searchsorted(before, group.reward_columns, side="right"),
            # A new token stands behind all new ones before it.
            predicting_columns=before[target] + target - 1,
            rationale_ids=np.array(self.ids, dtype=np.int64)[target],
        )


def add_rationales(
    group: PackedGroup,
    rationales: Sequence[str | None],
    processor: EditRewardProcessor,
    num_sources: int,
    instruction: str,
    name: str = "",
) -> GroupWithRationales:
    """Append rationales to the candidates of a packed group.

    Args:
        group: As `processor.pack` returns it.
        rationales: One text for each candidate; `None` or a blank one adds nothing. Special tokens in it are plain.
        processor: Of the group.
        num_sources: Number of source images.
        instruction: What was asked.
        name: Goes before the candidate in error messages.

    Raises:
        ValueError: If a rationale is no usable text or longer than the model's context.
    """
    prompt = processor.reply_prompt(num_sources, REQUESTS[processor.layout], instruction)
    parents = group.segment_parents.tolist()
    block_of_token = _blocks(parents)[group.segment_ids]
    segment_ids = group.segment_ids.copy()
    new = _NewTokens()
    for index, rationale in enumerate(rationales):
        place = f"{name}candidate {index}"
        reply = _reply(rationale, processor, place)
        if not reply:
            continue
        candidate = block_of_token[group.reward_columns[index, 0]]
        columns = np.flatnonzero(block_of_token == candidate)
        own = columns[group.segment_ids[columns] == candidate]
        last_of_image = own[group.input_ids[own] == processor.image_token_id][-1]
        # What follows the image in the candidate's own segment, compact reward tokens, moves into a branch of its own.
        after_image = own[own > last_of_image]
        if len(after_image):
            segment_ids[after_image] = len(parents)
            parents.append(int(candidate))
        length = int(np.isin(segment_ids, (0, candidate)).sum()) + len(prompt) + len(reply)
        if processor.max_length is not None and length > processor.max_length:
            raise ValueError(
                f"{place}: its rationale is too long: with images and instruction the sequence has {length} tokens, "
                f"and the model's context has {processor.max_length}. Shorten it."
            )
        start = group.position_ids[:, last_of_image + 1]
        new.add(prompt, reply, int(columns[-1]) + 1, len(parents), start)
        parents.append(int(candidate))
    return new.inserted_into(group, segment_ids, parents)


def _blocks(parents: Sequence[int]) -> np.ndarray:
    """The candidate's segment above each segment, itself for a candidate's own and the root."""
    blocks = list(range(len(parents)))
    for segment, parent in enumerate(parents):
        if parent > 0:
            blocks[segment] = blocks[parent]
    return np.array(blocks)


def count_rationale_tokens(
    rationales: Sequence[str | None], processor: EditRewardProcessor, num_sources: int, instruction: str
) -> list[int]:
    """How many tokens `add_rationales` would add to each candidate; arguments as there.

    Raises:
        ValueError: If a rationale is no usable text.
    """
    prompt = len(processor.reply_prompt(num_sources, REQUESTS[processor.layout], instruction))
    replies = [len(_reply(text, processor, f"candidate {index}")) for index, text in enumerate(rationales)]
    return [prompt + reply if reply else 0 for reply in replies]


def _reply(rationale: str | None, processor: EditRewardProcessor, place: str) -> list[int]:
    """The tokens of a rationale and its end, none for `None` or a blank one. `place` says whose, for errors."""
    if rationale is None:
        return []
    if not isinstance(rationale, str):
        raise ValueError(f"{place}: its rationale must be a string or null, got {type(rationale).__name__}.")
    if not rationale.strip():
        return []
    if processor.eos_token_id is None:
        raise ValueError("The tokenizer has no `eos_token`, which ends a rationale. Set it.")
    try:
        rationale.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: its rationale is not valid text: {error.reason}.") from error
    ids: list[int] = processor.tokenizer(rationale, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, processor.eos_token_id]


def rationale_inputs(groups: Sequence[PackedGroup]) -> dict[str, Tensor]:
    """What a batch of packed groups adds to the inputs of the model, and the labels.

    Returns:
        `hidden_positions` (tokens, 2), row and column of the token before each token of a rationale, and
        `rationale_ids` (tokens,).
    """
    with_rationales = [(row, group) for row, group in enumerate(groups) if isinstance(group, GroupWithRationales)]
    places = [
        np.stack([np.full_like(group.predicting_columns, row), group.predicting_columns], axis=-1)
        for row, group in with_rationales
    ]
    ids = [group.rationale_ids for _, group in with_rationales]
    return {
        "hidden_positions": torch.from_numpy(np.concatenate([np.zeros((0, 2), dtype=np.int64), *places])),
        "rationale_ids": torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *ids])),
    }


class RationaleLoss:
    """Cross entropy of rationale tokens under a frozen language-model head.

    Args:
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): Of the head.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()

    def __call__(self, hidden_states: Tensor, rationale_ids: Tensor) -> Tensor:
        """Loss of each token, float32 or wider.

        Args:
            hidden_states (`torch.Tensor` of shape `(tokens, hidden_size)`): Of the token before each.
            rationale_ids (`torch.LongTensor` of shape `(tokens,)`): The tokens.
        """
        self.weight = self.weight.to(hidden_states.device)
        chunks = zip(hidden_states.split(CHUNK), rationale_ids.split(CHUNK), strict=True)
        # The logits are computed again in the backward pass: kept, they would outweigh the model's own activations.
        return torch.cat([checkpoint(self._cross_entropy, *chunk, use_reentrant=False) for chunk in chunks])

    def _cross_entropy(self, hidden_states: Tensor, rationale_ids: Tensor) -> Tensor:
        logits = F.linear(hidden_states.to(self.weight.dtype), self.weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, rationale_ids, reduction="none")


def language_model_head(model: PreTrainedModel, name_or_path: str | None = None) -> Tensor:
    """Weight of the language-model head of a vision-language model, read from its checkpoint.

    Args:
        model ([`EditRewardModel`]): As loaded for the run.
        name_or_path: Folder or Hub id of the vision-language model. By default what `model` was loaded from: one, or
            an EditReward model, which has a head only where its backbone ties it to the embeddings.

    Returns:
        Tensor of shape `(vocab_size, hidden_size)`.

    Raises:
        ValueError: If there is no head, or one of another size than the model's.
    """
    path, config, revision = name_or_path, None, None
    if path is None:
        path, config = model.name_or_path, model.config.backbone_config
        revision = getattr(config, "_commit_hash", None) or getattr(model.config, "_commit_hash", None)
    advice = "Give the vision-language model that the run's model was made from as `rationale_head`."
    files = _weight_files(path, revision) if path else {}
    if not files:
        raise ValueError(f"There are no safetensors weights in {path!r} to take a language-model head from. {advice}")
    name = next((key for key in files if key == "lm_head.weight"), None)
    config = config or AutoConfig.from_pretrained(path, trust_remote_code=False)
    if name is None and config.tie_word_embeddings:
        name = next((key for key in files if key.endswith("embed_tokens.weight")), None)
    if name is None:
        raise ValueError(f"{path} has no language-model head, which `rationale_weight` needs. {advice}")
    with safe_open(files[name], framework="pt") as weights:
        weight: Tensor = weights.get_tensor(name)
    if weight.shape[1] != model.config.hidden_size:
        raise ValueError(
            f"The language-model head of {path} reads {weight.shape[1]} features, the model has "
            f"{model.config.hidden_size}. {advice}"
        )
    return weight


def _weight_files(path: str | Path, revision: str | None) -> dict[str, str]:
    """The file of each tensor of a checkpoint, by its name; empty without safetensors files."""
    options: dict[str, object] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    index = cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **options)
    if index is not None:
        shards = json.loads(Path(index).read_text())["weight_map"]
        wanted = {
            key: shard for key, shard in shards.items() if key.endswith(("lm_head.weight", "embed_tokens.weight"))
        }
        return {key: cached_file(path, shard, revision=revision) for key, shard in wanted.items()}
    single = cached_file(path, SAFE_WEIGHTS_NAME, **options)
    if single is None:
        return {}
    with safe_open(single, framework="pt") as weights:
        return dict.fromkeys(weights.keys(), single)

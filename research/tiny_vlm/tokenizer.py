"""The tokenizer of the tiny vision-language model: byte-level BPE in which the words of the world are whole tokens."""

import re
from collections.abc import Iterator, Sequence

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from editreward.simulation.collage.assets import names as collage_names
from editreward.simulation.world import COLOURS, PATTERNS, PLACES, SHAPES, SIZE_NAMES_ZH, SUBJECTS, TONES

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The split of the Qwen2 tokenizers: words with their leading space, single digits, runs of punctuation.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def world_words(worlds: Sequence[str] = ("shapes",)) -> list[str]:
    """The Chinese names of the worlds that no split holds out, longest first: each becomes one token.

    They are written without spaces: pieces that join the end of one to the next would hide a colour in as many tokens
    as it has neighbours.
    """
    names = {*COLOURS.values(), *SHAPES.values(), *PLACES.values(), *TONES.values(), *SIZE_NAMES_ZH.values()}
    names |= {chinese.removeprefix("{tone}").removeprefix("纯{tone}") for _, chinese in PATTERNS.values()}
    if "collage" in worlds:
        names |= {name.chinese for name in collage_names().values() if not name.held_out}
        names |= {chinese for _, chinese in SUBJECTS.values()}
    return sorted(filter(None, names), key=lambda name: (-len(name), name))


def transfer_embeddings(
    old: PreTrainedTokenizerFast, table: torch.Tensor, new: PreTrainedTokenizerFast
) -> torch.Tensor:
    """A table (tokens of `new`, width) from that of another tokenizer: a token's row, or the mean of its pieces'."""
    rows = []
    for token, index in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        known = old.get_vocab().get(token)
        pieces = [known] if known is not None else old.encode(new.decode([index]), add_special_tokens=False)
        rows.append(table[pieces].mean(0) if pieces else table.mean(0))
    return torch.stack(rows)


def names_things(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the collage's Chinese names are tokens: whether a tokenizer is one of that world."""
    known = [name.chinese for name in collage_names().values() if not name.held_out]
    return all(len(tokenizer.encode(name, add_special_tokens=False)) == 1 for name in known)


def begin_as_nouns(table: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """A table (tokens, width) in which the last token of a drawn thing's name has what names of shapes have in common.

    A model that has learnt to attend to the names of shapes then attends to those of things, too, and need only learn
    which is which. Without it next to none was read after 23 minutes.
    """
    learnt = [name for name in collage_names().values() if not name.held_out and name.name not in SHAPES]
    drawn = {name.name: name.chinese for name in learnt}
    new = table.clone()
    for languages in ((SHAPES, drawn), (SHAPES.values(), drawn.values())):
        shapes, things = (
            [tokenizer.encode(f" {word}" if word.isascii() else word, add_special_tokens=False) for word in words]
            for words in languages
        )
        common, others = (
            torch.stack([table[pieces].mean(0) for pieces in words]).mean(0) for words in (shapes, things)
        )
        known = {token for pieces in shapes for token in pieces}
        changed = sorted({pieces[-1] for pieces in things} - known)  # the noun, not "cup of"
        new[changed] = table[changed] + common - others
    return new


def build_tokenizer(
    texts: Iterator[str], vocab_size: int, worlds: Sequence[str] = ("shapes",)
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens and the turn markup of the Qwen models.

    Any Unicode text round-trips, since every byte is a token of its own.
    """
    words = world_words(worlds)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(words),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    between = re.compile("|".join(words))
    tokenizer.train_from_iterator((part for text in texts for part in between.split(text)), trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )

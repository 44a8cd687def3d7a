"""Held-out losses, and how much of the dense targets and of the answers in words is right."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from editreward.dense_heads import DenseHeads, DenseLogits
from editreward.simulation.captions import KINDS
from editreward.simulation.grounding import COMPARISONS, MISMATCHES, Vocabulary
from editreward.simulation.near_misses import ALL_NEAR_MISSES
from research.tiny_vlm.arguments import LossArguments
from research.tiny_vlm.losses import forward, losses

Counts = dict[str, torch.Tensor]
"""By name: a numerator and a denominator, summed over batches."""


@torch.no_grad()
def evaluate(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: DenseHeads,
    batches: list[dict[str, Any]],
    processor: Qwen2VLImageProcessorPil,
    tokenizer: PreTrainedTokenizerFast,
    args: LossArguments,
    bf16: bool,
) -> dict[str, float]:
    """Held-out metrics, each a mean over `batches`; those of which there is no case are left out.

    `loss_NAME` the losses; `request_PART` the share of instructions of which this part is understood; `asked_NAME` the
    share of cells to change whose colours (shapes, sizes, background) are told exactly; `f1_NAME` the F1 score of
    attributes, comparisons and mismatches; the name of a kind of answer its token accuracy, `score_KIND` the share of
    score tokens predicted exactly, `pairs_KIND` that of pairs of one group in the right order by the expected score;
    `near_WHO_ATTRIBUTE` the share of pairs of a perfect edit and a near miss of a group in which the near miss is
    told, by the dense "mismatches", the dense "wrong" and the "verdict" in words.
    """
    model.eval()
    counts: Counts = {}
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = forward(model, heads, batch, processor)
        vocabulary = heads.vocabulary
        for name, value in losses(outputs, batch, args, vocabulary).items():
            _add(counts, f"loss_{name}", value.item(), 1)
        dense = outputs.dense
        _count_request(counts, dense, batch, vocabulary)
        _count_asked(counts, dense, batch, vocabulary)
        _count_f1(counts, [name.split()[0] for name in vocabulary.attributes], dense.attributes, batch["attributes"])
        if dense.comparisons is not None and dense.mismatches is not None:
            _count_f1(counts, list(COMPARISONS), dense.comparisons, batch["comparisons"])
            _count_f1(counts, [f"{name} amiss" for name in MISMATCHES], dense.mismatches, batch["mismatches"])
            for who, scores in dense_scores(dense).items():
                count_near_misses(counts, who, scores, batch)
        if outputs.words is not None:
            _count_words(counts, outputs.words, batch, tokenizer)
    model.train()
    return {name: round(float(hits / total), 4) for name, (hits, total) in counts.items() if total > 0}


def _add(counts: Counts, name: str, hits: float, total: float) -> None:
    counts[name] = counts.get(name, torch.zeros(2)) + torch.tensor([hits, total])


def _count_request(counts: Counts, logits: DenseLogits, batch: dict[str, Any], vocabulary: Vocabulary) -> None:
    parts = logits.request.split([len(names) for names in vocabulary.request.values()], dim=-1)
    for part, predicted, values in zip(vocabulary.request, parts, batch["request"].unbind(-1), strict=True):
        said = values >= 0
        hits = (predicted.argmax(-1) == values) & said
        _add(counts, f"request_{part.replace(' ', '_')}", float(hits.sum()), float(said.sum()))


def _count_asked(counts: Counts, logits: DenseLogits, batch: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Of cells that should show something else than the source does, in this respect."""
    right = (logits.asked > 0) == batch["asked"]
    to_change = batch["asked"] != batch["attributes"][:, :1, :, : len(vocabulary.asked)]
    for images, cells in (("source", slice(0, 1)), ("edited", slice(1, None))):
        for kind in dict.fromkeys(name.split()[0] for name in vocabulary.asked):
            names = [index for index, name in enumerate(vocabulary.asked) if name.split()[0] == kind]
            chosen = to_change[:, cells][..., names].any(-1)
            if chosen.shape[1]:
                hits = right[:, cells][..., names].all(-1) & chosen
                _add(counts, f"asked_{images}_{kind}", float(hits.sum()), float(chosen.sum()))


def _count_f1(counts: Counts, names: list[str], logits: torch.Tensor, truth: torch.Tensor) -> None:
    known = ~truth.float().isnan()
    said, is_true = (logits > 0) & known, (truth == 1) & known
    for column, name in enumerate(names):
        both = float((said & is_true)[..., column].sum())
        either = float(said[..., column].sum() + is_true[..., column].sum())
        _add(counts, f"f1_{name.replace(' ', '_')}", 2 * both, either)


def dense_scores(logits: DenseLogits) -> dict[str, torch.Tensor]:
    """Scores of the edits (groups, candidates): minus the expected number of cells that are not as asked for."""
    assert logits.comparisons is not None and logits.mismatches is not None
    wrong = logits.comparisons[:, 1:, :, COMPARISONS.index("wrong")].sigmoid()
    return {"mismatches": -logits.mismatches[:, 1:].sigmoid().amax(-1).sum(-1), "wrong": -wrong.sum(-1)}


def expected_scores(
    logits: torch.Tensor, batch: dict[str, Any], tokenizer: PreTrainedTokenizerFast, kind: int
) -> torch.Tensor:
    """The expected scores in words (groups, candidates) of a kind of answer, NaN where it was not asked for."""
    digits = torch.tensor([tokenizer.convert_tokens_to_ids(digit) for digit in "1234"])
    expected = (logits[:, digits].softmax(-1) * torch.arange(1.0, 5.0)).sum(-1)
    scores = torch.full(batch["following"].shape, torch.nan)
    for at, group, candidate, _ in batch["scores"].tolist():
        if batch["targets"][int(at), 2] == kind:
            scores[int(group), int(candidate)] = expected[int(at)]
    return scores


def count_near_misses(counts: Counts, who: str, scores: torch.Tensor, batch: dict[str, Any]) -> None:
    """Pairs of a perfect edit and a near miss of its group by their scores (groups, candidates); NaN has none."""
    perfect = (batch["following"] == 4) & (batch["missed"] < 0) & ~scores.isnan()
    for index, attribute in enumerate(ALL_NEAR_MISSES):
        missed = (batch["missed"] == index) & ~scores.isnan()
        pairs = perfect[:, :, None] & missed[:, None, :]
        right = (scores[:, :, None] > scores[:, None, :]) & pairs
        for name in (attribute, "all"):
            _add(counts, f"near_{who}_{name}", float(right.sum()), float(pairs.sum()))


def _count_words(
    counts: Counts, logits: torch.Tensor, batch: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    targets = batch["targets"]
    hits = logits.argmax(-1) == targets[:, 1]
    verdicts = expected_scores(logits, batch, tokenizer, KINDS.index("verdict"))
    count_near_misses(counts, "verdict", verdicts, batch)
    for index, kind in enumerate(KINDS):
        chosen = targets[:, 2] == index
        _add(counts, kind, float(hits[chosen].sum()), float(chosen.sum()))
        exact = [bool(hits[int(at)]) for at, *_ in batch["scores"].tolist() if targets[int(at), 2] == index]
        if not exact:
            continue
        _add(counts, f"score_{kind}", sum(exact), len(exact))
        found = expected_scores(logits, batch, tokenizer, index)
        truth = torch.full(found.shape, torch.nan)
        for at, group, candidate, score in batch["scores"].tolist():
            if targets[int(at), 2] == index:
                truth[int(group), int(candidate)] = score
        difference, of_truth = (x[:, :, None] - x[:, None, :] for x in (found, truth))
        pairs = (of_truth > 0).float()
        right = ((difference > 0).float() + 0.5 * (difference == 0).float()) * pairs
        _add(counts, f"pairs_{kind}", float(right.sum()), float(pairs.sum()))

"""What is measured in training and evaluation.

Metrics that are means are kept as sums of numerators and denominators, so that those of any number of batches and
ranks are exact. Metrics that are not, such as the accuracy at the best tie threshold, are computed of all scores of an
evaluation set (`EvaluationScores`).
"""

import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from editreward.groups.pairs import TIE_TOLERANCE, WeightedPairs
from editreward.statistics import (
    CalibrationError,
    accuracy_with_ties,
    calibrate_groups,
    expected_calibration_error,
)
from editreward.statistics.preferences import preference_probability
from editreward.training.terms import GroupBatch, Samples

if TYPE_CHECKING:
    from accelerate import Accelerator


logger = logging.getLogger(__name__)

# A mean standard deviation below this share of the spread of the means within groups has collapsed: a difference of
# one spread is then a hundred standard deviations, and the probabilities are those of a model without uncertainty.
COLLAPSED = 0.01
COUNTS = ("num_groups", "num_candidates", "num_pairs", "num_tokens")


def metric_name(name: str, dimension: str | None = None) -> str:
    """The name of a metric, overall or of a dimension."""
    return name if dimension is None else f"{name}_{dimension}"


def evaluation_metrics(
    dimensions: Sequence[str], terms: Sequence[tuple[int | None, float]], pointwise: bool = False
) -> list[str]:
    """Names of the metrics of an evaluation, without the prefix `eval_`; `pointwise`: with its likelihood."""
    names = ["loss"]
    names += [metric_name("pair_loss", None if index is None else dimensions[index]) for index, _ in terms]
    names += [metric_name("pointwise_loss", dimension) for dimension in dimensions] if pointwise else []
    for name in ("accuracy", "accuracy_with_ties", "tie_threshold"):
        names += [metric_name(name, dimension) for dimension in (None, *dimensions)]
    names += ["margin", "calibration_error", "ties"]
    for name in ("std", "spread"):
        names += [metric_name(name, dimension) for dimension in dimensions]
    return names


def check_metric(metric: str, names: Sequence[str]) -> None:
    """Raise a `ValueError` that lists the names unless `metric`, with or without `eval_`, is one of them."""
    if metric.removeprefix("eval_") not in names:
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, which no evaluation of this run computes. It computes: "
            f"{', '.join(names)}."
        )


def lower_is_better(metric: str) -> bool:
    """Whether a metric, with or without `eval_` and the name of a dataset before it, is better when it is lower."""
    return re.search(r"(^|_)loss(_|$)", metric) is not None or metric.endswith("calibration_error")


@torch.no_grad()
def batch_statistics(
    dimensions: Sequence[str],
    terms: Sequence[tuple[int | None, float]],
    outputs: Any,
    inputs: GroupBatch,
    losses: Sequence[Tensor],
    pointwise_losses: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """Numerator and denominator of each metric in each group of a batch.

    Args:
        dimensions: The model's dimensions.
        terms: The parts of the loss: the dimension that decides, `None` for the aggregate, and the weight.
        outputs ([`EditRewardOutput`]): Of the model.
        inputs: The collator's batch, with what [`LossTerms`] adds.
        losses: For each term the loss of each sample, `(samples,)`.
        pointwise_losses: The same of each dimension's likelihood, where there is one.

    Returns:
        By the metric's name, tensors of shape `(groups, 2)`.
    """
    group_index, groups = inputs["group_index"], len(inputs["input_ids"])

    def by_group(candidates: Tensor, numerator: Tensor, denominator: Tensor | None = None) -> Tensor:
        numerator = numerator.to(outputs.reward.dtype)
        denominator = torch.ones_like(numerator) if denominator is None else denominator.to(numerator.dtype)
        sums = numerator.new_zeros(groups, 2)
        return sums.index_add(0, group_index[candidates], torch.stack([numerator, denominator], dim=-1))

    statistics = {}
    for (index, _), term, term_loss in zip(terms, inputs["terms"], losses, strict=True):
        name = metric_name("pair_loss", None if index is None else dimensions[index])
        statistics[name] = by_group(term.candidate, term.weight * term_loss, term.weight)

    if pointwise_losses:
        for dimension, term, term_loss in zip(dimensions, inputs["pointwise"], pointwise_losses, strict=True):
            name = metric_name("pointwise_loss", dimension)
            statistics[name] = by_group(term.candidate, term.weight * term_loss, term.weight)

    (winner, loser), *of_dimensions = inputs["ranked"]
    margin = outputs.reward[winner] - outputs.reward[loser]
    statistics["accuracy"] = by_group(winner, margin > 0)
    statistics["margin"] = by_group(winner, margin)
    tied = inputs["tied"]
    is_tie = torch.cat([torch.zeros_like(winner), torch.ones_like(tied)])
    statistics["ties"] = by_group(torch.cat([winner, tied]), is_tie)

    candidates = torch.arange(len(group_index), device=group_index.device)
    ones = torch.ones_like(outputs.reward)
    size = ones.new_zeros(groups).index_add(0, group_index, ones)[group_index]
    for index, (dimension, (winner, loser)) in enumerate(zip(dimensions, of_dimensions, strict=True)):
        mean = outputs.mean[:, index]
        statistics[metric_name("accuracy", dimension)] = by_group(winner, mean[winner] > mean[loser])
        statistics[metric_name("std", dimension)] = by_group(candidates, outputs.log_std[:, index].exp())
        center = (mean.new_zeros(groups).index_add(0, group_index, mean))[group_index] / size
        variance = by_group(candidates, (mean - center).square(), 1 - 1 / size)
        statistics[metric_name("spread", dimension)] = variance
    return statistics


class MetricSums:
    """Sums of what [`batch_statistics`] gives, of this rank until they are reduced.

    Args:
        dimensions, terms: See [`batch_statistics`].
        rationale_weight: Weight of `rationale_loss` in the loss.
        pointwise_weight: Weight of the mean of each dimension's `pointwise_loss`.
    """

    def __init__(
        self,
        dimensions: Sequence[str],
        terms: Sequence[tuple[int | None, float]],
        rationale_weight: float = 0.0,
        pointwise_weight: float = 0.0,
    ) -> None:
        self.dimensions = dimensions
        self.terms = terms
        self.rationale_weight = rationale_weight
        self.pointwise_weight = pointwise_weight
        self._sums: dict[str, Tensor] = {}
        # Of the batches that are not in the sums yet: fetching each would have the host wait for the GPU.
        self._pending: list[tuple[list[str], Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._sums or self._pending)

    def add(self, statistics: Mapping[str, Tensor]) -> None:
        """Add the statistics of a batch."""
        self._pending.append((list(statistics), torch.stack(list(statistics.values()))))

    def clear(self) -> None:
        """Forget all."""
        self._sums, self._pending = {}, []

    def _add_pending(self) -> None:
        for names, values in self._pending:
            for name, of_batch in zip(names, values.cpu().double().sum(dim=1), strict=True):
                self._sums[name] = self._sums.get(name, 0) + of_batch
        self._pending = []

    def reduce(self, accelerator: "Accelerator") -> None:
        """Sum over all ranks. Every rank must have added the same metrics."""
        self._add_pending()
        if accelerator.num_processes > 1:
            stacked = torch.stack(list(self._sums.values())).to(accelerator.device)
            self._sums = dict(zip(self._sums, accelerator.reduce(stacked, "sum").cpu(), strict=True))

    def pop(self) -> dict[str, float]:
        """The metrics of what was added since the last call. One without a single pair to show is left out."""
        self._add_pending()
        metrics = {name: (pair[0] / pair[1]).item() for name, pair in self._sums.items() if pair[1] > 0}
        for dimension in self.dimensions:
            spread = metric_name("spread", dimension)
            if spread in metrics:  # of variances
                metrics[spread] **= 0.5
        parts = [
            (metric_name("pair_loss", None if index is None else self.dimensions[index]), weight)
            for index, weight in self.terms
        ]
        parts.append(("rationale_loss", self.rationale_weight))
        share = self.pointwise_weight / len(self.dimensions)
        parts += [(metric_name("pointwise_loss", dimension), share) for dimension in self.dimensions]
        if any(name in metrics for name, _ in parts):
            metrics["loss"] = sum(weight * metrics.get(name, 0.0) for name, weight in parts)
        self.clear()
        return metrics


def collapsed_dimensions(metrics: Mapping[str, float], dimensions: Sequence[str]) -> list[str]:
    """The dimensions whose mean standard deviation has collapsed against the spread of their means within groups."""
    return [
        dimension
        for dimension in dimensions
        if metrics.get(f"std_{dimension}", 0.0) < COLLAPSED * metrics.get(f"spread_{dimension}", 0.0)
    ]


def collapse_warning(metrics: Mapping[str, float], collapsed: Sequence[str], loss: str) -> str:
    """What to say of collapsed dimensions, and what to do under a loss."""
    found = "; ".join(
        f"{name}: {metrics[f'std_{name}']:.2g} on average, {metrics[f'spread_{name}']:.2g} between edits"
        for name in collapsed
    )
    if loss == "expected_nll":  # its derivative in the standard deviation is positive at any difference
        advice = "`--loss expected_nll` falls with the standard deviation on every pair; try `--loss nll`."
    else:
        advice = (
            f"`--loss {loss}` falls with them on every pair that is ranked right, which drives them to zero where "
            "almost all training pairs are. If those of the evaluation set are not (see `eval_calibration_error`), "
            "train for fewer steps, or keep doubt in the labels: `--ties disentangle` or `--label_smoothing 0.05`."
        )
    return (
        f"The standard deviations have collapsed ({found}): probabilities of preferences and of being the best ignore "
        f"them. {advice}"
    )


class Throughput:
    """What training has seen, and how fast.

    The clock runs from the first `count` after a `pop` to the next `pop`: evaluation and saving, which come after a
    log, are not in it.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTS, 0)
        self._started: float | None = None

    def start(self) -> None:
        """Start the clock unless it runs."""
        if self._started is None:
            self._started = time.perf_counter()

    def count(self, batch: GroupBatch, samples: Samples) -> None:
        """Count a batch of the collator and the samples of its overall loss."""
        found = (
            len(batch["input_ids"]),
            len(batch["labels"]),
            len(samples.weight) if isinstance(samples, WeightedPairs) else 0,
            batch["num_tokens"],
        )
        for name, number in zip(COUNTS, found, strict=True):
            self._counts[name] += number

    def pop(self, accelerator: "Accelerator", log_history: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Rates of all ranks together since the last call, and how much was seen since the start of the run.

        Args:
            accelerator: Sums over the ranks.
            log_history: Of the run. What was seen before comes from it, so that a resumed run counts on.
        """
        seconds = 0.0 if self._started is None else time.perf_counter() - self._started
        values = torch.tensor([*self._counts.values(), seconds / accelerator.num_processes], dtype=torch.float64)
        if accelerator.num_processes > 1:
            values = accelerator.reduce(values.to(accelerator.device), "sum")
        *counts, seconds = values.tolist()
        self._counts = dict.fromkeys(COUNTS, 0)
        self._started = None
        before: Mapping[str, float] = next((entry for entry in reversed(log_history) if COUNTS[0] in entry), {})
        logs: dict[str, float] = {
            name: before.get(name, 0) + int(number) for name, number in zip(COUNTS, counts, strict=True)
        }
        if seconds > 0:
            logs |= {"groups_per_second": counts[0] / seconds, "tokens_per_second": counts[3] / seconds}
        return logs


def peak_memory_gib(accelerator: "Accelerator") -> float:
    """Most memory that any rank has had in use so far: allocated on its GPU, or on a CPU of the process, in GiB."""
    if accelerator.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(accelerator.device)
    elif sys.platform == "win32":
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource

        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = resident if sys.platform == "darwin" else 1024 * resident  # bytes there, KiB elsewhere
    gathered = accelerator.gather(torch.tensor([peak / 2**30], device=accelerator.device))
    return float(gathered.max())


@dataclass(frozen=True)
class EvaluatedGroup:
    """Scores and annotation of the candidates of one group, float64.

    Attributes:
        mean, log_std: raw, shape (candidates, dimensions).
        reward, reward_log_std: raw, shape (candidates,).
        labels: annotated scores, NaN where there is none, shape (candidates, dimensions).
        preferences: annotated (chosen, rejected), indices into the candidates, shape (preferences, 2).
    """

    mean: np.ndarray
    log_std: np.ndarray
    reward: np.ndarray
    reward_log_std: np.ndarray
    labels: np.ndarray
    preferences: np.ndarray

    def pairs(self, dimension: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All annotated pairs, each once.

        Args:
            dimension: column of the scores that decides. `None`: the preferences where there are some, else the sum of
                all columns.

        Returns:
            `first`, `second` and `truth`, shape (pairs,): 1 where the first is better, -1 where the second is, 0: tie.
        """
        if dimension is None and len(self.preferences):
            first, second = self.preferences.T
            return first, second, np.ones(len(first))
        deciding = self.labels.sum(axis=1) if dimension is None else self.labels[:, dimension]
        first, second = np.triu_indices(len(deciding), k=1)
        difference = deciding[first] - deciding[second]
        known = ~np.isnan(difference)
        truth = np.where(np.abs(difference) <= TIE_TOLERANCE, 0.0, np.sign(difference))
        return first[known], second[known], truth[known]

    def differences(self, dimension: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Score of the first minus score of the second for each of `pairs`, and the truth of the pair."""
        first, second, truth = self.pairs(dimension)
        score = self.reward if dimension is None else self.mean[:, dimension]
        return score[first] - score[second], truth

    def preference_probabilities(self, link: str) -> np.ndarray:
        """Probability that the better one is preferred, for each pair that is no tie."""
        first, second, truth = self.pairs()
        better = np.where(truth > 0, first, second)[truth != 0]
        worse = np.where(truth > 0, second, first)[truth != 0]
        mean, log_std = torch.from_numpy(self.reward), torch.from_numpy(self.reward_log_std)
        return preference_probability(mean[better], log_std[better], mean[worse], log_std[worse], link).numpy()


class Evaluator(Protocol):
    """Computes metrics of its own from the scores of a whole evaluation set, beside those of [`EvaluationScores`].

    Attributes:
        names: What it may compute, without the prefix of the set; `metric_for_best_model` may be one of them.
    """

    names: Sequence[str]

    def __call__(self, groups: Sequence[EvaluatedGroup]) -> Mapping[str, float]:
        """The metrics of an evaluation set by name. It is called on every rank with the same groups."""
        ...


class EvaluationScores:
    """Scores of all groups of an evaluation set, in its order and the same on every rank.

    Attributes:
        groups: one entry for each group.
    """

    def __init__(self) -> None:
        self.groups: list[EvaluatedGroup] = []

    def add(self, outputs: Any, inputs: GroupBatch, accelerator: "Accelerator") -> list[EvaluatedGroup]:
        """Add a batch of every rank. Returns this rank's own groups."""
        group_index, groups = inputs["group_index"], len(inputs["input_ids"])
        dtype = outputs.reward.dtype
        columns = [outputs.mean, outputs.log_std, outputs.reward[:, None], outputs.reward_std.log()[:, None]]
        scores, place = _by_group(torch.cat([*columns, inputs["labels"].to(dtype)], dim=-1), group_index, groups)
        preferred = inputs["majority"]
        preferences, _ = _by_group(place[preferred].to(dtype), group_index[preferred[:, 0]], groups)
        if not inputs["group_ids"]:  # no usable row: a grey image that keeps the ranks together
            scores, preferences = torch.zeros_like(scores), torch.zeros_like(preferences)
        # Ranks may have different numbers of groups; what fills up has no candidates.
        all_scores, all_preferences = (
            accelerator.gather(
                accelerator.pad_across_processes(accelerator.pad_across_processes(values, dim=1), dim=0)
            )
            for values in (scores, preferences)
        )
        dimensions = outputs.mean.shape[1]
        self.groups += _unpack(all_scores, all_preferences, dimensions)
        return _unpack(scores, preferences, dimensions)

    def metrics(self, dimensions: Sequence[str], link: str) -> dict[str, float]:
        """The metrics that are no means, and how much was evaluated. One without a pair to show is left out."""
        metrics: dict[str, float] = {}
        for index in (None, *range(len(dimensions))):
            parts = [group.differences(index) for group in self.groups]
            differences, truths = (np.concatenate(column) for column in zip(*parts, strict=True))
            name = None if index is None else dimensions[index]
            if len(truths):
                known = np.isfinite(differences)  # whatever else a diverged model says is wrong
                accuracy, threshold = 0.0, 0.0
                if known.any():
                    accuracy, threshold = accuracy_with_ties(differences[known], truths[known])
                metrics[metric_name("accuracy_with_ties", name)] = accuracy * float(known.mean())
                metrics[metric_name("tie_threshold", name)] = threshold
            if index is None and truths.any():
                probabilities = np.concatenate([group.preference_probabilities(link) for group in self.groups])
                finite = np.isfinite(probabilities).all()
                metrics["calibration_error"] = expected_calibration_error(probabilities) if finite else float("nan")
            if index is None:
                annotated = [g for g in self.groups if len(g.preferences) or not np.isnan(g.labels).all()]
                candidates = sum(len(group.reward) for group in annotated)
                found = (len(annotated), candidates, int(np.count_nonzero(truths)))
                metrics |= dict(zip(COUNTS, found, strict=False))
        return metrics

    def calibrate(self, dimensions: Sequence[str]) -> dict[str, tuple[dict[str, float], CalibrationError]]:
        """The calibration of each dimension, and of the reward (`overall`, on the mean of the dimensions' scores), and
        its error, as [`calibrate_groups`] gives them.

        Raises:
            ValueError: A dimension cannot be calibrated on these groups; the message names it and says why.
        """
        columns_of = {
            name: [(g.mean[:, index], np.exp(g.log_std[:, index]), g.labels[:, index]) for g in self.groups]
            for index, name in enumerate(dimensions)
        }
        columns_of.setdefault(
            "overall", [(g.reward, np.exp(g.reward_log_std), g.labels.mean(axis=1)) for g in self.groups]
        )
        fits = {}
        for name, columns in columns_of.items():
            try:
                fits[name] = calibrate_groups(*zip(*columns, strict=True))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return fits


def _by_group(values: Tensor, group_index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Rows of groups that stand one after another, padded to `(groups, longest, 1 + columns)`; and each row's place.

    The first column tells rows, 1, from padding, 0.
    """
    counts = torch.bincount(group_index, minlength=groups)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(group_index), device=group_index.device) - starts[group_index]
    longest = max(1, int(counts.max()))
    padded = values.new_zeros(groups, longest, 1 + values.shape[1])
    padded[group_index, place] = torch.cat([values.new_ones(len(values), 1), values], dim=-1)
    return padded, place


def _unpack(scores: Tensor, preferences: Tensor, dimensions: int) -> list[EvaluatedGroup]:
    scores, preferences = scores.double().cpu(), preferences.double().cpu()
    groups = []
    for of_group, preferred in zip(scores.numpy(), preferences.numpy(), strict=True):
        rows = of_group[of_group[:, 0] > 0, 1:]
        if not len(rows):
            continue
        mean, log_std, reward, labels = np.split(rows, [dimensions, 2 * dimensions, 2 * dimensions + 2], axis=1)
        pairs = preferred[preferred[:, 0] > 0, 1:].astype(int)
        groups.append(EvaluatedGroup(mean, log_std, reward[:, 0], reward[:, 1], labels, pairs))
    return groups

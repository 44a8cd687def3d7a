"""Accuracy on pairs and on tuples of candidates.

Pairs are given by the difference of their two scores, first minus second, and by the truth: 1 where the first is
better, -1 where the second is, 0 for a tie.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from editreward.statistics.checks import finite, group_index, relations
from editreward.statistics.estimate import Share
from editreward.statistics.resampling import Groups, share_of, share_of_rows

# Of EditReward-Compass: scores that differ by less are a predicted tie.
NEAR_TIE = 1e-5


def pair_accuracy(
    scores: Sequence[ArrayLike], truths: Sequence[ArrayLike], gap: Callable[[float], bool] | None = None
) -> Share:
    """Share of pairs within groups, among those whose truth differs, that the scores order as the truth does.

    Equal scores order nothing and count as wrong.

    Args:
        scores, truths: for each group an array of shape (candidates,).
        gap: count only pairs whose absolute difference in truth satisfies this.

    Raises:
        ValueError: a value is not a number; its group and row are named.
    """
    right, total = [], []
    for score, truth in _groups(scores, truths):
        first, second = np.triu_indices(len(truth), k=1)
        of_score, of_truth = score[first] - score[second], truth[first] - truth[second]
        counted = of_truth != 0
        if gap is not None:
            counted &= np.array([gap(abs(difference)) for difference in of_truth], dtype=bool)
        right.append(int((counted & (np.sign(of_score) == np.sign(of_truth))).sum()))
        total.append(int(counted.sum()))
    return share_of(right, total)


def strict_ranking_accuracy(scores: Sequence[ArrayLike], truths: Sequence[ArrayLike], k: int) -> Share:
    """Share of tuples of k candidates of a group with k different truths that come out in the true order.

    Chance is 1 / k!. These are all tuples that the groups hold; for the tuples of a benchmark see [`tuple_accuracy`].
    """
    right, total = [], []
    for score, truth in _groups(scores, truths):
        tuples = [list(chosen) for chosen in combinations(range(len(truth)), k)]
        tuples = [chosen for chosen in tuples if len(set(truth[chosen])) == k]
        ordered = [chosen for chosen in tuples if (np.diff(score[chosen][np.argsort(truth[chosen])]) > 0).all()]
        right.append(len(ordered))
        total.append(len(tuples))
    return share_of(right, total)


def predicted_relations(differences: ArrayLike, threshold: float = 0.0) -> np.ndarray:
    """What score differences say of pairs: 0, a tie, where they are at most the threshold, and else their sign.

    Args:
        differences: score of the first minus score of the second, shape (pairs,).
        threshold: 0 or more, in units of the score.

    Raises:
        ValueError: a difference is not finite; its row is named. Or the threshold is negative or not a number.
    """
    differences = finite("differences", differences)
    if not threshold >= 0:
        raise ValueError(f"the tie threshold is {threshold}; it must be 0 or more")
    return np.where(np.abs(differences) <= threshold, 0.0, np.sign(differences))


def accuracy_without_ties(differences: ArrayLike, truths: ArrayLike, groups: Groups = None) -> Share:
    """Share of pairs that the scores order right, among those that are no tie. Equal scores are wrong.

    Args:
        differences, truths: shape (pairs,).
        groups: of the pairs, for the interval; see `Groups`.

    Raises:
        ValueError: a difference is not finite or a truth is none; the row is named.
    """
    predicted = predicted_relations(differences)
    truths = relations("truths", truths, len(predicted))
    index, _ = group_index(groups, len(truths))
    ordered = truths != 0
    return share_of_rows((predicted == truths)[ordered], index[ordered])


def accuracy_at_threshold(differences: ArrayLike, truths: ArrayLike, threshold: float, groups: Groups = None) -> Share:
    """Share of pairs, tied ones included, whose relation the scores predict at a given threshold.

    Args:
        differences, truths: shape (pairs,).
        threshold: scores that differ by at most this are a predicted tie.
        groups: of the pairs, for the interval, in which the threshold stays as it is; see `Groups`.

    Raises:
        ValueError: a difference is not finite or a truth is none; the row is named.
    """
    predicted = predicted_relations(differences, threshold)
    return share_of_rows(predicted == relations("truths", truths, len(predicted)), groups)


def accuracy_with_ties(differences: ArrayLike, truths: ArrayLike) -> tuple[float, float]:
    """Share of pairs, tied ones included, whose relation the scores predict, at the threshold where it is highest.

    A pair is predicted to be tied if its scores differ by at most the threshold (Deutsch et al. 2023, arXiv
    2305.14324). Only 0 and the absolute differences need to be tried, since nothing changes in between: one sort.
    Of several thresholds that reach the highest accuracy it is the smallest. Choosing it on the pairs that are then
    counted flatters: [`random_scores_floor`] tells by how much where the scores are random.

    Args:
        differences: score of the first minus score of the second, shape (pairs,).
        truths: 1 where the first is better, -1 where the second is, 0 for a tie, shape (pairs,).

    Returns:
        The accuracy, 0 to 1, and the threshold; NaN and NaN without a pair.

    Raises:
        ValueError: a difference is not finite or a truth is none; the row is named.
    """
    differences = finite("differences", differences)
    truths = relations("truths", truths, len(differences))
    if not len(truths):
        return float("nan"), float("nan")
    ordered_right = (truths != 0) & (np.sign(differences) == truths)
    thresholds, place = np.unique(np.append(np.abs(differences), 0.0), return_inverse=True)
    # A threshold wins the ties up to it and loses the pairs up to it that were ordered right.
    gain = np.where(truths == 0, 1, np.where(ordered_right, -1, 0))
    right = int(ordered_right.sum()) + np.cumsum(np.bincount(place[:-1], weights=gain, minlength=len(thresholds)))
    best = int(np.argmax(right))
    return float(right[best] / len(truths)), float(thresholds[best])


@dataclass(frozen=True)
class PairMetrics:
    """Accuracies on the same pairs.

    Attributes:
        without_ties: of the pairs that are no tie.
        with_ties: of all pairs, at the threshold where it is highest. The interval keeps the threshold.
        tie_threshold: that threshold, in units of the score; NaN without a pair.
    """

    without_ties: Share
    with_ties: Share
    tie_threshold: float


def pair_metrics(differences: ArrayLike, truths: ArrayLike, groups: Groups = None) -> PairMetrics:
    """Accuracy without ties, and with ties at the best threshold.

    Args:
        differences, truths: shape (pairs,).
        groups: of the pairs, for the intervals; see `Groups`.

    Raises:
        ValueError: a difference is not finite or a truth is none; the row is named.
    """
    _, threshold = accuracy_with_ties(differences, truths)
    with_ties = accuracy_at_threshold(differences, truths, np.nan_to_num(threshold), groups)
    return PairMetrics(accuracy_without_ties(differences, truths, groups), with_ties, threshold)


def relations_of_scores(first: ArrayLike, second: ArrayLike, tolerance: float = 1e-4) -> np.ndarray:
    """The truth of pairs from the annotated scores of the first and of the second.

    Args:
        first, second: shape (pairs,), NaN where there is none.
        tolerance: scores that differ by at most this are a tie. Means of annotators are rounded in published files.

    Returns:
        1, -1 or 0, and NaN where a score is missing, shape (pairs,).
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return np.where(np.abs(difference) <= tolerance, 0.0, np.sign(difference))


def dimension_metrics(
    differences: Mapping[str, ArrayLike], truths: Mapping[str, ArrayLike], groups: Groups = None
) -> dict[str, PairMetrics]:
    """Accuracies in each dimension that has a truth, with a tie threshold of its own.

    Args:
        differences: by dimension the differences of the scores in it, shape (pairs,).
        truths: by dimension the truth in it, shape (pairs,), NaN where a pair has none.
        groups: of the pairs, for the intervals; see `Groups`.

    Raises:
        ValueError: a dimension has a truth but no scores (it is named), a difference is not finite or a truth is none.
    """
    missing = sorted(truths.keys() - differences.keys())
    if missing:
        raise ValueError(f"no scores for {', '.join(missing)}; there are scores for {', '.join(differences)}")
    found = {}
    for name, truth in truths.items():
        truth = np.asarray(truth, dtype=float)
        index, _ = group_index(groups, len(truth))
        score = finite(f"differences in {name}", differences[name], len(truth))
        known = ~np.isnan(truth)
        found[name] = pair_metrics(score[known], truth[known], index[known])
    return found


@dataclass(frozen=True)
class NearTieAccuracy:
    """Accuracies where a tie has to be met almost exactly.

    Attributes:
        preferences: of the pairs that are no tie.
        ties: of the ties.
        together: of all pairs.
    """

    preferences: Share
    ties: Share
    together: Share


def near_tie_accuracy(
    differences: ArrayLike, truths: ArrayLike, groups: Groups = None, tolerance: float = NEAR_TIE
) -> NearTieAccuracy:
    """Accuracy by the rule of EditReward-Compass: a preference is right if the winner's score is higher, by however
    little; a tie if the scores differ by less than the tolerance, which continuous scores hardly ever do.

    Args:
        differences, truths: shape (pairs,).
        groups: of the pairs, for the intervals; see `Groups`.
        tolerance: in units of the score.

    Raises:
        ValueError: a difference is not finite or a truth is none; the row is named.
    """
    differences = finite("differences", differences)
    truths = relations("truths", truths, len(differences))
    index, _ = group_index(groups, len(truths))
    tie = truths == 0
    right = np.where(tie, np.abs(differences) < tolerance, np.sign(differences) == truths)
    return NearTieAccuracy(
        share_of_rows(right[~tie], index[~tie]), share_of_rows(right[tie], index[tie]), share_of_rows(right, index)
    )


@dataclass(frozen=True)
class TupleOutcomes:
    """Which tuples a model gets right.

    Attributes:
        tuples: ids, in the order of their first pairs.
        sizes: K of each tuple, shape (tuples,).
        right: whether each tuple is right, shape (tuples,).
        pair_right: whether each pair is, shape (pairs,).
        tie_threshold: of the pairs of K = 2; NaN without one.
    """

    tuples: list[Hashable]
    sizes: np.ndarray
    right: np.ndarray
    pair_right: np.ndarray
    tie_threshold: float


def tuple_outcomes(
    differences: ArrayLike,
    truths: ArrayLike,
    tuples: Sequence[Hashable],
    sizes: ArrayLike,
    threshold: float | None = None,
) -> TupleOutcomes:
    """Judge tuples by the protocol of EditReward-Bench: a tuple is right if all of its pairs are.

    Pairs of K = 2 can be ties, judged with one threshold. Larger tuples have no threshold: a pair is right if the
    scores are strictly in the true order (and a tied truth, which the protocol doesn't have there, only if they are
    equal).

    Args:
        differences, truths: shape (pairs,).
        tuples: id of each pair's tuple.
        sizes: K of each pair's tuple, shape (pairs,).
        threshold: for K = 2; `None`: the one that is best for these pairs, see [`accuracy_with_ties`].

    Raises:
        ValueError: a difference is not finite or a truth is none (the row is named), or a tuple doesn't have its
            K (K - 1) / 2 pairs (it is named).
    """
    differences = finite("differences", differences)
    truths = relations("truths", truths, len(differences))
    sizes = finite("sizes", sizes, len(differences)).astype(int)
    index, names = group_index(tuples, len(differences))
    pairs = np.bincount(index, minlength=len(names))
    size = np.zeros(len(names), dtype=int)
    size[index] = sizes
    for wrong in np.flatnonzero(sizes != size[index]):
        tuple_sizes = sorted(set(sizes[index == index[wrong]].tolist()))
        raise ValueError(f"tuple {names[index[wrong]]!r} has pairs of different K: {tuple_sizes}")
    for number in np.flatnonzero(2 * pairs != size * (size - 1)):
        raise ValueError(
            f"tuple {names[number]!r} has {pairs[number]} pairs, but K = {size[number]} needs "
            f"{size[number] * (size[number] - 1) // 2}"
        )
    of_two = sizes == 2
    if threshold is None:
        _, threshold = accuracy_with_ties(differences[of_two], truths[of_two])
    predicted = predicted_relations(differences)
    predicted[of_two] = predicted_relations(differences[of_two], np.nan_to_num(threshold))
    right = predicted == truths
    return TupleOutcomes(names, size, np.bincount(index, right, len(names)) == pairs, right, threshold)


@dataclass(frozen=True)
class TupleAccuracy:
    """Accuracies of EditReward-Bench.

    Attributes:
        strict: share of right tuples by K.
        overall: share of right tuples of all K together: the pool, not the mean over K.
        pairwise: share of right pairs by K.
        pairwise_overall: share of right pairs of all K together.
        tie_threshold: of the pairs of K = 2, in units of the score; NaN without one.
    """

    strict: dict[int, Share]
    overall: Share
    pairwise: dict[int, Share]
    pairwise_overall: Share
    tie_threshold: float


def tuple_accuracy(
    differences: ArrayLike,
    truths: ArrayLike,
    tuples: Sequence[Hashable],
    sizes: ArrayLike,
    groups: Groups = None,
    threshold: float | None = None,
) -> TupleAccuracy:
    """Strict accuracy of tuples and pair-wise accuracy, by K and over all.

    Args:
        differences, truths, tuples, sizes, threshold: see [`tuple_outcomes`].
        groups: of the pairs, for the intervals; `None`: tuples are drawn. A tuple belongs to the group of its first
            pair.

    Raises:
        ValueError: see [`tuple_outcomes`].
    """
    found = tuple_outcomes(differences, truths, tuples, sizes, threshold)
    of_tuple, _ = group_index(tuples, len(found.pair_right))
    of_pair, _ = group_index(tuples if groups is None else groups, len(found.pair_right))
    first_pair = np.unique(of_tuple, return_index=True)[1]
    group_of_tuple, size_of_pair = of_pair[first_pair], found.sizes[of_tuple]
    strict, pairwise = {}, {}
    for k in sorted(set(found.sizes.tolist())):
        chosen, pairs = found.sizes == k, size_of_pair == k
        strict[k] = share_of_rows(found.right[chosen], group_of_tuple[chosen])
        pairwise[k] = share_of_rows(found.pair_right[pairs], of_pair[pairs])
    return TupleAccuracy(
        strict=strict,
        overall=share_of_rows(found.right, group_of_tuple),
        pairwise=pairwise,
        pairwise_overall=share_of_rows(found.pair_right, of_pair),
        tie_threshold=found.tie_threshold,
    )


def _groups(scores: Sequence[ArrayLike], truths: Sequence[ArrayLike]) -> list[tuple[np.ndarray, np.ndarray]]:
    groups = []
    for number, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        values = finite(f"scores of group {number}", score)
        groups.append((values, finite(f"truths of group {number}", truth, len(values))))
    return groups

"""What protocols of several benchmarks share: answers, pairs of answers, and measures from them.

A protocol is a function from answers to measures. docs/benchmarks.md has each in short.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from editreward.benchmarks.measures import SHARE, Cases, MeanOfGroups, Measure, Statistic, StatisticOfRows, json_number
from editreward.benchmarks.runner import GroupRecord
from editreward.data.benchmark_items import BenchmarkItem, Comparison
from editreward.groups import GroupScores
from editreward.statistics import (
    Estimate,
    Share,
    TupleOutcomes,
    accuracy_with_ties,
    bootstrap,
    brier_score,
    coin_floor,
    compare_shares,
    correlation,
    expected_calibration_error,
    grouped_correlation,
    human_to_human,
    interval_coverage,
    predicted_relations,
    random_scores_floor,
    relations_of_scores,
    share_of_rows,
    tuned_random_accuracy,
    tuple_outcomes,
    z_normalised,
    z_normalised_correlation,
)
from editreward.statistics.checks import group_index

PairKey: TypeAlias = tuple[str, str, int, int]
"""Group id, judged dimension, and the indices of two candidates."""

TRUTHS = {"first": 1.0, "second": -1.0, "tie": 0.0}
EVERYTHING = "all"
OVERALL = "overall"
HUMAN = "human to human"
COVERED = (0.5, 0.95)


@dataclass(frozen=True)
class Answers:
    """What a protocol judges.

    Attributes:
        items: those that have an answer.
        groups: records of their groups, by id.
        scores: by group id, of a scorer.
        margins: of a judge: by `PairKey` by how much it prefers the first of the two candidates.
        tags: by group id further names of subsets, such as {"novelty": "unseen wording"}.
        names: which of the scorer's dimensions answers a dimension of the benchmark, in order of preference.
        calibrated: the scorer's dimensions are on the scale of people's scores.
        shown_first: of a judge: its margins by the order in which it was shown each pair; margins are of one order.
    """

    items: Sequence[BenchmarkItem]
    groups: Mapping[str, GroupRecord]
    scores: Mapping[str, GroupScores] | None = None
    margins: Mapping[PairKey, float] | None = None
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibrated: bool = False
    shown_first: Mapping[PairKey, float] = field(default_factory=dict)

    @property
    def dimensions(self) -> list[str]:
        """What the scorer scores apart."""
        return list(next(iter(self.scores.values())).dimensions) if self.scores else []

    def answering(self, dimension: str) -> str:
        """The scorer's dimension that answers one of the benchmark; `overall` where it has none for it."""
        return next((name for name in self.names.get(dimension, ()) if name in self.dimensions), OVERALL)

    def pairs(self, items: Sequence[BenchmarkItem] | None = None) -> "Pairs":
        """All comparisons of items, by default of all."""
        chosen = self.items if items is None else items
        entries = [(item, comparison) for item in chosen for comparison in item.comparisons]
        return Pairs(
            items=[item for item, _ in entries],
            comparisons=[comparison for _, comparison in entries],
            differences=np.array([self._difference(item, c, self.answering(item.dimension)) for item, c in entries]),
            truths=np.array([TRUTHS[comparison.verdict] for _, comparison in entries]),
        )

    def differences_in(self, pairs: "Pairs", dimension: str) -> np.ndarray:
        """Differences of the scores in one of the scorer's dimensions, shape (pairs,)."""
        entries = zip(pairs.items, pairs.comparisons, strict=True)
        return np.array([self._difference(item, comparison, dimension) for item, comparison in entries])

    def truths_in(self, pairs: "Pairs", dimension: str) -> np.ndarray:
        """People's verdict in a dimension, from the annotated scores; NaN where there are none. Shape (pairs,)."""
        values = [self.groups[item.group_id].truth.get(dimension) for item in pairs.items]
        sides = [
            [np.nan if scores is None else scores[getattr(comparison, side)] for side in ("first", "second")]
            for scores, comparison in zip(values, pairs.comparisons, strict=True)
        ]
        first, second = np.array(sides, dtype=float).reshape(-1, 2).T
        return relations_of_scores(first, second)

    def _difference(self, item: BenchmarkItem, comparison: Comparison, dimension: str) -> float:
        if self.margins is not None:
            return self.margins[item.group_id, item.dimension, comparison.first, comparison.second]
        assert self.scores is not None
        scores = self.scores[item.group_id]
        values = scores.overall if dimension == OVERALL else scores.dimensions[dimension]
        return values[comparison.first] - values[comparison.second]


@dataclass(frozen=True)
class Pairs:
    """Comparisons of items as a table.

    Attributes:
        items, comparisons: of each row.
        differences: score of the first minus score of the second, shape (pairs,).
        truths: 1 where people prefer the first, -1 the second, 0 for a tie, shape (pairs,).
    """

    items: list[BenchmarkItem]
    comparisons: list[Comparison]
    differences: np.ndarray
    truths: np.ndarray

    @property
    def groups(self) -> list[str]:
        """Group of each row: what intervals resample."""
        return [item.group_id for item in self.items]

    @property
    def tuples(self) -> list[tuple[str, str, str]]:
        """Identity of each row's item: published ids may occur twice, and items of several dimensions share one."""
        return [(item.group_id, item.item_id, item.dimension) for item in self.items]

    @property
    def sizes(self) -> np.ndarray:
        """Number of candidates of each row's item, shape (pairs,)."""
        return np.array([len(item.candidates) for item in self.items])

    def cases(self, values: np.ndarray, chosen: np.ndarray | None = None, statistic: Statistic = SHARE) -> Cases:
        """Rows as the cases of a measure.

        Args:
            values: of each row, such as whether the scorer is right, shape (pairs,).
            chosen: which rows count, shape (pairs,); None: all.
            statistic: of the values of all rows.
        """
        keys = [(*key, c.first, c.second) for key, c in zip(self.tuples, self.comparisons, strict=True)]
        cases = Cases(keys, self.groups, np.asarray(values, dtype=float), statistic)
        return cases if chosen is None else cases.only(chosen)


def pairs_with_ties(answers: Answers, column: str | None = "pairs") -> list[Measure]:
    """GenAI-Bench and the pair-wise part of AURORA-Bench: accuracy with ties at the best threshold, and without ties.

    A judge's own ties are its ties: it gets no threshold.

    Args:
        answers: what is judged.
        column: of the published table that the accuracy with ties compares with.
    """
    pairs = answers.pairs()
    ties = int((pairs.truths == 0).sum())
    threshold = None if answers.margins is not None else accuracy_with_ties(pairs.differences, pairs.truths)[1]
    right = predicted_relations(pairs.differences, np.nan_to_num(threshold or 0.0)) == pairs.truths
    strictly_right = np.sign(pairs.differences) == pairs.truths
    coin = coin_floor({2: len(pairs.truths)}, ties).by_k[2] if len(pairs.truths) else None
    chance = tuned_random_accuracy(len(pairs.truths), ties)
    details = {"ties": ties, "tie_threshold": None if threshold is None else json_number(threshold)}
    without_ties = pairs.cases(strictly_right, pairs.truths != 0)
    return [
        Measure("accuracy with ties", EVERYTHING, pairs.cases(right), chance, coin, column, details),
        Measure("accuracy without ties", EVERYTHING, without_ties, 0.5, 0.25),
        *calibration(answers, pairs),
    ]


def ratings(answers: Answers) -> list[Measure]:
    """ImagenHub and the point-wise part of AURORA-Bench: rank correlation with the human scores of single edits.

    Raises:
        ValueError: a judge of pairs was asked.
    """
    if answers.scores is None:
        raise ValueError("This benchmark rates single edits: it needs a scorer, not a judge of pairs.")
    place = [(item, item.candidates[0]) for item in answers.items]
    scores = np.array([answers.scores[item.group_id].overall[index] for item, index in place])
    truths = np.array([item.score for item in answers.items], dtype=float)
    editors = np.array([answers.groups[item.group_id].editors[index] for item, index in place])
    groups = np.array([item.group_id for item in answers.items])

    keys = [(item.group_id, item.item_id, index) for item, index in place]

    def cases(function: Callable[..., float], *columns: np.ndarray) -> Cases:
        return Cases(keys, groups.tolist(), scores, StatisticOfRows(function, columns))

    of_editors = grouped_correlation(scores, truths, editors)
    details = {
        "by_editor": {str(name): value for name, value in of_editors.by_subset.items()},
        "constant_scores": [str(name) for name in of_editors.constant_scores],
        "constant_truths": [str(name) for name in of_editors.constant_truths],
    }
    fisher = cases(lambda *columns: grouped_correlation(*columns).fisher, truths, editors)
    script = cases(lambda *columns: grouped_correlation(*columns).mean_then_tanh, truths, editors)
    pooled = cases(correlation, truths)
    kendall = cases(lambda values, known: correlation(values, known, "kendall"), truths)
    within = grouped_correlation(scores, truths, groups).by_subset
    per_prompt = Cases(list(within), list(map(str, within)), np.array(list(within.values()), float), MeanOfGroups())
    name = "Spearman per editing model"
    return [
        Measure(f"{name}, Fisher average", EVERYTHING, fisher, 0, details=details),
        Measure(f"{name}, tanh of the mean", EVERYTHING, script, 0, column="ratings"),
        Measure("Spearman of all edits", EVERYTHING, pooled, 0),
        Measure("Kendall of all edits", EVERYTHING, kendall, 0),
        Measure("Spearman per prompt, mean", EVERYTHING, per_prompt, 0),
        Measure("Spearman, normalised per prompt", EVERYTHING, _normalised_correlation(scores, truths, groups), 0),
    ]


def tuples(answers: Answers) -> list[Measure]:
    """EditReward-Bench (TIGER-Lab): strict accuracy of tuples of 2, 3 and 4, and pair-wise accuracy beside it.

    K = 2 includes ties, judged with one threshold (a judge says itself what is a tie); a larger tuple counts only if
    every pair is strictly in order; overall is the pool of all tuples. Per dimension where people's scores are known;
    what people themselves reach where the annotators are.
    """
    pairs = answers.pairs()
    sizes = pairs.sizes
    outcomes = tuple_outcomes(
        pairs.differences, pairs.truths, pairs.tuples, sizes, None if answers.margins is None else 0.0
    )
    strict = Cases(outcomes.tuples, [str(key[0]) for key in outcomes.tuples], outcomes.right.astype(float))  # type: ignore[index]
    number = {k: int((outcomes.sizes == k).sum()) for k in sorted(set(outcomes.sizes.tolist()))}
    ties = int(((pairs.truths == 0) & (sizes == 2)).sum())
    chance, coin = random_scores_floor(number, ties), coin_floor(number, ties)
    measures = []
    for k in number:
        details = {"ties": ties, "tie_threshold": json_number(outcomes.tie_threshold)} if k == 2 else {}
        of_size = strict.only(outcomes.sizes == k)
        measures.append(
            Measure("strict accuracy", f"K = {k}", of_size, chance.by_k[k], coin.by_k[k], f"K = {k}", details)
        )
    measures.append(Measure("strict accuracy", OVERALL, strict, chance.overall, coin.overall, OVERALL))
    for k in number:
        floors = (chance.by_k[k], coin.by_k[k]) if k == 2 else (0.5, 0.5)
        measures.append(
            Measure("pair-wise accuracy", f"K = {k}", pairs.cases(outcomes.pair_right, sizes == k), *floors)
        )
    of_two = float((sizes == 2).mean())
    floors = 0.5 + of_two * (chance.by_k.get(2, 0.5) - 0.5), 0.5 + of_two * (coin.by_k.get(2, 0.5) - 0.5)
    measures.append(Measure("pair-wise accuracy", OVERALL, pairs.cases(outcomes.pair_right), *floors))
    return [
        *measures,
        *by_dimension(answers, pairs),
        *calibration(answers, pairs),
        *coverage(answers),
        *people(answers, pairs),
    ]


def by_dimension(answers: Answers, pairs: Pairs) -> list[Measure]:
    """Accuracies in each of the scorer's dimensions that has scores of people, with a tie threshold of its own."""
    measures = []
    for name in answers.dimensions:
        truths = answers.truths_in(pairs, name)
        known = ~np.isnan(truths)
        if known.any():
            differences = answers.differences_in(pairs, name)
            _, threshold = accuracy_with_ties(differences[known], truths[known])
            right = predicted_relations(differences, threshold) == truths
            with_ties = pairs.cases(right, known)
            without_ties = pairs.cases(np.sign(differences) == truths, np.abs(truths) == 1)
            details = {"tie_threshold": json_number(threshold)}
            measures.append(Measure("pair-wise accuracy with ties", name, with_ties, details=details))
            measures.append(Measure("pair-wise accuracy without ties", name, without_ties, chance=0.5))
    return measures


def people(answers: Answers, pairs: Pairs) -> list[Measure]:
    """Human to human: each annotator against the mean of the others, judged as scorers are on tuples.

    An annotator's scores are summed over the dimensions, and the tie threshold of K = 2 is chosen for each annotator,
    as for any scorer. Tuples count for those who rated all of their candidates, others having rated them, too. Empty
    where the data don't have the annotators.
    """
    records = {group_id: answers.groups[group_id] for group_id in dict.fromkeys(pairs.groups)}
    names = list(dict.fromkeys(name for record in records.values() for name in record.ratings))
    if len(names) < 2:
        return []
    ratings = np.array([np.concatenate([_summed(record, name) for record in records.values()]) for name in names])
    ends = np.cumsum([record.size for record in records.values()])
    starts = dict(zip(records, (ends - [record.size for record in records.values()]).tolist(), strict=True))
    entries = list(zip(pairs.groups, pairs.comparisons, strict=True))
    first, second = (np.array([starts[g] + getattr(c, side) for g, c in entries]) for side in ("first", "second"))
    sizes, (of_tuple, _) = pairs.sizes, group_index(pairs.tuples, len(pairs.items))
    found: list[tuple[TupleOutcomes, np.ndarray]] = []

    def judged(rating: np.ndarray, others: np.ndarray, rows: np.ndarray) -> float:
        own, mean = np.full((2, ratings.shape[1]), np.nan)
        own[rows], mean[rows] = rating, others
        differences, truths = own[first] - own[second], relations_of_scores(mean[first], mean[second])
        whole = np.flatnonzero(~np.isin(of_tuple, of_tuple[np.isnan(differences)]))
        if not len(whole):
            return float("nan")
        ids = [pairs.tuples[row] for row in whole]
        outcomes = tuple_outcomes(differences[whole], truths[whole], ids, sizes[whole])
        found.append((outcomes, whole))
        return float(outcomes.right.mean())

    human_to_human(ratings, judged)
    return accuracies_of(HUMAN, pairs, found) if found else []


def _summed(record: GroupRecord, annotator: str) -> np.ndarray:
    """An annotator's scores of a group, summed over the dimensions; NaN where one is missing. Shape (candidates,)."""
    ratings = record.ratings.get(annotator)
    return np.sum(list(ratings.values()), axis=0) if ratings else np.full(record.size, np.nan)


def accuracies_of(name: str, pairs: Pairs, judged: Sequence[tuple[TupleOutcomes, np.ndarray]]) -> list[Measure]:
    """Strict and pair-wise accuracies of several judges together, by K and overall.

    Args:
        name: of the judges.
        pairs: the comparisons.
        judged: of each judge the outcomes, and which rows of the pairs they are of.
    """
    groups, sizes = np.array(pairs.groups), pairs.sizes
    outcomes, rows = [one for one, _ in judged], np.concatenate([chosen for _, chosen in judged])
    of_tuples = np.array([str(key[0]) for one in outcomes for key in one.tuples])  # type: ignore[index]
    tuple_sizes = np.concatenate([one.sizes for one in outcomes])
    measures = []
    for kind, right, size, group in (
        ("strict accuracy", [one.right for one in outcomes], tuple_sizes, of_tuples),
        ("pair-wise accuracy", [one.pair_right for one in outcomes], sizes[rows], groups[rows]),
    ):
        values = np.concatenate(right)
        for k in sorted(set(size.tolist())):
            share = share_of_rows(values[size == k], group[size == k])
            measures.append(Measure(f"{name}, {kind}", f"K = {k}", share))
        measures.append(Measure(f"{name}, {kind}", OVERALL, share_of_rows(values, group)))
    return measures


def calibration(answers: Answers, pairs: Pairs) -> list[Measure]:
    """Whether the probabilities of preferences come true, for scorers that have them, on pairs that are no tie."""
    of_pair = preference_probabilities(answers, pairs)
    known = ~np.isnan(of_pair)
    if not known.any():
        return []
    measures = []
    for name, chance, function in (
        ("expected calibration error", None, expected_calibration_error),
        ("Brier score", 0.25, brier_score),
    ):
        cases = pairs.cases(of_pair, known, StatisticOfRows(function, has_interval=False))
        measures.append(Measure(name, "preferences", cases, chance, lower_is_better=True))
    return measures


def coverage(answers: Answers) -> list[Measure]:
    """How often people's scores lie within the intervals of the scorer's Gaussians, by dimension.

    Of scorers that are on people's scale and state standard deviations; each judged edit counts once.
    """
    if answers.scores is None or not answers.calibrated:
        return []
    measures = []
    edits = sorted({(item.group_id, index) for item in answers.items for index in item.candidates})
    for name in answers.dimensions:
        rows = []
        for group_id, index in edits:
            scores, truth = answers.scores[group_id], answers.groups[group_id].truth.get(name)
            if truth is not None and not np.isnan(truth[index]) and name in scores.stds:
                rows.append((scores.dimensions[name][index], scores.stds[name][index], truth[index], group_id))
        if rows:
            means, stds, truths, groups = zip(*rows, strict=True)
            for level, share in interval_coverage(means, stds, truths, COVERED, groups).items():
                measures.append(Measure(f"coverage of {level:.0%} intervals", name, share))
    return measures


def preference_probabilities(answers: Answers, pairs: Pairs) -> np.ndarray:
    """The scorer's probability that the better one of each pair is preferred, shape (pairs,).

    NaN for ties, and for all pairs where the scorer has no probabilities.
    """
    found = np.full(len(pairs.items), np.nan)
    for row, (item, comparison, truth) in enumerate(zip(pairs.items, pairs.comparisons, pairs.truths, strict=True)):
        known = answers.scores[item.group_id].preferences if answers.scores else None
        if known is not None and truth:
            better, worse = (comparison.first, comparison.second)[:: int(truth)]
            found[row] = min(1.0, max(0.0, known[better][worse]))  # quadrature may leave 0..1 by rounding
    return found


def position_bias(pairs: Pairs, shown_first: Mapping[PairKey, float]) -> list[Measure]:
    """Accuracy of a judge when the better edit is shown first and when it is shown second, and the gap.

    Ties are left out. A judge that answers "tie" is wrong.

    Args:
        pairs: the comparisons.
        shown_first: what the judge said when it was shown the candidates in the key's order; both orders of every
            pair are needed.
    """
    first, second, of_group = [], [], []
    for item, comparison, truth in zip(pairs.items, pairs.comparisons, pairs.truths, strict=True):
        if truth:
            better, worse = (comparison.first, comparison.second)[:: int(truth)]
            first.append(shown_first[item.group_id, item.dimension, better, worse] > 0)
            second.append(shown_first[item.group_id, item.dimension, worse, better] < 0)
            of_group.append(item.group_id)
    gap = compare_shares(first, second, of_group)
    estimate = Share(gap.difference, gap.low, gap.high, len(first))
    return [
        Measure("position bias", "better edit shown first", share_of_rows(first, of_group), column="first"),
        Measure("position bias", "better edit shown second", share_of_rows(second, of_group), column="second"),
        Measure("position bias", "gap", estimate, 0.0, 0.0, details={"p_value": json_number(gap.p_value)}),
    ]


def _normalised_correlation(scores: np.ndarray, truths: np.ndarray, prompts: np.ndarray) -> Estimate:
    """`z_normalised_correlation` with its interval. Whole prompts are drawn, so normalising once is enough."""
    value = z_normalised_correlation(scores, truths, prompts)
    truths = z_normalised(truths, prompts)
    chosen = np.isin(prompts, prompts[truths != 0])
    scores, truths = z_normalised(scores, prompts)[chosen], truths[chosen]
    found = bootstrap(lambda rows: correlation(scores[rows], truths[rows]), len(scores), list(prompts[chosen]))
    return Estimate(value, found.low, found.high, len(prompts))

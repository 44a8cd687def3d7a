"""The protocols of the benchmarks: from items and answers to measures. docs/benchmarks.md has each in short."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from editreward.benchmarks.runner import GroupRecord
from editreward.data.benchmark_items import BenchmarkItem, Comparison
from editreward.scorers.scorers import GroupScores
from editreward.statistics import (
    Estimate,
    Share,
    TupleOutcomes,
    accuracy_at_threshold,
    accuracy_without_ties,
    bootstrap,
    brier_score,
    coin_floor,
    compare_shares,
    correlation,
    dimension_metrics,
    expected_calibration_error,
    grouped_correlation,
    human_to_human,
    interval_coverage,
    macro_share,
    mean_of_groups,
    near_tie_accuracy,
    pair_metrics,
    predicted_relations,
    random_scores_floor,
    relations_of_scores,
    share_of_rows,
    shares_by,
    tuned_random_accuracy,
    tuple_accuracy,
    tuple_outcomes,
    z_normalised,
    z_normalised_correlation,
)
from editreward.statistics.checks import group_index
from editreward.statistics.pairs import NEAR_TIE

PairKey: TypeAlias = tuple[str, str, int, int]
"""Group id, judged dimension, and the indices of two candidates."""

TRUTHS = {"first": 1.0, "second": -1.0, "tie": 0.0}
EVERYTHING = "all"
OVERALL = "overall"
HUMAN = "human to human"
COVERED = (0.5, 0.95)

EDITSCORE_GROUPS = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}


@dataclass(frozen=True, eq=False)
class Cases:
    """What a measure was computed from, row by row, for a paired comparison with another scorer's.

    Attributes:
        keys: what each row is, the same for every scorer, such as (group id, dimension, first, second).
        groups: of each row, which are what is resampled.
        values: whether the scorer is right (1 or 0), or its score, or its probability, shape (rows,).
        statistic: from values of some rows and the indices of these rows, shape (any number,) each, to the measure;
            None: the share of rows that are right.
    """

    keys: Sequence[Hashable]
    groups: Sequence[str]
    values: np.ndarray
    statistic: Callable[[np.ndarray, np.ndarray], float] | None = None

    def only(self, chosen: np.ndarray) -> "Cases":
        """The chosen rows, shape (rows,). The statistic is then one of their indices."""
        rows = np.flatnonzero(chosen).tolist()
        keys, groups = [self.keys[row] for row in rows], [self.groups[row] for row in rows]
        return Cases(keys, groups, self.values[rows], self.statistic)


@dataclass(frozen=True)
class Measure:
    """One number of a result.

    Attributes:
        name: what is measured, such as "accuracy with ties".
        subset: of which part of the benchmark, such as "K = 2" or a task.
        estimate: the number with its interval, a `Share` or a correlation or the like.
        chance: what random scores reach in expectation, None where it isn't known in closed form.
        coin: what a judge reaches that answers every pair at random; likewise.
        column: of the published table, where the number is to be compared with it.
        details: what else belongs to it, such as the tie threshold.
        lower_is_better: it is an error.
        cases: what it was computed from; None where no paired comparison is to be made.
    """

    name: str
    subset: str
    estimate: Estimate
    chance: float | None = None
    coin: float | None = None
    column: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    lower_is_better: bool = False
    cases: Cases | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; what is undefined is null."""
        numbers = {name: _json_number(getattr(self.estimate, name)) for name in ("value", "low", "high")}
        optional = {"chance": self.chance, "coin": self.coin, "column": self.column}
        return {
            "name": self.name,
            "subset": self.subset,
            "unit": "share" if isinstance(self.estimate, Share) else "number",
            **numbers,
            "total": self.estimate.total,
            **{name: value for name, value in optional.items() if value is not None},
            **({"details": dict(self.details)} if self.details else {}),
            **({"lower_is_better": True} if self.lower_is_better else {}),
        }


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
    """

    items: Sequence[BenchmarkItem]
    groups: Mapping[str, GroupRecord]
    scores: Mapping[str, GroupScores] | None = None
    margins: Mapping[PairKey, float] | None = None
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibrated: bool = False

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

    def cases(
        self,
        right: np.ndarray,
        chosen: np.ndarray | None = None,
        statistic: Callable[[np.ndarray, np.ndarray], float] | None = None,
    ) -> Cases:
        """Rows as `Cases`.

        Args:
            right: whether each row is right, shape (pairs,).
            chosen: which rows count, shape (pairs,); None: all.
            statistic: see `Cases`.
        """
        keys = [(*key, c.first, c.second) for key, c in zip(self.tuples, self.comparisons, strict=True)]
        cases = Cases(keys, self.groups, np.asarray(right, dtype=float), statistic)
        return cases if chosen is None else cases.only(chosen)


def pairs_with_ties(answers: Answers) -> list[Measure]:
    """GenAI-Bench and the pair-wise part of AURORA-Bench: accuracy with ties at the best threshold, and without ties.

    A judge's own ties are its ties: it gets no threshold.
    """
    pairs = answers.pairs()
    ties = int((pairs.truths == 0).sum())
    if answers.margins is None:
        found = pair_metrics(pairs.differences, pairs.truths, pairs.groups)
        with_ties, without, threshold = found.with_ties, found.without_ties, _json_number(found.tie_threshold)
    else:
        with_ties = accuracy_at_threshold(pairs.differences, pairs.truths, 0, pairs.groups)
        without, threshold = accuracy_without_ties(pairs.differences, pairs.truths, pairs.groups), None
    coin = coin_floor({2: len(pairs.truths)}, ties).by_k[2] if len(pairs.truths) else None
    chance = tuned_random_accuracy(len(pairs.truths), ties)
    details = {"ties": ties, "tie_threshold": threshold}
    right = predicted_relations(pairs.differences, threshold or 0.0) == pairs.truths
    strictly_right = np.sign(pairs.differences) == pairs.truths
    all_cases, strict_cases = pairs.cases(right), pairs.cases(strictly_right, pairs.truths != 0)
    return [
        Measure("accuracy with ties", EVERYTHING, with_ties, chance, coin, "pairs", details, cases=all_cases),
        Measure("accuracy without ties", EVERYTHING, without, 0.5, 0.25, cases=strict_cases),
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

    def estimate(statistic: Callable[[np.ndarray], float]) -> Estimate:
        return bootstrap(statistic, len(scores), list(groups))

    def by_editor(rows: np.ndarray) -> Any:
        return grouped_correlation(scores[rows], truths[rows], editors[rows])

    keys = [(item.group_id, item.item_id, index) for item, index in place]

    def cases(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Cases:
        return Cases(keys, groups.tolist(), scores, statistic)

    of_editors = by_editor(np.arange(len(scores)))
    details = {
        "by_editor": {str(name): value for name, value in of_editors.by_subset.items()},
        "constant_scores": [str(name) for name in of_editors.constant_scores],
        "constant_truths": [str(name) for name in of_editors.constant_truths],
    }
    within_prompts = grouped_correlation(scores, truths, groups)
    per_prompt = mean_of_groups(list(within_prompts.by_subset.values()))  # drawn twice, a prompt counts twice
    normalised = _normalised_correlation(scores, truths, groups)
    pooled = estimate(lambda rows: correlation(scores[rows], truths[rows]))
    kendall = estimate(lambda rows: correlation(scores[rows], truths[rows], "kendall"))
    fisher = estimate(lambda rows: by_editor(rows).fisher)
    script = estimate(lambda rows: by_editor(rows).mean_then_tanh)
    cases_of = {
        "fisher": cases(lambda values, rows: grouped_correlation(values, truths[rows], editors[rows]).fisher),
        "script": cases(lambda values, rows: grouped_correlation(values, truths[rows], editors[rows]).mean_then_tanh),
        "pooled": cases(lambda values, rows: correlation(values, truths[rows])),
        "kendall": cases(lambda values, rows: correlation(values, truths[rows], "kendall")),
    }
    prompts = list(within_prompts.by_subset)
    rhos = np.array(list(within_prompts.by_subset.values()), dtype=float)
    names = [str(prompt) for prompt in prompts]
    of_prompts = Cases(prompts, names, rhos, lambda values, rows: float(np.mean(values)) if len(values) else np.nan)
    name = "Spearman per editing model"
    return [
        Measure(f"{name}, Fisher average", EVERYTHING, fisher, 0, details=details, cases=cases_of["fisher"]),
        Measure(f"{name}, tanh of the mean", EVERYTHING, script, 0, column="ratings", cases=cases_of["script"]),
        Measure("Spearman of all edits", EVERYTHING, pooled, 0, cases=cases_of["pooled"]),
        Measure("Kendall of all edits", EVERYTHING, kendall, 0, cases=cases_of["kendall"]),
        Measure("Spearman per prompt, mean", EVERYTHING, per_prompt, 0, cases=of_prompts),
        Measure("Spearman, normalised per prompt", EVERYTHING, normalised, 0),
    ]


def aurora(answers: Answers) -> list[Measure]:
    """AURORA-Bench: both parts, each where the data has it."""
    measures = []
    for subset, protocol in (("pairwise", pairs_with_ties), ("pointwise", ratings)):
        items = [item for item in answers.items if item.subset == subset]
        if items and (subset == "pairwise" or answers.scores is not None):
            measures += [_renamed(measure, subset) for measure in protocol(_only(answers, items))]
    return measures


def tuples(answers: Answers) -> list[Measure]:
    """EditReward-Bench (TIGER-Lab): strict accuracy of tuples of 2, 3 and 4, and pair-wise accuracy beside it.

    K = 2 includes ties, judged with one threshold (a judge says itself what is a tie); a larger tuple counts only if
    every pair is strictly in order; overall is the pool of all tuples. Per dimension where people's scores are known;
    what people themselves reach where the annotators are.
    """
    pairs = answers.pairs()
    sizes = np.array([len(item.candidates) for item in pairs.items])
    threshold = None if answers.margins is None else 0.0
    found = tuple_accuracy(pairs.differences, pairs.truths, pairs.tuples, sizes, pairs.groups, threshold)
    number = {k: share.total for k, share in found.strict.items()}
    ties = int(((pairs.truths == 0) & (sizes == 2)).sum())
    chance, coin = random_scores_floor(number, ties), coin_floor(number, ties)
    outcomes = tuple_outcomes(pairs.differences, pairs.truths, pairs.tuples, sizes, threshold)
    strict_cases = Cases(outcomes.tuples, [str(key[0]) for key in outcomes.tuples], outcomes.right.astype(float))  # type: ignore[index]
    measures = []
    for k, share in found.strict.items():
        details = {"ties": ties, "tie_threshold": _json_number(found.tie_threshold)} if k == 2 else {}
        cases = strict_cases.only(outcomes.sizes == k)
        floors = chance.by_k[k], coin.by_k[k]
        measures.append(Measure("strict accuracy", f"K = {k}", share, *floors, f"K = {k}", details, cases=cases))
    floors = chance.overall, coin.overall
    measures.append(Measure("strict accuracy", OVERALL, found.overall, *floors, OVERALL, cases=strict_cases))
    for k, share in found.pairwise.items():
        cases = pairs.cases(outcomes.pair_right, sizes == k)
        floors = (chance.by_k[k], coin.by_k[k]) if k == 2 else (0.5, 0.5)
        measures.append(Measure("pair-wise accuracy", f"K = {k}", share, *floors, cases=cases))
    cases = pairs.cases(outcomes.pair_right)
    of_two = float((sizes == 2).mean())
    floors = 0.5 + of_two * (chance.by_k.get(2, 0.5) - 0.5), 0.5 + of_two * (coin.by_k.get(2, 0.5) - 0.5)
    measures.append(Measure("pair-wise accuracy", OVERALL, found.pairwise_overall, *floors, cases=cases))
    truths = {name: answers.truths_in(pairs, name) for name in answers.dimensions}
    truths = {name: truth for name, truth in truths.items() if not np.isnan(truth).all()}
    differences = {name: answers.differences_in(pairs, name) for name in truths}
    for name, of_dimension in dimension_metrics(differences, truths, pairs.groups).items():
        threshold_of = {"tie_threshold": _json_number(of_dimension.tie_threshold)}
        right = predicted_relations(differences[name], np.nan_to_num(of_dimension.tie_threshold)) == truths[name]
        cases = pairs.cases(right, ~np.isnan(truths[name]))
        with_ties = of_dimension.with_ties
        measures.append(Measure("pair-wise accuracy with ties", name, with_ties, details=threshold_of, cases=cases))
        cases = pairs.cases(np.sign(differences[name]) == truths[name], np.abs(truths[name]) == 1)
        without = of_dimension.without_ties
        measures.append(Measure("pair-wise accuracy without ties", name, without, 0.5, cases=cases))
    return [*measures, *calibration(answers, pairs), *coverage(answers), *people(answers, pairs)]


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
    sizes = np.array([len(item.candidates) for item in pairs.items])
    of_tuple, _ = group_index(pairs.tuples, len(pairs.items))
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
    groups, sizes = np.array(pairs.groups), np.array([len(item.candidates) for item in pairs.items])
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


def tasks(answers: Answers) -> list[Measure]:
    """EditReward-Bench (EditScore): accuracy by dimension and task; groups of tasks and all tasks averaged."""
    measures = []
    for dimension in dict.fromkeys(item.dimension for item in answers.items):
        pairs = answers.pairs([item for item in answers.items if item.dimension == dimension])
        right = np.sign(pairs.differences) == pairs.truths
        of_task = np.array([item.task or "" for item in pairs.items])
        scored_by = {"score": answers.answering(dimension) if answers.scores else "verdict"}
        average = macro_share(right, list(of_task), pairs.groups)
        cases = _macro_cases(pairs, right, of_task)
        name = "accuracy, average over tasks"
        measures.append(Measure(name, dimension, average, 0.5, 0.5, details=scored_by, cases=cases))
        for kind, members in EDITSCORE_GROUPS.items():
            chosen = np.isin(of_task, members)
            if chosen.any():
                groups = [group for group, is_chosen in zip(pairs.groups, chosen, strict=True) if is_chosen]
                share = macro_share(right[chosen], list(of_task[chosen]), groups)
                cases = _macro_cases(pairs, right, of_task, chosen)
                measures.append(Measure(name, f"{dimension}: {kind}", share, 0.5, 0.5, cases=cases))
        for task, share in sorted(
            shares_by(right, list(of_task), pairs.groups).items(), key=lambda pair: str(pair[0])
        ):
            cases = pairs.cases(right, of_task == task)
            measures.append(Measure("accuracy", f"{dimension}: {task}", share, 0.5, 0.5, cases=cases))
    return measures


def near_ties(answers: Answers) -> list[Measure]:
    """EditReward-Compass: a preference is right if the winner scores higher, a tie if the scores hardly differ."""
    measures = []
    dimensions = dict.fromkeys(item.dimension for item in answers.items)
    for dimension in [*dimensions, EVERYTHING]:
        pairs = answers.pairs([item for item in answers.items if dimension in (item.dimension, EVERYTHING)])
        found = near_tie_accuracy(pairs.differences, pairs.truths, pairs.groups)
        details = {"score": answers.answering(dimension) if answers.scores else "verdict"}
        details = details if dimension != EVERYTHING else {}
        tied = pairs.truths == 0
        right = np.where(tied, np.abs(pairs.differences) < NEAR_TIE, np.sign(pairs.differences) == pairs.truths)
        for name, share, chance, chosen in (
            ("accuracy", found.together, None, None),
            ("accuracy on preferences", found.preferences, 0.5, ~tied),
            ("accuracy on ties", found.ties, 0.0, tied),
        ):
            cases = pairs.cases(right, chosen)
            measures.append(Measure(name, dimension, share, chance, details=details, cases=cases))
    return measures


def calibration(answers: Answers, pairs: Pairs) -> list[Measure]:
    """Whether the probabilities of preferences come true, for scorers that have them, on pairs that are no tie."""
    of_pair = preference_probabilities(answers, pairs)
    known = ~np.isnan(of_pair)
    probabilities = of_pair[known]
    if not len(probabilities):
        return []
    measures = []
    for name, chance, statistic in (
        ("expected calibration error", None, expected_calibration_error),
        ("Brier score", 0.25, brier_score),
    ):
        cases = pairs.cases(of_pair, known, lambda values, rows, statistic=statistic: statistic(values))  # type: ignore[misc]
        estimate = _plain(statistic(probabilities), len(probabilities))
        measures.append(Measure(name, "preferences", estimate, chance, lower_is_better=True, cases=cases))
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
        known = answers.scores[item.group_id].probabilities if answers.scores else None
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
        Measure("position bias", "gap", estimate, 0.0, 0.0, details={"p_value": _json_number(gap.p_value)}),
    ]


def _normalised_correlation(scores: np.ndarray, truths: np.ndarray, prompts: np.ndarray) -> Estimate:
    """`z_normalised_correlation` with its interval. Whole prompts are drawn, so normalising once is enough."""
    value = z_normalised_correlation(scores, truths, prompts)
    truths = z_normalised(truths, prompts)
    chosen = np.isin(prompts, prompts[truths != 0])
    scores, truths = z_normalised(scores, prompts)[chosen], truths[chosen]
    found = bootstrap(lambda rows: correlation(scores[rows], truths[rows]), len(scores), list(prompts[chosen]))
    return Estimate(value, found.low, found.high, len(prompts))


def _macro_cases(pairs: Pairs, right: np.ndarray, labels: np.ndarray, chosen: np.ndarray | None = None) -> Cases:
    """Cases of the mean over labels of the share of right pairs."""
    _, number = np.unique(labels if chosen is None else labels[chosen], return_inverse=True)

    def statistic(values: np.ndarray, rows: np.ndarray) -> float:
        totals = np.bincount(number[rows])
        return float((np.bincount(number[rows], values)[totals > 0] / totals[totals > 0]).mean())

    return pairs.cases(right, chosen, statistic)


def _only(answers: Answers, items: Sequence[BenchmarkItem]) -> Answers:
    return replace(answers, items=items)


def _renamed(measure: Measure, subset: str) -> Measure:
    """The measure as one of a part of AURORA-Bench, of which the published table has the pair-wise one."""
    name = subset if measure.subset == EVERYTHING else f"{subset}: {measure.subset}"
    return replace(measure, subset=name, column=measure.column if subset == "pairwise" else None)


def _plain(value: float, total: int) -> Estimate:
    return Estimate(value, float("nan"), float("nan"), total)


def _json_number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

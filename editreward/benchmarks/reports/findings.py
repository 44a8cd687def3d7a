"""What a report shows beside the measures: breakdowns, ranks, distributions of scores, and the worst mistakes."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from editreward.benchmarks.protocols import OVERALL, TRUTHS, Answers
from editreward.data.benchmark_items import BenchmarkItem
from editreward.statistics import Estimate, bootstrap, correlation, share_of_rows

ACCURACY, CORRELATION = "accuracy on pairs that are no tie", "Spearman correlation with people's ratings"
AHEAD, BEHIND, ALL = "ahead by people's verdict", "behind", "all edits"


@dataclass(frozen=True)
class Breakdown:
    """A number by label, for each kind of label that tells cases apart.

    Attributes:
        kind: such as "category", "language" or "K".
        what: the number.
        columns: it by column ("overall", and each dimension that is scored and has a truth) and label, labels with
            most cases first; a label without a case in a column is not in it.
    """

    kind: str
    what: str
    columns: dict[str, dict[str, Estimate]]


def breakdowns(answers: Answers) -> list[Breakdown]:
    """Accuracy on pairs that are no tie, and rank correlation of ratings, by all labels that tell them apart."""
    found = []
    pairs = answers.pairs()
    if len(pairs.items):
        right = {OVERALL: (np.sign(pairs.differences) == pairs.truths, pairs.truths)}
        for name in answers.dimensions:
            truth = answers.truths_in(pairs, name)
            right[name] = (np.sign(answers.differences_in(pairs, name)) == truth, truth)
        groups = np.array(pairs.groups)
        for kind, labels in labels_of(answers, pairs.items).items():
            columns: dict[str, dict[str, Estimate]] = {}
            for name, (is_right, truth) in right.items():
                counted = np.abs(truth) == 1
                by_label = {label: counted & (labels == label) for label in _by_frequency(labels)}
                shares = {label: share_of_rows(is_right[rows], groups[rows]) for label, rows in by_label.items()}
                columns[name] = {label: share for label, share in shares.items() if share.total}
            columns = {name: column for name, column in columns.items() if column}
            found.append(Breakdown(kind, ACCURACY, columns))
    rated = [item for item in answers.items if item.score is not None]
    if rated and answers.scores is not None:
        scores = np.array([answers.scores[item.group_id].overall[item.candidates[0]] for item in rated])
        truths, groups = np.array([item.score for item in rated], float), np.array([item.group_id for item in rated])
        labels_by_kind = labels_of(answers, rated)
        editors = np.array([answers.groups[item.group_id].editors[item.candidates[0]] for item in rated])
        if len(set(editors.tolist())) > 1:
            labels_by_kind["editing model"] = editors
        for kind, labels in labels_by_kind.items():
            column: dict[str, Estimate] = {}
            for label in _by_frequency(labels):
                chosen = np.flatnonzero(labels == label)
                column[label] = bootstrap(
                    lambda rows, chosen=chosen: correlation(scores[chosen[rows]], truths[chosen[rows]]),  # type: ignore[misc]
                    len(chosen),
                    list(groups[chosen]),
                )
            found.append(Breakdown(kind, CORRELATION, {OVERALL: column}))
    return found


def labels_of(answers: Answers, items: list[BenchmarkItem]) -> dict[str, np.ndarray]:
    """Labels of items by kind, shape (items,), of the kinds that tell some apart, each in a way of its own."""
    records = [answers.groups[item.group_id] for item in items]
    tags = [answers.tags.get(item.group_id, {}) for item in items]
    kinds = {
        "K": [f"K = {len(item.candidates)}" for item in items],
        "part": [item.subset for item in items],
        "judged dimension": [item.dimension for item in items],
        "task": [item.task or "" for item in items],
        "category": [record.category for record in records],
        "language": [record.language for record in records],
        **{name: [tag.get(name, "") for tag in tags] for name in dict.fromkeys(n for tag in tags for n in tag)},
    }
    found: dict[str, np.ndarray] = {}
    partitions = set()
    for kind, labels in kinds.items():
        first_of = {label: place for place, label in reversed(list(enumerate(labels)))}
        partition = tuple(first_of[label] for label in labels)
        if len(first_of) > 1 and partition not in partitions:
            found[kind] = np.array([label or "not given" for label in labels])
            partitions.add(partition)
    return found


def _by_frequency(labels: np.ndarray) -> list[str]:
    """From the most frequent one, of equally frequent ones in the order of the alphabet; values of K by size."""
    if all(label.startswith("K = ") for label in labels.tolist()):
        return sorted(set(labels.tolist()), key=lambda label: int(label[4:]))
    return [label for label, _ in sorted(Counter(labels.tolist()).items(), key=lambda pair: (-pair[1], pair[0]))]


def rank_confusion(answers: Answers) -> dict[int, np.ndarray]:
    """How often a candidate of each true rank gets each predicted rank, by K: arrays of counts of shape (K, K).

    A candidate's rank is 1 plus the number of candidates that are better, so that those who tie share the better
    rank. Items whose candidates all tie have no order and are left out.
    """
    found: dict[int, np.ndarray] = {}
    pairs = answers.pairs()
    rows: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(pairs.tuples):
        rows.setdefault(key, []).append(row)
    for of_item in rows.values():
        candidates = pairs.items[of_item[0]].candidates
        if not pairs.truths[of_item].any():
            continue
        ranks = []
        for relations in (pairs.truths[of_item], np.sign(pairs.differences[of_item])):
            rank = dict.fromkeys(candidates, 0)
            for row, relation in zip(of_item, relations, strict=True):
                comparison = pairs.comparisons[row]
                if relation:
                    rank[comparison.second if relation > 0 else comparison.first] += 1
            ranks.append(rank)
        counts = found.setdefault(len(candidates), np.zeros((len(candidates), len(candidates)), dtype=int))
        for candidate in candidates:
            counts[ranks[0][candidate], ranks[1][candidate]] += 1
    return dict(sorted(found.items()))


def distributions(answers: Answers) -> dict[str, dict[str, np.ndarray]]:
    """Scores by name ("overall" and dimensions) and by whether people put the edit ahead, shape (edits,) each.

    Ahead is an edit that wins more comparisons than it loses, or is rated above the median of all; in a dimension
    with a truth of its own, one that is above the mean of its group. Edits that are neither are left out, unless
    there is no verdict at all. Empty for a judge of pairs, which scores no edit.
    """
    if answers.scores is None:
        return {}
    balance = {group_id: np.zeros(record.size) for group_id, record in answers.groups.items()}
    rated = [item.score for item in answers.items if item.score is not None]
    for item in answers.items:
        if item.score is not None:
            balance[item.group_id][item.candidates[0]] += item.score - float(np.median(rated))
        for comparison in item.comparisons:
            sign = TRUTHS[comparison.verdict]
            balance[item.group_id][comparison.first] += sign
            balance[item.group_id][comparison.second] -= sign
    groups = list(dict.fromkeys(item.group_id for item in answers.items))
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in (OVERALL, *answers.dimensions):
        values, verdicts = [], []
        for group_id in groups:
            scores, truth = answers.scores[group_id], answers.groups[group_id].truth.get(name)
            values.append(scores.overall if name == OVERALL else scores.dimensions[name])
            if truth is None or np.isnan(truth).all():
                verdicts.append(balance[group_id])
            else:
                verdicts.append(np.nan_to_num(truth - np.nanmean(truth)))
        value, verdict = np.concatenate(values), np.concatenate(verdicts)
        parts = {AHEAD: value[verdict > 0], BEHIND: value[verdict < 0]}
        found[name] = parts if all(map(len, parts.values())) else {ALL: value}
    return found


@dataclass(frozen=True)
class Mistake:
    """A comparison, or a rating, that the scorer is far off with.

    Attributes:
        item: what was asked.
        better, worse: the candidates by people's verdict; of a rating both are the rated candidate.
        confidence: what mistakes are sorted by, of `unit`.
        unit: "probability" of the worse one, "margin" of the worse one over the better one in points of the score or
            of the judge, or for a rating "places" in shares of all, positive where the scorer is too high.
    """

    item: BenchmarkItem
    better: int
    worse: int
    confidence: float
    unit: str


def worst_mistakes(answers: Answers, number: int) -> list[Mistake]:
    """The largest confident mistakes, at most one of a group.

    Args:
        answers: of a scorer or a judge.
        number: how many of comparisons, and as many of ratings.
    """
    pairs = answers.pairs()
    found = []
    for row in np.flatnonzero((pairs.truths != 0) & (pairs.differences * pairs.truths < 0)):
        item, comparison = pairs.items[row], pairs.comparisons[row]
        better, worse = (comparison.first, comparison.second)[:: int(pairs.truths[row])]
        known = answers.scores[item.group_id].preferences if answers.scores else None
        # The probabilities are those of the overall score.
        if known is not None and answers.answering(item.dimension) == OVERALL:
            found.append(Mistake(item, better, worse, known[worse][better], "probability"))
        else:
            found.append(Mistake(item, better, worse, float(abs(pairs.differences[row])), "margin"))
    ratings = [item for item in answers.items if item.score is not None]
    rated = []
    if ratings and answers.scores is not None:
        scores = np.array([answers.scores[item.group_id].overall[item.candidates[0]] for item in ratings])
        off = _places(scores) - _places(np.array([item.score for item in ratings], dtype=float))
        rated = [
            Mistake(item, item.candidates[0], item.candidates[0], float(places), "places")
            for item, places in zip(ratings, off, strict=True)
        ]
    return [*_largest(found, number), *_largest(rated, number)]


def _places(values: np.ndarray) -> np.ndarray:
    """Place of each value among all, 0 to 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place] / max(1, len(values) - 1)


def _largest(mistakes: list[Mistake], number: int) -> list[Mistake]:
    """Those with a probability first: it has no common scale with a margin."""
    kept: dict[str, Mistake] = {}
    order = sorted(mistakes, key=lambda one: (one.unit != "probability", -abs(one.confidence), one.item.item_id))
    for mistake in order:
        kept.setdefault(mistake.item.group_id, mistake)
    return list(kept.values())[:number]

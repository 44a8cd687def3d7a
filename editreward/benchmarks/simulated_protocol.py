"""The protocol of the simulated benchmark: that of EditReward-Bench, accuracy on exact scores, and the annotators."""

from dataclasses import replace
from math import factorial

import numpy as np

from editreward.benchmarks.protocols import OVERALL, Answers, Cases, Measure, Pairs, accuracies_of, tuples
from editreward.groups.ratings import Rating
from editreward.statistics import (
    Estimate,
    Share,
    share_of_rows,
    tuple_outcomes,
)
from editreward.statistics.agreement import agreement

EXACT = "accuracy on exact scores"
CEILING = "exact scores against the labels"
AGREEMENT = "agreement of annotators"


def simulated(answers: Answers) -> list[Measure]:
    """Tuples as EditReward-Bench judges them, with subsets; pairs by their exact scores; people, and the exact scores
    themselves, in the place of the scorer.

    Labels are majorities of the annotators. Subsets are categories, languages, and what occurs in no training group.
    """
    pairs = answers.pairs()
    return [
        *(replace(measure, column=None) for measure in tuples(answers)),
        *_labels_by_subset(answers, pairs),
        *exact_accuracy(answers, pairs),
        *_strict_exact_accuracy(pairs),
        *annotators(answers, pairs),
    ]


def subsets(answers: Answers, pairs: Pairs) -> dict[str, np.ndarray]:
    """Labels of each pair, shape (pairs,), by the kind of subset: category, language and the tags."""
    records = [answers.groups[group_id] for group_id in pairs.groups]
    found = {
        "category": [record.category for record in records],
        "language": [record.language for record in records],
    }
    for kind in dict.fromkeys(name for tags in answers.tags.values() for name in tags):
        found[kind] = [answers.tags[group_id][kind] for group_id in pairs.groups]
    return {kind: np.array(labels) for kind, labels in found.items()}


def exact_relations(pairs: Pairs, dimension: str) -> np.ndarray:
    """1 where the first of a pair is better by the exact scores, -1 where the second is, 0 where they are equal.

    Args:
        pairs: the comparisons.
        dimension: one of the exact scores, or `overall` for their sum.
    """
    return np.sign(_exact_differences(pairs, dimension))


def exact_accuracy(answers: Answers, pairs: Pairs) -> list[Measure]:
    """Share of pairs in the order of their exact scores, where these differ: overall and by dimension, in subsets.

    A dimension is judged by the scorer's own, else by its overall score, as the details say.
    """
    measures = []
    of_kind = subsets(answers, pairs)
    for name in (OVERALL, *_dimensions(pairs)):
        truth = exact_relations(pairs, name)
        scored_by = answers.answering(name)
        right = np.sign(answers.differences_in(pairs, scored_by)) == truth
        details = {} if name == OVERALL else {"score": scored_by if answers.scores else "verdict"}
        chosen_by = {name: truth != 0}
        for kind, labels in of_kind.items():
            for label in sorted(set(labels)):
                subset = f"{kind}: {label}" if name == OVERALL else f"{name}, {kind}: {label}"
                chosen_by[subset] = (truth != 0) & (labels == label)
        for subset, chosen in chosen_by.items():
            measures.append(_share(EXACT, subset, pairs, right, chosen, details))
    return measures


def _labels_by_subset(answers: Answers, pairs: Pairs) -> list[Measure]:
    threshold = None if answers.margins is None else 0.0
    right = tuple_outcomes(pairs.differences, pairs.truths, pairs.tuples, _sizes(pairs), threshold).pair_right
    measures = []
    for kind, labels in subsets(answers, pairs).items():
        for label in sorted(set(labels)):
            chosen = labels == label
            share = share_of_rows(right[chosen], np.array(pairs.groups)[chosen])
            cases = pairs.cases(right, chosen)
            measures.append(Measure("pair-wise accuracy", f"{kind}: {label}", share, cases=cases))
    return measures


def _strict_exact_accuracy(pairs: Pairs) -> list[Measure]:
    """Share of tuples of 3 and 4 with different exact scores whose order is right."""
    truth, sizes = exact_relations(pairs, OVERALL), _sizes(pairs)
    tied = {name for name, relation in zip(pairs.tuples, truth, strict=True) if relation == 0}
    of_tuple = np.array([name not in tied for name in pairs.tuples])
    measures = []
    for k in (3, 4):
        chosen = np.flatnonzero(of_tuple & (sizes == k))
        if not len(chosen):
            continue
        names = [pairs.tuples[row] for row in chosen]
        found = tuple_outcomes(pairs.differences[chosen], truth[chosen], names, sizes[chosen], 0.0)
        groups = [str(name[0]) for name in found.tuples]  # type: ignore[index]
        cases = Cases(found.tuples, groups, found.right.astype(float))
        floors = 1 / factorial(k), 0.5 ** (k * (k - 1) / 2)
        measures.append(
            Measure(f"strict {EXACT}", f"K = {k}", share_of_rows(found.right, groups), *floors, cases=cases)
        )
    return measures


def annotators(answers: Answers, pairs: Pairs) -> list[Measure]:
    """What is the same whatever the scorer: how far the exact scores agree with the labels, which is as far as a
    perfect scorer gets; and how far the annotators agree with each other.
    """
    perfect = tuple_outcomes(_exact_differences(pairs, OVERALL), pairs.truths, pairs.tuples, _sizes(pairs))
    return [*accuracies_of(CEILING, pairs, [(perfect, np.arange(len(pairs.items)))]), *_agreement(answers)]


def _agreement(answers: Answers) -> list[Measure]:
    records = [answers.groups[item.group_id] for item in answers.items]
    ratings = [
        Rating(annotator, record.group_id, index, {name: float(values[index]) for name, values in scores.items()})
        for record in records
        for annotator, scores in record.ratings.items()
        for index in range(record.size)
    ]
    measures = []
    names = list(records[0].truth)
    for name in (*names, OVERALL):
        found = agreement(ratings, name, names)
        exact, alpha = found.exact, found.alpha
        share = Share(exact.value, exact.low, exact.high, found.candidates)
        measures.append(Measure(f"{AGREEMENT}, equal scores", name, share))
        estimate = Estimate(alpha.value, alpha.low, alpha.high, found.candidates)
        measures.append(Measure(f"{AGREEMENT}, Krippendorff's alpha", name, estimate))
    return measures


def _dimensions(pairs: Pairs) -> list[str]:
    return list(pairs.items[0].details["exact_scores"])


def _exact_differences(pairs: Pairs, dimension: str) -> np.ndarray:
    names = _dimensions(pairs) if dimension == OVERALL else [dimension]
    return np.array(
        [
            sum(scores[name][c.first] - scores[name][c.second] for name in names)
            for scores, c in zip(
                (item.details["exact_scores"] for item in pairs.items), pairs.comparisons, strict=True
            )
        ]
    )


def _sizes(pairs: Pairs) -> np.ndarray:
    return np.array([len(item.candidates) for item in pairs.items])


def _share(
    name: str, subset: str, pairs: Pairs, right: np.ndarray, chosen: np.ndarray, details: dict[str, str]
) -> Measure:
    share = share_of_rows(right[chosen], np.array(pairs.groups)[chosen])
    # Of four verdicts on a pair of K = 2, two are ties.
    coin = float(np.where(_sizes(pairs)[chosen] == 2, 0.25, 0.5).mean()) if chosen.any() else None
    return Measure(name, subset, share, 0.5, coin, details=details, cases=pairs.cases(right, chosen))

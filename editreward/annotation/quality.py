"""Quality control of annotators: agreement, gold groups, drift, haste, and the groups to look at again."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from scipy import stats

from editreward.annotation.assignment import compare_with_reference
from editreward.groups.protocol import CalibrationTerms
from editreward.groups.ratings import Purpose, Rating
from editreward.statistics.agreement import OVERALL, RESAMPLES, Agreement, agreement, dimensions_of_ratings

NAN = float("nan")

References = Mapping[str, Sequence[Mapping[str, float]]]
"""Known answers by group id: for each candidate the scores by dimension that are known."""


@dataclass(frozen=True)
class Limits:
    """What is reported as conspicuous.

    Args:
        fast_seconds: a group on which less time than this was spent per candidate was rated too fast.
        fast_share: an annotator who rated more than this share of groups too fast is flagged; so is one whose median
            time is less than half of the others'.
        gold_groups: an annotator whose scores of all gold groups together miss the calibration terms is flagged, if
            there are so many groups.
        drift_points: least change, in points of the scale from the first to the last group, that is called drift.
        drift_level: ... if it is significant at this level, false discoveries among all tests controlled.
        drift_groups: least number of groups to test for drift.
        apart: two scores of a candidate that differ by so many points make its group one to cross-check.
    """

    fast_seconds: float = 3.0
    fast_share: float = 0.1
    gold_groups: int = 3
    drift_points: float = 0.3
    drift_level: float = 0.05
    drift_groups: int = 10
    apart: float = 2.0


@dataclass(frozen=True)
class Drift:
    """The change of an annotator's scores over time, against the others' mean or the known answer (`find_drift`).

    Attributes:
        dimension: of the scores.
        kind: "level": scores become higher or lower than the others'. "distance": they become farther from them.
        groups: number of groups compared.
        change: points from the first to the last group, by least squares on the order of groups.
        p: of Kendall's rank correlation of the differences with time (the Mann-Kendall test for a trend), adjusted for
            all tests of the report (Benjamini and Hochberg 1995).
        flagged: whether the change is large and significant. A distance that shrinks is learning, and is not flagged.
    """

    dimension: str
    kind: str
    groups: int
    change: float
    p: float
    flagged: bool


@dataclass(frozen=True)
class KnownAnswers:
    """An annotator's scores of groups with known answers.

    Attributes:
        groups, passed: number of groups, and of those that reach the protocol's terms by themselves. Few scores make
            a group: somebody who reaches the terms on the whole may well miss them in every third group.
        reached: whether the scores of all groups together reach the terms.
        exact, within_one: by dimension, share of scores that hit the answer, and that are at most one point off.
    """

    groups: int
    passed: int
    reached: bool
    exact: dict[str, float]
    within_one: dict[str, float]


@dataclass
class AnnotatorQuality:
    """What is known of one annotator.

    Attributes:
        annotator: name.
        groups, candidates: rated, of work and gold groups.
        mean: mean score by dimension.
        level, distance: mean over groups of `Difference`, by dimension; NaN where there is nothing to compare with.
        seconds: median time per candidate; NaN where times are unknown.
        fast: ids of the groups rated too fast.
        gold, calibration: comparison with known answers; None without any.
        drift: by dimension and kind; empty where times are unknown or groups too few.
        flags: what is conspicuous, in words.
    """

    annotator: str
    groups: int
    candidates: int
    mean: dict[str, float]
    level: dict[str, float]
    distance: dict[str, float]
    seconds: float
    fast: list[str]
    gold: KnownAnswers | None
    calibration: KnownAnswers | None
    drift: list[Drift]
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GroupToCheck:
    """A group that should be looked at again: `reasons` in words, `apart` the largest difference of two scores."""

    group_id: str
    annotators: list[str]
    apart: float
    reasons: list[str]


@dataclass(frozen=True)
class Quality:
    """All of the report.

    Attributes:
        dimensions: names.
        ratings, groups: number of ratings of a candidate, and of groups, by purpose.
        agreement: of work groups, by dimension and, with several dimensions, overall.
        annotators: by name.
        set_aside: annotators with whom nobody was compared, as they drift.
        to_check: groups to cross-check, the worst first.
        notes: what could not be computed, and why.
        limits: as used.
    """

    dimensions: list[str]
    ratings: dict[str, int]
    groups: dict[str, int]
    agreement: list[Agreement]
    annotators: list[AnnotatorQuality]
    set_aside: list[str]
    to_check: list[GroupToCheck]
    notes: list[str]
    limits: Limits


@dataclass(frozen=True)
class Difference:
    """An annotator's mean difference, over a group's candidates, from the others' means or the known answers.

    Attributes:
        group_id, submitted_at: the group, and when it was rated.
        level: mean difference, points.
        distance: mean absolute difference, points.
    """

    group_id: str
    submitted_at: float
    level: float
    distance: float


def assess(
    ratings: Sequence[Rating],
    references: References | None = None,
    terms: CalibrationTerms | None = None,
    limits: Limits | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Quality:
    """Assess the annotators.

    Args:
        ratings: all that count. Agreement is of work groups; gold and calibration groups, which everybody may know to
            be easy, are compared with their known answers instead.
        references: the known answers.
        terms: how near to the known answers a group passes; the protocol's defaults if not given.
        limits: what to flag.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: there is no rating, or the known answers of a group are of another number of candidates.
    """
    if not ratings:
        raise ValueError("There are no ratings.")
    references, terms, limits = references or {}, terms or CalibrationTerms(), limits or Limits()
    _check_references(ratings, references)
    dimensions = dimensions_of_ratings(ratings)
    by_purpose = {purpose: [r for r in ratings if r.purpose == purpose] for purpose in ("work", "gold", "calibration")}
    work, live = by_purpose["work"], [rating for rating in ratings if rating.purpose != "calibration"]
    names = [*dimensions, OVERALL] if len(dimensions) > 1 else dimensions
    agreements = [agreement(work, name, dimensions, resamples, seed) for name in names]
    drifts, set_aside = find_drift(live, references, dimensions, limits)
    differences = differences_by_annotator(live, references, dimensions, set_aside)
    annotators = [
        _annotator(name, ratings, references, terms, limits, dimensions, differences, drifts.get(name, []))
        for name in sorted({rating.annotator for rating in ratings})
    ]
    _add_flags(annotators, limits)
    return Quality(
        dimensions=dimensions,
        ratings={purpose: len(of) for purpose, of in by_purpose.items() if of},
        groups={purpose: len({r.group_id for r in of}) for purpose, of in by_purpose.items() if of},
        agreement=agreements,
        annotators=annotators,
        set_aside=set_aside,
        to_check=groups_to_check(work, annotators, dimensions, limits),
        notes=_notes(by_purpose, references, agreements, live),
        limits=limits,
    )


def _check_references(ratings: Sequence[Rating], references: References) -> None:
    for rating in ratings:
        known = references.get(rating.group_id)
        if known is not None and rating.candidate >= len(known):
            raise ValueError(
                f"{rating.annotator} rates candidate {rating.candidate} of group {rating.group_id}, which has "
                f"{len(known)} candidates in the known answers."
            )


def differences_by_annotator(
    ratings: Sequence[Rating], references: References, dimensions: Sequence[str], set_aside: Collection[str] = ()
) -> dict[str, dict[str, list[Difference]]]:
    """Differences by annotator and dimension, in the order of time.

    A candidate with a known answer is compared with that, any other with the mean of the others' scores, without
    those of annotators who are set aside. Candidates with neither are left out.
    """
    given: dict[tuple[str, int, str], dict[str, float]] = {}
    times: dict[tuple[str, str], float] = {}
    for rating in ratings:
        times[rating.annotator, rating.group_id] = rating.submitted_at
        for dimension, score in rating.scores.items():
            given.setdefault((rating.group_id, rating.candidate, dimension), {})[rating.annotator] = score
    found: dict[tuple[str, str, str], list[float]] = {}
    for (group_id, candidate, dimension), scores in given.items():
        known = references[group_id][candidate].get(dimension) if group_id in references else None
        for annotator, score in scores.items():
            others = [said for name, said in scores.items() if name != annotator and name not in set_aside]
            if known is not None:
                found.setdefault((annotator, dimension, group_id), []).append(score - known)
            elif others:
                found.setdefault((annotator, dimension, group_id), []).append(score - sum(others) / len(others))
    annotators = sorted({rating.annotator for rating in ratings})
    result: dict[str, dict[str, list[Difference]]] = {name: {d: [] for d in dimensions} for name in annotators}
    for (annotator, dimension, group_id), values in found.items():
        result[annotator][dimension].append(
            Difference(group_id, times[annotator, group_id], float(np.mean(values)), float(np.mean(np.abs(values))))
        )
    for by_dimension in result.values():
        for entries in by_dimension.values():
            entries.sort(key=lambda entry: (entry.submitted_at, entry.group_id))
    return result


KINDS: dict[str, Callable[[Difference], float]] = {
    "level": lambda difference: difference.level,
    "distance": lambda difference: difference.distance,
}


def find_drift(
    ratings: Sequence[Rating], references: References, dimensions: Sequence[str], limits: Limits
) -> tuple[dict[str, list[Drift]], list[str]]:
    """Find out who drifts, and not who is compared with somebody who does.

    Somebody who drifts takes the others' mean along. So the one with the largest flagged change is set aside, all are
    tested again without that one's scores in the mean, and so on, as long as two remain to be compared with.

    Returns:
        The tests by annotator, and who was set aside.
    """
    set_aside: list[str] = []
    while True:
        found = trends(differences_by_annotator(ratings, references, dimensions, set_aside), limits)
        changes = {
            name: max(abs(drift.change) for drift in drifts if drift.flagged)
            for name, drifts in found.items()
            if name not in set_aside and any(drift.flagged for drift in drifts)
        }
        left = {rating.annotator for rating in ratings}.difference(set_aside)
        if not changes or len(left) < 3:
            return found, set_aside
        set_aside.append(max(changes, key=lambda name: (changes[name], name)))


def trends(differences: Mapping[str, Mapping[str, Sequence[Difference]]], limits: Limits) -> dict[str, list[Drift]]:
    """Test every annotator in every dimension for a trend; arguments as `differences_by_annotator` returns them."""
    tests: list[tuple[str, str, str, int, float]] = []
    levels: list[float] = []
    for annotator, by_dimension in differences.items():
        for dimension, entries in by_dimension.items():
            if len(entries) < limits.drift_groups or len({entry.submitted_at for entry in entries}) < 2:
                continue
            order = np.arange(len(entries))
            # Groups that were submitted at the same time have no order, and Kendall's tau knows ties.
            time = stats.rankdata([entry.submitted_at for entry in entries])
            for kind, value in KINDS.items():
                values = np.array([value(entry) for entry in entries])
                change = float(np.polyfit(order, values, 1)[0] * (len(entries) - 1))
                p = float(stats.kendalltau(time, values).pvalue) if len(set(values)) > 1 else 1.0
                tests.append((annotator, dimension, kind, len(entries), change))
                levels.append(p)
    found: dict[str, list[Drift]] = {}
    adjusted = stats.false_discovery_control(levels) if levels else []
    for (annotator, dimension, kind, groups, change), p in zip(tests, adjusted, strict=True):
        large = abs(change) >= limits.drift_points and (kind == "level" or change > 0)
        drift = Drift(dimension, kind, groups, change, float(p), bool(large and p <= limits.drift_level))
        found.setdefault(annotator, []).append(drift)
    return found


def _annotator(
    name: str,
    ratings: Sequence[Rating],
    references: References,
    terms: CalibrationTerms,
    limits: Limits,
    dimensions: Sequence[str],
    differences: Mapping[str, Mapping[str, Sequence[Difference]]],
    drift: list[Drift],
) -> AnnotatorQuality:
    own = [rating for rating in ratings if rating.annotator == name]
    live = [rating for rating in own if rating.purpose != "calibration"]
    candidates = Counter(rating.group_id for rating in live)
    seconds = {r.group_id: r.seconds / candidates[r.group_id] for r in live if r.seconds > 0}
    entries = differences.get(name, {})
    return AnnotatorQuality(
        annotator=name,
        groups=len(candidates),
        candidates=len(live),
        mean={d: _mean([rating.scores[d] for rating in live if d in rating.scores]) for d in dimensions},
        level={d: _mean([entry.level for entry in entries.get(d, [])]) for d in dimensions},
        distance={d: _mean([entry.distance for entry in entries.get(d, [])]) for d in dimensions},
        seconds=median(seconds.values()) if seconds else NAN,
        fast=sorted(group_id for group_id, time in seconds.items() if time < limits.fast_seconds),
        gold=compare_with_answers(own, "gold", references, terms, dimensions),
        calibration=compare_with_answers(own, "calibration", references, terms, dimensions),
        drift=drift,
    )


def compare_with_answers(
    ratings: Sequence[Rating],
    purpose: Purpose,
    references: References,
    terms: CalibrationTerms,
    dimensions: Sequence[str],
) -> KnownAnswers | None:
    """Compare one annotator's ratings with the known answers; None if none of that purpose is known.

    The terms are reached if in every dimension the share of scores that hit and that of scores at most one point off
    are as large as they ask: the calibration round's rule.
    """

    def reached(exact: Mapping[str, float], within_one: Mapping[str, float]) -> bool:
        return all(exact[name] >= terms.exact and within_one[name] >= terms.within_one for name in exact)

    scores: dict[str, dict[tuple[str, int, str], float]] = {}
    for rating in ratings:
        if rating.purpose == purpose and rating.group_id in references:
            for dimension, score in rating.scores.items():
                scores.setdefault(rating.group_id, {})[rating.group_id, rating.candidate, dimension] = score
    groups = passed = 0
    for of_group in scores.values():
        exact, within_one = compare_with_reference(of_group, references, dimensions)
        groups += bool(exact)
        passed += bool(exact) and reached(exact, within_one)
    if not groups:
        return None
    together = {key: score for of_group in scores.values() for key, score in of_group.items()}
    exact, within_one = compare_with_reference(together, references, dimensions)
    return KnownAnswers(groups, passed, reached(exact, within_one), exact, within_one)


def _add_flags(annotators: Sequence[AnnotatorQuality], limits: Limits) -> None:
    for person in annotators:
        if person.gold and person.gold.groups >= limits.gold_groups:
            if not person.gold.reached:
                passed = f"{person.gold.passed} of {person.gold.groups} passed"
                person.flags.append(f"misses the calibration terms on the gold groups ({passed})")
        if len(person.fast) > limits.fast_share * person.groups:
            seconds = f"{limits.fast_seconds:g} s per candidate"
            person.flags.append(f"rated {len(person.fast)} of {person.groups} groups in less than {seconds}")
        others = [other.seconds for other in annotators if other is not person and not np.isnan(other.seconds)]
        if others and person.seconds < median(others) / 2:
            person.flags.append(f"takes {person.seconds:.1f} s per candidate, the others {median(others):.1f} s")
        by_level = {drift.dimension for drift in person.drift if drift.flagged and drift.kind == "level"}
        for drift in person.drift:
            if drift.flagged and drift.kind == "level":
                direction = "higher" if drift.change > 0 else "lower"
                person.flags.append(f"{drift.dimension} drifts {abs(drift.change):.1f} points {direction}")
            elif drift.flagged and drift.dimension not in by_level:
                person.flags.append(f"{drift.dimension} drifts {drift.change:.1f} points away from the others")


def groups_to_check(
    ratings: Sequence[Rating], annotators: Sequence[AnnotatorQuality], dimensions: Sequence[str], limits: Limits
) -> list[GroupToCheck]:
    """Groups with scores far apart, rated too fast, or rated by flagged annotators only; the worst first."""
    by_group: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_group.setdefault(rating.group_id, []).append(rating)
    flagged = {person.annotator for person in annotators if person.flags}
    fast = {(person.annotator, group_id) for person in annotators for group_id in person.fast}
    found = []
    for group_id, of_group in by_group.items():
        names = sorted({rating.annotator for rating in of_group})
        apart, reasons, excess = 0.0, [], 0.0
        for candidate in sorted({rating.candidate for rating in of_group}):
            for dimension in dimensions:
                scores = {
                    rating.annotator: rating.scores[dimension]
                    for rating in of_group
                    if rating.candidate == candidate and dimension in rating.scores
                }
                if not scores:
                    continue
                spread = max(scores.values()) - min(scores.values())
                apart = max(apart, spread)
                if spread >= limits.apart:
                    said = ", ".join(f"{name} {score:g}" for name, score in sorted(scores.items()))
                    reasons.append(f"candidate {candidate}, {dimension}: {said}")
                    excess += spread
        hasty = [name for name in names if (name, group_id) in fast]
        if hasty:
            reasons.append(f"rated too fast by {', '.join(hasty)}")
        if set(names) <= flagged:
            reasons.append(f"rated only by flagged annotators: {', '.join(names)}")
        if reasons:
            found.append((excess, GroupToCheck(group_id, names, apart, reasons)))
    found.sort(key=lambda entry: (-entry[0], -len(entry[1].reasons), entry[1].group_id))
    return [group for _, group in found]


def _notes(
    by_purpose: Mapping[str, Sequence[Rating]],
    references: References,
    agreements: Sequence[Agreement],
    live: Sequence[Rating],
) -> list[str]:
    notes = []
    if not any(entry.candidates for entry in agreements):
        notes.append("No candidate of a work group has scores of two annotators: there is no agreement to measure.")
    judged = [*by_purpose["gold"], *by_purpose["calibration"]]
    known = [rating for rating in judged if rating.group_id not in references]
    if known:
        groups = len({rating.group_id for rating in known})
        notes.append(f"The known answers of {groups} gold or calibration groups are missing: they are not judged.")
    if not any(rating.submitted_at for rating in live):
        notes.append("The ratings have no times of submission: drift cannot be seen.")
    if not any(rating.seconds for rating in live):
        notes.append("The ratings have no durations: haste cannot be seen.")
    if 0 < len({rating.annotator for rating in live}) < 3 and not references:
        notes.append("With two annotators nobody can tell which of them drifts, or is right.")
    return notes


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else NAN

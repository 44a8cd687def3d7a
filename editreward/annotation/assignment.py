"""Who rates which group, when: calibration first, then work with gold groups mixed in."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from editreward.annotation.database import Assignment, Database
from editreward.groups.protocol import CalibrationTerms

CLOSE = 0.5
"""A score this near to a reference, which may be a mean of several annotators, hits it."""


@dataclass(frozen=True)
class Policy:
    """How groups are given out.

    Args:
        terms: what it takes to pass the calibration round.
        gold_every: one gold group in so many groups, at a place that nobody can guess; 0: none.
        release_after: seconds after which a group that its annotator left open goes to others.
        seed: of the order of candidates and the places of gold groups.
    """

    terms: CalibrationTerms = CalibrationTerms()
    gold_every: int = 10
    release_after: float = 72 * 3600.0
    seed: int = 0


@dataclass(frozen=True)
class CalibrationResult:
    """How a calibration round went.

    Args:
        round: from 1.
        passed: whether both shares reach the terms in every dimension.
        exact, within_one: share of the scores, by dimension.
        rounds_left: how many more rounds the annotator may try.
    """

    round: int
    passed: bool
    exact: dict[str, float]
    within_one: dict[str, float]
    rounds_left: int


def shuffled_order(candidates: int, annotator: str, group_id: str, seed: int) -> list[int]:
    """The order in which an annotator sees the candidates of a group: a random one, the same at every call."""
    order = list(range(candidates))
    Random(json.dumps([seed, "order", annotator, group_id])).shuffle(order)
    return order


def is_gold_turn(number: int, annotator: str, policy: Policy) -> bool:
    """Whether an annotator's group `number`, from 0, is a gold one: one at a random place in every `gold_every`."""
    if policy.gold_every < 1:
        return False
    block, place = divmod(number, policy.gold_every)
    return place == Random(json.dumps([policy.seed, "gold", annotator, block])).randrange(policy.gold_every)


def compare_with_reference(
    scores: Mapping[tuple[str, int, str], float],
    references: Mapping[str, Sequence[Mapping[str, float]]],
    dimensions: Sequence[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of scores that hit, and that are at most one point off, their references, by dimension.

    Args:
        scores: score by group id, candidate and dimension.
        references: known scores by dimension, for each candidate of each group; what is not known is not compared.
        dimensions: names. A dimension without any known score is left out of the result.
    """
    exact, within_one = {}, {}
    for dimension in dimensions:
        distances = [
            abs(score - references[group_id][candidate][dimension])
            for (group_id, candidate, name), score in scores.items()
            if name == dimension and dimension in references[group_id][candidate]
        ]
        if distances:
            exact[dimension] = sum(distance <= CLOSE for distance in distances) / len(distances)
            within_one[dimension] = sum(distance <= 1 for distance in distances) / len(distances)
    return exact, within_one


def calibration_result(database: Database, annotator: str, policy: Policy) -> CalibrationResult | None:
    """The result of an annotator's last finished calibration round; None where none was finished."""
    found = database.calibration(annotator)
    if found is None:
        return None
    return CalibrationResult(
        round=found.round,
        passed=found.passed,
        exact={name: exact for name, (exact, _) in found.shares.items()},
        within_one={name: within_one for name, (_, within_one) in found.shares.items()},
        rounds_left=max(0, policy.terms.rounds + found.extra_rounds - found.tried),
    )


def finish_calibration(database: Database, annotator: str, policy: Policy) -> CalibrationResult | None:
    """Judge the annotator's calibration round if all of it was rated and it was not judged yet."""
    with database.transaction():
        number = database.calibration_to_judge(annotator)
        if number is None:
            return None
        scores = {
            (assignment.group_id, candidate, dimension): float(score)
            for assignment in database.assignments(annotator)
            if assignment.purpose == "calibration" and assignment.round == number
            for (candidate, dimension), score in database.scores(assignment.id, drafts=False).items()
        }
        exact, within_one = compare_with_reference(scores, database.references(), database.dimensions())
        passed = all(
            exact[name] >= policy.terms.exact and within_one[name] >= policy.terms.within_one for name in exact
        )
        database.close_calibration(
            annotator, number, passed, {name: (exact[name], within_one[name]) for name in exact}
        )
        return calibration_result(database, annotator, policy)


def start_calibration(database: Database, annotator: str, policy: Policy) -> None:
    """Give an annotator the groups of the next calibration round, those first that they have seen least often.

    Does nothing while a round is unfinished, after one was passed, and when no round is left.
    """
    with database.transaction():
        result = calibration_result(database, annotator, policy)
        unfinished = database.unfinished(annotator, calibration=True)
        if unfinished or (result and (result.passed or not result.rounds_left)):
            return
        number = 1 + max((given.round for given in database.assignments(annotator)), default=0)
        seen = database.calibration_groups(annotator)
        rng = Random(json.dumps([policy.seed, "calibration", annotator, number]))
        order = sorted(seen, key=lambda group_id: (seen[group_id], rng.random()))
        for group_id in order[: policy.terms.groups]:
            _give(database, annotator, group_id, policy, number)


def next_assignment(database: Database, annotator: str, policy: Policy, now: float | None = None) -> Assignment | None:
    """The assignment that an annotator should see next: one that is unfinished, or else a new one.

    Calibration comes first, where there is any: until it is passed there is nothing else. Groups that some annotators
    have rated and others still have to come before groups that nobody has, in the order of the dataset. Last come the
    annotator's own groups that were offered to others and not taken.

    Returns:
        None when nothing is left, or a calibration round has to be started first.
    """
    now = time.time() if now is None else now
    with database.transaction():
        database.release_stale(annotator, before=now - policy.release_after)
        if not may_work(database, annotator, policy):
            return database.unfinished(annotator, calibration=True)
        unfinished = database.unfinished(annotator, calibration=False)
        if unfinished:
            return unfinished
        group_id = database.next_work(annotator)
        if group_id is None:
            return database.take_back(annotator, now)
        if is_gold_turn(database.given(annotator), annotator, policy):
            group_id = _next_gold(database, annotator, policy) or group_id
        return _give(database, annotator, group_id, policy, 0, now)


def may_work(database: Database, annotator: str, policy: Policy) -> bool:
    """Whether an annotator has passed the calibration round, where there is one."""
    if not database.has_calibration():
        return True
    result = calibration_result(database, annotator, policy)
    return result is not None and result.passed


def _next_gold(database: Database, annotator: str, policy: Policy) -> str | None:
    """A gold group that the annotator has not seen, a random one."""
    unseen = database.unseen_gold(annotator)
    if not unseen:
        return None
    return Random(json.dumps([policy.seed, "gold group", annotator, len(unseen)])).choice(unseen)


def _give(
    database: Database, annotator: str, group_id: str, policy: Policy, number: int, now: float | None = None
) -> Assignment:
    now = time.time() if now is None else now
    with database.transaction():
        candidates = database.candidate_count(group_id)
        order = shuffled_order(candidates, annotator, f"{group_id} {number}", policy.seed)
        return database.give(annotator, group_id, number, order, now)

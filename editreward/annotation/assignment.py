"""Who rates which group, when: calibration first, then work with gold groups mixed in."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from editreward.annotation.database import Assignment, Database
from editreward.groups.protocol import CalibrationTerms

SKIP_LIMIT = 2
"""A group that so many annotators skipped is offered to no more of them."""

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
    row = database.row(
        "SELECT calibrations.*, extra_rounds, "
        "(SELECT COUNT(*) FROM calibrations AS tried WHERE tried.annotator = annotators.id) AS tried "
        "FROM calibrations JOIN annotators ON annotators.id = calibrations.annotator WHERE annotators.name = ? "
        "ORDER BY passed DESC, round DESC LIMIT 1",
        annotator,
    )
    if row is None:
        return None
    shares = json.loads(row["shares"])
    return CalibrationResult(
        round=row["round"],
        passed=bool(row["passed"]),
        exact={name: share[0] for name, share in shares.items()},
        within_one={name: share[1] for name, share in shares.items()},
        rounds_left=max(0, policy.terms.rounds + row["extra_rounds"] - row["tried"]),
    )


def has_calibration(database: Database) -> bool:
    """Whether there are groups for calibration rounds."""
    sql = "SELECT 1 FROM groups WHERE purpose = 'calibration' AND active AND fault IS NULL LIMIT 1"
    return database.row(sql) is not None


def finish_calibration(database: Database, annotator: str, policy: Policy) -> CalibrationResult | None:
    """Judge the annotator's calibration round if all of it was rated and it was not judged yet."""
    with database.transaction() as connection:
        done = database.row(
            "SELECT annotator, round FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "JOIN groups ON groups.id = assignments.group_key AND active AND fault IS NULL "
            "WHERE annotators.name = ? AND assignments.purpose = 'calibration' AND NOT EXISTS (SELECT 1 FROM "
            "calibrations WHERE calibrations.annotator = assignments.annotator "
            "AND calibrations.round = assignments.round) GROUP BY round HAVING MIN(state = 'submitted')",
            annotator,
        )
        if done is None:
            return None
        scores = {
            (assignment.group_id, candidate, dimension): float(score)
            for assignment in database.assignments(annotator)
            if assignment.purpose == "calibration" and assignment.round == done["round"]
            for (candidate, dimension), score in database.scores(assignment.id, drafts=False).items()
        }
        exact, within_one = compare_with_reference(scores, database.references(), database.dimensions())
        passed = all(
            exact[name] >= policy.terms.exact and within_one[name] >= policy.terms.within_one for name in exact
        )
        shares = {name: [exact[name], within_one[name]] for name in exact}
        connection.execute(
            "INSERT INTO calibrations VALUES (?, ?, ?, ?, ?)",
            (done["annotator"], done["round"], passed, json.dumps(shares), time.time()),
        )
        connection.execute(  # corrections that were not submitted: nothing can be changed any more
            "DELETE FROM drafts WHERE assignment IN (SELECT id FROM assignments WHERE annotator = ? AND round = ?)",
            (done["annotator"], done["round"]),
        )
        return calibration_result(database, annotator, policy)


def start_calibration(database: Database, annotator: str, policy: Policy) -> None:
    """Give an annotator the groups of the next calibration round, those first that they have seen least often.

    Does nothing while a round is unfinished, after one was passed, and when no round is left.
    """
    with database.transaction():
        result = calibration_result(database, annotator, policy)
        if _open(database, annotator, "calibration") or (result and (result.passed or not result.rounds_left)):
            return
        number = 1 + max((given.round for given in database.assignments(annotator)), default=0)
        groups = database.rows(
            "SELECT groups.group_id, (SELECT COUNT(*) FROM assignments JOIN annotators "
            "ON annotators.id = assignments.annotator WHERE group_key = groups.id AND annotators.name = ?) AS seen "
            "FROM groups WHERE purpose = 'calibration' AND active AND fault IS NULL ORDER BY position",
            annotator,
        )
        rng = Random(json.dumps([policy.seed, "calibration", annotator, number]))
        order = sorted(groups, key=lambda group: (group["seen"], rng.random()))
        for group in order[: policy.terms.groups]:
            _give(database, annotator, group["group_id"], policy, number)


def next_assignment(database: Database, annotator: str, policy: Policy, now: float | None = None) -> Assignment | None:
    """The assignment that an annotator should see next: one that is unfinished, or else a new one.

    Calibration comes first, where there is any: until it is passed there is nothing else. Groups that some annotators
    have rated and others still have to come before groups that nobody has, in the order of the dataset.

    Returns:
        None when nothing is left, or a calibration round has to be started first.
    """
    now = time.time() if now is None else now
    with database.transaction() as connection:
        connection.execute(
            "UPDATE assignments SET state = 'released' WHERE state = 'open' AND purpose != 'calibration' "
            "AND touched_at < ? AND annotator != (SELECT id FROM annotators WHERE name = ?)",
            (now - policy.release_after, annotator),
        )
        if not may_work(database, annotator, policy):
            return _open(database, annotator, "calibration")
        unfinished = _open(database, annotator, "work")
        if unfinished:
            return unfinished
        group_id = _next_work(database, annotator)
        if group_id is None:
            return None
        given = database.row(
            "SELECT COUNT(*) AS n FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "WHERE annotators.name = ? AND purpose != 'calibration'",
            annotator,
        )
        if given is not None and is_gold_turn(given["n"], annotator, policy):
            group_id = _next_gold(database, annotator, policy) or group_id
        return _give(database, annotator, group_id, policy, 0, now)


def may_work(database: Database, annotator: str, policy: Policy) -> bool:
    """Whether an annotator has passed the calibration round, where there is one."""
    if not has_calibration(database):
        return True
    result = calibration_result(database, annotator, policy)
    return result is not None and result.passed


def work_left(database: Database) -> int:
    """How many ratings of whole groups are still to be given out or to be finished, by everybody together."""
    row = database.row(
        "SELECT SUM(MAX(0, ? - done)) AS n FROM (SELECT (SELECT COUNT(*) FROM assignments "
        "WHERE group_key = groups.id AND state = 'submitted') AS done, (SELECT COUNT(*) FROM assignments "
        "WHERE group_key = groups.id AND state = 'skipped') AS skips "
        "FROM groups WHERE purpose = 'work' AND active AND fault IS NULL) WHERE skips < ?",
        database.ratings_per_group(),
        SKIP_LIMIT,
    )
    return int(row["n"] or 0) if row else 0


def _open(database: Database, annotator: str, purpose: str) -> Assignment | None:
    """The annotator's assignment that is open or being corrected, the one last worked on first."""
    row = database.row(
        "SELECT assignments.id FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
        "JOIN groups ON groups.id = assignments.group_key "
        "WHERE annotators.name = ?1 AND (assignments.purpose = 'calibration') = (?2 = 'calibration') "
        "AND groups.active AND groups.fault IS NULL AND (state = 'open' OR (state = 'submitted' "
        "AND EXISTS (SELECT 1 FROM drafts WHERE drafts.assignment = assignments.id))) "
        "ORDER BY EXISTS (SELECT 1 FROM drafts WHERE drafts.assignment = assignments.id) DESC, "
        "CASE WHEN assignments.purpose = 'calibration' THEN 0 ELSE touched_at END DESC, assignments.id LIMIT 1",
        annotator,
        purpose,
    )
    return database.assignment(row["id"], annotator) if row else None


def _next_work(database: Database, annotator: str) -> str | None:
    row = database.row(
        "SELECT groups.group_id FROM groups LEFT JOIN assignments ON assignments.group_key = groups.id "
        "LEFT JOIN annotators ON annotators.id = assignments.annotator "
        "WHERE groups.purpose = 'work' AND active AND fault IS NULL GROUP BY groups.id "
        "HAVING TOTAL(state IN ('open', 'submitted')) < ? AND TOTAL(annotators.name = ?) = 0 "
        "AND TOTAL(state = 'skipped') < ? "
        "ORDER BY TOTAL(state IN ('open', 'submitted')) DESC, groups.position LIMIT 1",
        database.ratings_per_group(),
        annotator,
        SKIP_LIMIT,
    )
    return row["group_id"] if row else None


def _next_gold(database: Database, annotator: str, policy: Policy) -> str | None:
    """A gold group that the annotator has not seen, a random one."""
    rows = database.rows(
        "SELECT group_id FROM groups WHERE purpose = 'gold' AND active AND fault IS NULL AND NOT EXISTS ("
        "SELECT 1 FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
        "WHERE assignments.group_key = groups.id AND annotators.name = ?) ORDER BY position",
        annotator,
    )
    if not rows:
        return None
    return str(Random(json.dumps([policy.seed, "gold group", annotator, len(rows)])).choice(rows)["group_id"])


def _give(
    database: Database, annotator: str, group_id: str, policy: Policy, number: int, now: float | None = None
) -> Assignment:
    now = time.time() if now is None else now
    with database.transaction() as connection:
        group = database.row("SELECT candidates FROM groups WHERE group_id = ?", group_id)
        if group is None:
            raise LookupError(f"There is no group {group_id!r}.")
        order = shuffled_order(group["candidates"], annotator, f"{group_id} {number}", policy.seed)
        cursor = connection.execute(
            "INSERT INTO assignments (annotator, group_key, purpose, round, candidate_order, created_at, touched_at) "
            "SELECT annotators.id, groups.id, purpose, ?, ?, ?, ? FROM annotators, groups "
            "WHERE annotators.name = ? AND group_id = ?",
            (number, json.dumps(order), now, now, annotator, group_id),
        )
        assert cursor.lastrowid is not None
        return database.assignment(cursor.lastrowid, annotator)

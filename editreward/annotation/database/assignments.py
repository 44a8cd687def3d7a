"""Who was given which group, and what they marked and submitted."""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from editreward.annotation.database.groups import Groups
from editreward.groups.protocol import LEVELS
from editreward.groups.ratings import Purpose

IDLE_SECONDS = 120.0
"""A longer pause between two actions on a group counts as this long: the annotator was away."""

SKIP_LIMIT = 2
"""A group that so many annotators skipped is offered to no more of them."""

LARGEST_ID = 2**63 - 1
"""SQLite knows no larger integers."""

State = Literal["open", "submitted", "skipped", "released"]
Outcome = Literal["saved", "repeated", "stale", "taken", "closed"]
"""What became of a form: saved; saved before, by the same form; refused, as the assignment has changed since the form
was shown (another tab); as another annotator has the group now; as the calibration round is over."""


@dataclass(frozen=True)
class Assignment:
    """A group that is to be rated by somebody.

    Args:
        id: key.
        annotator: name of the annotator.
        group_id: the group.
        purpose: why the group is shown.
        round: calibration round from 1; 0 elsewhere.
        order: index of the candidate that is shown at each place.
        state: "open" until a form is submitted; "released" to others after a long time.
        version: number of submissions so far.
    """

    id: int
    annotator: str
    group_id: str
    purpose: Purpose
    round: int
    order: tuple[int, ...]
    state: State
    version: int


class Assignments(Groups):
    """The part of the database that holds assignments, drafts and submissions."""

    def assignment(self, assignment_id: int, annotator: str) -> Assignment:
        """One of an annotator's assignments.

        Raises:
            LookupError: the annotator has no such assignment.
        """
        row = None
        if 0 <= assignment_id <= LARGEST_ID:
            row = self.row(f"{ASSIGNMENTS} WHERE assignments.id = ? AND annotators.name = ?", assignment_id, annotator)
        if row is None:
            raise LookupError(f"{annotator} has no assignment {assignment_id}.")
        return _assignment(row)

    def assignments(self, annotator: str) -> list[Assignment]:
        """All of an annotator's assignments, oldest first."""
        rows = self.rows(f"{ASSIGNMENTS} WHERE annotators.name = ? ORDER BY assignments.id", annotator)
        return [_assignment(row) for row in rows]

    def touch(self, assignment_id: int, counts: bool = True, now: float | None = None) -> None:
        """Note that an annotator is at work on an assignment. The time since the last note counts as spent on it,
        unless `counts` is false (the page was just opened) or it was longer than `IDLE_SECONDS`."""
        now = time.time() if now is None else now
        with self.transaction() as connection:
            connection.execute(
                "UPDATE assignments SET seconds = seconds + MAX(0, MIN(?, ? - touched_at)), touched_at = ? "
                "WHERE id = ?",
                (IDLE_SECONDS if counts else 0.0, now, now, assignment_id),
            )

    def scores(self, assignment_id: int, drafts: bool = True) -> dict[tuple[int, str], int]:
        """Scores by (candidate, dimension): those that count, under those that were marked since and not submitted."""
        rows = self.rows(
            "SELECT candidate, dimension, score FROM scores JOIN assignments ON assignments.id = scores.assignment "
            "AND assignments.version = scores.version WHERE assignments.id = ?",
            assignment_id,
        )
        if drafts:
            rows += self.rows("SELECT candidate, dimension, score FROM drafts WHERE assignment = ?", assignment_id)
        return {(row["candidate"], row["dimension"]): row["score"] for row in rows}

    def save_draft(
        self, assignment_id: int, annotator: str, version: int, candidate: int, dimension: str, score: int
    ) -> bool:
        """Keep a score that was marked on the page, so that it is there after a reload. It is no rating yet.

        Returns:
            Whether it was kept; not if the assignment has changed since the page was shown.

        Raises:
            LookupError: the annotator has no such assignment.
            ValueError: there is no such candidate, dimension or score.
        """
        with self.transaction() as connection:
            assignment = self.assignment(assignment_id, annotator)
            self._check_score(assignment, candidate, dimension, score)
            if assignment.version != version or self.is_closed(assignment):
                return False
            connection.execute(
                "INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?)", (assignment_id, candidate, dimension, score)
            )
            self.touch(assignment_id)
            return True

    def submit(
        self,
        assignment_id: int,
        annotator: str,
        version: int,
        form: str,
        scores: Mapping[tuple[int, str], int],
        now: float | None = None,
    ) -> Outcome:
        """Rate a group, or correct its rating.

        Args:
            assignment_id, annotator: whose assignment.
            version: the assignment's version when the form was shown.
            form: the form's own name, drawn at random when it was shown.
            scores: a score for every candidate (index in the group's row) and dimension.
            now: seconds since the epoch (default: the time).

        Raises:
            LookupError: the annotator has no such assignment.
            ValueError: a score is missing, or there is no such candidate, dimension or score.
        """
        with self.transaction() as connection:
            assignment = self.assignment(assignment_id, annotator)
            for (candidate, dimension), score in scores.items():
                self._check_score(assignment, candidate, dimension, score)
            missing = [
                f"candidate {candidate}: {dimension}"
                for candidate in sorted(assignment.order)
                for dimension in self.dimensions()
                if (candidate, dimension) not in scores
            ]
            if missing:
                raise ValueError(f"Group {assignment.group_id!r} has no score for {', '.join(missing)}.")
            outcome = self._add_submission(assignment, version, form, "submitted", None, "", now)
            if outcome == "saved":
                connection.executemany(
                    "INSERT INTO scores VALUES (?, ?, ?, ?, ?)",
                    [(assignment_id, version + 1, *key, score) for key, score in scores.items()],
                )
            return outcome

    def skip(
        self,
        assignment_id: int,
        annotator: str,
        version: int,
        form: str,
        reason: str,
        comment: str = "",
        now: float | None = None,
    ) -> Outcome:
        """Leave a group unrated, with a reason. A rating that it had before counts no more. Arguments as for `submit`.

        Raises:
            LookupError: the annotator has no such assignment.
            ValueError: there is no reason, or the group is part of the calibration round.
        """
        with self.transaction():
            assignment = self.assignment(assignment_id, annotator)
            if not reason.strip():
                raise ValueError("A group is skipped for a reason.")
            if assignment.purpose == "calibration":
                raise ValueError("Groups of the calibration round cannot be skipped.")
            return self._add_submission(assignment, version, form, "skipped", reason.strip(), comment.strip(), now)

    def _add_submission(
        self,
        assignment: Assignment,
        version: int,
        form: str,
        state: State,
        reason: str | None,
        comment: str,
        now: float | None,
    ) -> Outcome:
        if not form:
            raise ValueError("A form needs a name.")
        now = time.time() if now is None else now
        with self.transaction() as connection:
            known = self.row("SELECT assignment FROM submissions WHERE form = ?", form)
            if known:
                if known["assignment"] != assignment.id:
                    raise ValueError("This form belongs to another group.")
                return "repeated"
            if assignment.version != version:
                return "stale"
            if self.is_closed(assignment):
                return "closed"
            if assignment.state in ("released", "skipped") and state == "submitted" and self._is_taken(assignment):
                return "taken"
            self.touch(assignment.id, now=now)
            connection.execute(
                "INSERT INTO submissions SELECT id, ?, ?, ?, ?, seconds, ? FROM assignments WHERE id = ?",
                (version + 1, form, reason, comment, now, assignment.id),
            )
            connection.execute(
                "UPDATE assignments SET version = ?, state = ? WHERE id = ?", (version + 1, state, assignment.id)
            )
            connection.execute("DELETE FROM drafts WHERE assignment = ?", (assignment.id,))
            return "saved"

    def _check_score(self, assignment: Assignment, candidate: int, dimension: str, score: int) -> None:
        if candidate not in assignment.order:
            raise ValueError(f"Group {assignment.group_id!r} has no candidate {candidate!r}.")
        if dimension not in self.dimensions():
            raise ValueError(f"There is no dimension {dimension!r}, only {', '.join(self.dimensions())}.")
        if isinstance(score, bool) or score not in LEVELS:
            raise ValueError(f"A score must be 1, 2, 3 or 4, not {score!r}.")

    def is_closed(self, assignment: Assignment) -> bool:
        """Whether an assignment can be changed no more, as the answers of its calibration round were shown."""
        return assignment.purpose == "calibration" and bool(
            self.row(
                "SELECT 1 FROM calibrations JOIN annotators ON annotators.id = calibrations.annotator "
                "WHERE annotators.name = ? AND calibrations.round = ?",
                assignment.annotator,
                assignment.round,
            )
        )

    def _is_taken(self, assignment: Assignment) -> bool:
        """Whether a group that its annotator gave up went to as many others as are to rate it."""
        if assignment.purpose != "work":
            return False
        row = self.row(
            "SELECT COUNT(*) AS n FROM assignments JOIN groups ON groups.id = assignments.group_key "
            "WHERE groups.group_id = ? AND assignments.id != ? AND assignments.state IN ('open', 'submitted')",
            assignment.group_id,
            assignment.id,
        )
        return row is not None and row["n"] >= self.ratings_per_group()

    # Giving out

    def candidate_count(self, group_id: str) -> int:
        """How many candidates a group has.

        Raises:
            LookupError: there is no such group.
        """
        row = self.row("SELECT candidates FROM groups WHERE group_id = ?", group_id)
        if row is None:
            raise LookupError(f"There is no group {group_id!r}.")
        return int(row["candidates"])

    def give(self, annotator: str, group_id: str, round: int, order: Sequence[int], now: float) -> Assignment:
        """Give an annotator a group.

        Args:
            annotator, group_id: whom and what.
            round: calibration round from 1; 0 elsewhere.
            order: index of the candidate to show at each place.
            now: seconds since the epoch.
        """
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO assignments "
                "(annotator, group_key, purpose, round, candidate_order, created_at, touched_at) "
                "SELECT annotators.id, groups.id, purpose, ?, ?, ?, ? FROM annotators, groups "
                "WHERE annotators.name = ? AND group_id = ?",
                (round, json.dumps(list(order)), now, now, annotator, group_id),
            )
            assert cursor.lastrowid is not None
            return self.assignment(cursor.lastrowid, annotator)

    def release_stale(self, annotator: str, before: float) -> None:
        """Give up the open assignments of others than `annotator` that were not touched since `before`."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE assignments SET state = 'released' WHERE state = 'open' AND purpose != 'calibration' "
                "AND touched_at < ? AND annotator != (SELECT id FROM annotators WHERE name = ?)",
                (before, annotator),
            )

    def unfinished(self, annotator: str, calibration: bool) -> Assignment | None:
        """The annotator's assignment that is open or being corrected, the one last worked on first.

        Args:
            annotator: whose.
            calibration: of a calibration round, or else of the work.
        """
        row = self.row(
            "SELECT assignments.id FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "JOIN groups ON groups.id = assignments.group_key "
            "WHERE annotators.name = ? AND (assignments.purpose = 'calibration') = ? "
            "AND groups.active AND groups.fault IS NULL AND (state = 'open' OR (state = 'submitted' "
            "AND EXISTS (SELECT 1 FROM drafts WHERE drafts.assignment = assignments.id))) "
            "ORDER BY EXISTS (SELECT 1 FROM drafts WHERE drafts.assignment = assignments.id) DESC, "
            "CASE WHEN assignments.purpose = 'calibration' THEN 0 ELSE touched_at END DESC, assignments.id LIMIT 1",
            annotator,
            calibration,
        )
        return self.assignment(row["id"], annotator) if row else None

    def given(self, annotator: str) -> int:
        """How many groups an annotator was given outside of calibration rounds."""
        row = self.row(
            "SELECT COUNT(*) AS n FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "WHERE annotators.name = ? AND purpose != 'calibration'",
            annotator,
        )
        return int(row["n"]) if row else 0

    def next_work(self, annotator: str) -> str | None:
        """The group that an annotator should rate next: one that others have begun, or else the first of the rest."""
        row = self.row(
            "SELECT groups.group_id FROM groups LEFT JOIN assignments ON assignments.group_key = groups.id "
            "LEFT JOIN annotators ON annotators.id = assignments.annotator "
            "WHERE groups.purpose = 'work' AND active AND fault IS NULL GROUP BY groups.id "
            "HAVING TOTAL(state IN ('open', 'submitted')) < ? AND TOTAL(annotators.name = ?) = 0 "
            "AND TOTAL(state = 'skipped') < ? "
            "ORDER BY TOTAL(state IN ('open', 'submitted')) DESC, groups.position LIMIT 1",
            self.ratings_per_group(),
            annotator,
            SKIP_LIMIT,
        )
        return row["group_id"] if row else None

    def take_back(self, annotator: str, now: float) -> Assignment | None:
        """Open the first group again that went from an annotator to others, and that too few of them have taken."""
        with self.transaction() as connection:
            row = self.row(
                f"{ASSIGNMENTS} WHERE annotators.name = ? AND state = 'released' AND assignments.purpose = 'work' "
                "AND active AND fault IS NULL "
                "AND (SELECT COUNT(*) FROM assignments AS others WHERE others.group_key = groups.id "
                "AND others.state IN ('open', 'submitted')) < ? "
                "AND (SELECT COUNT(*) FROM assignments AS others WHERE others.group_key = groups.id "
                "AND others.state = 'skipped') < ? ORDER BY groups.position LIMIT 1",
                annotator,
                self.ratings_per_group(),
                SKIP_LIMIT,
            )
            if row is None:
                return None
            connection.execute("UPDATE assignments SET state = 'open', touched_at = ? WHERE id = ?", (now, row["id"]))
            return self.assignment(row["id"], annotator)

    def unseen_gold(self, annotator: str) -> list[str]:
        """Ids of the gold groups that an annotator has not seen."""
        rows = self.rows(
            "SELECT group_id FROM groups WHERE purpose = 'gold' AND active AND fault IS NULL AND NOT EXISTS ("
            "SELECT 1 FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "WHERE assignments.group_key = groups.id AND annotators.name = ?) ORDER BY position",
            annotator,
        )
        return [row["group_id"] for row in rows]

    def work_left(self) -> int:
        """How many ratings of whole groups are still to be given out or to be finished, by everybody together."""
        row = self.row(
            "SELECT SUM(MAX(0, ? - done)) AS n FROM (SELECT (SELECT COUNT(*) FROM assignments "
            "WHERE group_key = groups.id AND state = 'submitted') AS done, (SELECT COUNT(*) FROM assignments "
            "WHERE group_key = groups.id AND state = 'skipped') AS skips "
            "FROM groups WHERE purpose = 'work' AND active AND fault IS NULL) WHERE skips < ?",
            self.ratings_per_group(),
            SKIP_LIMIT,
        )
        return int(row["n"] or 0) if row else 0


ASSIGNMENTS = (
    "SELECT assignments.*, annotators.name, groups.group_id FROM assignments "
    "JOIN annotators ON annotators.id = assignments.annotator JOIN groups ON groups.id = assignments.group_key"
)


def _assignment(row: sqlite3.Row) -> Assignment:
    return Assignment(
        id=row["id"],
        annotator=row["name"],
        group_id=row["group_id"],
        purpose=row["purpose"],
        round=row["round"],
        order=tuple(json.loads(row["candidate_order"])),
        state=row["state"],
        version=row["version"],
    )

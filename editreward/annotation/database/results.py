"""What came of it: ratings, skipped groups and progress."""

import sqlite3
from dataclasses import dataclass

from editreward.annotation.database.groups import Groups
from editreward.groups.ratings import Rating


@dataclass(frozen=True)
class Progress:
    """How far an annotator is. Groups with known answers count like others: nobody can tell them by it.

    Args:
        annotator: name.
        rated, skipped, open: groups outside of calibration.
        seconds: time spent on them.
        passed: the calibration round; None where none was finished.
        last_active: seconds since the epoch, UTC; None before the first assignment.
    """

    annotator: str
    rated: int
    skipped: int
    open: int
    seconds: float
    passed: bool | None
    last_active: float | None


class Results(Groups):
    """The part of the database that reads what annotators did."""

    def ratings(self) -> list[Rating]:
        """All ratings that count, by annotator, group and candidate. Of several calibration rounds the last counts."""
        rows = self.rows(
            "SELECT annotators.name, groups.group_id, scores.candidate, scores.dimension, scores.score, "
            "assignments.purpose, submissions.seconds, submissions.submitted_at "
            "FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "JOIN groups ON groups.id = assignments.group_key "
            "JOIN submissions ON submissions.assignment = assignments.id "
            "AND submissions.version = assignments.version "
            "JOIN scores ON scores.assignment = assignments.id AND scores.version = assignments.version "
            "WHERE assignments.state = 'submitted' AND NOT EXISTS (SELECT 1 FROM assignments AS later "
            "WHERE later.annotator = assignments.annotator AND later.group_key = assignments.group_key "
            "AND later.state = 'submitted' AND later.round > assignments.round) "
            "ORDER BY annotators.name, groups.position, groups.group_id, scores.candidate"
        )
        scores: dict[tuple[str, str, int], dict[str, float]] = {}
        first: dict[tuple[str, str, int], sqlite3.Row] = {}
        for row in rows:
            key = row["name"], row["group_id"], row["candidate"]
            scores.setdefault(key, {})[row["dimension"]] = float(row["score"])
            first.setdefault(key, row)
        order = self.dimensions()
        return [
            Rating(
                annotator=key[0],
                group_id=key[1],
                candidate=key[2],
                scores={name: values[name] for name in order},
                purpose=first[key]["purpose"],
                seconds=first[key]["seconds"],
                submitted_at=first[key]["submitted_at"],
            )
            for key, values in scores.items()
        ]

    def skips(self) -> list[tuple[str, str, str, str]]:
        """(group id, annotator, reason, comment) of every group that is skipped."""
        rows = self.rows(
            "SELECT groups.group_id, annotators.name, submissions.reason, submissions.comment "
            "FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "JOIN groups ON groups.id = assignments.group_key "
            "JOIN submissions ON submissions.assignment = assignments.id "
            "AND submissions.version = assignments.version "
            "WHERE assignments.state = 'skipped' ORDER BY groups.position, annotators.name"
        )
        return [tuple(row) for row in rows]

    def progress(self, annotator: str | None = None) -> list[Progress]:
        """How far annotators are, in the order in which they were added; or one of them."""
        rows = self.rows(
            "SELECT annotators.name, "
            "SUM(assignments.state = 'submitted' AND purpose != 'calibration') AS rated, "
            "SUM(assignments.state = 'skipped' AND purpose != 'calibration') AS skipped, "
            "SUM(assignments.state = 'open' AND purpose != 'calibration') AS open, "
            "SUM(CASE WHEN purpose != 'calibration' THEN assignments.seconds END) AS seconds, "
            "(SELECT MAX(passed) FROM calibrations WHERE calibrations.annotator = annotators.id) AS passed, "
            "MAX(assignments.touched_at) AS last_active "
            "FROM annotators LEFT JOIN assignments ON assignments.annotator = annotators.id "
            "WHERE ?1 IS NULL OR annotators.name = ?1 GROUP BY annotators.id ORDER BY annotators.id",
            annotator,
        )
        return [
            Progress(
                annotator=row["name"],
                rated=row["rated"] or 0,
                skipped=row["skipped"] or 0,
                open=row["open"] or 0,
                seconds=row["seconds"] or 0.0,
                passed=None if row["passed"] is None else bool(row["passed"]),
                last_active=row["last_active"],
            )
            for row in rows
        ]

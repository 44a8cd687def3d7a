"""Calibration rounds and how they went."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from editreward.annotation.database.assignments import Assignments


@dataclass(frozen=True)
class Calibration:
    """A calibration round that was judged.

    Args:
        round: from 1.
        passed: whether it was close enough.
        shares: share of scores that hit, and that are at most one point off, the known answers, by dimension.
        tried: how many rounds the annotator has finished.
        extra_rounds: how many rounds beyond the protocol's the annotator may try.
    """

    round: int
    passed: bool
    shares: dict[str, tuple[float, float]]
    tried: int
    extra_rounds: int


class Calibrations(Assignments):
    """The part of the database that holds calibration rounds."""

    def calibration(self, annotator: str) -> Calibration | None:
        """The round that an annotator passed, or else the last one; None where none was finished."""
        row = self.row(
            "SELECT calibrations.*, extra_rounds, "
            "(SELECT COUNT(*) FROM calibrations AS tried WHERE tried.annotator = annotators.id) AS tried "
            "FROM calibrations JOIN annotators ON annotators.id = calibrations.annotator WHERE annotators.name = ? "
            "ORDER BY passed DESC, round DESC LIMIT 1",
            annotator,
        )
        if row is None:
            return None
        shares = {name: (exact, near) for name, (exact, near) in json.loads(row["shares"]).items()}
        return Calibration(row["round"], bool(row["passed"]), shares, row["tried"], row["extra_rounds"])

    def calibration_to_judge(self, annotator: str) -> int | None:
        """The calibration round of which an annotator has rated all and that was not judged yet."""
        row = self.row(
            "SELECT round FROM assignments JOIN annotators ON annotators.id = assignments.annotator "
            "JOIN groups ON groups.id = assignments.group_key AND active AND fault IS NULL "
            "WHERE annotators.name = ? AND assignments.purpose = 'calibration' AND NOT EXISTS (SELECT 1 FROM "
            "calibrations WHERE calibrations.annotator = assignments.annotator "
            "AND calibrations.round = assignments.round) GROUP BY round HAVING MIN(state = 'submitted')",
            annotator,
        )
        return int(row["round"]) if row else None

    def calibration_groups(self, annotator: str) -> dict[str, int]:
        """By id of the groups for calibration rounds, how often an annotator was given them."""
        rows = self.rows(
            "SELECT groups.group_id, (SELECT COUNT(*) FROM assignments JOIN annotators "
            "ON annotators.id = assignments.annotator WHERE group_key = groups.id AND annotators.name = ?) AS seen "
            "FROM groups WHERE purpose = 'calibration' AND active AND fault IS NULL ORDER BY position",
            annotator,
        )
        return {row["group_id"]: row["seen"] for row in rows}

    def close_calibration(
        self, annotator: str, round: int, passed: bool, shares: Mapping[str, tuple[float, float]]
    ) -> None:
        """Note how a round went. Nothing in it can be changed any more. Arguments as for `Calibration`."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO calibrations SELECT id, ?, ?, ?, ? FROM annotators WHERE name = ?",
                (round, passed, json.dumps(shares), time.time(), annotator),
            )
            connection.execute(  # corrections that were not submitted
                "DELETE FROM drafts WHERE assignment IN (SELECT assignments.id FROM assignments JOIN annotators "
                "ON annotators.id = assignments.annotator WHERE name = ? AND round = ?)",
                (annotator, round),
            )

"""Tuples to be ranked jointly, and what annotators propose."""

import json
import sqlite3
from collections.abc import Sequence

from editreward.annotation.database.connection import Connection
from editreward.groups.ratings import TupleRanking


class Tuples(Connection):
    """The part of the database that holds tuples and proposals."""

    def serve_tuples(self, tuples: Sequence[tuple[str, str, Sequence[int], str, int]]) -> None:
        """Note which tuples are to be ranked: (tuple id, group id, candidates, reason, quorum).

        Tuples that were served before and are not now keep their proposals, and are shown to nobody.

        Raises:
            ValueError: a tuple is not what it was when somebody ranked it.
        """
        with self.transaction() as connection:
            connection.execute("UPDATE tuples SET active = 0")
            for tuple_id, group_id, candidates, reason, quorum in tuples:
                before = self.row("SELECT * FROM tuples WHERE tuple_id = ?", tuple_id)
                stored = json.dumps(list(candidates))
                if (
                    before
                    and (before["group_id"], before["candidates"]) != (group_id, stored)
                    and self.row("SELECT 1 FROM proposals WHERE tuple = ?", before["id"])
                ):
                    raise ValueError(
                        f"Tuple {tuple_id!r} was ranked with other candidates. Give it another tuple_id, or use "
                        "another database."
                    )
                connection.execute(
                    "INSERT INTO tuples (tuple_id, group_id, candidates, reason, quorum) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (tuple_id) DO UPDATE SET group_id = excluded.group_id, "
                    "candidates = excluded.candidates, reason = excluded.reason, quorum = excluded.quorum, active = 1",
                    (tuple_id, group_id, stored, reason, quorum),
                )

    def propose(self, annotator: str, tuple_id: str, ranks: Sequence[int] | None, comment: str, now: float) -> bool:
        """Note what an annotator proposes for a tuple: a ranking, or None to leave it out. Returns whether there is
        such an annotator and tuple."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT OR REPLACE INTO proposals SELECT tuples.id, annotators.id, ?, ?, ? FROM tuples, annotators "
                "WHERE tuple_id = ? AND annotators.name = ?",
                (None if ranks is None else json.dumps(list(ranks)), comment, now, tuple_id, annotator),
            )
            return cursor.rowcount == 1

    def proposals(self) -> list[sqlite3.Row]:
        """`tuple_id`, `quorum`, `name`, `ranks` (JSON) and `comment` of all proposals for the tuples that are served,
        oldest first. A tuple without one has a row whose `name` is None."""
        return self.rows(
            "SELECT tuple_id, quorum, annotators.name, ranks, comment FROM tuples "
            "LEFT JOIN proposals ON proposals.tuple = tuples.id "
            "LEFT JOIN annotators ON annotators.id = proposals.annotator WHERE active ORDER BY submitted_at"
        )

    def rankings(self) -> list[TupleRanking]:
        """Rankings of tuples, those on which all who took part agree, and as many as the tuple's quorum asks.

        A tuple that they agree to leave out has no `ranks`.
        """
        found = []
        for tuple_row in self.rows("SELECT * FROM tuples WHERE active ORDER BY id"):
            proposals = self.rows(
                "SELECT annotators.name, proposals.ranks FROM proposals "
                "JOIN annotators ON annotators.id = proposals.annotator WHERE tuple = ? ORDER BY annotators.name",
                tuple_row["id"],
            )
            ranks = {row["ranks"] for row in proposals}
            if len(proposals) >= tuple_row["quorum"] and len(ranks) == 1:
                found.append(
                    TupleRanking(
                        tuple_id=tuple_row["tuple_id"],
                        group_id=tuple_row["group_id"],
                        candidates=json.loads(tuple_row["candidates"]),
                        ranks=json.loads(proposals[0]["ranks"] or "[]"),
                        annotators=[row["name"] for row in proposals],
                    )
                )
        return found

"""What is rated: the terms and the groups that are served."""

import json
from collections.abc import Sequence

from editreward.annotation.database.connection import Connection
from editreward.groups.ratings import Purpose


class Groups(Connection):
    """The part of the database that holds terms and groups."""

    def dimensions(self) -> list[str]:
        """What candidates are rated on; empty before the database was first served."""
        dimensions: list[str] = json.loads(self.meta("dimensions") or "[]")
        return dimensions

    def ratings_per_group(self) -> int:
        """To how many annotators each group goes, as last served."""
        return int(self.meta("ratings_per_group") or 1)

    def set_terms(self, dimensions: Sequence[str], ratings_per_group: int) -> None:
        """Note what is served.

        Raises:
            ValueError: the database has ratings in other dimensions, or `ratings_per_group` is less than 1.
        """
        if ratings_per_group < 1:
            raise ValueError(f"each group needs at least 1 annotator, not {ratings_per_group}")
        with self.transaction():
            before = self.dimensions()
            if before and before != list(dimensions):
                raise ValueError(
                    f"{self.path} has ratings in {', '.join(before)}, and the protocol asks for "
                    f"{', '.join(dimensions)}. Use another database for another protocol."
                )
            self.set_meta("dimensions", json.dumps(list(dimensions)))
            self.set_meta("ratings_per_group", str(ratings_per_group))

    def set_groups(self, groups: Sequence[tuple[str, Purpose, int, list[dict[str, float]] | None]]) -> None:
        """Note which groups are served: (group id, purpose, number of candidates, known answers), in this order.

        Groups that were served before and are not now keep their ratings, and are given to nobody.

        Raises:
            ValueError: a group is there twice, or is not what it was when somebody was given it.
        """
        with self.transaction() as connection:
            seen: set[str] = set()
            connection.execute("UPDATE groups SET active = 0")
            for position, (group_id, purpose, candidates, reference) in enumerate(groups):
                if group_id in seen:
                    raise ValueError(f"Group {group_id!r} is served twice; group ids must differ.")
                seen.add(group_id)
                before = self.row("SELECT * FROM groups WHERE group_id = ?", group_id)
                if before and self.row("SELECT 1 FROM assignments WHERE group_key = ? LIMIT 1", before["id"]):
                    for name, old, new in (
                        ("purpose", before["purpose"], purpose),
                        ("number of candidates", before["candidates"], candidates),
                    ):
                        if old != new:
                            raise ValueError(
                                f"Group {group_id!r} was given to annotators with the {name} {old} and has {new} now. "
                                "Serve what was annotated, or use another database."
                            )
                answers = json.dumps(reference) if reference is not None else None
                connection.execute(
                    "INSERT INTO groups (group_id, purpose, position, candidates, reference) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (group_id) DO UPDATE SET purpose = excluded.purpose, position = excluded.position, "
                    "candidates = excluded.candidates, reference = excluded.reference, fault = NULL, active = 1",
                    (group_id, purpose, position, candidates, answers),
                )

    def set_digest(self, group_id: str, digest: str) -> None:
        """Note what a group looks like when it is shown.

        Raises:
            ValueError: it looked different before.
        """
        with self.transaction() as connection:
            row = self.row("SELECT digest FROM groups WHERE group_id = ?", group_id)
            if row is None:
                raise ValueError(f"{self.path} knows no group {group_id!r}.")
            if row["digest"] is not None and row["digest"] != digest:
                raise ValueError(
                    f"Group {group_id!r} has another instruction or other images than when it was annotated. "
                    "Serve what was annotated, or use another database."
                )
            connection.execute("UPDATE groups SET digest = ? WHERE group_id = ?", (digest, group_id))

    def digest(self, group_id: str) -> str | None:
        """What `set_digest` noted."""
        row = self.row("SELECT digest FROM groups WHERE group_id = ?", group_id)
        return row["digest"] if row else None

    def set_fault(self, group_id: str, fault: str) -> None:
        """Note that a group cannot be shown. It is given to nobody until the app starts again."""
        with self.transaction() as connection:
            connection.execute("UPDATE groups SET fault = ? WHERE group_id = ?", (fault, group_id))

    def faults(self) -> dict[str, str]:
        """Why groups cannot be shown, by group id."""
        rows = self.rows("SELECT group_id, fault FROM groups WHERE fault IS NOT NULL ORDER BY position")
        return {row["group_id"]: row["fault"] for row in rows}

    def references(self) -> dict[str, list[dict[str, float]]]:
        """Known answers of calibration and gold groups: for each candidate the scores by dimension that are known."""
        rows = self.rows("SELECT group_id, reference FROM groups WHERE reference IS NOT NULL ORDER BY position")
        return {row["group_id"]: json.loads(row["reference"]) for row in rows}

    def has_calibration(self) -> bool:
        """Whether there are groups for calibration rounds."""
        sql = "SELECT 1 FROM groups WHERE purpose = 'calibration' AND active AND fault IS NULL LIMIT 1"
        return self.row(sql) is not None

"""Annotators and their sessions: names, and hashes of tokens and keys."""

from editreward.annotation.database.connection import Connection


class Annotators(Connection):
    """The part of the database that holds annotators and sessions."""

    def annotators(self, active: bool = False) -> dict[str, int]:
        """Number by name of all annotators, or of those who may sign in, in the order in which they were added."""
        rows = self.rows("SELECT id, name FROM annotators WHERE token_hash IS NOT NULL OR NOT ? ORDER BY id", active)
        return {row["name"]: row["id"] for row in rows}

    def add_annotator(self, name: str, token_hash: str, now: float) -> None:
        """Add an annotator, whose name must be new."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO annotators (name, token_hash, created_at) VALUES (?, ?, ?)", (name, token_hash, now)
            )

    def set_token(self, name: str, token_hash: str | None) -> None:
        """Give an annotator another token, or none. Sessions end."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM sessions WHERE annotator = (SELECT id FROM annotators WHERE name = ?)", (name,)
            )
            connection.execute("UPDATE annotators SET token_hash = ? WHERE name = ?", (token_hash, name))

    def token_hash(self, name: str) -> str | None:
        """The hash of an annotator's token; None where there is no such annotator, or who may not sign in."""
        row = self.row("SELECT token_hash FROM annotators WHERE name = ?", name)
        return row["token_hash"] if row else None

    def give_up_work(self, name: str) -> None:
        """Release an annotator's open groups, and take back proposals on which annotators differ.

        Nobody could change these any more, and a tuple is settled when all proposals are the same.
        """
        with self.transaction() as connection:
            connection.execute(
                "UPDATE assignments SET state = 'released' WHERE state = 'open' AND purpose != 'calibration' "
                "AND annotator = (SELECT id FROM annotators WHERE name = ?)",
                (name,),
            )
            connection.execute(
                "DELETE FROM proposals WHERE annotator = (SELECT id FROM annotators WHERE name = ?) "
                "AND tuple IN (SELECT tuple FROM proposals GROUP BY tuple "
                "HAVING COUNT(DISTINCT COALESCE(ranks, '')) > 1)",
                (name,),
            )

    def add_extra_round(self, name: str) -> None:
        """Let an annotator try one more calibration round."""
        with self.transaction() as connection:
            connection.execute("UPDATE annotators SET extra_rounds = extra_rounds + 1 WHERE name = ?", (name,))

    def add_session(self, name: str, key_hash: str, now: float, oldest: float) -> None:
        """Note that an annotator is signed in from `now` on, and forget sessions from before `oldest`."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE created_at < ?", (oldest,))
            connection.execute(
                "INSERT INTO sessions SELECT ?, id, ? FROM annotators WHERE name = ?", (key_hash, now, name)
            )

    def annotator_of_session(self, key_hash: str, oldest: float) -> str | None:
        """Who is signed in by a key since `oldest` or later, and may still sign in."""
        row = self.row(
            "SELECT annotators.name FROM sessions JOIN annotators ON annotators.id = sessions.annotator "
            "WHERE key_hash = ? AND sessions.created_at >= ? AND token_hash IS NOT NULL",
            key_hash,
            oldest,
        )
        return row["name"] if row else None

    def end_session(self, key_hash: str) -> None:
        """Forget a session."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE key_hash = ?", (key_hash,))

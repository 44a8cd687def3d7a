"""Who may annotate: a list of names, a secret token for each, and the keys of those who are signed in.

Tokens and keys are random and long, so a plain hash is enough to keep them unknown to who reads the database.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable

from editreward.annotation.database import Database

SESSION_DAYS = 30
LONGEST_NAME = 64


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def annotators(database: Database) -> list[str]:
    """Names of those who may sign in."""
    rows = database.rows("SELECT name FROM annotators WHERE token_hash IS NOT NULL ORDER BY id")
    return [row["name"] for row in rows]


def add_annotators(database: Database, names: Iterable[str]) -> dict[str, str]:
    """Add annotators.

    Returns:
        Token by name. It is shown this once: the database keeps its hash.

    Raises:
        ValueError: a name is there already, or is empty, too long or not printable. Nobody is added then.
    """
    tokens: dict[str, str] = {}
    with database.transaction() as connection:
        for name in names:
            if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
                raise ValueError(
                    f"{name!r} cannot be an annotator's name: use 1 to {LONGEST_NAME} characters, no blanks around."
                )
            if name in tokens or database.row("SELECT 1 FROM annotators WHERE name = ?", name):
                raise ValueError(f"There is an annotator {name!r} already; --new-token replaces a lost token.")
            tokens[name] = secrets.token_urlsafe(18)
            connection.execute(
                "INSERT INTO annotators (name, token_hash, created_at) VALUES (?, ?, ?)",
                (name, _hash(tokens[name]), time.time()),
            )
    return tokens


def new_tokens(database: Database, names: Iterable[str]) -> dict[str, str]:
    """Give annotators new tokens. Their old ones, and who is signed in by them, count no more.

    Raises:
        ValueError: there is no such annotator.
    """
    tokens = {}
    with database.transaction() as connection:
        for name in names:
            _sign_out_everywhere(database, name)
            tokens[name] = secrets.token_urlsafe(18)
            connection.execute("UPDATE annotators SET token_hash = ? WHERE name = ?", (_hash(tokens[name]), name))
    return tokens


def revoke(database: Database, names: Iterable[str]) -> None:
    """Let annotators sign in no more. Their ratings stay; groups that they left open go to others, and tuples on which
    proposals differ are left to the others.

    Raises:
        ValueError: there is no such annotator.
    """
    with database.transaction() as connection:
        for name in names:
            annotator = _sign_out_everywhere(database, name)
            connection.execute("UPDATE annotators SET token_hash = NULL WHERE id = ?", (annotator,))
            connection.execute(
                "UPDATE assignments SET state = 'released' WHERE annotator = ? AND state = 'open' "
                "AND purpose != 'calibration'",
                (annotator,),
            )
            connection.execute(  # nobody could change these any more, and a tuple is settled when all are the same
                "DELETE FROM proposals WHERE annotator = ? AND tuple IN (SELECT tuple FROM proposals GROUP BY tuple "
                "HAVING COUNT(DISTINCT COALESCE(ranks, '')) > 1)",
                (annotator,),
            )


def allow_another_round(database: Database, names: Iterable[str]) -> None:
    """Let annotators who failed all their calibration rounds try once more.

    Raises:
        ValueError: there is no such annotator.
    """
    with database.transaction() as connection:
        for name in names:
            connection.execute(
                "UPDATE annotators SET extra_rounds = extra_rounds + 1 WHERE id = ?", (_id(database, name),)
            )


def sign_in(database: Database, name: str, token: str) -> str | None:
    """Check name and token, in a time that tells nothing about how they are wrong.

    Returns:
        The key of a new session; None if name or token is wrong.
    """
    row = database.row("SELECT id, token_hash FROM annotators WHERE name = ?", name)
    expected = (row["token_hash"] if row else None) or _hash(secrets.token_urlsafe(18))
    if not hmac.compare_digest(_hash(token), expected) or row is None:
        return None
    key = secrets.token_urlsafe(32)
    with database.transaction() as connection:
        oldest = time.time() - SESSION_DAYS * 86400
        connection.execute("DELETE FROM sessions WHERE created_at < ?", (oldest,))
        connection.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hash(key), row["id"], time.time()))
    return key


def signed_in(database: Database, key: str) -> str | None:
    """Whose session a key is; None if it is nobody's or too old."""
    row = database.row(
        "SELECT annotators.name FROM sessions JOIN annotators ON annotators.id = sessions.annotator "
        "WHERE key_hash = ? AND sessions.created_at >= ? AND token_hash IS NOT NULL",
        _hash(key),
        time.time() - SESSION_DAYS * 86400,
    )
    return row["name"] if row else None


def sign_out(database: Database, key: str) -> None:
    """End a session."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM sessions WHERE key_hash = ?", (_hash(key),))


def _id(database: Database, name: str) -> int:
    row = database.row("SELECT id FROM annotators WHERE name = ?", name)
    if row is None:
        known = [row["name"] for row in database.rows("SELECT name FROM annotators ORDER BY id")]
        raise ValueError(f"There is no annotator {name!r}, only: {', '.join(known) or 'nobody'}.")
    return int(row["id"])


def _sign_out_everywhere(database: Database, name: str) -> int:
    annotator = _id(database, name)
    with database.transaction() as connection:
        connection.execute("DELETE FROM sessions WHERE annotator = ?", (annotator,))
    return annotator

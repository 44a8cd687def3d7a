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
    return list(database.annotators(active=True))


def add_annotators(database: Database, names: Iterable[str]) -> dict[str, str]:
    """Add annotators.

    Returns:
        Token by name. It is shown this once: the database keeps its hash.

    Raises:
        ValueError: a name is there already, or is empty, too long or not printable. Nobody is added then.
    """
    tokens: dict[str, str] = {}
    with database.transaction():
        for name in names:
            if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
                raise ValueError(
                    f"{name!r} cannot be an annotator's name: use 1 to {LONGEST_NAME} characters, no blanks around."
                )
            if name in database.annotators():
                raise ValueError(f"There is an annotator {name!r} already; --new-token replaces a lost token.")
            tokens[name] = secrets.token_urlsafe(18)
            database.add_annotator(name, _hash(tokens[name]), time.time())
    return tokens


def new_tokens(database: Database, names: Iterable[str]) -> dict[str, str]:
    """Give annotators new tokens. Their old ones, and who is signed in by them, count no more.

    Raises:
        ValueError: there is no such annotator.
    """
    tokens = {}
    with database.transaction():
        for name in names:
            _check_known(database, name)
            tokens[name] = secrets.token_urlsafe(18)
            database.set_token(name, _hash(tokens[name]))
    return tokens


def revoke(database: Database, names: Iterable[str]) -> None:
    """Let annotators sign in no more. Their ratings stay; groups that they left open go to others, and tuples on which
    proposals differ are left to the others.

    Raises:
        ValueError: there is no such annotator.
    """
    with database.transaction():
        for name in names:
            _check_known(database, name)
            database.set_token(name, None)
            database.give_up_work(name)


def allow_another_round(database: Database, names: Iterable[str]) -> None:
    """Let annotators who failed all their calibration rounds try once more.

    Raises:
        ValueError: there is no such annotator.
    """
    with database.transaction():
        for name in names:
            _check_known(database, name)
            database.add_extra_round(name)


def sign_in(database: Database, name: str, token: str) -> str | None:
    """Check name and token, in a time that tells nothing about how they are wrong.

    Returns:
        The key of a new session; None if name or token is wrong.
    """
    known = database.token_hash(name)
    expected = known or _hash(secrets.token_urlsafe(18))
    if not hmac.compare_digest(_hash(token), expected) or known is None:
        return None
    key = secrets.token_urlsafe(32)
    database.add_session(name, _hash(key), time.time(), oldest=_oldest_session())
    return key


def signed_in(database: Database, key: str) -> str | None:
    """Whose session a key is; None if it is nobody's or too old."""
    return database.annotator_of_session(_hash(key), oldest=_oldest_session())


def sign_out(database: Database, key: str) -> None:
    """End a session."""
    database.end_session(_hash(key))


def _oldest_session() -> float:
    return time.time() - SESSION_DAYS * 86400


def _check_known(database: Database, name: str) -> None:
    known = database.annotators()
    if name not in known:
        raise ValueError(f"There is no annotator {name!r}, only: {', '.join(known) or 'nobody'}.")

"""What annotators did, in one SQLite file: the only state of the annotation app.

The file is in WAL mode with full synchronisation. Every action is one transaction, so a process that is killed leaves
the action done or not done. A rating exists because a form was submitted: `submissions` keeps every one, `version` of
the assignment names the one that counts, and the form's own random name, unique, makes a repeated request harmless.
Annotators are told apart by ids; their tokens and sign-in keys are kept as hashes only.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from editreward.groups.protocol import LEVELS
from editreward.groups.ratings import Purpose, Rating, TupleRanking

SCHEMA_VERSION = "1"

IDLE_SECONDS = 120.0
"""A longer pause between two actions on a group counts as this long: the annotator was away."""

BUSY_SECONDS = 30.0
"""How long to wait for another process that is writing."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    token_hash TEXT,                              -- null: may not sign in
    extra_rounds INTEGER NOT NULL DEFAULT 0,      -- calibration rounds beyond the protocol's
    created_at REAL NOT NULL
);
CREATE TABLE sessions (
    key_hash TEXT PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    group_id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL CHECK (purpose IN ('work', 'calibration', 'gold')),
    position INTEGER NOT NULL,
    candidates INTEGER NOT NULL,
    reference TEXT,                               -- JSON: scores by dimension for each candidate, of known answers
    digest TEXT,                                  -- of instruction and images, once somebody has seen them
    fault TEXT,                                   -- why it cannot be shown
    active INTEGER NOT NULL DEFAULT 1             -- 0: no longer in the datasets that are served
);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    group_key INTEGER NOT NULL REFERENCES groups,
    purpose TEXT NOT NULL,
    round INTEGER NOT NULL DEFAULT 0,             -- calibration rounds count from 1
    candidate_order TEXT NOT NULL,                -- JSON: candidate shown at each place
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'submitted', 'skipped', 'released')),
    version INTEGER NOT NULL DEFAULT 0,           -- the submission that counts; 0: none yet
    seconds REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    touched_at REAL NOT NULL,
    UNIQUE (annotator, group_key, round)
);
CREATE INDEX assignments_of_group ON assignments (group_key, state);
CREATE TABLE drafts (
    assignment INTEGER NOT NULL REFERENCES assignments,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, candidate, dimension)
) WITHOUT ROWID;
CREATE TABLE submissions (
    assignment INTEGER NOT NULL REFERENCES assignments,
    version INTEGER NOT NULL,
    form TEXT NOT NULL UNIQUE,
    reason TEXT,                                  -- why the group was skipped; null: it was rated
    comment TEXT,
    seconds REAL NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (assignment, version)
) WITHOUT ROWID;
CREATE TABLE scores (
    assignment INTEGER NOT NULL,
    version INTEGER NOT NULL,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, version, candidate, dimension),
    FOREIGN KEY (assignment, version) REFERENCES submissions
) WITHOUT ROWID;
CREATE TABLE calibrations (
    annotator INTEGER NOT NULL REFERENCES annotators,
    round INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    shares TEXT NOT NULL,                         -- JSON: [exact, within one] by dimension
    finished_at REAL NOT NULL,
    PRIMARY KEY (annotator, round)
) WITHOUT ROWID;
CREATE TABLE tuples (
    id INTEGER PRIMARY KEY,
    tuple_id TEXT NOT NULL UNIQUE,
    group_id TEXT NOT NULL,
    candidates TEXT NOT NULL,                     -- JSON: indices into the group's candidates
    reason TEXT NOT NULL,
    quorum INTEGER NOT NULL,                      -- how many have to agree
    active INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE proposals (
    tuple INTEGER NOT NULL REFERENCES tuples,
    annotator INTEGER NOT NULL REFERENCES annotators,
    ranks TEXT,                                   -- JSON: rank by candidate; null: the tuple should be left out
    comment TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (tuple, annotator)
) WITHOUT ROWID;
"""

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


class Database:
    """The annotation database.

    One connection, which threads take in turns; processes may open the same file at the same time.

    Args:
        path: the file.
        create: make it if there is none.

    Raises:
        FileNotFoundError: there is no such file and `create` is false.
        ValueError: the file is no annotation database, or one of another version.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise FileNotFoundError(f"There is no annotation database {path}.")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {self.path.parent} for the annotation database.")
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            with self.transaction() as connection:
                tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
                if not tables:
                    for statement in SCHEMA.split(";\n"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))
                elif "meta" not in tables or self.meta("schema") is None:
                    raise ValueError(f"{self.path} is an SQLite file, but no annotation database.")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} cannot be used as an annotation database: {error}.") from error
        if self.meta("schema") != SCHEMA_VERSION:
            raise ValueError(f"{self.path} has version {self.meta('schema')}, and this is version {SCHEMA_VERSION}.")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what is executed inside is kept together, or undone together on an exception."""
        with self._lock:
            if self._connection.in_transaction:  # part of a larger one
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """What a query returns."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of what a query returns."""
        with self._lock:
            row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return row

    def meta(self, name: str) -> str | None:
        """A setting of the database."""
        row = self.row("SELECT value FROM meta WHERE name = ?", name)
        return row["value"] if row else None

    def set_meta(self, name: str, value: str) -> None:
        """Change a setting of the database."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # What is rated

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

    # Assignments, drafts and submissions

    def assignment(self, assignment_id: int, annotator: str) -> Assignment:
        """One of an annotator's assignments.

        Raises:
            LookupError: the annotator has no such assignment.
        """
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

    # What came of it

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

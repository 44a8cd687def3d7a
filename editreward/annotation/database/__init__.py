"""What annotators did, in one SQLite file: the only state of the annotation app. All SQL is in this folder.

    schema          the tables and their migrations
    connection      opening, transactions
    groups          terms and groups that are served
    annotators      annotators and sessions
    assignments     who was given what; drafts and submissions
    calibrations    calibration rounds
    tuples          tuples to be ranked, and proposals
    results         ratings, skipped groups, progress

The file is in WAL mode with full synchronisation. Every action is one transaction, so a process that is killed leaves
the action done or not done. A rating exists because a form was submitted: `submissions` keeps every one, `version` of
the assignment names the one that counts, and the form's own random name, unique, makes a repeated request harmless.
Annotators are told apart by ids; their tokens and sign-in keys are kept as hashes only.
"""

from editreward.annotation.database.annotators import Annotators
from editreward.annotation.database.assignments import IDLE_SECONDS, Assignment, Outcome, State
from editreward.annotation.database.calibrations import Calibration, Calibrations
from editreward.annotation.database.connection import BusyError, UnsavedError
from editreward.annotation.database.results import Progress, Results
from editreward.annotation.database.tuples import Tuples

__all__ = [
    "IDLE_SECONDS",
    "Assignment",
    "BusyError",
    "Calibration",
    "Database",
    "Outcome",
    "Progress",
    "State",
    "UnsavedError",
]


class Database(Annotators, Calibrations, Results, Tuples):
    """The annotation database. Arguments as for `Connection`."""

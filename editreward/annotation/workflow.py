"""What an annotator sees and does, page by page, without the user interface."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from editreward.annotation.assignment import (
    CalibrationResult,
    Policy,
    calibration_result,
    finish_calibration,
    may_work,
    next_assignment,
    start_calibration,
)
from editreward.annotation.database import Assignment, Database, Outcome, Progress
from editreward.annotation.store import GroupStore
from editreward.groups.protocol import Protocol, check_comment
from editreward.groups.ratings import Purpose

NOTICES: dict[Outcome, str] = {
    "saved": "Saved.",
    "repeated": "Saved.",
    "stale": "Not saved: this group was saved in another tab or window. This is what was saved there.",
    "taken": "Not saved: this group has gone to another annotator in the meantime.",
    "closed": "Not saved: the calibration round is over, and its answers can be changed no more.",
}

SEEN = "You see what a scorer says of this group: your rating stays as it was saved."


@dataclass(frozen=True)
class Page:
    """What is on the screen.

    Args:
        kind: "rate": a group; "calibration": the result of a round, or that one is to be started; "finished": nothing
            is left to do.
        progress: how far the annotator is.
        left: ratings of groups that all annotators together still have to give.
        notice: what happened to the last action; empty if there is nothing to say.
        assignment: the group to rate, with `kind` "rate".
        form: name of the form, new at every showing.
        instruction: the group's instruction.
        sources: number of source images.
        images_key: for the addresses of the images (`GroupStore.images_key`).
        scores: score by (place on the page, dimension), as marked so far.
        read_only: the group can be looked at and not changed.
        reference: known answers by place, once the annotator may see them.
        reasons: by place, what a scorer says of the candidates; empty until the annotator has rated them.
        place, places: which of the annotator's groups this is, from 1, and how many they have.
        result: the last calibration round, with `kind` "calibration" and where one was finished.
        round_size: groups in a calibration round.
    """

    kind: Literal["rate", "calibration", "finished"]
    progress: Progress
    left: int = 0
    notice: str = ""
    assignment: Assignment | None = None
    form: str = ""
    instruction: str = ""
    sources: int = 0
    images_key: str = ""
    scores: dict[tuple[int, str], int] = field(default_factory=dict)
    read_only: bool = False
    reference: list[dict[str, float]] | None = None
    reasons: list[str] = field(default_factory=list)
    place: int = 0
    places: int = 0
    result: CalibrationResult | None = None
    round_size: int = 0


class Workflow:
    """The steps of annotation. Every method takes the name of the annotator who is signed in, and checks that what is
    asked for is theirs.

    Args:
        database: where everything is kept.
        store: the groups.
        protocol: what is asked.
        policy: how groups are given out.
        ratings_per_group: to how many annotators each group goes.
        show_reasons: show what a scorer said of the candidates (`rationale_by`) to who has rated them, and goes back.
            The rating can then be changed no more: it is not to be the scorer's.

    Raises:
        ValueError: the database belongs to other groups or another protocol, or a calibration or gold group has no
            known answers or a broken image.
    """

    def __init__(
        self,
        database: Database,
        store: GroupStore,
        protocol: Protocol,
        policy: Policy,
        ratings_per_group: int = 1,
        show_reasons: bool = False,
    ) -> None:
        self.database, self.store, self.protocol, self.policy = database, store, protocol, policy
        self.show_reasons = show_reasons
        entries: list[tuple[str, Purpose, int, list[dict[str, float]] | None]] = []
        for group_id, purpose in store.purposes.items():
            reference = None
            if purpose != "work":
                store.check(group_id)
                reference = store.reference(group_id, protocol.names)
            entries.append((group_id, purpose, store.candidates[group_id], reference))
        with database.transaction():
            database.set_terms(protocol.names, ratings_per_group)
            database.set_groups(entries)

    def current(self, annotator: str, notice: str = "") -> Page:
        """Where the annotator left off, or else the next group."""
        while True:
            assignment = next_assignment(self.database, annotator, self.policy)
            if assignment is None:
                # Of a round that was rated just before a kill, or whose last groups are no longer served.
                if finish_calibration(self.database, annotator, self.policy) is not None:
                    continue
                kind: Literal["calibration", "finished"] = "finished"
                if self.database.has_calibration() and not may_work(self.database, annotator, self.policy):
                    kind = "calibration"
                return self._page(annotator, kind, notice)
            if assignment.purpose == "work" and not self._is_shown(assignment.group_id):
                continue
            return self.show(annotator, assignment.id, notice)

    def show(self, annotator: str, assignment_id: int, notice: str = "") -> Page:
        """One of the annotator's groups.

        Raises:
            LookupError: the annotator has no such assignment, or its group is no longer served.
            ValueError: the group has changed since it was annotated.
        """
        assignment = self.database.assignment(assignment_id, annotator)
        group_id = assignment.group_id
        self.database.set_digest(group_id, self.store.digest(group_id))
        closed = self.database.is_closed(assignment)
        if not closed:
            self.database.touch(assignment.id, counts=False)
        mine = self._shown(annotator)
        reference = self.database.references().get(group_id) if closed else None
        scores = self.database.scores(assignment.id)
        reasons = self._reasons(assignment)
        return Page(
            kind="rate",
            progress=self.database.progress(annotator)[0],
            left=self.database.work_left(),
            notice=notice,
            assignment=assignment,
            form=secrets.token_urlsafe(12),
            instruction=self.store.instruction(group_id),
            sources=self.store.sources(group_id),
            images_key=self.store.images_key(group_id, assignment.order),
            scores={
                (place, dimension): scores[candidate, dimension]
                for place, candidate in enumerate(assignment.order)
                for dimension in self.protocol.names
                if (candidate, dimension) in scores
            },
            read_only=closed or any(reasons),
            reference=[reference[candidate] for candidate in assignment.order] if reference else None,
            reasons=reasons,
            place=1 + [other.id for other in mine].index(assignment.id),
            places=len(mine),
        )

    def _reasons(self, assignment: Assignment) -> list[str]:
        """What a scorer says of the candidates, by place; empty where the annotator may not see it."""
        if not self.show_reasons or assignment.purpose != "work" or assignment.state != "submitted":
            return []
        reasons = self.store.reasons(assignment.group_id)
        return [reasons[candidate] for candidate in assignment.order] if any(reasons) else []

    def save_draft(
        self, annotator: str, assignment_id: int, version: int, place: int, dimension: str, score: int
    ) -> bool:
        """Keep a mark on the page. As `Database.save_draft`, with the place on the page for the candidate."""
        assignment = self.database.assignment(assignment_id, annotator)
        candidate = _candidate(assignment, place)
        if any(self._reasons(assignment)):
            return False
        return self.database.save_draft(assignment_id, annotator, version, candidate, dimension, score)

    def submit(
        self,
        annotator: str,
        assignment_id: int,
        version: int,
        form: str,
        scores: Mapping[tuple[int, str], int | None],
    ) -> Page:
        """Save the rating of a group and go on. Scores are by (place on the page, dimension), None if not marked.

        Raises:
            LookupError: the annotator has no such assignment.
            ValueError: a score is missing: the message names the places by their letters.
        """
        assignment = self.database.assignment(assignment_id, annotator)
        if any(self._reasons(assignment)):
            return self.show(annotator, assignment.id, SEEN)
        titles = {dimension.name: dimension.title for dimension in self.protocol.dimensions}
        missing = [
            f"{letter(place)} ({titles[dimension]})"
            for place in range(len(assignment.order))
            for dimension in self.protocol.names
            if scores.get((place, dimension)) is None
        ]
        if missing:
            raise ValueError(f"Not saved yet: please score {', '.join(missing)}.")
        outcome = self.database.submit(
            assignment_id,
            annotator,
            version,
            form,
            {
                (_candidate(assignment, place), dimension): score
                for (place, dimension), score in scores.items()
                if score is not None
            },
        )
        return self._after(annotator, assignment, outcome)

    def skip(
        self, annotator: str, assignment_id: int, version: int, form: str, reason: str, comment: str = ""
    ) -> Page:
        """Skip a group and go on.

        Raises:
            LookupError: the annotator has no such assignment.
            ValueError: the reason is none of the protocol's, or the group belongs to the calibration round.
        """
        if reason not in self.protocol.skip_reasons:
            raise ValueError("Not skipped yet: please choose a reason.")
        check_comment(comment)
        assignment = self.database.assignment(assignment_id, annotator)
        if any(self._reasons(assignment)):
            return self.show(annotator, assignment.id, SEEN)
        outcome = self.database.skip(assignment_id, annotator, version, form, reason, comment)
        return self._after(annotator, assignment, outcome)

    def start_round(self, annotator: str) -> Page:
        """Start a calibration round, if the annotator may."""
        start_calibration(self.database, annotator, self.policy)
        return self.current(annotator)

    def back(self, annotator: str, assignment_id: int | None) -> Page:
        """The group before this one; the last one, if there is none on the page."""
        mine = [other.id for other in self._shown(annotator)]
        place = mine.index(assignment_id) if assignment_id in mine else len(mine)
        return self.show(annotator, mine[place - 1]) if place > 0 else self.current(annotator)

    def forward(self, annotator: str, assignment_id: int | None) -> Page:
        """The group after this one; where the annotator left off, if it is the last."""
        mine = [other.id for other in self._shown(annotator)]
        place = mine.index(assignment_id) + 1 if assignment_id in mine else len(mine)
        return self.show(annotator, mine[place]) if place < len(mine) else self.current(annotator)

    def image(self, annotator: str, assignment_id: int, kind: str, number: int) -> tuple[bytes, str]:
        """An image of one of the annotator's groups, its content and media type; candidates by place on the page.

        Raises:
            LookupError: there is no such image, or not for this annotator.
            ValueError: the image cannot be read.
        """
        assignment = self.database.assignment(assignment_id, annotator)
        index = _candidate(assignment, number) if kind == "candidate" else number
        return self.store.image(assignment.group_id, kind, index)

    def _after(self, annotator: str, assignment: Assignment, outcome: Outcome) -> Page:
        if outcome in ("stale", "taken", "closed"):
            return self.show(annotator, assignment.id, NOTICES[outcome])
        if assignment.purpose == "calibration":
            result = finish_calibration(self.database, annotator, self.policy)
            if result is not None:
                return self._page(annotator, "calibration", "", result)
        return self.current(annotator, NOTICES[outcome])

    def _page(
        self,
        annotator: str,
        kind: Literal["calibration", "finished"],
        notice: str,
        result: CalibrationResult | None = None,
    ) -> Page:
        return Page(
            kind=kind,
            progress=self.database.progress(annotator)[0],
            left=self.database.work_left(),
            notice=notice,
            result=result or calibration_result(self.database, annotator, self.policy),
            places=len(self._shown(annotator)),
            round_size=min(self.policy.terms.groups, list(self.store.purposes.values()).count("calibration")),
        )

    def _shown(self, annotator: str) -> list[Assignment]:
        """The annotator's assignments that can still be looked at."""
        faults = self.database.faults()
        return [
            assignment
            for assignment in self.database.assignments(annotator)
            if assignment.group_id in self.store and assignment.group_id not in faults
        ]

    def _is_shown(self, group_id: str) -> bool:
        """Whether a group's images are all there; if not, note why and give it to nobody."""
        try:
            self.store.check(group_id)
        except ValueError as error:
            self.database.set_fault(group_id, str(error))
            return False
        return True


def letter(place: int) -> str:
    """Name of a place on the page: A to Z, then AA, AB and so on."""
    name = ""
    place += 1
    while place:
        place, digit = divmod(place - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def _candidate(assignment: Assignment, place: int) -> int:
    if not 0 <= place < len(assignment.order):
        raise LookupError(f"Assignment {assignment.id} has no candidate at place {place}.")
    return assignment.order[place]

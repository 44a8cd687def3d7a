"""Adjudication: annotators rank a benchmark tuple jointly, seeing each other's scores and proposals.

Everybody who takes part proposes a ranking, and may change it at any time until it is settled: when as many as the
quorum asks have proposed, and all proposals are the same. The same goes for leaving a tuple out.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

from editreward.annotation.database import Database
from editreward.annotation.store import GroupStore
from editreward.groups.protocol import check_comment
from editreward.groups.rating_files import Name
from editreward.validation import read_json_lines

LEAST_QUORUM = 2


@dataclass(frozen=True)
class DisputedTuple:
    """A tuple to be ranked, a line of the file that `editreward data build-bench` writes.

    Args:
        tuple_id: its name.
        group_id: the group that the candidates are from.
        candidates: indices of the candidates in the group's row.
        reason: why it needs a decision.
    """

    tuple_id: str
    group_id: str
    candidates: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Proposal:
    """What one annotator proposes.

    Args:
        annotator: name.
        ranks: rank of each candidate, 1 is best; None: leave the tuple out.
        comment: why.
    """

    annotator: str
    ranks: tuple[int, ...] | None
    comment: str


@dataclass(frozen=True)
class TuplePage:
    """What is on the screen in the adjudication round.

    Args:
        disputed: the tuple; None if there are none.
        instruction: its group's instruction.
        sources: number of source images.
        images_key: for the addresses of the images (`GroupStore.images_key`).
        scores: for each candidate the scores by dimension that annotators gave it, by annotator.
        proposals: of all annotators so far.
        quorum: how many have to agree.
        settled: whether they do.
        read_only: settled without the annotator who looks at it.
        place, places: which tuple this is, from 1, of how many.
        open: how many tuples are not settled.
        waiting: how many tuples wait for this annotator.
        notice: what happened to the last action.
    """

    disputed: DisputedTuple | None
    instruction: str = ""
    sources: int = 0
    images_key: str = ""
    scores: tuple[dict[str, dict[str, float]], ...] = ()
    proposals: tuple[Proposal, ...] = ()
    quorum: int = LEAST_QUORUM
    settled: bool = False
    read_only: bool = False
    place: int = 0
    places: int = 0
    open: int = 0
    waiting: int = 0
    notice: str = ""


class TupleLine(BaseModel):
    """A line of the file of tuples; other entries are left alone."""

    tuple_id: Name
    group_id: Name
    candidates: list[Annotated[int, Field(strict=True, ge=0)]]
    reason: Name


def read_tuples(path: str | os.PathLike[str], store: GroupStore) -> list[DisputedTuple]:
    """Read tuples from a JSON-lines file: `tuple_id`, `group_id`, `candidates` and `reason`.

    Raises:
        ValueError: a line is no tuple of one of the groups in `store`; file and line are named.
        FileNotFoundError: there is no such file.
    """
    tuples: dict[str, DisputedTuple] = {}
    for where, line in read_json_lines(path, TupleLine):
        if line.group_id not in store:
            raise ValueError(f"{where}: the dataset has no group {line.group_id!r}.")
        last = store.candidates[line.group_id] - 1
        if len(set(line.candidates)) < max(2, len(line.candidates)) or not 0 <= max(line.candidates) <= last:
            raise ValueError(
                f"{where}: candidates must be a list of two or more different indices from 0 to {last}, "
                f"not {line.candidates!r}."
            )
        if line.tuple_id in tuples:
            raise ValueError(f"{where}: tuple {line.tuple_id!r} is there twice.")
        tuples[line.tuple_id] = DisputedTuple(line.tuple_id, line.group_id, tuple(line.candidates), line.reason)
    if not tuples:
        raise ValueError(f"{path} has no tuples.")
    return list(tuples.values())


def check_ranks(ranks: Sequence[object]) -> list[int]:
    """Check a ranking: rank 1 is best, equal ranks are ties, which only two candidates may have.

    Returns:
        The ranks.

    Raises:
        ValueError: it is no ranking.
    """
    whole = [rank for rank in ranks if isinstance(rank, int) and not isinstance(rank, bool)]
    if len(whole) < len(ranks):
        raise ValueError("Not saved yet: please give every candidate a rank.")
    if sorted(whole) not in ([1, 1], list(range(1, len(whole) + 1))):
        ties = "1 and 1 for a tie, or 1 and 2" if len(ranks) == 2 else f"each of 1 to {len(ranks)} once, without ties"
        raise ValueError(f"Not saved yet: the ranks must be {ties}.")
    return whole


class Adjudication:
    """The adjudication round.

    Args:
        database: where proposals are kept.
        store: the groups.
        tuples: what is to be ranked.
        dimensions: names of what candidates were scored on.
        quorum: how many have to agree; default: as many as rated the tuple's candidates, at least two.

    Raises:
        ValueError: the quorum is less than 1, a tuple has an image that cannot be shown, or is not what it was when
            somebody ranked it.
    """

    def __init__(
        self,
        database: Database,
        store: GroupStore,
        tuples: Sequence[DisputedTuple],
        dimensions: Sequence[str],
        quorum: int | None = None,
    ) -> None:
        if quorum is not None and quorum < 1:
            raise ValueError(f"at least 1 annotator has to decide, not {quorum}")
        self.database, self.store, self.dimensions = database, store, list(dimensions)
        self.tuples = list(tuples)
        self._scores = self._known_scores()
        for group_id in {entry.group_id for entry in self.tuples}:
            store.check(group_id)
        database.serve_tuples(
            [
                (entry.tuple_id, entry.group_id, entry.candidates, entry.reason, quorum or self._raters(entry))
                for entry in self.tuples
            ]
        )

    def _raters(self, entry: DisputedTuple) -> int:
        """How many annotators rated a tuple, but at least as many as a decision needs."""
        return max(LEAST_QUORUM, len({name for scores in self._tuple_scores(entry) for name in scores}))

    def _known_scores(self) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
        """Scores by (group, candidate) and annotator: the dataset's annotations, and over them the database's."""
        scores: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
        for group_id in {entry.group_id for entry in self.tuples}:
            for candidate, annotations in enumerate(self.store.annotations(group_id)):
                for annotation in annotations:
                    scores.setdefault((group_id, candidate), {})[annotation["annotator"]] = {
                        name: annotation[name] for name in self.dimensions if annotation.get(name) is not None
                    }
        for rating in self.database.ratings():
            scores.setdefault((rating.group_id, rating.candidate), {})[rating.annotator] = dict(rating.scores)
        return scores

    def _tuple_scores(self, entry: DisputedTuple) -> tuple[dict[str, dict[str, float]], ...]:
        return tuple(self._scores.get((entry.group_id, candidate), {}) for candidate in entry.candidates)

    def current(self, annotator: str, notice: str = "") -> TuplePage:
        """The first tuple that waits for the annotator, or else the first that is not settled, or else the last."""
        if not self.tuples:
            return TuplePage(None)
        states = self._states()
        places = range(len(self.tuples))
        waiting = [place for place in places if states[place].waits_for(annotator)]
        unsettled = [place for place in places if not states[place].settled]
        return self.show(annotator, [*waiting, *unsettled, len(self.tuples) - 1][0], notice)

    def show(self, annotator: str, place: int, notice: str = "") -> TuplePage:
        """The tuple at a place, from 0; places beyond the ends are the ends."""
        place = min(max(place, 0), len(self.tuples) - 1)
        entry, states = self.tuples[place], self._states()
        state = states[place]
        return TuplePage(
            disputed=entry,
            instruction=self.store.instruction(entry.group_id),
            sources=self.store.sources(entry.group_id),
            images_key=self.store.images_key(entry.group_id, entry.candidates),
            scores=self._tuple_scores(entry),
            proposals=state.proposals,
            quorum=state.quorum,
            settled=state.settled,
            read_only=state.closed_to(annotator),
            place=place + 1,
            places=len(self.tuples),
            open=sum(not other.settled for other in states),
            waiting=sum(other.waits_for(annotator) for other in states),
            notice=notice,
        )

    def propose(self, annotator: str, place: int, ranks: Sequence[int | None] | None, comment: str = "") -> TuplePage:
        """Propose a ranking, or with None to leave the tuple out; it replaces what the annotator proposed before.

        Returns:
            The page to go on with: the next tuple that waits for the annotator, or this one if others settled it.

        Raises:
            ValueError: the ranks are no ranking, or a tuple is to be left out without a comment.
            LookupError: there is no such tuple or annotator.
        """
        if not 0 <= place < len(self.tuples):
            raise LookupError(f"There is no tuple at place {place}.")
        check_comment(comment)
        entry = self.tuples[place]
        ranking: list[int] | None = None
        if ranks is not None:
            if len(ranks) != len(entry.candidates):
                raise LookupError(
                    f"Tuple {entry.tuple_id!r} has {len(entry.candidates)} candidates, not {len(ranks)}."
                )
            ranking = check_ranks(ranks)
        elif not comment.strip():
            raise ValueError("Not saved yet: please say in the comment why the tuple should be left out.")
        with self.database.transaction():
            if self._states()[place].closed_to(annotator):
                return self.show(annotator, place, "Not saved: the others have settled this tuple.")
            if not self.database.propose(annotator, entry.tuple_id, ranking, comment.strip(), time.time()):
                raise LookupError(f"There is no annotator {annotator!r}.")
        return self.current(annotator, "Saved.")

    def image(self, place: int, kind: str, number: int) -> tuple[bytes, str]:
        """An image of a tuple, its content and media type; candidates as they stand in the tuple.

        Raises:
            LookupError: there is no such image.
        """
        if not 0 <= place < len(self.tuples):
            raise LookupError(f"There is no tuple at place {place}.")
        entry = self.tuples[place]
        if kind == "candidate":
            if not 0 <= number < len(entry.candidates):
                raise LookupError(f"Tuple {entry.tuple_id!r} has no candidate {number}.")
            number = entry.candidates[number]
        return self.store.image(entry.group_id, kind, number)

    def _states(self) -> list["_State"]:
        """How far each tuple is."""
        quorums: dict[str, int] = {}
        proposals: dict[str, list[Proposal]] = {}
        for row in self.database.proposals():
            quorums[row["tuple_id"]] = row["quorum"]
            if row["name"] is not None:
                ranks = tuple(json.loads(row["ranks"])) if row["ranks"] else None
                proposals.setdefault(row["tuple_id"], []).append(Proposal(row["name"], ranks, row["comment"]))
        return [_State(quorums[entry.tuple_id], tuple(proposals.get(entry.tuple_id, ()))) for entry in self.tuples]


@dataclass(frozen=True)
class _State:
    """How far a tuple is."""

    quorum: int
    proposals: tuple[Proposal, ...]

    @property
    def settled(self) -> bool:
        """Whether enough annotators have proposed, and all of them the same."""
        return len(self.proposals) >= self.quorum and len({proposal.ranks for proposal in self.proposals}) == 1

    def closed_to(self, annotator: str) -> bool:
        """Whether others have settled it."""
        return self.settled and all(proposal.annotator != annotator for proposal in self.proposals)

    def waits_for(self, annotator: str) -> bool:
        """Whether it is not settled and the annotator has not proposed anything."""
        return not self.settled and all(proposal.annotator != annotator for proposal in self.proposals)

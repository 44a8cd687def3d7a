"""Several scorers as one: the mean of what they say, where it can be compared."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from configuration_editreward import is_number
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Scorer, Unscored
from editreward.scorers.fingerprints import fingerprint_of
from editreward.scorers.registry import check_answers


@dataclass(frozen=True)
class Standardisation:
    """How a scorer's rewards are distributed: what makes those of scorers of different scales comparable.

    Attributes:
        mean, std: of its rewards on a sample of edits; `std` is positive.

    Raises:
        ValueError: they are no such numbers.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_number(value):
                raise ValueError(f"`{name}` of a standardisation must be a number, not {value!r}.")
        if not self.std > 0:
            raise ValueError(f"The standard deviation of a standardisation must be positive, not {self.std}.")


def standardisation_of(scorer: Scorer, groups: Sequence[EditGroup]) -> Standardisation:
    """Measure a scorer's standardisation on a sample of groups, the same for all members of an ensemble.

    Raises:
        ValueError: fewer than two edits could be scored, or all got the same reward.
    """
    answers = [answer for answer in scorer(groups) if isinstance(answer, GroupScores)]
    rewards = [score.reward for answer in answers for score in answer.scored.values()]
    if len(rewards) < 2:
        raise ValueError(f"{scorer.name} scored {len(rewards)} edits of the sample; a spread needs two or more.")
    return Standardisation(statistics.fmean(rewards), statistics.stdev(rewards))


class EnsembleScorer:
    """The mean of several scorers.

    With a standardisation the reward is the mean of the members' standardised rewards, and there are no dimensions.
    Without one all members must have the same scale: then dimensions that all have are averaged, and the reward is the
    mean over these. Standard deviations are those between the members.

    Args:
        members: two scorers or more.
        standardisation: of each member's rewards, in their order.

    Raises:
        ValueError: there are fewer than two members, they have different scales or no scale and there is no
            standardisation, or they share no dimension.
    """

    def __init__(self, members: Sequence[Scorer], standardisation: Sequence[Standardisation] | None = None) -> None:
        if len(members) < 2:
            raise ValueError(f"An ensemble has two members or more, not {len(members)}.")
        if standardisation is not None and len(standardisation) != len(members):
            raise ValueError(f"There are {len(standardisation)} standardisations for {len(members)} members.")
        self.members, self.standardisation = list(members), standardisation
        shared = [set(member.dimensions) for member in members]
        self.dimensions = tuple(n for n in members[0].dimensions if n in set.intersection(*shared))
        self.scale = members[0].scale if len({member.scale for member in members}) == 1 else None
        self.calibrated = self.scale is not None and all(member.calibrated for member in members)
        if standardisation is not None:  # only rewards are averaged, and have no scale
            self.dimensions, self.scale, self.calibrated = (), None, False
        self.name = "mean of " + ", ".join(member.name for member in members)
        if standardisation is None and self.scale is None:
            scales = ", ".join(f"{member.name}: {member.scale or 'none'}" for member in members)
            raise ValueError(
                f"Scores of different scales cannot be averaged ({scales}). Give a `standardisation` of each member "
                "(docs/scoring.md), or calibrate the models."
            )
        if standardisation is None and not self.dimensions:
            raise ValueError(f"{self.name}: the members share no dimension, so there is nothing to average.")
        self.fingerprint = fingerprint_of(
            scorer="ensemble",
            members=[member.fingerprint for member in members],
            standardisation=None if standardisation is None else [asdict(one) for one in standardisation],
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the members say now."""
        return tuple(dict.fromkeys(note for member in self.members for note in member.notes))

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does. What a member cannot score, the ensemble cannot either."""
        given = []
        for member in self.members:
            answers = member(groups)
            check_answers(member, groups, answers)
            given.append(answers)
        return [self._group(answers) for answers in zip(*given, strict=True)]

    def _group(self, answers: Sequence[GroupScores | Unscored]) -> GroupScores | Unscored:
        found = []
        for answer in answers:
            if isinstance(answer, Unscored):
                return answer
            found.append(answer.candidates)
        return GroupScores(tuple(self._candidate(candidates) for candidates in zip(*found, strict=True)))

    def _candidate(self, scores: Sequence[CandidateScore | Unscored]) -> CandidateScore | Unscored:
        good: list[CandidateScore] = []
        for score in scores:
            if isinstance(score, Unscored):
                return score
            good.append(score)
        if self.standardisation is not None:
            rewards = [(s.reward - one.mean) / one.std for s, one in zip(good, self.standardisation, strict=True)]
            return CandidateScore({}, statistics.fmean(rewards), statistics.pstdev(rewards), _reasons(good))
        means = {name: [score.dimensions[name].mean for score in good] for name in self.dimensions}
        dimensions = {
            name: DimensionScore(statistics.fmean(values), statistics.pstdev(values), self.calibrated)
            for name, values in means.items()
        }
        overall = [statistics.fmean(values) for values in zip(*means.values(), strict=True)]
        return CandidateScore(dimensions, statistics.fmean(overall), statistics.pstdev(overall), _reasons(good))


def _reasons(scores: Sequence[CandidateScore]) -> tuple[str, ...]:
    return tuple(reason for score in scores for reason in score.reasons)

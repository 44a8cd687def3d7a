"""The interface that everything shares: a `Scorer` rates the edits of groups, whatever it is made of.

Producers of scores (reward models, baselines, ensembles, a user's function) implement it; consumers (`score`,
datasets, benchmarks, robustness, the demo, the Space) take it, and nothing else of them. Judges of pairs have
`PairwiseJudge`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from editreward.groups.group import EditGroup, EditPair
from editreward.groups.scores import GroupScores, Unscored


@runtime_checkable
class Scorer(Protocol):
    """Rates every candidate of a group.

    Attributes:
        name: what to call it in reports.
        fingerprint: a text that differs whenever its answers may differ; answers are kept under it.
        dimensions: names of what it scores apart from the overall score; may be empty.
        scale: lowest and highest score of a dimension; None where scores have no scale.
        calibrated: whether the dimensions are on the scale of people's ratings.
        notes: what a reader of its scores must know.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dimensions(self) -> tuple[str, ...]: ...
    @property
    def scale(self) -> tuple[float, float] | None: ...
    @property
    def calibrated(self) -> bool: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def __call__(self, groups: Sequence[EditGroup]) -> Sequence[GroupScores | Unscored]:
        """Score a batch of groups, in the order given. The answer to a group must not depend on the others.

        A candidate that cannot be scored is an `Unscored` in its `GroupScores`; a group whose source or instruction
        failed is an `Unscored` itself.
        """
        ...


@runtime_checkable
class PairwiseJudge(Protocol):
    """Compares two edits that it sees at once. `name` and `fingerprint` as for a `Scorer`."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...

    def compare(self, pairs: Sequence[EditPair]) -> Sequence[float | Unscored]:
        """For each pair by how much the first edit is better: negative if the second is, 0 for a tie."""
        ...

"""How scores become rewards: named options, one file that a run can log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from editreward.files import atomic_file
from editreward.groups import CandidateScore, GroupScores
from editreward.scorers.ensemble import Standardisation

COMBINE = ("mean", "minimum", "lower")
"""How the values of several scorers become one; see `Ensemble`."""

_STRICT = {"extra": "forbid", "allow_inf_nan": False}  # for pydantic, which reads the file


@dataclass(frozen=True)
class Gate:
    """A floor in one dimension: below it an edit gets a fixed reward, however good the rest is.

    Attributes:
        dimension: whose mean is looked at, of the first scorer.
        floor: the least mean that passes.
        value: the reward of an edit that does not pass.
    """

    __pydantic_config__ = _STRICT

    dimension: str
    floor: float
    value: float = 0.0


@dataclass(frozen=True)
class Ensemble:
    """Several scorers as one reward.

    Attributes:
        combine: `mean`; `minimum`; or `lower`, the mean minus `k` standard deviations between the scorers.
        k: see `combine`.
        standardisation: mean and standard deviation of each scorer's values, in their order: values are made
            (value - mean) / std first. Needed where scorers have no common scale.
    """

    __pydantic_config__ = _STRICT

    combine: str = "mean"
    k: float = 1.0
    standardisation: tuple[Standardisation, ...] | None = None

    def __post_init__(self) -> None:
        if self.combine not in COMBINE:
            raise ValueError(f"`combine` is {self.combine!r}; choose from {', '.join(COMBINE)}.")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """One value per candidate.

        Args:
            values (`np.ndarray` of shape `(scorers, candidates)`): values of each scorer.
        """
        if self.standardisation is not None:
            mean, std = (np.array([[getattr(one, name)] for one in self.standardisation]) for name in ("mean", "std"))
            values = (values - mean) / std
        if self.combine == "minimum":
            lowest: np.ndarray = values.min(axis=0)
            return lowest
        average: np.ndarray = values.mean(axis=0)
        return average if self.combine == "mean" else average - self.k * values.std(axis=0)


@dataclass(frozen=True)
class Shaping:
    """What becomes of a group's scores, in this order:

    1. Each scorer's value of an edit: its `reward`; or, with `dimension_weights` w, sum of w_d mean_d, whose variance
       is the sum of w_d^2 std_d^2. With `lower_bound` k: value - k std.
       With `win_rate`, in place of all that: the mean over the other edits of the group of the probability to be
       preferred to it, as the scorer computes it.
    2. `ensemble`: the scorers' values become one.
    3. `scale` x value + `offset`.
    4. `clip` to a lowest and a highest reward.
    5. `gate`: an edit below a floor in a dimension gets the gate's value.

    Attributes:
        dimension_weights: by dimension; a dimension that is not named has no weight.
        lower_bound: standard deviations to subtract, 0 or more.
        win_rate: see above.
        ensemble: needed for several scorers.
        scale, offset, clip, gate: see above.
    """

    __pydantic_config__ = _STRICT

    dimension_weights: dict[str, float] | None = None
    lower_bound: float = 0.0
    win_rate: bool = False
    ensemble: Ensemble | None = None
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float] | None = None
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.lower_bound < 0:
            raise ValueError(f"`lower_bound` is {self.lower_bound:g}; it must not be negative.")
        if self.dimension_weights is not None and not any(self.dimension_weights.values()):
            raise ValueError("`dimension_weights` are all zero: every edit would get the same reward.")
        if self.win_rate and (self.dimension_weights is not None or self.lower_bound):
            raise ValueError("`win_rate` replaces `dimension_weights` and `lower_bound`: give one or the other.")
        if self.scale == 0:
            raise ValueError("`scale` is 0: every edit would get the same reward.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"`clip` goes from {self.clip[0]:g} to {self.clip[1]:g}; give the lower number first.")

    @classmethod
    def read(cls, path: str | Path) -> "Shaping":
        """Read a file that `save` wrote, or a person. Needs pydantic and PyYAML.

        Raises:
            ValueError: something in it is unknown or wrong; file and entry are named.
        """
        from editreward.validation import read_yaml

        return read_yaml(path, cls)

    def to_dict(self) -> dict[str, object]:
        """All options as plain data, to be logged with a run."""
        plain = asdict(self)
        plain["clip"] = None if self.clip is None else list(self.clip)
        if self.ensemble is not None and self.ensemble.standardisation is not None:
            plain["ensemble"]["standardisation"] = [asdict(one) for one in self.ensemble.standardisation]
        return plain

    def save(self, path: str | Path) -> None:
        """Write the options as YAML. Needs PyYAML."""
        import yaml

        with atomic_file(Path(path)) as part:
            part.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    def check(self, dimensions: Sequence[tuple[str, ...]], scales: Sequence[tuple[float, float] | None]) -> None:
        """Be sure that the options fit the scorers.

        Args:
            dimensions, scales: of each scorer.

        Raises:
            ValueError: they do not; the message names the option.
        """
        wanted = {*(self.dimension_weights or {})}
        for names in dimensions:
            if missing := sorted(wanted - set(names)):
                known = ", ".join(names) or "none"
                raise ValueError(f"`dimension_weights` names {missing[0]!r}, which is no dimension here: {known}.")
        if self.gate is not None and self.gate.dimension not in dimensions[0]:
            known = ", ".join(dimensions[0]) or "none"
            raise ValueError(f"`gate` names {self.gate.dimension!r}, which is no dimension of the scorer: {known}.")
        self._check_ensemble(len(dimensions), scales)

    def _check_ensemble(self, count: int, scales: Sequence[tuple[float, float] | None]) -> None:
        if (count > 1) != (self.ensemble is not None):
            raise ValueError(
                f"There is {count} scorer; `ensemble` is for several."
                if count == 1
                else f"There are {count} scorers; say in `ensemble` how they become one reward."
            )
        if self.ensemble is None:
            return
        given = self.ensemble.standardisation
        if given is not None and len(given) != count:
            raise ValueError(f"`ensemble` has {len(given)} standardisations for {count} scorers.")
        if given is None and not self.win_rate and (None in scales or len(set(scales)) > 1):
            raise ValueError("Scorers without a common scale need `standardisation` in `ensemble` (docs/rewards.md).")

    def __call__(self, answers: Sequence[GroupScores]) -> tuple[np.ndarray, dict[int, str]]:
        """Rewards of a group's candidates.

        Args:
            answers: of each scorer, all to the same group.

        Returns:
            Rewards of shape `(candidates,)`, float64 and NaN where there is none; and why not, by position.
        """
        count = len(answers[0].candidates)
        failed = {index: one.reason for answer in reversed(answers) for index, one in answer.unscored.items()}
        good = [index for index in range(count) if index not in failed]
        rewards = np.full(count, math.nan)
        if not good:
            return rewards, failed
        if self.win_rate and len(good) < 2:
            return rewards, failed | dict.fromkeys(good, "a win rate needs two scored edits in the group")
        values = np.array([self._values(answer, good) for answer in answers])
        combined = values[0] if self.ensemble is None else self.ensemble(values)
        combined = self.scale * combined + self.offset
        if self.clip is not None:
            combined = combined.clip(*self.clip)
        if self.gate is not None:
            means = np.array([answers[0].scored[index].dimensions[self.gate.dimension].mean for index in good])
            combined = np.where(means < self.gate.floor, self.gate.value, combined)
        rewards[good] = combined
        return rewards, failed

    def _values(self, answer: GroupScores, good: Sequence[int]) -> list[float]:
        if self.win_rate:
            return win_rates(answer, good)
        return [self._value(answer.scored[index]) for index in good]

    def _value(self, score: CandidateScore) -> float:
        """Step 1 for one edit."""
        if self.dimension_weights is None:
            mean, std = score.reward, score.reward_std
        else:
            mean, std = weighted(score, self.dimension_weights)
        if not self.lower_bound:
            return mean
        if std is None:
            raise ValueError("`lower_bound` needs standard deviations, and the scorer gives none.")
        return mean - self.lower_bound * std


def weighted(score: CandidateScore, weights: Mapping[str, float]) -> tuple[float, float | None]:
    """Weighted sum of the dimensions' means, and its standard deviation; the dimensions count as independent."""
    mean = sum(weight * score.dimensions[name].mean for name, weight in weights.items())
    stds = [(weight, score.dimensions[name].std) for name, weight in weights.items()]
    if any(std is None for _, std in stds):
        return mean, None
    return mean, math.sqrt(sum((weight * std) ** 2 for weight, std in stds if std is not None))


def win_rates(answer: GroupScores, among: Sequence[int]) -> list[float]:
    """For each candidate the mean probability to be preferred to one of the others.

    Args:
        answer: scores with preference probabilities.
        among: the candidates to compare, by position; two or more.

    Raises:
        ValueError: the scorer gave no probabilities.
    """
    if answer.preferences is None:
        raise ValueError("`win_rate` needs preference probabilities, and the scorer gives none.")
    table = np.array(answer.preferences)[np.ix_(among, among)]
    np.fill_diagonal(table, 0)
    rates: list[float] = (table.sum(axis=1) / (len(among) - 1)).tolist()
    return rates

"""What scorers say of edit groups: the score of each candidate, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from statistics import stdev
from typing import Any

NAN = math.nan


@dataclass(frozen=True)
class DimensionScore:
    """Score of one candidate in one dimension.

    Attributes:
        mean: on the scorer's scale (1..4 for a calibrated reward model), or raw and without a scale.
        std: standard deviation in the units of `mean`; None where the scorer has none.
        calibrated: whether `mean` is on the scale of people's ratings.
        std_calibrated: whether `std` was measured against people's ratings: only then does it tell how far off `mean`
            may be, and only then is it shown.
    """

    mean: float
    std: float | None = None
    calibrated: bool = False
    std_calibrated: bool = False

    def __post_init__(self) -> None:
        # Numbers of numpy and PyTorch are no JSON.
        object.__setattr__(self, "mean", float(self.mean))
        object.__setattr__(self, "std", None if self.std is None else float(self.std))
        for name in ("calibrated", "std_calibrated"):
            object.__setattr__(self, name, bool(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f}" if self.shown_std is not None else f"{self.mean:.2f}"

    @property
    def shown_std(self) -> float | None:
        """The standard deviation where people are to see it; None where it is not calibrated."""
        return self.std if self.std_calibrated else None


@dataclass(frozen=True)
class Pass:
    """What a scorer that writes its answer said of one candidate in one pass over its prompts.

    Attributes:
        overall: on the scorer's scale.
        sub_scores: the numbers of the answers as they were written, by `PROMPT.SUB_SCORE`.
        reasons: why, in words, by prompt.
        answers: the raw answers, by prompt.
        seed: of the pass.
        retries: answers that could not be read before these.
        prompt_scores: of each prompt, 0 for the worst and 1 for the best score; empty where that is not known.
    """

    overall: float
    sub_scores: Mapping[str, float]
    reasons: Mapping[str, str]
    answers: Mapping[str, str]
    seed: int | None = None
    retries: int = 0
    prompt_scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "overall", float(self.overall))


@dataclass(frozen=True)
class CandidateScore:
    """Score of one candidate. Each dimension is also an attribute: `score.visual_quality.mean`.

    Attributes:
        dimensions: the score in each dimension, by name; empty for scorers that have only an overall score.
        reward: what ranks the candidates of a group. Higher is better. A reward model's is the aggregate of the raw
            means and has no scale.
        reward_std: its standard deviation; None where the scorer has none.
        reasons: why, in words, where the scorer says so; several for several passes.
        answers: raw answers of a scorer that writes and has no passes.
        passes: of a scorer that asks several times: what it said each time.
        overall: the reward on the scale of people's ratings (1..4), where the scorer is calibrated. It orders
            candidates as the reward does.
    """

    dimensions: Mapping[str, DimensionScore]
    reward: float
    reward_std: float | None = None
    reasons: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    passes: tuple[Pass, ...] = ()
    overall: DimensionScore | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward", float(self.reward))
        object.__setattr__(self, "reward_std", None if self.reward_std is None else float(self.reward_std))

    def __repr__(self) -> str:
        said = {
            "reward": f"{self.reward:.3f}",
            **({"overall": self.overall} if self.overall else {}),
            **self.dimensions,
        }
        return f"CandidateScore({', '.join(f'{name}={score}' for name, score in said.items())})"

    @property
    def pass_std(self) -> float | None:
        """Spread of the passes' overall scores: noise of decoding, not of raters. 0 for one pass, None without any."""
        if not self.passes:
            return None
        return stdev(one.overall for one in self.passes) if len(self.passes) > 1 else 0.0

    def __getattr__(self, name: str) -> DimensionScore:
        # Copying and unpickling ask for attributes before there are any.
        dimensions: dict[str, DimensionScore] = self.__dict__.get("dimensions", {})
        if name in dimensions:
            return dimensions[name]
        raise AttributeError(f"no dimension {name!r}; this score has: {', '.join(dimensions) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """The score as plain data, ready for JSON; `answers`, `pass_std` and `passes` where there are any."""
        plain: dict[str, object] = {
            "dimensions": {name: asdict(score) for name, score in self.dimensions.items()},
            "reward": self.reward,
            "reward_std": self.reward_std,
            "overall": None if self.overall is None else asdict(self.overall),
            "reasons": list(self.reasons),
        }
        if self.answers:
            plain["answers"] = list(self.answers)
        if self.passes:
            plain |= {"pass_std": self.pass_std, "passes": [asdict(one) for one in self.passes]}
        return plain


@dataclass(frozen=True)
class Unscored:
    """Stands where there is no score. Never a number: it is listed, left out, and may be asked for again.

    For a candidate: its image failed. For a whole group: its source or its instruction did.

    Attributes:
        reason: what is wrong.
        answers: raw answers from which no score could be read.
    """

    reason: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupScores:
    """Scores of a group's candidates, in their order.

    A plain number stands for a candidate of which nothing but the overall score is known: `GroupScores([0.2, 0.7])`.

    Attributes:
        candidates: a `CandidateScore`, or an `Unscored`, for each.
        preferences: at [i][j] the probability that candidate i is preferred to j, NaN for unscored ones; None where
            the scorer gives no probabilities.
        probabilities: for each candidate the probability that it is the best one, NaN for unscored ones; or None.
    """

    candidates: tuple[CandidateScore | Unscored, ...]
    preferences: list[list[float]] | None = None
    probabilities: list[float] | None = None

    def __repr__(self) -> str:
        """A line per candidate, in the order given."""
        lines = [f"GroupScores(best={self.order[0] if self.order else None}"]
        for index, (one, rank) in enumerate(zip(self.candidates, self.ranks, strict=True)):
            chance = "" if rank is None or self.probabilities is None else f", P(best) {self.probabilities[index]:.2f}"
            lines.append(f"  [{index}] {f'rank {rank}' if rank else 'unscored'}{chance}: {one!r}")
        return "\n".join(lines) + ")"

    def __post_init__(self) -> None:
        if isinstance(self.preferences, Mapping):
            raise TypeError("GroupScores takes candidates; `GroupScores.from_columns` takes lists by dimension.")
        candidates = (CandidateScore({}, float(c)) if isinstance(c, Real) else c for c in self.candidates)
        object.__setattr__(self, "candidates", tuple(candidates))
        if self.preferences is not None:
            object.__setattr__(self, "preferences", [_plain(row) for row in self.preferences])
        if self.probabilities is not None:
            object.__setattr__(self, "probabilities", _plain(self.probabilities))

    @classmethod
    def from_columns(
        cls,
        overall: Sequence[float],
        dimensions: Mapping[str, Sequence[float]] | None = None,
        stds: Mapping[str, Sequence[float]] | None = None,
        preferences: list[list[float]] | None = None,
        calibrated: bool = False,
        std_calibrated: bool = False,
    ) -> GroupScores:
        """Scores from lists with an entry per candidate.

        Args:
            overall: what ranks the candidates.
            dimensions: scores by dimension.
            stds: standard deviations by dimension, and for "overall".
            preferences: see the class.
            calibrated: whether the dimensions are on the scale of people's ratings.
            std_calibrated: whether the standard deviations by dimension were measured against people's ratings.

        Raises:
            ValueError: the lists have not all one entry per candidate.
        """
        dimensions, stds = dimensions or {}, stds or {}
        columns = {"overall": overall, **dimensions, **{f"standard deviation of {k}": v for k, v in stds.items()}}
        columns |= {f"preferences of candidate {i}": row for i, row in enumerate(preferences or [])}
        for name, column in columns.items():
            if len(column) != len(overall):
                raise ValueError(f"{name}: {len(column)} numbers for {len(overall)} candidates.")

        def std(name: str, index: int) -> float | None:
            return float(stds[name][index]) if name in stds else None

        candidates = tuple(
            CandidateScore(
                {
                    name: DimensionScore(float(row[i]), std(name, i), calibrated, std_calibrated)
                    for name, row in dimensions.items()
                },
                float(reward),
                std("overall", i),
            )
            for i, reward in enumerate(overall)
        )
        return cls(candidates, preferences)

    @property
    def scores(self) -> list[CandidateScore]:
        """The candidates' scores.

        Raises:
            ValueError: a candidate is unscored; the message says which, and why.
        """
        for index, candidate in self.unscored.items():
            raise ValueError(f"candidate {index} has no score: {candidate.reason}")
        return [candidate for candidate in self.candidates if isinstance(candidate, CandidateScore)]

    @property
    def scored(self) -> dict[int, CandidateScore]:
        """The scores by position, of the candidates that have one."""
        return {i: one for i, one in enumerate(self.candidates) if isinstance(one, CandidateScore)}

    @property
    def unscored(self) -> dict[int, Unscored]:
        """Why there is no score, by position, of the candidates that have none."""
        return {i: one for i, one in enumerate(self.candidates) if isinstance(one, Unscored)}

    @property
    def order(self) -> list[int]:
        """Positions of the scored candidates by falling reward; equal ones in the order given."""
        scored = self.scored
        return sorted(scored, key=lambda index: -scored[index].reward)

    @property
    def ranks(self) -> list[int | None]:
        """Rank of each candidate, in the order given: 1 is the best, equal rewards share a rank, unscored: None."""
        rewards = [score.reward for score in self.scored.values()]
        return [
            1 + sum(other > one.reward for other in rewards) if isinstance(one, CandidateScore) else None
            for one in self.candidates
        ]

    @property
    def index(self) -> int:
        """Position of the best candidate.

        Raises:
            ValueError: no candidate has a score.
        """
        if not self.order:
            reason = next(iter(self.unscored.values())).reason if self.candidates else "there is none"
            raise ValueError(f"no candidate has a score: {reason}")
        return self.order[0]

    @property
    def probability(self) -> float | None:
        """Probability that the candidate at `index` is the best; None where the scorer gives no probabilities."""
        return None if self.probabilities is None else self.probabilities[self.index]

    @property
    def overall(self) -> list[float]:
        """The rewards, shape (candidates,); NaN for unscored ones."""
        return [one.reward if isinstance(one, CandidateScore) else NAN for one in self.candidates]

    @property
    def dimensions(self) -> dict[str, list[float]]:
        """Means by dimension, each of shape (candidates,); NaN for unscored ones."""
        return {
            name: [one.dimensions[name].mean if isinstance(one, CandidateScore) else NAN for one in self.candidates]
            for name in self._dimension_names
        }

    @property
    def stds(self) -> dict[str, list[float]]:
        """Standard deviations by dimension and for "overall", where the scorer has them, shape (candidates,)."""
        columns = {"overall": [score.reward_std for score in self.scored.values()]}
        for name in self._dimension_names:
            columns[name] = [score.dimensions[name].std for score in self.scored.values()]
        places = {index: place for place, index in enumerate(self.scored)}
        return {
            name: [float(found[places[i]]) if i in places else NAN for i in range(len(self.candidates))]  # type: ignore[arg-type]
            for name, found in columns.items()
            if found and None not in found
        }

    @property
    def _dimension_names(self) -> list[str]:
        return list(next(iter(self.scored.values())).dimensions) if self.scored else []

    def to_dict(self) -> dict[str, Any]:
        """The group as plain data, ready for JSON. Command line, datasets, pipeline and Space use these names.

        Returns:
            `best`, the position of the best candidate or None, and `candidates`, each with `rank`, `reward`,
            `reward_std`, `overall`, `probability_best`, `dimensions`, `reasons` and `error` (why it is unscored, else
            None); and `answers`, `pass_std` and `passes` where there are any.
        """
        return {
            "best": self.order[0] if self.order else None,
            "candidates": [self._candidate(index, rank) for index, rank in enumerate(self.ranks)],
        }

    def _candidate(self, index: int, rank: int | None) -> dict[str, object]:
        one = self.candidates[index]
        if isinstance(one, Unscored):
            empty = dict.fromkeys(("rank", "reward", "reward_std", "overall", "probability_best"))
            plain: dict[str, object] = {**empty, "dimensions": None, "reasons": [], "error": one.reason}
            return plain | ({"answers": list(one.answers)} if one.answers else {})
        probability = None if self.probabilities is None else self.probabilities[index]
        return {"rank": rank, "probability_best": probability, **one.to_dict(), "error": None}

    def state(self) -> dict[str, object]:
        """Everything as plain data, from which `from_state` makes an equal object. NaN where there is no number."""
        candidates = [
            {"unscored": one.reason, "answers": list(one.answers)} if isinstance(one, Unscored) else one.to_dict()
            for one in self.candidates
        ]
        return {"candidates": candidates, "preferences": self.preferences, "probabilities": self.probabilities}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GroupScores:
        """The opposite of `state`."""

        def candidate(plain: Mapping[str, Any]) -> CandidateScore | Unscored:
            answers = tuple(plain.get("answers", ()))
            if "unscored" in plain:
                return Unscored(plain["unscored"], answers)
            dimensions = {name: DimensionScore(**score) for name, score in plain["dimensions"].items()}
            reasons = tuple(plain.get("reasons", ()))
            passes = tuple(Pass(**one) for one in plain.get("passes", ()))
            overall = DimensionScore(**plain["overall"]) if plain.get("overall") else None
            return CandidateScore(dimensions, plain["reward"], plain["reward_std"], reasons, answers, passes, overall)

        candidates = tuple(candidate(plain) for plain in state["candidates"])
        return cls(candidates, state["preferences"], state["probabilities"])


def _plain(numbers: Sequence[float | None]) -> list[float]:
    """Floats of Python, which are JSON; NaN for None."""
    return [NAN if one is None else float(one) for one in numbers]

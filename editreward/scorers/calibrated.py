"""A scorer on the scale of people's ratings: what `editreward calibrate` fitted, applied.

A calibration is plain data by dimension, and `overall` for the reward, as in a reward model's config: `intercept` and
`slope` of the map of the scorer's numbers, and `std_factor`. A scorer without standard deviations is taken to have 1
for all; the factor then makes its errors' size of it. A scorer that writes its answers also gets a link: probabilities
of preferences and the standard deviation of its reward.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configuration_editreward import CALIBRATION_FIELDS, STD_FIELDS, is_number
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Scorer, Unscored
from editreward.scorers.fingerprints import fingerprint_of
from editreward.statistics.calibration import SCALE

Calibration = Mapping[str, Mapping[str, float]]
OVERALL = "overall"
LINK_FIELDS = ("temperature", "constant", "slope", "link", "log_loss", "pairs", "variance_share")
NO_PROBABILITIES = re.compile(r"; (?:there|they) are no probabilities[^.]*\.")
"""In the notes of scorers that write: with a link there are some."""


def check_calibration(calibration: object, link: object = None) -> None:
    """Raise a `ValueError` that names what is wrong, unless these can be applied."""
    if not isinstance(calibration, Mapping) or OVERALL not in calibration:
        raise ValueError(f"a calibration has lines by dimension and one for {OVERALL!r}, not {calibration!r}")
    for name, line in calibration.items():
        if (
            not isinstance(line, Mapping)
            or not set(CALIBRATION_FIELDS) <= set(line) <= {*CALIBRATION_FIELDS, *STD_FIELDS}
            or not all(map(is_number, line.values()))
            or not (line["slope"] > 0 and line.get("std_factor", 1) > 0)
        ):
            raise ValueError(f"calibration, {name}: intercept and a slope above 0 are needed, not {line!r}")
    if link is None:
        return
    numbers = LINK_FIELDS[:3]
    if not isinstance(link, Mapping) or not all(is_number(link.get(name)) and link[name] >= 0 for name in numbers):
        raise ValueError(f"a link has {', '.join(numbers)}, numbers of 0 or more, not {link!r}")
    if link["temperature"] == 0 or link.get("link") not in ("logistic", "probit") or set(link) - {*LINK_FIELDS}:
        raise ValueError(f"a link has a temperature above 0 and is 'logistic' or 'probit', not {link!r}")


class CalibratedScorer:
    """Another scorer's scores on 1..4.

    Args:
        scorer: any scorer; what it says of its own calibration is replaced.
        calibration: by the names of its dimensions, and `overall` for its reward. Dimensions without a line are left
            out.
        link: temperature and variance of the rewards of a scorer that writes, see
            `editreward.statistics.pair_links.PairLink`, as plain data.

    Raises:
        ValueError: these cannot be applied to the scorer.
    """

    scale: tuple[float, float] | None = SCALE
    calibrated = True

    def __init__(self, scorer: Scorer, calibration: Calibration, link: Mapping[str, Any] | None = None) -> None:
        check_calibration(calibration, link)
        unknown = sorted(set(calibration) - {*scorer.dimensions, OVERALL})
        if unknown:
            has = ", ".join(scorer.dimensions) or "none"
            raise ValueError(f"the calibration is of {unknown[0]!r}; {scorer.name} has the dimensions: {has}")
        self.scorer, self.calibration, self.link = scorer, calibration, link
        self.name: str = scorer.name
        self.dimensions: tuple[str, ...] = tuple(name for name in scorer.dimensions if name in calibration)
        self.fingerprint: str = fingerprint_of(
            scorer="calibrated", of=scorer.fingerprint, calibration=calibration, link=link
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the scorer says now, but for what the calibration and the link have changed."""
        told = (note for note in self.scorer.notes if "uncalibrated" not in note)
        return tuple(told if self.link is None else (NO_PROBABILITIES.sub(".", note) for note in told))

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does."""
        return [one if isinstance(one, Unscored) else self._group(one) for one in self.scorer(groups)]

    def _group(self, scores: GroupScores) -> GroupScores:
        candidates = [one if isinstance(one, Unscored) else self._candidate(one) for one in scores.candidates]
        calibrated = replace(scores, candidates=tuple(candidates))
        return calibrated if self.link is None else with_link(calibrated, self.link)

    def _candidate(self, score: CandidateScore) -> CandidateScore:
        dimensions = {
            name: calibrated(value, self.calibration[name])
            for name, value in score.dimensions.items()
            if name in self.calibration
        }
        reward_std = score.reward_std
        if self.link is not None:
            reward_std = written_std(score, self.link)
        overall = calibrated(DimensionScore(score.reward, reward_std), self.calibration[OVERALL])
        return replace(score, dimensions=dimensions, reward_std=reward_std, overall=overall)


def calibrated(score: DimensionScore, line: Mapping[str, float]) -> DimensionScore:
    """A score on the scale; its standard deviation too, if the line has a factor for it, else where there was one."""
    has_factor = "std_factor" in line
    std = 1.0 if score.std is None and has_factor else score.std
    return DimensionScore(
        line["intercept"] + line["slope"] * score.mean,
        None if std is None else line["slope"] * line.get("std_factor", 1.0) * std,
        True,
        has_factor,
    )


def pass_variance(score: CandidateScore) -> float:
    """Variance of the mean over the passes of a scorer that writes: pass_std^2 / n; 0 for one that has none."""
    return score.pass_std**2 / len(score.passes) if score.pass_std is not None else 0.0


def written_std(score: CandidateScore, link: Mapping[str, Any]) -> float:
    """Standard deviation of a written reward by its passes' spread, in the reward's units."""
    return math.sqrt(link["constant"] + link["slope"] * pass_variance(score))


def with_link(scores: GroupScores, link: Mapping[str, Any]) -> GroupScores:
    """Scores with the probabilities of preferences and of being the best that a link gives."""
    import torch

    from editreward.statistics.preferences import best_of_probabilities, preference_probability

    scored = scores.scored
    if len(scored) < 2:
        return scores
    unit = link["temperature"]
    mean = torch.tensor([one.reward / unit for one in scored.values()], dtype=torch.float64)
    std = torch.tensor([max(written_std(one, link) / unit, 1e-6) for one in scored.values()], dtype=torch.float64)
    pairs = preference_probability(mean[:, None], std.log()[:, None], mean, std.log(), link=link["link"]).tolist()
    best = dict(zip(scored, best_of_probabilities(mean, std.log(), link["link"]).tolist(), strict=True))
    rows = {i: dict(zip(scored, row, strict=True)) for i, row in zip(scored, pairs, strict=True)}
    places = range(len(scores.candidates))
    return replace(
        scores,
        preferences=[[rows.get(i, {}).get(j, math.nan) for j in places] for i in places],
        probabilities=[best.get(i, math.nan) for i in places],
    )

"""Fits the calibration of any scorer on annotated groups, and saves it where `load_scorer` finds it."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from editreward.data.rows import edit_group
from editreward.files import write_json, write_text
from editreward.groups import GroupScores, Scorer
from editreward.groups.rows import GroupRow
from editreward.scorers.calibrated import OVERALL, pass_variance
from editreward.scorers.files import prompts_from, spec_from
from editreward.scorers.registry import check_answers
from editreward.statistics.calibration import CalibrationError, calibrate_groups, fit_calibration
from editreward.statistics.pair_links import PairLink, VarianceFit, fit_pair_link, fit_variance

GROUPS_PER_CALL = 64


@dataclass(frozen=True)
class Fit:
    """What was fitted.

    Attributes:
        calibration: by dimension and `overall`, see `CalibratedScorer`.
        errors: on groups that the fit did not see.
        link: of a scorer that writes its scores; else None.
        groups, unscored: how many groups had scores, and how many candidates got none.
        left_out: dimensions of the scorer that have no line, and why.
    """

    calibration: dict[str, dict[str, float]]
    errors: dict[str, CalibrationError]
    link: PairLink | None
    groups: int
    unscored: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    def link_data(self) -> dict[str, object] | None:
        """The link as plain data, as `CalibratedScorer` takes it."""
        if self.link is None:
            return None
        plain = asdict(self.link)
        return {**plain.pop("variance"), **plain}


@dataclass(frozen=True)
class _Scored:
    """A group's numbers, shape (candidates,) each: of the scorer, and annotated ones with NaN where there are none."""

    means: dict[str, np.ndarray]
    stds: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    pass_variances: np.ndarray | None


def fit_scorer(scorer: Scorer, rows: Iterable[GroupRow]) -> Fit:
    """Fit scale and spread of a scorer, and the link of one that writes.

    Args:
        scorer: whose numbers are raw: not calibrated already.
        rows: of the dataset schema; those with scores count.

    Raises:
        ValueError: the annotated scores do not allow a fit, with the reason.
    """
    groups, unscored = [], 0
    annotated = filter(_has_scores, rows)
    while chunk := list(itertools.islice(annotated, GROUPS_PER_CALL)):
        asked = [edit_group(row) for row in chunk]
        answers = scorer(asked)
        check_answers(scorer, asked, answers)
        for row, answer in zip(chunk, answers, strict=True):
            scores = answer if isinstance(answer, GroupScores) else GroupScores(())
            unscored += len(row["candidates"]) - len(scores.scored)
            if scores.scored:
                groups.append(_scored(scores, row))
    if not groups:
        raise ValueError(f"{scorer.name} scored no annotated group: no row has scores, or none could be scored.")
    named = sorted({name for group in groups for name in group.labels})
    names = [name for name in scorer.dimensions if name in named]
    left_out = {name: "the data have no scores of it" for name in scorer.dimensions if name not in named}
    try:
        variance, link = _written(groups)
    except ValueError as error:
        raise ValueError(f"{scorer.name}, {OVERALL}: {error}") from error
    calibration, errors = {}, {}
    for name in dict.fromkeys([*names, OVERALL]):
        columns = [_columns(group, name, variance) for group in groups]
        try:
            calibration[name], errors[name] = calibrate_groups(*zip(*columns, strict=True))
        except ValueError as error:
            raise ValueError(f"{scorer.name}, {name}: {error}") from error
    return Fit(calibration, errors, link, len(groups), unscored, left_out)


def _has_scores(row: GroupRow) -> bool:
    return any(value is not None for one in row["candidates"] for value in (one.get("scores") or {}).values())


def _scored(scores: GroupScores, row: GroupRow) -> _Scored:
    """The numbers of the scored candidates of a group."""
    found = scores.scored
    annotated = [row["candidates"][index].get("scores") or {} for index in found]
    labels = {
        name: np.array([np.nan if one.get(name) is None else one[name] for one in annotated], dtype=float)
        for name in dict.fromkeys(name for one in annotated for name in one)
    }
    by_name = {name: [one.dimensions[name] for one in found.values()] for name in scores.dimensions}
    means = {name: np.array([value.mean for value in values]) for name, values in by_name.items()}
    stds = {
        name: np.array([1.0 if value.std is None else value.std for value in values])
        for name, values in by_name.items()
    }
    if OVERALL not in labels:
        labels[OVERALL] = np.mean(list(labels.values()), axis=0) if labels else np.full(len(found), np.nan)
    means.setdefault(OVERALL, np.array([one.reward for one in found.values()]))
    stds.setdefault(OVERALL, np.array([1.0 if one.reward_std is None else one.reward_std for one in found.values()]))
    passes = None
    if all(one.pass_std is not None for one in found.values()):
        passes = np.array([pass_variance(one) for one in found.values()])
    return _Scored(means, stds, labels, passes)


def _columns(group: _Scored, name: str, variance: VarianceFit | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    std = group.stds[name]
    if name == OVERALL and variance is not None and group.pass_variances is not None:
        std = np.sqrt(variance.variance(group.pass_variances))
    return group.means[name], std, group.labels.get(name, np.full(len(std), np.nan))


def _written(groups: Sequence[_Scored]) -> tuple[VarianceFit | None, PairLink | None]:
    """Variance and link of the rewards of a scorer that writes, in the rewards' units; None of any other."""
    if not groups or any(group.pass_variances is None for group in groups):
        return None, None
    means, labels, passes = (
        [values[np.isfinite(group.labels[OVERALL])] for group, values in zip(groups, column, strict=True)]
        for column in (
            [group.means[OVERALL] for group in groups],
            [group.labels[OVERALL] for group in groups],
            [group.pass_variances for group in groups if group.pass_variances is not None],
        )
    )
    line = fit_calibration(np.concatenate(means), np.concatenate(labels))
    errors = np.concatenate(means) - (np.concatenate(labels) - line["intercept"]) / line["slope"]
    variance = fit_variance(errors, np.concatenate(passes))
    differences, spreads, outcomes = [], [], []
    for mean, label, spread in zip(means, labels, passes, strict=True):
        first, second = np.triu_indices(len(mean), k=1)
        decided = label[first] != label[second]
        first, second = first[decided], second[decided]
        differences.append(mean[first] - mean[second])
        spreads.append(np.stack([spread[first], spread[second]], axis=-1))
        outcomes.append((label[first] > label[second]).astype(float))
    link = fit_pair_link(
        np.concatenate(differences), np.concatenate(spreads), np.concatenate(outcomes), variance=variance
    )
    return link.variance, link


def save_in_model(folder: Path, calibration: Mapping[str, Mapping[str, float]]) -> None:
    """Put a calibration into a model folder's config.json; all else in it stays as it is.

    Raises:
        ValueError: the model has a dimension that the calibration has not.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    missing = sorted(set(config["dimensions"]) - set(calibration))
    if missing:
        raise ValueError(f"the data have no scores of {missing[0]!r}, which {folder} judges; a model needs all")
    config["calibration"] = {name: dict(line) for name, line in calibration.items()}
    write_json(path, config)


def save_as_yaml(file: Path, spec: str, fit: Fit, options: Mapping[str, object] | None = None) -> None:
    """Write a scorer file that `load_scorer` takes: the scorer with its calibration; paths become absolute.

    Args:
        file: to write.
        spec: of the scorer.
        fit: what was fitted.
        options: those of `editreward.scorers.registry.ScorerOptions` that the scores were made with.
    """
    import yaml

    content: dict[str, object] = {"scorer": spec_from(spec, Path.cwd()), **(options or {})}
    if "prompts" in content:
        content["prompts"] = prompts_from(str(content["prompts"]), Path.cwd())
    content["calibration"] = fit.calibration
    if fit.link is not None:
        content["link"] = fit.link_data()
    head = "# Made by `editreward calibrate`: a scorer with its scale and spread.\n"
    write_text(file, head + yaml.safe_dump(content, sort_keys=False))

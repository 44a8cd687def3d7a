"""Scorers that a YAML file describes: `scorer: SPEC` with options, `ensemble: [SPEC, ...]`, and others.

    scorer: org/EditReward
    dtype: bfloat16

    ensemble:
      - org/EditReward
      - {scorer: clip:openai/clip-vit-large-patch14, device: cpu}
    standardisation:          # mean and standard deviation of each member's rewards, see `standardisation_of`
      - {mean: 0.1, std: 1.2}
      - {mean: 0.2, std: 0.05}

    judge: MODEL@URL          # or what else of `SCORERS` is made of a file; the other entries are its own
    passes: 4

    scorer: ssim              # as `editreward calibrate` writes it
    calibration: {overall: {intercept: 1.2, slope: 2.1, std_factor: 0.4}}

A relative path in a file is taken from the file's folder.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import yaml

from configuration_editreward import is_number
from editreward.groups import PairwiseJudge, Scorer
from editreward.scorers.calibrated import CalibratedScorer, check_calibration
from editreward.scorers.ensemble import EnsembleScorer, Standardisation
from editreward.scorers.registry import (
    SCORERS,
    ScorerOptions,
    is_judge,
    load_scorer_or_judge,
    make_from_file,
    text_entry,
)
from editreward.yaml_files import load_yaml

OPTIONS = tuple(field.name for field in fields(ScorerOptions))
TEXTS = ("device", "default_device", "dtype", "revision", "prompts")
WHOLE_NUMBERS = ("max_batch_tokens", "seed", "passes", "max_calls")
"""Options that are texts, and whole numbers; `prices` are two numbers, all others a number."""


def read_scorer(path: Path, options: ScorerOptions) -> Scorer | PairwiseJudge:
    """Load the scorer that a file describes.

    Args:
        path: the file.
        options: from the command line; they go before those of the file.

    Raises:
        ValueError: the file is no YAML, lacks an entry or has an unknown one; file and entry are named.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    return _of_mapping(content, path, options)


def _of_mapping(content: Any, path: Path, options: ScorerOptions) -> Scorer | PairwiseJudge:
    kinds = ["scorer", "ensemble", *(name for name, entry in SCORERS.items() if entry.from_file)]
    found = [name for name in kinds if isinstance(content, dict) and name in content]
    if len(found) != 1:
        raise ValueError(f"{path} must have one of {', '.join(f'`{name}`' for name in kinds)} (docs/scoring.md).")
    if found[0] in SCORERS:
        return make_from_file(found[0], content, path, options)
    known = {"scorer", "calibration", "link", *OPTIONS} if "scorer" in content else {"ensemble", "standardisation"}
    if unknown := sorted(set(content) - known):
        raise ValueError(f"{path} has an unknown entry {unknown[0]!r}; there are: {', '.join(sorted(known))}.")
    if "scorer" in content:
        own = _options_of(content, path)
        given = {name: value for name, value in asdict(options).items() if value is not None}
        made = load_scorer_or_judge(spec_from(text_entry(content, "scorer", path), path.parent), **own | given)
        return _calibrated(made, content, path)
    return _ensemble(content, path, options)


def _calibrated(made: Scorer | PairwiseJudge, content: dict[str, Any], path: Path) -> Scorer | PairwiseJudge:
    """The scorer with the calibration of its file; as it is where there is none."""
    if "calibration" not in content:
        if "link" in content:
            raise ValueError(f"{path}: `link` goes with a `calibration` (`editreward calibrate` writes both).")
        return made
    if is_judge(made):
        raise ValueError(f"{path}: {made.name} judges pairs, and has nothing to be calibrated.")
    scorer: Any = made
    try:
        if hasattr(scorer, "use_calibration"):
            check_calibration(content["calibration"])
            scorer.use_calibration(content["calibration"])
            return cast(Scorer, scorer)
        return CalibratedScorer(scorer, content["calibration"], content.get("link"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _ensemble(content: dict[str, Any], path: Path, options: ScorerOptions) -> EnsembleScorer:
    for name in ("seed", "revision"):
        if getattr(options, name) is not None:
            raise ValueError(f"{path}: an ensemble has no `{name}`: give each member its own (`scorer`, `{name}`).")
    if not isinstance(content["ensemble"], list):
        raise ValueError(f"{path}: `ensemble` is a list of scorers, not {content['ensemble']!r}.")
    described = (one if isinstance(one, dict) else {"scorer": one} for one in content["ensemble"])
    members = [_of_mapping(one, path, options) for one in described]
    scorers = []
    for member in members:
        if is_judge(member):
            raise ValueError(f"{path}: {member.name} judges pairs, and cannot be a member.")
        scorers.append(cast(Scorer, member))
    try:
        given = content.get("standardisation")
        standardisation = None if given is None else [Standardisation(**one) for one in given]
    except (TypeError, ValueError) as error:
        told = str(error).rstrip(".")
        raise ValueError(f"{path}: standardisation is a list with `mean` and `std` of each member: {told}.") from error
    return EnsembleScorer(scorers, standardisation)


def _options_of(content: Mapping[str, object], path: Path) -> dict[str, Any]:
    """The options of a file with `scorer`, checked; an entry without a value counts as left out."""
    own = {name: content[name] for name in OPTIONS if content.get(name) is not None}
    for name, value in own.items():
        if wanted := _wanted(name, value):
            raise ValueError(f"{path}: `{name}` must be {wanted}, not {value!r}.")
    if "prompts" in own:
        own["prompts"] = prompts_from(str(own["prompts"]), path.parent)
    return own


def _wanted(name: str, value: object) -> str:
    """What an option must be; empty if the value is that."""
    if name in TEXTS:
        return "" if isinstance(value, str) else "a text (in quotes where it looks like a number)"
    if name in WHOLE_NUMBERS:
        return "" if is_number(value) and isinstance(value, int) else "a whole number"
    if name == "prices":
        return "" if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) else "two numbers"
    return "" if is_number(value) else "a number"


def spec_from(spec: str, folder: Path) -> str:
    """The spec, with a relative path in it taken from a folder; names of scorers stay as they are."""
    name, _, rest = spec.partition(":")
    if name in SCORERS:
        is_there = bool(rest) and not Path(rest).is_absolute() and (folder / rest).exists()
        return f"{name}:{folder / rest}" if is_there else spec
    there = folder / (spec.rpartition(":")[0] if ".py:" in spec else spec)
    return str(folder / spec) if there.exists() and not Path(spec).is_absolute() else spec


def prompts_from(name_or_file: str, folder: Path) -> str:
    """The prompt set, with the relative path of a file taken from a folder; a name stays as it is."""
    file = folder / name_or_file
    return str(file) if file.is_file() else name_or_file

"""Judges from a spec, `judge:MODEL@URL`, or from a YAML file with an entry `judge` or `judge-pairs`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from editreward.scorers.judges.options import JudgeOptions
from editreward.scorers.judges.pairs import PairJudge
from editreward.scorers.judges.scorer import JudgeScorer
from editreward.scorers.prompts import load_prompt_set
from editreward.scorers.registry import ScorerOptions
from editreward.validation import validated

PROMPTS = {"judge": "editreward", "judge-pairs": "editreward-pairs"}
"""Default prompt set by the name of the scorer."""

SHARED = ("seed", "prompts", "passes", "temperature", "max_calls", "max_cost", "prices")
"""Options of the command line that judges have."""


def load_judge(name: str, argument: str | None, options: ScorerOptions) -> JudgeScorer | PairJudge:
    """Made by the registry.

    Raises:
        ValueError: the spec names no model, an option is wrong, or there is no key.
    """
    if not argument:
        raise ValueError(f"Name the model: {name}:MODEL@URL, such as {name}:my-model@http://localhost:8000/v1.")
    return _made(name, _of_spec(argument) | _given(options), f"{name}:{argument}")


def read_judge(
    name: str, content: Mapping[str, object], path: Path, options: ScorerOptions
) -> JudgeScorer | PairJudge:
    """Made by the registry, of a YAML file.

    Raises:
        ValueError: an entry is wrong, or there is no key.
    """
    entries = {key: value for key, value in content.items() if key != name} | _of_spec(str(content[name]))
    for key in ("prompts", "log"):
        value = entries.get(key)
        if isinstance(value, str) and (key == "log" or (path.parent / value).is_file()):
            entries[key] = str(path.parent / value)
    return _made(name, entries | _given(options), str(path))


def _of_spec(text: str) -> dict[str, object]:
    """MODEL, or MODEL@URL."""
    for scheme in ("@http://", "@https://"):
        model, found, rest = text.partition(scheme)
        if found:
            return {"model": model, "url": scheme[1:] + rest}
    return {"model": text}


def _given(options: ScorerOptions) -> dict[str, object]:
    return {name: value for name, value in asdict(options).items() if name in SHARED and value is not None}


def _made(name: str, entries: Mapping[str, object], where: str) -> JudgeScorer | PairJudge:
    options = validated(JudgeOptions, dict(entries), where)
    prompts = load_prompt_set(options.prompts or PROMPTS[name])
    if name == "judge-pairs":
        if options.passes > 1:
            raise ValueError(f"{where}: a judge of pairs has no `passes`; `both_orders: true` asks twice.")
        return PairJudge(options, prompts)
    if options.both_orders:
        raise ValueError(f"{where}: `both_orders` is for judges of pairs (judge-pairs).")
    return JudgeScorer(options, prompts)

"""Every scorer by one text: `load_scorer("org/EditReward")`, and `--scorer` in commands.

| spec | what |
|---|---|
| nothing, or `editreward` | the bundled tiny reward model |
| a folder or a Hub id | a reward model |
| `random`, `ssim`, `clip:MODEL` ... | a baseline of `SCORERS`, after a colon its model |
| `http://HOST:PORT` | what `editreward serve` runs there |
| `FILE.py:FUNCTION`, `MODULE:FUNCTION` | what the function returns: your own scorer or judge |
| `judge:MODEL@URL`, `judge-pairs:MODEL@URL` | a model behind an endpoint, of single edits or of pairs |
| `generative:MODEL`, `editscore:MODEL` | a vision-language model or adapter in this process that writes its answer |
| `FILE.yaml` | `scorer: SPEC` with options, `ensemble: [SPEC, ...]`, `judge: MODEL`, `generative: MODEL` |

A name of `SCORERS` goes before a folder of that name, for which `./random` stands; any other path that exists is taken
as one. Nothing is imported before it is asked for. To add a scorer, write its module here, with a function that makes
it, and list it in `SCORERS`.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard, cast

from editreward.functions import load_function
from editreward.groups import CandidateScore, EditGroup, GroupScores, PairwiseJudge, Scorer, Unscored


@dataclass(frozen=True)
class ScorerOptions:
    """Options of scorers; a scorer that has not one of these refuses it.

    Attributes:
        device: where to run; by default the best one here.
        default_device: where to run without `device`; refused by none.
        dtype: precision of the weights.
        revision: commit, branch or tag of a model on the Hub.
        max_batch_tokens: tokens of one pass through the model.
        seed: of scorers that draw.
        prompts: name or file of the prompt set of scorers that write their answer.
        passes: how often these are asked about each edit.
        temperature: of their sampling.
        max_calls: calls of an endpoint after which no more are made.
        max_cost: the same in money, in the currency of `prices`.
        prices: of a million tokens that are read, and that are written.
    """

    device: str | None = None
    default_device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    max_batch_tokens: int | None = None
    seed: int | None = None
    prompts: str | None = None
    passes: int | None = None
    temperature: float | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] | None = None

    @property
    def place(self) -> str | None:
        """Where to run; None leaves it to the scorer."""
        return self.device or self.default_device


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer by name.

    Attributes:
        about: what it is, for people.
        make: `MODULE:FUNCTION`, without `editreward.scorers.`; called with the spec's name, the text after its colon
            or None, and `ScorerOptions`.
        options: the options that it has.
        takes_model: a text after the colon names its model.
        from_file: `MODULE:FUNCTION` that makes it of a YAML file with an entry of its name; called with the name, the
            file's entries, the file and `ScorerOptions`. Empty: `scorer: NAME` is all that a file can say.
    """

    about: str
    make: str
    options: tuple[str, ...] = ()
    takes_model: bool = False
    from_file: str = ""


_LIKENESS = "baselines:likeness_scorer"
_JUDGE_OPTIONS = ("seed", "prompts", "passes", "temperature", "max_calls", "max_cost", "prices")
_GENERATIVE_OPTIONS = ("device", "dtype", "revision", "max_batch_tokens", "seed", "prompts", "passes", "temperature")
SCORERS: Mapping[str, ScorerEntry] = {
    "editreward": ScorerEntry(
        "a reward model", "reward_model:load", ("device", "dtype", "revision", "max_batch_tokens"), True
    ),
    "random": ScorerEntry("random scores", "baselines:random_scorer", ("seed",)),
    "coin": ScorerEntry("a coin for each pair", "baselines:coin_judge", ("seed",)),
    "psnr": ScorerEntry("likeness to the source", _LIKENESS),
    "ssim": ScorerEntry("likeness to the source", _LIKENESS),
    "pixels": ScorerEntry("likeness to the source", _LIKENESS),
    "phash": ScorerEntry("likeness to the source", _LIKENESS),
    "clip": ScorerEntry("CLIP, to the instruction", "perceptual:clip_scorer", ("device", "revision"), True),
    "clip-directional": ScorerEntry("CLIP, of the change", "perceptual:clip_scorer", ("device", "revision"), True),
    "lpips": ScorerEntry("LPIPS to the source", "perceptual:lpips_scorer", ("device",)),
    "generative": ScorerEntry(
        "a vision-language model or adapter that writes its answer",
        "generative.options:load",
        _GENERATIVE_OPTIONS,
        True,
        "generative.options:read",
    ),
    "editscore": ScorerEntry(
        "the same, asked as EditScore asks",
        "generative.options:load",
        _GENERATIVE_OPTIONS,
        True,
        "generative.options:read",
    ),
    "judge": ScorerEntry(
        "a model behind an endpoint, MODEL@URL",
        "judges.loading:load_judge",
        _JUDGE_OPTIONS,
        True,
        "judges.loading:read_judge",
    ),
    "judge-pairs": ScorerEntry(
        "the same, of two edits at once",
        "judges.loading:load_judge",
        tuple(name for name in _JUDGE_OPTIONS if name != "passes"),
        True,
        "judges.loading:read_judge",
    ),
}
"""By name."""

STATED = ("name", "fingerprint", "dimensions", "scale", "calibrated", "notes")
"""What a scorer states of itself."""

YAML_SUFFIXES = (".yaml", ".yml")


def load_scorer(spec: str | Path | None = None, **options: Any) -> Scorer:
    """The scorer that a text names; see the module.

    Args:
        spec: which one; by default the bundled tiny reward model.
        options: see `ScorerOptions`.

    Raises:
        ValueError: there is no such scorer, it cannot be loaded, has no such option, or compares pairs, which is no
            score of a single edit.
    """
    made = load_scorer_or_judge(spec, **options)
    if is_judge(made):
        raise ValueError(
            f"{made.name} judges pairs of edits; scores of single edits are needed here: choose a scorer."
        )
    return cast(Scorer, made)


def is_judge(made: object) -> TypeGuard[PairwiseJudge]:
    """Whether it compares pairs. It looks at the class: `isinstance` with a protocol would compute the fingerprint."""
    return hasattr(type(made), "compare")


def load_scorer_or_judge(spec: str | Path | None = None, **options: Any) -> Scorer | PairwiseJudge:
    """As `load_scorer`, for whoever takes judges of pairs, too."""
    chosen = ScorerOptions(**options)
    text = "editreward" if spec is None else str(spec)
    name, _, argument = text.partition(":")
    if Path(text).suffix in YAML_SUFFIXES and Path(text).is_file():
        return _function("files:read_scorer")(Path(text), chosen)
    if text not in SCORERS and Path(text).expanduser().exists():
        return _make("editreward", text, chosen)
    if name in SCORERS:
        if argument and not SCORERS[name].takes_model:
            raise ValueError(f"The scorer {name!r} takes nothing after a colon: {text!r}.")
        return _make(name, argument or None, chosen)
    if name in ("http", "https"):
        _refuse(text, (), chosen)
        return _function("remote:load")(name, argument, chosen)
    if argument and "://" not in text:
        return _users(text, chosen)
    return _make("editreward", text, chosen)


def make_from_file(
    name: str, content: Mapping[str, object], path: Path, options: ScorerOptions
) -> Scorer | PairwiseJudge:
    """The scorer of a YAML file that has an entry of its name; see `ScorerEntry.from_file`.

    Raises:
        ValueError: it has not such an option, or an entry is wrong.
    """
    _refuse(name, SCORERS[name].options, options)
    text_entry(content, name, path)
    return _function(SCORERS[name].from_file)(name, content, path, options)


def text_entry(content: Mapping[str, object], name: str, path: Path) -> str:
    """An entry of a file that names a scorer or a model.

    Raises:
        ValueError: it is no text, or blank; file and entry are named.
    """
    value = content[name]
    if not isinstance(value, str) or not value.strip():
        wanted = "a scorer" if name == "scorer" else "a model"
        raise ValueError(f"{path}: `{name}` must be a text that names {wanted}, not {value!r}.")
    return value


def _make(name: str, argument: str | None, options: ScorerOptions) -> Scorer | PairwiseJudge:
    entry = SCORERS[name]
    _refuse(name, entry.options, options)
    return _function(entry.make)(name, argument, options)


def _function(place: str) -> Callable[..., Scorer | PairwiseJudge]:
    """The function `MODULE:FUNCTION` of this folder, whose module is imported now."""
    module, _, name = place.partition(":")
    found: Callable[..., Scorer | PairwiseJudge] = getattr(
        importlib.import_module(f"editreward.scorers.{module}"), name
    )
    return found


def _refuse(name: str, known: Sequence[str], options: ScorerOptions) -> None:
    """Raise a `ValueError` for an option that the scorer has not."""
    known = [*known, "default_device"]
    given = [option for option, value in asdict(options).items() if value is not None and option not in known]
    if given:
        shown = ", ".join(f"`{option}`" for option in given)
        raise ValueError(f"The scorer {name!r} has no {shown}.")


def _users(spec: str, options: ScorerOptions) -> Scorer | PairwiseJudge:
    """What a user's function returns, with defaults for what it does not say of itself."""
    _refuse(spec, (), options)
    made: Any = load_function(spec, "--scorer")()
    if is_judge(made) or (callable(made) and all(hasattr(made, name) for name in STATED)):
        return made
    if not callable(made) or not all(isinstance(getattr(made, name, None), str) for name in STATED[:2]):
        raise ValueError(
            f"--scorer: {spec} returned a {type(made).__name__}, which is no scorer: it needs `name`, `fingerprint`, "
            "and `__call__` or `compare` (docs/benchmarks.md)."
        )
    return CompletedScorer(made)


class UsersScorer(Protocol):
    """The least that a scorer has."""

    name: str
    fingerprint: str

    def __call__(self, groups: Sequence[EditGroup]) -> Sequence[GroupScores | Unscored]: ...


class CompletedScorer:
    """A user's scorer that has only `name`, `fingerprint` and `__call__`, with defaults for the rest."""

    def __init__(self, scorer: UsersScorer) -> None:
        self._scorer = scorer
        self.name: str = scorer.name
        self.fingerprint: str = scorer.fingerprint
        self.dimensions: tuple[str, ...] = tuple(getattr(scorer, "dimensions", ()))
        self.scale: tuple[float, float] | None = getattr(scorer, "scale", None)
        self.calibrated: bool = getattr(scorer, "calibrated", False)

    @property
    def notes(self) -> Sequence[str]:
        """What the scorer says now: notes may count what was scored."""
        return getattr(self._scorer, "notes", ())

    def __call__(self, groups: Sequence[EditGroup]) -> Sequence[GroupScores | Unscored]:
        return self._scorer(groups)


def check_answers(scorer: Scorer, groups: Sequence[EditGroup], answers: Sequence[GroupScores | Unscored]) -> None:
    """Be sure that a scorer kept to the interface, which a user's own may not.

    Args:
        scorer: who answered.
        groups, answers: what to; messages name a group by its id, else by its position.

    Raises:
        ValueError: there is another number of answers than groups, or of candidates; a number is not finite; or an
            answer is neither `GroupScores` nor `Unscored`.
    """
    if len(answers) != len(groups):
        raise ValueError(f"{scorer.name} returned {len(answers)} answers to {len(groups)} questions.")
    for number, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        name = repr(group.group_id) if group.group_id else str(number)
        if isinstance(answer, Unscored):
            continue
        if not isinstance(answer, GroupScores):
            told = f"a {type(answer).__name__}, not GroupScores or Unscored (docs/benchmarks.md)"
            raise ValueError(f"{scorer.name} returned, for group {name}, {told}.")
        if told := _fault_of(answer, len(group.edited)):
            raise ValueError(f"{scorer.name} returned, for group {name}, {told}.")
        _check_finite(scorer.name, name, answer)


def _fault_of(scores: GroupScores, count: int) -> str:
    """What is wrong with the form of a group's scores; empty if nothing is."""
    if len(scores.candidates) != count:
        return f"{len(scores.candidates)} scores for {count} candidates"
    for candidate in scores.candidates:
        if not isinstance(candidate, CandidateScore | Unscored):
            return f"a {type(candidate).__name__} as the score of a candidate"
    if len({frozenset(score.dimensions) for score in scores.scored.values()}) > 1:
        return "scores in different dimensions for its candidates"
    if scores.probabilities is not None and len(scores.probabilities) != count:
        return f"{len(scores.probabilities)} probabilities for {count} candidates"
    if scores.preferences is not None and [len(row) for row in scores.preferences] != [count] * count:
        return f"preferences that are not {count} by {count}"
    return ""


def complete_scores(scorer: Scorer, group: EditGroup, answer: GroupScores | Unscored) -> GroupScores:
    """The answer, for callers whose images are sound and who need all scores.

    Raises:
        ValueError: the group or one of its candidates is unscored.
    """
    failed = [answer] if isinstance(answer, Unscored) else list(answer.unscored.values())
    if isinstance(answer, Unscored) or failed:
        raise ValueError(f"{scorer.name} could not score group {group.group_id!r}: {failed[0].reason}")
    return answer


def _check_finite(scorer: str, group: str, scores: GroupScores) -> None:
    for index, score in scores.scored.items():
        numbers = {"overall": score.reward, "standard deviation of overall": score.reward_std}
        for name, one in score.dimensions.items():
            numbers |= {name: one.mean, f"standard deviation of {name}": one.std}
        if scores.probabilities is not None:
            numbers["probability to be the best"] = scores.probabilities[index]
        if scores.preferences is not None:
            row = scores.preferences[index]
            numbers |= {f"preference to candidate {place}": row[place] for place in scores.scored}
        for name, number in numbers.items():
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{scorer} returned {number} as {name} of candidate {index} of group {group}.")

"""What is compared on benchmarks: scorers, which rate each edit, and pairwise judges, which see two edits at once.

Both are small interfaces, so that baselines and other people's models are compared on the same footing. A scorer is
called with a batch of groups, a judge with a batch of pairs. Either has a `name` for reports and a `fingerprint`:
a text that differs whenever its answers may differ, under which they are kept (see `cache`).
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from editreward import __version__

if TYPE_CHECKING:
    import torch

    from editreward.scorers.reward_model import EditRewardScorer, EditScore


@dataclass(frozen=True)
class EditGroup:
    """What a scorer sees of a group. Images are the bytes of their files.

    Attributes:
        sources: the image before the edit, or several for an edit of several images.
        instruction: what the edits were to do.
        edited: the candidates.
    """

    sources: tuple[bytes, ...]
    instruction: str
    edited: tuple[bytes, ...]


@dataclass(frozen=True)
class EditPair:
    """What a pairwise judge sees: two edits, in the order in which they are to be shown.

    Attributes:
        sources, instruction: as for `EditGroup`.
        first, second: the edited images, bytes of their files.
        dimension: what the benchmark asks about, "overall" or its own name such as "prompt_following".
        ties: the benchmark asks whether one is better or neither is; otherwise one of them is.
    """

    sources: tuple[bytes, ...]
    instruction: str
    first: bytes
    second: bytes
    dimension: str = "overall"
    ties: bool = False


@dataclass(frozen=True)
class GroupScores:
    """Scores of a group's candidates, in their order. Higher is better; there need not be a scale.

    Attributes:
        overall: what ranks the candidates, shape (candidates,).
        dimensions: scores by dimension, each of shape (candidates,), where the scorer has them.
        stds: standard deviations, by dimension and for "overall", where the scorer has them.
        probabilities: at [i][j] the probability that candidate i is preferred to j, where the scorer has it.
    """

    overall: list[float]
    dimensions: dict[str, list[float]] = field(default_factory=dict)
    stds: dict[str, list[float]] = field(default_factory=dict)
    probabilities: list[list[float]] | None = None


@dataclass(frozen=True)
class Unscored:
    """Stands for an answer that could not be given. It is listed in the result, left out, and asked for again."""

    reason: str


@runtime_checkable
class Scorer(Protocol):
    """Rates every candidate of a group.

    It may also have a `revision`, `notes` for the reader of results, and `calibrated`: whether its scores by dimension
    are on the scale of people's.
    """

    name: str
    fingerprint: str

    def __call__(self, groups: Sequence[EditGroup]) -> Sequence[GroupScores | Unscored]:
        """Score a batch of groups. The answer to a group must not depend on the others of the batch."""
        ...


@runtime_checkable
class PairwiseJudge(Protocol):
    """Compares two edits that it sees at once."""

    name: str
    fingerprint: str

    def compare(self, pairs: Sequence[EditPair]) -> Sequence[float | Unscored]:
        """For each pair by how much the first edit is better: negative if the second is, 0 for a tie."""
        ...


def fingerprint_of(**settings: Any) -> str:
    """A fingerprint made of settings, versions and hashes."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


class RewardModelScorer:
    """An `EditRewardScorer` as a scorer.

    Scores by dimension are on the rubric's scale where the model is calibrated. `overall` is the raw reward.

    Args:
        scorer: the loaded model.
    """

    def __init__(self, scorer: "EditRewardScorer") -> None:
        self.scorer = scorer
        self.name = scorer.name
        self.notes = scorer.notes
        model = scorer.model
        config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
        self.fingerprint = fingerprint_of(
            scorer="editreward",
            weights=weights_hash(model),
            config=hashlib.sha256(fingerprint_of(**config).encode()).hexdigest(),
            processor=saved_hash(scorer.processor),
            code=_code_hash(),
            dtype=str(model.dtype),
            device=model.device.type,
            attention=str(model.config._attn_implementation),
            versions={"editreward": __version__, **versions("torch", "transformers", "pillow")},
        )

    @property
    def calibrated(self) -> bool:
        """Whether scores by dimension are on the rubric's scale."""
        return self.scorer.model.config.calibration is not None

    @property
    def revision(self) -> str | None:
        """The commit of a model that came from the Hub."""
        commit: str | None = getattr(self.scorer.model.config, "_commit_hash", None)
        return commit

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        from editreward.scorers.reward_model import SkippedGroup

        scored = self.scorer.score(
            source=[list(group.sources) if len(group.sources) > 1 else group.sources[0] for group in groups],
            edited=[list(group.edited) for group in groups],
            instruction=[group.instruction for group in groups],
            on_error="skip",
            progress=False,
        )
        return [Unscored(one.reason) if isinstance(one, SkippedGroup) else self._group_scores(one) for one in scored]

    def _group_scores(self, scores: "list[EditScore]") -> GroupScores:
        import torch

        from editreward.statistics.preferences import preference_probability

        mean = torch.tensor([score.reward for score in scores], dtype=torch.float64)
        log_std = torch.tensor([score.reward_std for score in scores], dtype=torch.float64).log()
        link = self.scorer.model.config.preference_link
        preferred = preference_probability(mean[:, None], log_std[:, None], mean, log_std, link=link)
        dimensions = self.scorer.model.config.dimensions
        return GroupScores(
            overall=mean.tolist(),
            dimensions={name: [score.dimensions[name].mean for score in scores] for name in dimensions},
            stds={
                "overall": [score.reward_std for score in scores],
                **{name: [score.dimensions[name].std for score in scores] for name in dimensions},
            },
            probabilities=preferred.tolist(),
        )


class RandomScores:
    """Scores drawn uniformly from 0..1 by a hash of what is scored, so that order and batches do not matter."""

    def __init__(self, seed: int = 0) -> None:
        self.name = "random scores"
        self.seed = seed
        self.fingerprint = fingerprint_of(scorer="random", seed=seed)

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        return [
            GroupScores([_draw(self.seed, *group.sources, group.instruction, edited) for edited in group.edited])
            for group in groups
        ]


class CoinPerPair:
    """A judge that answers each pair independently and at random.

    Where ties are asked for it picks one of four verdicts: first, second, both good, both bad. The last two are ties.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "a coin per pair"
        self.seed = seed
        self.fingerprint = fingerprint_of(scorer="coin", seed=seed)

    def compare(self, pairs: Sequence[EditPair]) -> list[float | Unscored]:
        return [self._answer(pair) for pair in pairs]

    def _answer(self, pair: EditPair) -> float:
        drawn = _draw(self.seed, *pair.sources, pair.instruction, pair.first, pair.second)
        verdicts = (1.0, -1.0, 0.0, 0.0) if pair.ties else (1.0, -1.0)
        return verdicts[int(drawn * len(verdicts))]


def _draw(seed: int, *parts: bytes | str) -> float:
    """A number of 0..1, 1 excluded, that depends on the content alone."""
    return int(content_hash(str(seed), *parts)[:13], 16) / 16**13


def content_hash(*parts: bytes | str) -> str:
    """SHA-256 of a sequence of parts, in hexadecimal. Sequences that differ in any part have different hashes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{type(part).__name__}{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def weights_hash(model: "torch.nn.Module") -> str:
    """SHA-256 over names, types, shapes and values of a model's weights as they are loaded."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def saved_hash(processor: Any) -> str:
    """SHA-256 over the files that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        parts = [(str(path.relative_to(folder)), path.read_bytes()) for path in files]
    return content_hash(*(value for part in parts for value in part))


def _code_hash() -> str:
    """SHA-256 over the code that turns images into scores."""
    import configuration_editreward
    import modeling_editreward
    import processing_editreward

    modules = (configuration_editreward, modeling_editreward, processing_editreward)
    return content_hash(*(Path(str(module.__file__)).read_bytes() for module in modules))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages."""
    return {package: version(package) for package in packages}

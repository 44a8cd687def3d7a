"""The scorer: from images and an instruction to scores, rankings and probabilities.

A group is a source (one image or several), one instruction, and the edited images that are compared, its candidates.
The scorer's methods take one group, or a list of each argument for several groups. The instruction tells which: a list
means several groups, anything else one.
"""

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedConfig

from configuration_editreward import HUB_ARGUMENTS
from editreward.resources import resource
from editreward.scorers.image_cache import SourceImageCache
from editreward.scorers.prompt_prefix import PromptPrefix
from editreward.statistics.preferences import best_of_probabilities, preference_probability
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor, PackedGroup

ImageInput: TypeAlias = Image.Image | np.ndarray | Tensor | str | Path | bytes
SourceInput: TypeAlias = ImageInput | Sequence[ImageInput]

BUNDLED_MODEL = "editreward-tiny"
BUNDLED_NOTE = (
    "The bundled tiny model was trained on simulated scenes and knows nothing else: its scores of photographs mean "
    "nothing."
)
UNCALIBRATED_NOTE = (
    "The model is uncalibrated: its scores have no scale, only differences within a group have a meaning."
)

# Tokens of one forward pass, padding included. On a CPU larger batches gain nothing.
DEFAULT_BATCH_TOKENS = {"cpu": 4096, "gpu": 16384}
# Groups are read ahead up to this many batches, so that groups of similar length meet in a batch.
BATCHES_READ_AHEAD = 4
# Threads that read and resize images while a GPU computes. A CPU's cores are all the model's.
MAX_WORKERS = 8
SECONDS_BEFORE_PROGRESS = 3


class ModelError(ValueError):
    """A model folder or repository that cannot be used; the message says why and what to do."""


class ScoringError(ValueError):
    """A group of a list of groups could not be scored.

    Attributes:
        index: the group's position in the list.
        results: what was computed before, in place; `None` for each group that was not scored.
    """

    def __init__(self, index: int, reason: str, results: "list[list[EditScore] | None]") -> None:
        super().__init__(
            f"{reason} ({sum(result is not None for result in results)} of {len(results)} groups were "
            "scored and are in this exception's `results`; `on_error='skip'` goes on without the failing ones.)"
        )
        self.index = index
        self.results = results


@dataclass(frozen=True)
class DimensionScore:
    """Gaussian score of one candidate in one dimension.

    Attributes:
        mean: on the 1..4 scale of the annotation rubric if `calibrated`, else raw and without a scale.
        std: standard deviation, in the units of `mean`.
        calibrated: whether the model has a calibration.
    """

    mean: float
    std: float
    calibrated: bool


@dataclass(frozen=True)
class EditScore:
    """Score of one candidate. Each dimension is also an attribute: `score.visual_quality.mean`.

    Attributes:
        dimensions: the score in each dimension, by name.
        reward: the aggregate of the dimensions' raw means. Always raw: higher is better, and it has no scale.
        reward_std: its standard deviation.
    """

    dimensions: dict[str, DimensionScore]
    reward: float
    reward_std: float

    def __getattr__(self, name: str) -> DimensionScore:
        # Copying and unpickling ask for attributes before there are any.
        dimensions: dict[str, DimensionScore] = self.__dict__.get("dimensions", {})
        if name in dimensions:
            return dimensions[name]
        raise AttributeError(f"no dimension {name!r}; this score has: {', '.join(dimensions)}")

    def to_dict(self) -> dict[str, Any]:
        """The score as plain dicts and floats, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BestEdit:
    """The candidate of a group with the highest reward, and how sure that is.

    Attributes:
        index: its position among the candidates.
        scores: the scores of all candidates, in the order given.
        probabilities: for each candidate the probability that it is the best of the group.
    """

    index: int
    scores: list[EditScore]
    probabilities: list[float]

    @property
    def probability(self) -> float:
        """Probability that the candidate at `index` is the best."""
        return self.probabilities[self.index]

    @property
    def order(self) -> list[int]:
        """Positions of the candidates by falling reward."""
        return sorted(range(len(self.scores)), key=lambda index: -self.scores[index].reward)

    @property
    def ranks(self) -> list[int]:
        """Rank of each candidate, in the order given; 1 is the best, and equal rewards share a rank."""
        return [1 + sum(other.reward > score.reward for other in self.scores) for score in self.scores]


@dataclass(frozen=True)
class SkippedGroup:
    """Stands in the results for a group that could not be scored (`on_error="skip"`).

    Attributes:
        index: the group's position in the list.
        reason: what is wrong with it.
    """

    index: int
    reason: str


class _Group(NamedTuple):
    source: SourceInput
    edited: Sequence[ImageInput]
    instruction: str


_IndexedGroup: TypeAlias = tuple[int, PackedGroup]


class EditRewardScorer:
    """Scores image edits with a trained reward model.

    Args:
        model: the reward model, on the device where it is to run. It is put into evaluation mode.
        processor: the processor that was saved with it.
        name: what to call the model in reports.
        max_batch_tokens: tokens of one forward pass, padding included. A single longer group is a batch of its own.
            Lower it when memory runs out; by default 16384 on a GPU, 4096 on a CPU.
        num_workers: threads that prepare the next groups while the model computes; 0 prepares them in between. By
            default a thread per core, at most 8, on a GPU, and 0 on a CPU.
        image_cache_size: source images whose features are kept for later calls, see `SourceImageCache`. By default 0:
            every call encodes all its images.
    """

    def __init__(
        self,
        model: EditRewardModel,
        processor: EditRewardProcessor,
        name: str = "EditReward",
        max_batch_tokens: int | None = None,
        num_workers: int | None = None,
        image_cache_size: int = 0,
    ) -> None:
        try:
            processor.check_config(model.config)
        except ValueError as error:
            raise ModelError(f"{name}: {error}") from error
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ValueError(f"`max_batch_tokens` must be positive, got {max_batch_tokens}.")
        if num_workers is None:
            num_workers = 0 if model.device.type == "cpu" else min(MAX_WORKERS, os.cpu_count() or 1)
        if num_workers < 0:
            raise ValueError(f"`num_workers` must not be negative, got {num_workers}.")
        self.num_workers = num_workers
        self.model = model.eval()
        self.reuse_prompt = True  # off to compare with
        self._prefix = PromptPrefix(model, processor)
        self.image_cache = SourceImageCache(model, image_cache_size) if image_cache_size else None
        self.processor = processor
        self.name = name
        self.max_batch_tokens = (
            max_batch_tokens or DEFAULT_BATCH_TOKENS["cpu" if model.device.type == "cpu" else "gpu"]
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        max_batch_tokens: int | None = None,
        image_cache_size: int = 0,
        **hub_options: Any,
    ) -> "EditRewardScorer":
        """Load a model and its processor.

        Args:
            name_or_path: a folder or a Hub repository id. By default the bundled tiny model, which knows simulated
                scenes and nothing else.
            device: where to run. By default CUDA, else Apple's MPS, else the CPU.
            dtype: precision of the backbone; the heads stay in float32 or wider. By default bfloat16 on GPUs that
                support it, else float32.
            attn_implementation: attention kernel, by default the model's own choice.
            max_batch_tokens, image_cache_size: see the class.
            hub_options: `revision`, `token`, `cache_dir` and the like, for a Hub repository.

        Raises:
            ModelError: the folder or repository cannot be used: not found, not an EditReward model, without processor,
                with missing or non-finite weights, or with a processor of another model.
        """
        path = bundled_model() if name_or_path is None else Path(name_or_path).expanduser()
        name = str(path) if path.is_dir() else str(name_or_path)
        device = _choose_device(device)
        dtype = _choose_dtype(dtype, device)
        model, processor = load_model_and_processor(
            name, dtype=dtype, attn_implementation=attn_implementation, **hub_options
        )
        return cls(
            model.to(device),
            processor,
            name=BUNDLED_MODEL if name_or_path is None else name,
            max_batch_tokens=max_batch_tokens,
            image_cache_size=image_cache_size,
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of this model's scores must know."""
        notes = []
        if _is_bundled(self.name):
            notes.append(BUNDLED_NOTE)
        if self.model.config.calibration is None:
            notes.append(UNCALIBRATED_NOTE)
        return notes

    @overload
    def score(
        self, source: SourceInput, edited: Sequence[ImageInput], instruction: str, *, progress: bool | None = None
    ) -> list[EditScore]: ...

    @overload
    def score(
        self,
        source: Sequence[SourceInput],
        edited: Sequence[Sequence[ImageInput]],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["raise"] = "raise",
        progress: bool | None = None,
    ) -> list[list[EditScore]]: ...

    @overload
    def score(
        self, source: Any, edited: Any, instruction: Any, *, on_error: str, progress: bool | None = None
    ) -> Any: ...

    def score(
        self,
        source: Any,
        edited: Any,
        instruction: Any,
        *,
        on_error: str = "raise",
        progress: bool | None = None,
    ) -> Any:
        """Score the candidates of one group, or of several.

        Args:
            source: the image before the edit, or a list of images for an edit of several; for several groups a list of
                these. An image is a PIL image, numpy array, torch tensor, file path, URL or the bytes of a file.
            edited: the candidates, a list of images; for several groups a list of such lists.
            instruction: what the edits were to do; for several groups a list of strings.
            on_error: what a group that cannot be scored does. `"raise"`: it ends the call, for a list of groups with a
                `ScoringError` that carries the results so far. `"skip"`: a `SkippedGroup` takes its place.
            progress: show a progress bar; by default where a call takes more than 3 seconds in a terminal.

        Returns:
            An `EditScore` per candidate, in the order given; for several groups a list of these lists, in the order
            given.

        Raises:
            ScoringError: a group of several cannot be scored (`on_error="raise"`).
            ValueError: the only group cannot be scored, or the arguments do not fit each other. The message names
                the file or argument.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` is {on_error!r}; choose 'raise' or 'skip'.")
        if not _is_list(instruction):
            return self._score([_Group(source, edited, instruction)], on_error, progress, single=True)[0]
        return self._score(_zip_groups(source, edited, instruction), on_error, progress, single=False)

    def stream(
        self, groups: Iterable[tuple[SourceInput, Sequence[ImageInput], str]]
    ) -> Iterator[list[EditScore] | SkippedGroup]:
        """Score groups as they come, without end if need be, in bounded memory.

        Args:
            groups: source, candidates and instruction of each, as [`score`] takes them. Some batches are read ahead.

        Yields:
            For each group, in the order given, an `EditScore` per candidate, or a `SkippedGroup`.
        """
        results: dict[int, list[EditScore] | SkippedGroup] = {}

        def fail(index: int, error: Exception) -> None:
            results[index] = SkippedGroup(index, str(error))

        following = 0
        for batch in itertools.chain(self._batches((_Group(*group) for group in groups), fail, single=False), [[]]):
            if batch:
                self._score_batch(batch, results, fail)
            while following in results:
                yield results.pop(following)
                following += 1

    def best_of(
        self, source: Any, edited: Any, instruction: Any, *, on_error: str = "raise", progress: bool | None = None
    ) -> Any:
        """Find the best candidate of one group, or of each of several.

        Takes the arguments of [`score`] and raises what it raises.

        Returns:
            A `BestEdit`: the index of the candidate with the highest reward, all scores, and the probability of each
            candidate to be the best. For several groups a list, with a `SkippedGroup` for each that was skipped.
        """
        scores = self.score(source, edited, instruction, on_error=on_error, progress=progress)
        if not _is_list(instruction):
            return self._best(scores)
        return [self._best(group) for group in scores]

    def preference(
        self,
        source: Any,
        first: Any,
        second: Any,
        instruction: Any,
        *,
        on_error: str = "raise",
        progress: bool | None = None,
    ) -> Any:
        """Probability that the edit `first` is preferred to the edit `second`.

        Takes an image for each of `first` and `second`, or for several groups a list of images for each, and otherwise
        the arguments of [`score`], and raises what it raises.

        Returns:
            A float; for several groups a list, with a `SkippedGroup` for each that was skipped.
        """
        if not _is_list(instruction):
            scores = self.score(source, [first, second], instruction, on_error=on_error, progress=progress)
            return self._preference(scores)
        _check_lengths(source=source, first=first, second=second, instruction=instruction)
        pairs = [list(pair) for pair in zip(first, second, strict=True)]
        scores = self.score(source, pairs, instruction, on_error=on_error, progress=progress)
        return [self._preference(group) for group in scores]

    def dimension_preferences(self, first: EditScore, second: EditScore) -> dict[str, float]:
        """Probability, in each dimension by itself, that one candidate is preferred to another of its group.

        The scores are taken back to the raw scale that the model's `preference_link` belongs to.

        Args:
            first, second: scores that this scorer gave two candidates of one group.

        Returns:
            P(first preferred) by dimension.
        """
        config = self.model.config
        probabilities = {}
        for name, one in first.dimensions.items():
            other = second.dimensions[name]
            unit = config.calibration[name]["slope"] if one.calibrated else 1.0
            probabilities[name] = float(
                preference_probability(
                    one.mean / unit,
                    math.log(one.std / unit),
                    other.mean / unit,
                    math.log(other.std / unit),
                    link=config.preference_link,
                )
            )
        return probabilities

    def _best(self, scores: list[EditScore] | SkippedGroup) -> BestEdit | SkippedGroup:
        if isinstance(scores, SkippedGroup):
            return scores
        mean, log_std = _rewards(scores)
        probabilities = best_of_probabilities(mean, log_std, link=self.model.config.preference_link)
        return BestEdit(index=int(mean.argmax()), scores=scores, probabilities=probabilities.tolist())

    def _preference(self, scores: list[EditScore] | SkippedGroup) -> float | SkippedGroup:
        if isinstance(scores, SkippedGroup):
            return scores
        mean, log_std = _rewards(scores)
        link = self.model.config.preference_link
        return float(preference_probability(mean[0], log_std[0], mean[1], log_std[1], link=link))

    def _score(
        self, groups: Sequence[_Group], on_error: str, progress: bool | None, single: bool
    ) -> list[list[EditScore] | SkippedGroup]:
        """Score groups; `single` tells that the caller passed one group, not a list of one."""
        results: dict[int, list[EditScore] | SkippedGroup] = {}

        def fail(index: int, error: Exception) -> None:
            if on_error == "skip":
                results[index] = SkippedGroup(index, str(error))
            elif single:
                raise error
            else:
                found = [results.get(number) for number in range(len(groups))]
                scored = [None if isinstance(result, SkippedGroup) else result for result in found]
                raise ScoringError(index, str(error), scored) from error

        with tqdm(
            total=len(groups),
            desc="Scoring",
            unit="group",
            delay=SECONDS_BEFORE_PROGRESS,
            disable=None if progress is None else not progress,
        ) as bar:
            for batch in self._batches(groups, fail, single):
                self._score_batch(batch, results, fail)
                bar.update(len(results) - bar.n)
        return [results[index] for index in range(len(groups))]

    def _packed(self, groups: Iterable[_Group], single: bool) -> Iterator[tuple[int, PackedGroup | Exception]]:
        """The groups with their numbers, in order, or what is wrong with them."""

        def pack(item: tuple[int, _Group]) -> tuple[int, PackedGroup | Exception]:
            index, group = item
            try:
                return index, self.processor.pack(*group, name="" if single else f"groups[{index}].")
            except (ValueError, OSError) as error:
                return index, error

        numbered = enumerate(groups)
        # The first here: it sets options of the tokenizer, which cannot be set while another thread uses it.
        yield from map(pack, numbered if self.num_workers == 0 else itertools.islice(numbered, 1))
        if self.num_workers == 0:
            return
        with ThreadPoolExecutor(self.num_workers) as threads:
            pending: deque[Future[tuple[int, PackedGroup | Exception]]] = deque()
            for item in numbered:
                pending.append(threads.submit(pack, item))
                if len(pending) > 2 * self.num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _batches(
        self, groups: Iterable[_Group], fail: Callable[[int, Exception], None], single: bool
    ) -> Iterator[list[_IndexedGroup]]:
        """Pack the groups and yield batches within the token budget, each of groups of similar length."""
        ahead: list[_IndexedGroup] = []
        tokens = 0
        for index, packed in self._packed(groups, single):
            if isinstance(packed, Exception):
                fail(index, packed)
                continue
            ahead.append((index, packed))
            tokens += packed.num_tokens
            if tokens >= BATCHES_READ_AHEAD * self.max_batch_tokens:
                yield from self._split(ahead)
                ahead, tokens = [], 0
        yield from self._split(ahead)

    def _split(self, groups: list[_IndexedGroup]) -> Iterator[list[_IndexedGroup]]:
        batch: list[_IndexedGroup] = []
        for item in sorted(groups, key=lambda item: item[1].num_tokens):
            # The newcomer is the longest: every row of the batch would be padded to its length.
            if batch and (len(batch) + 1) * item[1].num_tokens > self.max_batch_tokens:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _score_batch(
        self,
        batch: list[_IndexedGroup],
        results: MutableMapping[int, list[EditScore] | SkippedGroup],
        fail: Callable[[int, Exception], None],
    ) -> None:
        scores = None
        try:
            scores = self._forward([packed for _, packed in batch])
        except RuntimeError as error:  # out of memory, above all
            if len(batch) == 1:
                fail(batch[0][0], error)
                return
        if scores is None:
            # Tried again after the handler, not in it: the exception keeps the memory of the failed pass.
            for item in batch:
                self._score_batch([item], results, fail)
            return
        # First what is good: a failing group must not take the results of its batch with it.
        broken = []
        for (index, _), group_scores in zip(batch, scores, strict=True):
            if all(math.isfinite(value) for score in group_scores for value in (score.reward, score.reward_std)):
                results[index] = group_scores
            else:
                broken.append(index)
        for index in broken:
            fail(index, ValueError(f"{self.name} returned NaN or infinite scores; try `dtype='float32'`."))

    @torch.no_grad()
    def _forward(self, groups: list[PackedGroup]) -> list[list[EditScore]]:
        """Scores of the candidates of each group, from one pass through the model."""
        batch = self.processor.collate(groups)
        reused: dict[str, Any] = {}
        if self.image_cache is not None:
            reused["image_features"] = self.image_cache.encode(groups, batch)
            batch["pixel_values"] = None
        if self.reuse_prompt:
            reused["prefix"] = self._prefix.of(batch)
        output = self.model(**_to_device(batch, self.model.device), **reused)
        mean, std = output.mean.tolist(), output.log_std.exp().tolist()
        reward, reward_std = output.reward.tolist(), output.reward_std.tolist()
        scores: list[list[EditScore]] = [[] for _ in groups]
        for candidate, group in enumerate(output.group_index.tolist()):
            by_name = self.model.config.scores(mean[candidate], std[candidate])
            dimensions = {name: DimensionScore(**score) for name, score in by_name.items()}
            scores[group].append(EditScore(dimensions, reward[candidate], reward_std[candidate]))
        return scores


def _to_device(batch: BatchFeature, device: torch.device) -> BatchFeature:
    """A batch on its device; this thread does not wait for copies to a CUDA GPU."""
    if device.type == "cuda":
        batch = BatchFeature({k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()})
    return batch.to(device, non_blocking=device.type == "cuda")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _zip_groups(source: Any, edited: Any, instruction: Sequence[Any]) -> list[_Group]:
    _check_lengths(source=source, edited=edited, instruction=instruction)
    return [_Group(*group) for group in zip(source, edited, instruction, strict=True)]


def _check_lengths(**arguments: Any) -> None:
    """Raise a `ValueError` unless the arguments, those of several groups, are lists of the same length."""
    for name, value in arguments.items():
        if not _is_list(value):
            raise ValueError(
                f"`instruction` is a list, so `{name}` must be a list with an entry per group, got "
                f"{type(value).__name__}. For one group pass the instruction as a string."
            )
    lengths = {name: len(value) for name, value in arguments.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
        raise ValueError(f"The lists must have an entry per group, but their lengths differ: {described}.")


def _rewards(scores: list[EditScore]) -> tuple[Tensor, Tensor]:
    """Raw mean and log standard deviation of the candidates' rewards, each of shape (candidates,), float64."""
    mean = torch.tensor([score.reward for score in scores], dtype=torch.float64)
    std = torch.tensor([score.reward_std for score in scores], dtype=torch.float64)
    return mean, std.log()


def bundled_model() -> Path:
    """Folder of the tiny model that comes with the package.

    Raises:
        ModelError: it is not there.
    """
    try:
        return resource(f"checkpoints/{BUNDLED_MODEL}")
    except FileNotFoundError as error:
        raise ModelError(f"The bundled model is not there: {error} Or name another model.") from error


def _is_bundled(name: str) -> bool:
    return Path(name).resolve().name == BUNDLED_MODEL


def _choose_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each kind of absence
        raise ValueError(f"The device {str(device)!r} cannot be used on this machine; 'cpu' always can.") from error
    return chosen


def _choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"`dtype` is {dtype!r}; choose float32, bfloat16 or float16.")
    return chosen


def load_model_and_processor(name: str, **options: Any) -> tuple[EditRewardModel, EditRewardProcessor]:
    """Load a model, on the CPU, with its processor, and make sure that both can be used.

    Args:
        name: a folder or a Hub repository id.
        options: `dtype` and `attn_implementation` of the model, and `revision`, `token` and the like of a repository.

    Raises:
        ModelError: as `EditRewardScorer.from_pretrained`.
    """
    hub_options = {key: value for key, value in options.items() if key in HUB_ARGUMENTS}
    _check_model_type(name, **hub_options)
    processor = _load_processor(name, **hub_options)
    return _load_model(name, **options), processor


def _check_model_type(name: str, **hub_options: Any) -> None:
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
    except OSError as error:
        if Path(name).is_dir():
            raise _model_error(name, error) from error
        raise ModelError(
            f"{name} is neither a model folder nor a Hub repository that can be reached from here. Check the "
            "spelling; a repository needs a network connection or an earlier download, and a private or gated one "
            "`hf auth login` first."
        ) from error
    if not config:
        raise ModelError(f"{name} is not a model folder: it has no config.json.")
    if config.get("model_type") != "editreward":
        raise ModelError(
            f"{name} holds a model of type {config.get('model_type')!r}, not an EditReward model. A vision-language "
            "model becomes one by training, published weights by `editreward convert`."
        )


def _load_processor(name: str, **hub_options: Any) -> EditRewardProcessor:
    try:
        # The folder's own copy of the code is never run. Left open, transformers asks on the terminal whether it may.
        return EditRewardProcessor.from_pretrained(name, trust_remote_code=False, **hub_options)
    except (OSError, ValueError, TypeError, KeyError) as error:  # transformers has one for each kind of missing file
        raise ModelError(
            f"{name} has no usable processor: {error} Save it beside the model with "
            "`processor.save_pretrained(folder)`."
        ) from error


def _load_model(name: str, **options: Any) -> EditRewardModel:
    """Load a model and make sure that its weights fit and are finite."""
    try:
        # Mismatched weights are let through to be named below: transformers would only point to its log.
        model, info = EditRewardModel.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError) as error:
        raise _model_error(name, error) from error
    except SafetensorError as error:
        raise ModelError(f"{name} holds damaged weights ({error}). Copy it again.") from error
    for key, found, expected in info["mismatched_keys"]:
        raise ModelError(
            f"{name} holds {key} with shape {list(found)}, its config.json asks for {list(expected)}. The two "
            "belong to different models."
        )
    for key, weight in model.named_parameters():
        # Unlike `isfinite`, this needs no memory of the weight's size.
        if not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ModelError(f"{name} holds NaN or infinite numbers in {key}. Copy or train it again.")
    return model


def _model_error(name: str, error: Exception) -> ModelError:
    message = str(error)
    return ModelError(message if name in message else f"{name} cannot be loaded: {message}")

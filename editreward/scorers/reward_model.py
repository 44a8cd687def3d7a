"""The reward model as a scorer: from images and an instruction to scores, rankings and probabilities.

`EditRewardScorer` is a `Scorer`, called with edit groups. Its own methods take one group, or a list of each argument
for several groups. The instruction tells which: a list means several groups, anything else one.
"""

import hashlib
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BatchFeature

from editreward import __version__
from editreward.dense_heads import DenseHeads
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored
from editreward.groups.group import ImageInput
from editreward.groups.where import Where
from editreward.scorers.fingerprints import code_hash, fingerprint_of, saved_hash, versions, weights_hash
from editreward.scorers.image_cache import SourceImageCache
from editreward.scorers.loading import (
    BUNDLED_MODEL,
    ModelError,
    bundled_model,
    choose_device,
    choose_dtype,
    is_bundled,
    load_model_and_processor,
)
from editreward.scorers.prompt_prefix import PromptPrefix
from editreward.scorers.registry import ScorerOptions
from editreward.scorers.where import where
from editreward.scorers.where_model import fits_heads, where_by_gradients, where_by_heads
from editreward.statistics.preferences import best_of_probabilities, preference_probability
from images_editreward import image_list, unstacked
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor, PackedGroup, is_several_groups

SourceInput: TypeAlias = "ImageInput | Sequence[ImageInput]"

BUNDLED_NOTE = (
    "The bundled tiny model was trained on simulated scenes and knows nothing else: its scores of edited photographs "
    "mean little."
)
UNCALIBRATED_NOTE = (
    "The model is uncalibrated: its scores have no scale, only differences within a group have a meaning."
)
SCALE = (1.0, 4.0)
"""Of the annotation rubric, which calibrated scores are on."""

# Tokens of one forward pass, padding included. On a CPU larger batches gain nothing.
DEFAULT_BATCH_TOKENS = {"cpu": 4096, "gpu": 16384}
# Groups are read ahead up to this many batches, so that groups of similar length meet in a batch.
BATCHES_READ_AHEAD = 4
# Threads that read and resize images while a GPU computes. A CPU's cores are all the model's.
MAX_WORKERS = 8
SECONDS_BEFORE_PROGRESS = 3


class ScoringError(ValueError):
    """A group of a list of groups could not be scored.

    Attributes:
        index: the group's position in the list.
        results: what was computed before, in place; `None` for each group that was not scored.
    """

    def __init__(self, index: int, reason: str, results: list[list[CandidateScore] | None]) -> None:
        super().__init__(
            f"{reason} ({sum(result is not None for result in results)} of {len(results)} groups were "
            "scored and are in this exception's `results`; `on_error='skip'` goes on without the failing ones.)"
        )
        self.index = index
        self.results = results


@dataclass(frozen=True, init=False)
class SkippedGroup(Unscored):
    """Stands in a list of results for a group that could not be scored (`on_error="skip"`).

    Attributes:
        index: the group's position in the list.
    """

    index: int = 0

    def __init__(self, index: int, reason: str, answers: tuple[str, ...] = ()) -> None:
        super().__init__(reason, answers)
        object.__setattr__(self, "index", index)


@dataclass(frozen=True)
class _Packed:
    """A group that is ready for the model.

    Attributes:
        index: its position among the groups.
        inputs: what the processor made of it, or of its good candidates.
    """

    index: int
    inputs: PackedGroup


_Scored: TypeAlias = list[CandidateScore | Unscored]
Item = TypeVar("Item")
_Fail: TypeAlias = Callable[[int, Exception], None]


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
        dense_heads: those that stand beside the model, for [`where`].
    """

    def __init__(
        self,
        model: EditRewardModel,
        processor: EditRewardProcessor,
        name: str = "EditReward",
        max_batch_tokens: int | None = None,
        num_workers: int | None = None,
        image_cache_size: int = 0,
        dense_heads: DenseHeads | None = None,
    ) -> None:
        try:
            processor.check_config(model.config)
        except ValueError as error:
            raise ModelError(f"{name}: {error}") from error
        width = model.config.get_text_config().hidden_size
        if dense_heads is not None and dense_heads.hidden_size != width:
            raise ModelError(f"{name}: its dense heads are of width {dense_heads.hidden_size}, the model of {width}.")
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
        self.dense_heads = dense_heads
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
        device = choose_device(device)
        dtype = choose_dtype(dtype, device)
        model, processor = load_model_and_processor(
            name, dtype=dtype, attn_implementation=attn_implementation, **hub_options
        )
        try:
            heads = DenseHeads.find(name, **hub_options)
        except ValueError as error:
            raise ModelError(str(error)) from error
        return cls(
            model.to(device),
            processor,
            name=BUNDLED_MODEL if name_or_path is None else name,
            max_batch_tokens=max_batch_tokens,
            image_cache_size=image_cache_size,
            dense_heads=heads,
        )

    def __repr__(self) -> str:
        scale = "scores 1..4" if self.calibrated else "uncalibrated"
        where = f"{self.model.device}, {str(self.model.dtype).removeprefix('torch.')}"
        return f"EditRewardScorer({self.name!r}, {', '.join(self.dimensions)}, {scale}, {where})"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions that the model scores."""
        return tuple(self.model.config.dimensions)

    @property
    def calibrated(self) -> bool:
        """Whether scores by dimension are on the scale of the annotation rubric."""
        return self.model.config.calibration is not None

    def use_calibration(self, calibration: Mapping[str, Mapping[str, float]] | None) -> None:
        """Put another calibration in place of the model's own; None: raw scores.

        Raises:
            ValueError: it is none, or not of this model's dimensions.
        """
        config = self.model.config
        found = None if calibration is None else {name: dict(line) for name, line in calibration.items()}
        if found is not None:
            config.check_calibration(found)
        config.calibration = found
        self.__dict__.pop("fingerprint", None)

    @property
    def scale(self) -> tuple[float, float] | None:
        """1 and 4, the rubric's lowest and highest score, where the model is calibrated; else None."""
        return SCALE if self.calibrated else None

    @property
    def notes(self) -> list[str]:
        """What a reader of this model's scores must know."""
        notes = []
        if is_bundled(self.name):
            notes.append(BUNDLED_NOTE)
        if not self.calibrated:
            notes.append(UNCALIBRATED_NOTE)
        return notes

    @property
    def revision(self) -> str | None:
        """The commit of a model that came from the Hub."""
        commit: str | None = getattr(self.model.config, "_commit_hash", None)
        return commit

    @cached_property
    def fingerprint(self) -> str:
        """All that the scores depend on: weights, configuration, processor, code, precision and versions."""
        model = self.model
        config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
        return fingerprint_of(
            scorer="editreward",
            weights=weights_hash(model),
            config=hashlib.sha256(fingerprint_of(**config).encode()).hexdigest(),
            processor=saved_hash(self.processor),
            code=code_hash(),
            dtype=str(model.dtype),
            device=model.device.type,
            attention=str(model.config._attn_implementation),
            versions={"editreward": __version__, **versions("torch", "transformers", "pillow")},
        )

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, with preference probabilities, as every `Scorer` does.

        Args:
            groups: the groups.

        Returns:
            For each group, in the order given, its scores. An edited image that cannot be used is an `Unscored` among
            them; a group whose source or instruction cannot be used is an `Unscored` itself.
        """
        return list(self._stream(groups, by_candidate=True))

    def stream(
        self, groups: Iterable[EditGroup | tuple[SourceInput, Sequence[ImageInput], str]]
    ) -> Iterator[list[CandidateScore] | SkippedGroup]:
        """Score groups as they come, without end if need be, in bounded memory.

        Args:
            groups: `EditGroup`s, or source, candidates and instruction of each as [`score`] takes them. Some batches
                are read ahead.

        Yields:
            For each group, in the order given, a `CandidateScore` per candidate, or a `SkippedGroup`.
        """
        made = (group if isinstance(group, EditGroup) else _group(*group) for group in groups)
        for index, scores in enumerate(self._stream(made, by_candidate=False)):
            yield scores.scores if isinstance(scores, GroupScores) else SkippedGroup(index, scores.reason)

    @overload
    def score(
        self, source: SourceInput, edited: Sequence[ImageInput], instruction: str, *, progress: bool | None = None
    ) -> list[CandidateScore]: ...

    @overload
    def score(
        self,
        source: Sequence[SourceInput],
        edited: Sequence[Sequence[ImageInput]],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["raise"] = "raise",
        progress: bool | None = None,
    ) -> list[list[CandidateScore]]: ...

    @overload
    def score(
        self,
        source: Sequence[SourceInput],
        edited: Sequence[Sequence[ImageInput]],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["skip"],
        progress: bool | None = None,
    ) -> list[list[CandidateScore] | SkippedGroup]: ...

    def score(
        self, source: Any, edited: Any, instruction: Any, *, on_error: str = "raise", progress: bool | None = None
    ) -> Any:
        """Score the candidates of one group, or of several.

        Args:
            source: the image before the edit, or a list of images for an edit of several; for several groups a list of
                these. An image is a PIL image, numpy array, torch tensor, file path, URL or the bytes of a file.
            edited: the candidates, a list of images or a 4-D array or tensor; for several groups a list of these.
            instruction: what the edits were to do; for several groups a list of strings, or one for all of them.
            on_error: what a group that cannot be scored does. `"raise"`: it ends the call, for a list of groups with a
                `ScoringError` that carries the results so far. `"skip"`: a `SkippedGroup` takes its place.
            progress: show a progress bar; by default where a call takes more than 3 seconds in a terminal.

        Returns:
            A `CandidateScore` per candidate, in the order given; for several groups a list of these lists, in the
            order given.

        Raises:
            ScoringError: a group of several cannot be scored (`on_error="raise"`).
            ValueError: the only group cannot be scored, or the arguments do not fit each other. The message names
                the file or argument.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` is {on_error!r}; choose 'raise' or 'skip'.")
        instruction = _instructions(edited, instruction)
        if not _is_list(instruction):
            return self._score([_group(source, edited, instruction)], on_error, progress, single=True)[0]
        return self._score(_groups(source, edited, instruction), on_error, progress, single=False)

    @overload
    def best_of(
        self, source: SourceInput, edited: Sequence[ImageInput], instruction: str, *, progress: bool | None = None
    ) -> GroupScores: ...

    @overload
    def best_of(
        self,
        source: Sequence[SourceInput],
        edited: Sequence[Sequence[ImageInput]],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["raise"] = "raise",
        progress: bool | None = None,
    ) -> list[GroupScores]: ...

    @overload
    def best_of(
        self,
        source: Sequence[SourceInput],
        edited: Sequence[Sequence[ImageInput]],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["skip"],
        progress: bool | None = None,
    ) -> list[GroupScores | SkippedGroup]: ...

    def best_of(
        self, source: Any, edited: Any, instruction: Any, *, on_error: Any = "raise", progress: bool | None = None
    ) -> Any:
        """Find the best candidate of one group, or of each of several.

        Takes the arguments of [`score`] and raises what it raises.

        Returns:
            A `GroupScores`: `index`, the candidate with the highest reward; `scores`, of all; and `probabilities`, of
            each candidate to be the best. For several groups a list, with a `SkippedGroup` for each that was skipped.
        """
        scores: Any = self.score(source, edited, instruction, on_error=on_error, progress=progress)
        if not _is_list(_instructions(edited, instruction)):
            return self._with_probabilities(scores)
        return [one if isinstance(one, SkippedGroup) else self._with_probabilities(one) for one in scores]

    @overload
    def preference(
        self,
        source: SourceInput,
        first: ImageInput,
        second: ImageInput,
        instruction: str,
        *,
        progress: bool | None = None,
    ) -> float: ...

    @overload
    def preference(
        self,
        source: Sequence[SourceInput],
        first: Sequence[ImageInput],
        second: Sequence[ImageInput],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["raise"] = "raise",
        progress: bool | None = None,
    ) -> list[float]: ...

    @overload
    def preference(
        self,
        source: Sequence[SourceInput],
        first: Sequence[ImageInput],
        second: Sequence[ImageInput],
        instruction: list[str] | tuple[str, ...],
        *,
        on_error: Literal["skip"],
        progress: bool | None = None,
    ) -> list[float | SkippedGroup]: ...

    def preference(
        self,
        source: Any,
        first: Any,
        second: Any,
        instruction: Any,
        *,
        on_error: Any = "raise",
        progress: bool | None = None,
    ) -> Any:
        """Probability that the edit `first` is preferred to the edit `second`.

        Takes an image for each of `first` and `second`, or for several groups a list of images for each, and otherwise
        the arguments of [`score`], and raises what it raises.

        Returns:
            A float; for several groups a list, with a `SkippedGroup` for each that was skipped.
        """
        edited: Any = [first, second]
        if isinstance(instruction, str) and _is_list(first) and _is_list(second):
            instruction = [instruction] * len(first)
        if is_list := _is_list(instruction):
            _check_lengths(source=source, first=first, second=second, instruction=instruction)
            edited = [list(pair) for pair in zip(first, second, strict=True)]
        found: Any = self.score(source, edited, instruction, on_error=on_error, progress=progress)
        scores = found if is_list else [found]
        probabilities = [one if isinstance(one, SkippedGroup) else self._preferences(one)[0][1] for one in scores]
        return probabilities if is_list else probabilities[0]

    def where(self, source: SourceInput, edited: Sequence[ImageInput], instruction: str) -> list[Where]:
        """Show, for each candidate and dimension, what speaks against it, and where in the image.

        From the dense heads of a model that has some, else from gradients (docs/where.md).

        Args:
            source, edited, instruction: one group, as [`score`] takes it.

        Returns:
            A [`Where`] for each candidate, in the order given: maps over the image, boxes, a heat picture.

        Raises:
            ValueError: the group cannot be scored. The message names the file or argument.
        """
        return where(self, _group(source, edited, instruction))

    def where_group(self, group: EditGroup) -> list[Where]:
        """The same of an `EditGroup`."""
        if self.dense_heads is not None and fits_heads(self.processor, group):
            return where_by_heads(self.model, self.processor, self.dense_heads, group)
        return where_by_gradients(self.model, self.processor, group)

    def dimension_preferences(self, first: CandidateScore, second: CandidateScore) -> dict[str, float]:
        """Probability, in each dimension by itself, that one candidate is preferred to another of its group.

        The scores are taken back to the raw scale that the model's `preference_link` belongs to.

        Args:
            first, second: scores that this scorer gave two candidates of one group.

        Returns:
            P(first preferred) by dimension.
        """
        config = self.model.config
        probabilities = {}
        for name in first.dimensions:
            one, other = first.dimensions[name], second.dimensions[name]
            line = config.calibration[name] if one.calibrated else {"slope": 1.0}
            unit, std_unit = line["slope"], line["slope"] * line.get("std_factor", 1.0)
            probability = preference_probability(
                one.mean / unit,
                math.log(_std(one.std) / std_unit),
                other.mean / unit,
                math.log(_std(other.std) / std_unit),
                link=config.preference_link,
            )
            probabilities[name] = float(probability)
        return probabilities

    def _preferences(self, scores: Sequence[CandidateScore]) -> list[list[float]]:
        """At [i][j] the probability that candidate i is preferred to j."""
        mean, log_std = _rewards(scores)
        link = self.model.config.preference_link
        return preference_probability(mean[:, None], log_std[:, None], mean, log_std, link=link).tolist()

    def _with_probabilities(self, candidates: Sequence[CandidateScore | Unscored]) -> GroupScores:
        """Scores of a group with what its scored candidates' Gaussians say of preferences and of the best one."""
        scored = GroupScores(tuple(candidates)).scored
        if not scored:
            return GroupScores(tuple(candidates))
        places, scores = list(scored), list(scored.values())
        preferences = self._preferences(scores)
        if len(scores) == 1:  # it is the best of nothing
            best = None
        else:
            best = best_of_probabilities(*_rewards(scores), link=self.model.config.preference_link).tolist()
        if len(places) < len(candidates):
            best = best and _spread(best, places, len(candidates), math.nan)
            rows = [_spread(row, places, len(candidates), math.nan) for row in preferences]
            preferences = _spread(rows, places, len(candidates), [math.nan] * len(candidates))
        return GroupScores(tuple(candidates), preferences, best)

    def _stream(self, groups: Iterable[EditGroup], by_candidate: bool) -> Iterator[GroupScores | Unscored]:
        """Scores of groups in the order given.

        Args:
            groups: read some batches ahead.
            by_candidate: score what is good of a group with broken candidates, and give probabilities.
        """
        results: dict[int, _Scored | Unscored] = {}

        def fail(index: int, error: Exception) -> None:
            results[index] = Unscored(str(error))

        following = 0
        for batch in itertools.chain(self._batches(groups, fail, lambda index: "", by_candidate), [[]]):
            if batch:
                self._score_batch(batch, results, fail)
            while following in results:
                scores = results.pop(following)
                if isinstance(scores, Unscored):
                    yield scores
                else:
                    yield self._with_probabilities(scores) if by_candidate else GroupScores(tuple(scores))
                following += 1

    def _score(self, groups: Sequence[EditGroup], on_error: str, progress: bool | None, single: bool) -> list[Any]:
        """Scores of all candidates of groups, each group a list; `SkippedGroup`s as `on_error` says."""
        results: dict[int, _Scored | Unscored] = {}

        def fail(index: int, error: Exception) -> None:
            if on_error == "skip":
                results[index] = SkippedGroup(index, str(error))
            elif single:
                raise error
            else:
                found: list[Any] = [results.get(number) for number in range(len(groups))]
                raise ScoringError(index, str(error), found) from error

        def prefix(index: int) -> str:
            return "" if single else f"groups[{index}]."

        with tqdm(
            total=len(groups),
            desc="Scoring",
            unit="group",
            delay=SECONDS_BEFORE_PROGRESS,
            disable=None if progress is None else not progress,
        ) as bar:
            for batch in self._batches(groups, fail, prefix, by_candidate=False):
                self._score_batch(batch, results, fail)
                bar.update(len(results) - bar.n)
        return [results[index] for index in range(len(groups))]

    def _pack(self, index: int, group: EditGroup, prefix: str, by_candidate: bool) -> _Packed | Exception:
        """A group made ready, or what is wrong with it."""
        try:
            inputs = self.processor.pack(
                group.source, list(group.edited), group.instruction, name=prefix, skip_broken=by_candidate
            )
        except (ValueError, OSError) as error:
            return error
        return _Packed(index, inputs)

    def _packed(
        self, groups: Iterable[EditGroup], prefix: Callable[[int], str], by_candidate: bool
    ) -> Iterator[tuple[int, _Packed | Exception]]:
        """The groups with their numbers, in order, or what is wrong with them."""

        def pack(item: tuple[int, EditGroup]) -> tuple[int, _Packed | Exception]:
            index, group = item
            return index, self._pack(index, group, prefix(index), by_candidate)

        numbered = enumerate(groups)
        # The first here: it sets options of the tokenizer, which cannot be set while another thread uses it.
        yield from map(pack, numbered if self.num_workers == 0 else itertools.islice(numbered, 1))
        if self.num_workers == 0:
            return
        with ThreadPoolExecutor(self.num_workers) as threads:
            pending: deque[Future[tuple[int, _Packed | Exception]]] = deque()
            for item in numbered:
                pending.append(threads.submit(pack, item))
                if len(pending) > 2 * self.num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _batches(
        self, groups: Iterable[EditGroup], fail: _Fail, prefix: Callable[[int], str], by_candidate: bool
    ) -> Iterator[list[_Packed]]:
        """Pack the groups and yield batches within the token budget, each of groups of similar length."""
        ahead: list[_Packed] = []
        tokens = 0
        for index, packed in self._packed(groups, prefix, by_candidate):
            if isinstance(packed, Exception):
                fail(index, packed)
                continue
            ahead.append(packed)
            tokens += packed.inputs.num_tokens
            if tokens >= BATCHES_READ_AHEAD * self.max_batch_tokens:
                yield from self._split(ahead)
                ahead, tokens = [], 0
        yield from self._split(ahead)

    def _split(self, groups: list[_Packed]) -> Iterator[list[_Packed]]:
        batch: list[_Packed] = []
        for item in sorted(groups, key=lambda item: item.inputs.num_tokens):
            # The newcomer is the longest: every row of the batch would be padded to its length.
            if batch and (len(batch) + 1) * item.inputs.num_tokens > self.max_batch_tokens:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _score_batch(self, batch: list[_Packed], results: dict[int, _Scored | Unscored], fail: _Fail) -> None:
        scores = None
        try:
            scores = self._forward([packed.inputs for packed in batch])
        except RuntimeError as error:  # out of memory, above all
            if len(batch) == 1:
                fail(batch[0].index, error)
                return
        if scores is None:
            # Tried again after the handler, not in it: the exception keeps the memory of the failed pass.
            for item in batch:
                self._score_batch([item], results, fail)
            return
        # First what is good: a failing group must not take the results of its batch with it.
        not_finite = []
        for packed, group_scores in zip(batch, scores, strict=True):
            if all(math.isfinite(value) for score in group_scores for value in (score.reward, _std(score.reward_std))):
                broken = packed.inputs.broken
                places = [place for place in range(len(group_scores) + len(broken)) if place not in broken]
                by_place: dict[int, CandidateScore | Unscored] = dict(zip(places, group_scores, strict=True))
                by_place |= {place: Unscored(str(error)) for place, error in broken.items()}
                results[packed.index] = [by_place[place] for place in sorted(by_place)]
            else:
                not_finite.append(packed.index)
        for index in not_finite:
            fail(index, ValueError(f"{self.name} returned NaN or infinite scores; try `dtype='float32'`."))

    @torch.no_grad()
    def _forward(self, groups: list[PackedGroup]) -> list[list[CandidateScore]]:
        """Scores of the candidates of each group, from one pass through the model."""
        batch = self.processor.collate(groups)
        reused: dict[str, object] = {}
        if self.image_cache is not None:
            reused["image_features"] = self.image_cache.encode(groups, batch)
            batch["pixel_values"] = None
        if self.reuse_prompt:
            reused["prefix"] = self._prefix.of(batch)
        output = self.model(**_to_device(batch, self.model.device), **reused)
        mean, std = output.mean.tolist(), output.log_std.exp().tolist()
        reward, reward_std = output.reward.tolist(), output.reward_std.tolist()
        scores: list[list[CandidateScore]] = [[] for _ in groups]
        config = self.model.config
        for candidate, group in enumerate(output.group_index.tolist()):
            by_name = config.scores(mean[candidate], std[candidate])
            dimensions = {name: DimensionScore(**score) for name, score in by_name.items()}
            overall = config.overall_score(reward[candidate], reward_std[candidate])
            scores[group].append(
                CandidateScore(
                    dimensions,
                    reward[candidate],
                    reward_std[candidate],
                    overall=None if overall is None else DimensionScore(**overall),
                )
            )
        return scores


def _to_device(batch: BatchFeature, device: torch.device) -> BatchFeature:
    """A batch on its device; this thread does not wait for copies to a CUDA GPU."""
    if device.type == "cuda":
        batch = BatchFeature({k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()})
    return batch.to(device, non_blocking=device.type == "cuda")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _group(source: Any, edited: Any, instruction: Any) -> EditGroup:
    """A group from the arguments of `score`, in which a single image stands for a list of one."""
    sources = source if isinstance(source, list | tuple) else [source]
    return EditGroup(sources, instruction, image_list(edited))


def _instructions(edited: Any, instruction: Any) -> Any:
    """An instruction, or a list of them where there are several groups, which one instruction may be for all of."""
    several = isinstance(instruction, str) and is_several_groups(edited)
    return [instruction] * len(edited) if several else instruction


def _groups(source: Any, edited: Any, instruction: Sequence[Any]) -> list[EditGroup]:
    source, edited = unstacked(source, 4), unstacked(edited, 5)
    _check_lengths(source=source, edited=edited, instruction=instruction)
    return [_group(*group) for group in zip(source, edited, instruction, strict=True)]


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


def _std(std: float | None) -> float:
    """A standard deviation that a reward model always gives."""
    assert std is not None
    return std


def _rewards(scores: Sequence[CandidateScore]) -> tuple[Tensor, Tensor]:
    """Raw mean and log standard deviation of the candidates' rewards, each of shape (candidates,), float64."""
    mean = torch.tensor([score.reward for score in scores], dtype=torch.float64)
    std = torch.tensor([_std(score.reward_std) for score in scores], dtype=torch.float64)
    return mean, std.log()


def _spread(values: Sequence[Item], places: Sequence[int], length: int, empty: Item) -> list[Item]:
    """A list in which the values have these places, and the others are empty."""
    found = dict(zip(places, values, strict=True))
    return [found.get(place, empty) for place in range(length)]


def load(name: str, argument: str | None, options: ScorerOptions) -> EditRewardScorer:
    """Made by the registry: a folder or Hub id, or without one the bundled model."""
    import transformers
    from huggingface_hub.utils.tqdm import enable_progress_bars

    transformers.logging.disable_progress_bar()
    enable_progress_bars()  # of downloads: the line above turns these off too
    hub_options: dict[str, Any] = {"revision": options.revision} if options.revision else {}
    return EditRewardScorer.from_pretrained(
        argument,
        device=options.place,
        dtype=options.dtype,
        max_batch_tokens=options.max_batch_tokens,
        **hub_options,
    )

"""From the images of a request to its scores: limits, decoding, the batcher, and what failed in its place."""

import asyncio
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.groups.group import ImageInput
from editreward.rewards.inputs import from_base64
from editreward.rewards.reward import checked, reward_version
from editreward.rewards.shaping import Shaping
from editreward.scorers.batching import Batcher, Closed, DeadlineExceeded, QueueFull
from editreward.serving.errors import Fault, RequestError, refused
from editreward.serving.gate import Budget, Holding
from editreward.serving.logs import log
from editreward.serving.metrics import Metrics
from editreward.serving.settings import Settings
from editreward.serving.urls import Fetcher
from images_editreward import image_size, load_image

WireImage: TypeAlias = str | bytes
"""Base64, data URI or address; or the bytes of an uploaded file."""


@dataclass(frozen=True)
class AskedGroup:
    """A group of a request, before its images are decoded.

    Attributes:
        sources, instruction, edited, group_id: as for `EditGroup`.
        names: what errors call each source and each edit, in this order: its field in the request.
    """

    sources: Sequence[WireImage]
    instruction: str
    edited: Sequence[WireImage]
    names: Sequence[str]
    group_id: str = ""


@dataclass(frozen=True)
class AnsweredGroup:
    """What became of a group.

    Attributes:
        scores: with an `Unscored` in place of each edit that failed.
        shaped: the reward of each edit; None for what failed.
        error: why the whole group failed.
        faults: fields of the request that failed.
    """

    scores: GroupScores
    shaped: list[float | None]
    error: str | None = None
    faults: list[Fault] = field(default_factory=list)


@dataclass
class _Decoded:
    """Images of a group, or what is wrong with them, in the order of `AskedGroup.names`."""

    images: "list[ImageInput | None]"
    faults: list[Fault]


class Service:
    """Scores the groups of all requests.

    Args:
        scorers: one scorer, or replicas of it: they share the load.
        shaping: what rewards are made of its scores.
        settings: the limits.
        metrics: what is counted.

    Attributes:
        version: of the rewards, see `reward_version`. Made here: to hash the weights takes seconds.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        shaping: Shaping | None = None,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.scorer, self.shaping = scorers[0], shaping or Shaping()
        self.settings, self.metrics = settings or Settings(), metrics or Metrics()
        self.shaping.check([self.scorer.dimensions], [self.scorer.scale])
        self.version = reward_version([self.scorer], self.shaping)
        self.budget = Budget(self.settings.limits.held_bytes, self.metrics)
        # Decoded here, in threads, the way the scorer would: its own way changes a decoded image no more. But a JPEG
        # file that it decodes at half its size must come to it as it is.
        processor = getattr(self.scorer, "processor", None)
        self._image_mode = getattr(processor, "image_mode", "upright")
        self._passes_files = getattr(processor, "jpeg_draft", False)
        self._fetcher = Fetcher(self.settings.allowed_urls, self.settings.limits.body_bytes)
        self._decoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decoder")
        self.batcher = Batcher(
            scorers,
            max_edits=self.settings.max_edits,
            max_wait=self.settings.max_wait,
            max_queued=self.settings.max_queued,
            events=self.metrics,
        )
        self.metrics.watch_queue(lambda: float(self.batcher.queued))

    def close(self) -> None:
        """Finish what was accepted, and end."""
        self.batcher.close()
        self._decoders.shutdown()

    async def score(self, groups: Sequence[AskedGroup], deadline: float) -> list[AnsweredGroup]:
        """Score groups.

        Args:
            groups: of one request.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestError: the request is beyond a limit, there is no room for it, it is late, or the scorer failed at
                all of it.
        """
        self._check_limits(groups)
        self._check_room(groups)
        holding = Holding(self.budget, sum(len(one) for group in groups for one in (*group.sources, *group.edited)))
        try:
            with self.metrics.stage("decode"):
                decoded = await asyncio.gather(*(self._decode(group, deadline, holding) for group in groups))
            answers = await self._answers(groups, decoded, deadline)
            made = [self._made(*one) for one in zip(groups, decoded, answers, strict=True)]
        finally:
            holding.end()
        for one in made:
            self._count(one)
        return made

    def _check_limits(self, groups: Sequence[AskedGroup]) -> None:
        limits = self.settings.limits
        faults: list[Fault] = []

        def check(count: int, limit: int, where: str, what: str) -> None:
            if count > limit:
                faults.append({"field": where, "reason": f"{count:,} {what}; at most {limit:,} are accepted"})

        check(len(groups), limits.groups, "groups", "groups")
        check(sum(len(group.edited) for group in groups), limits.edits, "groups", "edits in all")
        for group in groups:
            source, edit = group.names[0], group.names[len(group.sources)]
            check(len(group.sources), limits.sources, source.rpartition(".")[0], "source images")
            check(len(group.edited), limits.candidates, edit.rpartition(".")[0], "edits of one source")
            where = f"{source.rpartition('.')[0].rpartition('.')[0]}.instruction".lstrip(".")
            check(len(group.instruction), limits.instruction_characters, where, "characters")
        if faults:
            raise refused(faults, 413)

    def _check_room(self, groups: Sequence[AskedGroup]) -> None:
        """Refuse before work is done on what the batcher would refuse."""
        edits = sum(len(group.edited) for group in groups)
        if self.batcher.queued and self.batcher.queued + edits > self.batcher.max_queued:
            raise _overloaded(self.batcher.seconds_of_queue())

    async def _decode(self, group: AskedGroup, deadline: float, holding: Holding) -> _Decoded:
        """Images of a group, fetched where they are addresses, and decoded in a thread."""
        given: list[WireImage | ValueError] = []
        for image in (*group.sources, *group.edited):
            try:
                is_address = isinstance(image, str) and image.startswith(("http://", "https://"))
                given.append(await self._fetcher.fetch(str(image)) if is_address else image)
            except ValueError as error:
                given.append(error)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, self._decode_all, group.names, given, deadline, holding)

    def _decode_all(
        self, names: Sequence[str], given: Sequence[WireImage | ValueError], deadline: float, holding: Holding
    ) -> _Decoded:
        images: list[ImageInput | None] = []
        faults: list[Fault] = []
        for name, image in zip(names, given, strict=True):
            if time.monotonic() >= deadline:
                raise _late()
            try:
                images.append(self._decode_one(image, name, holding))
            except ValueError as error:
                images.append(None)
                faults.append({"field": name, "reason": str(error).removeprefix(name).lstrip(": ")})
        return _Decoded(images, faults)

    def _decode_one(self, image: WireImage | ValueError, name: str, holding: Holding) -> ImageInput:
        if isinstance(image, ValueError):
            raise image
        content = from_base64(image, name) if isinstance(image, str) else image
        height, width = image_size(content, name)
        self._check_pixels(height * width, name)
        holding.take(3 * height * width)
        decoded = load_image(content, name, self._image_mode)
        return content if self._passes_files else decoded

    def _check_pixels(self, count: int, name: str) -> None:
        limit = self.settings.limits.image_pixels
        if count > limit:
            raise ValueError(f"{name} has {count:,} pixels; at most {limit:,} are accepted")

    async def _answers(
        self, groups: Sequence[AskedGroup], decoded: Sequence[_Decoded], deadline: float
    ) -> list[GroupScores | Unscored | None]:
        """Answers to what could be decoded; None to the rest.

        Raises:
            RequestError: see `score`.
        """
        asked: dict[int, EditGroup] = {}
        for number, (group, one) in enumerate(zip(groups, decoded, strict=True)):
            sources = [image for image in one.images[: len(group.sources)] if image is not None]
            edited = [image for image in one.images[len(group.sources) :] if image is not None]
            if len(sources) == len(group.sources) and edited:
                asked[number] = EditGroup(sources, group.instruction, edited, group.group_id)
        found: list[GroupScores | Unscored | None] = [None] * len(groups)
        try:
            futures = self.batcher.submit(list(asked.values()), deadline)
        except QueueFull as error:
            raise _overloaded(error.retry_after) from error
        except Closed as error:
            raise RequestError(503, str(error), retry_after=1) from error
        waiting = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                answers = await waiting
        except TimeoutError as error:
            raise _late() from error
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors and len(errors) == len(asked):
            raise _failure(errors[0])
        for number, answer in zip(asked, answers, strict=True):
            found[number] = self._usable(asked[number], answer)
        return found

    def _usable(self, group: EditGroup, answer: GroupScores | Unscored | BaseException) -> GroupScores | Unscored:
        if isinstance(answer, BaseException):
            if not isinstance(answer, DeadlineExceeded | Closed):
                log("scorer failed", 40, answer)
            return Unscored(f"the scorer failed ({type(answer).__name__})")
        return checked(self.scorer, group, answer)

    def _made(self, group: AskedGroup, decoded: _Decoded, answer: GroupScores | Unscored | None) -> AnsweredGroup:
        """The answer with what failed in its place, and rewards."""
        count = len(group.edited)
        reasons = {fault["field"]: fault["reason"] for fault in decoded.faults}
        broken = [group.names[i] for i in range(len(group.sources)) if decoded.images[i] is None]
        if broken:
            answer = Unscored(f"a source image failed: {reasons[broken[0]]}")
        if isinstance(answer, Unscored):
            whole = GroupScores((answer,) * count)
            return AnsweredGroup(whole, [None] * count, answer.reason, decoded.faults)
        edits = decoded.images[len(group.sources) :]
        names = group.names[len(group.sources) :]
        failed = {i: Unscored(reasons[names[i]]) for i, image in enumerate(edits) if image is None}
        whole = GroupScores((), None) if answer is None else answer
        scores = with_failures(whole, failed, count)
        try:
            rewards, unshaped = self.shaping([scores])
        except ValueError as error:  # of a scorer that lacks what the shaping needs
            rewards, unshaped = np.full(count, math.nan), dict.fromkeys(range(count), str(error))
        candidates = tuple(
            Unscored(unshaped[i]) if i in unshaped and i not in scores.unscored else one
            for i, one in enumerate(scores.candidates)
        )
        shaped = [None if math.isnan(value) else float(np.float32(value)) for value in rewards]
        scores = GroupScores(candidates, scores.preferences, scores.probabilities)
        return AnsweredGroup(scores, shaped, None, decoded.faults)

    def _count(self, answer: AnsweredGroup) -> None:
        failed = sum(value is None for value in answer.shaped)
        self.metrics.items.labels("failed").inc(failed)
        self.metrics.items.labels("scored").inc(len(answer.shaped) - failed)
        self.metrics.failures.labels("image").inc(len(answer.faults))
        self.metrics.failures.labels("scorer").inc(max(failed - len(answer.faults), 0))


def with_failures(scores: GroupScores, failed: dict[int, Unscored], count: int) -> GroupScores:
    """Scores of a group of which the scorer saw only what could be decoded, with the rest in its place.

    Args:
        scores: of the others, in their order.
        failed: why the rest failed, by position.
        count: edits of the whole group.
    """
    if not failed:
        return scores
    places = [index for index in range(count) if index not in failed]
    found = dict(zip(places, scores.candidates, strict=True))
    candidates = tuple(failed[index] if index in failed else found[index] for index in range(count))
    preferences = probabilities = None
    if scores.preferences is not None:
        table = np.full((count, count), math.nan)
        table[np.ix_(places, places)] = scores.preferences
        preferences = table.tolist()
    if scores.probabilities is not None:
        row = np.full(count, math.nan)
        row[places] = scores.probabilities
        probabilities = row.tolist()
    return GroupScores(candidates, preferences, probabilities)


def _overloaded(retry_after: float) -> RequestError:
    return RequestError(429, "The queue is full; try again.", retry_after=retry_after)


def _late() -> RequestError:
    return RequestError(504, "The request's time was over before it was scored.")


def _failure(error: BaseException) -> RequestError:
    """What a request gets of which nothing was scored."""
    if isinstance(error, DeadlineExceeded):
        return _late()
    if isinstance(error, Closed):
        return RequestError(503, str(error), retry_after=1)
    log("scorer failed", 40, error)
    return RequestError(500, f"The scorer failed ({type(error).__name__}); the server's log says more.")

"""The model behind the Space: loaded once, shared by all who wait, and its answers as plain data."""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from editreward.scorers.reward_model import BestEdit, EditRewardScorer, SkippedGroup
from editreward.serving.sharing import GroupInput, SharedScorer
from editreward_space.images import NamedImage
from editreward_space.settings import InputError, Settings


@dataclass(frozen=True)
class Group:
    """One group as a user sent it."""

    sources: list[NamedImage]
    edited: list[NamedImage]
    instruction: str


class Service:
    """Scores the groups of all users with one model.

    Args:
        scorer: the model.
        settings: the limits.
    """

    def __init__(self, scorer: EditRewardScorer, settings: Settings) -> None:
        self.scorer, self.settings = scorer, settings
        self._shared = SharedScorer(on_zero_gpu(scorer.best_of))

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Load the model that the settings name."""
        options: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
        return cls(EditRewardScorer.from_pretrained(settings.model or None, **options), settings)

    def rank(self, group: Group) -> BestEdit:
        """Score one group.

        Raises:
            InputError: it is outside the limits, or cannot be scored.
        """
        self.check(group)
        (result,) = self.rank_all([group])
        if isinstance(result, SkippedGroup):
            raise InputError(result.reason)
        return result

    def rank_all(self, groups: Sequence[Group]) -> list[BestEdit | SkippedGroup]:
        """Score groups that `check` let through; the reasons of skipped ones name files.

        Raises:
            InputError: the model stays busy with others.
        """
        inputs = [GroupInput(_contents(group.sources), _contents(group.edited), group.instruction) for group in groups]
        try:
            results = self._shared.best_of(inputs, timeout=self.settings.request_seconds)
        except TimeoutError as error:
            raise InputError(str(error)) from error
        return [name_files(result, group) for group, result in zip(groups, results, strict=True)]

    def check(self, group: Group) -> None:
        """Be sure that a group is complete and within the limits.

        Raises:
            InputError: it is not.
        """
        settings = self.settings
        if not group.sources:
            raise InputError("There is no source image. Add the image before the edit.")
        if not group.edited:
            raise InputError("There is no edited image. Add at least one.")
        if not group.instruction.strip():
            raise InputError("The instruction is empty. Say what the edit was meant to do.")
        if len(group.sources) > settings.max_sources:
            raise InputError(f"{len(group.sources)} source images; at most {settings.max_sources} are accepted.")
        if len(group.edited) > settings.max_candidates:
            raise InputError(f"{len(group.edited)} edited images; at most {settings.max_candidates} are accepted.")
        megapixels = sum(image.pixels for image in (*group.sources, *group.edited)) // 1_000_000
        if megapixels > settings.max_group_megapixels:
            raise InputError(
                f"The images have {megapixels} megapixels together; at most {settings.max_group_megapixels} are "
                "accepted. Make them smaller."
            )
        if len(group.instruction) > settings.max_instruction:
            raise InputError(f"The instruction is longer than {settings.max_instruction} characters. Shorten it.")

    def describe(self) -> dict[str, Any]:
        """The model: name, dimensions, whether its scores have a scale, and what readers must know."""
        config = self.scorer.model.config
        return {
            "model": self.scorer.name,
            "dimensions": list(config.dimensions),
            "calibrated": config.calibration is not None,
            "notes": self.scorer.notes,
        }

    def ranking(self, names: Sequence[str], best: BestEdit) -> dict[str, Any]:
        """A ranked group as plain data, best edit first."""
        candidates = [
            {
                "index": index,  # among those that were sent: names may be alike
                "name": names[index],
                "rank": best.ranks[index],
                "probability_best": best.probabilities[index],
                **best.scores[index].to_dict(),
            }
            for index in best.order
        ]
        return {**self.describe(), "candidates": candidates}

    def comparison(self, names: Sequence[str], best: BestEdit) -> dict[str, Any]:
        """A group of two as plain data: probabilities that the first is preferred, and both scores."""
        first, second = best.scores
        return {
            **self.describe(),
            "probability_first": best.probabilities[0],
            "probability_first_by_dimension": self.scorer.dimension_preferences(first, second),
            "first": {"name": names[0], **first.to_dict()},
            "second": {"name": names[1], **second.to_dict()},
        }


def on_zero_gpu(function: Any) -> Any:
    """Let a function run on a GPU that is lent for the call, where the Space has that hardware (package `spaces`)."""
    if importlib.util.find_spec("spaces") is None:
        return function
    return importlib.import_module("spaces").GPU(function)


def name_files(result: BestEdit | SkippedGroup, group: Group) -> BestEdit | SkippedGroup:
    """A reason of the processor with the file's name in place of its argument's (`edited[2] cannot ...`)."""
    if isinstance(result, BestEdit) or not (found := re.match(r"(source|edited)(?:\[(\d+)\])?(?= )", result.reason)):
        return result
    images = group.sources if found[1] == "source" else group.edited
    return replace(result, reason=images[int(found[2] or 0)].name + result.reason[found.end() :])


def _contents(images: Sequence[NamedImage]) -> list[bytes]:
    return [image.content for image in images]

"""The model behind the Space: loaded once, shared by all who wait, and its answers as plain data."""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from editreward import load_scorer
from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.groups.where import Where
from editreward.serving.sharing import SharedScorer
from editreward_space.images import NamedImage
from editreward_space.quota import Quota
from editreward_space.settings import MEGABYTE, InputError, Settings


@dataclass(frozen=True)
class Upload:
    """One group as a user sent it, with the names of its files."""

    sources: list[NamedImage]
    edited: list[NamedImage]
    instruction: str

    @property
    def group(self) -> EditGroup:
        """The group without names."""
        sources, edited = ([image.content for image in images] for images in (self.sources, self.edited))
        return EditGroup(sources, self.instruction, edited)


class Service:
    """Scores the groups of all users with one scorer.

    Args:
        scorer: any scorer.
        settings: the limits.
    """

    def __init__(self, scorer: Scorer, settings: Settings) -> None:
        self.scorer, self.settings = scorer, settings
        self.quota = Quota(settings.max_stored_mb * MEGABYTE)
        self._shared = SharedScorer(on_zero_gpu(scorer.__call__))
        where = getattr(
            scorer, "where_group", None
        )  # of any other scorer it would cost dozens of passes for each edit
        self._where = None if where is None else on_zero_gpu(where)

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Load the model that the settings name."""
        return cls(load_scorer(settings.model or None, revision=settings.revision or None), settings)

    def rank(self, group: Upload) -> GroupScores:
        """Score one group.

        Raises:
            InputError: it is outside the limits, or an image of it cannot be scored.
        """
        self.check(group)
        (result,) = self.rank_all([group])
        if isinstance(result, Unscored):
            raise InputError(result.reason)
        for unscored in result.unscored.values():
            raise InputError(unscored.reason)
        return result

    @property
    def shows_where(self) -> bool:
        """Whether the scorer can show where something speaks against an edit."""
        return self._where is not None

    def where(self, group: EditGroup) -> list[Where]:
        """What speaks against each edit of a group that was ranked, of small copies of its images.

        Raises:
            InputError: the model stays busy with others, or cannot tell.
        """
        where = self._where
        assert where is not None
        try:
            found: list[Where] = self._shared.alone(lambda: where(group), self.settings.request_seconds)
        except (TimeoutError, ValueError) as error:
            raise InputError(str(error)) from error
        return found

    def rank_all(self, groups: Sequence[Upload]) -> list[GroupScores | Unscored]:
        """Score groups that `check` let through; the reasons of unscored ones name files.

        Raises:
            InputError: the model stays busy with others.
        """
        try:
            results = self._shared([group.group for group in groups], timeout=self.settings.request_seconds)
        except TimeoutError as error:
            raise InputError(str(error)) from error
        return [name_files(result, group) for group, result in zip(groups, results, strict=True)]

    def check(self, group: Upload) -> None:
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
        """The model: name, dimensions, whether its scores are on people's scale, and what readers must know."""
        scorer = self.scorer
        return {
            "model": scorer.name,
            "dimensions": list(scorer.dimensions),
            "calibrated": scorer.calibrated,
            "notes": list(scorer.notes),
        }

    def ranking(self, names: Sequence[str], scores: GroupScores) -> dict[str, Any]:
        """A ranked group as plain data, best edit first; `index` is the place among those that were sent."""
        plain = scores.to_dict()["candidates"]
        candidates = [{"index": index, "name": names[index], **plain[index]} for index in scores.order]
        return {**self.describe(), "candidates": candidates}

    def comparison(self, names: Sequence[str], scores: GroupScores) -> dict[str, Any]:
        """A group of two as plain data: probabilities that the first is preferred, and both scores."""
        first, second = scores.scores
        by_dimension = getattr(self.scorer, "dimension_preferences", None)  # reward models have it
        return {
            **self.describe(),
            "probability_first": scores.preferences[0][1] if scores.preferences else None,
            "probability_first_by_dimension": by_dimension(first, second) if by_dimension else {},
            "first": {"name": names[0], **first.to_dict()},
            "second": {"name": names[1], **second.to_dict()},
        }


def on_zero_gpu(function: Any) -> Any:
    """Let a function run on a GPU that is lent for the call, where the Space has that hardware (package `spaces`)."""
    if importlib.util.find_spec("spaces") is None:
        return function
    return importlib.import_module("spaces").GPU(function)


def name_files(result: GroupScores | Unscored, group: Upload) -> GroupScores | Unscored:
    """The result with the files' names in its reasons, in place of the argument's (`edited[2] cannot ...`)."""
    if isinstance(result, Unscored):
        return replace(result, reason=_with_name(result.reason, group))
    named = (
        replace(c, reason=_with_name(c.reason, group)) if isinstance(c, Unscored) else c for c in result.candidates
    )
    return replace(result, candidates=tuple(named))


def _with_name(reason: str, group: Upload) -> str:
    if not (found := re.match(r"(source|edited)(?:\[(\d+)\])?(?= )", reason)):
        return reason
    images = group.sources if found[1] == "source" else group.edited
    return images[int(found[2] or 0)].name + reason[found.end() :]

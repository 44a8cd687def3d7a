"""Which edits of a scored dataset are kept: filters, one after another, each with what it dropped.

Nothing here reads an image or a model: edits are numbers and prints, about half a kilobyte each, so that another
selection from the same scores takes seconds.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from editreward.curation.contamination import normalise_text
from editreward.data.images import near_groups

OVERALL = "overall"
OTHERS = "*"
"""The category of `quotas` that stands for all that are not named."""


@dataclass(frozen=True, slots=True)
class ScoredEdit:
    """An edit as the selection sees it.

    Attributes:
        row, place: number of its group in the source, and its place there.
        group_id, id, origin: what the source calls its group and it, and where in the source it is.
        instruction, category, editor: as the source has them; category and editor are "unknown" where it does not.
        means, stds: by dimension and for "overall", which is on the scale where the scorer is calibrated; a standard
            deviation is left out where the scorer has none.
        gain: by how much its reward exceeds that of the untouched source; None where that was not scored.
        source, pixels: digests of the first source image's and its own pixels; empty where they cannot be read.
        source_hash, hash: their perceptual hashes.
        error: why it has no score; empty otherwise.
        other_sources: digest and perceptual hash of each further source image that can be read.
    """

    row: int
    place: int
    group_id: str
    id: str | None
    origin: str
    instruction: str
    category: str
    editor: str
    means: Mapping[str, float]
    stds: Mapping[str, float]
    gain: float | None
    source: str
    pixels: str
    source_hash: int
    hash: int
    error: str
    other_sources: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Selection:
    """What to keep. A filter that is not asked for does nothing.

    Attributes:
        by: dimension whose score orders edits, or "overall".
        lower_bound: standard deviations that are taken off that score: edits that are surely good go first.
        thresholds: least mean by dimension, or "overall".
        min_gain: least gain in reward over the untouched source.
        deduplicate: of edits with nearly equal source and edited image and one instruction, only the best.
        per_source: at most so many edits of a source, the best.
        quotas: at most so many edits of a category, the best; `*` is for each of the others.
        top_k, top_share: only so many of what is left, or this share of it, the best.

    Raises:
        ValueError: a number is out of its range, or both a number and a share are asked for.
    """

    by: str = OVERALL
    lower_bound: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    min_gain: float | None = None
    deduplicate: bool = False
    per_source: int | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)
    top_k: int | None = None
    top_share: float | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_share is not None:
            raise ValueError("--top-k and --top-share are two ways to say how many are kept: choose one.")
        if self.top_share is not None and not 0 < self.top_share <= 1:
            raise ValueError(f"--top-share must be above 0 and at most 1, not {self.top_share:g}.")
        counts = {"--top-k": self.top_k, "--per-source": self.per_source}
        counts |= {f"--quota {name}": number for name, number in self.quotas.items()}
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}.")
        if not (math.isfinite(self.lower_bound) and self.lower_bound >= 0):
            raise ValueError(f"--lower-bound must be 0 or more, not {self.lower_bound:g}.")


@dataclass(frozen=True)
class Step:
    """A filter, and what became of the edits.

    Attributes:
        name: of the filter.
        before, dropped: how many there were, and how many it dropped.
        emptied: categories of which it left nothing.
    """

    name: str
    before: int
    dropped: int
    emptied: tuple[str, ...]


@dataclass
class Kept:
    """What is left of edits, filter by filter.

    Attributes:
        edits: all of them.
        left: indices of those that are left, rising.
        why: the name of the filter that dropped an edit, by its index.
        steps: the filters so far.
    """

    edits: Sequence[ScoredEdit]
    left: list[int]
    why: dict[int, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def keep(self, name: str, chosen: Iterable[int]) -> None:
        """Drop all but the chosen ones of those that are left."""
        remaining = set(chosen)
        dropped = [index for index in self.left if index not in remaining]
        before = Counter(self.edits[index].category for index in self.left)
        after = Counter(self.edits[index].category for index in remaining)
        emptied = tuple(sorted(name for name in before if not after[name]))
        self.steps.append(Step(name, len(self.left), len(dropped), emptied))
        self.why |= dict.fromkeys(dropped, name)
        self.left = [index for index in self.left if index in remaining]

    def where(self, name: str, condition: Callable[[ScoredEdit], bool]) -> None:
        """Drop all of which a condition does not hold."""
        self.keep(name, [index for index in self.left if condition(self.edits[index])])


def score_of(edit: ScoredEdit, selection: Selection) -> float:
    """What orders edits: the mean, less `lower_bound` standard deviations.

    Raises:
        ValueError: the scorer has no such score, or no standard deviation that a bound needs.
    """
    if selection.by not in edit.means:
        raise ValueError(f"The scorer gives no {selection.by!r}, only: {', '.join(edit.means)}.")
    if not selection.lower_bound:
        return edit.means[selection.by]
    if selection.by not in edit.stds:
        raise ValueError(
            f"--lower-bound needs a standard deviation of {selection.by!r}, which the scorer does not give."
        )
    return edit.means[selection.by] - selection.lower_bound * edit.stds[selection.by]


def select(edits: Sequence[ScoredEdit], selection: Selection, contaminated: Collection[int] | None = None) -> Kept:
    """Apply the filters, up to the one that takes the best of what is left.

    Args:
        edits: of the whole dataset.
        selection: the filters.
        contaminated: indices of edits whose source a benchmark has, too; None: nothing was compared.

    Raises:
        ValueError: a score is asked for that the scorer does not give.
    """
    kept = Kept(edits, list(range(len(edits))))
    kept.where("could not be scored", lambda edit: not edit.error)
    kept.keep("its id was there before", _first_of_id(kept))
    kept.where("equals its source", lambda edit: edit.pixels != edit.source)
    if contaminated is not None:
        kept.keep("its source is in a benchmark", [i for i in kept.left if i not in contaminated])
    for name, least in selection.thresholds.items():
        _check_given(kept, name)
        kept.where(f"{name} is below {least:g}", lambda edit, n=name, m=least: edit.means[n] >= m)  # type: ignore[misc]
    if selection.min_gain is not None:
        least = selection.min_gain
        kept.where(f"gain is below {least:g}", lambda edit: edit.gain is not None and edit.gain >= least)
    score = {index: score_of(edits[index], selection) for index in kept.left}
    if selection.deduplicate:
        kept.keep("nearly equals a better one", _best_of_each(kept, score, _near(kept), 1))
    if selection.per_source is not None:
        sources = {index: edits[index].source or edits[index].group_id for index in kept.left}
        name = f"its source has {selection.per_source} better ones"
        kept.keep(name, _best_of_each(kept, score, sources, selection.per_source))
    if selection.quotas:
        kept.keep("its category is full", _within_quotas(kept, score, selection.quotas))
    return kept


def take_best(kept: Kept, selection: Selection) -> None:
    """The last filter: only the best of what is left, by number or share; equal ones in the order of the source."""
    number = selection.top_k
    if selection.top_share is not None:
        number = round(selection.top_share * len(kept.left))
    if number is None:
        return
    order = sorted(kept.left, key=lambda index: -score_of(kept.edits[index], selection))
    kept.keep("others are better", order[:number])


def _check_given(kept: Kept, name: str) -> None:
    known = next((kept.edits[index].means for index in kept.left), None)
    if known is not None and name not in known:
        raise ValueError(f"--threshold {name}: the scorer gives no such score, only: {', '.join(known)}.")


def _first_of_id(kept: Kept) -> list[int]:
    """Those whose id no earlier row has; several edits of one row may share it."""
    seen: dict[str, tuple[int, str]] = {}
    chosen = []
    for index in kept.left:
        edit = kept.edits[index]
        where = (edit.row, edit.origin)
        if edit.id is None or seen.setdefault(edit.id, where) == where:
            chosen.append(index)
    return chosen


def _near(kept: Kept) -> dict[int, object]:
    """What nearly equal edits share: source, edited image and instruction. Those without prints share nothing."""
    edits = [kept.edits[index] for index in kept.left]
    sources, images = near_groups([edit.source_hash for edit in edits]), near_groups([edit.hash for edit in edits])
    return {
        index: (source, image, normalise_text(edit.instruction)) if edit.pixels and edit.source else index
        for index, edit, source, image in zip(kept.left, edits, sources, images, strict=True)
    }


def _best_of_each(kept: Kept, score: Mapping[int, float], keys: Mapping[int, object], number: int) -> list[int]:
    of_key = defaultdict(list)
    for index in kept.left:
        of_key[keys[index]].append(index)
    return [i for group in of_key.values() for i in sorted(group, key=lambda index: -score[index])[:number]]


def _within_quotas(kept: Kept, score: Mapping[int, float], quotas: Mapping[str, int]) -> list[int]:
    of_category = defaultdict(list)
    for index in kept.left:
        of_category[kept.edits[index].category].append(index)
    chosen: list[int] = []
    for name, group in of_category.items():
        number = quotas.get(name, quotas.get(OTHERS, len(group)))
        chosen += sorted(group, key=lambda index: -score[index])[:number]
    return chosen

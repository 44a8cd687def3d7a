"""What a dataset of edit groups holds: sizes, origins, editors, scores, ties and agreement of its annotators."""

import hashlib
import importlib.util
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import spearmanr

from editreward.data.schema import SCORE_RANGE
from editreward.groups.pairs import TIE_TOLERANCE, TIES, training_pairs
from editreward.groups.ratings import Rating
from editreward.groups.rows import GroupRow
from editreward.statistics.estimate import NAN, Estimate, Share
from editreward.statistics.resampling import ratio_estimates
from images_editreward import ImageError, image_header

OVERALL = "overall"
"""The sum of a candidate's scores, where it has one in every dimension."""

NOT_GIVEN = "(not given)"
BOOTSTRAP_SAMPLES = 1000
GROUPS_PER_BATCH = 64
LEVELS = tuple(range(round(SCORE_RANGE[0]), round(SCORE_RANGE[1]) + 1))


@dataclass(frozen=True)
class AgreementSummary:
    """How far annotators agree in one dimension, by `editreward.statistics.agreement`.

    Attributes:
        exact: share of pairs of scores of a candidate that are equal.
        alpha: Krippendorff's alpha for ordinal data.
    """

    exact: Share
    alpha: Estimate


@dataclass
class DatasetStatistics:
    """All that `editreward data stats` tells. Scores run from 1 to 4; `overall` is their sum.

    Attributes:
        dimensions: what candidates are scored on.
        splits: number of groups of each split.
        group_sizes: number of groups by number of candidates.
        candidates, scored_candidates: all, and those with a score in every dimension.
        source_files: number of different source images, by their bytes.
        source_sizes, candidate_sizes: smallest, median and largest area in megapixels.
        instructions: number of different instructions.
        instruction_length: smallest, median and largest number of characters.
        origins, categories, languages: number of groups of each.
        editors: number of candidates of each.
        editor_means: mean score of each editor, by dimension and `overall`, from so many candidates (`total`).
        histograms: number of candidates by score rounded to 1, 2, 3, 4, for each dimension.
        overall_histogram: the same for the sum of the scores, also rounded.
        fractional: whether any score is not a whole number, as means of several annotators are.
        means: mean score of all candidates, by dimension and `overall`.
        joint: for each two dimensions ("a|b"), number of candidates by (score in a, score in b), rounded.
        correlation: for each two dimensions, Spearman's rank correlation; None where it is undefined.
        pairs: possible pairs of candidates of a group.
        ties: share of the pairs with scores on both sides that are tied, by dimension and `overall`.
        disagreeing_ties: share of the overall ties in which dimensions prefer different sides.
        samples: training samples that each tie strategy makes of the dataset (see `training_pairs`).
        preferences: preferences that the dataset itself gives.
        annotators: number of annotators.
        annotations: number of candidates by number of annotations.
        agreement: of the annotators, by dimension; empty where there is nothing to compare.
        notes: what could not be told, and why.
    """

    dimensions: list[str]
    splits: dict[str, int] = field(default_factory=dict)
    group_sizes: dict[int, int] = field(default_factory=dict)
    candidates: int = 0
    scored_candidates: int = 0
    source_files: int = 0
    source_sizes: tuple[float, float, float] | None = None
    candidate_sizes: tuple[float, float, float] | None = None
    instructions: int = 0
    instruction_length: tuple[float, float, float] | None = None
    origins: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    editors: dict[str, int] = field(default_factory=dict)
    editor_means: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)
    overall_histogram: dict[int, int] = field(default_factory=dict)
    fractional: bool = False
    means: dict[str, Estimate] = field(default_factory=dict)
    joint: dict[str, list[list[int]]] = field(default_factory=dict)
    correlation: dict[str, float | None] = field(default_factory=dict)
    pairs: int = 0
    ties: dict[str, Share] = field(default_factory=dict)
    disagreeing_ties: Share = Share(NAN, NAN, NAN, 0)
    samples: dict[str, int] = field(default_factory=dict)
    preferences: int = 0
    annotators: int = 0
    annotations: dict[int, int] = field(default_factory=dict)
    agreement: dict[str, AgreementSummary] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> int:
        """Number of groups of all splits."""
        return sum(self.splits.values())

    def to_dict(self) -> dict[str, object]:
        """As JSON takes it: what is undefined is null, and an estimate's total is called `count`."""
        return {"groups": self.groups, **asdict(self, dict_factory=_json_names)}


def _json_names(fields: list[tuple[str, object]]) -> dict[str, object]:
    return {
        "count" if name == "total" else name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields
    }


def dataset_statistics(
    splits: Mapping[str, Iterable[GroupRow]], dimensions: Sequence[str], seed: int = 0
) -> DatasetStatistics:
    """Describe a dataset. Images are opened but not decoded, and none is kept; those that cannot be opened are noted.

    Args:
        splits: the groups of each split as they are stored (`raw_groups`).
        dimensions: what candidates are scored on.
        seed: of the bootstrap.

    Raises:
        ValueError: a preference names no candidate; the group is named.
    """
    collected = _Collected(list(dimensions))
    for split, groups in splits.items():
        collected.splits[split] = 0
        for group in groups:
            collected.splits[split] += 1
            collected.add(group)
    return collected.summary(seed)


class _Collected:
    """What is remembered of the groups that have been read: numbers and names."""

    def __init__(self, dimensions: list[str]) -> None:
        self.dimensions = dimensions
        self.splits: dict[str, int] = {}
        self.group_sizes: Counter[int] = Counter()
        self.source_digests: set[bytes] = set()
        self.areas: dict[str, list[float]] = {"source": [], "candidate": []}
        self.instructions: set[str] = set()
        self.lengths: list[int] = []
        self.origins: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.editors: dict[str, int] = {}
        self.group_of: list[int] = []
        self.editor_of: list[int] = []
        self.scores: list[list[float]] = []
        self.preferences: list[list[tuple[int, int]]] = []
        self.annotations: Counter[int] = Counter()
        self.ratings: list[Rating] = []
        self.unopened: list[str] = []

    def add(self, group: GroupRow) -> None:
        number = len(self.preferences)
        candidates = group["candidates"] or []
        self.group_sizes[len(candidates)] += 1
        self.origins[group["origin"] or NOT_GIVEN] += 1
        self.categories[group["category"] or NOT_GIVEN] += 1
        self.languages[group["language"] or NOT_GIVEN] += 1
        instruction = (group["instruction"] or "").strip()
        self.instructions.add(instruction)
        self.lengths.append(len(instruction))
        for index, record in enumerate(group["source_images"] or []):
            if self._measure(record, "source", f"group {group['group_id']!r}, source_images[{index}]"):
                self.source_digests.add(hashlib.sha256(record["bytes"]).digest())
        for index, candidate in enumerate(candidates):
            self._measure(candidate["image"], "candidate", f"group {group['group_id']!r}, candidates[{index}].image")
            self.group_of.append(number)
            self.editor_of.append(self.editors.setdefault(candidate["editor"] or NOT_GIVEN, len(self.editors)))
            scores = [(candidate["scores"] or {}).get(name) for name in self.dimensions]
            self.scores.append([math.nan if score is None else score for score in scores])
            annotations = candidate["annotations"] or []
            self.annotations[len(annotations)] += 1
            for annotation in annotations:
                rated = {name: annotation[name] for name in self.dimensions if annotation[name] is not None}
                name = str(annotation["annotator"])
                self.ratings.append(Rating(name, f"{number:09d}", index, rated))
        preferences = [(p["chosen"], p["rejected"]) for p in group["preferences"] or []]
        if not {end for pair in preferences for end in pair} <= set(range(len(candidates))):
            raise ValueError(
                f"Group {group['group_id']!r}: a preference names a candidate that is not there; "
                "`editreward data check` lists all such preferences."
            )
        self.preferences.append(preferences)

    def _measure(self, record: GroupRow | None, kind: str, place: str) -> bool:
        """Note the area of an image; whether its header could be read."""
        try:
            header = image_header((record or {}).get("bytes"))
        except ImageError:
            self.unopened.append(place)
            return False
        self.areas[kind].append(header.width * header.height / 1e6)
        return True

    def summary(self, seed: int) -> DatasetStatistics:
        scores = np.array(self.scores, dtype=float).reshape(-1, len(self.dimensions))
        group_of, editor_of = np.array(self.group_of, dtype=int), np.array(self.editor_of, dtype=int)
        rounded = np.clip(np.floor(scores + 0.5), LEVELS[0], LEVELS[-1])
        whole = scores[~np.isnan(scores)]
        overall = scores.sum(axis=1)
        known = overall[~np.isnan(overall)]
        result = DatasetStatistics(
            dimensions=self.dimensions,
            splits=self.splits,
            group_sizes=dict(sorted(self.group_sizes.items())),
            candidates=len(scores),
            scored_candidates=len(known),
            source_files=len(self.source_digests),
            source_sizes=_spread(self.areas["source"]),
            candidate_sizes=_spread(self.areas["candidate"]),
            instructions=len(self.instructions),
            instruction_length=_spread(self.lengths),
            origins=dict(self.origins.most_common()),
            categories=dict(self.categories.most_common()),
            languages=dict(self.languages.most_common()),
            histograms={
                name: {level: int((rounded[:, column] == level).sum()) for level in LEVELS}
                for column, name in enumerate(self.dimensions)
            },
            overall_histogram=dict(sorted(Counter(np.floor(known + 0.5).astype(int).tolist()).items())),
            fractional=bool((whole != np.round(whole)).any()),
            preferences=sum(map(len, self.preferences)),
            annotators=len({rating.annotator for rating in self.ratings}),
            annotations=dict(sorted(self.annotations.items())),
        )
        for (first, one), (second, other) in itertools.combinations(enumerate(self.dimensions), 2):
            both = ~np.isnan(scores[:, [first, second]]).any(axis=1)
            edges = np.arange(LEVELS[0], LEVELS[-1] + 2) - 0.5
            counts, *_ = np.histogram2d(rounded[both, first], rounded[both, second], bins=(edges, edges))
            result.joint[f"{one}|{other}"] = counts.astype(int).tolist()
            varied = both.any() and np.ptp(scores[both, first]) > 0 and np.ptp(scores[both, second]) > 0
            result.correlation[f"{one}|{other}"] = (
                float(spearmanr(scores[both, first], scores[both, second]).statistic) if varied else None
            )
        names = [*self.dimensions, OVERALL]
        columns = np.column_stack([scores, overall])
        self._means(result, names, columns, group_of, editor_of, seed)
        self._pairs(result, names, columns, group_of, seed)
        result.samples = self._samples(scores, group_of)
        result.agreement, note = _agreement(self.ratings, self.dimensions)
        result.notes += [note] if note else []
        if self.unopened:
            result.notes.append(
                f"{len(self.unopened):,} images cannot be opened and have no size here; the first: "
                f"{self.unopened[0]}. `editreward data check` lists all."
            )
        return result

    def _means(
        self,
        result: DatasetStatistics,
        names: list[str],
        columns: np.ndarray,
        group_of: np.ndarray,
        editor_of: np.ndarray,
        seed: int,
    ) -> None:
        """Mean scores of all candidates and of each editor."""
        groups, width = len(self.preferences), len(names)
        candidate, column = np.nonzero(~np.isnan(columns))
        values = columns[candidate, column]
        place = (editor_of[candidate] + 1) * width + column  # the first `width` columns are of all editors
        shape = (groups, (len(self.editors) + 1) * width)
        rows = np.concatenate([group_of[candidate]] * 2)
        cells = np.concatenate([column, place])
        sums = csr_array((np.concatenate([values] * 2), (rows, cells)), shape=shape)
        counts = csr_array((np.ones(len(rows)), (rows, cells)), shape=shape)
        estimates = ratio_estimates(sums, counts, BOOTSTRAP_SAMPLES, seed)
        result.means = dict(zip(names, estimates[:width], strict=True))
        counted = Counter(editor_of.tolist())
        by_size = sorted(self.editors, key=lambda name: -counted[self.editors[name]])
        result.editors = {name: counted[self.editors[name]] for name in by_size}
        for name in by_size:
            start = (self.editors[name] + 1) * width
            result.editor_means[name] = dict(zip(names, estimates[start : start + width], strict=True))

    def _pairs(
        self, result: DatasetStatistics, names: list[str], columns: np.ndarray, group_of: np.ndarray, seed: int
    ) -> None:
        """Ties: overall, by dimension, and overall ones in which dimensions disagree."""
        groups, width = len(self.preferences), len(names)
        tied, compared = np.zeros((groups, width + 1)), np.zeros((groups, width + 1))
        bounds = np.searchsorted(group_of, np.arange(groups + 1))
        for number in range(groups):
            values = columns[bounds[number] : bounds[number + 1]]
            first, second = np.triu_indices(len(values), k=1)
            result.pairs += len(first)
            difference = values[first] - values[second]
            equal = np.abs(difference) <= TIE_TOLERANCE
            tied[number, :width], compared[number, :width] = equal.sum(axis=0), (~np.isnan(difference)).sum(axis=0)
            differing = (np.abs(difference[:, :-1]) > TIE_TOLERANCE).any(axis=1)
            tied[number, width] = (equal[:, -1] & differing).sum()
            compared[number, width] = equal[:, -1].sum()
        found = ratio_estimates(tied, compared, BOOTSTRAP_SAMPLES, seed)
        *ties, result.disagreeing_ties = (Share(one.value, one.low, one.high, one.total) for one in found)
        result.ties = dict(zip(names, ties, strict=True))

    def _samples(self, scores: np.ndarray, group_of: np.ndarray) -> dict[str, int]:
        """Training samples by tie strategy, counted by what makes them in training."""
        samples = dict.fromkeys(TIES, 0)
        groups = len(self.preferences)
        for start in range(0, groups, GROUPS_PER_BATCH):
            end = min(start + GROUPS_PER_BATCH, groups)
            low, high = np.searchsorted(group_of, [start, end])
            first = np.searchsorted(group_of, np.arange(start, end)) - low
            given = [
                (chosen + offset, rejected + offset)
                for offset, preferences in zip(first.tolist(), self.preferences[start:end], strict=True)
                for chosen, rejected in preferences
            ]
            preferences = np.array(given, dtype=np.int64).reshape(-1, 2)
            of_batch, index = scores[low:high], group_of[low:high]
            for ties in TIES:
                pairs = training_pairs(
                    of_batch, index, ties=ties, preferences=preferences, preference_weight=np.ones(len(given))
                )
                samples[ties] += len(pairs.winner)
        return samples


def _spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    return (min(values), statistics.median(values), max(values)) if values else None


def _agreement(ratings: list[Rating], dimensions: Sequence[str]) -> tuple[dict[str, AgreementSummary], str]:
    """Agreement by dimension, and a note where it cannot be told."""
    per_candidate = Counter((rating.group_id, rating.candidate) for rating in ratings)
    if not any(count > 1 for count in per_candidate.values()):
        return {}, ""
    if any(importlib.util.find_spec(module) is None for module in ("krippendorff", "sklearn")):
        return {}, 'Agreement of annotators needs the packages of `pip install "editreward[annotate]"`.'
    from editreward.statistics.agreement import agreement

    result = {}
    for dimension in dimensions:
        try:
            found = agreement([r for r in ratings if dimension in r.scores], dimension, dimensions)
        except ValueError as error:
            return {}, f"Agreement of annotators could not be computed: {error}"
        result[dimension] = AgreementSummary(found.exact, found.alpha)
    return result, ""

"""A benchmark from groups that several people have annotated: tuples of 2, 3 and 4 candidates with final labels.

A tuple's label comes from majorities over its pairs, or from a joint ranking in an adjudication round. What is chosen
depends only on the groups, the rankings and the seed, not on the order of the rows. Source: arXiv 2509.26346, A.3.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

from editreward.data.images import NEAR_BITS, near_groups, perceptual_hash, read_image
from editreward.groups.ratings import TupleRanking
from editreward.groups.rows import GroupRow

SIZES = (2, 3, 4)
"""Candidates of a tuple. Only tuples of the first size may have ties."""

ANNOTATORS = 3
GROUPS = 500
TIE_SHARE = 0.25
ADJUDICATED_SHARE = 0.2

State = Literal["majority", "adjudicated", "pending"]
"""Where a tuple's ranks are from; a pending one has none yet."""


@dataclass(frozen=True)
class BenchmarkTuple:
    """Some candidates of a group, to be ranked by a judge.

    Args:
        tuple_id: name that depends on `group_id` and `candidates` only.
        group_id, category: the group.
        candidates: indices into the group's row, ascending.
        state: where the ranks are from.
        ranks: rank of each candidate, 1 is best, ties share one; None where pending.
        reason: why it needs adjudication, empty where it has a majority.
        spread: mean absolute difference of the candidates' mean overall scores, over all pairs: small is difficult.
        annotators: who rated all of these candidates or, where adjudicated, who ranked them.
    """

    tuple_id: str
    group_id: str
    category: str
    candidates: tuple[int, ...]
    state: State
    ranks: tuple[int, ...] | None
    reason: str
    spread: float
    annotators: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    @property
    def tied(self) -> bool:
        """Whether two candidates share a rank."""
        return self.ranks is not None and len(set(self.ranks)) < self.size


@dataclass
class AnnotatedGroup:
    """The annotations of a group, without its images.

    Args:
        group_id, category: as in the row.
        overall: by annotator, the sum of all dimensions' scores of each candidate; None where one is missing.
        means: for each candidate the mean score by dimension over all who gave one; None where nobody did.
        source_hashes: perceptual hash of each source image.
    """

    group_id: str
    category: str
    overall: dict[str, list[float | None]]
    means: list[dict[str, float | None]]
    source_hashes: list[int] = field(default_factory=list)


@dataclass
class Selection:
    """What `select_tuples` chose.

    Args:
        tuples: the chosen ones with ranks.
        pending: the chosen ones that wait for adjudication.
        wanted: number of tuples that was aimed at, by size.
    """

    tuples: list[BenchmarkTuple]
    pending: list[BenchmarkTuple]
    wanted: dict[int, int]


def tuple_id(group_id: str, candidates: Sequence[int]) -> str:
    """Name of a tuple, such as "3pair-5d0c9a31f0e7": the same in every run, and without "_" (see `published_rows`)."""
    digest = hashlib.sha256("\n".join([group_id, *map(str, sorted(candidates))]).encode()).hexdigest()
    return f"{len(candidates)}pair-{digest[:12]}"


def annotated_group(row: GroupRow, dimensions: Sequence[str], name: object) -> AnnotatedGroup:
    """Read the annotations and hash the source images of a row.

    Args:
        row: a group as `raw_groups` gives it.
        dimensions: what candidates are scored on.
        name: what to call the dataset in errors.

    Raises:
        ValueError: somebody annotates a candidate twice, or has no name, or a source image cannot be read.
    """
    where = f"{name}: group {row['group_id']!r}"
    overall: dict[str, list[float | None]] = {}
    means = []
    for index, candidate in enumerate(row["candidates"]):
        annotations = candidate["annotations"] or []
        for annotator, times in Counter(annotation["annotator"] for annotation in annotations).items():
            if not annotator:
                raise ValueError(f"{where}, candidate {index}: an annotation has no annotator's name.")
            if times > 1:
                raise ValueError(f"{where}, candidate {index}: {annotator} annotates it {times} times. Keep one.")
        for annotation in annotations:
            scores = [annotation[dimension] for dimension in dimensions]
            given = overall.setdefault(annotation["annotator"], [None] * len(row["candidates"]))
            given[index] = None if None in scores else round(math.fsum(scores), 6)
        means.append(
            {dimension: _mean(annotation[dimension] for annotation in annotations) for dimension in dimensions}
        )
    try:
        hashes = source_hashes(row)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}, source image: {error}") from error
    return AnnotatedGroup(row["group_id"], row["category"] or "", overall, means, hashes)


def _mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return math.fsum(given) / len(given) if given else None


def source_hashes(row: GroupRow) -> list[int]:
    """Perceptual hash of each source image of a row as `raw_groups` gives it."""
    return [perceptual_hash(read_image(image)) for image in row["source_images"]]


def shared_sources(groups: Sequence[AnnotatedGroup], hashes: Iterable[int], near_bits: int = NEAR_BITS) -> set[str]:
    """Ids of the groups with a source image that is the same or nearly the same as one with these hashes.

    Args:
        groups: the groups.
        hashes: of the source images of other data.
        near_bits: how many bits may differ; as for `near_groups`, which also counts a likeness over images in between.
    """
    known = list(hashes)
    owners = [group.group_id for group in groups for _ in group.source_hashes]
    own = [value for group in groups for value in group.source_hashes]
    if not known or not own:
        return set()
    pictures = near_groups(known + own, near_bits)
    taken = set(pictures[: len(known)])
    return {owner for owner, picture in zip(owners, pictures[len(known) :], strict=True) if picture in taken}


def majority_verdict(first: Sequence[float], second: Sequence[float]) -> int | None:
    """What more than half of the annotators say of two candidates.

    Args:
        first, second: overall scores of the two by the same annotators.

    Returns:
        1 if the first is better, -1 if the second is, 0 for a tie; None where no verdict has more than half.
    """
    verdicts = Counter((a > b) - (a < b) for a, b in zip(first, second, strict=True))
    verdict, votes = verdicts.most_common(1)[0]
    return verdict if 2 * votes > len(first) else None


def ranks_of_verdicts(verdicts: Mapping[tuple[int, int], int], size: int) -> tuple[int, ...] | None:
    """The ranking that all verdicts on pairs agree with.

    Args:
        verdicts: for every i < j below `size` as `majority_verdict` returns, never None.
        size: number of candidates.

    Returns:
        Dense ranks from 1, ties share one; None where the verdicts contradict each other (a cycle, or a tie of two
        candidates of which only one is better than a third).
    """
    losses = [0] * size
    for (i, j), verdict in verdicts.items():
        if verdict:
            losses[j if verdict > 0 else i] += 1
    if any((losses[i] < losses[j]) - (losses[i] > losses[j]) != verdict for (i, j), verdict in verdicts.items()):
        return None
    return dense_ranks(losses)


def dense_ranks(values: Sequence[float]) -> tuple[int, ...]:
    """Rank of each value from 1, the smallest first, without gaps."""
    order = sorted(set(values))
    return tuple(order.index(value) + 1 for value in values)


def label_tuple(
    group: AnnotatedGroup, candidates: Sequence[int], annotators: int = ANNOTATORS
) -> BenchmarkTuple | None:
    """A tuple with its label by majority, or with the reason why it needs adjudication.

    A majority for a candidate whose mean overall score is not the larger one, since the others disagree strongly,
    needs adjudication too: published rows carry both.

    Args:
        group: where the candidates are from.
        candidates: ascending indices.
        annotators: how many must have rated all of the candidates.

    Returns:
        None where fewer did.
    """
    complete = {
        name: [scores[index] for index in candidates]
        for name, scores in sorted(group.overall.items())
        if all(scores[index] is not None for index in candidates)
    }
    if len(complete) < annotators:
        return None
    means = [mean_overall(group, index) for index in candidates]
    verdicts: dict[tuple[int, int], int] = {}
    undecided, unsupported = [], []
    for i, j in combinations(range(len(candidates)), 2):
        verdict = majority_verdict(*zip(*[(scores[i], scores[j]) for scores in complete.values()], strict=True))
        pair = f"candidates {candidates[i]} and {candidates[j]}"
        if verdict is None:
            undecided.append(f"no majority on {pair}")
            continue
        verdicts[i, j] = verdict
        if verdict and verdict * (means[i] - means[j]) <= 0:
            unsupported.append(f"the majority on {pair} is not borne out by their mean scores")
    ranks = None if undecided else ranks_of_verdicts(verdicts, len(candidates))
    contradiction = [] if undecided or ranks else ["the majorities on its pairs contradict each other"]
    reasons = undecided + contradiction + unsupported
    if reasons:
        ranks = None
    return BenchmarkTuple(
        tuple_id=tuple_id(group.group_id, candidates),
        group_id=group.group_id,
        category=group.category,
        candidates=tuple(candidates),
        state="majority" if ranks else "pending",
        ranks=ranks,
        reason="; ".join(reasons),
        spread=mean_difference(means),
        annotators=tuple(complete),
    )


def mean_overall(group: AnnotatedGroup, index: int) -> float:
    """Sum over dimensions of a candidate's mean scores; every dimension must have been rated."""
    return round(math.fsum(value for value in group.means[index].values() if value is not None), 6)


def mean_difference(values: Sequence[float]) -> float:
    """Mean absolute difference over all pairs."""
    differences = [abs(a - b) for a, b in combinations(values, 2)]
    return round(math.fsum(differences) / len(differences), 6)


def candidate_tuples(
    group: AnnotatedGroup,
    rankings: Mapping[str, TupleRanking] | None = None,
    annotators: int = ANNOTATORS,
    seed: int = 0,
) -> list[BenchmarkTuple]:
    """The tuples of a group that may be chosen: of each size and kind the most difficult one.

    Kinds are: adjudicated, of which all are returned; with a strict majority ranking; with a tie, of two only;
    pending. Larger tuples with ties are left out, whether the tie is by majority or by adjudication.

    Args:
        group: the group.
        rankings: joint rankings by tuple id, which take the place of majorities; without ranks: leave the tuple out.
        annotators: how many must have rated all candidates of a tuple.
        seed: decides between equally difficult ones.
    """
    best: dict[tuple[int, object], BenchmarkTuple] = {}
    for size in SIZES:
        for candidates in combinations(range(len(group.means)), size):
            labelled = label_tuple(group, candidates, annotators)
            if labelled is None:
                continue
            ranking = (rankings or {}).get(labelled.tuple_id)
            if ranking is not None and not ranking.ranks:
                continue
            if ranking is not None:
                labelled = adjudicate(labelled, ranking)
            if labelled.tied and size > SIZES[0]:
                continue
            kind = candidates if ranking is not None else (labelled.state, labelled.tied)
            rival = best.get((size, kind))
            if rival is None or _order(labelled, seed) < _order(rival, seed):
                best[size, kind] = labelled
    return list(best.values())


def adjudicate(tuple_: BenchmarkTuple, ranking: TupleRanking) -> BenchmarkTuple:
    """The tuple with the ranks of a joint ranking, whose candidates may stand in another order."""
    rank = dict(zip(ranking.candidates, ranking.ranks, strict=True))
    return replace(
        tuple_,
        state="adjudicated",
        ranks=dense_ranks([rank[index] for index in tuple_.candidates]),
        annotators=tuple(ranking.annotators),
    )


def check_ranking(ranking: TupleRanking, group: AnnotatedGroup) -> None:
    """Check that a ranking is one of this group's tuples.

    Raises:
        ValueError: it is of other candidates than its tuple's; the tuple is named.
    """
    what = f"The ranking of tuple {ranking.tuple_id}"
    chosen = ranking.candidates
    if len(set(chosen)) < len(chosen) or len(chosen) not in SIZES or len(ranking.ranks) not in (0, len(chosen)):
        raise ValueError(f"{what} must rank 2, 3 or 4 different candidates: {chosen}, ranks {ranking.ranks}.")
    if min(chosen) < 0 or max(chosen) >= len(group.means):
        raise ValueError(f"{what} has candidates {chosen}, but group {group.group_id} has {len(group.means)}.")
    if ranking.tuple_id != tuple_id(ranking.group_id, chosen):
        raise ValueError(
            f"{what} is of candidates {chosen} of group {ranking.group_id}, which are another tuple "
            f"({tuple_id(ranking.group_id, chosen)}): are the rankings from another tuples.jsonl?"
        )


def _order(tuple_: BenchmarkTuple, seed: int) -> tuple[bool, float, bytes]:
    """Sorts tuples by preference: adjudicated ones, the work on which is done, then difficult ones, then by chance."""
    return tuple_.state != "adjudicated", tuple_.spread, _chance(seed, tuple_.tuple_id)


def _chance(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def select_tuples(
    candidates: Iterable[BenchmarkTuple],
    groups: int = GROUPS,
    seed: int = 0,
    tie_share: float = TIE_SHARE,
    adjudicated_share: float = ADJUDICATED_SHARE,
) -> Selection:
    """Choose one tuple from each of so many groups, a third of each size, spread evenly over categories.

    Large tuples, which are rare, are chosen first. Each next tuple is from the category that has the fewest so far,
    and there the one with the smallest spread of scores. Where there are not enough groups, each size gets a third of
    those there are.

    Args:
        candidates: tuples as `candidate_tuples` gives them, of any number of groups.
        groups: number of tuples, hence of groups, to choose.
        seed: decides between equals.
        tie_share: largest share of ties among the tuples of two; the hardest pairs are ties.
        adjudicated_share: largest share among those of a size of tuples that are adjudicated or wait for it, unless
            there are no others.
    """
    pool = sorted(candidates, key=lambda item: _order(item, seed))
    available = min(groups, len({item.group_id for item in pool}))
    wanted = {size: (available + place) // len(SIZES) for place, size in enumerate(reversed(SIZES))}
    wanted = {size: wanted[size] for size in SIZES}
    used: set[str] = set()
    of_category = {item.category: 0 for item in pool}
    turn = sorted(of_category, key=lambda category: _chance(seed, category))
    chosen: list[BenchmarkTuple] = []
    for size in sorted(SIZES, reverse=True):
        queues: dict[str, list[BenchmarkTuple]] = {category: [] for category in turn}
        for item in pool:
            if item.size == size and item.group_id not in used:
                queues[item.category].append(item)
        ties_left = math.floor(tie_share * wanted[size])
        adjudicated_left = math.floor(adjudicated_share * wanted[size])
        for _ in range(wanted[size]):
            best = _firsts(queues, ties_left > 0, adjudicated_left > 0) or _firsts(queues, ties_left > 0, True)
            if not best:
                break
            item = best[min(best, key=lambda category: (of_category[category], turn.index(category)))]
            chosen.append(item)
            used.add(item.group_id)
            queues[item.category] = [other for other in queues[item.category] if other.group_id != item.group_id]
            ties_left -= item.tied
            adjudicated_left -= item.state != "majority"
            of_category[item.category] += 1
    return Selection(
        tuples=[item for item in chosen if item.ranks is not None],
        pending=[item for item in chosen if item.ranks is None],
        wanted=wanted,
    )


def _firsts(
    queues: Mapping[str, Sequence[BenchmarkTuple]], ties: bool, adjudicated: bool
) -> dict[str, BenchmarkTuple]:
    """The first of each queue, where ties and what is or will be adjudicated may be left out."""
    firsts = {}
    for category, queue in queues.items():
        for item in queue:
            if (ties or not item.tied) and (adjudicated or item.state == "majority"):
                firsts[category] = item
                break
    return firsts

"""Publishing a dataset of edit groups: Parquet shards, splits without leaks, statistics, figure and card."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi

from editreward.curation.check import FAULTS, CheckReport, Fault, find_faults
from editreward.data.images import NEAR_BITS, perceptual_hash, read_image
from editreward.data.schema import Group
from editreward.data.sources import raw_groups, stream_splits
from editreward.data.splits import Sources, assign_splits, check_fractions, find_leak
from editreward.data.storage import MAX_SHARD_BYTES, GroupWriter
from editreward.files import atomic_folder, write_json, write_text
from editreward.groups.protocol import RubricDimension
from editreward.groups.ratings import PSEUDONYM
from editreward.groups.rows import GroupRow, GroupRows
from editreward.hub_ids import check_hub_id
from editreward.publishing.card import UNKNOWN_LICENCE, build_card, read_rubric
from editreward.publishing.stats import DatasetStatistics, dataset_statistics
from editreward.publishing.stats_report import draw

DEFAULT_FRACTIONS = {"train": 0.9, "test": 0.1}
"""Of a dataset that has only one split."""

NEVER_ALLOWED = ("missing_image", "broken_image", "bad_preference")
"""Faults that nothing published may have: readers would stumble over them."""

SplitReader = Callable[[], Mapping[str, GroupRows]]
"""Opens the groups of each split as they are stored, from the start, each time that it is called."""


@dataclass(frozen=True)
class PublishOptions:
    """How a dataset is published.

    Attributes:
        repo_id: where it will be on the Hub, "organisation/name".
        licence: the Hub's identifier of a licence.
        fractions: share of the source images of each new split; None keeps the splits that there are, and draws
            `DEFAULT_FRACTIONS` where there is only one.
        seed: of the splits.
        near_bits: source images whose perceptual hashes differ in at most so many bits stay in one split.
        allow: kinds of faults (see `editreward.curation.check.FAULTS`) that don't stop it.
        keep_names: publish annotators' names as they are instead of "annotator-1" and so on.
        fields: texts of the card, see `read_fields`.
        protocol: file with the rubric that annotators used.
        max_shard_bytes: a shard ends after the batch of groups that reaches this size.
    """

    repo_id: str
    licence: str = UNKNOWN_LICENCE
    fractions: Mapping[str, float] | None = None
    seed: int = 0
    near_bits: int = NEAR_BITS
    allow: Sequence[str] = ()
    keep_names: bool = False
    fields: dict[str, str] | None = None
    protocol: str | os.PathLike[str] | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES

    def __post_init__(self) -> None:
        check_hub_id(self.repo_id)
        if self.fractions is not None:
            check_fractions(self.fractions)
        unknown = [kind for kind in self.allow if kind not in FAULTS or kind in NEVER_ALLOWED]
        if unknown:
            known = ", ".join(kind for kind in FAULTS if kind not in NEVER_ALLOWED)
            raise ValueError(f"{unknown[0]!r} is no fault that can be allowed; these can: {known}.")


@dataclass
class Survey:
    """What a first reading of the dataset found.

    Attributes:
        report: counts of groups, candidates and faults.
        faults: the faults that stop publishing, the first hundred.
        sources: the source images of every group, in the order of reading.
        annotators: everybody who annotated, in the order of first occurrence.
    """

    report: CheckReport = field(default_factory=CheckReport)
    faults: list[Fault] = field(default_factory=list)
    sources: list[Sources] = field(default_factory=list)
    annotators: list[str] = field(default_factory=list)


def survey(splits: Mapping[str, GroupRows], allow: Sequence[str] = ()) -> Survey:
    """Check every group, and hash its source images.

    Args:
        splits: the groups of each split as they are stored.
        allow: kinds of faults to pass over.
    """
    found = Survey()
    annotators: dict[str, None] = {}

    def watched(split: str, groups: GroupRows) -> Iterator[GroupRow]:
        for group in groups:
            hashes = []
            for record in group["source_images"] or []:
                try:
                    hashes.append(perceptual_hash(read_image(record)))
                except (FileNotFoundError, ValueError):
                    continue  # a fault, which `find_faults` tells
            found.sources.append(Sources(str(group["group_id"]), split, tuple(hashes)))
            annotations = (a for c in group["candidates"] or [] if c for a in c["annotations"] or [] if a)
            annotators.update((a["annotator"], None) for a in annotations if a["annotator"])
            yield group

    for fault in find_faults({split: watched(split, groups) for split, groups in splits.items()}, found.report):
        if fault.kind not in allow and len(found.faults) < 100:
            found.faults.append(fault)
    found.annotators = list(annotators)
    return found


def pseudonyms(names: Sequence[str]) -> dict[str, str]:
    """A name of the form "annotator-1" for each name; names of that form stay as they are."""
    taken = [int(match[1]) for name in names if (match := PSEUDONYM.fullmatch(name))]
    result, number = {}, max(taken, default=0)
    for name in names:
        if PSEUDONYM.fullmatch(name):
            result[name] = name
        else:
            number += 1
            result[name] = f"annotator-{number}"
    return result


def plan_splits(found: Survey, options: PublishOptions) -> tuple[list[str], Mapping[str, float] | None]:
    """The split of every group, in the order of reading, and the fractions that they were drawn with, if they were.

    Raises:
        ValueError: the dataset has faults; a source image would be in two splits; or a split would be empty.
    """
    if found.faults:
        counts = Counter({kind: n for kind, n in found.report.counts.items() if kind not in options.allow})
        told = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
        raise ValueError(
            f"The dataset has faults ({told}); the first: {found.faults[0]}. `editreward data check` lists all; "
            "repair them, or name the kinds to accept with --allow."
        )
    fractions = options.fractions
    if fractions is None and len(found.report.groups) == 1:
        fractions = DEFAULT_FRACTIONS
    if fractions is not None:
        return assign_splits(found.sources, fractions, options.seed, options.near_bits), fractions
    leak = find_leak(found.sources, options.near_bits)
    if leak is not None:
        told = " and ".join(f"group {source.group_id!r} of {source.split!r}" for source in leak)
        raise ValueError(
            f"A source image is in two splits: {told} have the same or nearly the same. Draw new splits with --splits."
        )
    return [source.split for source in found.sources], None


def write_publication(
    read: SplitReader,
    dimensions: Sequence[str],
    found: Survey,
    folder: str | os.PathLike[str],
    options: PublishOptions,
) -> DatasetStatistics:
    """Write what is published into a new folder: `data/*.parquet`, `README.md`, `statistics.png`, `statistics.json`.

    Args:
        read: opens the groups, the same ones in the same order as for `survey`.
        dimensions: what candidates are scored on.
        found: from `survey`.
        folder: must not exist, or be empty. It is there in the end, or, after an error, not at all.
        options: how to publish.

    Returns:
        The statistics of what was written.

    Raises:
        ValueError: as `plan_splits`; or the folder is not empty, or the protocol lacks a dimension.
    """
    planned, fractions = plan_splits(found, options)
    rubric = read_rubric(list(dimensions), options.protocol)
    names = {} if options.keep_names else pseudonyms(found.annotators)
    with atomic_folder(folder) as part:
        _write_shards(read(), dimensions, planned, names, part, options)
        written = stream_splits(part, list(fractions or dict.fromkeys(planned)))
        statistics = dataset_statistics({split: raw_groups(rows) for split, rows in written.items()}, dimensions)
        _write_description(statistics, rubric, fractions, part, options)
    return statistics


def _write_shards(
    splits: Mapping[str, GroupRows],
    dimensions: Sequence[str],
    planned: Sequence[str],
    names: Mapping[str, str],
    folder: Path,
    options: PublishOptions,
) -> None:
    groups = (group for rows in splits.values() for group in rows)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(GroupWriter(folder, split, dimensions, options.max_shard_bytes))
            for split in dict.fromkeys(planned)
        }
        for split, group in zip(planned, groups, strict=True):
            writers[split].write(_renamed(group, names))


def _renamed(group: GroupRow, names: Mapping[str, str]) -> Group:
    """The group with other names of its annotators."""
    candidates = [
        {
            **candidate,
            "annotations": [
                {**annotation, "annotator": names.get(annotation["annotator"], annotation["annotator"])}
                for annotation in candidate["annotations"] or []
            ],
        }
        for candidate in group["candidates"] or []
    ]
    return {**group, "candidates": candidates}


def _write_description(
    statistics: DatasetStatistics,
    rubric: list[RubricDimension],
    fractions: Mapping[str, float] | None,
    folder: Path,
    options: PublishOptions,
) -> None:
    if fractions is None:
        splitting = "The splits are those of the dataset that this was made from."
    else:
        shares = ", ".join(f"{split} {fraction:g}" for split, fraction in fractions.items())
        splitting = (
            f"Groups were drawn by the perceptual hash of their source image, with seed {options.seed} ({shares})."
        )
    splitting += (
        " No source image is in two splits, nor are two whose 64-bit perceptual hashes differ in at most "
        f"{options.near_bits} bits."
    )
    card = build_card(statistics, options.repo_id, options.licence, options.fields, rubric, splitting)
    write_text(folder / "README.md", card)
    write_json(folder / "statistics.json", statistics.to_dict())
    draw(statistics, folder / "statistics.png", options.repo_id.split("/")[-1])


def create_repository(repo_id: str, private: bool = False) -> str:
    """Make the dataset repository, unless it is there; returns its address."""
    return str(HfApi().create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True))


def upload(folder: str | os.PathLike[str], repo_id: str, message: str) -> str:
    """Upload a folder that `write_publication` wrote, in one commit that also removes the shards of an older version.

    Returns:
        The address of the commit.
    """
    commit = HfApi().upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=str(folder),
        commit_message=message,
        delete_patterns=["data/*.parquet"],
    )
    return str(commit.commit_url)

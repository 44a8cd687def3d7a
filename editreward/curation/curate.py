"""Curation of a dataset of edits: score, select, write what is kept, and say what was dropped and why.

| file of the output | what |
|---|---|
| `settings.json` | what was asked for; another run with them makes the same bytes |
| `scores.jsonl` | all scores, a line per group; while they are made, what a stopped run goes on with |
| `data/train-*.parquet` | the edits that are kept, a row each, images within |
| `decisions.jsonl` | for every edit whether it is kept, and the filter that dropped it |
| `faults.jsonl` | rows of the source that could not be read |
| `report.html`, `report.md`, `report.png` | what happened, with pictures |
| `README.md` | the dataset's card |
| `summary.json` | numbers; written last, so that a folder with it is complete |
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value
from PIL import Image as Pillow

from editreward.curation.acceptance import Condition, Control, control, draw_for_labels, read_labels
from editreward.curation.contamination import Prints, SourceOf, shared_sources, take_prints
from editreward.curation.selection import Kept, ScoredEdit, Selection, score_of, select, take_best
from editreward.data.edit_sources import GroupSource, write_faults
from editreward.data.images import perceptual_hash, pixel_digest, shown_image
from editreward.data.importers.formats import short_hash
from editreward.data.schema import UNKNOWN, encode_image
from editreward.data.sources import StoredRows
from editreward.data.storage import ShardWriter, write_groups
from editreward.files import alone_at, check_same, write_json, write_lines
from editreward.groups import Scorer
from editreward.groups.ratings import SCORE_RANGE
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from editreward.scorers.dataset import score_dataset
from editreward.scorers.kept_scores import read_records
from editreward.scorers.processes import Processes

UNTOUCHED = "untouched source"
"""The editor of the candidate that `min_gain` compares with: the source itself."""

SPLIT = "train"
MAX_SHARD_BYTES = 500_000_000


@dataclass(frozen=True)
class RiskControl:
    """What `--acceptable` asks for, see `editreward.curation.acceptance`."""

    conditions: Sequence[Condition]
    labelled: str
    share: float = 0.9
    confidence: float = 0.95


@dataclass(frozen=True)
class Curation:
    """What is asked for, beside scorer and source.

    Attributes:
        selection: filters.
        risk: the threshold by labels; None: no labels.
        exclude: names of datasets whose source images no edit may have.
        labels: how many edits to draw for people to label, into `to_label`; 0: none.
        seed: of that draw and of the split of labels.
        settings: how the command was called, saved with the output.

    Raises:
        ValueError: risk control goes with a number of edits, which would undo it.
    """

    selection: Selection = Selection()
    risk: RiskControl | None = None
    exclude: Sequence[str] = ()
    labels: int = 0
    seed: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.risk is not None and (self.selection.top_k is not None or self.selection.top_share is not None):
            raise ValueError(
                "--acceptable says how good what is kept must be, --top-k and --top-share how much it is: choose one."
            )


@dataclass
class Outcome:
    """What a curation made.

    Attributes:
        kept: the edits, and what became of each.
        control: of the labels; None without.
        faults: how many rows of the source could not be read.
        groups: of the source.
        shards: the files of data.
        to_label: how many edits were drawn for labels.
    """

    kept: Kept
    control: Control | None
    faults: int
    groups: int
    shards: Sequence[Path]
    to_label: int


class WithUntouched:
    """Groups with their source as one more candidate, where there is one source."""

    def __init__(self, source: GroupSource) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        for number, row in self.source.group_rows(start, step, limit):
            sources = list(row["source_images"] or ())
            untouched = [{"image": sources[0], "editor": UNTOUCHED}] if len(sources) == 1 else []
            yield number, {**row, "candidates": [*(row["candidates"] or ()), *untouched]}


def curate(
    scorer: Scorer,
    source: GroupSource,
    output: Path,
    curation: Curation,
    *,
    processes: Processes | None = None,
    progress: bool | None = False,
    scores: Path | None = None,
) -> Outcome | None:
    """Curate a dataset; a run that was stopped goes on where it was, and ends with the same bytes.

    Args:
        scorer: who scores.
        source: what.
        output: a folder, new or of a stopped run with the same settings.
        curation: what to keep.
        processes: who shares the scoring; the main one does the rest.
        progress: see `score_dataset`.
        scores: the output of an earlier run of this scorer on this source, whose scores are used again.

    Returns:
        What was made; None in processes other than the main one.

    Raises:
        FileExistsError: the output is complete already.
        ValueError: the settings of a stopped run were others, the scorer has another scale than the labels, nothing is
            left, or as `score_dataset`.
    """
    processes = processes or Processes()
    if curation.risk is not None and scorer.scale is not None:
        low, high = scorer.scale
        if (low, high) != SCORE_RANGE:
            raise ValueError(
                f"{scorer.name} scores from {low:g} to {high:g}, labels are from 1 to 4: --acceptable takes a scorer "
                "of that scale, or of none. Bring it there by `editreward calibrate`."
            )
    if (output / "summary.json").exists():
        raise FileExistsError(
            f"{output} is complete already. Choose another folder; --scores {output} spares scoring."
        )
    output.mkdir(parents=True, exist_ok=True)
    if processes.is_main:
        with alone_at(output / "curation"):
            _save_settings(scorer, source, output, curation, scores)
            processes.from_main(True)  # the others wait for the settings, and for scores that are there already
            _score(scorer, source, output, curation, processes, progress)
            return _select_and_write(scorer, source, output, curation)
    processes.from_main(None)
    _score(scorer, source, output, curation, processes, progress)
    return None


def _save_settings(scorer: Scorer, source: GroupSource, output: Path, curation: Curation, scores: Path | None) -> None:
    made_of: dict[str, object] = {
        "source": source.name,
        "scorer": scorer.name,
        "fingerprint": scorer.fingerprint,
        "untouched": curation.selection.min_gain is not None,
    }
    settings = {**made_of, "arguments": curation.settings}
    file = output / "settings.json"
    if file.exists():
        advice = "Repeat that run, or choose another folder."
        check_same(f"{output} is of an unfinished run", json.loads(file.read_text()), settings, advice)
    else:
        write_json(file, settings)
    if scores is not None and not (output / "scores.jsonl").exists():
        earlier = json.loads((scores / "settings.json").read_text())
        had = {name: earlier[name] for name in made_of}
        if had["untouched"]:
            had["untouched"] = made_of["untouched"]  # more was scored than is needed
        check_same(f"{scores} has scores", had, made_of, "Score anew, without --scores.")
        if not (scores / "scores.jsonl").exists():
            raise FileNotFoundError(f"{scores} has no finished scores.jsonl. End that run first.")
        shutil.copyfile(scores / "scores.jsonl", output / "scores.jsonl.copy")
        (output / "scores.jsonl.copy").replace(output / "scores.jsonl")


def _score(
    scorer: Scorer,
    source: GroupSource,
    output: Path,
    curation: Curation,
    processes: Processes,
    progress: bool | None,
) -> None:
    file = output / "scores.jsonl"
    if file.exists() and not list(output.glob("scores.jsonl.part-*")):
        return
    groups = WithUntouched(source) if curation.selection.min_gain is not None else source
    score_dataset(scorer, groups, file, processes=processes, progress=progress, describe=describe)


def describe(row: GroupRow) -> dict[str, object]:
    """What is kept of a row beside its scores: category, content, and prints of the sources and of each edit."""
    first, *others = row["source_images"] or (None,)
    images = [(candidate or {}).get("image") for candidate in _without_untouched(row)["candidates"]]
    prints = [_print(first), *map(_print, images)]
    return {**content_of(row), "prints": prints, "other_sources": list(map(_print, others))}


def content_of(row: GroupRow) -> dict[str, object]:
    """Category and content of a row, whether its untouched source is scored or not."""
    return {"category": row.get("category"), "content": row_digest(_without_untouched(row))}


def _without_untouched(row: GroupRow) -> GroupRow:
    candidates = [one for one in row["candidates"] or () if (one or {}).get("editor") != UNTOUCHED]
    return {**row, "candidates": candidates}


def _print(record: GroupRow | Pillow.Image | None) -> list[object] | None:
    """Digest and perceptual hash of an image; None where it cannot be read."""
    image = shown_image(record)
    return None if image is None else [pixel_digest(image).hex(), perceptual_hash(image)]


def scored_edits(records: Iterator[Mapping[str, Any]]) -> Iterator[ScoredEdit]:
    """The edits of records of scores, without the untouched sources."""
    for record in records:
        source, *prints = record["prints"]
        others = [(one[0], one[1]) for one in record.get("other_sources") or () if one]
        digests = [source[0] if source else "", *(digest for digest, _ in others)]
        name = f"{record['group_id']}-{short_hash(digests, record['instruction'])}"  # groups may share their id
        candidates = record["candidates"] or [{"error": record["error"]} for _ in prints]
        untouched = candidates[len(prints)].get("reward") if len(candidates) > len(prints) else None
        for place, (one, shown) in enumerate(zip(candidates, prints, strict=False)):
            reward = one.get("reward")
            gain = None if reward is None or untouched is None else reward - untouched
            means, stds = _numbers(one) if one["error"] is None else ({}, {})
            yield ScoredEdit(
                row=record["row"],
                place=place,
                group_id=record["group_id"] or "",
                id=one.get("id") or (f"{name}/{place}" if record["group_id"] else None),
                origin=str(one.get("row") or f"row {record['row']}"),
                instruction=record["instruction"] or "",
                category=record["category"] or UNKNOWN,
                editor=one.get("editor") or UNKNOWN,
                means=means,
                stds=stds,
                gain=gain,
                source=source[0] if source else "",
                pixels=shown[0] if shown else "",
                source_hash=source[1] if source else 0,
                hash=shown[1] if shown else 0,
                error=one["error"] or ("" if shown and source else "its image cannot be read"),
                other_sources=others,
            )


def _numbers(one: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Means and standard deviations by dimension, and for "overall"."""
    named = {name: (score["mean"], score["std"]) for name, score in (one["dimensions"] or {}).items()}
    overall = one.get("overall")
    named["overall"] = (overall["mean"], overall["std"]) if overall else (one["reward"], one["reward_std"])
    means = {name: mean for name, (mean, _) in named.items()}
    return means, {name: std for name, (_, std) in named.items() if std is not None}


def contaminated(edits: Sequence[ScoredEdit], names: Sequence[str]) -> set[int] | None:
    """Indices of edits of which a source image is one of a benchmark, or nearly so; None where none is named."""
    if not names:
        return None
    known: dict[str, int] = {digest: bits for edit in edits for digest, bits in _sources(edit)}
    ours = Prints(sources=[SourceOf(digest, 0, bytes.fromhex(digest), bits) for digest, bits in known.items()])
    found = {shared.a for name in names for shared in shared_sources(ours, take_prints(StoredRows(name)))}
    return {index for index, edit in enumerate(edits) if any(digest in found for digest, _ in _sources(edit))}


def _sources(edit: ScoredEdit) -> list[tuple[str, int]]:
    """Digest and perceptual hash of each source image that can be read."""
    return [one for one in ((edit.source, edit.source_hash), *edit.other_sources) if one[0]]


def _select_and_write(scorer: Scorer, source: GroupSource, output: Path, curation: Curation) -> Outcome:
    from editreward.curation.curation_report import Pictures, write_report

    edits = list(scored_edits(read_records(output / "scores.jsonl")))
    kept = select(edits, curation.selection, contaminated(edits, curation.exclude))
    drawn = draw_for_labels(kept, curation.labels, curation.seed) if curation.labels else []
    controlled = None
    if curation.risk is not None:
        risk = curation.risk
        labels = read_labels(StoredRows(risk.labelled), risk.conditions)
        controlled = control(
            kept, curation.selection, labels, risk.conditions, risk.share, risk.confidence, curation.seed
        )
    take_best(kept, curation.selection)
    pictures = Pictures.of(kept, curation.selection)
    shards, groups, to_label = _write(scorer, source, output, curation.selection, kept, drawn, pictures)
    write_lines(output / "decisions.jsonl", map(json.dumps, decisions(kept, curation.selection)))
    write_faults(source, output)
    outcome = Outcome(kept, controlled, len(source.faults), groups, shards, to_label)
    write_report(output, outcome, curation, scorer, source, pictures)
    write_json(
        output / "summary.json",
        {
            "edits": len(edits),
            "kept": len(kept.left),
            "groups": groups,
            "faults": outcome.faults,
            "steps": [asdict(step) for step in kept.steps],
            "to_label": to_label,
        },
    )
    return outcome


def decisions(kept: Kept, selection: Selection) -> Iterator[dict[str, Any]]:
    """What became of each edit, in the order of the source."""
    for index, edit in enumerate(kept.edits):
        score = score_of(edit, selection) if edit.means else None
        why = kept.why.get(index)
        reason = {"error": edit.error} if edit.error else {}
        told = {"group_id": edit.group_id, "id": edit.id, "row": edit.origin, "place": edit.place}
        yield {**told, "score": score, "kept": why is None, "dropped": why, **reason}


def features_of_kept(dimensions: Sequence[str]) -> Features:
    """Columns of the dataset of kept edits, a row each."""
    number, text = Value("float64"), Value("string")
    # A struct without fields cannot be stored.
    scores = {"scores": dict.fromkeys(dimensions, number)} if dimensions else {}
    return Features(
        {
            **dict.fromkeys(("id", "group_id", "row", "instruction", "category", "editor"), text),
            "source_images": List(Image()),
            "edited_image": Image(),
            **dict.fromkeys(("overall", "overall_std", "selection_score", "gain"), number),
            **scores,
        }
    )


def _write(
    scorer: Scorer,
    source: GroupSource,
    output: Path,
    selection: Selection,
    kept: Kept,
    drawn: Sequence[int],
    pictures: Any,
) -> tuple[Sequence[Path], int, int]:
    """Go through the source again and write the edits that are kept, and those for labels; groups are counted."""
    if not kept.left:
        steps = "; ".join(f"{step.name}: {step.dropped}" for step in kept.steps if step.dropped)
        raise ValueError(f"Nothing is left of {len(kept.edits)} edits ({steps}).")
    wanted: dict[int, list[int]] = {}
    for index in sorted({*kept.left, *drawn, *pictures.wanted}):
        wanted.setdefault(kept.edits[index].row, []).append(index)
    dimensions = [name for name in next((e.means for e in kept.edits if e.means), {}) if name != "overall"]
    left, labelled, to_label, groups = set(kept.left), set(drawn), [], 0
    records = read_records(output / "scores.jsonl")
    rows = WithUntouched(source) if selection.min_gain is not None else source
    with ShardWriter(output, SPLIT, features_of_kept(dimensions), MAX_SHARD_BYTES) as writer:
        for numbered, record in zip_longest(rows.group_rows(), records):
            if numbered is None or record is None:
                what = "fewer" if numbered is None else "more"
                raise ValueError(f"{source.name} has {what} groups than when it was scored. Score anew.")
            number, row = numbered
            groups += 1
            if number not in wanted:
                continue
            if content_of(row)["content"] != record["content"]:
                raise ValueError(f"Group {row.get('group_id')!r} has changed since it was scored. Score anew.")
            for index in wanted[number]:
                if index in left:
                    writer.write(_kept_row(kept.edits[index], row, selection, dimensions))
                if index in labelled:
                    to_label.append(_label_row(kept.edits[index], row))
                pictures.take(index, row, kept.edits[index].place)
    if to_label:
        write_groups(to_label, output / "to_label")
    return writer.shards, groups, len(to_label)


def _kept_row(edit: ScoredEdit, row: GroupRow, selection: Selection, dimensions: Sequence[str]) -> dict[str, object]:
    scores = {"scores": {name: edit.means.get(name) for name in dimensions}} if dimensions else {}
    return {
        "id": edit.id,
        "group_id": edit.group_id,
        "row": edit.origin,
        "instruction": edit.instruction,
        "category": edit.category,
        "editor": edit.editor,
        "source_images": [encode_image(image) for image in row["source_images"]],
        "edited_image": encode_image(row["candidates"][edit.place]["image"]),
        "overall": edit.means["overall"],
        "overall_std": edit.stds.get("overall"),
        "selection_score": score_of(edit, selection),
        "gain": edit.gain,
        **scores,
    }


def _label_row(edit: ScoredEdit, row: GroupRow) -> GroupRow:
    candidate = {"image": encode_image(row["candidates"][edit.place]["image"]), "editor": edit.editor}
    return {
        "group_id": f"{edit.group_id}-{short_hash(edit.source, edit.instruction)}-{edit.place}",
        "category": edit.category,
        "instruction": edit.instruction,
        "source_images": [encode_image(image) for image in row["source_images"]],
        "candidates": [candidate],
    }

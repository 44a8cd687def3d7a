"""The best of N edits: an editor makes candidates, a scorer chooses, the winners go into a folder.

| file of the output | what |
|---|---|
| `candidates/` | what the editor made, see `editreward.editors.store`; not there for candidates that existed |
| `scores-*.jsonl` | all scores of a scorer |
| `winners/` | the chosen edits, their sources, and `metadata.jsonl`, a line for each: a table, and an image folder |
| `faults.jsonl` | rows of the source that could not be read |
| `report.html`, `.md`, `.png`, `.json` | what more candidates are worth, and how sure the choices were |

A run that was stopped goes on where it was. More candidates, or another scorer, take the same folder: what is there is
used again, winners and report are replaced.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editreward.data.edit_sources import GroupSource, write_faults
from editreward.data.images import extension_of, pixel_digest, shown_image
from editreward.data.schema import UNKNOWN, encode_image
from editreward.editors.candidates import CandidateGroups
from editreward.editors.editors import Editor, editor_of
from editreward.editors.instructions import Instructions, open_instructions
from editreward.editors.run import make_candidates, process_state
from editreward.editors.store import CandidateStore, file_stem
from editreward.files import alone_at, part_of, put_in_place, write_lines
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from editreward.scorers.kept_scores import kept_scores, read_records
from editreward.scorers.processes import Processes
from editreward.scorers.registry import load_scorer
from images_editreward import image_header

if TYPE_CHECKING:
    from PIL import Image

    from editreward.editors.best_of_report import Report

MANIFEST = "metadata.jsonl"


@dataclass(frozen=True)
class Choice:
    """A group whose best candidate was chosen.

    Attributes:
        row, group_id, instruction, category: of the group.
        source: digest of the pixels of its first source image; its id where that cannot be read.
        content: `row_digest` of the group.
        places: of the scored candidates in the group, shape (scored,); what follows is in their order.
        keys: what chose: the score, or its lower bound.
        scores, stds: of the scorer, overall; standard deviations are empty where it has none.
        probabilities: that each is the best; empty where the scorer has none.
        truth: mean of the labels of each; empty unless all scored candidates have labels.
        second: of the second scorer; empty where there is none or one of them has no score.
        editors, seeds: of each candidate.
        best: which of them was chosen.
    """

    row: int
    group_id: str
    instruction: str
    category: str
    source: str
    content: str
    places: Sequence[int]
    keys: Sequence[float]
    scores: Sequence[float]
    stds: Sequence[float]
    probabilities: Sequence[float]
    truth: Sequence[float]
    second: Sequence[float]
    editors: Sequence[str]
    seeds: Sequence[int | None]

    @property
    def best(self) -> int:
        """The first of the highest keys."""
        return max(range(len(self.keys)), key=lambda index: self.keys[index])


@dataclass(frozen=True)
class BestOf:
    """What was chosen.

    Attributes:
        choices: a group each.
        failed: groups without a winner, and why.
        unscored: candidates without a score, of groups that have a winner.
        winners: the folder.
        report: what more candidates are worth.
        generation: candidates that were not made, and why.
    """

    choices: Sequence[Choice]
    failed: Sequence[tuple[str, str]]
    unscored: int
    winners: Path
    report: "Report"
    generation: Sequence[tuple[str, str]]


def best_of_n(
    editor: Editor | str,
    instructions: Instructions | str,
    output: Path | str,
    n: int = 16,
    scorer: Scorer | str | None = None,
    *,
    second: Scorer | str | None = None,
    lower_bound: float = 0.0,
    first_seed: int = 0,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: bool | None = False,
) -> BestOf | None:
    """Make n candidates of each instruction, choose the best, and report what n is worth.

        best_of_n("editors.yaml:my-editor", "rows.csv", "best/", n=16, scorer="org/EditReward")

    Args:
        editor: see `editor_of`.
        instructions: see `open_instructions`.
        output: a folder, new or of an earlier run.
        n: candidates of each instruction, of the seeds from `first_seed` on.
        scorer: who chooses; a scorer or what `load_scorer` takes, by default the bundled tiny model.
        second: another scorer, which only judges the choices.
        lower_bound: standard deviations that are taken off scores, so that what is surely good goes first.
        limit: of the instructions.
        retry_failed: try again the candidates that failed in an earlier run.
        progress: see `score_dataset`.

    Returns:
        What was chosen; None in processes other than the main one.

    Raises:
        ValueError: as `make_candidates` and `choose_in`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    seeds = range(first_seed, first_seed + n)
    maker = editor_of(editor, seeds) if isinstance(editor, str) else editor
    rows = open_instructions(instructions, limit=limit) if isinstance(instructions, str) else instructions
    source = make(maker, rows, Path(output), retry_failed)
    return choose_in(Path(output), source, scorer, second, lower_bound, progress=progress)


def make(editor: Editor, instructions: Instructions, output: Path, retry_failed: bool = False) -> CandidateGroups:
    """Make the candidates that are not there yet, in all processes."""
    store = CandidateStore(output)
    make_candidates(instructions, [editor], store, retry_failed, process_state())
    return CandidateGroups(instructions, [editor], store)


def choose_in(
    output: Path,
    source: GroupSource,
    scorer: Scorer | str | None = None,
    second: Scorer | str | None = None,
    lower_bound: float = 0.0,
    *,
    processes: Processes | None = None,
    progress: bool | None = False,
) -> BestOf | None:
    """Score candidates that are there, choose the best of each group, and write winners and report.

    Args:
        output: see the module.
        source: groups of candidates.
        scorer, second, lower_bound, progress: see `best_of_n`.
        processes: who shares the scoring.

    Raises:
        ValueError: nothing could be scored, a lower bound is asked of a scorer without standard deviations, or a group
            has changed since it was scored.
    """
    from editreward.editors.best_of_report import report_of, write_report

    if lower_bound < 0:
        raise ValueError(f"--lower-bound must be 0 or more, not {lower_bound:g}.")
    processes = processes or Processes()
    output.mkdir(parents=True, exist_ok=True)
    chooser = _loaded(scorer, processes)
    first_file = kept_scores(output, source, chooser, _described, _told, processes, progress)
    judge = None if second is None else _loaded(second, processes)
    second_file = None if judge is None else kept_scores(output, source, judge, _described, _told, processes, progress)
    if not processes.is_main:
        return None
    with alone_at(output / "best-of"):
        seconds = {} if second_file is None else {record["row"]: record for record in read_records(second_file)}
        choices, failed, unscored = _choices(read_records(first_file), seconds, lower_bound)
        if not choices:
            raise ValueError(f"No candidate of {source.name} has a score: {failed[0][1] if failed else 'no groups'}.")
        if lower_bound and (without := [choice.group_id for choice in choices if not choice.stds]):
            raise ValueError(
                f"{chooser.name} gives no standard deviations in group {without[0]}: --lower-bound asks for them."
            )
        report = report_of(choices, lower_bound, chooser, judge, source)
        winners = _write_winners(output, choices, source, report)
        generation = [
            (f"{one.group_id}, {one.editor}, seed {one.seed}", one.error or "")
            for one in getattr(source, "failures", ())
        ]
        found = BestOf(choices, failed, unscored, winners, report, generation)
        write_report(output, found)
        write_faults(source, output)
        return found


def _loaded(scorer: Scorer | str | None, processes: Processes) -> Scorer:
    if scorer is None or isinstance(scorer, str):
        return load_scorer(scorer, default_device=processes.device)
    return scorer


def _described(row: GroupRow) -> dict[str, object]:
    """What is kept of a row beside its scores."""
    source = shown_image((row["source_images"] or (None,))[0])
    return {**_told(row), "digest_of_source": "" if source is None else pixel_digest(source).hex()}


def _told(row: GroupRow) -> dict[str, object]:
    """Of that, what needs no decoded image."""
    candidates = [candidate or {} for candidate in row["candidates"] or ()]
    return {
        "category": row.get("category"),
        "content": row_digest(row),
        "seeds": [candidate.get("seed") for candidate in candidates],
        "truth": [_truth(candidate.get("scores")) for candidate in candidates],
    }


def _truth(scores: Mapping[str, float | None] | None) -> float | None:
    """The mean of a candidate's labels; None where there are none, or not of all dimensions."""
    values = list((scores or {}).values())
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _choices(
    records: Iterator[dict[str, Any]], seconds: Mapping[int, Mapping[str, Any]], lower_bound: float
) -> tuple[list[Choice], list[tuple[str, str]], int]:
    """The choices, the groups without one with the reason, and the number of other candidates without a score."""
    choices, failed, unscored = [], [], 0
    for record in records:
        name = record["group_id"] or f"row {record['row']}"
        places = [place for place, one in enumerate(record["candidates"]) if not one["error"]]
        if record["error"] or not places:
            reasons = [one["error"] for one in record["candidates"]]
            failed.append((name, record["error"] or (reasons[0] if reasons else "it has no candidate")))
            continue
        unscored += len(record["candidates"]) - len(places)
        choices.append(_choice(record, places, seconds.get(record["row"]), lower_bound))
    return choices, failed, unscored


def _choice(
    record: Mapping[str, Any], places: Sequence[int], second: Mapping[str, Any] | None, lower_bound: float
) -> Choice:
    own = [record["candidates"][place] for place in places]
    others = second["candidates"] if second is not None and not second["error"] else []
    numbers = [_number(one) for one in own]
    stds = _all([std for _, std in numbers])
    keys = (
        [mean - lower_bound * std for mean, std in zip([m for m, _ in numbers], stds, strict=True)] if stds else None
    )
    judged = [others[place] for place in places] if others else []
    return Choice(
        row=record["row"],
        group_id=record["group_id"] or f"row {record['row']}",
        instruction=record["instruction"] or "",
        category=record["category"] or UNKNOWN,
        source=record["digest_of_source"] or record["group_id"] or str(record["row"]),
        content=record["content"],
        places=places,
        keys=keys if keys is not None else [mean for mean, _ in numbers],
        scores=[mean for mean, _ in numbers],
        stds=stds,
        probabilities=_all([one["probability_best"] for one in own]),
        truth=_all([record["truth"][place] for place in places]),
        second=_all([None if one["error"] else _number(one)[0] for one in judged]),
        editors=[one["editor"] or UNKNOWN for one in own],
        seeds=[record["seeds"][place] for place in places],
    )


def _number(one: Mapping[str, Any]) -> tuple[float, float | None]:
    """Overall score and standard deviation of a candidate, on 1..4 where the scorer is calibrated."""
    overall = one.get("overall")
    return (overall["mean"], overall["std"]) if overall else (one["reward"], one["reward_std"])


def _all(values: Sequence[float | None]) -> list[float]:
    """The numbers, or none of them if one is missing."""
    known = [float(value) for value in values if value is not None]
    return known if len(known) == len(values) else []


def _write_winners(output: Path, choices: Sequence[Choice], source: GroupSource, report: "Report") -> Path:
    """Write the chosen edits with their sources and a line for each; in place of those of an earlier run."""
    folder, of_row = output / "winners", {choice.row: choice for choice in choices}
    if folder.exists() and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is no folder of winners: choose another output folder.")
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    lines = []
    for number, row in source.group_rows():
        choice = of_row.get(number)
        if choice is None:
            continue
        if row_digest(row) != choice.content:
            raise ValueError(
                f"Group {choice.group_id} has changed since it was scored: delete scores-*.jsonl in {output}."
            )
        lines.append(_write_winner(part, choice, row))
        report.take(choice, row)
    write_lines(part / MANIFEST, (json.dumps(line, ensure_ascii=False) for line in lines))
    if folder.exists():
        shutil.rmtree(folder)
    return put_in_place(part, folder)


def _write_winner(folder: Path, choice: Choice, row: GroupRow) -> dict[str, object]:
    """Write the files of a winner. Returns its line of the manifest."""
    stem, best = file_stem(choice.group_id), choice.best
    edited = _write_image(folder, stem, row["candidates"][choice.places[best]]["image"])
    images = row["source_images"]
    names = [stem] if len(images) == 1 else [f"{stem}-{number}" for number in range(len(images))]
    sources = [_write_image(folder, f"sources/{name}", image) for name, image in zip(names, images, strict=True)]
    one_or_all = {"source_file_name": sources[0]} if len(sources) == 1 else {"source_file_names": sources}
    told: dict[str, Sequence[object]] = {
        "score": choice.scores,
        "std": choice.stds,
        "probability_best": choice.probabilities,
        "truth": choice.truth,
        "second": choice.second,
    }
    return {
        "edited_file_name": edited,
        **one_or_all,
        "instruction": choice.instruction,
        "group_id": choice.group_id,
        "category": choice.category,
        "editor": choice.editors[best],
        "seed": choice.seeds[best],
        "place": choice.places[best],
        "candidates": len(choice.places),
        "selection_score": choice.keys[best],
        **{name: values[best] if values else None for name, values in told.items()},
    }


def _write_image(folder: Path, stem: str, image: "GroupRow | Image.Image") -> str:
    """Write an image as it is stored. Returns its path in the folder."""
    content = encode_image(image)["bytes"]
    assert content is not None
    name = f"{stem}.{extension_of(image_header(content))}"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return name

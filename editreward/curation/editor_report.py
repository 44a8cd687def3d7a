"""Scores, tables and pictures of a comparison of editors."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editreward.curation.curate import describe, read_records
from editreward.curation.editor_comparison import (
    Case,
    Comparison,
    cases_of,
    compare_editors,
    decisive,
    disagreement,
)
from editreward.data.edit_sources import GroupSource
from editreward.data.images import thumbnail
from editreward.files import alone_at
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.reports.page import Example, Page, Picture, Plot, Section, Table
from editreward.reports.plots import bars_plot
from editreward.scorers.dataset import score_dataset
from editreward.statistics.estimate import Share

SHOWN = 5
"""Pairs of edits that are shown of every two editors."""


@dataclass(frozen=True)
class Found:
    """A comparison, by one scorer or by two.

    Attributes:
        cases: of the scorer.
        comparisons: of every two editors.
        disagreements: share of cases in which a second scorer prefers the other editor, by the editors; or None.
    """

    cases: Sequence[Case]
    comparisons: Sequence[Comparison]
    disagreements: Sequence[Share] | None


def compare_in(
    output: Path,
    source: GroupSource,
    scorer: Scorer,
    second: Scorer | None = None,
    editors: Sequence[str] = (),
    tie: float = 0.0,
    progress: bool | None = False,
) -> Found:
    """Score what is not yet scored, compare, and write `report.html`, `report.md`, `report.png`.

    Args:
        output: folder, in which a stopped run goes on.
        source: groups whose candidates say by which editor they are.
        scorer: who scores.
        second: another scorer, which is only asked whether it agrees.
        editors: whom to compare; none: all.
        tie: overall differences of at most this much are ties.
        progress: see `score_dataset`.

    Raises:
        ValueError: an editor is not there, or as `score_dataset`.
    """
    output.mkdir(parents=True, exist_ok=True)
    with alone_at(output / "comparison"):
        cases = _scored(output / f"scores-{_name(scorer)}.jsonl", source, scorer, editors, progress)
        comparisons = compare_editors(cases, editors, tie)
        disagreements = None
        if second is not None:
            others = _scored(output / f"scores-{_name(second)}.jsonl", source, second, editors, progress)
            disagreements = [disagreement(cases, others, (one.first, one.second)) for one in comparisons]
        found = Found(cases, comparisons, disagreements)
        _write(output, found, source, scorer, second)
        return found


def _name(scorer: Scorer) -> str:
    """A part of a file's name that differs whenever the scorer's answers may."""
    return hashlib.sha256(scorer.fingerprint.encode()).hexdigest()[:12]


def _scored(
    file: Path, source: GroupSource, scorer: Scorer, editors: Sequence[str], progress: bool | None
) -> list[Case]:
    if not file.exists() or list(file.parent.glob(f"{file.name}.part-*")):
        score_dataset(scorer, source, file, progress=progress, describe=describe)
    return cases_of(read_records(file), editors)


def _write(output: Path, found: Found, source: GroupSource, scorer: Scorer, second: Scorer | None) -> None:
    shown = {case.row for one in found.comparisons for case in decisive(found.cases, one.first, one.second, SHOWN)}
    rows: dict[int, GroupRow] = {number: row for number, row in source.group_rows() if number in shown}
    sections = [_summary(found, second), *map(_parts, found.comparisons), *_pictures(found, rows)]
    text = [f"Editors on the same instructions of {source.name}, by the scorer {scorer.name}.", *scorer.notes]
    Page("Comparison of editors", text, sections).write(output, "report")


def _summary(found: Found, second: Scorer | None) -> Section:
    header = ["editors", "verdict", "win rate", "ties", "overall difference", "p", "instructions", "sources"]
    rows = []
    for one in found.comparisons:
        numbers = [one.win_rate.text(), str(one.ties), one.differences["overall"].text(), f"{one.p_value:.3g}"]
        rows.append([f"{one.first} – {one.second}", one.verdict, *numbers, str(one.cases), str(one.sources)])
    text = [
        "The win rate is the share of instructions on which the first editor is better, ties half; intervals are "
        "95 %, over sources; p is that of the sign-flip test over sources, adjusted for the number of pairs (Holm)."
    ]
    if found.disagreements is not None and second is not None:
        for one, share in zip(found.comparisons, found.disagreements, strict=True):
            text.append(f"{second.name} prefers the other editor of {one.first} and {one.second} in {share.text()}.")
    return Section("Who is better", text, [Table(header, rows, names=2)])


def _parts(one: Comparison) -> Section:
    differences = [[name, estimate.text()] for name, estimate in one.differences.items()]
    tables = [Table(["dimension", f"{one.first} – {one.second}"], differences)]
    for kind, shares in one.by.items():
        rows = [[value, share.text(), str(share.total)] for value, share in shares.items()]
        tables.append(Table([kind, f"{one.first} wins", "instructions"], rows))
    wins = {"all": one.win_rate, **one.by["category"]}
    alt = "; ".join(f"{name}: {share.text()}" for name, share in wins.items())
    plot = Plot(
        f"{one.first} against {one.second}",
        alt,
        lambda figure, palette: bars_plot(figure, palette, {one.first: wins}, dict.fromkeys(wins, 50.0), "wins, %"),
        height=1.2 + 0.28 * len(wins),
    )
    return Section(f"{one.first} and {one.second}", (), tables, [plot])


def _pictures(found: Found, rows: dict[int, GroupRow]) -> list[Section]:
    sections = []
    for one in found.comparisons:
        examples = []
        for case in decisive(found.cases, one.first, one.second, SHOWN):
            row = rows[case.row]
            pictures = [Picture(thumbnail(row["source_images"][0]), "Source", [])]
            for name in (one.first, one.second):
                image = row["candidates"][case.places[name]]["image"]
                lines = [f"{key} {value:.3f}" for key, value in case.means[name].items()]
                pictures.append(Picture(thumbnail(image), name, lines))
            difference = f"difference {case.difference(one.first, one.second):+.3f}"
            examples.append(Example(f"{case.category}, group {case.row}", case.instruction, [difference], pictures))
        title = f"The most decisive instructions: {one.first} and {one.second}"
        sections.append(Section(title, (), examples=examples))
    return sections

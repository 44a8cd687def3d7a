"""Scores, tables and pictures of a comparison of editors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editreward.curation.curate import content_of, describe
from editreward.curation.editor_comparison import (
    Case,
    Comparison,
    Disagreement,
    cases_of,
    compare_editors,
    decisive,
    disagreements_of,
)
from editreward.curation.selection import OVERALL
from editreward.data.edit_sources import GroupSource, write_faults
from editreward.data.images import thumbnail
from editreward.files import alone_at
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.reports.page import Example, Page, Picture, Plot, Section, Table
from editreward.reports.plots import bars_plot
from editreward.scorers.kept_scores import kept_scores, read_records

SHOWN = 5
"""Pairs of edits that are shown of every two editors."""


@dataclass(frozen=True)
class Found:
    """A comparison, by one scorer or by two.

    Attributes:
        cases: of the scorer.
        comparisons: of every two editors.
        disagreements: where a second scorer prefers the other editor, of every two editors; or None.
        seconds: how long images took, by editor, where that is known.
    """

    cases: Sequence[Case]
    comparisons: Sequence[Comparison]
    disagreements: Sequence[Disagreement] | None
    seconds: Mapping[str, Sequence[float]]


def compare_in(
    output: Path,
    source: GroupSource,
    scorer: Scorer,
    second: Scorer | None = None,
    editors: Sequence[str] = (),
    tie: float = 0.0,
    progress: bool | None = False,
    seconds: Mapping[str, Sequence[float]] | None = None,
) -> Found:
    """Score what is not yet scored, compare, and write `report.html`, `report.md`, `report.png` and `faults.jsonl`.

    Args:
        output: folder, in which a stopped run goes on.
        source: groups whose candidates say by which editor they are.
        scorer: who scores.
        second: another scorer, which is only asked whether it agrees.
        editors: whom to compare; none: all.
        tie: overall differences of at most this much are ties.
        progress: see `score_dataset`.
        seconds: how long images took, by editor.

    Raises:
        ValueError: an editor is not there, or as `score_dataset`.
    """
    output.mkdir(parents=True, exist_ok=True)
    with alone_at(output / "comparison"):
        file = kept_scores(output, source, scorer, describe, content_of, progress=progress)
        cases = cases_of(read_records(file), editors)
        comparisons = compare_editors(cases, editors, tie)
        disagreements = None
        if second is not None:
            file = kept_scores(output, source, second, describe, content_of, progress=progress)
            others = cases_of(read_records(file), editors)
            disagreements = disagreements_of(cases, others, [(one.first, one.second) for one in comparisons])
        found = Found(cases, comparisons, disagreements, seconds or {})
        _write(output, found, source, scorer, second)
        write_faults(source, output)
        return found


def _write(output: Path, found: Found, source: GroupSource, scorer: Scorer, second: Scorer | None) -> None:
    shown = [case for one in found.comparisons for case in decisive(found.cases, one.first, one.second, SHOWN)]
    shown += [case for one in found.disagreements or () for case, _ in one.cases[:SHOWN]]
    wanted = {row for case in shown for row, _ in case.places.values()}
    rows: dict[int, GroupRow] = {number: row for number, row in source.group_rows() if number in wanted}
    sections = [_summary(found), *map(_parts, found.comparisons)]
    if second is not None:
        sections += _disagreements(found, second, rows)
    sections += [_cost(found)] if found.seconds else []
    for one in found.comparisons:
        cases = decisive(found.cases, one.first, one.second, SHOWN)
        examples = [_example(case, one, rows) for case in cases]
        title = f"The most decisive instructions: {one.first} and {one.second}"
        sections.append(Section(title, (), examples=examples))
    text = [f"Editors on the same instructions of {source.name}, by the scorer {scorer.name}.", *scorer.notes]
    Page("Comparison of editors", text, sections).write(output, "report")


def _summary(found: Found) -> Section:
    header = ["editors", "verdict", "win rate", "ties", "overall difference", "p", "instructions", "sources"]
    rows = []
    for one in found.comparisons:
        numbers = [one.win_rate.text(), str(one.ties), one.differences["overall"].text(), f"{one.p_value:.3g}"]
        rows.append([f"{one.first} – {one.second}", one.verdict, *numbers, str(one.cases), str(one.sources)])
    text = [
        "The win rate is the share of instructions on which the first editor is better, ties half; intervals are "
        "95 %, over sources; p is that of the sign-flip test over sources, adjusted for the number of pairs (Holm)."
    ]
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


def _disagreements(found: Found, second: Scorer, rows: Mapping[int, GroupRow]) -> list[Section]:
    """How often a second scorer prefers the other editor, where, and pictures of it."""
    sections = []
    for one, other in zip(found.comparisons, found.disagreements or (), strict=True):
        text = [
            f"{second.name} prefers the other editor in {other.share.text()} of {other.share.total} instructions that "
            f"both scorers decide. By it alone: {other.verdict}; by the first scorer: {one.verdict}."
        ]
        tables = [
            Table(
                [kind, "the second prefers the other", "instructions"],
                [[value, share.text(), str(share.total)] for value, share in shares.items()],
            )
            for kind, shares in other.by.items()
            if shares
        ]
        examples = [_example(case, one, rows, told) for case, told in other.cases[:SHOWN]]
        sections.append(Section(f"A second scorer: {one.first} and {one.second}", text, tables, examples=examples))
    return sections


def _cost(found: Found) -> Section:
    rows = [
        [name, f"{np.mean(values):.2f}", f"{np.median(values):.2f}", f"{len(values):,}"]
        for name, values in found.seconds.items()
    ]
    text = [
        "As their manifests have it: it depends on the machine that they were made on, and on what else ran there."
    ]
    return Section("What edits cost", text, [Table(["editor", "mean, s", "median, s", "images"], rows)])


def _example(case: Case, one: Comparison, rows: Mapping[int, GroupRow], second: Case | None = None) -> Example:
    """The edits of two editors for an instruction, with what one scorer or two say of them."""
    row, _ = case.places[one.first]
    pictures = [Picture(thumbnail(rows[row]["source_images"][0]), "Source", [])]
    for name in (one.first, one.second):
        row, place = case.places[name]
        lines = [f"{key} {value:.3f}" for key, value in case.means[name].items()]
        if second is not None:
            lines.append(f"second scorer {second.means[name][OVERALL]:.3f}")
        pictures.append(Picture(thumbnail(rows[row]["candidates"][place]["image"]), name, lines))
    difference = f"difference {case.difference(one.first, one.second):+.3f}"
    return Example(f"{case.category}, group {row}", case.instruction, [difference], pictures)

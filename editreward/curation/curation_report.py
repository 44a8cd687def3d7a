"""The report of a curation, and the card of the dataset that it wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from editreward.curation.selection import Kept, ScoredEdit, Selection, score_of
from editreward.data.edit_sources import GroupSource
from editreward.data.images import thumbnail
from editreward.files import write_text
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.reports.page import Example, Page, Picture, Plot, Section, Table
from editreward.reports.plots import distribution_plot

if TYPE_CHECKING:
    from editreward.curation.acceptance import Control
    from editreward.curation.curate import Curation, Outcome

SHOWN = 10
"""Best and worst edits that are shown, and faults that are listed."""

LABELS = 25
"""Categories or editors of a table."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass
class Pictures:
    """The edits that the report shows, filled while the source is gone through.

    Attributes:
        best, worst: indices; the worst of all that have a score, kept or not.
        found: the thumbnails of the source and of the edit, by index.
    """

    best: Sequence[int]
    worst: Sequence[int]
    found: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: Kept, selection: Selection) -> "Pictures":
        """The best ten of what is kept and the worst ten of all."""
        best = sorted(kept.left, key=lambda index: -score_of(kept.edits[index], selection))[:SHOWN]
        scored = [index for index, edit in enumerate(kept.edits) if not edit.error]
        worst = sorted(scored, key=lambda index: score_of(kept.edits[index], selection))[:SHOWN]
        return cls(best, [index for index in worst if index not in best])

    @property
    def wanted(self) -> set[int]:
        """Indices of both."""
        return {*self.best, *self.worst}

    def take(self, index: int, row: GroupRow, place: int) -> None:
        """Keep the thumbnails of an edit, if it is one of these."""
        if index in self.wanted:
            images = row["source_images"][0], row["candidates"][place]["image"]
            self.found[index] = (thumbnail(images[0]), thumbnail(images[1]))


def write_report(
    output: Path,
    outcome: "Outcome",
    curation: "Curation",
    scorer: Scorer,
    source: GroupSource,
    pictures: Pictures,
) -> None:
    """Write `report.md`, `report.html` and `report.png`, and the card `README.md`."""
    kept, selection = outcome.kept, curation.selection
    sections = [
        _filters(kept),
        *([_labels(outcome.control)] if outcome.control is not None else []),
        _distributions(kept, selection),
        _shares(kept),
        *([_faults(source)] if source.faults else []),
        _examples("The best that are kept", kept, selection, pictures.best, pictures),
        _examples("The worst of all", kept, selection, pictures.worst, pictures),
    ]
    number = len(kept.left)
    text = [
        f"{number:,} of {len(kept.edits):,} edits in {outcome.groups:,} groups of {source.name} are kept, ordered by "
        f"{_ordered_by(selection)} of the scorer {scorer.name}.",
        *scorer.notes,
    ]
    if selection.lower_bound and not any(edit.stds for edit in kept.edits):
        text.append("The scorer gave no standard deviation.")
    Page("Curation", text, sections).write(output, "report")
    write_text(output / "README.md", card(outcome, scorer, source, selection))


def _ordered_by(selection: Selection) -> str:
    bound = f", less {selection.lower_bound:g} standard deviations," if selection.lower_bound else ""
    return f"the score {selection.by}{bound}"


def _filters(kept: Kept) -> Section:
    rows = [
        [step.name, f"{step.before:,}", f"{step.dropped:,}", f"{step.before - step.dropped:,}"] for step in kept.steps
    ]
    emptied = [(step.name, step.emptied) for step in kept.steps if step.emptied]
    text = ["In this order. decisions.jsonl says of every edit which filter dropped it."]
    text += [
        f"Warning: the filter “{name}” leaves nothing of {', '.join(names[:LABELS])}"
        + (f" and {len(names) - LABELS} more." if len(names) > LABELS else ".")
        for name, names in emptied
    ]
    return Section("What each filter dropped", text, [Table(["dropped because", "before", "dropped", "left"], rows)])


def _labels(control: "Control") -> Section:
    certificate = control.certificate
    aim = (
        f"At least {certificate.share:.0%} of what passes is to be {' and '.join(map(str, control.conditions))}, with "
        f"{certificate.confidence:.0%} confidence."
    )
    if certificate.threshold is None:
        found = "No threshold passed the test: label more edits, ask for a smaller share, or take a better scorer."
    else:
        found = f"The threshold is {certificate.threshold:.4g}."
    text = [
        aim,
        found,
        f"Of labelled edits of sources that had no part in it, {control.tested.text()} of {control.tested.total} that "
        "pass are acceptable.",
        f"{control.labelled} labels were used of edits that the other filters leave; {control.strange} are of edits "
        f"that they do not leave, and {control.repeated} of a source that another label stands for.",
        "The guarantee holds if the labels are a random sample of what the other filters leave (--label draws one).",
    ]
    rows = [[f"{t.threshold:.4g}", str(t.labelled), str(t.acceptable), f"{t.p_value:.3g}"] for t in certificate.trials]
    table = Table(["threshold", "labelled", "acceptable", "p"], rows, "Thresholds in the order of the tests", 0)
    return Section("Labels", text, [table])


def _distributions(kept: Kept, selection: Selection) -> Section:
    left = set(kept.left)
    scored = [(index, edit) for index, edit in enumerate(kept.edits) if not edit.error]
    names = list(dict.fromkeys([selection.by, *(scored[0][1].means if scored else ())]))
    values: dict[str, Mapping[str, np.ndarray]] = {}
    for name in names:
        parts = {
            "kept": np.array([edit.means[name] for index, edit in scored if index in left]),
            "dropped": np.array([edit.means[name] for index, edit in scored if index not in left]),
        }
        values[name] = {part: points for part, points in parts.items() if len(points)}
    rows = [
        [name, part, f"{len(points):,}", *(f"{q:.3f}" for q in np.quantile(points, [0.05, 0.5, 0.95]))]
        for name, parts in values.items()
        for part, points in parts.items()
    ]
    table = Table(["score", "edits", "number", "5 %", "median", "95 %"], rows, names=2)
    medians = "; ".join(f"{row[0]}, {row[1]}: median {row[4]}" for row in rows)
    plot = Plot(
        "Scores of what is kept and dropped",
        medians,
        lambda figure, palette: distribution_plot(figure, palette, values, "score"),
        height=1.2 + 1.3 * len(values),
    )
    return Section("Scores", (), [table], [plot])


def _shares(kept: Kept) -> Section:
    tables = []
    for title, of in (("Category", lambda edit: edit.category), ("Editor", lambda edit: edit.editor)):
        before = Counter(map(of, kept.edits))
        after = Counter(of(kept.edits[index]) for index in kept.left)
        rows = [
            [
                name,
                f"{number:,}",
                f"{number / len(kept.edits):.1%}",
                f"{after[name]:,}",
                f"{after[name] / len(kept.left):.1%}",
            ]
            for name, number in before.most_common(LABELS)
        ]
        caption = f"The {LABELS} most frequent of {len(before)}" if len(before) > LABELS else ""
        tables.append(Table([title, "before", "share", "after", "share"], rows, caption))
    return Section("Categories and editors", (), tables)


def _faults(source: GroupSource) -> Section:
    rows = [[fault.place, fault.kind, fault.reason] for fault in source.faults[:SHOWN]]
    text = [f"{len(source.faults):,} rows of the source could not be read; faults.jsonl has all of them."]
    return Section("Faults of the source", text, [Table(["where", "kind", "what"], rows, names=2, remarks=1)])


def _examples(title: str, kept: Kept, selection: Selection, indices: Sequence[int], pictures: Pictures) -> Section:
    examples = [_example(kept, selection, index, pictures) for index in indices if index in pictures.found]
    return Section(title, (), examples=examples)


def _example(kept: Kept, selection: Selection, index: int, pictures: Pictures) -> Example:
    edit, (before, after) = kept.edits[index], pictures.found[index]
    lines = [f"{name} {value:.3f}" for name, value in edit.means.items()]
    mark = f"dropped: {kept.why[index]}" if index in kept.why else ""
    shown = [Picture(before, "Source", []), Picture(after, "Edit", lines, mark)]
    return Example(_title(edit), edit.instruction, [f"score {score_of(edit, selection):.3f}"], shown)


def _title(edit: ScoredEdit) -> str:
    return f"{edit.id or edit.group_id} ({edit.category}, {edit.editor})"


def card(outcome: "Outcome", scorer: Scorer, source: GroupSource, selection: Selection) -> str:
    """The dataset's card: what it is made of, how it was chosen, and what was dropped."""
    kept = outcome.kept
    number = len(kept.left)
    size = next((name for limit, name in SIZES if number < limit), "n>1M")
    head = {"task_categories": ["image-to-image"], "tags": ["image-editing", "curated"], "size_categories": [size]}
    head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]  # type: ignore[list-item]
    filters = Page("x", (), [_filters(kept)]).markdown().split("\n\n", 1)[1]
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# Curated edits

{number:,} edits of {len(kept.edits):,}, ordered by {_ordered_by(selection)} of the scorer `{scorer.name}`. A row has
`source_images`, `instruction` and `edited_image`, and the scores by which it was chosen.

Scores are those of a model, not of people. Licence, terms and faults of the images are those of the source they were
taken from, which this card does not know: add them before you publish.

{filters}
How it was made is in `settings.json`; `editreward curate --settings settings.json --output DIR` repeats it.
"""

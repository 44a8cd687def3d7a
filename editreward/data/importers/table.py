"""A user's own table: scores of edits in a spreadsheet, beside a folder of images, become groups.

What columns mean is in `editreward.data.importers.table_edits`. Rows with one source and one instruction, read clean,
are one group, wherever they stand. A column of annotators makes the scores theirs: `annotations`, and their means as
`scores`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from editreward.data.importers.formats import UNKNOWN, Assembly, Built, Format, Row, short_hash
from editreward.data.importers.table_edits import NAMES, TableOptions, read_edits
from editreward.data.schema import RATIONALE_BY
from processing_editreward import clean_instruction


def read(values: Mapping[str, object], options: TableOptions) -> tuple[dict[str, Any], frozenset[str]]:
    """The fields of a row, and the columns that they are from. Raises `RowFault`."""
    row = read_edits(values, options)
    fields = {**asdict(row), "instruction": clean_instruction(row.instruction)}
    del fields["columns"]
    fields["edited"] = [edit.pop("image") for edit in fields["edits"]]
    fields["source"] = fields.pop("sources")
    if RATIONALE_BY not in row.columns:
        for edit in fields["edits"]:
            del edit[RATIONALE_BY]
    return fields, frozenset(name for names in row.columns.values() for name in names)


def key(row: Row) -> list[object]:
    """The group's name where the table has one, sources and instruction."""
    return [row.values.get("group"), row.images("source"), row.text("instruction")]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all edits of one source and instruction.

    An edit that occurs again with the same scores is taken once; one with several, by nobody or by one annotator, is
    left out, since nobody knows which are right.
    """
    candidates: dict[str, dict[str, Any]] = {}
    rows_of: dict[str, Row] = {}
    contradicted: set[str] = set()
    sources = rows[0].images("source")
    for row in rows:
        for reference, edit in zip(row.images("edited"), row.values["edits"], strict=True):
            if reference in sources:
                assembly.faults.note(row, "edit-is-source", f"the edit {reference!r} is the source itself")
            first_row = rows_of.setdefault(reference, row)
            known = candidates.setdefault(reference, _candidate(edit))
            told = {name: edit["scores"].get(name) for name in assembly.dimensions}
            who = row.values.get("annotator")
            before = known["told"].setdefault(who, told)
            if before is not told:
                if before == told:
                    message = f"the edit {reference!r} is that of row {first_row.number}; taken once"
                    assembly.faults.note(row, "duplicate-edit", message)
                elif reference not in contradicted:
                    contradicted.add(reference)
                    by = f" by {who}" if who else ""
                    message = f"{reference!r} has several scores{by}: rows {first_row.number} and {row.number}"
                    assembly.faults.error(row, "contradictory-score", message, "the edit is left out")
    kept = {name: _scored(one, assembly) for name, one in candidates.items() if name not in contradicted}
    if not kept:
        return []
    instruction, category = rows[0].text("instruction"), rows[0].optional_text("category", UNKNOWN)
    group_id = rows[0].optional_text("group", f"{assembly.name}-{short_hash(sources, instruction)}")
    built = assembly.build(rows[0], group_id, instruction, sources, kept, category, rows_of, minimum=1)
    if built is None:
        return []
    group, _ = built
    if assembly.language is None:
        group["language"] = rows[0].optional_text("language", group["language"])
    return [Built(group)]


def _candidate(edit: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "editor": edit.get("editor") or UNKNOWN,
        "seed": edit.get("seed"),
        "rationale": edit.get("rationale"),
        **({RATIONALE_BY: edit[RATIONALE_BY]} if RATIONALE_BY in edit else {}),
        "told": {},  # scores by annotator; None: nobody in particular
    }


def _scored(candidate: dict[str, Any], assembly: Assembly) -> dict[str, Any]:
    """A candidate with its scores: what nobody in particular said, else the means over the annotators."""
    told = candidate.pop("told")
    annotations = [{"annotator": who, **scores} for who, scores in told.items() if who is not None]
    scores = told.get(None)
    if scores is None:
        scores = {}
        for name in assembly.dimensions:
            given = [annotation[name] for annotation in annotations if annotation[name] is not None]
            scores[name] = fmean(given) if given else None
    return {**candidate, "scores": scores, "annotations": annotations}


FORMAT = Format(
    "table",
    (*NAMES, "{dimension}"),
    ("source", "edited"),
    key,
    assemble,
    split="train",
    read=read,
)

"""The images that `editreward edit-bench --editors` makes: generated, then laid out as published."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editreward.benchmarks.editing.imgedit_judging import ImgEdit
from editreward.benchmarks.editing.judging import Edit
from editreward.editors.editors import Editor
from editreward.editors.instructions import Instructions, SourceRow
from editreward.editors.run import make_candidates, process_state
from editreward.editors.store import CandidateStore
from editreward.files import write_bytes
from images_editreward import load_image

if TYPE_CHECKING:
    from datasets import Dataset

GENERATED = "generation"
"""Folder of the results in which candidates are made; it tells what was made with which settings."""


def instructions_of(edits: Sequence[Edit], rows: "Dataset") -> Instructions:
    """GEdit-Bench's rows as instructions for editors.

    Args:
        edits: those that are asked for.
        rows: the published dataset, a `datasets.Dataset`, with `input_image`.

    Raises:
        ValueError: the dataset has no such column.
    """
    if "input_image" not in rows.features:
        raise ValueError(
            f"The dataset has no column input_image, which editors need, only: {', '.join(rows.features)}."
        )
    stored = rows.with_format("arrow")  # as stored: no image is decoded before its turn
    place = {
        f"{task}/{language}/{key}": number
        for number, (task, language, key) in enumerate(
            zip(*(rows[name] for name in ("task_type", "instruction_language", "key")), strict=True)
        )
    }

    def read(index: int) -> SourceRow:
        edit = edits[index]
        image: Mapping[str, Any] = stored[place[edit.id] : place[edit.id] + 1].to_pylist()[0]["input_image"] or {}
        if not image.get("bytes"):
            raise ValueError("the row has no source image")
        language = "zh" if edit.language == "cn" else edit.language
        return SourceRow(edit.id, "gedit-bench", edit.task, edit.instruction, language, (image["bytes"],))

    return Instructions([edit.id for edit in edits], read)


def instructions_of_imgedit(edits: Sequence[ImgEdit], sources: Path) -> Instructions:
    """ImgEdit-Bench's edits as instructions for editors; `sources` is the folder of the source images."""

    def read(index: int) -> SourceRow:
        edit = edits[index]
        file = sources / edit.source
        if not file.resolve().is_relative_to(sources.resolve()):
            raise ValueError(f"its source leads out of {sources}")
        return SourceRow(edit.key, "imgedit-bench", edit.type, edit.prompt, "en", (file.read_bytes(),))

    return Instructions([edit.key for edit in edits], read)


def generate_results(
    places: Mapping[str, tuple[Path | None, Path]],
    instructions: Instructions,
    editor: Editor,
    results: Path,
    retry_failed: bool = False,
) -> dict[str, str] | None:
    """Make the images that are not there yet, and lay them out as published.

    Args:
        places: by id of the edit, the files of its source (None: it has none in the results) and of the edited image.
        instructions: of the benchmark, with these ids.
        editor: with one seed.
        results: folder of the editor's results.
        retry_failed: try again what failed in an earlier run.

    Returns:
        In the main process, by id of the edit, why there is no image; None in others.

    Raises:
        ValueError: the editor has several seeds, or the folder holds images of other settings.
    """
    if len(editor.seeds) != 1:
        raise ValueError(f"A benchmark takes one image of each instruction: give {editor.name} one seed, not several.")
    state, store = process_state(), CandidateStore(results / GENERATED)
    make_candidates(instructions, [editor], store, retry_failed, state)
    if not state.is_main_process:
        return None
    records, failed = store.read(), {}
    for index, name in enumerate(instructions.ids):
        key = (name, editor.name, editor.seeds[0])
        record = records.get(key)
        if record is None or record.error is not None:
            failed[name] = record.error if record and record.error else "the editor could not be loaded"
            continue
        row = instructions.read(index)
        if record.source != row.digest():
            raise ValueError(f"{name} has changed since its image was made: choose another results folder.")
        source, edited = places[name]
        edited.parent.mkdir(parents=True, exist_ok=True)
        contents = {edited: store.image_path(key).read_bytes()}
        if source is not None:
            out = io.BytesIO()
            load_image(row.source_images[0], "source image").save(out, "PNG")
            contents[source] = out.getvalue()
        for file, content in contents.items():
            if not file.is_file() or file.read_bytes() != content:
                write_bytes(file, content)
    return failed

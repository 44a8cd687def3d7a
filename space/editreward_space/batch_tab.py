"""The tab that scores a table with its images, or a dataset."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from editreward_space import pages
from editreward_space.batch import BatchProgress, BestEdits, run_batch, write_files
from editreward_space.inputs import EXAMPLES_FOLDER, download_folder, show_result, uploads
from editreward_space.service import Service
from editreward_space.settings import InputError
from editreward_space.tables import ImageArchive, dataset_items, read_table, table_items

SHOWN_ROWS = 1000
"""Rows of a batch in the table on the page; the downloads have all."""

FORMATS = """\
A CSV has the columns `instruction`, `source`, `edited`, and `edited_2` and so on for more; `id` if you like.
A line of JSONL is `{"instruction": "...", "source": "a.png", "edited": ["b.png", "c.png"]}`."""

HIDDEN = gr.update(visible=False)


@dataclass(frozen=True)
class BatchInputs:
    """What is given: a table with an archive of its images, or a dataset."""

    table: Any
    archive: Any
    dataset: Any
    split: Any

    @property
    def all(self) -> list[Any]:
        """In the order of `batch`'s arguments."""
        return [self.table, self.archive, self.dataset, self.split]


def batch_tab(service: Service) -> None:
    """A table with images, or a dataset."""
    given = batch_inputs()
    with gr.Row():
        button = gr.Button("Score all", variant="primary", elem_id="batch-button", min_width=120)
        cancel = gr.Button("Cancel", elem_id="batch-cancel", min_width=120)
        example = gr.Button("Try an example", elem_id="batch-example", min_width=120)
    status = gr.HTML(elem_id="batch-result")
    columns = ["group", "edited", "rank", *service.scorer.dimensions, "reward", "probability_best", "error"]
    rows = gr.Dataframe(
        headers=[name.replace("_", " ") for name in columns],
        datatype="str",
        interactive=False,
        visible=False,
        max_height=420,
        label="Scores",
        elem_id="batch-table",
    )
    files = gr.File(label="Downloads: CSV and Parquet", file_count="multiple", interactive=False, visible=False)
    runs = BatchRuns(service, columns)
    private: dict[str, Any] = {"api_visibility": "private"}
    filled = example.click(
        lambda: [str(EXAMPLES_FOLDER / "batch.csv"), str(EXAMPLES_FOLDER / "batch.zip"), ""],
        None,
        [given.table, given.archive, given.dataset],
        queue=False,
        **private,
    )
    for start in (button.click, filled.then):
        start(**show_result("batch-result"))
        scored = start(runs.begin, queue=False, **private).then(
            runs.score_all,
            given.all,
            [status, rows, files],
            concurrency_limit=service.settings.max_batches,
            concurrency_id="batch",
            show_progress="minimal",
            show_progress_on=status,
            **private,
        )
        scored.then(**show_result("batch-result"))
    cancel.click(runs.cancel, None, status, queue=False, **private)


def batch_inputs() -> BatchInputs:
    """The inputs of the tab."""
    with gr.Row():
        with gr.Column(min_width=280):
            types = [".csv", ".tsv", ".jsonl", ".ndjson"]
            table = uploads(gr.File(label="Table: CSV or JSONL", file_types=types, height=140))
            archive = uploads(gr.File(label="Its images: a ZIP file", file_types=[".zip"], height=140))
        with gr.Column(min_width=280):
            dataset = gr.Textbox(label="Or a public dataset of edit groups", placeholder="organisation/name")
            split = gr.Textbox(label="Split", value="train")
            gr.Markdown(FORMATS)
    return BatchInputs(table, archive, dataset, split)


class BatchRuns:
    """The batches of the page's users, each of whom can cancel their own.

    Args:
        service: the model.
        columns: of the table on the page.
    """

    def __init__(self, service: Service, columns: list[str]) -> None:
        self.service, self.columns = service, columns
        self._running: dict[str | None, threading.Event] = {}

    def begin(self, request: gr.Request) -> None:
        """A batch is to run. Before it waits for its turn: it can be cancelled there, too."""
        if (stop := self._running.get(request.session_hash)) is None or stop.is_set():
            self._running[request.session_hash] = threading.Event()

    def score_all(
        self, table: str | None, archive: str | None, dataset: str, split: str, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Score it: how far it is and, at the end, the table and the files."""
        stop = self._running.setdefault(request.session_hash, threading.Event())
        calibrated = self.service.describe()["calibrated"]
        best = BestEdits()
        try:
            for progress in batch(self.service, table, archive, dataset, split, stop, best):
                page = pages.batch_page(progress, self.service.scorer.dimensions, calibrated, best.edits())
                if not progress.finished or not progress.rows:
                    yield page, HIDDEN, HIDDEN
                    continue
                cells = [[cell(row[name]) for name in self.columns] for row in progress.rows[:SHOWN_ROWS]]
                written = write_files(progress.rows, download_folder())
                yield page, gr.update(value=cells, visible=True), gr.update(value=written, visible=True)
        except InputError as error:
            yield pages.problem(error), HIDDEN, HIDDEN
        finally:
            self._running.pop(request.session_hash, None)

    def cancel(self, request: gr.Request) -> Any:
        """Stop it."""
        if not (stop := self._running.get(request.session_hash)):
            return gr.skip()
        stop.set()
        return pages.note("Cancelling. What was scored stays.")


def batch(
    service: Service,
    table: str | None,
    archive: str | None,
    dataset: str,
    split: str,
    stop: threading.Event,
    best: BestEdits | None = None,
) -> Iterator[BatchProgress]:
    """Score a table with an archive, or a dataset; `best` collects the best edits."""
    dataset = dataset.strip()
    if dataset and (table or archive):
        raise InputError("Give either a table with its images or a dataset, not both.")
    if dataset:
        total, items = dataset_items(dataset, split.strip(), service.settings)
        limit = service.settings.max_rows
        note = f"The dataset has more than {limit} groups: the first {limit} were scored." if total > limit else ""
        yield from run_batch(service, items, min(total, limit), stop, note, best)
        return
    if not table or not archive:
        raise InputError("Give a table and a ZIP file of its images, or the id of a dataset.")
    rows = read_table(table, service.settings)
    with ImageArchive(archive, service.settings) as images:
        yield from run_batch(service, table_items(rows, images), len(rows), stop, best=best)


def cell(value: Any) -> str:
    """A value in the table on the page."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:200]

"""The endpoints for programs: they take files and return plain data."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from editreward_space.batch import write_files
from editreward_space.batch_tab import batch
from editreward_space.inputs import compare, download_folder, read_group, told, uploads
from editreward_space.service import Service

SCORES = "overall and by dimension mean and std (1..4 if calibrated; std tells errors if std_calibrated), raw reward"

DESCRIPTIONS = {
    "rank": f"Candidates, best first: {SCORES}, P(best).",
    "compare": f"Probability that the first edit is preferred, overall and by dimension; {SCORES} of both.",
    "batch": "Scores of all groups of a table with a ZIP of images, or of a public dataset; progress as it comes, at "
    "the end the rows and two files, CSV and Parquet.",
    "model": "Name of the model, its dimensions, whether it is calibrated, notes.",
}

PARAMETERS = {
    "source": "The image before the edit: a list of files, most often of one; several for edits of several images",
    "instruction": "What the edit was to do, in words",
    "edited": "The edits of that image: a list of files",
    "first": "One edit: a file",
    "second": "The other edit: a file",
    "table": "CSV or JSONL file, a group in each row; with archive, in place of dataset",
    "archive": "ZIP file of the images that the table names",
    "dataset": "Id of a public dataset of edit groups, in place of table and archive",
    "split": "Split of the dataset",
}
"""What "Use via API" says of each parameter."""


class Endpoints:
    """The functions behind the endpoints.

    Args:
        service: the model.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def rank(self, source: list[str] | None, instruction: str, edited: list[str] | None) -> dict[str, Any]:
        """A group in ranked order."""
        with told():
            group = read_group(self.service, source or [], instruction, edited or [])
            return self.service.ranking([image.name for image in group.edited], self.service.rank(group))

    def compare(
        self, source: list[str] | None, instruction: str, first: str | None, second: str | None
    ) -> dict[str, Any]:
        """Two edits against each other."""
        with told():
            group, best = compare(self.service, source or [], instruction, first, second)
            return self.service.comparison([image.name for image in group.edited], best)

    def batch(
        self, table: str | None = None, archive: str | None = None, dataset: str = "", split: str = "train"
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """A table with an archive, or a dataset."""
        with told():
            for progress in batch(self.service, table, archive, dataset, split, threading.Event()):
                state = {"done": progress.done, "total": progress.total, "errors": progress.errors}
                if progress.finished and progress.rows:
                    written = write_files(progress.rows, download_folder())
                    yield {**state, "note": progress.note, "rows": progress.rows}, written
                else:
                    yield {**state, "note": progress.note, "rows": []}, None

    def model(self) -> dict[str, Any]:
        """Which model answers."""
        return self.service.describe()


def add_api(service: Service) -> None:
    """Endpoints that take files and return plain data."""
    endpoints = Endpoints(service)
    with gr.Column(visible=False):
        counts = {"source": "multiple", "edited": "multiple"}
        files = {
            name: uploads(gr.File(label=PARAMETERS[name], file_count=counts.get(name, "single")))
            for name in ("source", "edited", "first", "second", "table", "archive")
        }
        defaults = {"instruction": None, "dataset": "", "split": "train"}
        texts = {name: gr.Textbox(value, label=PARAMETERS[name]) for name, value in defaults.items()}
        answer = gr.JSON(label="The answer")
        written = gr.File(label="The same as CSV and Parquet", file_count="multiple")
    inputs = {**files, **texts}

    def endpoint(function: Callable[..., Any], parameters: str, outputs: Any, **more: Any) -> None:
        name = function.__name__
        chosen = [inputs[parameter] for parameter in parameters.split()]
        gr.Button(visible=False).click(
            function, chosen, outputs, api_name=name, api_description=DESCRIPTIONS[name], **more
        )

    endpoint(endpoints.rank, "source instruction edited", answer)
    endpoint(endpoints.compare, "source instruction first second", answer)
    endpoint(
        endpoints.batch,
        "table archive dataset split",
        [answer, written],
        concurrency_limit=service.settings.max_batches,
        concurrency_id="batch",
    )
    endpoint(endpoints.model, "", answer)

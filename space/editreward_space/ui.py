"""The Space as Gradio blocks: four tabs, and the endpoints of the API."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub import ModelCard

from editreward.groups import EditGroup, GroupScores
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward.scorers.loading import bundled_model
from editreward_space import pages
from editreward_space.batch import BatchProgress, run_batch, write_files
from editreward_space.images import NamedImage, read_upload, shown
from editreward_space.service import Service, Upload
from editreward_space.settings import InputError, Settings
from editreward_space.tables import ImageArchive, dataset_items, read_table, table_items
from editreward_space.tidy import keep_tidy

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parent / "examples"
STATIC = FOLDER / "static"
SCORING_THREADS = 8
"""Requests that are read at the same time; those that wait for the model share its next batch."""

SHOWN_ROWS = 1000
"""Rows of a batch in the table on the page; the downloads have all."""

ABOUT = """\
## What the scores mean

Each edit gets a mean and a standard deviation in each dimension{scale} Every score is also written in figures; bars
only repeat them. `reward` aggregates the raw scores: higher is better, a negative one is not bad, and only differences
within a group mean anything. Ranks and probabilities come from it.

## Limits of this Space
"""
CALIBRATED = ", on the scale of the annotation rubric from 1 (worst) to 4 (best)."
UNCALIBRATED = (
    ". This model is uncalibrated: its scores have no scale, only differences within a group have a meaning."
)


def build(service: Service) -> gr.Blocks:
    """All of the Space."""
    settings = service.settings
    with gr.Blocks(title="EditReward", analytics_enabled=False) as blocks:
        gr.Markdown("# EditReward\nHow well do edited images follow an instruction, and how good do they look?")
        gr.HTML(pages.model_note(service.describe()))
        with gr.Tabs():
            with gr.Tab("Rank", id="rank"):
                rank_tab(service)
            with gr.Tab("Compare", id="compare"):
                compare_tab(service)
            with gr.Tab("Batch", id="batch"):
                batch_tab(service)
            with gr.Tab("About", id="about"):
                scale = CALIBRATED if service.describe()["calibrated"] else UNCALIBRATED
                gr.Markdown(ABOUT.format(scale=scale))
                gr.HTML(pages.limits_table(settings))
                gr.Markdown(f"## Model card\n\n{card_text(settings)}")
        add_api(service)
    blocks.queue(max_size=settings.max_queue, default_concurrency_limit=SCORING_THREADS, api_open=False)
    keep_tidy(blocks, settings.keep_minutes)
    return blocks


def launch_options(settings: Settings) -> dict[str, Any]:
    """Arguments of `launch`: looks, and what is switched off."""
    return {
        "theme": gr.themes.Default(font="system-ui", font_mono="monospace"),  # by name: fetched from nowhere
        "css_paths": [STATIC / "space.css"],
        "head": f"<script>{(STATIC / 'space.js').read_text(encoding='utf-8')}</script>",
        "max_file_size": f"{settings.max_upload_mb}mb",
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
    }


def rank_tab(service: Service) -> None:
    """Any number of edits of one source, in ranked order."""
    fit: dict[str, Any] = {"type": "filepath", "height": 240, "fit_columns": False, "object_fit": "contain"}
    with gr.Row():
        source = uploads(gr.Gallery(label="Source image (or several)", columns=3, **fit))
        edited = uploads(gr.Gallery(label="Edited images (drop several)", columns=4, **fit))
    instruction = gr.Textbox(label="Instruction", lines=2, max_length=service.settings.max_instruction)
    with gr.Row():
        button = gr.Button("Rank", variant="primary", elem_id="rank-button")
        clear = gr.ClearButton([source, instruction, edited])
    examples = [
        ("Simulated scene", "scene", 5),
        ("Photograph (CC0, Rachel Michetti)", "photograph", 4),
    ]
    gr.Examples(
        [example_of(name, count) for _, name, count in examples],
        [source, instruction, edited],
        example_labels=[label for label, _, _ in examples],
    )
    result = gr.HTML(elem_id="rank-result")
    files = gr.File(label="Downloads: picture and scores", file_count="multiple", interactive=False, visible=False)
    clear.add([result, files])
    clear.click(lambda: gr.update(visible=False), None, files, queue=False, api_visibility="private")

    def run(source: list[tuple[str, Any]] | None, instruction: str, edited: list[tuple[str, Any]] | None) -> Any:
        try:
            group = read_group(
                service, [path for path, _ in source or []], instruction, [path for path, _ in edited or []]
            )
            best = service.rank(group)
            small = [[shown(image) for image in images] for images in (group.sources, group.edited)]
        except InputError as error:
            return pages.problem(error), gr.update(visible=False)
        names = [image.name for image in group.edited]
        folder = download_folder()
        drawn = EditGroup(small[0], instruction, small[1])
        scored = ScoredGroup(f"Ranked by {service.scorer.name}", drawn, names, best)
        draw_groups([scored], service.scorer.notes).save(folder / "ranking.png")
        content = json.dumps(
            {"instruction": instruction, **service.ranking(names, best)}, indent=2, ensure_ascii=False
        )
        (folder / "ranking.json").write_text(content, encoding="utf-8")
        page = pages.ranking_page(small[0], names, small[1], instruction, best)
        return page, gr.update(value=[str(folder / "ranking.png"), str(folder / "ranking.json")], visible=True)

    button.click(
        run, [source, instruction, edited], [result, files], api_visibility="private", show_progress_on=result
    )


def compare_tab(service: Service) -> None:
    """Two edits against each other."""
    with gr.Row():
        source, first, second = (
            uploads(gr.Image(label=label, type="filepath", height=220, sources=["upload", "clipboard"]))
            for label in ("Source image", "First edit", "Second edit")
        )
    instruction = gr.Textbox(label="Instruction", lines=2, max_length=service.settings.max_instruction)
    with gr.Row():
        button = gr.Button("Compare", variant="primary", elem_id="compare-button")
        clear = gr.ClearButton([source, first, second, instruction])
    examples = []
    for name in ("scene", "photograph"):
        sources, text, edited = example_of(name, 2)
        examples.append([sources[0], text, *edited])
    gr.Examples(examples, [source, instruction, first, second], example_labels=["Simulated scene", "Photograph"])
    result = gr.HTML(elem_id="compare-result")
    clear.add([result])

    def run(source: str | None, instruction: str, first: str | None, second: str | None) -> str:
        try:
            group, best = compare(service, [source] if source else [], instruction, first, second)
            small = [shown(image) for image in group.edited]
        except InputError as error:
            return pages.problem(error)
        names = [image.name for image in group.edited]
        return pages.comparison_page(names, small, service.comparison(names, best), best)

    button.click(run, [source, instruction, first, second], result, api_visibility="private", show_progress_on=result)


def batch_tab(service: Service) -> None:
    """A table with images, or a dataset."""
    running: dict[str | None, threading.Event] = {}
    dimensions = list(service.scorer.dimensions)
    with gr.Row():
        with gr.Column():
            table = uploads(gr.File(label="Table: CSV or JSONL", file_types=[".csv", ".jsonl", ".ndjson"], height=140))
            archive = uploads(gr.File(label="Its images: a ZIP file", file_types=[".zip"], height=140))
        with gr.Column():
            dataset = gr.Textbox(label="Or a public dataset of edit groups", placeholder="organisation/name")
            split = gr.Textbox(label="Split", value="train")
            gr.Markdown(
                "CSV columns: `instruction`, `source`, `edited`, and `edited_2` and so on for more; `id` if you like. "
                'JSONL: `{"instruction": "...", "source": "a.png", "edited": ["b.png", "c.png"]}`.'
            )
    with gr.Row():
        button = gr.Button("Score all", variant="primary", elem_id="batch-button")
        cancel = gr.Button("Cancel", elem_id="batch-cancel")
    gr.Examples(
        [[str(EXAMPLES / "batch.csv"), str(EXAMPLES / "batch.zip")]],
        [table, archive],
        example_labels=["Simulated scenes, one row of them bad"],
    )
    status = gr.HTML(elem_id="batch-result")
    columns = ["group", "edited", "rank", *dimensions, "reward", "probability_best", "error"]
    shown_rows = gr.Dataframe(
        headers=[name.replace("_", " ") for name in columns],
        datatype="str",
        interactive=False,
        visible=False,
        max_height=420,
        label="Scores",
        elem_id="batch-table",
    )
    files = gr.File(label="Downloads: CSV and Parquet", file_count="multiple", interactive=False, visible=False)

    def begin(request: gr.Request) -> None:  # before it waits for its turn: it can be cancelled there, too
        if (stop := running.get(request.session_hash)) is None or stop.is_set():
            running[request.session_hash] = threading.Event()

    def score_all(
        table: str | None, archive: str | None, dataset: str, split: str, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any]]:
        stop = running.setdefault(request.session_hash, threading.Event())
        calibrated = service.describe()["calibrated"]
        hidden = gr.update(visible=False)
        try:
            for progress in batch(service, table, archive, dataset, split, stop):
                page = pages.batch_page(progress, dimensions, calibrated)
                if not progress.finished or not progress.rows:
                    yield page, hidden, hidden
                    continue
                cells = [[cell(row[name]) for name in columns] for row in progress.rows[:SHOWN_ROWS]]
                written = write_files(progress.rows, download_folder())
                yield page, gr.update(value=cells, visible=True), gr.update(value=written, visible=True)
        except InputError as error:
            yield pages.problem(error), hidden, hidden
        finally:
            running.pop(request.session_hash, None)

    def end(request: gr.Request) -> Any:
        if not (stop := running.get(request.session_hash)):
            return gr.skip()
        stop.set()
        return pages.note("Cancelling. What was scored stays.")

    button.click(begin, queue=False, api_visibility="private").then(
        score_all,
        [table, archive, dataset, split],
        [status, shown_rows, files],
        api_visibility="private",
        concurrency_limit=service.settings.max_batches,
        concurrency_id="batch",
        show_progress="minimal",
        show_progress_on=status,
    )
    cancel.click(end, None, status, queue=False, api_visibility="private")


def add_api(service: Service) -> None:
    """Endpoints that take files and return plain data."""
    with gr.Column(visible=False):
        source = uploads(gr.File(label="source: image files", file_count="multiple"))
        edited = uploads(gr.File(label="edited: image files", file_count="multiple"))
        first, second = (uploads(gr.File(label=f"{name}: image file")) for name in ("first", "second"))
        table, archive = uploads(gr.File(label="CSV or JSONL")), uploads(gr.File(label="ZIP of its images"))
        instruction, dataset, split = (
            gr.Textbox(label="instruction"),
            gr.Textbox(label="dataset id"),
            gr.Textbox("train"),
        )
        answer, files = gr.JSON(), gr.File(file_count="multiple")

    def rank(source: list[str] | None, instruction: str, edited: list[str] | None) -> dict[str, Any]:
        with told():
            group = read_group(service, source or [], instruction, edited or [])
            return service.ranking([image.name for image in group.edited], service.rank(group))

    def compare_two(
        source: list[str] | None, instruction: str, first: str | None, second: str | None
    ) -> dict[str, Any]:
        with told():
            group, best = compare(service, source or [], instruction, first, second)
            return service.comparison([image.name for image in group.edited], best)

    def score_batch(
        table: str | None, archive: str | None, dataset: str, split: str
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        with told():
            for progress in batch(service, table, archive, dataset, split, threading.Event()):
                state = {"done": progress.done, "total": progress.total, "errors": progress.errors}
                if progress.finished and progress.rows:
                    written = write_files(progress.rows, download_folder())
                    yield {**state, "note": progress.note, "rows": progress.rows}, written
                else:
                    yield {**state, "note": progress.note, "rows": []}, None

    def model() -> dict[str, Any]:
        return service.describe()

    def endpoint(
        function: Callable[..., Any], inputs: Sequence[Any], outputs: Any, name: str, what: str, **more: Any
    ) -> None:
        gr.Button(visible=False).click(function, inputs, outputs, api_name=name, api_description=what, **more)

    scores = (
        "overall and by dimension mean and std (1..4 if calibrated; std tells errors if std_calibrated), raw reward"
    )
    endpoint(rank, [source, instruction, edited], answer, "rank", f"Candidates, best first: {scores}, P(best).")
    endpoint(
        compare_two,
        [source, instruction, first, second],
        answer,
        "compare",
        f"Probability that the first edit is preferred, overall and by dimension; {scores} of both.",
    )
    endpoint(
        score_batch,
        [table, archive, dataset, split],
        [answer, files],
        "batch",
        "Scores of all groups of a table with a ZIP of images, or of a public dataset; progress as it comes, at the "
        "end the rows and two files, CSV and Parquet.",
        concurrency_limit=service.settings.max_batches,
        concurrency_id="batch",
    )
    endpoint(model, [], answer, "model", "Name of the model, its dimensions, whether it is calibrated, notes.")


@contextmanager
def told() -> Iterator[None]:
    """Tell callers what is wrong with what they sent; escaped, since a page by Gradio would show it as HTML."""
    try:
        yield
    except InputError as error:
        raise gr.Error(escape(str(error)), print_exception=False) from error


def uploads(component: Any) -> Any:
    """Let an input take uploaded files only, as they are.

    Gradio would fetch links, of any size, and open images before their pixels are counted.
    """
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: str | Path | None) -> str | None:
        if path is not None and str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("Links are not fetched: upload the file.", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload
    if isinstance(component, gr.Image):
        component.preprocess = lambda payload: payload.path if payload else None
    return component


def read_group(service: Service, source: Sequence[str], instruction: str, edited: Sequence[str]) -> Upload:
    """Read a group's uploads, no more than the limits allow."""
    settings = service.settings
    images: list[list[NamedImage]] = [
        [read_upload(path, settings) for path in paths[: limit + 1]]
        for paths, limit in ((source, settings.max_sources), (edited, settings.max_candidates))
    ]
    return Upload(images[0], images[1], instruction or "")


def compare(
    service: Service, source: Sequence[str], instruction: str, first: str | None, second: str | None
) -> tuple[Upload, GroupScores]:
    """Score two edits."""
    if not first or not second:
        raise InputError(f"There is no {'second' if first else 'first'} edit. Add the image.")
    group = read_group(service, source, instruction, [first, second])
    return group, service.rank(group)


def batch(
    service: Service, table: str | None, archive: str | None, dataset: str, split: str, stop: threading.Event
) -> Iterator[BatchProgress]:
    """Score a table with an archive, or a dataset."""
    dataset = dataset.strip()
    if dataset and (table or archive):
        raise InputError("Give either a table with its images or a dataset, not both.")
    if dataset:
        total, items = dataset_items(dataset, split.strip(), service.settings)
        limit = service.settings.max_rows
        note = f"The dataset has more than {limit} groups: the first {limit} were scored." if total > limit else ""
        yield from run_batch(service, items, min(total, limit), stop, note)
        return
    if not table or not archive:
        raise InputError("Give a table and a ZIP file of its images, or the id of a dataset.")
    rows = read_table(table, service.settings)
    with ImageArchive(archive, service.settings) as images:
        yield from run_batch(service, table_items(rows, images), len(rows), stop)


def download_folder() -> Path:
    """A new folder below Gradio's own, by a name that nobody can guess."""
    folder = Path(gr.utils.get_upload_folder()) / secrets.token_hex(32)
    folder.mkdir(parents=True)
    return folder


def cell(value: Any) -> str:
    """A value in the table on the page."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:200]


def example_of(name: str, count: int) -> list[Any]:
    """Source, instruction and the first edits of a bundled example."""
    folder = EXAMPLES / name
    source, *edited = sorted(folder.glob("*.png")) or sorted(folder.glob("*.jpg"))
    instruction = (folder / "instruction.txt").read_text(encoding="utf-8").strip()
    return [[str(source)], instruction, [str(path) for path in edited[:count]]]


def card_text(settings: Settings) -> str:
    """The model's card without its metadata."""
    folder = Path(settings.model) if settings.model else bundled_model()
    try:
        if not folder.is_dir():
            return str(ModelCard.load(settings.model).text)
        return str(ModelCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True).text)
    except (OSError, ValueError):
        return "The model has no card that can be read from here."

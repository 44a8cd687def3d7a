"""The tab that ranks any number of edits of one source. It opens with an example ranked."""

import functools
import json
from contextlib import suppress
from typing import Any

import gradio as gr

from editreward.groups import EditGroup
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward_space import pages
from editreward_space.images import shown
from editreward_space.inputs import (
    EXAMPLES,
    download_folder,
    example_of,
    examples_table,
    read_group,
    show_result,
    uploads,
)
from editreward_space.service import Service
from editreward_space.settings import InputError

HIDDEN = gr.update(visible=False)


def rank_tab(service: Service, page: gr.Blocks) -> None:
    """Any number of edits of one source, in ranked order."""
    gr.HTML('<a href="#rank-result">See the ranking ↓</a>', elem_id="rank-jump")  # phones only
    fit: dict[str, Any] = {"type": "filepath", "fit_columns": False, "object_fit": "contain"}
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            source = uploads(gr.Gallery(label="Source image (or several)", columns=3, height=180, **fit))
            edited = uploads(gr.Gallery(label="Edited images (drop several)", columns=3, height=220, **fit))
            instruction = gr.Textbox(label="Instruction", lines=2, max_length=service.settings.max_instruction)
            where = gr.Checkbox(
                label="Show what speaks against each edit, and where",
                visible=service.shows_where,
                elem_id="rank-where",
            )
            with gr.Row():
                button = gr.Button("Rank", variant="primary", elem_id="rank-button", min_width=120)
                clear = gr.ClearButton([source, instruction, edited], min_width=120)
            examples = examples_table(service.settings)
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(elem_id="rank-result")
            files = gr.File(
                label="Downloads: picture and scores", file_count="multiple", interactive=False, visible=False
            )
    clear.add([result, files])
    clear.click(lambda: HIDDEN, None, files, queue=False, api_visibility="private")

    def run(
        source: list[tuple[str, Any]] | None, instruction: str, edited: list[tuple[str, Any]] | None, where: bool
    ) -> Any:
        sources, edits = ([path for path, _ in images or []] for images in (source, edited))
        return ranked(service, sources, instruction, edits, where)

    filled_in = [source, instruction, edited]
    given = [*filled_in, where]
    shows: dict[str, Any] = {"api_visibility": "private", "show_progress_on": result}
    button.click(run, given, [result, files], **shows).then(**show_result("rank-result"))
    filled = examples.click(
        lambda number: example_of(EXAMPLES[number][0]), examples, filled_in, queue=False, api_visibility="private"
    )
    filled.then(run, given, [result, files], **shows).then(**show_result("rank-result"))
    # Computed for who comes first, and kept: a model on a lent GPU answers requests only.
    opening = functools.cache(lambda: opening_page(service))

    def open_page() -> str:
        with suppress(InputError):  # the model is busy: the next one who comes sees it
            return opening()
        return ""

    page.load(open_page, None, result, queue=False, api_visibility="private", show_progress="hidden")


def ranked(
    service: Service, source: list[str], instruction: str, edited: list[str], with_where: bool = False
) -> tuple[str, Any]:
    """The page of a ranked group and its downloads, or what is wrong with it; with what speaks against each edit."""
    try:
        group = read_group(service, source, instruction, edited)
        best = service.rank(group)
        small = [[shown(image) for image in images] for images in (group.sources, group.edited)]
        drawn = EditGroup(small[0], instruction, small[1])
        where = service.where(drawn) if with_where and service.shows_where else []
    except InputError as error:
        return pages.problem(error), HIDDEN
    names = [image.name for image in group.edited]
    folder = download_folder()
    scored = ScoredGroup(f"Ranked by {service.scorer.name}", drawn, names, best, where)
    draw_groups([scored], service.scorer.notes).save(folder / "ranking.png")
    content = json.dumps({"instruction": instruction, **service.ranking(names, best)}, indent=2, ensure_ascii=False)
    (folder / "ranking.json").write_text(content, encoding="utf-8")
    page = pages.ranking_page(small[0], names, small[1], instruction, best, where)
    return page, gr.update(value=[str(folder / "ranking.png"), str(folder / "ranking.json")], visible=True)


def opening_page(service: Service) -> str:
    """The first example, ranked: what one sees before one has sent anything.

    Raises:
        InputError: the model is busy, or the limits are smaller than the example.
    """
    source, instruction, edited = example_of(EXAMPLES[0][0])
    group = read_group(service, source, instruction, edited)
    best = service.rank(group)
    small = [[shown(image) for image in images] for images in (group.sources, group.edited)]
    page = pages.ranking_page(small[0], [image.name for image in group.edited], small[1], instruction, best)
    return pages.note("An example. Add images of your own, or choose another example.") + page

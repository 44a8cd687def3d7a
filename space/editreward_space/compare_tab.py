"""The tab that sets two edits against each other."""

from typing import Any

import gradio as gr

from editreward_space import pages
from editreward_space.images import shown
from editreward_space.inputs import EXAMPLES, compare, example_of, examples_table, show_result, uploads
from editreward_space.service import Service
from editreward_space.settings import InputError


def compare_tab(service: Service) -> None:
    """Two edits against each other."""
    with gr.Row():
        source, first, second = (
            uploads(gr.Image(label=label, type="filepath", height=220, min_width=200, sources=["upload", "clipboard"]))
            for label in ("Source image", "First edit", "Second edit")
        )
    instruction = gr.Textbox(label="Instruction", lines=2, max_length=service.settings.max_instruction)
    with gr.Row():
        button = gr.Button("Compare", variant="primary", elem_id="compare-button", min_width=120)
        clear = gr.ClearButton([source, first, second, instruction], min_width=120)
    examples = examples_table(service.settings)
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

    def fill(number: int) -> list[str]:
        sources, text, edited = example_of(EXAMPLES[number][0])
        return [sources[0], text, *edited[:2]]

    given = [source, instruction, first, second]
    shows: dict[str, Any] = {"api_visibility": "private", "show_progress_on": result}
    button.click(run, given, result, **shows).then(**show_result("compare-result"))
    filled = examples.click(fill, examples, given, queue=False, api_visibility="private")
    filled.then(run, given, result, **shows).then(**show_result("compare-result"))

"""What users send, and what they get back as files: uploads within limits, examples, downloads."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from editreward.groups import GroupScores
from editreward_space.images import NamedImage, read_upload
from editreward_space.service import Service, Upload
from editreward_space.settings import InputError, Settings

EXAMPLES_FOLDER = Path(__file__).parents[1] / "examples"

EXAMPLES = (
    ("scene", "A simulated scene", ": the model is right, and sure of it"),
    ("photograph", "A photograph (CC0, R. Michetti)", ": the model is right, not sure"),
)
"""Folders of the examples, what they are, and what they show of the bundled model. The first is ranked when the page
opens. Gradio cuts longer texts."""


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


def download_folder() -> Path:
    """A new folder below Gradio's own, by a name that nobody can guess."""
    folder = Path(gr.utils.get_upload_folder()) / secrets.token_hex(32)
    folder.mkdir(parents=True)
    return folder


def examples_table(settings: Settings) -> gr.Dataset:
    """The examples as thumbnails with what they show; whoever clicks one gets its number."""
    samples = [[str(source_of(name)), what if settings.model else what + shows] for name, what, shows in EXAMPLES]
    return gr.Dataset(
        label="Examples",
        components=["image", "textbox"],
        headers=["Source", "What it shows"],
        samples=samples,
        type="index",
        elem_classes=["er-examples"],
    )


def show_result(element: str) -> dict[str, Any]:
    """Arguments of an event that scrolls to a result where it is not in view."""
    return {"fn": None, "js": f"() => erShow({element!r})", "queue": False, "api_visibility": "private"}


def source_of(name: str) -> Path:
    """The source image of an example."""
    return next((EXAMPLES_FOLDER / name).glob("0-source.*"))


def example_of(name: str) -> tuple[list[str], str, list[str]]:
    """Source, instruction and edits of an example."""
    folder, source = EXAMPLES_FOLDER / name, source_of(name)
    edited = sorted(str(path) for path in folder.glob(f"*{source.suffix}") if path != source)
    return [str(source)], (folder / "instruction.txt").read_text(encoding="utf-8").strip(), edited

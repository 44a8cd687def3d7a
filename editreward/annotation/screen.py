"""What the rating page and the adjudication page have in common: a screen of Gradio parts and their events."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import gradio as gr
from gradio.blocks import Block

from editreward.annotation import pages
from editreward.annotation.database import UnsavedError
from editreward.groups.protocol import Protocol

PageType = TypeVar("PageType")

Updates = dict[Block, object]
"""What has to change on the screen, by part."""

# Requests are short: what takes time is people. None waits for another one, and none is dropped.
EVENT_OPTIONS: dict[str, object] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


class Screen(ABC, Generic[PageType]):
    """A screen: `lay_out` makes its parts, `connect` says what happens when somebody uses them, `shown` fills them.

    The page in the browser holds the form's state, so it survives a restart of the server.

    Args:
        protocol: what is asked.
        title: heading.
        most: largest number of candidates of a page.
    """

    notice: gr.HTML

    def __init__(self, protocol: Protocol, title: str, most: int) -> None:
        self.protocol, self.title, self.most = protocol, title, most

    def blocks(self) -> gr.Blocks:
        """The screen as Gradio blocks."""
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_width=True) as blocks:
            self.lay_out()
            self.connect(blocks)
        return blocks

    @abstractmethod
    def lay_out(self) -> None:
        """Make the parts, inside of the blocks."""

    @abstractmethod
    def connect(self, blocks: gr.Blocks) -> None:
        """Say what happens when the page is opened and its parts are used."""

    @abstractmethod
    def shown(self, page: PageType, annotator: str) -> Updates:
        """What has to change on the screen to show `page`."""

    @abstractmethod
    def current(self, annotator: str, notice: str = "") -> PageType:
        """Where the annotator left off."""

    def answer(self, annotator: str, action: Callable[[], PageType]) -> Updates:
        """Do what was asked for, or say what is wrong with it."""
        try:
            return self.shown(action(), annotator)
        except (ValueError, UnsavedError) as error:
            return {self.notice: pages.notice(str(error))}
        except LookupError as error:
            return self.shown(self.current(annotator, str(error)), annotator)

    def on_load(self, request: gr.Request) -> Updates:
        """The page was opened."""
        return self.answer(request.username, lambda: self.current(request.username))


def numbered_radio(count: int, label: str, name: str) -> gr.Radio:
    """A row of the numbers from 1 to `count`, one of which can be chosen; `name` is its id on the page."""
    return gr.Radio(number_choices(count), label=label, elem_id=name, elem_classes=["rating"])


def number_choices(count: int) -> list[tuple[str, int]]:
    """The numbers from 1 to `count`, as they are shown and as they are."""
    return [(str(number), number) for number in range(1, count + 1)]

"""The page on which candidates are rated, as Gradio blocks."""

import json
from collections.abc import Callable

import gradio as gr

from editreward.annotation import pages
from editreward.annotation.database import Assignment, UnsavedError
from editreward.annotation.screen import EVENT_OPTIONS, Screen, Updates, numbered_radio
from editreward.annotation.workflow import Page, Workflow
from editreward.groups.protocol import LEVELS, MAX_COMMENT

NO_FORM = "{}"
"""What the hidden field holds while no group is shown."""


def rating_blocks(workflow: Workflow) -> gr.Blocks:
    """The rating page."""
    return RatingScreen(workflow).blocks()


class RatingScreen(Screen[Page]):
    """A group with its rubric, a card for each candidate with a score to mark in each dimension, and skipping.

    In place of a group it shows a message: the calibration round's terms or result, or that nothing is left.
    """

    def __init__(self, workflow: Workflow) -> None:
        protocol = workflow.protocol
        super().__init__(protocol, protocol.title, max(workflow.store.candidates.values()))
        self.workflow = workflow

    # What is on the screen

    def lay_out(self) -> None:
        """See `Screen`."""
        self.form = gr.Textbox(visible=False)
        self.head = gr.HTML()
        self.notice = gr.HTML(elem_id="notice")
        with gr.Column(visible=False) as self.message_area:
            self.message = gr.HTML()
            self.start = gr.Button("Start", variant="primary", elem_id="start", visible=False)
        with gr.Column(visible=False) as self.group_area:
            gr.HTML(pages.rubric(self.protocol))
            with gr.Row():
                with gr.Column(scale=2, min_width=280, elem_id="task"):
                    self.task = gr.HTML()
                with gr.Column(scale=5, elem_id="cards"):
                    self._lay_out_cards()
        with gr.Row(elem_id="actions"):
            self.save = gr.Button("Save and go on", variant="primary", elem_id="save")
            self.back = gr.Button("Back", elem_id="back")
            self.forward = gr.Button("Forward", elem_id="forward")
        with gr.Row(elem_id="skip-area") as self.skip_area:
            self.reason = gr.Radio(
                list(self.protocol.skip_reasons), label="Reason to skip this group", scale=4, min_width=300
            )
            self.comment = gr.Textbox(label="Comment", lines=1, max_length=MAX_COMMENT, scale=2, min_width=200)
            self.skip = gr.Button("Skip", elem_id="skip", scale=1)

    def _lay_out_cards(self) -> None:
        self.cards: list[gr.Column] = []
        self.images: list[gr.HTML] = []
        self.radios: dict[tuple[int, str], gr.Radio] = {}
        for place in range(self.most):
            with gr.Column(elem_classes=["candidate-card"], visible=False) as card:
                self.images.append(gr.HTML())
                for dimension in self.protocol.dimensions:
                    self.radios[place, dimension.name] = numbered_radio(
                        len(LEVELS), dimension.title, f"rate-{place}-{dimension.name}"
                    )
            self.cards.append(card)

    def shown(self, page: Page, annotator: str) -> Updates:
        """See `Screen`."""
        assignment = page.assignment
        key = f"{assignment.id}-{page.form}" if assignment else page.kind
        changeable = assignment is not None and not page.read_only
        updates: Updates = {
            self.head: pages.header(self.title, annotator, pages.rating_status(page)) + pages.page_key(key),
            self.notice: pages.notice(page.notice),
            self.message_area: gr.update(visible=assignment is None),
            self.group_area: gr.update(visible=assignment is not None),
            self.save: gr.update(visible=changeable),
            self.skip_area: gr.update(
                visible=changeable and assignment is not None and assignment.purpose != "calibration"
            ),
            self.reason: None,
            self.comment: "",
        }
        return updates | (self._message(page) if assignment is None else self._group(page, assignment))

    def _message(self, page: Page) -> Updates:
        """What stands in place of a group."""
        may_start = page.kind == "calibration" and (page.result is None or page.result.rounds_left > 0)
        goes_on = page.result is not None and page.result.passed
        return {
            self.message: pages.message(page, self.protocol),
            self.start: gr.update(
                visible=page.kind == "calibration" and (may_start or goes_on), value="Go on" if goes_on else "Start"
            ),
            self.form: NO_FORM,
        }

    def _group(self, page: Page, assignment: Assignment) -> Updates:
        """The group: instruction, sources, and its candidates with what was marked."""
        form = {
            "assignment": assignment.id,
            "version": assignment.version,
            "form": page.form,
            "images": page.images_key,
        }
        sources = [f"image/{assignment.id}/source/{number}?{page.images_key}" for number in range(page.sources)]
        updates: Updates = {self.form: json.dumps(form), self.task: pages.task(page.instruction, sources)}
        for place, (card, image) in enumerate(zip(self.cards, self.images, strict=True)):
            used = place < len(assignment.order)
            updates[card] = gr.update(visible=used)
            if used:
                answers = pages.reference_note(page.reference[place], self.protocol) if page.reference else ""
                said = pages.reasons_note(page.reasons[place]) if page.reasons else ""
                url = f"image/{assignment.id}/candidate/{place}?{page.images_key}"
                updates[image] = pages.candidate(place, url, answers + said)
        for key, radio in self.radios.items():
            updates[radio] = gr.update(value=page.scores.get(key), interactive=not page.read_only)
        return updates

    def current(self, annotator: str, notice: str = "") -> Page:
        """See `Screen`."""
        return self.workflow.current(annotator, notice)

    # What happens when somebody uses it

    def connect(self, blocks: gr.Blocks) -> None:
        """See `Screen`."""
        everything = [self.form, self.head, self.notice, self.message_area, self.message, self.start, self.group_area]
        everything += [self.task, *self.cards, *self.images, *self.radios.values()]
        everything += [self.save, self.skip_area, self.reason, self.comment]
        form = self.form
        blocks.load(self.on_load, None, everything, **EVENT_OPTIONS)
        self.start.click(self.on_start, None, everything, **EVENT_OPTIONS)
        self.back.click(self.on_back, form, everything, **EVENT_OPTIONS)
        self.forward.click(self.on_forward, form, everything, **EVENT_OPTIONS)
        self.save.click(self.on_save, [form, *self.radios.values()], everything, **EVENT_OPTIONS)
        self.skip.click(self.on_skip, [form, self.reason, self.comment], everything, **EVENT_OPTIONS)
        for (place, name), radio in self.radios.items():
            mark = self.on_mark(place, name)
            radio.input(mark, [form, radio], self.notice, trigger_mode="always_last", **EVENT_OPTIONS)

    def on_start(self, request: gr.Request) -> Updates:
        """A calibration round is to begin."""
        return self.answer(request.username, lambda: self.workflow.start_round(request.username))

    def on_back(self, form: str, request: gr.Request) -> Updates:
        """The group before this one is to be shown."""
        return self.answer(request.username, lambda: self.workflow.back(request.username, _shown_assignment(form)))

    def on_forward(self, form: str, request: gr.Request) -> Updates:
        """The group after this one is to be shown."""
        return self.answer(request.username, lambda: self.workflow.forward(request.username, _shown_assignment(form)))

    def on_save(self, form: str, request: gr.Request, *scores: int | None) -> Updates:
        """The scores are to be saved."""

        def action() -> Page:
            assignment, version, name = self.read(form, request.username)
            order = self.workflow.database.assignment(assignment, request.username).order
            marked = dict(zip(self.radios, scores, strict=True))
            used = {key: score for key, score in marked.items() if key[0] < len(order)}
            return self.workflow.submit(request.username, assignment, version, name, used)

        return self.answer(request.username, action)

    def on_skip(self, form: str, reason: str | None, comment: str, request: gr.Request) -> Updates:
        """The group is to be skipped."""

        def action() -> Page:
            return self.workflow.skip(
                request.username, *self.read(form, request.username), reason or "", comment or ""
            )

        return self.answer(request.username, action)

    def on_mark(self, place: int, name: str) -> Callable[[str, int | None, gr.Request], str | dict[str, object]]:
        """What happens when a score is marked: it is kept, so that it is there after a reload."""

        def mark(form: str, score: int | None, request: gr.Request) -> str | dict[str, object]:
            try:
                assignment, version, _ = self.read(form, request.username)
                if score is None or self.workflow.save_draft(
                    request.username, assignment, version, place, name, score
                ):
                    return gr.skip()
            except (LookupError, UnsavedError) as error:
                return pages.notice(str(error))
            return pages.notice(
                "This group was saved in another tab or window. Reload the page to see what was saved there."
            )

        return mark

    def read(self, text: str, annotator: str) -> tuple[int, int, str]:
        """The hidden field of the form: assignment, version and the form's name.

        Raises:
            LookupError: it was made up, or the page shows other images than the assignment has: another database has
                been served meanwhile.
        """
        assignment, version, name, images = _form(text)
        mine = self.workflow.database.assignment(assignment, annotator)
        if images != self.workflow.store.images_key(mine.group_id, mine.order):
            raise LookupError("Not saved: the groups are others than when this page was opened. Reload it.")
        return assignment, version, name


def _shown_assignment(text: str) -> int | None:
    """The assignment on the page; None where there is none."""
    return _form(text)[0] if text not in ("", NO_FORM) else None


def _form(text: str) -> tuple[int, int, str, str]:
    """Assignment, version, name of the form and key of its images. A LookupError if they were made up."""
    try:
        content = json.loads(text or NO_FORM)
        place = int(content["assignment"]), int(content["version"])
        return *place, str(content["form"]), str(content["images"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LookupError("This page is out of date.") from error
